"""Same-state reinforcement learning: TRL's GRPOTrainer on single decisions.

All completions of a group answer the same state, so that what tells them apart is the decision alone (compare
Group-in-Group policy optimisation, Feng et al., 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.language.agent import LanguageAgent
from stm_rl_agents.language.chat import prompt_ids
from stm_rl_agents.language.demonstrate import Demonstration
from stm_rl_agents.language.labelled import score_labelled_only
from stm_rl_agents.language.rewards import StateReturns, WellFormed
from stm_rl_agents.language.states import restore
from stm_rl_agents.language.tools import Message
from stm_rl_envs.vector import MemoryVectorEnv

FORMAT_WEIGHT = 0.2
"""Nats that well-formed tool calls are worth beside what they lead to."""
LEAST_STAKE = 0.5
"""Nats that hang on a decision at least: of less the noise of the scores would be more."""


def unsure(
    agent: LanguageAgent, expert: HindsightExpert, env: MemoryVectorEnv, met: Sequence[Demonstration]
) -> list[Demonstration]:
    """Return the states in which two decisions that the agent draws differ, with what hangs on which it is.

    Where all of a group decide the same, nothing is learned.

    Args:
        agent: Draws the decisions.
        expert: Says, by hindsight, what they are worth.
        env: Where the states are restored.
        met: States the agent got into.

    Returns:
        The states; ``stake`` is the difference of the two, nats, at least :data:`LEAST_STAKE`. All that were met, with
        that stake, if the agent is sure everywhere.
    """
    settings = env.episodes.settings
    prompts = [one.prompt for one in met]
    first, second = (agent.decide(prompts, settings.slots, settings.reads, deterministic=False) for _ in range(2))
    differ = [index for index, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    expert.start(env)
    found: list[Demonstration] = []
    for begin in range(0, len(differ), env.num_envs):
        chunk = differ[begin : begin + env.num_envs]
        restore(env.episodes, [met[index].state for index in chunk])
        advice = expert.advise()
        for row, index in enumerate(chunk):
            one, other = (expert.worth(advice, row, told[index].write, told[index].reads) for told in (first, second))
            stake = abs(one - other)
            found.append(replace(met[index], stake=max(stake, LEAST_STAKE)))
    return found or [replace(one, stake=LEAST_STAKE) for one in met]


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


class DecisionTrainer(GRPOTrainer):  # type: ignore[misc]  # TRL is optional, and not typed for mypy
    """A GRPOTrainer whose prompts list the memory tools and whose completions are one decision: no loop runs tools."""

    def _tokenize_prompts(self, prompts: list[list[Message]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompt_ids(self.processing_class, prompts), None, {}


def grpo_trainer(
    model: Any, tokenizer: Any, rows: Dataset, returns: StateReturns, peft_config: Any = None, **options: Any
) -> DecisionTrainer:
    """Return a trainer that makes likelier what leads to more, decision by decision.

    Args:
        model: A causal transformers model that calls tools already, or its folder.
        tokenizer: Its tokenizer, see :func:`~stm_rl_agents.language.chat.load_policy_model`.
        rows: See :func:`state_rows`.
        returns: What completions are worth.
        peft_config: Train low-rank additions only.
        **options: Those of TRL's GRPOConfig.
    """
    # Scaled by the batch, not by each group: where only the cost of a write is at stake, little is learned.
    score_labelled_only()
    args = GRPOConfig(**{"scale_rewards": "batch", "reward_weights": [1.0, FORMAT_WEIGHT], "report_to": [], **options})
    return DecisionTrainer(
        model=model,
        reward_funcs=[returns, WellFormed(returns)],
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
