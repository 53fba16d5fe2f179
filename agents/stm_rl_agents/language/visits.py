"""States that same-state methods learn from: where a model gets by itself, and what hangs on its decision there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.language.agent import LanguageAgent
from stm_rl_agents.language.chat import is_short, prompt_of
from stm_rl_agents.language.demonstrate import Demonstration
from stm_rl_agents.language.states import restore, states_of
from stm_rl_agents.language.tools import Decision, Message, decision_of
from stm_rl_envs.vector import MemoryVectorEnv

LEAST_STAKE = 0.5
"""Nats that hang on a decision at least: of less the noise of the scores would be more."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A state that a language model got into by decisions it drew.

    Attributes:
        prompt: What it was shown.
        state: See :mod:`stm_rl_agents.language.states`.
        decision: What it drew and did there.
        other: What it drew there, too.
    """

    prompt: list[Message]
    state: str
    decision: Decision
    other: Decision


def visits_of(
    agent: LanguageAgent,
    env: MemoryVectorEnv,
    indices: Sequence[int],
    on_episodes: Callable[[int], None] = lambda count: None,
) -> list[Visit]:
    """Play transcripts once each with decisions that are drawn, two in each state, and return every state that is met.

    Args:
        agent: Who plays.
        env: An environment that does not reset itself; it needs no language model.
        indices: Indices of the transcripts.
        on_episodes: Called with the number of episodes just finished.
    """
    episodes = env.episodes
    slots, reads, short = episodes.settings.slots, episodes.settings.reads, is_short(agent.tokenizer)
    found: list[Visit] = []
    for _ in env.batches(indices, on_episodes):
        while not env.resting.all():
            rows = np.flatnonzero(~env.resting).tolist()
            prompts, states = [prompt_of(episodes, row, short) for row in rows], states_of(episodes, rows)
            twice = [prompt for prompt in prompts for _ in range(2)]
            drawn = agent.decide(twice, slots, reads, deterministic=False)
            decisions, others = drawn[::2], drawn[1::2]
            actions = np.zeros((env.num_envs, 1 + reads), np.int64)
            for row, decision in zip(rows, decisions, strict=True):
                actions[row] = decision.apply(episodes, row)
            found += map(Visit, prompts, states, decisions, others)
            env.step(actions)
    return found


def unsure(expert: HindsightExpert, env: MemoryVectorEnv, visits: Sequence[Visit]) -> list[Demonstration]:
    """Return the states in which the two decisions that were drawn differ, with what hangs on which it is.

    Where all of a group decide the same, nothing is learned.

    Args:
        expert: Says, by hindsight, what they are worth.
        env: Where the states are restored.
        visits: States that an agent got into.

    Returns:
        The states, with what the expert would do there; ``stake`` is the difference of the two, nats, at least
        :data:`LEAST_STAKE`. All that were met, with that stake, if the agent is sure everywhere.
    """
    episodes = env.episodes
    differ = [index for index, visit in enumerate(visits) if visit.decision != visit.other]
    chosen = differ or range(len(visits))
    expert.start(env)
    found: list[Demonstration] = []
    for begin in range(0, len(chosen), env.num_envs):
        chunk = chosen[begin : begin + env.num_envs]
        restore(episodes, [visits[index].state for index in chunk])
        advice = expert.advise()
        told, _ = expert.decide(advice, env.action_masks(), episodes.settings.reads)
        for row, visit in enumerate(visits[index] for index in chunk):
            drawn = visit.decision, visit.other
            one, two = (expert.worth(advice, row, decision.write, decision.reads) for decision in drawn)
            stake = max(abs(one - two), LEAST_STAKE)
            found.append(Demonstration(visit.prompt, decision_of(told[row]), stake, visit.state))
    return found


def state_rows(states: Sequence[Demonstration], count: int, rng: np.random.Generator) -> Dataset:
    """Return states to decide in as the rows of a data set, each as often as its stake says.

    Returns count as much less (``weight``) as the state is drawn more often: so little is left to chance, and what is
    learned is still the mean over all states. Without the weights it would be what pays where something turned out to
    hang on the decision, which nobody knows when it is made: a policy learned from that wrote too much.

    Args:
        states: See :func:`unsure`.
        count: Rows.
        rng: Draws them.
    """
    stakes = np.array([one.stake for one in states])
    drawn = rng.choice(len(states), count, p=stakes / stakes.sum()).tolist()
    weights = (stakes.mean() / stakes).tolist()
    return Dataset.from_list(
        [{"prompt": states[i].prompt, "state": states[i].state, "weight": weights[i]} for i in drawn]
    )
