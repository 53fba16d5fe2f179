from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import run_python

from stm_rl import StmError, Transcript
from stm_rl.worlds import DialogueWorld, GeneratedTranscripts, World
from stm_rl.worlds import dialogue_templates as say
from stm_rl.worlds.base import TURN_KINDS
from stm_rl.worlds.dialogue_templates import RELATIONS, SHOP, Phrasings
from stm_rl.worlds.generated import FIRST_SEED
from stm_rl.worlds.lexicon import POOLS

STATED = ("fact", "message", "hedge", "update")
WORLDS = {
    "train": DialogueWorld(),
    "heldout": DialogueWorld(entities="heldout", templates="heldout"),
    "long": DialogueWorld(turns=120, min_gap=10, max_gap=40),
    "short": DialogueWorld(turns=8, min_gap=1, max_gap=1),
}


@pytest.fixture(scope="module", params=WORLDS)
def sample(request: pytest.FixtureRequest) -> list[Transcript]:
    world = WORLDS[request.param]
    return [world.generate(seed) for seed in range(300)]


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text)


def kinds(transcript: Transcript) -> list[str]:
    return [turn.meta["kind"] for turn in transcript.turns]


def probes(transcripts: list[Transcript]) -> Iterator[tuple[Transcript, Any]]:
    return ((transcript, probe) for transcript in transcripts for probe in transcript.probes)


def test_same_seed_gives_the_same_transcript() -> None:
    world = DialogueWorld()
    assert world.generate(3) == world.generate(3)
    assert world.generate(3) != world.generate(4)
    assert isinstance(world, World)


def test_same_seed_gives_the_same_transcript_in_every_process() -> None:
    code = (
        "from stm_rl.worlds import DialogueWorld\n"
        "for seed in range(20):\n"
        "    t = DialogueWorld().generate(seed)\n"
        "    print(t, t.probes, [turn.meta for turn in t.turns])"
    )
    assert run_python(code, 1) == run_python(code, 2) != ""


