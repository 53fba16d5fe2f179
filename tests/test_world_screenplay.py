from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_python

from stm_rl import Probe, StmError, Transcript
from stm_rl.readers import read_transcripts, write_fountain
from stm_rl.worlds import GeneratedTranscripts, ScreenplayWorld, World, judge
from stm_rl.worlds import screenplay_templates as say
from stm_rl.worlds.base import TURN_KINDS
from stm_rl.worlds.lexicon import POOLS
from stm_rl.worlds.relation import Phrasings
from stm_rl.worlds.screenplay_templates import SCREENPLAY_POOLS

STATED = ("fact", "message", "hedge", "update")
WORLDS = {
    "train": ScreenplayWorld(),
    "heldout": ScreenplayWorld(entities="heldout", templates="heldout"),
    "long": ScreenplayWorld(turns=121, min_gap=10, max_gap=40),
    "short": ScreenplayWorld(turns=9, min_gap=1, max_gap=1),
}
ROLES = {role.upper() for role in (*SCREENPLAY_POOLS["role"].train, *SCREENPLAY_POOLS["role"].heldout)}


@pytest.fixture(scope="module", params=WORLDS)
def sample(request: pytest.FixtureRequest) -> list[Transcript]:
    return [WORLDS[request.param].generate(seed) for seed in range(200)]


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text)


def kinds(transcript: Transcript) -> list[str]:
    return [turn.meta["kind"] for turn in transcript.turns]


def probes(transcripts: list[Transcript]) -> Iterator[tuple[Transcript, Probe]]:
    return ((transcript, probe) for transcript in transcripts for probe in transcript.probes)


def test_same_seed_gives_the_same_transcript_in_every_process() -> None:
    code = (
        "from stm_rl.worlds import ScreenplayWorld\n"
        "for seed in range(20):\n"
        "    t = ScreenplayWorld().generate(seed)\n"
        "    print(t, t.probes, [turn.meta for turn in t.turns])"
    )
    assert run_python(code, 1) == run_python(code, 2) != ""
    assert isinstance(ScreenplayWorld(), World)
    assert ScreenplayWorld().generate(3) != ScreenplayWorld().generate(4)


def test_transcript_has_the_turns_asked_for(sample: list[Transcript], request: pytest.FixtureRequest) -> None:
    expected = WORLDS[request.node.callspec.params["sample"]].turns
    assert {len(transcript) for transcript in sample} == {expected}


def test_every_kind_of_turn_and_element_occurs(sample: list[Transcript], request: pytest.FixtureRequest) -> None:
    assert {kind for transcript in sample for kind in kinds(transcript)} <= set(TURN_KINDS)
    if request.node.callspec.params["sample"] != "short":
        assert {kind for transcript in sample for kind in kinds(transcript)} == set(TURN_KINDS)
        elements = {turn.meta["element"] for transcript in sample for turn in transcript.turns}
        assert elements == {"scene_heading", "action", "dialogue", "transition"}


def test_turns_look_like_their_elements_and_no_other(sample: list[Transcript]) -> None:
    for transcript in sample:
        assert transcript.turns[0].meta["element"] == "scene_heading"
        for turn in transcript.turns:
            assert not re.search(r"[*_\n]|\[\[|\]\]|/\*", turn.text), turn.text
            heading = re.match(r"(?:INT|EXT|EST|I/E)[./ ]", turn.text, re.IGNORECASE) is not None
            assert heading == (turn.meta["element"] == "scene_heading"), turn.text
            assert (turn.text.isupper() and turn.text.endswith("TO:")) == (turn.meta["element"] == "transition")
            assert (turn.speaker in ROLES) == (turn.meta["element"] == "dialogue"), turn
            assert turn.speaker in {"", *ROLES}
            if turn.meta["element"] in ("action", "dialogue"):
                assert turn.text.upper() != turn.text or turn.speaker, turn.text
                assert not re.match(r"[.!@#=>~]", turn.text), turn.text
                spoken = re.sub(r"^\([^()]+\) ", "", turn.text) if turn.speaker else turn.text
                assert spoken.strip()
                assert not set("()") & set(spoken), turn.text


def test_screenplays_survive_a_fountain_file(sample: list[Transcript], tmp_path: Path) -> None:
    for number, transcript in enumerate(sample[:60]):
        path = tmp_path / f"{number}.fountain"
        write_fountain(transcript, path)
        (read,) = read_transcripts(path)
        assert [(t.text, t.speaker, t.meta["element"]) for t in read.turns] == [
            (t.text, t.speaker, t.meta["element"]) for t in transcript.turns
        ]


