"""Imitation: a language model learns the expert's tool calls, through TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from stm_rl_agents.language.chat import tools_for
from stm_rl_agents.language.demonstrate import READS, WORTH, WRITES, Demonstration
from stm_rl_agents.language.labelled import score_labelled_only
from stm_rl_agents.language.tools import Decision, Message

IGNORED = -100
"""Label of a token that is not trained on."""


class Conversation(Protocol):
    """What can be learned from: a demonstrated decision, or a whole episode of them."""

    @property
    def messages(self) -> list[Message]:
        """The conversation; what the assistant says in it is learned."""


def dataset_of(conversations: Sequence[Conversation], tokenizer: Any) -> Dataset:
    """Return conversations as a data set of tokens and labels for TRL.

    Labelled are the tokens of the assistant, the one that ends its message included; of a demonstration of one part of
    a decision only those that tell what is done about that part.
    """
    return Dataset.from_list([_row(one, tokenizer) for one in conversations])


def _row(one: Conversation, tokenizer: Any) -> dict[str, list[int]]:
    ids, learned = _parts(one, tokenizer) if isinstance(one, Demonstration) and one.learned else _tokens(one, tokenizer)
    return {"input_ids": ids, "labels": [token if on else IGNORED for token, on in zip(ids, learned, strict=True)]}


def _parts(one: Demonstration, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Return the tokens of a demonstration, and which of them tell what is to be learned of it.

    A write comes first: it has been told once a decision that differs in reads only would go on differently. That
    nothing is written is told, if there is any call, by its not being a write: learned is this choice alone, so that
    nothing is learned of whether to read. Of reads only the next is learned, or that there is none.
    """
    decision = one.decision
    if WRITES in one.learned and READS not in one.learned and not decision.write and not decision.reads:
        decision = replace(decision, reads=(1,))  # whether there is a call is not to be learned: let there be one

    @cache
    def told(other: Decision) -> tuple[list[int], list[bool]]:
        return _tokens(replace(one, decision=other, learned=()), tokenizer)

    def parting(first: Decision, other: Decision) -> int:
        """Return the place of the first token at which another decision is told differently."""
        pairs = zip(told(first)[0], told(other)[0], strict=False)
        return next(at for at, (token, others) in enumerate(pairs) if token != others)

    ids, spoken = told(decision)
    places: set[int] = set()
    said = replace(decision, reads=decision.reads[: one.given])
    first = parting(said, replace(said, reads=(*said.reads, 1))) if decision.write or one.given else 0
    if WRITES in one.learned:
        if decision.write:
            alone = replace(decision, reads=())
            places |= set(range(parting(alone, replace(alone, reads=(1,)))))
        elif decision.reads:
            places.add(parting(decision, replace(decision, write=1)))
    if READS in one.learned:
        goes_on = len(decision.reads) > one.given and not one.closed
        end = parting(decision, replace(decision, reads=(*decision.reads, 1))) if goes_on else len(ids)
        places |= set(range(first, end))
    learned = [on and at in places for at, on in enumerate(spoken)]
    if WORTH in one.learned:
        whole, answered = _tokens(replace(one, decision=decision), tokenizer)
        return whole, learned + answered[len(ids) :]
    return ids, learned


def _tokens(one: Conversation, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Return the tokens of a conversation, and which of them the assistant says."""
    found = tokenizer.apply_chat_template(
        one.messages,
        tools=tools_for(tokenizer),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return list(found["input_ids"]), [bool(on) for on in found["assistant_masks"]]


def sft_trainer(
    model: Any, tokenizer: Any, data: Dataset, held_out: Dataset | None = None, peft_config: Any = None, **options: Any
) -> SFTTrainer:
    """Return a trainer that learns the labelled tokens of a data set.

    Args:
        model: A causal transformers model.
        tokenizer: Its tokenizer, see :func:`~stm_rl_agents.language.chat.load_policy_model`.
        data: See :func:`dataset_of`.
        held_out: Rows whose loss is reported.
        peft_config: Train low-rank additions only.
        **options: Those of TRL's SFTConfig.
    """
    score_labelled_only()
    args = SFTConfig(**{"packing": False, "max_length": None, "report_to": [], **options})
    return SFTTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
