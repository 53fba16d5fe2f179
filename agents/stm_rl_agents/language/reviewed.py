"""Preferences of people as pairs of memory decisions: what they say of texts, said of what was read for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stm_rl.comparison.continuation import Continuation
from stm_rl.errors import StmError
from stm_rl.files import reading
from stm_rl.memory import EMPTY
from stm_rl_agents.language.chat import INSTRUCTION, Slot, state_text, text_overlap
from stm_rl_agents.language.dpo import Pair
from stm_rl_agents.language.tools import Decision, Message


def decision_pairs(items: Mapping[str, Continuation], memory_won: Mapping[str, bool], short: bool = True) -> list[Pair]:
    """Return a pair for each preference: the decision that was made, and the same one without its reads.

    The two texts of a continuation differ in what was read for them and in nothing else. So whoever prefers the text
    with memory prefers to read, and whoever prefers the other one prefers not to.

    Args:
        items: Continuations by id.
        memory_won: Whether the text with memory was preferred, by id.
        short: Leave out the instruction; see :func:`~stm_rl_agents.language.chat.is_short`.

    Raises:
        StmError: A continuation does not say what was decided.
    """
    pairs = []
    for name, won in memory_won.items():
        one = items[name]
        if one.decision is None or one.state is None:
            raise StmError(
                f"continuation {name} does not say what was decided; write the file anew with `stm-rl compare`"
            )
        with reading(f"continuation {name}", "write the file anew with `stm-rl compare`"):
            made = Decision(
                one.decision["write"],
                one.decision.get("text", ""),
                tuple(one.decision.get("forget", ())),
                tuple(one.decision["reads"]),
            )
            prompt = prompt_at(one, json.loads(one.state), short)
        chosen, rejected = made, replace(made, reads=())
        if not won:
            chosen, rejected = rejected, chosen
        pairs.append(Pair(prompt, chosen.message(), rejected.message()))
    return pairs


def prompt_at(one: Continuation, state: Mapping[str, Any], short: bool) -> list[Message]:
    """Return what a language model is shown before it decides, as :func:`~stm_rl_agents.language.chat.prompt_of` does.

    Args:
        one: The continuation.
        state: Of the episode when the agent decided; see :func:`~stm_rl_agents.language.states.state_of`.
        short: Leave out the instruction.
    """
    step, memory = int(state["step_index"]), state["memory"]
    notes = {int(turn): text for turn, text in state["notes"]}
    previous = one.before[step - 1] if step else ""
    held = [
        None
        if turn == EMPTY
        else Slot(
            notes.get(turn, one.before[turn]),
            step - memory["written"][slot],
            step - memory["last_read"][slot],
            memory["reads"][slot],
            state["overlap_since"][slot],
            text_overlap(one.before[turn], previous),
        )
        for slot, turn in enumerate(memory["turn"])
    ]
    asked = {"role": "user", "content": state_text(held, one.window, step)}
    return [asked] if short else [{"role": "system", "content": INSTRUCTION}, asked]
