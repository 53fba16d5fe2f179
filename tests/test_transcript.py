from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from stm_rl import Probe, StmError, Transcript, Turn

TURNS = (Turn("Hi", "user"), Turn("Hello", "assistant"), Turn("It rained."))


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_blank_turn_is_an_error(text: str) -> None:
    with pytest.raises(StmError, match="no text"):
        Turn(text, "user")


def test_text_of_a_turn_names_its_speaker() -> None:
    assert [str(turn) for turn in TURNS] == ["user: Hi", "assistant: Hello", "It rained."]
    assert str(Transcript(TURNS)) == "user: Hi\nassistant: Hello\nIt rained."


@pytest.mark.parametrize("count", [0, 1])
def test_transcript_of_less_than_two_turns_is_an_error(count: int) -> None:
    with pytest.raises(StmError, match=f"lonely has {count} turn"):
        Transcript(TURNS[:count], id="lonely")


def test_length_is_the_number_of_turns() -> None:
    assert len(Transcript(TURNS)) == 3


def test_probe_without_evidence_is_an_error() -> None:
    with pytest.raises(StmError, match="turn 2 names no evidence"):
        Probe(2, ())


@pytest.mark.parametrize("index", [-1, 2, 3])
@pytest.mark.parametrize("field", ["evidence", "stale"])
def test_probe_points_to_earlier_turns_only(field: str, index: int) -> None:
    given: dict[str, Any] = {"evidence": (0,)} | {field: (0, index)}
    with pytest.raises(StmError, match=f"points to turn {index}; expected an earlier turn, 0 to 1"):
        Probe(2, **given)


def test_probe_beyond_the_transcript_is_an_error() -> None:
    assert Transcript(TURNS, (Probe(2, (0,)),)).probes[0].turn == 2
    with pytest.raises(StmError, match="turn 3 but only 3 turns"):
        Transcript(TURNS, (Probe(3, (0,)),))


def test_nothing_can_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        TURNS[0].text = "Bye"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Transcript(TURNS).turns = ()  # type: ignore[misc]


def test_errors_are_value_errors() -> None:
    assert issubclass(StmError, ValueError)
