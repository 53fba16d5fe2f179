"""Memory tool calls as the actions of an episode.

A memory of slots holds whole turns, and step ``t`` can write only turn ``t``. So of each call it is asked which turn
its content comes from, by shared content words, and calls about older turns cannot be mapped. The rest follows what the
tools mean: what is superseded or forgotten is found by slot, id or words; what is written goes to a slot whose content
was forgotten, else to a free one, else to the least recently used one; searches read the slots whose content, as it was
written, shares most words with the query.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import WORD, content_words
from stm_rl.memory_tools.report import ToolReport
from stm_rl.memory_tools.script import Call, ToolScript

Words = frozenset[str]
PROMPTS = ("system", "developer")
"""Speakers of turns that are prompts: they mention everything, and what is kept does not come from them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions of an episode of ``T`` steps.

    Attributes:
        actions: For each step the slot to write and those to read, int64, shape ``(T, 1 + R)``.
        known: Which parts of the actions the calls decide, bool, shape ``(T, 1 + R)``; a part is not known where a call
            could not be mapped, so that nobody knows what the assistant would have done in its place.
        mapped: How many memory operations became part of an action.
        slots: Slots of the memory it is for, ``K``.
    """

    actions: NDArray[np.int64]
    known: NDArray[np.bool_]
    mapped: int
    slots: int


def plan(script: ToolScript, slots: int, reads: int, max_steps: int | None, report: ToolReport) -> Plan | None:
    """Return the actions that the calls of a script mean; None if too few turns are left.

    Args:
        script: A transcript and its calls.
        slots: Slots of the memory, ``K``.
        reads: Most slots read in a step, ``R``.
        max_steps: Steps after which the episode is truncated; None for the whole transcript.
        report: Every call is counted here, once.

    Raises:
        StmError: A call names a slot that does not exist.
    """
    report.calls += len(script.calls)
    if script.transcript is None:
        for call in script.calls:
            _count(call, call.problem or "the transcript has fewer than 2 turns without its calls", report)
        return None
    steps = min(len(script.transcript) - 1, max_steps or len(script.transcript))
    return _Planner(script, slots, reads, steps, report).run()


def _count(call: Call, problem: str, report: ToolReport) -> None:
    if problem:
        report.miss(problem, call.place)
    else:
        report.mapped[call.operation] += 1


def words_of(text: str) -> Words:
    """Return the content words of a text; where it has none, its words; where it has none, the text."""
    return content_words(text) or frozenset(map(str.lower, WORD.findall(text))) or frozenset({text.strip()})


@dataclass(slots=True)
class _Slot:
    """What a slot holds: contents as they were written, and their ids."""

    held: bool = False
    forgotten: int = -1
    used: int = -1
    contents: list[Words] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def match(self, words: Words) -> float:
        """Return the cosine of words with the most similar content; 0 if nothing may be found here."""
        if not self.held or self.forgotten >= 0:
            return 0.0
        return max((len(words & one) / sqrt(len(words) * len(one)) for one in self.contents), default=0.0)


class _Planner:
    def __init__(self, script: ToolScript, slots: int, reads: int, steps: int, report: ToolReport) -> None:
        turns = () if script.transcript is None else script.transcript.turns
        self.script, self.reads, self.steps, self.report = script, reads, steps, report
        self.slots = [_Slot() for _ in range(slots)]
        self.words = [frozenset[str]() if turn.speaker in PROMPTS else words_of(turn.text) for turn in turns]
        self.exact = [turn.text.strip() for turn in turns]
        self.writable = [turn.writable for turn in turns]
        self.actions = np.zeros((steps, 1 + reads), np.int64)
        self.known = np.ones((steps, 1 + reads), bool)
        self.mapped = 0
        self.seen: set[str] = set()  # ids that calls and results gave
        self.clock = 0

    def run(self) -> Plan:
        by_step: dict[int, list[Call]] = {}
        for call in self.script.calls:
            self._check_slots(call)
            by_step.setdefault(call.step, []).append(call)
        for step, calls in by_step.items():
            self._step(step, calls)
        return Plan(self.actions, self.known, self.mapped, len(self.slots))

    def _check_slots(self, call: Call) -> None:
        count = len(self.slots)
        for slot in call.slots:
            if not isinstance(slot, int) or isinstance(slot, bool) or not 1 <= slot <= count:
                raise StmError(
                    f"{call.place} names slot {slot!r}; expected 1 to {count}: the memory has {count} slots; correct "
                    "the call or make the memory larger"
                )

    def _step(self, step: int, calls: Sequence[Call]) -> None:
        """Map the calls of one step."""
        before = [slot.held for slot in self.slots]
        searches: list[tuple[Call, list[int]]] = []
        for call in calls:
            self.clock += 1
            problem = call.problem
            if not problem and call.operation != "say":
                problem = self._outside(step)
                if not problem and call.operation == "read":
                    found = self._wanted(call, before)
                    searches.append((call, found))
                    for slot in found[: self.reads]:
                        self.slots[slot].used = self.clock
                    continue
                if not problem:
                    problem = self._forget(call) if call.operation == "forget" else self._write(call, step)
            self._done(call, problem, step)
        self._read(searches, step)
        self.seen.update(name for call in calls for name in (*call.ids, *(name for name, _ in call.found)))

    def _outside(self, step: int) -> str:
        if step < 0:
            return "it comes before the first turn"
        return "" if step < self.steps else "it comes after the last step: no turn follows"

    def _done(self, call: Call, problem: str, step: int) -> None:
        """Count a call that is dealt with, and mark the parts of the action it leaves open."""
        _count(call, problem, self.report)
        if call.operation == "say":
            return
        if not problem:
            self.mapped += 1
        elif 0 <= step < self.steps:
            if call.operation in ("write", "supersede") and not self.actions[step, 0]:
                self.known[step, 0] = False
            elif call.operation == "read" and not self.actions[step, 1:].any():
                self.known[step, 1:] = False

    # Finding slots.

    def _live(self, number: int) -> bool:
        return self.slots[number].held and self.slots[number].forgotten < 0

    def _holding(self, ids: Iterable[str]) -> list[int]:
        """Return the slots that hold memories with some of these ids."""
        wanted = set(ids)
        return [n for n in range(len(self.slots)) if self._live(n) and self.slots[n].ids & wanted]

    def _targets(self, call: Call) -> tuple[list[int], str]:
        """Return the slots that a call supersedes or forgets, or why there are none."""
        if call.slots:
            named = [slot - 1 for slot in call.slots if self._live(slot - 1)]
            return named, "" if named else "the slot holds nothing"
        if found := self._holding(call.ids):
            return found, ""
        if not call.old.strip():
            known = not self.seen.isdisjoint(call.ids)
            return [], "what it names is held no more" if known else "it names an id that no call or result before gave"
        words = words_of(call.old)
        best = max(range(len(self.slots)), key=lambda n: self.slots[n].match(words))
        if self.slots[best].match(words):
            return [best], ""
        return [], "no slot holds what it supersedes or forgets"

    def _wanted(self, call: Call, before: Sequence[bool]) -> list[int]:
        """Return the slots that a call reads, best first."""
        numbers = [n for n in range(len(self.slots)) if before[n]]
        if call.slots:
            return [n for n in dict.fromkeys(slot - 1 for slot in call.slots) if before[n]]
        self._learn(call)
        named = {*call.ids, *(name for name, _ in call.found)}
        if found := [n for n in self._holding(named) if before[n]]:
            return found
        words = words_of(call.query) if call.query.strip() else frozenset[str]()
        scored = {n: self.slots[n].match(words) for n in numbers} if words else {}
        return sorted((n for n in scored if scored[n]), key=lambda n: (-scored[n], -self.slots[n].used))

    def _learn(self, call: Call) -> None:
        """Take from a result the ids of what slots hold; some tools tell them only when searched."""
        known = set[str]().union(*(slot.ids for slot in self.slots))
        for name, content in call.found:
            if name not in known and content.strip():
                words = words_of(content)
                best = max(self.slots, key=lambda slot: slot.match(words))
                if best.match(words) >= 0.5:
                    best.ids.add(name)

    # What calls do.

    def _write(self, call: Call, step: int) -> str:
        """Write the current turn, or say why that is not what a call means."""
        if not self.writable[step]:
            return "the turn may not be written to memory"
        if problem := self._elsewhere(call.content, step):
            return problem
        targets: list[int] = []
        if call.operation == "write" and not call.slots:
            targets = self._holding(name for name, _ in call.found)  # mem0 may update what it holds when asked to add
        elif not call.slots:
            targets, problem = self._targets(call)
            if problem:
                return problem
        named = [slot - 1 for slot in call.slots[:1]] or targets[:1]
        written = int(self.actions[step, 0]) - 1
        if written >= 0:  # the turn is held already
            if call.slots and named != [written]:
                return "one write a step: another call of the step wrote the turn to another slot"
            for target in targets:
                if target != written:
                    self.slots[target].forgotten = self.clock
            self.report.merged += 1
        else:
            written = named[0] if named else self._room()
            for target in targets[1:]:
                self.slots[target].forgotten = self.clock
            self.slots[written] = _Slot(held=True)
            self.actions[step, 0] = written + 1
            self.known[step, 0] = True
        slot = self.slots[written]
        slot.contents.append(words_of(call.content if call.content.strip() else self.exact[step]))
        ids = {*call.ids, *(name for name, _ in call.found)}
        for other in self.slots:
            other.ids -= ids
        slot.ids |= ids
        slot.used = self.clock
        return ""

    def _elsewhere(self, content: str, step: int) -> str:
        """Say why content is not that of the current turn; nothing if it is."""
        if not content.strip() or content.strip() == self.exact[step]:
            return ""
        words = words_of(content)
        shared = [len(words & turn) for turn in self.words[: step + 1]]
        if not max(shared):
            return "its content is found in no turn"
        return "its content is that of an older turn, which cannot be written any more" * (max(shared) > shared[step])

    def _room(self) -> int:
        """Return the slot for a turn that supersedes nothing in particular."""
        numbers = range(len(self.slots))
        if forgotten := [n for n in numbers if self.slots[n].forgotten >= 0]:
            return min(forgotten, key=lambda n: self.slots[n].forgotten)
        if free := [n for n in numbers if not self.slots[n].held]:
            return free[0]
        self.report.superseded_for_room += 1
        return min(numbers, key=lambda n: self.slots[n].used)

    def _forget(self, call: Call) -> str:
        """Mark slots as the next to be superseded: there is no action that deletes."""
        targets, problem = self._targets(call)
        for target in targets:
            self.slots[target].forgotten = self.clock
        return problem

    def _read(self, searches: Sequence[tuple[Call, list[int]]], step: int) -> None:
        """Share out the reads of a step: the best slot of every search, then the second of each."""
        written = int(self.actions[step, 0]) - 1 if searches else -1
        chosen: list[int] = []
        for rank in range(len(self.slots)):
            for _, found in searches:
                if rank < len(found) and found[rank] not in chosen and found[rank] != written:
                    chosen.append(found[rank])
        del chosen[self.reads :]
        if chosen:
            self.actions[step, 1 : 1 + len(chosen)] = [slot + 1 for slot in chosen]
            self.known[step, 1:] = True
        for call, found in searches:
            problem = ""
            if not found:
                problem = "no slot holds what it reads"
            elif not set(found) & set(chosen):
                problem = (
                    "its slot is superseded in the same step" if found == [written] else "the step has no read left"
                )
            self._done(call, problem, step)
