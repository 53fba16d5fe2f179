"""Prompts that several answers share are run once: when answers are drawn, and when they are scored.

All answers of a group of GRPO's follow the same prompt, which here is most of the tokens (compare Prefix Grouper, Liu
et al., 2025).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin

_PARAMETERS = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = "cache" if "cache" in _PARAMETERS else "past_key_values"
"""What this version of transformers calls the cache of a model."""
MASKABLE = ("sdpa", "eager")
"""Implementations of attention that take a mask of any shape."""


@torch.no_grad()
def generate_shared(model: Any, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
    """Return what ``model.generate`` does, with equal prompts run through the model once.

    Args:
        model: A causal transformers model.
        input_ids: Prompts, padded on the left, shape ``(n, length)``.
        attention_mask: 0 where they are padded, of the same shape.
        **options: Those of ``generate``.
    """
    group = groups_of(input_ids, attention_mask)
    first = first_of(group)
    cache = DynamicCache(config=model.config)
    if len(first) < len(group) and input_ids.size(1) > 1 and not any(getattr(cache, "is_linear", [])):
        mask = attention_mask[first, :-1]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        start = {"input_ids": input_ids[first, :-1], "attention_mask": mask, "position_ids": positions}
        model(**start, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
        cache.batch_select_indices(group)
        options = {**options, CACHE: cache}
    found: Tensor = type(model).generate(model, input_ids=input_ids, attention_mask=attention_mask, **options)
    return found


@contextmanager
def prompts_shared(model: Any) -> Iterator[None]:
    """Let ``model.generate`` be :func:`generate_shared`, also where others call it."""
    model.generate = partial(generate_shared, model)
    try:
        yield
    finally:
        del model.generate


def groups_of(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return a number for each prompt, from 0, the same for equal ones, shape ``(n,)``."""
    _, group = torch.unique(torch.cat([input_ids, attention_mask], 1), dim=0, return_inverse=True)
    found: Tensor = group
    return found


def first_of(group: Tensor) -> Tensor:
    """Return the index of the first row of each group.

    Args:
        group: The group of each row, from 0, none of them empty, shape ``(n,)``.
    """
    first = torch.full((int(group.max()) + 1,), len(group), device=group.device)
    return first.scatter_reduce(0, group, torch.arange(len(group), device=group.device), "amin")


@dataclass(frozen=True, slots=True)
class Packed:
    """Answers behind the prompt they share, one row for each prompt: the prompt, and all its answers after one another.

    Attributes:
        inputs: What the model takes: ``input_ids``, ``attention_mask``, ``position_ids`` and ``labels``.
        group: The row of each answer, shape ``(n,)``.
        place: Its place there, of the same shape.
        places: Places of a row.
        keep: Tokens of an answer.
    """

    inputs: dict[str, Tensor]
    group: Tensor
    place: Tensor
    places: int
    keep: int

    def unpack(self, scored: Tensor) -> Tensor:
        """Return what a model says of the tokens of answers.

        Args:
            scored: Of every token of the rows but the first, shape ``(rows, length - 1)``.

        Returns:
            Shape ``(n, keep)``.
        """
        length = self.places * (self.keep + 1)
        answers: Tensor = scored[:, -length:].reshape(-1, self.places, self.keep + 1)
        return answers[self.group, self.place, 1:]


def packed(input_ids: Tensor, attention_mask: Tensor, keep: int, additive: torch.dtype | None = None) -> Packed:
    """Return prompts with all their answers in one row each.

    An answer sees its prompt and itself. The last token of the prompt, of which its first is predicted, is repeated in
    front of every answer.

    Args:
        input_ids: Prompts of at least 2 tokens, padded on the left, and answers, padded on the right, shape
            ``(n, length)``.
        attention_mask: 0 where they are padded, of the same shape.
        keep: Tokens of an answer.
        additive: Make the mask of attention one that is added, of this type, instead of one of truth values.
    """
    group, device = groups_of(input_ids[:, :-keep], attention_mask[:, :-keep]), input_ids.device
    first, counts = first_of(group), torch.bincount(group)
    rows, places, start = len(counts), int(counts.max()), input_ids.size(1) - keep - 1
    order = torch.argsort(group, stable=True)
    place = torch.empty_like(group)
    place[order] = torch.arange(len(group), device=device) - (counts.cumsum(0) - counts)[group[order]]

    tails, seen = (torch.zeros(rows, places, keep + 1, dtype=torch.long, device=device) for _ in range(2))
    tails[group, place], seen[group, place] = input_ids[:, start:], attention_mask[:, start:]
    labels = tails.masked_fill(seen == 0, -100)
    labels[:, :, 0] = -100
    before = attention_mask[first, :start]
    positions = before.cumsum(1) - 1
    after = before.sum(1)[:, None] + torch.arange(keep + 1, device=device).repeat(places)

    part = torch.arange(places, device=device).repeat_interleave(keep + 1)
    part = torch.cat([torch.full((start,), -1, device=device), part])
    related = (part[None, :] == -1) | (part[None, :] == part[:, None])
    length = len(part)
    related &= torch.ones(length, length, dtype=torch.bool, device=device).tril()
    visible = torch.cat([before, seen.flatten(1)], 1).bool()
    sees = (related & visible[:, None, :]) | torch.eye(length, dtype=torch.bool, device=device)  # padding sees itself
    mask = sees[:, None]
    if additive is not None:
        mask = torch.zeros(mask.shape, dtype=additive, device=device).masked_fill(~mask, torch.finfo(additive).min)
    inputs = {
        "input_ids": torch.cat([input_ids[first, :start], tails.flatten(1)], 1),
        "attention_mask": mask,
        "position_ids": torch.cat([positions.clamp(min=0), after], 1),
        "labels": torch.cat([torch.full_like(before, -100), labels.flatten(1)], 1),
    }
    return Packed(inputs, group, place, places, keep)
