from __future__ import annotations

import pytest

from stm_rl import Probe, Question, StmError, Transcript, Turn
from stm_rl.readers.mix import Mixture, excerpts


def talk(name: str, turns: int = 2, **options: object) -> Transcript:
    return Transcript(tuple(Turn(f"{name} {i}") for i in range(turns)), id=name, **options)  # type: ignore[arg-type]


def test_every_set_has_the_same_share() -> None:
    large, small = [talk(f"l{i}") for i in range(6)], [talk("s0"), talk("s1")]
    mixed = Mixture([large, small])
    names = [transcript.id for transcript in mixed]
    assert len(mixed) == 12
    assert names[:6] == ["l0", "s0", "l1", "s1", "l2", "s0"]
    assert [names.count(name) for name in ("l0", "l5", "s0", "s1")] == [1, 1, 3, 3]
    assert [transcript.id for transcript in mixed[-2:]] == ["l5", "s1"]
    assert mixed[0] is large[0]


def test_a_mixture_ends() -> None:
    with pytest.raises(IndexError):
        Mixture([[talk("a")]])[1]


def test_sets_are_not_read_ahead() -> None:
    class Lazy(Mixture):
        def __init__(self) -> None: ...

        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, index: object) -> Transcript:  # type: ignore[override]
            return talk(str(index))

    assert Mixture([Lazy(), Lazy()])[2 * 10**9 - 1].id == str(10**9 - 1)


@pytest.mark.parametrize(("sets", "message"), [([], "no set to mix"), ([[talk("a")], []], "set 2 of 2 holds no")])
def test_empty_mixtures_are_errors(sets: list[list[Transcript]], message: str) -> None:
    with pytest.raises(StmError, match=message):
        Mixture(sets)


def test_excerpts_overlap_and_reach_the_end() -> None:
    pieces = excerpts(talk("log", 10), 4, 3)
    assert [piece.id for piece in pieces] == ["log[0:4]", "log[3:7]", "log[6:10]"]
    assert [turn.text for turn in pieces[1].turns] == ["log 3", "log 4", "log 5", "log 6"]
    assert [piece.id for piece in excerpts(talk("log", 9), 4, 4)] == ["log[0:4]", "log[4:8]", "log[5:9]"]


def test_probes_keep_pointing_at_the_same_turns() -> None:
    probes = (Probe(3, (1,)), Probe(5, (3, 4), "yes", (1, 3)), Probe(9, (2,)))
    log = talk("log", 10, probes=probes, questions=(Question("what?", "that", (1,)),))
    pieces = excerpts(log, 4, 3)
    assert [piece.probes for piece in pieces] == [(Probe(3, (1,)),), (Probe(2, (0, 1), "yes", (0,)),), ()]
    assert not any(piece.questions for piece in pieces)


def test_short_transcripts_stay_as_they_are() -> None:
    short = talk("short", 4)
    assert excerpts(short, 4, 2) == [short]


@pytest.mark.parametrize(("turns", "stride", "message"), [(1, 1, "at least 2"), (4, 0, "1 to 4"), (4, 5, "1 to 4")])
def test_pieces_that_would_lose_turns_are_errors(turns: int, stride: int, message: str) -> None:
    with pytest.raises(StmError, match=message):
        excerpts(talk("log", 9), turns, stride)
