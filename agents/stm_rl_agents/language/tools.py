"""The tool calls by which a language model writes, forgets and reads, and what they mean."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl_envs.episodes import Episodes

WRITE, FORGET, READ = NAMES = ("memory_write", "memory_forget", "memory_read")
CUT_OFF = "the message was cut off"
Message = dict[str, Any]
SLOT = {"type": "integer", "description": "Number of the slot, from 1"}


def _tool(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    _tool(
        WRITE,
        "Keep the last turn in a slot of the memory; what the slot held is superseded.",
        {"slot": SLOT, "text": {"type": "string", "description": "What to keep in place of the turn's own words"}},
        ["slot"],
    ),
    _tool(FORGET, "Empty a slot of the memory.", {"slot": SLOT}, ["slot"]),
    _tool(
        READ,
        "Put what slots hold in front of the model that continues the conversation.",
        {"slots": {"type": "array", "items": {"type": "integer"}, "description": "Numbers of slots, from 1"}},
        ["slots"],
    ),
]
"""The tools in OpenAI's format, for chat templates."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a language model does with its memory at one turn.

    Attributes:
        write: The slot that keeps the current turn, from 1; 0: none.
        text: What is kept in place of the turn's own words; empty: those.
        forget: Slots that are emptied first.
        reads: Slots put in front of the model.
        malformed: What was wrong with calls that were left out, one text each.
    """

    write: int = 0
    text: str = ""
    forget: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    malformed: tuple[str, ...] = ()

    def calls(self) -> list[Message]:
        """Return the decision as tool calls in OpenAI's format, arguments as objects."""
        found: list[tuple[str, dict[str, Any]]] = [(FORGET, {"slot": slot}) for slot in self.forget]
        if self.write:
            found.append((WRITE, {"slot": self.write} | ({"text": self.text} if self.text else {})))
        if self.reads:
            found.append((READ, {"slots": list(self.reads)}))
        return [{"type": "function", "function": {"name": name, "arguments": values}} for name, values in found]

    def message(self) -> Message:
        """Return the decision as a message of the assistant."""
        return {"role": "assistant", "content": "", "tool_calls": self.calls()}

    def apply(self, episodes: Episodes, row: int) -> NDArray[np.int64]:
        """Forget, and return the action that writes and reads, shape ``(1 + R,)``."""
        action = np.zeros(1 + episodes.settings.reads, np.int64)
        for slot in self.forget:
            episodes.forget(row, slot)
        action[0] = self.write
        if self.write and self.text:
            episodes.note(row, self.text)
        action[1 : 1 + len(self.reads)] = self.reads
        return action


def decision_of(action: NDArray[np.int64]) -> Decision:
    """Return an action of an environment, shape ``(1 + R,)``, as a decision; reads in ascending order."""
    write, *reads = action.tolist()
    return Decision(write, reads=tuple(sorted({slot for slot in reads if slot})))


def parse(message: Message, slots: int, reads: int, ended: bool = True) -> Decision:
    """Return what a message of the assistant decides; what is malformed is left out.

    Args:
        message: As chat templates' parsers give it: ``content`` and ``tool_calls``.
        slots: Slots of the memory.
        reads: Most slots that are read.
        ended: Whether the model ended its message; False: it was cut off.
    """
    write, text, forget, read, wrong = 0, "", [], [], []
    for call in message.get("tool_calls") or ():
        call = call.get("function", call)
        name, values = call.get("name"), call.get("arguments")
        if isinstance(values, str):
            try:
                values = json.loads(values)
            except ValueError:
                values = None
        if name not in NAMES:
            wrong.append(f"unknown tool {name!r}")
        elif not isinstance(values, dict):
            wrong.append(f"arguments of {name} are no object")
        elif name == READ:
            wanted = values.get("slots")
            if not isinstance(wanted, list) or not all(_is_slot(slot, slots) for slot in wanted):
                wrong.append(f"memory_read of {wanted!r}")
            else:
                read += [slot for slot in wanted if slot not in read]
        elif not _is_slot(values.get("slot"), slots):
            wrong.append(f"{name} of slot {values.get('slot')!r}")
        elif name == FORGET:
            forget.append(values["slot"])
        elif write:
            wrong.append("a second memory_write")
        elif not isinstance(values.get("text", ""), str):
            wrong.append(f"memory_write of the text {values['text']!r}")
        else:
            write, text = values["slot"], " ".join(values.get("text", "").split())
    if len(read) > reads:
        wrong.append(f"memory_read of {len(read)} slots")
        read = read[:reads]
    content = message.get("content") or ""
    if "tool_call" in content or any(name in content for name in NAMES):
        wrong.append(f"a tool call that cannot be read: {content[:80]!r}")
    if not ended:
        wrong.append(CUT_OFF)
    return Decision(write, text, tuple(dict.fromkeys(forget)), tuple(read), tuple(wrong))


def _is_slot(value: Any, slots: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= slots
