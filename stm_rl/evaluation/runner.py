"""Plays the same episodes with every agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError

FloatArray = NDArray[np.float64]
BATCH = 64
"""Environments stepped together."""
TERM = "reward/"
"""What the names of reward terms begin with in infos."""


class Player(Protocol):
    """What is evaluated; see :class:`stm_rl_agents.Agent`."""

    name: str

    @property
    def full_context(self) -> bool:
        """Whether the whole history is put in front of the model."""

    @property
    def draws(self) -> bool:
        """Whether it acts at random, so that what it does depends on the episodes played before."""

    def start(self, env: Any) -> None:
        """Called once before the first step."""

    def act(self, observation: Any, action_masks: Any, deterministic: bool = True) -> Any:
        """Return one action for each environment."""


MakeEnv = Callable[[int, bool], Any]
"""Makes a vector environment that does not reset itself: (number of environments, full context)."""


@dataclass(slots=True)
class Played:
    """What an agent did in each of ``n`` episodes, every array of shape ``(n,)``.

    Attributes:
        returns: Sum of rewards.
        gains: Sum of coherence gains, nats.
        dependent_gains: The part of it earned at dependent turns with evidence outside the window.
        turns: Steps played.
        writes: Turns written.
        reads: Turns put in front of the model.
        asked: Dependent turns with evidence outside the window.
        recalled: Those of them whose whole evidence the memory held.
        terms: Sums of the weighted reward terms by name, each as ``n`` numbers.
        traces: Episodes in full, as far as they were asked for.
    """

    returns: FloatArray
    gains: FloatArray
    dependent_gains: FloatArray
    turns: FloatArray
    writes: FloatArray
    reads: FloatArray
    asked: FloatArray
    recalled: FloatArray
    terms: dict[str, list[float]] = field(default_factory=dict)
    traces: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence[Played]) -> Played:
        """Return what was done in the episodes of all parts, one after another."""
        values = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name not in ("terms", "traces")
        }
        terms = {name: [value for part in parts for value in part.terms[name]] for name in parts[0].terms}
        return cls(**values, terms=terms, traces=[trace for part in parts for trace in part.traces])


def play(
    agent: Player,
    make_env: MakeEnv,
    episodes: Sequence[int],
    *,
    batch: int = BATCH,
    traces: int = 0,
    on_episodes: Callable[[int], None] = lambda count: None,
) -> Played:
    """Play the transcripts with the given indices, once each.

    Args:
        agent: Who plays.
        make_env: Makes the environment.
        episodes: Indices of transcripts.
        batch: Environments stepped together.
        traces: How many of the first episodes to record turn by turn.
        on_episodes: Called with the number of episodes just finished, for a progress bar.
    """
    if not len(episodes):
        raise StmError("there are no episodes to play; expected at least one")
    size = min(batch, len(episodes))
    env = make_env(size, agent.full_context)
    agent.start(env)
    sums: list[FloatArray] = [np.zeros(len(episodes)) for _ in range(8)]
    played = Played(*sums)  # type: ignore[arg-type]
    terms: dict[str, FloatArray] = {}
    records: dict[int, list[dict[str, Any]]] = {}
    for first, observation in env.batches(episodes, on_episodes):
        while not env.resting.all():
            rows = np.flatnonzero(~env.resting)
            observation, rewards, _, _, infos = env.step(agent.act(observation, env.action_masks()))
            _add(played, terms, first, rows, rewards, infos)
            for row in rows[first + rows < traces].tolist():
                step = len(records.setdefault(first + row, []))
                records[first + row].append(_record(env, row, step, float(rewards[row]), infos))
    played.terms = {name: values.tolist() for name, values in terms.items()}
    for number, steps in records.items():
        index = int(episodes[number])
        transcript = env.episodes.prepare.transcripts[index].id
        played.traces.append({"agent": agent.name, "episode": index, "transcript": transcript, "steps": steps})
    return played


def _add(
    played: Played,
    terms: dict[str, FloatArray],
    first: int,
    rows: NDArray[np.int64],
    rewards: FloatArray,
    infos: dict[str, Any],
) -> None:
    """Add one step to the sums of the episodes that are under way."""
    at = first + rows
    played.returns[at] += rewards[rows]
    played.gains[at] += infos["coherence_gain"][rows]
    played.turns[at] += 1
    played.writes[at] += infos["writes"][rows] > 0
    played.reads[at] += infos["reads"][rows]
    dependent = infos["evidence_needed"][rows] > 0
    played.dependent_gains[at] += infos["coherence_gain"][rows] * dependent
    needed, held = infos["evidence_needed"][rows], infos["evidence_held"][rows]
    played.asked[at] += dependent
    played.recalled[at] += dependent & (needed == held)
    for info, values in infos.items():
        if info.startswith(TERM):
            total = terms.setdefault(info.removeprefix(TERM), np.zeros(len(played.returns)))
            total[at] += values[rows]


def _record(env: Any, row: int, step: int, reward: float, infos: dict[str, Any]) -> dict[str, Any]:
    item = env.episodes.current[row]
    lines = item.lines
    written = {"true_next_turn": item.targets[step + 1].strip()} if row in infos.get("written", {}) else {}
    return {
        "step": step,
        "turn": lines[step],
        "write": int(infos["writes"][row]),
        "reads": infos["read_turns"].get(row, []),
        "next_turn": lines[step + 1],
        **written,
        "coherence_gain": round(float(infos["coherence_gain"][row]), 4),
        "reward": round(reward, 4),
        "evidence_needed": int(infos["evidence_needed"][row]),
        "evidence_held": int(infos["evidence_held"][row]),
    }
