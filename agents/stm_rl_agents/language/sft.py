"""Imitation: a language model learns the expert's tool calls, through TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from stm_rl_agents.language.chat import tools_for
from stm_rl_agents.language.labelled import score_labelled_only


class Rowed(Protocol):
    """What can be learned from: a demonstrated decision, or a whole episode of them."""

    def row(self, tools: list[Any] | None) -> dict[str, Any]:
        """Return a row of a data set for TRL, with the tools that the template lists."""


def dataset_of(demonstrations: Sequence[Rowed], tokenizer: Any) -> Dataset:
    """Return demonstrations as a data set of conversations for TRL."""
    tools = tools_for(tokenizer)
    # Arguments differ from tool to tool: kept as JSON, or the others' would be filled up with nulls and learned.
    return Dataset.from_list([one.row(tools) for one in demonstrations], on_mixed_types="use_json")


def sft_trainer(
    model: Any, tokenizer: Any, data: Dataset, held_out: Dataset | None = None, peft_config: Any = None, **options: Any
) -> SFTTrainer:
    """Return a trainer that learns the tool calls of a data set, and nothing else of the conversations.

    Args:
        model: A causal transformers model.
        tokenizer: Its tokenizer, see :func:`~stm_rl_agents.language.chat.load_policy_model`.
        data: See :func:`dataset_of`.
        held_out: Rows whose loss is reported.
        peft_config: Train low-rank additions only.
        **options: Those of TRL's SFTConfig.
    """
    score_labelled_only()
    args = SFTConfig(**{"assistant_only_loss": True, "packing": False, "max_length": None, "report_to": [], **options})
    return SFTTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