def test_transcript_has_the_turns_asked_for(sample: list[Transcript], request: pytest.FixtureRequest) -> None:
    expected = WORLDS[request.node.callspec.params["sample"]].turns
    assert {len(transcript) for transcript in sample} == {expected}
    for transcript in sample:
        assert [turn.speaker for turn in transcript.turns] == ["user", "assistant"] * (expected // 2)
        assert set(kinds(transcript)) <= set(TURN_KINDS)


def test_answer_is_in_the_dependent_turn_and_in_its_evidence(sample: list[Transcript]) -> None:
    assert any(probes(sample))
    for transcript, probe in probes(sample):
        evidence = [word for index in probe.evidence for word in words(transcript.turns[index].text)]
        said = words(transcript.turns[probe.turn].text)
        for word in probe.answer.split():
            assert word in evidence
            assert word in said


def test_every_answer_has_one_probe_and_follows_a_question(sample: list[Transcript]) -> None:
    for transcript in sample:
        answers = [index for index, kind in enumerate(kinds(transcript)) if kind == "answer"]
        assert [probe.turn for probe in transcript.probes] == answers
        assert all(kinds(transcript)[index - 1] == "ask" for index in answers)


def test_evidence_is_what_was_stated_about_the_facts_asked_for(sample: list[Transcript]) -> None:
    for transcript, probe in probes(sample):
        asked = set(transcript.turns[probe.turn - 1].meta["keys"])
        stated = [transcript.turns[index].meta for index in probe.evidence]
        assert all(meta["kind"] in STATED for meta in stated)  # so it is never gossip
        assert {key for meta in stated for key in meta["keys"]} == asked


def test_evidence_is_the_latest_statement_and_the_earlier_are_stale(sample: list[Transcript]) -> None:
    for transcript, probe in probes(sample):
        asked = set(transcript.turns[probe.turn - 1].meta["keys"])
        stated = {
            key: [i for i, turn in enumerate(transcript.turns[: probe.turn]) if key in turn.meta["keys"]][:-1]
            for key in asked
        }
        assert {turns[-1] for turns in stated.values()} == set(probe.evidence)
        assert sorted(index for turns in stated.values() for index in turns[:-1]) == sorted(probe.stale)


def test_stale_turns_do_not_hold_the_answer() -> None:
    transcripts = [DialogueWorld().generate(seed) for seed in range(600)]
    assert any(probe.stale for _, probe in probes(transcripts))
    for transcript, probe in probes(transcripts):
        stale = {word for index in probe.stale for word in words(transcript.turns[index].text)}
        assert not stale & set(probe.answer.split())


def test_cancelled_fact_is_never_asked_about(sample: list[Transcript], request: pytest.FixtureRequest) -> None:
    cancelled = 0
    for transcript in sample:
        off: set[str] = set()
        for turn in transcript.turns:
            if turn.meta["kind"] == "cancel":
                off |= set(turn.meta["keys"])
            elif turn.meta["kind"] == "ask":
                assert not off & set(turn.meta["keys"])
        cancelled += len(off)
    assert cancelled > 0 or request.node.callspec.params["sample"] == "short"


def test_fact_is_asked_about_at_most_once(sample: list[Transcript]) -> None:
    for transcript in sample:
        asked = [key for turn in transcript.turns if turn.meta["kind"] == "ask" for key in turn.meta["keys"]]
        assert len(asked) == len(set(asked))


def test_some_questions_need_two_turns_and_some_plans_change() -> None:
    found = [probe for _, probe in probes(GeneratedTranscripts(DialogueWorld(), "train", 300)[:])]
    assert 0.02 < np.mean([len(probe.evidence) == 2 for probe in found]) < 0.5
    assert 0.02 < np.mean([bool(probe.stale) for probe in found]) < 0.5


def test_there_is_more_to_remember_than_slots_and_distance_varies() -> None:
    sample = GeneratedTranscripts(DialogueWorld(), "train", 300)[:]
    assert np.mean([sum(kind in STATED for kind in kinds(t)) for t in sample]) > 6
    most_at_once = []  # facts that wait for their question at the same time
    for transcript in sample:
        spans = [(min(p.evidence), p.turn) for p in transcript.probes]
        waiting = [sum(start <= turn < end for start, end in spans) for turn in range(len(transcript))]
        most_at_once.append(max(waiting))
    assert np.mean(most_at_once) > 2
    distances = [probe.turn - index for _, probe in probes(sample) for index in probe.evidence]
    assert min(distances) > 2  # never within the default window
    assert np.quantile(distances, 0.9) > 2 * np.quantile(distances, 0.1)


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


def test_gossip_speaks_of_the_same_things_as_facts() -> None:
    sample = [DialogueWorld().generate(seed) for seed in range(100)]
    names = {word for pool in POOLS.values() for word in pool.train}
    shared = 0
    for transcript in sample:
        about = {kind: set() for kind in TURN_KINDS}  # type: dict[str, set[str]]
        for turn in transcript.turns:
            about[turn.meta["kind"]] |= names & set(words(turn.text))
        shared += bool(about["distractor"] & (about["fact"] | about["message"]))
    assert shared > 50


# Splits.


def test_splits_share_no_seed() -> None:
    world = DialogueWorld()
    seeds: list[int] = []
    for split in FIRST_SEED:
        most = GeneratedTranscripts(world, split, 10**8)
        seeds += [int(most[index].id.rpartition("-")[2]) for index in (0, -1)]
    assert seeds == sorted(set(seeds))  # each split ends before the next begins


def test_generated_transcripts_are_a_sequence() -> None:
    world = DialogueWorld(turns=8)
    sequence = GeneratedTranscripts(world, "test", 5)
    assert len(sequence) == len(list(sequence)) == 5
    assert sequence[-1] == sequence[4] == world.generate(FIRST_SEED["test"] + 4)
    assert sequence[1:4:2] == [sequence[1], sequence[3]]
    for index in (5, -6):
        with pytest.raises(IndexError):
            sequence[index]


def test_entities_are_train_or_heldout() -> None:
    train = {word for pool in POOLS.values() for word in pool.train}
    heldout = {word for pool in POOLS.values() for word in pool.heldout}
    assert train
    assert not train & heldout


def test_heldout_entities_are_not_in_training_transcripts() -> None:
    heldout = {word.lower() for pool in POOLS.values() for word in pool.heldout}
    for seed in range(400):
        for turn in DialogueWorld().generate(seed).turns:
            assert not heldout & set(words(turn.text.lower())), turn.text


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


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": 7}, "turns is 7"),
        ({"turns": 6}, "at least 8"),
        ({"min_gap": 0}, "gaps are 0"),
        ({"min_gap": 5, "max_gap": 4}, r"5\.\.4"),
        ({"entities": "test"}, "entities is 'test'; expected one of train, heldout"),
        ({"templates": "new"}, "templates is 'new'"),
    ],
)
def test_bad_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError, match=message):
        DialogueWorld(**settings)


@pytest.mark.parametrize(("split", "count"), [("valid", 1), ("train", 0), ("train", 10**8 + 1)])
def test_bad_splits_and_counts_are_errors(split: str, count: int) -> None:
    with pytest.raises(StmError, match=split if split == "valid" else str(count)):
        GeneratedTranscripts(DialogueWorld(), split, count)
