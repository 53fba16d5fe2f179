"""Callbacks of TRL's trainers: what happens in a training is kept in the run folder and shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stm_rl.runs import Run

Report = Callable[[int, int, dict[str, Any]], None]
"""Shows how far training is: (steps done in the round, steps of the round, the row that was logged or nothing)."""
SUMMARY = "train_runtime"
"""What TRL logs once more when a training ends."""


class RunLog(TrainerCallback):
    """Writes what TRL logs to ``metrics.jsonl``, validates now and then, and tells how far training is.

    Only the main process does.

    Args:
        run: The run folder.
        first: Training steps of earlier rounds.
        number: The round.
        report: Shows how far training is.
        validate: Returns what validation episodes say; see ``every``.
        every: Steps from one validation to the next; 0: none.
        done: Steps of the checkpoint that the round goes on from; rows past it are dropped.
    """

    def __init__(
        self,
        run: Run,
        first: int,
        number: int,
        report: Report,
        validate: Callable[[Any], dict[str, float]],
        every: int,
        done: int = 0,
    ) -> None:
        self.run, self.first, self.number, self.report = run, first, number, report
        self.validate, self.every = validate, every
        self.began, self.done = time.monotonic(), done

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop rows past the checkpoint, count time from where they end, and validate what training begins with."""
        if state.is_world_process_zero:
            self.run.forget_after(self.first + self.done)
            self.began = time.monotonic() - max((row["seconds"] for row in self.run.metrics()), default=0.0)
        if state.global_step == 0 and self.number == 0 and not self.run.metrics():
            self._validate(state, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Validate now and then, and after the last step."""
        self._report(state, {})
        if self.every and (state.global_step % self.every == 0 or state.global_step >= state.max_steps):
            self._validate(state, kwargs["model"])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the numbers of a row that TRL logs."""
        if logs and SUMMARY not in logs:
            self._log(state, {name: value for name, value in logs.items() if isinstance(value, int | float)})

    def _validate(self, state: TrainerState, model: Any) -> None:
        if self.every and state.is_world_process_zero:
            self._log(state, {f"validation/{name}": value for name, value in self.validate(model).items()})

    def _log(self, state: TrainerState, values: dict[str, float]) -> None:
        if not state.is_world_process_zero:
            return
        row: dict[str, Any] = {"steps": self.first + state.global_step, "round": self.number}
        row |= {"seconds": round(time.monotonic() - self.began, 1)}
        row |= {name: round(value, 6) for name, value in values.items()}
        self.run.log(row)
        self._report(state, row)

    def _report(self, state: TrainerState, row: dict[str, Any]) -> None:
        if state.is_world_process_zero:
            self.report(state.global_step, state.max_steps, row)
