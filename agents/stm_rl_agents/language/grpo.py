"""Same-state reinforcement learning: TRL's GRPOTrainer on single decisions.

All completions of a group answer the same state, so that what tells them apart is the decision alone (compare
Group-in-Group policy optimisation, Feng et al., 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from stm_rl_agents.language.chat import prompt_ids
from stm_rl_agents.language.demonstrate import Demonstration
from stm_rl_agents.language.labelled import score_labelled_only
from stm_rl_agents.language.rewards import StateReturns, WellFormed
from stm_rl_agents.language.tools import Message

FORMAT_WEIGHT = 0.2
"""Nats that well-formed tool calls are worth beside what they lead to."""


def state_rows(met: Sequence[Demonstration], count: int, least: float, rng: np.random.Generator) -> Dataset:
    """Return states to decide in, each as often as its stake says.

    Where nothing hangs on a decision all of a group are worth the same, and nothing is learned from them.

    Args:
        met: States the learner met, with what hangs on a decision there.
        count: Rows.
        least: Least stake, nats; states below are left out.
        rng: Draws them.
    """
    worth = [one for one in met if one.stake >= least] or list(met)
    stakes = np.array([one.stake for one in worth])
    drawn = rng.choice(len(worth), count, p=stakes / stakes.sum(), replace=count > len(worth)).tolist()
    return Dataset.from_list([{"prompt": worth[i].prompt, "state": worth[i].state} for i in drawn])


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
