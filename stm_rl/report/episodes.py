"""Traced episodes: what memory held over the turns, and what it gained over no memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stm_rl.report.figure import COLOURS, FAINT, INK, Figure, canvas

LETTERS = 300
"""Letters of a turn that are shown, at most."""
TURNS = 150
"""Turns of an episode that are shown, at most."""


def cut(text: str, letters: int = LETTERS) -> str:
    """Return a text, shortened if it is long."""
    return text if len(text) <= letters else f"{text[: letters - 2].rstrip()} …"


@dataclass(slots=True)
class Kept:
    """A turn that was in a slot.

    Attributes:
        slot: From 1 on.
        turn: Number of the turn, from 0 on.
        text: The turn.
        until: The turn that superseded it; None if it was there at the end.
        read: Turns at which it was read.
    """

    slot: int
    turn: int
    text: str
    until: int | None = None
    read: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Episode:
    """A traced episode of an agent, beside the same one without memory.

    Attributes:
        agent: Its name in the report.
        transcript: Id of the transcript.
        kind: Why it is shown: ``best``, ``worst`` or ``first``.
        steps: Its steps, as traced.
        none: Steps of the same episode without memory; empty if they were not traced.
        kept: What was in memory, by the time it was written.
    """

    agent: str
    transcript: str
    kind: str
    steps: list[dict[str, Any]]
    none: list[dict[str, Any]]
    kept: list[Kept]

    @property
    def total(self) -> float:
        """Its return, nats."""
        return math.fsum(step["reward"] for step in self.steps)

    @property
    def slots(self) -> int:
        """The last slot that it wrote to; 0 if none."""
        return max((one.slot for one in self.kept), default=0)


def replay(steps: Sequence[dict[str, Any]]) -> list[Kept]:
    """Return what was in memory, as the writes and reads of a trace tell it."""
    slots: dict[int, Kept] = {}
    found: list[Kept] = []
    for step in steps:
        now, slot = step["step"], step["write"]
        if slot:
            if slot in slots:
                slots[slot].until = now
            slots[slot] = Kept(slot, now, step["turn"])
            found.append(slots[slot])
        for turn in step["reads"]:
            for kept in slots.values():
                if kept.turn == turn:
                    kept.read.append(now)
    return found


def choose(traces: Sequence[dict[str, Any]], policy: str, agent: str, count: int) -> tuple[list[Episode], int]:
    """Return the best and worst traced episodes of a policy by its return over that without memory.

    Args:
        traces: Rows of ``traces.jsonl``.
        policy: Name of the policy there.
        agent: Its name in the report.
        count: How many of each.

    Returns:
        The episodes, best first, and how many were left out.
    """
    none = {_key(trace): trace["steps"] for trace in traces if trace["agent"] == "none"}
    found = [
        Episode(agent, str(t["transcript"]), "", t["steps"], none.get(_key(t), []), replay(t["steps"]))
        for t in traces
        if t["agent"] == policy
    ]

    def over_none(episode: Episode) -> float:
        return episode.total - math.fsum(step["reward"] for step in episode.none)

    found.sort(key=over_none, reverse=True)
    best, rest = found[:count], found[count:]
    worst = rest[max(0, len(rest) - count) :]
    for kind, episodes in (("best", best), ("worst", worst)):
        for episode in episodes:
            episode.kind = kind
    if len(found) == 1:
        best[0].kind = "only traced"
    return [*best, *worst], len(found) - len(best) - len(worst)


def _key(trace: dict[str, Any]) -> tuple[Any, Any]:
    return trace.get("episode"), trace["transcript"]


def timeline(episode: Episode, name: str) -> Figure:
    """Draw what was in each slot over the turns, when it was read, and when it was needed."""
    steps, last = episode.steps, episode.steps[-1]["step"]
    rows = max(1, episode.slots)
    titles: dict[str, str] = {}
    with canvas(min(24, max(7.2, 1.2 + 0.09 * len(steps))), 1.1 + 0.3 * min(rows, 40)) as (drawn, ((axes,),)):
        for number, one in enumerate(episode.kept):
            end = last + 1 if one.until is None else one.until
            colour, hatch = (COLOURS["sky"], "") if one.read else (COLOURS["grey"], "////")
            (bar,) = axes.barh(
                one.slot, end - one.turn, left=one.turn, height=0.62, color=colour, alpha=0.55, hatch=hatch,
                edgecolor=INK, linewidth=0.6, gid=f"kept-{number}",
            )  # fmt: skip
            bar.set_gid(f"kept-{number}")
            titles[f"kept-{number}"] = describe(one)
            for at in one.read:
                gid = f"read-{number}-{at}"
                axes.plot([at + 0.5], [one.slot], "v", color=COLOURS["blue"], markersize=6, gid=gid)
                titles[gid] = f"read at turn {at}, before: {cut(steps[_at(steps, at)]['next_turn'])}"
        for step in steps:
            if step["evidence_needed"]:
                held = step["evidence_held"] == step["evidence_needed"]
                gid = f"asked-{step['step']}"
                axes.plot(
                    [step["step"] + 0.5], [0.35], "o" if held else "X", color=COLOURS["green" if held else "orange"],
                    markersize=5, gid=gid,
                )  # fmt: skip
                titles[gid] = f"what comes after turn {step['step']} needs what is {'' if held else 'not '}in memory"
        axes.set_xlim(0, last + 1)
        axes.set_ylim(rows + 0.5, 0)
        ticks = range(1, rows + 1, -(-rows // 40))
        axes.set_yticks(ticks, [f"slot {slot}" for slot in ticks])
        axes.set_xlabel("turn")
        axes.grid(axis="x")
        axes.spines["left"].set_color(FAINT)
        _legend(drawn)
    caption = f"Memory of {episode.agent} in {episode.transcript}, {episode.kind} episode."
    return Figure(name, caption, drawn, titles)


def _at(steps: Sequence[dict[str, Any]], turn: int) -> int:
    return next(i for i, step in enumerate(steps) if step["step"] == turn)


def describe(one: Kept) -> str:
    """Return in words what happened to a turn in memory."""
    until = "to the end" if one.until is None else f"superseded at turn {one.until}"
    read = f"read at {', '.join(map(str, one.read))}" if one.read else "never read"
    return f"slot {one.slot}, written at turn {one.turn}, {until}, {read}: {cut(one.text)}"


def _legend(drawn: Any) -> None:

    def point(mark: str, colour: str, label: str) -> Line2D:
        return Line2D([], [], color=COLOURS[colour], marker=mark, linestyle="", label=label)

    handles = [
        Patch(facecolor=COLOURS["sky"], edgecolor=INK, alpha=0.55, label="kept and read"),
        Patch(facecolor=COLOURS["grey"], edgecolor=INK, alpha=0.55, hatch="////", label="kept, never read"),
        point("v", "blue", "read"),
        point("o", "green", "needed, held"),
        point("X", "orange", "needed, not held"),
    ]
    drawn.legend(handles=handles, loc="outside upper left", ncols=5, fontsize=8)
