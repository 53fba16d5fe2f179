"""Whether files of a run hold what they should; anything can be in a file."""

from __future__ import annotations

from typing import Any

SLOTS = 10_000
"""Slots of a memory that a trace can be of, at most."""
_STEP = {"step": int, "turn": str, "write": int, "reads": list, "next_turn": str}
_NUMBERS = ("coherence_gain", "reward", "evidence_needed", "evidence_held")


def check_evaluation(evaluation: dict[str, Any]) -> None:
    """Check the contents of an ``eval.json``; that of `stm-rl recurrent` has no ``agents``.

    Raises:
        KeyError: Something is missing.
        TypeError, ValueError, AttributeError: Something is not what it should be.
    """
    _count(evaluation, "episodes", 1)
    if not isinstance(evaluation["env"], str):
        raise ValueError(f"env is {evaluation['env']!r:.40}; expected an id")
    if "agents" not in evaluation:
        _interval(evaluation["return"])
        return
    dict(evaluation["settings"])
    for entry in evaluation["agents"].values():
        for name in ("return", "coherence_gain"):
            _interval(entry[name])
        if entry["evidence_recall"] is not None:
            _interval(entry["evidence_recall"])
        _numbers(entry["writes_per_turn"], entry["reads_per_turn"])


def check_details(details: dict[str, Any], episodes: int) -> None:
    """Check the contents of an ``episodes.json`` beside an evaluation of so many episodes.

    Raises:
        KeyError: Something is missing.
        TypeError, ValueError, AttributeError: Something is not what it should be.
    """
    for entries in details["agents"].values():
        terms = set()
        for entry in entries:
            _count(entry, "seed", 0)
            columns = [entry["return"], entry["coherence_gain"], *entry.get("terms", {}).values()]
            if any(len(column) != episodes for column in columns):
                raise ValueError(f"it does not tell of the {episodes} episodes of eval.json")
            for column in columns:
                _numbers(*column)
            terms.add(tuple(entry.get("terms", {})))
        if len(terms) > 1:
            raise ValueError("seeds of one agent have other reward terms")


def check_review(review: dict[str, Any]) -> None:
    """Check the contents of a ``review.json``.

    Raises:
        KeyError: Something is missing.
        TypeError, ValueError, AttributeError: Something is not what it should be.
    """
    for name in ("raters", "pairs", "ratings", "wins", "losses", "ties"):
        _count(review, name, 0)
    for rate in (review["win_rate"], *review["kinds"].values()):
        if rate is not None:
            _interval(rate)
    for marks in review["aspects"].values():
        _interval(marks["difference"])
        _numbers(marks["with"], marks["without"])
    for agreement in review["agreement"].values():
        _numbers(0 if agreement["alpha"] is None else agreement["alpha"])
        str(agreement["note"])


def is_trace(row: dict[str, Any]) -> bool:
    """Return whether a row of ``traces.jsonl`` is an episode."""
    steps = row.get("steps")
    return (
        isinstance(row.get("agent"), str)
        and isinstance(row.get("transcript"), str)
        and isinstance(row.get("episode"), int | None)
        and isinstance(steps, list)
        and len(steps) > 0
        and all(_is_step(step) for step in steps)
    )


def _is_step(step: Any) -> bool:
    return (
        isinstance(step, dict)
        and all(isinstance(step.get(name), kind) for name, kind in _STEP.items())
        and all(isinstance(step.get(name), int | float) for name in _NUMBERS)
        and 0 <= step["write"] <= SLOTS
        and all(isinstance(turn, int) for turn in step["reads"])
        and isinstance(step.get("true_next_turn", ""), str)
    )


def _interval(entry: dict[str, Any]) -> None:
    low, high = entry["ci95"]
    _numbers(entry["mean"], low, high)


def _count(entry: dict[str, Any], name: str, least: int) -> None:
    value = entry[name]
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r:.40}; expected a whole number from {least} on")


def _numbers(*values: Any) -> None:
    for value in values:
        if not isinstance(value, int | float):
            raise ValueError(f"{value!r:.40} is not a number")
