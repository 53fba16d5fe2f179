"""What agents see: observations of ``n`` episodes, kept up to date from step to step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stm_rl.features import MAX_WORDS, TURN_FEATURES, overlap
from stm_rl.memory import EMPTY, SlotMemory
from stm_rl.prepare import Prepared

SLOT_FEATURES = (
    "occupied",
    "age",
    "idle",
    "times_read",
    "overlap_turn",
    "overlap_previous",
    "same_speaker",
    "named_by_turn",
    "names_speaker",
    "overlap_since",
    *TURN_FEATURES,
)
"""Features of a slot, in order; all 0 for a free slot. ``named_by_turn``: the current turn names who said what the slot
holds; ``names_speaker``: the slot names the current speaker; ``overlap_since``: the greatest overlap of what it holds
with a turn since, before the current one (nothing else tells what has been asked, changed or called off since)."""
GLOBAL_FEATURES = (
    "time",
    "occupied_share",
    "overlap_previous",
    "same_speaker",
    "first_speaker",
    *TURN_FEATURES,
)
"""Features of the current turn and the episode, in order."""

Observation = dict[str, NDArray[np.float32]]
IntArray = NDArray[np.int64]
OWN = len(SLOT_FEATURES) - len(TURN_FEATURES)
"""How many features of a slot are not of the turn in it."""


class Turns:
    """Turns by place: vectors, plain features, words, speaker and the speaker's name.

    Args:
        shape: Shape of the places.
        dimension: Length of a vector.
    """

    def __init__(self, shape: tuple[int, ...], dimension: int) -> None:
        self.vectors = np.zeros((*shape, dimension), np.float32)
        self.features = np.zeros((*shape, len(TURN_FEATURES)), np.float32)
        self.words = np.full((*shape, MAX_WORDS), -1, np.int64)
        self.speakers = np.full(shape, -1, np.int64)
        self.names = np.full(shape, -1, np.int64)

    def take(self, places: tuple[IntArray, ...], items: Sequence[Prepared], turns: Sequence[int]) -> None:
        """Put the turns of transcripts into places, one each."""
        if not items:
            return
        pairs = list(zip(items, turns, strict=True))
        self.vectors[places] = [item.vectors[turn] for item, turn in pairs]
        self.features[places] = [item.features[turn] for item, turn in pairs]
        self.words[places] = [item.words[turn] for item, turn in pairs]
        self.speakers[places] = [item.speakers[turn] for item, turn in pairs]
        self.names[places] = [item.names[turn] for item, turn in pairs]

    def copy(self, places: tuple[IntArray, ...], other: Turns, others: IntArray) -> None:
        """Put turns from the ``others`` places of another into places of this one."""
        for name, values in vars(self).items():
            values[places] = getattr(other, name)[others]

    def empty(self, places: tuple[IntArray, ...]) -> None:
        """Empty places; indices of the first axes alone empty all behind them."""
        self.vectors[places] = self.features[places] = 0
        self.words[places] = self.speakers[places] = self.names[places] = -1


class View:
    """The observations of ``n`` episodes.

    A slot's part changes only when it is written, and how much it has in common with the current turn is worked out
    once a step, for occupied slots only; so a step costs little more with many slots than with few.

    Attributes:
        overlap_since: For each slot the greatest overlap with a turn since, before the current one, shape ``(n, K)``.
        overlap_previous: For each slot the overlap with the turn before the current one, shape ``(n, K)``.
    """

    def __init__(self, memory: SlotMemory, dimension: int, window: int) -> None:
        n, slots = memory.turn.shape
        self.n, self.dimension = n, dimension
        self.memory = memory
        self._now, self._slots = Turns((n,), dimension), Turns((n, slots), dimension)
        self._recent = np.zeros((n, max(1, window - 1), dimension), np.float32)  # turns before the current one
        self._previous_words = np.full((n, MAX_WORDS), -1, np.int64)
        self._previous_speaker = np.full(n, -1, np.int64)
        self._overlap = np.zeros((n, slots), np.float32)  # of slots with the current turn
        self.overlap_previous = np.zeros((n, slots), np.float32)
        self.overlap_since = np.zeros((n, slots), np.float32)
        self._named_by_turn = np.zeros((n, slots), bool)
        self._names_speaker = np.zeros((n, slots), bool)

    def space(self) -> spaces.Dict:
        """Return the space of one observation."""

        def box(*shape: int, low: float = -8.0, high: float = 8.0) -> spaces.Box:
            return spaces.Box(low, high, shape, np.float32)

        d, slots = self.dimension, self.memory.slots
        return spaces.Dict(
            {
                "turn": box(d),
                "window": box(d),
                "slots": box(slots, d),
                "slot_features": box(slots, len(SLOT_FEATURES), low=0.0, high=2.0),
                "globals": box(len(GLOBAL_FEATURES), low=0.0, high=2.0),
            }
        )

    # What happens in an episode.

    def start(self, rows: IntArray, items: Sequence[Prepared]) -> None:
        """Show the first turns of episodes that begin with empty memories."""
        self._clear(rows)
        self._now.take((rows,), items, [0] * len(items))

    def _clear(self, rows: IntArray) -> None:
        """Forget what came before the current turns of episodes, and what their slots held."""
        self._slots.empty((rows,))
        self._recent[rows] = self._overlap[rows] = self.overlap_previous[rows] = self.overlap_since[rows] = 0
        self._named_by_turn[rows] = self._names_speaker[rows] = False
        self._previous_words[rows] = self._previous_speaker[rows] = -1

    def write(self, rows: IntArray, slots: IntArray) -> None:
        """Show that the current turns of ``rows`` have been written to ``slots``, one each, shape ``(m,)``."""
        self._slots.copy((rows, slots), self._now, rows)
        self._overlap[rows, slots] = (self._now.words[rows] >= 0).any(-1)  # a turn is all that it holds itself

    def empty(self, rows: IntArray, slots: IntArray) -> None:
        """Show that slots of ``rows`` hold nothing any more, shape ``(m,)``."""
        self._slots.empty((rows, slots))
        for values in (self._overlap, self.overlap_previous, self.overlap_since):
            values[rows, slots] = 0
        self._named_by_turn[rows, slots] = self._names_speaker[rows, slots] = False

    def advance(self, rows: IntArray, items: Sequence[Prepared], turns: Sequence[int], written: IntArray) -> None:
        """Show the next turns of episodes.

        Args:
            rows: The episodes, shape ``(m,)``.
            items: Their transcripts.
            turns: Their turns.
            written: The slots (1 to K) that the turns before were written to, 0 for none, shape ``(m,)``.
        """
        since = np.maximum(self.overlap_since[rows], self._overlap[rows])
        wrote = written > 0
        since[wrote, written[wrote] - 1] = 0
        self.overlap_since[rows] = since
        self.overlap_previous[rows] = self._overlap[rows]
        self._recent[rows, 1:] = self._recent[rows, :-1]
        self._recent[rows, 0] = self._now.vectors[rows]
        self._previous_words[rows] = self._now.words[rows]
        self._previous_speaker[rows] = self._now.speakers[rows]
        self._now.take((rows,), items, turns)
        self._compare(rows)

    def restore(self, items: Sequence[Prepared], steps: IntArray, overlap_since: NDArray[np.float32]) -> None:
        """Show all episodes at given steps, with the memory as it is."""
        self._clear(np.arange(self.n))
        rows, slots = np.nonzero(self.memory.occupied)
        self._slots.take((rows, slots), [items[row] for row in rows.tolist()], self.memory.turn[rows, slots].tolist())
        self.overlap_since = overlap_since.copy()
        for row, (item, step) in enumerate(zip(items, steps.tolist(), strict=True)):
            for number in range(min(step, self._recent.shape[1])):
                self._recent[row, number] = item.vectors[step - 1 - number]
            if step:
                self._previous_words[row], self._previous_speaker[row] = item.words[step - 1], item.speakers[step - 1]
        self.overlap_previous = overlap(self._slots.words, self._previous_words[:, None])
        self._now.take((np.arange(self.n),), items, steps.tolist())
        self._compare(np.arange(self.n))

    def _compare(self, rows: IntArray) -> None:
        """Work out what the slots of episodes have in common with the current turn."""
        held, slots = np.nonzero(self.memory.turn[rows] != EMPTY)
        held = rows[held]
        words, turn = self._slots.words[held, slots], self._now.words[held]
        words, turn = (array[:, : max(1, int((array >= 0).sum(1).max(initial=0)))] for array in (words, turn))
        self._overlap[rows] = 0
        self._overlap[held, slots] = overlap(words, turn)
        self._named_by_turn[held, slots] = _holds(turn, self._slots.names[held, slots])
        self._names_speaker[held, slots] = _holds(words, self._now.names[held])

    # Observations.

    def observe(self, step: IntArray, rows: IntArray | None = None) -> Observation:
        """Return the observations of episodes, each array with a leading axis.

        Args:
            step: The step every episode is at, shape ``(n,)``.
            rows: Which episodes; by default all.
        """
        pick = slice(None) if rows is None else rows
        step, now, memory = step[pick], self._now, self.memory
        occupied = memory.occupied[pick]
        speakers = now.speakers[pick]
        first = step == 0
        features = np.zeros((*occupied.shape, len(SLOT_FEATURES)), np.float32)
        for column, values in enumerate(
            (
                occupied,
                _log_scale(step[:, None] - memory.written[pick]),
                _log_scale(step[:, None] - memory.last_read[pick]),
                np.minimum(memory.reads[pick] / 4, 2),
                self._overlap[pick],
                self.overlap_previous[pick],
                self._slots.speakers[pick] == speakers[:, None],
                self._named_by_turn[pick],
                self._names_speaker[pick],
                self.overlap_since[pick],
            )
        ):
            features[..., column] = values * occupied
        features[..., OWN:] = self._slots.features[pick]
        shared = overlap(now.words[pick], self._previous_words[pick])
        of_episode = (
            _log_scale(step),
            occupied.mean(1),
            shared,
            ~first & (self._previous_speaker[pick] == speakers),
            speakers == 0,
        )
        return {
            "turn": now.vectors[pick].copy(),
            "window": self._window(pick, step),
            "slots": self._slots.vectors[pick].copy(),
            "slot_features": features,
            "globals": np.concatenate([np.stack(of_episode, axis=-1), now.features[pick]], axis=-1).astype(np.float32),
        }

    def _window(self, pick: IntArray | slice, step: IntArray) -> NDArray[np.float32]:
        """Return the mean vector of the window's turns before the current one, or the turn before it."""
        count = np.minimum(step, self._recent.shape[1])
        return np.asarray(self._recent[pick].sum(1) / np.maximum(count, 1)[:, None], np.float32)


def _holds(words: NDArray[np.int64], name: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether texts of ``words``, shape ``(m, w)``, hold names, shape ``(m,)``."""
    return np.asarray((words == name[:, None]).any(-1) & (name >= 0))


def _log_scale(steps: IntArray) -> NDArray[np.float64]:
    """Map a number of steps to 0 to 2: 0 for 0, 1 for 63, capped at 4,095."""
    return np.asarray(np.minimum(np.log1p(np.maximum(steps, 0)) / np.log(64), 2.0))
