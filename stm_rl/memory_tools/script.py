"""Memory tool calls taken out of a transcript: what was said, and which calls were made when."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from stm_rl.memory_tools.mapping import Tool, ToolMapping
from stm_rl.transcript import Probe, Question, Transcript, Turn

RESULT_ROLES = ("tool", "function")
"""Speakers of turns that are results of tools."""


@dataclass(slots=True)
class Call:
    """A tool call.

    Attributes:
        step: The last turn (of the transcript without calls) that had arrived before; -1 if none had.
        place: Where it is and what it says, for reports.
        operation: What it does; empty if the mapping does not know the tool.
        problem: Why it cannot be mapped, as far as the call alone tells.
        content: What is to be kept, or said.
        old: What is to be superseded or forgotten.
        query: What is looked for.
        ids: Ids of the memories it names.
        slots: Numbers of the slots it names, as given.
        found: Ids and contents of memories in its result.
    """

    step: int
    place: str
    operation: str = ""
    problem: str = ""
    content: str = ""
    old: str = ""
    query: str = ""
    ids: tuple[str, ...] = ()
    slots: tuple[Any, ...] = ()
    found: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolScript:
    """A transcript without calls, and the calls.

    Attributes:
        source: The transcript as it was.
        transcript: What was said; None if that are fewer than 2 turns.
        calls: The calls in order.
    """

    source: Transcript
    transcript: Transcript | None
    calls: tuple[Call, ...]


def tool_script(transcript: Transcript, mapping: ToolMapping) -> ToolScript:
    """Take tool calls and the results of tools out of a transcript.

    Of a turn with text and calls the text stays. Where a tool of the mapping says things (``say``), its content is the
    turn, and text beside calls, anywhere in the transcript, is taken for thoughts and left out.

    Args:
        transcript: As :func:`~stm_rl.readers.read_transcripts` reads messages.
        mapping: What the tools do.
    """
    return _Script(transcript, mapping).read()


@dataclass(slots=True)
class _Script:
    source: Transcript
    mapping: ToolMapping
    turns: list[Turn] = field(default_factory=list)
    kept: dict[int, int] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    waiting: list[tuple[str, Call]] = field(default_factory=list)

    def read(self) -> ToolScript:
        made = [_calls_of(turn) for turn in self.source.turns]
        tools = self.mapping.tools
        thinks = any(call["name"] in tools and tools[call["name"]].operation == "say" for one in made for call in one)
        for index, (turn, calls) in enumerate(zip(self.source.turns, made, strict=True)):
            if turn.speaker in RESULT_ROLES or "tool_call_id" in turn.meta:
                self._result(turn)
            elif calls:
                new = [self._call(call, index) for call in calls]
                self.calls += new
                said = [call.content for call in new if call.operation == "say" and not call.problem]
                text = "\n".join(said) if thinks else spoken(turn)
                if text.strip():
                    meta = {key: value for key, value in turn.meta.items() if key != "tool_calls"}
                    self._keep(index, replace(turn, text=text, meta=meta))
            else:
                self._keep(index, turn)
        return ToolScript(self.source, self._transcript(), tuple(self.calls))

    def _keep(self, index: int, turn: Turn) -> None:
        self.kept[index] = len(self.turns)
        self.turns.append(turn)

    def _call(self, call: dict[str, Any], index: int) -> Call:
        name, given = call["name"], call.get("arguments")
        shown = given if isinstance(given, str) else "" if given is None else reprlib.repr(given)
        place = f"{place_of(self.source, index)}: {name}({shown[:80]}{'...' * (len(shown) > 80)})"
        new = Call(len(self.turns) - 1, " ".join(place.split()))
        self.waiting.append((call.get("id", ""), new))
        tool = self.mapping.tools.get(name)
        if tool is None:
            new.problem = f"{name} is not in the mapping"
            return new
        new.operation = tool.operation
        try:
            _fill(new, tool, _arguments(given))
        except (ValueError, RecursionError):
            new.problem = "the arguments are not a JSON object"
        return new

    def _result(self, turn: Turn) -> None:
        """Give a result to its call: that with its id, else the first that still waits."""
        name = turn.meta.get("tool_call_id", "")
        at = next((i for i, (waiting, _) in enumerate(self.waiting) if waiting == name), None)
        if at is None:
            return
        _, call = self.waiting.pop(at)
        try:
            value = json.loads(turn.text)
            call.found = tuple(self._memories(value))
        except (ValueError, RecursionError):
            return  # plain text, such as "OK"
        if isinstance(value, dict) and (value.get("error") or str(value.get("status")).lower() in ("failed", "error")):
            call.problem = call.problem or "the call failed, says its result"

    def _memories(self, value: Any) -> Iterator[tuple[str, str]]:
        """Yield the id and content of all memories in a result."""
        if isinstance(value, dict):
            name = next((value[key] for key in self.mapping.ids if isinstance(value.get(key), str | int)), None)
            content = next((value[key] for key in self.mapping.contents if isinstance(value.get(key), str)), "")
            if name is not None:
                yield str(name), content
        if isinstance(value, dict | list):
            for element in value.values() if isinstance(value, dict) else value:
                yield from self._memories(element)

    def _transcript(self) -> Transcript | None:
        """Return what is left, with the probes and questions of which nothing was taken out."""
        if len(self.turns) < 2:
            return None
        kept = self.kept

        def moved(turns: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(kept[turn] for turn in turns if turn in kept)

        probes = tuple(
            Probe(kept[probe.turn], moved(probe.evidence), probe.answer, moved(probe.stale))
            for probe in self.source.probes
            if all(turn in kept for turn in (probe.turn, *probe.evidence))
        )
        questions = tuple(
            Question(asked.text, asked.answer, moved(asked.evidence), asked.category)
            for asked in self.source.questions
            if all(turn in kept for turn in asked.evidence)
        )
        return replace(self.source, turns=tuple(self.turns), probes=probes, questions=questions)


def _calls_of(turn: Turn) -> list[dict[str, Any]]:
    """Return the calls of a turn; what else its meta may have under that name is none."""
    made = turn.meta.get("tool_calls")
    calls = made if isinstance(made, list | tuple) else ()
    return [call for call in calls if isinstance(call, dict) and isinstance(call.get("name"), str)]


def spoken(turn: Turn) -> str:
    """Return the text of a turn without its calls, which the reader puts on the last line."""
    said, _, last = turn.text.rpartition("\n")
    return said if last.startswith("tool_call ") else turn.text


def place_of(transcript: Transcript, turn: int | None = None) -> str:
    """Return ``file:line`` of a transcript, or its id, and which of its messages is meant."""
    file = transcript.meta.get("file")
    line = transcript.meta.get("line")
    place = f"{file}:{line}" if file and line else transcript.id or "(unnamed)"
    return place if turn is None else f"{place}: messages[{turn}]"


def _arguments(given: Any) -> dict[str, Any]:
    """Return the arguments of a call.

    Raises:
        ValueError: They are no JSON object.
    """
    value = json.loads(given or "{}") if isinstance(given, str) else {} if given is None else given
    if not isinstance(value, dict):
        raise ValueError
    return value


def _fill(call: Call, tool: Tool, arguments: dict[str, Any]) -> None:
    """Take the parts of an operation out of the arguments, and check that there are enough."""
    for part, names in tool.parts.items():
        value = next((arguments[name] for name in names if arguments.get(name) is not None), None)
        if part in ("id", "slot"):
            several = tuple(value) if isinstance(value, list | tuple) else () if value is None else (value,)
            if part == "slot":
                call.slots = tuple(int(one) if isinstance(one, str) and one.isdecimal() else one for one in several)
            else:
                call.ids = tuple(map(str, several))
        else:
            setattr(call, part, _text(value))
    target = call.old.strip() or call.ids or call.slots
    if call.operation in ("write", "say") and not (call.content.strip() or call.slots):
        call.problem = "it gives no content"
    elif call.operation in ("supersede", "forget") and not target:
        call.problem = "it does not say what to supersede or forget"
    elif call.operation == "read" and not (call.query.strip() or target):
        call.problem = "it does not say what to read"
    elif call.operation == "supersede" and not call.content.strip():
        call.operation = "forget"  # how Letta deletes


def _text(value: Any) -> str:
    """Return an argument as text: of messages, their contents."""
    if isinstance(value, dict):
        return _text(value.get("content"))
    if isinstance(value, list | tuple):
        return "\n".join(filter(None, map(_text, value)))
    return "" if value is None else str(value)