def test_scenes_change_and_nobody_speaks_twice_in_a_row(sample: list[Transcript]) -> None:
    for transcript in sample:
        for before, turn in zip(transcript.turns, transcript.turns[1:], strict=False):
            assert not turn.speaker or turn.speaker != before.speaker
    if len(sample[0]) >= 40:
        headings = [[turn.text for turn in t.turns if turn.meta["element"] == "scene_heading"] for t in sample]
        assert min(map(len, headings)) >= 2
        assert max(map(len, headings)) <= len(sample[0]) / 4
        speakers = [{turn.speaker for turn in t.turns} for t in sample]
        assert max(map(len, speakers)) <= 5  # four characters and none


# Dependencies.


def test_answer_is_in_the_dependent_turn_and_in_its_evidence(sample: list[Transcript]) -> None:
    assert any(probes(sample))
    for transcript, probe in probes(sample):
        evidence = [word for index in probe.evidence for word in words(transcript.turns[index].text)]
        said = words(transcript.turns[probe.turn].text)
        for word in probe.answer.split():
            assert word in evidence
            assert word in said
            assert word not in words(transcript.turns[probe.turn - 1].text)


def test_every_answer_has_one_probe_and_follows_a_question(sample: list[Transcript]) -> None:
    for transcript in sample:
        answers = [index for index, kind in enumerate(kinds(transcript)) if kind == "answer"]
        assert [probe.turn for probe in transcript.probes] == answers
        assert all(kinds(transcript)[index - 1] == "ask" for index in answers)


def test_evidence_is_the_latest_statement_and_the_earlier_are_stale(sample: list[Transcript]) -> None:
    for transcript, probe in probes(sample):
        asked = set(transcript.turns[probe.turn - 1].meta["keys"])
        stated = {
            key: [i for i, turn in enumerate(transcript.turns[: probe.turn]) if key in turn.meta["keys"]][:-1]
            for key in asked
        }
        assert {turns[-1] for turns in stated.values()} == set(probe.evidence)
        assert all(kinds(transcript)[index] in STATED for index in probe.evidence)  # so it is never a rumour
        assert sorted(index for turns in stated.values() for index in turns[:-1]) == sorted(probe.stale)


def test_stale_turns_do_not_hold_the_answer(sample: list[Transcript]) -> None:
    for transcript, probe in probes(sample):
        asked = set(transcript.turns[probe.turn - 1].meta["keys"])
        now = {identity: value for identity, value, _ in transcript.turns[probe.turn].meta["facts"]}
        assert set(now) == asked
        for index in probe.stale:
            (key,) = transcript.turns[index].meta["keys"]
            assert now[key] not in words(transcript.turns[index].text)


def test_fact_is_asked_about_at_most_once_and_not_after_it_was_called_off(sample: list[Transcript]) -> None:
    for transcript in sample:
        over: set[str] = set()
        for turn in transcript.turns:
            if turn.meta["kind"] in ("ask", "cancel"):
                assert not over & set(turn.meta["keys"])
                over |= set(turn.meta["keys"])


def test_what_a_turn_states_is_in_its_text(sample: list[Transcript]) -> None:
    for transcript in sample:
        for turn in transcript.turns:
            stated = turn.meta["kind"] in (*STATED, "distractor", "answer")
            assert ("facts" in turn.meta) == stated
            for identity, value, pool in turn.meta.get("facts", ()):
                assert value in words(turn.text)
                assert value in (*SCREENPLAY_POOLS[pool].train, *SCREENPLAY_POOLS[pool].heldout)
                if turn.meta["kind"] != "answer":
                    assert identity.partition(":")[2] in words(turn.text)


def test_true_answers_agree_with_the_hidden_state() -> None:
    for transcript in GeneratedTranscripts(ScreenplayWorld(), "test", 40):
        for probe in transcript.probes:
            text = transcript.turns[probe.turn].text
            verdict = judge(transcript, probe.turn, text, SCREENPLAY_POOLS)
            assert verdict.right == 1
            assert not verdict.wrong
            assert not verdict.contradictions


def test_some_needs_take_two_turns_and_some_things_change() -> None:
    found = [probe for _, probe in probes(GeneratedTranscripts(ScreenplayWorld(), "train", 300)[:])]
    assert 0.05 < np.mean([len(probe.evidence) == 2 for probe in found]) < 0.5
    assert 0.05 < np.mean([bool(probe.stale) for probe in found]) < 0.5


