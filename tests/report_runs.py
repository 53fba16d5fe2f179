"""Run folders as training and evaluation leave them, made up in a moment, for tests of reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

EPISODES = 20
SETTINGS = {"slots": 4, "window": 2, "reads": 2, "lm": "tiny"}
LEVELS = {"none": 0.0, "fifo": -0.6, "longest": 1.5, "oracle": 6.0}
"""Mean returns of agents that are always there; they earn the same in every evaluation."""


def _interval(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    mean = float(values.mean())
    return {"mean": round(mean, 4), "ci95": [round(mean - 0.5, 4), round(mean + 0.5, 4)]}


def returns_of(name: str, level: float, seed: int) -> np.ndarray[Any, Any]:
    """Return what an agent earns in each episode."""
    if name == "none":
        return np.zeros(EPISODES)
    rng = np.random.default_rng([seed, *name.encode()])
    return np.asarray((level + rng.normal(0, 1, EPISODES)).round(4))


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def steps_of(gain: float, turns: Sequence[str], memory: bool) -> list[dict[str, Any]]:
    """Return a trace of turns: slots 1 and 2 are written in turn, and the last turn needs the first."""
    last = len(turns) - 2
    return [
        {
            "step": i, "turn": turns[i], "write": 1 + i % 2 if memory and i < 3 else 0,
            "reads": [1] if memory and i == last else [], "next_turn": turns[i + 1],
            "coherence_gain": gain if i == last else 0.0, "reward": gain if i == last else 0.0,
            "evidence_needed": int(i == last), "evidence_held": int(memory and i == last),
        }
        for i in range(len(turns) - 1)
    ]  # fmt: skip


def make_run(
    folder: Path,
    name: str = "ppo",
    seed: int = 0,
    *,
    level: float = 5.0,
    env: str = "stm_rl/Dialogue-v0",
    request: Mapping[str, Any] | None = None,
    turns: Sequence[str] = ("user: one", "user: two", "user: three", "user: four", "user: five", "user: six"),
) -> Path:
    """Make a run of `stm-rl train` with everything that a report shows."""
    folder.mkdir(parents=True)
    config = {
        "command": f"stm-rl train {env} --seed {seed} --out {folder.name}",
        "request": {"env": env, "transcripts": [], "seed": seed, "out": str(folder), "eval_episodes": EPISODES,
                    "init": None, "lm": "tiny", **(request or {})},
        "ppo": {"steps": 3000, "lr": 0.001, "seed": seed},
        "versions": {"stm-rl": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "policy.json").write_text(json.dumps({"name": name, "seed": seed}))
    rows = [{"steps": 1000 * i, "validation/return": i + 0.2 * seed, "ppo/loss": 0.1} for i in (1, 2, 3)]
    write_lines(folder / "metrics.jsonl", rows)
    agents, details = {}, {}
    for agent, mean in {**LEVELS, name: level}.items():
        values = returns_of(agent, mean, seed if agent == name else 0)
        writes = 0.0 if agent == "none" else 0.4
        agents[agent] = {
            "return": _interval(values), "coherence_gain": _interval(values + writes),
            "evidence_recall": _interval(np.full(EPISODES, 0.5)), "writes_per_turn": writes, "reads_per_turn": 0.25,
        }  # fmt: skip
        terms = {"coherence": (values + writes).tolist(), "write_cost": [-writes] * EPISODES}
        details[agent] = [
            {"seed": seed, "return": values.tolist(), "coherence_gain": (values + writes).tolist(), "terms": terms}
        ]
    report = {"env": env, "settings": SETTINGS, "episodes": EPISODES, "seeds": [seed], "agents": agents}
    (folder / "eval.json").write_text(json.dumps(report))
    (folder / "episodes.json").write_text(json.dumps({"env": env, "agents": details}))
    traces = [
        {"agent": agent, "episode": i, "transcript": f"t{i}", "steps": steps_of(float(i), turns, True) if agent == name
         else steps_of(0.0, turns, False)}
        for agent in ("none", name)
        for i in range(5)
    ]  # fmt: skip
    write_lines(folder / "traces.jsonl", traces)
    return folder
