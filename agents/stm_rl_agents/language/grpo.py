"""Same-state reinforcement learning: TRL's GRPOTrainer on single decisions.

All completions of a group answer the same state, so that what tells them apart is the decision alone (compare
Group-in-Group policy optimisation, Feng et al., 2025).
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from stm_rl_agents.language.chat import prompt_ids
from stm_rl_agents.language.labelled import score_labelled_only
from stm_rl_agents.language.rewards import StateReturns, WellFormed
from stm_rl_agents.language.shared import MASKABLE, packed, prompts_shared
from stm_rl_agents.language.tools import Message

FORMAT_WEIGHT = 0.2
"""Nats that well-formed tool calls are worth beside what they lead to."""


class DecisionTrainer(GRPOTrainer):  # type: ignore[misc]  # TRL is optional, and not typed for mypy
    """A GRPOTrainer whose prompts list the memory tools and whose completions are one decision: no loop runs tools."""

    def _tokenize_prompts(self, prompts: list[list[Message]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompt_ids(self.processing_class, prompts), None, {}


class SameStateTrainer(DecisionTrainer):
    """Runs what the completions of a group share, which is most of their tokens, once."""

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        attention, size = self.model.config._attn_implementation, batch_size or len(input_ids)
        given = {name: value for name, value in others.items() if value is not None}
        if given or compute_aux_loss or attention not in MASKABLE:
            return super()._get_per_token_logps_and_entropies(  # type: ignore[no-any-return]
                model, input_ids, attention_mask, logits_to_keep, size, compute_entropy, compute_aux_loss, **given
            )
        log_probs: list[Tensor] = []
        entropies: list[Tensor] = []
        for ids, mask in zip(torch.split(input_ids, size), torch.split(attention_mask, size), strict=True):
            rows = packed(ids, mask, logits_to_keep, None if attention == "sdpa" else self.model.dtype)
            with self.accelerator.autocast():
                output = model(**rows.inputs, fused_lm_head=True)
            log_probs.append(rows.unpack(output.log_probs))
            if compute_entropy:
                entropies.append(rows.unpack(output.entropy))
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None

    def _generate_single_turn(self, *args: Any, **options: Any) -> Any:
        with prompts_shared(self.accelerator.unwrap_model(self.model_wrapped)):
            return super()._generate_single_turn(*args, **options)


def grpo_trainer(
    model: Any, tokenizer: Any, rows: Dataset, returns: StateReturns, peft_config: Any = None, **options: Any
) -> SameStateTrainer:
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
    return SameStateTrainer(
        model=model,
        reward_funcs=[returns, WellFormed(returns)],
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