def test_statements_asks_and_answers_are_said_and_shown() -> None:
    turns = [turn for t in GeneratedTranscripts(ScreenplayWorld(), "train", 200)[:] for turn in t.turns]
    for kind in ("update", "cancel", "distractor", "ask", "answer", "reply"):
        shown = np.mean([turn.meta["element"] == "action" for turn in turns if turn.meta["kind"] == kind])
        assert 0.1 < shown < 0.6, kind
    for kind, element in (("fact", "dialogue"), ("hedge", "dialogue"), ("message", "action")):
        assert {turn.meta["element"] for turn in turns if turn.meta["kind"] == kind} == {element}


def test_there_is_more_to_remember_than_slots_and_distance_varies() -> None:
    sample = GeneratedTranscripts(ScreenplayWorld(), "train", 300)[:]
    most_at_once = []  # facts that wait for their question at the same time
    for transcript in sample:
        spans = [(min(p.evidence), p.turn) for p in transcript.probes]
        most_at_once.append(max(sum(start <= turn < end for start, end in spans) for turn in range(len(transcript))))
    assert np.mean(most_at_once) > 2
    distances = [probe.turn - index for _, probe in probes(sample) for index in probe.evidence]
    assert min(distances) > 2  # never within the default window
    assert np.quantile(distances, 0.9) > 2 * np.quantile(distances, 0.1)


def test_values_are_equally_hard_to_guess() -> None:
    sample = GeneratedTranscripts(ScreenplayWorld(), "train", 300)[:]
    pools = [pool for t, probe in probes(sample) for _, _, pool in t.turns[probe.turn].meta["facts"]]
    nats = np.mean([np.log(len(SCREENPLAY_POOLS[pool].train)) for pool in pools])
    assert 3.2 < nats < 3.5
    assert len({relation.name for relation in say.RELATIONS}) == 6 == len(say.RELATIONS)


# Splits.


def test_pools_split_train_from_heldout_here_and_in_other_worlds() -> None:
    both = (*SCREENPLAY_POOLS.values(), *POOLS.values())
    train = {word.lower() for pool in both for word in pool.train}
    heldout = {word.lower() for pool in both for word in pool.heldout}
    assert not train & heldout
    needed = {pool for relation in say.RELATIONS for pool in (relation.key, relation.value)}
    assert needed | {"role"} == set(SCREENPLAY_POOLS)


@pytest.mark.parametrize(("shown", "hidden"), [("train", "heldout"), ("heldout", "train")])
def test_entities_of_one_split_are_not_in_transcripts_of_the_other(shown: str, hidden: str) -> None:
    # Whatever the phrasings: none may name an entity.
    absent = {word.lower() for pool in SCREENPLAY_POOLS.values() for word in pool.of(hidden)}
    for templates in ("train", "heldout"):
        for seed in range(100):
            for turn in ScreenplayWorld(entities=shown, templates=templates).generate(seed).turns:
                assert not absent & set(words(f"{turn.speaker} {turn.text}".lower())), turn.text


def phrasings() -> Iterator[Phrasings]:
    for relation in (*say.RELATIONS, say.CHAIN):
        for name in ("facts", "messages", "hedged", "updates", "cancels", "distractors", "asks", "answers"):
            if hasattr(relation, name):
                yield getattr(relation, name)
    yield from (say.ACKS, say.SEEN, say.REMEMBERED, say.CANCEL_ACKS, say.GOSSIP_REPLIES, say.OPENINGS)
    yield from (say.SETS, say.TRANSITIONS)
    yield tuple(tuple(text for pair in split for text in pair) for split in say.CHAT)  # type: ignore[misc]


@pytest.mark.parametrize(("shown", "hidden"), [(0, 1), (1, 0)])
def test_phrasings_of_one_split_are_not_in_the_other(shown: int, hidden: int) -> None:
    texts = [text.removeprefix(say.ACTION) for each in phrasings() for text in each[hidden]]
    patterns = [re.sub(r"\\{\w\\}", r"(?:The )?\\w+", re.escape(text)) for text in texts]
    pattern = re.compile("|".join(f"(?:{p})" for p in patterns))
    assert pattern.fullmatch(texts[0].format(k="ring", v="Anna"))
    world = ScreenplayWorld(templates=("train", "heldout")[shown])
    for seed in range(100):
        for turn in world.generate(seed).turns:
            text = re.sub(r"^\([^()]+\) ", "", turn.text).partition(" - ")[0]
            assert not pattern.fullmatch(text), turn.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": 7}, "turns is 7"),
        ({"min_gap": 5, "max_gap": 4}, r"5\.\.4"),
        ({"entities": "test"}, "entities is 'test'; expected one of train, heldout"),
        ({"distractor_rate": 0.8}, "distractor_rate 0.8"),
    ],
)
def test_bad_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError, match=message):
        ScreenplayWorld(**settings)
