"""What a masked model can do: how long its texts may be, and its head without the layers in front of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput


def max_positions(model: Any) -> int | None:
    """Return how many tokens a model can take, or none if it does not say so.

    RoBERTa-type models number positions from the one behind that of padding, so they take fewer than they have.
    """
    limits = [
        len(module.weight) - module.padding_idx - 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    stated = getattr(model.config, "max_position_embeddings", None)
    return min([*limits, *([stated] if stated else [])], default=None)


class _Given(torch.nn.Module):
    """Stands in for a model's base model and returns the hidden states that it is given."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=input_ids)


def head_alone(model: Any, inputs: dict[str, torch.Tensor]) -> Any | None:
    """Return a model's head as a model of hidden states, or none if it needs more than those.

    It is the model itself with its base model taken out, so all that the model does to its logits is done. The
    weights are shared.

    Args:
        model: A transformers model with a head.
        inputs: A batch of one text, with which the head is compared to the whole model.
    """
    head = copy.copy(model)
    head._modules = dict(head._modules)  # the model keeps its own
    setattr(head, head.base_model_prefix, _Given())
    with torch.inference_mode():
        expected = model(**inputs).logits[0]
        hidden = model.base_model(**inputs)[0][0].flip(0)  # in another order, since single places are asked for later
        try:
            logits = head(hidden[None]).logits[0].flip(0)
        except (AttributeError, TypeError, RuntimeError, ValueError, IndexError):  # it looks into its base model
            return None
    return head if close(logits, expected) else None


def close(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether logits are equal but for rounding."""
    if logits.shape != expected.shape:
        return False
    error = (logits - expected).abs().max() / expected.abs().max()
    return bool(error < torch.finfo(logits.dtype).eps ** 0.5)
