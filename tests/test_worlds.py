"""What holds in every procedural world."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import run_python

from stm_rl import Probe, StmError, Transcript, Turn
from stm_rl.worlds import (
    DialogueWorld,
    GeneratedTranscripts,
    RecallWorld,
    ScreenplayWorld,
    ScriptWorld,
    StoryWorld,
    World,
    judge,
)
from stm_rl.worlds.base import TURN_KINDS
from stm_rl.worlds.generated import FIRST_SEED
from stm_rl.worlds.lexicon import Pool

WORLDS: dict[str, type[ScriptWorld]] = {
    "dialogue": DialogueWorld,
    "story": StoryWorld,
    "screenplay": ScreenplayWorld,
    "recall": RecallWorld,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "train": {},
    "heldout": {"entities": "heldout", "templates": "heldout"},
    "long": {"turns": 120, "min_gap": 10, "max_gap": 40},
    "short": {"turns": 8, "min_gap": 1, "max_gap": 1},
}
STATED = ("fact", "message", "hedge", "update")

every_world = pytest.mark.parametrize("kind", WORLDS)


@pytest.fixture(scope="module", params=[(w, v) for w in WORLDS for v in VARIANTS], ids="-".join)
def sample(request: pytest.FixtureRequest) -> list[Transcript]:
    kind, variant = request.param
    world = WORLDS[kind](**VARIANTS[variant])
    return [world.generate(seed) for seed in range(100)]


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text)


def kinds(transcript: Transcript) -> list[str]:
    return [turn.meta["kind"] for turn in transcript.turns]


def probes(transcripts: list[Transcript]) -> Iterator[tuple[Transcript, Probe]]:
    return ((transcript, probe) for transcript in transcripts for probe in transcript.probes)


# Transcripts.


@every_world
def test_same_seed_gives_the_same_transcript(kind: str) -> None:
    world = WORLDS[kind]()
    assert world.generate(3) == world.generate(3)
    assert world.generate(3) != world.generate(4)
    assert world.generate(3).id == f"{kind}-3"
    assert isinstance(world, World)


def test_same_seed_gives_the_same_transcript_in_every_process() -> None:
    code = (
        "from stm_rl.worlds import DialogueWorld, RecallWorld, ScreenplayWorld, StoryWorld\n"
        "for world in (DialogueWorld(), RecallWorld(), ScreenplayWorld(), StoryWorld()):\n"
        "    for seed in range(20):\n"
        "        t = world.generate(seed)\n"
        "        print(t, t.probes, [turn.meta for turn in t.turns])"
    )
    assert run_python(code, 1) == run_python(code, 2) != ""


def test_transcript_has_the_turns_asked_for(sample: list[Transcript], request: pytest.FixtureRequest) -> None:
    kind, variant = request.node.callspec.params["sample"]
    assert {len(transcript) for transcript in sample} == {WORLDS[kind](**VARIANTS[variant]).turns}
    for transcript in sample:
        assert set(kinds(transcript)) <= set(TURN_KINDS)


@every_world
def test_everything_that_can_happen_does(kind: str) -> None:
    happened = {name for seed in range(60) for name in kinds(WORLDS[kind]().generate(seed))}
    assert happened | {"reply"} == set(TURN_KINDS)


@every_world
def test_every_relation_is_stated_and_needed(kind: str) -> None:
    world = WORLDS[kind]()
    script = world.script(np.random.default_rng(0))
    assert len(script.relations) >= 6
    asked: set[str] = set()
    for seed in range(150):
        for turn in world.generate(seed).turns:
            if turn.meta["kind"] == "ask":
                asked |= {key.partition(":")[0] for key in turn.meta["keys"]}
    assert script.chain is not None
    assert asked == {relation.name for relation in (*script.relations, script.chain.second)}


@every_world
def test_meta_data_are_json_values_with_tuples(kind: str) -> None:
    def plain(value: Any) -> bool:
        return all(map(plain, value)) if isinstance(value, tuple) else isinstance(value, str | bool)

    for turn in WORLDS[kind]().generate(0).turns:
        assert all(isinstance(name, str) and plain(value) for name, value in turn.meta.items())


# Dependencies.


def test_answer_is_in_the_dependent_turn_and_in_its_evidence(sample: list[Transcript]) -> None:
    assert any(probes(sample))
    for transcript, probe in probes(sample):
        evidence = [word for index in probe.evidence for word in words(transcript.turns[index].text)]
        said = words(transcript.turns[probe.turn].text)
        for word in probe.answer.split():
            assert word in evidence
            assert word in said


def test_every_answer_has_one_probe_and_follows_what_calls_for_it(sample: list[Transcript]) -> None:
    for transcript in sample:
        answers = [index for index, kind in enumerate(kinds(transcript)) if kind == "answer"]
        assert [probe.turn for probe in transcript.probes] == answers
        assert all(kinds(transcript)[index - 1] == "ask" for index in answers)


def test_what_calls_for_an_answer_does_not_give_it(sample: list[Transcript]) -> None:
    for transcript, probe in probes(sample):
        assert not set(probe.answer.split()) & set(words(transcript.turns[probe.turn - 1].text))


def test_evidence_is_the_latest_statement_and_the_earlier_are_stale(sample: list[Transcript]) -> None:
    for transcript, probe in probes(sample):
        asked = transcript.turns[probe.turn - 1].meta["keys"]
        stated = {
            key: [i for i, turn in enumerate(transcript.turns[: probe.turn - 1]) if key in turn.meta["keys"]]
            for key in asked
        }
        assert {turns[-1] for turns in stated.values()} == set(probe.evidence)
        assert sorted(index for turns in stated.values() for index in turns[:-1]) == sorted(probe.stale)
        assert all(transcript.turns[i].meta["kind"] in STATED for i in probe.evidence)  # so it is never gossip


@every_world
def test_stale_turns_do_not_hold_the_value(kind: str) -> None:
    found = list(probes([WORLDS[kind]().generate(seed) for seed in range(400)]))
    assert any(probe.stale for _, probe in found)
    for transcript, probe in found:
        values = {identity: value for identity, value, _ in transcript.turns[probe.turn].meta["facts"]}
        for index in probe.stale:
            turn = transcript.turns[index]
            assert values[turn.meta["keys"][0]] not in words(turn.text)


def test_facts_are_as_the_text_has_them(sample: list[Transcript]) -> None:
    for transcript in sample:
        for turn in transcript.turns:
            assert ("facts" in turn.meta) == (turn.meta["kind"] in (*STATED, "distractor", "answer"))
            for _, value, _ in turn.meta.get("facts", ()):
                assert value in words(turn.text)


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
    assert cancelled > 0 or request.node.callspec.params["sample"][1] == "short"


def test_fact_is_asked_about_at_most_once(sample: list[Transcript]) -> None:
    for transcript in sample:
        asked = [key for turn in transcript.turns if turn.meta["kind"] == "ask" for key in turn.meta["keys"]]
        assert len(asked) == len(set(asked))


@every_world
def test_some_needs_have_two_turns_and_some_facts_change(kind: str) -> None:
    found = [probe for _, probe in probes(GeneratedTranscripts(WORLDS[kind](), "train", 300)[:])]
    assert 0.02 < np.mean([len(probe.evidence) == 2 for probe in found]) < 0.5
    assert 0.02 < np.mean([bool(probe.stale) for probe in found]) < 0.5


@every_world
def test_there_is_more_to_remember_than_slots_and_distance_varies(kind: str) -> None:
    sample = GeneratedTranscripts(WORLDS[kind](), "train", 200)[:]
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


@every_world
def test_gossip_speaks_of_the_same_things_as_facts(kind: str) -> None:
    world = WORLDS[kind]()
    names = {word for pool in world.lexicon.values() for word in pool.train}
    shared = 0
    for seed in range(100):
        about: dict[str, set[str]] = {kind: set() for kind in TURN_KINDS}
        for turn in world.generate(seed).turns:
            about[turn.meta["kind"]] |= names & set(words(turn.text))
        shared += bool(about["distractor"] & (about["fact"] | about["message"]))
    assert shared > 50


# Splits.


@every_world
def test_heldout_entities_are_not_in_training_transcripts(kind: str) -> None:
    world = WORLDS[kind]()
    heldout = {word.lower() for pool in world.lexicon.values() for word in pool.heldout}
    assert heldout
    for seed in range(200):
        for turn in world.generate(seed).turns:
            assert not heldout & set(words(turn.text.lower())), turn.text


@every_world
def test_entities_are_train_or_heldout(kind: str) -> None:
    pools = WORLDS[kind]().lexicon.values()
    assert not {word for pool in pools for word in pool.train} & {word for pool in pools for word in pool.heldout}


@every_world
def test_phrasings_have_their_slots_and_both_splits(kind: str) -> None:
    script = WORLDS[kind]().script(np.random.default_rng(0))
    assert script.chain is not None
    for relation in (*script.relations, script.chain.second):
        for name in ("facts", "messages", "hedged", "updates", "distractors", "cancels", "asks"):
            train, heldout = getattr(relation, name)
            assert bool(train) == bool(heldout)
            assert not set(train) & set(heldout)
            for text in (*train, *heldout):
                assert ("{v}" in text) == (name not in ("cancels", "asks")), text
        assert all("{v}" in text for split in relation.answers for text in split)
        assert relation.facts[0]
        assert relation.answers[0]


@every_world
def test_lexicon_can_be_replaced(kind: str) -> None:
    pool = Pool(tuple(f"word{i}" for i in range(30)), ())
    world = WORLDS[kind]()
    world = WORLDS[kind](lexicon=dict.fromkeys(world.lexicon, pool))
    transcript = world.generate(0)
    for index, turn in enumerate(transcript.turns):
        if turn.meta["kind"] == "answer":
            assert set(re.findall(r"word\d+", turn.text)) >= {value for _, value, _ in turn.meta["facts"]}
            assert judge(transcript, index, turn.text, world.lexicon).right == 1


# Settings.


@every_world
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": 6}, "at least 8"),
        ({"min_gap": 0}, "gaps are 0"),
        ({"min_gap": 5, "max_gap": 4}, r"5\.\.4"),
        ({"entities": "test"}, "entities is 'test'; expected one of train, heldout"),
        ({"templates": "new"}, "templates is 'new'"),
        ({"distractor_rate": -0.1}, "distractor_rate -0.1"),
        ({"distractor_rate": 0.6, "chat_rate": 0.2}, "at most 0.75 together"),
    ],
)
def test_bad_settings_are_errors(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError, match=message):
        WORLDS[kind](**settings)


# The state checker.


def facts_of(transcript: Transcript, probe: Probe) -> tuple[tuple[str, str, str], ...]:
    return tuple(transcript.turns[probe.turn].meta["facts"])


def replaced(text: str, value: str, other: str) -> str:
    return re.sub(rf"\b{value}\b", other, text)


def test_true_text_is_right_and_contradicts_nothing(sample: list[Transcript]) -> None:
    for transcript in sample:
        for index, turn in enumerate(transcript.turns):
            verdict = judge(transcript, index, turn.text)
            assert not verdict.contradictions, turn.text
            if turn.meta["kind"] == "answer":
                assert verdict.needed == len(turn.meta["facts"])
                assert (verdict.right, verdict.wrong, verdict.stale) == (1, (), ()), turn.text
            else:
                assert (verdict.needed, verdict.right, verdict.wrong) == (0, 0, ())


@every_world
def test_another_value_is_wrong(kind: str) -> None:
    world = WORLDS[kind]()
    for transcript, probe in probes([world.generate(seed) for seed in range(60)]):
        facts, text = facts_of(transcript, probe), transcript.turns[probe.turn].text
        for _, value, pool in facts:
            used = {word for turn in transcript.turns for word in words(turn.text)}
            other = next(name for name in world.lexicon[pool].train if name not in used)
            verdict = judge(transcript, probe.turn, replaced(text, value, other).upper())
            assert verdict.right == 1 - 1 / len(facts)
            assert verdict.wrong == (other,)
            assert verdict.stale == ()


@every_world
def test_stale_value_is_stale_and_wrong(kind: str) -> None:
    found = 0
    for transcript, probe in probes([WORLDS[kind]().generate(seed) for seed in range(150)]):
        now = {identity: value for identity, value, _ in facts_of(transcript, probe)}
        for index in probe.stale:
            ((identity, before, _),) = transcript.turns[index].meta["facts"]
            verdict = judge(transcript, probe.turn, f"I think {before}.")
            assert verdict.wrong == verdict.stale == (before,)
            both = judge(transcript, probe.turn, f"{before} or {now[identity]}?")
            assert both.right == 1 / len(now)
            assert both.stale == (before,)
            found += 1
    assert found > 5


@every_world
def test_text_that_denies_a_live_fact_is_a_contradiction(kind: str) -> None:
    world = WORLDS[kind]()
    for seed in range(30):
        transcript = world.generate(seed)
        for index, turn in enumerate(transcript.turns[:-2]):
            if turn.meta["kind"] not in ("fact", "message"):
                continue
            ((identity, value, pool),) = turn.meta["facts"]
            key = identity.partition(":")[2]
            after = transcript.turns[index + 1]
            if identity in after.meta["keys"] or key in str(after.meta):
                continue
            used = {word for each in transcript.turns for word in words(each.text)}
            other = next(name for name in world.lexicon[pool].train if name not in used)
            assert (identity, other) in judge(transcript, index + 1, f"{key}, {other}!").contradictions
            assert judge(transcript, index + 1, f"{key}, {value}.").contradictions == ()
            assert judge(transcript, index + 1, f"Only {other}.").contradictions == ()
            assert judge(transcript, index, f"{key}, {other}!").contradictions == ()  # not yet known


def turn(text: str, kind: str, value: str = "", key: str = "meet:Anna") -> Turn:
    facts = ((key, value, "place"),) if value else ()
    return Turn(text, "user", {"kind": kind, "keys": (key,) if kind != "distractor" else (), "facts": facts})


def test_state_follows_updates_and_cancellations_and_ignores_hedges_and_gossip() -> None:
    transcript = Transcript(
        (
            turn("Maybe Ben will be at the zoo.", "hedge", "zoo", "meet:Ben"),
            turn("I meet Anna at the harbor.", "fact", "harbor"),
            turn("Anna once got lost at the mill.", "distractor", "mill"),
            turn("Make it the bank.", "update", "bank"),
            turn("My plan with Anna is off.", "cancel"),
            turn("Fine.", "reply"),
        )
    )
    claims = ("Anna: harbor", "ANNA: BANK", "Anna: mill", "Ben: park", "Annabel: mills")

    def contradicted(index: int) -> list[str]:
        return [claim for claim in claims if judge(transcript, index, claim).contradictions]

    assert contradicted(1) == []
    assert contradicted(2) == ["ANNA: BANK"]  # the gossip itself may name the mill
    assert contradicted(3) == ["Anna: mill"]  # the true turn names the bank
    assert contradicted(4) == ["Anna: harbor", "Anna: mill"]
    assert contradicted(5) == []


def test_judge_needs_a_procedural_world() -> None:
    plain = Transcript((Turn("Hello."), Turn("Hi.")), id="chat")
    with pytest.raises(StmError, match="chat has no hidden state"):
        judge(plain, 1, "Hi.")
    with pytest.raises(StmError, match="no turn 99; dialogue-0 has turns 0 to 39"):
        judge(DialogueWorld().generate(0), 99, "Hi.")


# Sequences.


def test_splits_share_no_seed() -> None:
    seeds: list[int] = []
    for split in FIRST_SEED:
        most = GeneratedTranscripts(DialogueWorld(), split, 10**8)
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


@pytest.mark.parametrize(("split", "count"), [("valid", 1), ("train", 0), ("train", 10**8 + 1)])
def test_bad_splits_and_counts_are_errors(split: str, count: int) -> None:
    with pytest.raises(StmError, match=split if split == "valid" else str(count)):
        GeneratedTranscripts(DialogueWorld(), split, count)


def test_pool_of_another_world_holds_what_the_transcript_states() -> None:
    def said(kind: str, text: str, *values: str) -> Turn:
        facts = tuple((f"owner:{value}", value, "dragon") for value in values)
        return Turn(text, "", {"kind": kind, "keys": (), "facts": facts})

    turns = (said("fact", "Smaug came.", "Smaug"), said("fact", "Fafnir came.", "Fafnir"), said("ask", "Who?"))
    transcript = Transcript((*turns, said("answer", "Fafnir.", "Fafnir")), (Probe(3, (1,), "Fafnir"),))
    assert judge(transcript, 3, "It was Fafnir.").right == 1
    assert judge(transcript, 3, "Smaug, of course.").wrong == ("Smaug",)
    assert judge(transcript, 3, "Glaurung.") == judge(transcript, 3, "Nobody.")
