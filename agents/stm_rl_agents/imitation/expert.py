"""The hindsight expert: what it would have been best to write, supersede and read, by hindsight labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.labels import Values
from stm_rl.memory import EMPTY
from stm_rl.prepare import Prepared
from stm_rl_agents.base import Actions, Agent, Masks, reads_of
from stm_rl_envs.episodes import Episodes
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

FloatArray = NDArray[np.float32]
EXPERT = "expert"
"""Name of the hindsight expert in tables and on the command line."""
FLOOR = 0.1
"""Stake, in nats, of a decision on which nothing hangs."""
ValuesOf = Callable[[Sequence[Prepared]], Sequence[Values]]
"""Gives the hindsight values of transcripts."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What each choice is worth in hindsight, for ``n`` episodes.

    Attributes:
        write: Nats that putting the turn into each slot is worth, more than leaving it out; shape ``(n, K + 1)``, 0
            first.
        read: Nats that reading each slot gains at this step, shape ``(n, K + 1)``; 0 first.
        kept: Nats that keeping what each slot holds, and last the current turn, will still gain, shape ``(n, K + 1)``.
    """

    write: FloatArray
    read: FloatArray
    kept: FloatArray


class HindsightExpert(Agent):
    """Writes what has the most future gain, supersedes what has the least, and reads what gains now.

    The future gain of a turn is the discounted sum of the gains, above the noise, that it will bring. A turn is written
    if it is worth more than the least a slot holds (Belady, 1966, with gains); among slots that are worth as little, a
    free one is taken first, then the one idle for longest. Reads are the turns that gain most, if that is more than
    noise. The expert may be asked in any state of the memory, also one that a learner got itself into.

    Args:
        values_of: Gives the hindsight values of transcripts.
        level: Gains below this, in nats, are noise and not read for.
        write_margin: Nats by which a turn must be worth more than what it supersedes.
        name: Name in tables.
    """

    def __init__(self, values_of: ValuesOf, level: float, write_margin: float = 0.05, name: str = EXPERT) -> None:
        self.values_of, self.level, self.write_margin, self.name = values_of, level, write_margin, name
        self.stakes = np.zeros((0, 0), np.float32)
        self._episodes: Episodes | None = None
        self._known: dict[int, tuple[Prepared, Values]] = {}

    def start(self, env: MemoryVectorEnv) -> None:
        """Keep the environment's episodes."""
        self._episodes = env.episodes
        self._known.clear()

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return the expert's actions; what hangs on each is in :attr:`stakes`."""
        actions, self.stakes = self.decide(self.advise(), action_masks, reads_of(observation, action_masks))
        return actions

    def advise(self) -> Advice:
        """Return what each choice is worth in the episodes as they are now."""
        episodes = self._episodes
        if episodes is None:
            raise StmError(f"{self.name} was not started; call start(env) first")
        n, slots = episodes.memory.turn.shape
        values = self._values(episodes)
        write, read, kept = (np.zeros((n, slots + 1), np.float32) for _ in range(3))
        for row, (value, step) in enumerate(zip(values, episodes.step_index.tolist(), strict=True)):
            if step > episodes.last_step[row]:
                continue  # the episode is over
            held = episodes.memory.turn[row]
            kept[row] = value.futures(np.append(held, step), step)
            write[row, 1:] = kept[row, -1] - kept[row, :-1]
            read[row, 1:] = np.where(held <= step - episodes.settings.window, value.gains(held, step), 0)
            if not episodes.current[row].writable[step]:
                write[row, 1:] = 0
        return Advice(write, read, kept)

    def decide(self, advice: Advice, masks: Masks, reads: int) -> tuple[Actions, FloatArray]:
        """Return actions, shape ``(n, 1 + R)``, and the nats that hang on each part of them, of the same shape."""
        episodes = self._episodes
        if episodes is None:
            raise StmError(f"{self.name} was not started; call start(env) first")
        n = len(masks)
        rows = np.arange(n)
        legal = masks.reshape(n, 1 + reads, -1)
        actions = np.zeros((n, 1 + reads), np.int64)
        stakes = np.zeros((n, 1 + reads), np.float32)
        memory = episodes.memory
        idle = np.where(memory.turn == EMPTY, np.inf, episodes.step_index[:, None] - memory.last_read)
        rank = advice.write[:, 1:] + 1e-6 * np.minimum(idle, 1e3)
        best = rank.argmax(1) + 1
        better = (advice.write[rows, best] > self.write_margin) & legal[rows, 0, best]
        actions[:, 0] = np.where(better, best, 0)
        stakes[:, 0] = np.abs(advice.write[rows, best])
        gains = np.where(legal[:, 1], advice.read, -np.inf)
        gains[:, 0] = -np.inf
        gains[rows, actions[:, 0]] = -np.inf  # superseded just now (or the column of none)
        order = np.argsort(-gains, axis=1, kind="stable")[:, :reads]
        top = np.take_along_axis(gains, order, 1)
        actions[:, 1 : 1 + order.shape[1]] = np.where((top >= self.level) & (top > 0), order, 0)
        stakes[:, 1 : 1 + order.shape[1]] = np.where(np.isfinite(top), np.abs(top), 0)
        return actions, stakes + np.float32(FLOOR)

    def worth(self, advice: Advice, row: int, write: int, reads: Sequence[int]) -> float:
        """Return what a decision is worth in hindsight, nats, more than doing nothing; noise counts nothing.

        Args:
            advice: From :meth:`advise`.
            row: The episode.
            write: The slot that is written, 0 for none.
            reads: The slots that are read after that.
        """
        gains = advice.read[row, [slot for slot in reads if slot and slot != write]]
        return float(advice.write[row, write] + gains[gains >= self.level].sum())

    def held_value(self) -> FloatArray:
        """Return what the slots will still gain if they are kept, nats, shape ``(n,)``; 0 where the episode is over.

        Of a note that stands for its turn nobody knows: it counts nothing, whatever it says.
        """
        kept = self.advise().kept[:, :-1]
        episodes = self._episodes
        assert episodes is not None  # advise() would have said so
        noted = [np.isin(held, list(notes)) for held, notes in zip(episodes.memory.turn, episodes.notes, strict=True)]
        return np.asarray(np.where(noted, 0, kept).sum(1), np.float32)

    def _values(self, episodes: Episodes) -> list[Values]:
        missing = [item for item in episodes.current if id(item) not in self._known]
        if missing:
            unique = list({id(item): item for item in missing}.values())
            for item, value in zip(unique, self.values_of(unique), strict=True):
                self._known[id(item)] = (item, value)
        return [self._known[id(item)][1] for item in episodes.current]
