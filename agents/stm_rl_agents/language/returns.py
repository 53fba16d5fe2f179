"""What decisions are worth: the same state is restored for each, and a reference policy plays on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stm_rl_agents.base import Agent
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.language.states import restore
from stm_rl_agents.language.tools import Decision
from stm_rl_envs.episodes import StepResult
from stm_rl_envs.vector import MemoryVectorEnv


class Playout:
    """Plays on after decisions.

    All decisions are made side by side, and no step waits for the language model's scores, which are asked for in
    batches and fetched at the end.

    Args:
        make_env: Makes an environment of so many episodes, on the transcripts that the states are of.
        reference: Who plays on.
        gamma: Discount of a step.
        batch: Most episodes played together.
        valuer: Says what the memory is worth where playing ends, so that few turns tell what a decision is worth (an
            n-step return; Sutton and Barto, 2018, section 7.1); None: what follows later is of no account.
    """

    def __init__(
        self,
        make_env: Callable[[int], MemoryVectorEnv],
        reference: Agent,
        gamma: float = 0.98,
        batch: int = 64,
        valuer: HindsightExpert | None = None,
    ) -> None:
        self.reference, self.gamma, self.valuer = reference, gamma, valuer
        self.env = make_env(batch)
        reference.start(self.env)
        if valuer is not None:
            valuer.start(self.env)

    def returns(self, states: Sequence[str], decisions: Sequence[Decision], horizon: int) -> NDArray[np.float64]:
        """Return what follows each decision: the discounted sum of rewards, in nats, shape ``(len(states),)``.

        With a ``valuer``, what the memory is worth after the last turn that is played is part of the sum.

        Args:
            states: Where each decision is made; see :mod:`stm_rl_agents.language.states`.
            decisions: What is done there.
            horizon: Turns that are played, that of the decision included, at least 1.
        """
        found = np.zeros(len(states))
        for first in range(0, len(states), self.env.num_envs):
            chunk = slice(first, first + self.env.num_envs)
            found[chunk] = self._play(states[chunk], decisions[chunk], horizon)
        return found

    def _play(self, states: Sequence[str], decisions: Sequence[Decision], horizon: int) -> NDArray[np.float64]:
        episodes, count = self.env.episodes, len(states)
        restore(episodes, states)
        pending: list[tuple[float, Callable[[], StepResult]]] = []
        rows = np.arange(count)
        actions = np.stack([decision.apply(episodes, row) for row, decision in enumerate(decisions)])
        for step in range(horizon):
            if step:
                rows = rows[episodes.step_index[rows] <= episodes.last_step[rows]]
                if not len(rows):
                    break
                actions = self.reference.act(episodes.observe(), episodes.action_masks())[rows]
            pending.append((self.gamma**step, episodes.begin(rows, actions)))
        total = np.zeros(count)
        if self.valuer is not None:
            total += self.gamma**horizon * self.valuer.held_value()[:count]
        for weight, finish in pending:
            result = finish()
            total[result.rows] += weight * result.reward
        return total
