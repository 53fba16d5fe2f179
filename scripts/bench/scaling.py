"""How the cost of playing grows with environments, turns and slots."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench.play import World, fresh_encoder
from stm_rl.evaluation.plot import BLUE, GREY, ORANGE
from stm_rl.lm import CausalLM, ScoringEngine
from stm_rl_agents.heuristics import RandomAgent

Point = dict[str, float]
"""Seconds of one measurement: ``total``, ``outside`` the language model, ``preparing`` transcripts; and ``steps``."""


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity that is varied while the others stay.

    Attributes:
        name: What is varied: ``environments``, ``turns`` or ``slots``.
        sizes: Its values.
        environments: How many environments otherwise.
        turns: Turns of an episode otherwise.
        slots: Slots of the memory otherwise.
    """

    name: str
    sizes: tuple[int, ...]
    environments: int
    turns: int
    slots: int

    def world(self, env_id: str, size: int) -> World:
        """Return the environments of one measurement."""
        chosen = self.fixed | {self.name: size}
        return World(env_id, {name: chosen[name] for name in ("turns", "slots")}, chosen["environments"])

    @property
    def fixed(self) -> dict[str, int]:
        """Return the three quantities as they are unless varied."""
        return {"environments": self.environments, "turns": self.turns, "slots": self.slots}


SERIES = (
    Series("environments", (8, 64, 256, 1024), 64, 40, 4),
    Series("turns", (20, 64, 200, 632, 2000), 8, 40, 4),
    Series("slots", (4, 16, 64, 256), 32, 320, 4),
)
"""What is measured. Episodes of 320 turns fill most of 256 slots."""


def measure(world: World, lm: CausalLM) -> Point:
    """Play one episode of each environment at random, every transcript and score seen for the first time."""
    engine, encoder, agent = ScoringEngine(lm), fresh_encoder(), RandomAgent()
    env = world.vector(engine, encoder)
    begin = time.perf_counter()
    observation, _ = env.reset(options={"transcripts": list(range(world.num_envs))})
    preparing = total = time.perf_counter() - begin
    encoding, steps = encoder.seconds, 0
    while not env.resting.all():
        actions = agent.act(observation, env.action_masks())
        steps += int((~env.resting).sum())
        begin = time.perf_counter()
        observation = env.step(actions)[0]
        total += time.perf_counter() - begin
    outside = total - engine.seconds - encoder.seconds
    return {"total": total, "outside": outside, "preparing": preparing - encoding, "steps": steps}


def scaling(env_id: str, lm: CausalLM, rounds: int, points: int | None) -> dict[str, list[dict[str, float]]]:
    """Measure all series in turns; return the median of each measurement by series.

    Args:
        env_id: The environment.
        lm: The language model.
        rounds: How often each is measured.
        points: How many sizes of each series, the smallest; all by default.
    """
    measure(World(env_id, {"turns": 20}, 8), lm)  # nothing is done for the first time by the clock
    cases = [(series, size) for series in SERIES for size in series.sizes[:points]]
    found: dict[tuple[str, int], list[Point]] = {(series.name, size): [] for series, size in cases}
    for _ in range(rounds):
        for series, size in cases:
            found[series.name, size].append(measure(series.world(env_id, size), lm))
    result: dict[str, list[dict[str, float]]] = {series.name: [] for series in SERIES}
    for (name, size), measured in found.items():
        middle = {key: float(np.median([point[key] for point in measured])) for key in measured[0]}
        result[name].append({"size": size, **middle})
    return result


def exponents(series: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the slopes of total seconds and of those outside the model over the size, both as logarithms."""
    sizes = np.log([point["size"] for point in series])
    return {key: float(np.polyfit(sizes, np.log([p[key] for p in series]), 1)[0]) for key in ("total", "outside")}


def table(found: Mapping[str, Any]) -> str:
    """Return the figures as text with a table in Markdown."""
    scaled = found["scaling"]
    lines = [
        f"`{found['command']}`, {found['machine']['date']}: {found['machine']['device']}, "
        f"{found['machine']['threads']} thread(s), model {found['model']['name']}; medians of {found['number']} "
        "round(s).",
        "",
        "| varied | size | environment steps | seconds in total | outside the model | µs a step outside |",
        "|---|---|---|---|---|---|",
    ]
    for name, series in scaled.items():
        for point in series:
            step = 1e6 * point["outside"] / point["steps"]
            lines.append(
                f"| {name} | {point['size']:,} | {point['steps']:,.0f} | {point['total']:.2f} | "
                f"{point['outside']:.3f} | {step:.0f} |"
            )
    lines.append("")
    for name in ("environments", "turns"):
        total, outside = exponents(scaled[name]).values()
        lines.append(f"Seconds grow with {name} to the power of {total:.2f}, outside the model {outside:.2f}.")
    few, many = (scaled["slots"][place] for place in (0, -1))
    ratio = (many["outside"] / many["steps"]) / (few["outside"] / few["steps"])
    lines.append(f"{many['size']} slots cost {ratio:.2f} times as much outside the model as {few['size']}.")
    return "\n".join(lines)


def plot(scaled: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw the three series and save them as PNG."""
    figure = Figure(figsize=(10.2, 3.7), dpi=150, layout="constrained")
    panels = figure.subplots(1, 3)
    labels = {"total": "in total", "outside": "outside the model"}
    for axes, series in zip(panels, SERIES, strict=True):
        points = scaled[series.name]
        sizes = np.array([point["size"] for point in points], float)
        for key, colour in (("total", BLUE), ("outside", ORANGE)):
            values = np.array([point[key] for point in points])
            if series.name == "slots":
                values = 1e6 * values / [point["steps"] for point in points]
            else:  # a line of slope 1 through the last point
                axes.plot(sizes, values[-1] * sizes / sizes[-1], color=GREY, linestyle="--", linewidth=1, zorder=1)
            axes.plot(sizes, values, color=colour, marker="o", markersize=4, linewidth=1.8, label=labels[key])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], minor=False)
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(series.name)
        axes.set_ylabel("µs an environment step" if series.name == "slots" else "seconds for an episode of each")
        axes.set_title(
            ", ".join(f"{value} {name}" for name, value in series.fixed.items() if name != series.name),
            fontsize=9,
            loc="left",
        )
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_ylim(bottom=min(panels[-1].get_ylim()[0], 10))
    panels[0].plot([], [], color=GREY, linestyle="--", linewidth=1, label="slope 1")
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")
    figure.savefig(path)
