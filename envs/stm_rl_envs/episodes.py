"""The dynamics shared by every environment: ``n`` episodes stepped together.

:class:`~stm_rl_envs.memory_env.MemoryEnv` is this with ``n = 1``, and
:class:`~stm_rl_envs.vector.MemoryVectorEnv` with any ``n``; so both follow the same trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from stm_rl.encoders import default_encoder, named_encoder
from stm_rl.errors import StmError
from stm_rl.features import TextEncoder
from stm_rl.lm import PromptFormat, ScoringEngine
from stm_rl.memory import EMPTY, SlotMemory
from stm_rl.prepare import Prepared, Preparer
from stm_rl.rewards import Reward, Step, Steps, Term, as_reward
from stm_rl.transcript import Transcript
from stm_rl_envs.settings import GENERATE, MemorySettings
from stm_rl_envs.view import Observation, View


@dataclass(slots=True)
class StepResult:
    """What a step gave each of the ``m`` episodes that were stepped.

    Attributes:
        rows: Which episodes, shape ``(m,)``.
        reward: Reward, shape ``(m,)``.
        terms: The weighted reward terms, each of shape ``(m,)``.
        gain: Coherence gain in nats, shape ``(m,)``.
        writes: The slot written (1 to K), or 0, shape ``(m,)``.
        reads: Turns put in front of the model, ascending, for each episode.
        needed: Number of evidence turns outside the window that the predicted turn depends on.
        held: How many of those the memory held.
        texts: What the model wrote in place of the next turn; empty where it wrote nothing.
        terminated: Whether the transcript has ended, shape ``(m,)``.
        truncated: Whether ``max_steps`` was reached, shape ``(m,)``.
        left_out: How many turns of the context the model could not read, oldest reads first, shape ``(m,)``.
    """

    rows: NDArray[np.int64]
    reward: NDArray[np.float64]
    terms: dict[str, NDArray[np.float64]]
    gain: NDArray[np.float64]
    writes: NDArray[np.int64]
    reads: list[list[int]]
    needed: NDArray[np.int64]
    held: NDArray[np.int64]
    texts: list[str]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    left_out: NDArray[np.int64]


class Episodes:
    """``n`` episodes over a set of transcripts.

    Step ``t`` of an episode: turn ``t`` has arrived; the agent writes it to a slot or leaves it out,
    then reads up to ``R`` slots; the model scores turn ``t + 1``. A read of a free slot or of a turn that
    is still in the window, or the second read of a slot, puts nothing in front of the model and costs
    nothing; nor does the write of a turn that may not be written. In ``generate`` mode the model then writes
    turn ``t + 1`` if it is one of its own, and its text takes the place of the true one.

    An agent with words of its own may also :meth:`note` a line that a write keeps in place of the turn, and
    :meth:`forget` a slot.
    """

    def __init__(
        self,
        transcripts: Sequence[Transcript],
        engine: ScoringEngine | None,
        n: int,
        settings: MemorySettings | None = None,
        reward: Reward | Mapping[str | Term, float] | Sequence[str] | None = None,
        encoder: TextEncoder | str | None = None,
        prompt: PromptFormat | None = None,
    ) -> None:
        self.settings = settings or MemorySettings()
        self.reward = as_reward(reward) or Reward()
        self.encoder = named_encoder(encoder) if isinstance(encoder, str) else encoder or default_encoder()
        self.engine = engine
        self.prepare = Preparer(transcripts, engine, self.encoder, self.settings.window, prompt or PromptFormat())
        self._check_reward()
        self.n = n
        self.memory = SlotMemory(n, self.settings.slots)
        self.step_index = np.zeros(n, np.int64)
        self.transcript_index = np.full(n, -1, np.int64)
        self.last_step = np.zeros(n, np.int64)
        self.view = View(self.memory, self.encoder.dimension, self.settings.window)
        self.current: list[Prepared] = []
        self.written: list[dict[int, str]] = [{} for _ in range(n)]
        self.notes: list[dict[int, str]] = [{} for _ in range(n)]
        self._authored: list[NDArray[np.bool_]] = [np.zeros(0, bool)] * n

    def _check_reward(self) -> None:
        """Reject rewards that these episodes cannot give."""
        weights = ", ".join(f"{name}={weight:g}" for name, weight in self.reward.weights.items())
        generates = self.settings.mode == GENERATE
        if self.reward.needs_text and not generates:
            raise StmError(f"the reward ({weights}) judges text the model writes; set mode=generate")
        if self.engine is None and (generates or self.reward.needs_gain or self.settings.full_context):
            raise StmError(
                f"mode {self.settings.mode} with the reward {weights} needs a language model; give one as lm, or take "
                "reward terms that need none, such as recall"
            )

    # Spaces.

    def observation_space(self) -> spaces.Dict:
        """Return the space of one observation."""
        return self.view.space()

    def action_space(self) -> spaces.MultiDiscrete:
        """Return the space of one action: the slot to write (0 for none), then the slots to read."""
        return spaces.MultiDiscrete([self.settings.slots + 1] * (1 + self.settings.reads))

    # Episodes.

    def start(self, rows: NDArray[np.int64], transcripts: Sequence[int]) -> None:
        """Begin new episodes in ``rows`` on the transcripts with the given indices."""
        prepared = self.prepare(transcripts)
        if not self.current:
            self.current = [prepared[0]] * self.n
        for row, index, item in zip(rows.tolist(), transcripts, prepared, strict=True):
            self.current[row] = item
            self.transcript_index[row] = index
            self.written[row] = {}
            self.notes[row] = {}
            if self.settings.mode == GENERATE:
                self._authored[row] = self.settings.authored(item.transcript)
        limit = self.settings.max_steps or np.iinfo(np.int64).max
        self.last_step[rows] = [min(len(item) - 2, limit - 1) for item in prepared]
        self.step_index[rows] = 0
        self.memory.clear(rows)
        self.view.start(rows, prepared)

    def note(self, row: int, text: str) -> None:
        """Keep a line in place of the current turn, if this step writes it.

        Reads put the line in front of the model. Observations show the turn that it was made of.
        """
        self.notes[row][int(self.step_index[row])] = text

    def forget(self, row: int, slot: int) -> None:
        """Empty a slot, 1 to K, before this step's write."""
        if not 1 <= slot <= self.settings.slots:
            raise StmError(f"slot {slot} cannot be forgotten; expected 1 to {self.settings.slots}")
        self.memory.empty(np.array([row]), np.array([slot - 1]))
        self.view.empty(np.array([row]), np.array([slot - 1]))

    def held(self, row: int) -> list[str | None]:
        """Return the line that each slot of an episode holds; None: it is free."""
        item, notes = self.current[row], self.notes[row]
        return [None if t == EMPTY else notes.get(t, item.lines[t]) for t in self.memory.turn[row].tolist()]

    def step(self, rows: NDArray[np.int64], actions: NDArray[np.int64]) -> StepResult:
        """Play one step of the episodes ``rows``; see :meth:`begin`."""
        return self.begin(rows, actions)()

    def begin(self, rows: NDArray[np.int64], actions: NDArray[np.int64]) -> Callable[[], StepResult]:
        """Play one step of the episodes ``rows`` while the model scores.

        Args:
            rows: Episodes to step, shape ``(m,)``.
            actions: Their actions, shape ``(m, 1 + R)``, each entry 0 to K.

        Returns:
            What waits for the scores and returns the result. Until then the episodes, which have gone on already, can
            be observed or begun anew.

        Raises:
            StmError: An action is out of range.
        """
        self._check(actions, len(rows))
        step = self.step_index[rows]
        before = self.memory.turn[rows]
        writes = actions[:, 0] * self._writable(rows)
        wrote = writes > 0
        self.memory.write(rows[wrote], writes[wrote] - 1, step[wrote], step[wrote])
        self.view.write(rows[wrote], writes[wrote] - 1)
        reads = self._read(rows, actions[:, 1:], step)
        asked = self._ask(rows, step, reads)
        texts, plain = self._write_texts(rows, step, reads)
        ended = step >= self.last_step[rows]
        items, after = [self.current[row] for row in rows.tolist()], self.memory.turn[rows]
        needed, held = self._evidence(rows, step)
        whole = step + 2 >= np.array([len(item) for item in items])
        for row, turn, text in zip(rows.tolist(), (step + 1).tolist(), texts, strict=True):
            if text:
                self._replace_turn(row, turn, text)
        self.step_index[rows] += 1
        self.view.advance(rows, [self.current[row] for row in rows.tolist()], (step + 1).tolist(), writes)

        def finish() -> StepResult:
            gain, left_out = asked()
            each = (
                _each(items, step, gain, wrote, reads, before, after, ended, texts, plain)
                if self.reward.needs_steps
                else ()
            )
            counts = np.array([len(turns) for turns in reads], np.int64)
            reward, terms = self.reward(Steps(gain, wrote, counts, each))
            return StepResult(
                rows, reward, terms, gain, writes, reads, needed, held, texts, ended & whole, ended & ~whole, left_out
            )

        return finish

    def _writable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the current turns may be written, shape ``(len(rows),)``."""
        if not self.current:  # before the first episode
            return np.zeros(len(rows), bool)
        steps = self.step_index[rows].tolist()
        return np.array([self.current[row].writable[step] for row, step in zip(rows, steps, strict=True)], bool)

    def _write_texts(
        self, rows: NDArray[np.int64], step: NDArray[np.int64], reads: list[list[int]]
    ) -> tuple[list[str], list[str]]:
        """Return what the model writes as the next turn of each episode, and what it would write without reads."""
        texts, plain = [""] * len(rows), [""] * len(rows)
        if self.settings.mode == GENERATE:
            own = [i for i, (row, at) in enumerate(zip(rows, step, strict=True)) if self._authored[row][at + 1]]
            asked = [(self.current[rows[i]], int(step[i]) + 1, self._lines(rows[i], reads[i])) for i in own]
            pairs = self.prepare.write(asked, self.settings.full_context, self.settings.max_new_tokens) if own else []
            for i, pair in zip(own, pairs, strict=True):
                texts[i], plain[i] = pair
        return texts, plain

    def _replace_turn(self, row: int, turn: int, text: str) -> None:
        """Let an episode go on from what the model wrote."""
        self.written[row][turn] = text
        self.current[row] = self.prepare.replace_turn(self.current[row], turn, text)

    def _check(self, actions: NDArray[np.int64], count: int) -> None:
        width, top = 1 + self.settings.reads, self.settings.slots
        if actions.shape != (count, width):
            raise StmError(
                f"actions have shape {actions.shape}; expected {(count, width)}: one write, {width - 1} reads"
            )
        if actions.min(initial=0) < 0 or actions.max(initial=0) > top:
            raise StmError(f"an action is outside 0..{top}; 0 is none and i is slot i of {top}")

    def _read(self, rows: NDArray[np.int64], slots: NDArray[np.int64], step: NDArray[np.int64]) -> list[list[int]]:
        """Read slots; return for each episode the turns that come in front of the model."""
        turns: list[set[int]] = [set() for _ in rows]
        for column in slots.T:
            used = np.flatnonzero(column)
            found = self.memory.turn[rows[used], column[used] - 1]
            fresh = (found != EMPTY) & (found <= step[used] - self.settings.window)
            fresh &= np.array([t not in turns[u] for u, t in zip(used.tolist(), found.tolist(), strict=True)], bool)
            self.memory.read(rows[used[fresh]], column[used[fresh]] - 1, step[used[fresh]])
            for position, turn in zip(used[fresh].tolist(), found[fresh].tolist(), strict=True):
                turns[position].add(turn)
        return [sorted(found) for found in turns]

    def _ask(
        self, rows: NDArray[np.int64], step: NDArray[np.int64], reads: list[list[int]]
    ) -> Callable[[], tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Ask for the coherence gain of each step; return what waits for it, and for how many turns were left out.

        The gain is exactly 0 where nothing is read, or without a language model.
        """
        whole = self.settings.full_context
        scored = [i for i, found in enumerate(reads) if found or whole] if self.engine else []
        asked = [(self.current[rows[i]], int(step[i]) + 1, self._lines(rows[i], reads[i])) for i in scored]
        pending = self.prepare.ask(asked, whole, ahead=self.settings.mode != GENERATE) if scored else None

        def finish() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
            gain, left_out = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
            if pending is not None:
                gain[scored], left_out[scored] = pending.result(), pending.left_out
            return gain, left_out

        return finish

    def _lines(self, row: int, turns: list[int]) -> list[int | str]:
        """Return turns that are read, or the notes that stand for them."""
        return [self.notes[row].get(turn, turn) for turn in turns]

    def needed_turns(self, row: int, step: int) -> tuple[int, ...]:
        """Return the turns outside the window that the turn after ``step`` depends on."""
        probe = self.current[row].probes.get(step + 1)
        if probe is None:
            return ()
        return tuple(turn for turn in probe.evidence if turn <= step - self.settings.window)

    def _evidence(
        self, rows: NDArray[np.int64], step: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        needed, held = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        for i, (row, at) in enumerate(zip(rows.tolist(), step.tolist(), strict=True)):
            if turns := self.needed_turns(row, at):
                needed[i] = len(turns)
                held[i] = np.isin(turns, self.memory.turn[row]).sum()
        return needed, held

    # What agents see.

    def observe(self, rows: NDArray[np.int64] | None = None) -> Observation:
        """Return the observations of episodes, by default of all, each array with a leading axis."""
        return self.view.observe(self.step_index, rows)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are legal, flat, shape ``(n, (1 + R) * (K + 1))``.

        Writing is legal unless the turn may not be written; reading is legal for slots that hold a turn, and leaving
        out and reading none always are.
        """
        ones = np.ones((self.n, 1), bool)
        writable = self._writable(np.arange(self.n))[:, None]
        write = np.concatenate([ones, np.repeat(writable, self.settings.slots, axis=1)], axis=1)
        read = np.concatenate([ones, self.memory.occupied], axis=1)
        return np.concatenate([write, *[read] * self.settings.reads], axis=1)

    # Snapshots.

    def get_state(self) -> dict[str, Any]:
        """Return everything needed to restore the episodes exactly."""
        return {
            "memory": self.memory.get_state(),
            "step_index": self.step_index.copy(),
            "transcript_index": self.transcript_index.copy(),
            "written": [dict(texts) for texts in self.written],
            "notes": [dict(texts) for texts in self.notes],
            "overlap_since": self.view.overlap_since.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` returned."""
        self.start(np.arange(self.n), state["transcript_index"].tolist())
        self.memory.set_state(state["memory"])
        self.step_index = state["step_index"].copy()
        self.notes = [dict(texts) for texts in state["notes"]]
        for row, texts in enumerate(state["written"]):
            for turn, text in texts.items():
                self._replace_turn(row, turn, text)
        self.view.restore(self.current, self.step_index, state["overlap_since"])


def _each(
    items: Sequence[Prepared],
    step: NDArray[np.int64],
    gain: NDArray[np.float64],
    wrote: NDArray[np.bool_],
    reads: list[list[int]],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    last: NDArray[np.bool_],
    texts: list[str],
    plain: list[str],
) -> list[Step]:
    """Return the steps one by one, for reward terms that look at single steps."""
    return [
        Step(
            item.transcript,
            turn,
            float(gain[i]),
            bool(wrote[i]),
            tuple(reads[i]),
            _held(before[i]),
            _held(after[i]),
            item.probes.get(turn + 1),
            bool(last[i]),
            item.targets[turn + 1].strip(),
            texts[i],
            plain[i],
        )
        for i, (item, turn) in enumerate(zip(items, step.tolist(), strict=True))
    ]


def _held(slots: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the turns that slots hold, ascending."""
    return tuple(sorted(turn for turn in slots.tolist() if turn != EMPTY))
