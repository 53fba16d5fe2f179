from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import numpy as np
import pytest

from stm_rl import StmError
from stm_rl.worlds import DialogueWorld
from stm_rl.worlds import dialogue_templates as say
from stm_rl.worlds.dialogue_templates import RELATIONS, SHOP
from stm_rl.worlds.lexicon import POOLS
from stm_rl.worlds.relation import Phrasings


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text)


def test_speakers_take_turns() -> None:
    for turns in (8, 40, 120):
        for seed in range(50):
            transcript = DialogueWorld(turns=turns).generate(seed)
            assert [turn.speaker for turn in transcript.turns] == ["user", "assistant"] * (turns // 2)


def test_transcripts_stay_as_they_were() -> None:
    # Figures in the documentation were measured on these dialogues: another text needs another version.
    text = "\n".join(str(DialogueWorld().generate(seed)) for seed in range(50))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "98932135e0b0f2a7"


def test_evidence_is_what_was_stated_about_the_facts_asked_for() -> None:
    for seed in range(300):
        transcript = DialogueWorld().generate(seed)
        for probe in transcript.probes:
            asked = set(transcript.turns[probe.turn - 1].meta["keys"])
            assert {key for index in probe.evidence for key in transcript.turns[index].meta["keys"]} == asked


def test_stale_turns_do_not_hold_any_part_of_the_answer() -> None:
    transcripts = [DialogueWorld().generate(seed) for seed in range(600)]
    for transcript in transcripts:
        for probe in transcript.probes:
            stale = {word for index in probe.stale for word in words(transcript.turns[index].text)}
            assert not stale & set(probe.answer.split())


@pytest.mark.parametrize(("low", "high"), [(2, 3), (6, 10)])
def test_questions_come_after_the_gap_asked_for(low: int, high: int) -> None:
    world = DialogueWorld(turns=80, min_gap=low, max_gap=high, distractor_rate=0.6)
    gaps = [
        probe.turn // 2 - index // 2
        for seed in range(100)
        for probe in world.generate(seed).probes
        for index in probe.evidence[-1:]
        if not probe.stale
    ]
    assert min(gaps) == low
    assert np.median(gaps) <= high + 2  # a few wait until questions due earlier are done


def test_heldout_transcripts_hold_no_training_names() -> None:
    train = {word for name in ("person", "place", "dish", "spot") for word in POOLS[name].train}
    for seed in range(200):
        for turn in DialogueWorld(entities="heldout").generate(seed).turns:
            assert not train & set(words(turn.text)), turn.text


def phrasings() -> Iterator[Phrasings]:
    for relation in (*RELATIONS, SHOP):
        for name in ("facts", "messages", "hedged", "updates", "cancels", "distractors", "asks", "answers"):
            yield getattr(relation, name)
    yield from (say.ACKS, say.CANCEL_ACKS, say.GOSSIP_REPLIES, say.NEWS_ASKS)
    yield tuple(tuple(text for pair in split for text in pair) for split in say.CHAT)  # type: ignore[misc]


@pytest.mark.parametrize(("shown", "hidden"), [(0, 1), (1, 0)])
def test_phrasings_of_one_split_are_not_in_the_other(shown: int, hidden: int) -> None:
    texts = [text for each in phrasings() for text in each[hidden]]
    patterns = [re.sub(r"\\{\w\\}", r"\\w+", re.escape(text)) for text in texts]
    pattern = re.compile("|".join(f"(?:{p})" for p in patterns))
    assert pattern.fullmatch(texts[0].format(k="Anna", v="zoo", i="kite"))
    world = DialogueWorld(templates=("train", "heldout")[shown])
    for seed in range(300):
        for turn in world.generate(seed).turns:
            assert not pattern.fullmatch(turn.text), turn.text


def test_number_of_turns_is_even() -> None:
    with pytest.raises(StmError, match="turns is 9; expected an even number of at least 8"):
        DialogueWorld(turns=9)
