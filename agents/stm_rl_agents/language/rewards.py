"""Rewards of decisions for TRL's trainers: what follows from the same state, and whether tool calls are well formed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl_agents.language.chat import prompt_ids, read_decision
from stm_rl_agents.language.returns import Playout
from stm_rl_agents.language.tools import Decision, Message

HORIZONS = (8, 16, 32)
"""Turns that are played after a decision, in the first, the second and the last third of training."""


def horizon_at(progress: float, horizons: Sequence[int] = HORIZONS) -> int:
    """Return the turns to be played at a moment of training (0 at its start, 1 at its end)."""
    return horizons[min(int(progress * len(horizons)), len(horizons) - 1)]


class StateReturns:
    """What the completions of a batch are worth: a reward function for TRL's GRPOTrainer.

    A row of the data set holds the ``state`` it was made of (see :mod:`stm_rl_agents.language.states`) and the
    ``weight`` that returns have there. For every completion the state is restored, the decision is made, and a
    reference policy plays on.

    Args:
        playout: Restores and plays on.
        tokenizer: Of the model that is trained.
        horizons: Turns that are played, one number for each equal part of training.
    """

    __name__ = "return"

    def __init__(self, playout: Playout, tokenizer: Any, horizons: Sequence[int] = HORIZONS) -> None:
        if not horizons or min(horizons) < 1:
            raise StmError(f"horizons are {tuple(horizons)}; expected at least one, of at least 1 turn each")
        self.playout, self.tokenizer, self.horizons = playout, tokenizer, tuple(horizons)

    def decisions(self, prompts: Sequence[list[Message]], completion_ids: Sequence[Sequence[int]]) -> list[Decision]:
        """Return what completions decide."""
        settings = self.playout.env.episodes.settings
        before = prompt_ids(self.tokenizer, prompts)
        return [
            read_decision(self.tokenizer, prompt, ids, settings.slots, settings.reads)
            for prompt, ids in zip(before, completion_ids, strict=True)
        ]

    def returns(self, states: Sequence[str], decisions: Sequence[Decision], progress: float) -> NDArray[np.float64]:
        """Return the return of each decision in nats; equal decisions in the same state are played once."""
        keys = [(state, decision) for state, decision in zip(states, decisions, strict=True)]
        unique = list(dict.fromkeys(keys))
        horizon = horizon_at(progress, self.horizons)
        values = self.playout.returns([state for state, _ in unique], [one for _, one in unique], horizon)
        known = dict(zip(unique, values.tolist(), strict=True))
        return np.array([known[key] for key in keys])

    def __call__(
        self,
        prompts: list[list[Message]],
        completion_ids: list[list[int]],
        state: list[str],
        trainer_state: Any,
        log_metric: Callable[[str, float], None],
        weight: list[float],
        **_: Any,
    ) -> list[float]:
        """Return the return of each completion times the weight of its state; TRL calls this."""
        progress = trainer_state.global_step / max(trainer_state.max_steps, 1)
        decisions = self.decisions(prompts, completion_ids)
        found = self.returns(state, decisions, progress)
        log_metric("return", float(found.mean()))
        log_metric("horizon", float(horizon_at(progress, self.horizons)))
        log_metric("malformed", float(np.mean([bool(one.malformed) for one in decisions])))
        log_metric("equal_groups", equal_share(state, found))
        return [float(value) for value in found * np.array(weight)]


class WellFormed:
    """1 for a completion whose tool calls are all well formed, else 0: a reward function for TRL's GRPOTrainer."""

    __name__ = "well_formed"

    def __init__(self, returns: StateReturns) -> None:
        self.returns = returns

    def __call__(self, prompts: list[list[Message]], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """Return 1 or 0 for each completion; TRL calls this."""
        return [float(not one.malformed) for one in self.returns.decisions(prompts, completion_ids)]


def equal_share(states: Sequence[str], returns: NDArray[np.float64]) -> float:
    """Return the share of states all of whose decisions are worth the same: those teach nothing."""
    groups: dict[str, list[float]] = {}
    for state, value in zip(states, returns.tolist(), strict=True):
        groups.setdefault(state, []).append(value)
    return float(np.mean([max(values) - min(values) < 1e-6 for values in groups.values()]))
