"""Probes and questions of our own JSONL: what a record says about its transcript."""

from __future__ import annotations

from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.json_values import json_list, json_object, member, whole_number
from stm_rl.readers.records import Place
from stm_rl.transcript import Probe, Question


def probes_of(value: object, count: int, place: Place) -> list[Probe]:
    """Return the probes of a record.

    Args:
        value: Its ``"probes"``, None if it has none.
        count: How many turns it has.
        place: Where it is.

    Raises:
        StmError: If one is malformed or names a turn that it may not.
    """
    probes = []
    for index, element in enumerate([] if value is None else json_list(value, "probes", place, "probes")):
        what = f"probes[{index}]"
        probe = json_object(element, what, place)
        turn = whole_number(member(probe, "turn", what, place), f"{what}.turn", place)
        evidence = _indices(member(probe, "evidence", what, place), f"{what}.evidence", place)
        stale = _indices(probe.get("stale", []), f"{what}.stale", place)
        answer = place.string(probe.get("answer", ""), f"{what}.answer")
        if not 0 <= turn < count:
            raise place.error(f"{what}.turn is {turn}; expected a turn of the record, 0 to {count - 1}; correct it")
        try:
            probes.append(Probe(turn, evidence, answer, stale))
        except StmError as error:
            raise place.error(f"{what}: {error}; correct it") from error
    return probes


def questions_of(value: object, count: int, place: Place) -> list[Question]:
    """Return the questions of a record.

    Args:
        value: Its ``"questions"``, None if it has none.
        count: How many turns it has.
        place: Where it is.

    Raises:
        StmError: If one is malformed or names a turn that does not exist.
    """
    questions = []
    for index, element in enumerate([] if value is None else json_list(value, "questions", place, "questions")):
        what = f"questions[{index}]"
        question = json_object(element, what, place)
        evidence = _indices(question.get("evidence", []), f"{what}.evidence", place)
        if outside := [turn for turn in evidence if not 0 <= turn < count]:
            raise place.error(f"{what}.evidence names turn {outside[0]}; expected 0 to {count - 1}; correct it")
        questions.append(
            Question(
                text=place.filled(member(question, "text", what, place), f"{what}.text"),
                answer=place.filled(member(question, "answer", what, place), f"{what}.answer"),
                evidence=evidence,
                category=place.string(question.get("category", ""), f"{what}.category"),
            )
        )
    return questions


def _indices(value: Any, what: str, place: Place) -> tuple[int, ...]:
    return tuple(
        whole_number(index, f"{what}[{number}]", place)
        for number, index in enumerate(json_list(value, what, place, "turn indices"))
    )
