"""What was agreed in a dialogue with annotated slots, and which turns hold it.

A slot has its *origin* in the latest turn that contained one of its values when the slot got them; if none
did (``dontcare``, or a value said in other words), in the user turn that set it. A slot that is set to other
values gets a new origin. All origins of the final state together are the evidence of one question.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stm_rl.transcript import Question, Turn

Slot = tuple[str, str]
"""Service and slot name."""
State = Mapping[Slot, tuple[str, ...]]
"""Slots that have a value, each with the values that mean the same."""

QUESTION = "What has been agreed?"


def state_annotations(
    turns: Sequence[Turn], states: Sequence[tuple[int, State]]
) -> tuple[dict[str, Any], list[Question]]:
    """Return the final state as transcript meta, and as a question about the whole dialogue.

    Args:
        turns: The turns of the dialogue.
        states: Each known state with the index of the user turn after which it holds, in order.

    Returns:
        ``{"state": ({"service", "slot", "value", "turn"}, ...)}`` and one question; both empty without slots.
    """
    texts = [turn.text.lower() for turn in turns]
    final: dict[Slot, tuple[tuple[str, ...], str, int]] = {}
    for index, state in states:
        before, final = final, {}
        for slot, values in state.items():
            known = before.get(slot)
            same = known is not None and known[0] == values
            final[slot] = known if known and same else (values, *_origin(texts, index, values))
    if not final:
        return {}, []
    slots = tuple(
        {"service": service, "slot": slot, "value": value, "turn": turn}
        for (service, slot), (_, value, turn) in final.items()
    )
    shared = Counter(slot for _, slot in final)
    parts = [
        f"{entry['slot'] if shared[str(entry['slot'])] == 1 else '{service} {slot}'.format(**entry)}: {entry['value']}"
        for entry in slots
    ]
    evidence = tuple(sorted({turn for _, _, turn in final.values()}))
    return {"state": slots}, [Question(QUESTION, "; ".join(parts), evidence, "state")]


def _origin(texts: Sequence[str], index: int, values: tuple[str, ...]) -> tuple[str, int]:
    """Return the value that a turn contains, and that turn."""
    # Whole words: a table for "2" is not given by "12:30".
    forms = [(value, re.compile(rf"(?<!\w){re.escape(value.lower())}(?!\w)")) for value in values]
    for turn in range(index, -1, -1):
        for value, form in forms:
            if form.search(texts[turn]):
                return value, turn
    return values[0], index
