"""The story world, and the recall world beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from stm_rl.worlds import DialogueWorld, RecallWorld, StoryWorld
from stm_rl.worlds import story_templates as say
from stm_rl.worlds.lexicon import POOLS
from stm_rl.worlds.relation import Phrasings

GENDERED = {"he", "she", "him", "her", "his", "hers", "himself", "herself"}


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text)


def phrasings() -> Iterator[Phrasings]:
    for relation in say.RELATIONS:
        for name in ("facts", "messages", "hedged", "updates", "cancels", "distractors", "asks", "answers"):
            yield getattr(relation, name)
    yield from (say.CHAIN.asks, say.CHAIN.answers, say.FILLERS)


@pytest.mark.parametrize("templates", ["train", "heldout"])
def test_every_turn_is_one_sentence_of_prose(templates: str) -> None:
    for seed in range(100):
        for turn in StoryWorld(templates=templates).generate(seed).turns:
            assert turn.speaker == ""
            assert turn.writable
            assert re.fullmatch(r"[A-Z][^.]*\.", turn.text)
            assert not GENDERED & set(words(turn.text.lower()))


def test_articles_fit() -> None:
    after_a = {"trade", "animal", "tool", "treasure"}  # may come after "a"
    for name in after_a:
        assert not [word for word in (*POOLS[name].train, *POOLS[name].heldout) if word[0] in "aeio"]
    for each in phrasings():
        for text in (*each[0], *each[1]):
            assert not re.search(r"\ban \{", text)


def test_only_names_start_a_sentence() -> None:
    for relation in say.RELATIONS:  # others would need a capital letter there
        if relation.value != "person":
            for name in ("facts", "messages", "hedged", "updates", "distractors", "answers"):
                assert not [text for split in getattr(relation, name) for text in split if text.startswith("{v}")]


def test_characters_come_back() -> None:
    again = []
    for seed in range(50):
        text = [set(words(turn.text)) for turn in StoryWorld().generate(seed).turns]
        counts = [sum(name in sentence for sentence in text) for name in POOLS["person"].train]
        again.append(sum(count >= 3 for count in counts))
    assert np.mean(again) > 3


def test_two_hops_lead_from_the_tool_over_its_holder_to_a_place() -> None:
    found = 0
    for seed in range(200):
        transcript = StoryWorld().generate(seed)
        for probe in transcript.probes:
            if len(probe.evidence) == 2:
                first, second = transcript.turns[probe.turn].meta["facts"]
                assert (first[2], second[2]) == ("person", "land")
                assert second[0] == f"gone:{first[1]}"
                assert probe.answer == f"{first[1]} {second[1]}"
                found += 1
    assert found > 20


@pytest.mark.parametrize("world", [StoryWorld, RecallWorld])
@pytest.mark.parametrize(("low", "high"), [(3, 4), (8, 12)])
def test_needs_come_after_the_gap_asked_for(world: type[StoryWorld | RecallWorld], low: int, high: int) -> None:
    gaps = [
        probe.turn - index
        for seed in range(60)
        for probe in world(turns=80, min_gap=low, max_gap=high, distractor_rate=0.6).generate(seed).probes
        for index in probe.evidence[-1:]
        if not probe.stale
    ]
    assert min(gaps) == low + 1  # the cue comes first
    assert np.median(gaps) <= 1.5 * high + 3  # a beat with a cue has two turns


@pytest.mark.parametrize(("shown", "hidden"), [(0, 1), (1, 0)])
def test_phrasings_of_one_split_are_not_in_the_other(shown: int, hidden: int) -> None:
    texts = [text for each in phrasings() for text in each[hidden]]
    patterns = [re.sub(r"\\{\w\\}", r"\\w+", re.escape(text)) for text in texts]
    pattern = re.compile("|".join(f"(?:{p})" for p in patterns))
    assert pattern.fullmatch(texts[0].format(k="lantern", v="Anna", i="mill"))
    world = StoryWorld(templates=("train", "heldout")[shown])
    for seed in range(200):
        for turn in world.generate(seed).turns:
            assert not pattern.fullmatch(turn.text), turn.text


def test_heldout_phrasings_use_known_words() -> None:
    known = {word.lower() for each in phrasings() for text in each[0] for word in words(text)}
    new = {word for each in phrasings() for text in each[1] for word in words(text) if word.lower() not in known}
    assert len(new) < 15, new


# Recall.


def test_questions_and_answers_may_not_be_written() -> None:
    for seed in range(50):
        for turn in RecallWorld().generate(seed).turns:
            kind = turn.meta["kind"]
            assert turn.writable == (kind not in ("ask", "answer"))
            assert turn.speaker in {"ask": ("question",), "answer": ("answer",)}.get(kind, ("user", "assistant"))
            assert kind != "reply"


def test_recall_answer_is_the_value_alone() -> None:
    hops = set()
    for seed in range(100):
        transcript = RecallWorld().generate(seed)
        for probe in transcript.probes:
            assert transcript.turns[probe.turn].text == probe.answer
            hops.add(len(probe.answer.split()))
    assert hops == {1, 2}


def test_recall_asks_what_the_dialogue_asks() -> None:
    rng = np.random.default_rng(0)
    assert RecallWorld().script(rng).relations is DialogueWorld().script(rng).relations
