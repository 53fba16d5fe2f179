"""Attention of a masked model's tokens to their own segment and to what is kept of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from stm_rl.errors import StmError

NAME = "stm_rl_segments"
"""Name of the attention among those of transformers."""


@dataclass(slots=True)
class Earlier:
    """What the tokens of one segment may attend to, beside each other; one pass of a model fills in ``new``.

    Attributes:
        keys: Kept keys, rotated to their positions, shape (batch, layers, heads, kept, size).
        values: Kept values, same shape.
        exists: Which kept tokens and then which tokens of the segment are there, shape (batch, kept + time), bool.
        positions: Of the same tokens, same shape.
        new: The segment's keys and values of each layer, shapes (batch, heads, time, size).
        seen: What :meth:`visible` has returned, by reach: layers of a kind share it.
    """

    keys: Tensor
    values: Tensor
    exists: Tensor
    positions: Tensor
    new: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    seen: dict[int | None, Tensor] = field(default_factory=dict)

    def visible(self, time: int, reach: int | None) -> Tensor:
        """Return which tokens each of the last ``time`` sees, shape (batch, 1, time, kept + time), bool.

        Args:
            time: Tokens of the segment.
            reach: How far a layer with a sliding window looks in both directions, in tokens; None: everywhere.
        """
        if reach in self.seen:
            return self.seen[reach]
        seen = self.exists[:, None, :].expand(-1, time, -1)
        if reach is not None:
            far = (self.positions[:, -time:, None] - self.positions[:, None, :]).abs()
            seen = seen & (far <= reach)
        own = torch.eye(time, dtype=torch.bool, device=seen.device)  # so that padding sees something, if only itself
        self.seen[reach] = (seen | nn.functional.pad(own, (seen.shape[-1] - time, 0)))[:, None]
        return self.seen[reach]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Earlier | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend to a segment and to earlier ones; an attention function of transformers.

    Args:
        module: The layer's attention module.
        query: Shape (batch, heads, time, size); ``key`` and ``value`` may have fewer heads.
        key: See ``query``.
        value: See ``query``.
        attention_mask: Not used; ``segments`` says what is there.
        segments: What may be attended to.
        scaling: Of the scores.
        dropout: Of the weights.

    Returns:
        The result, shape (batch, time, heads, size), and None for the weights.

    Raises:
        StmError: The model does not hand ``segments`` on to its attention.
    """
    if segments is None:
        raise StmError(
            f"{type(module).__name__} was called without the earlier segments: call the model through SegmentLM; if "
            "that is what you did, the model does not pass keyword arguments on to its attention, so take another"
        )
    layer, reach = module.layer_idx, None
    if getattr(module, "sliding_window", None) is not None:
        reach = int(module.config.sliding_window)
    segments.new[layer] = key, value
    found = scaled_dot_product_attention(
        query,
        torch.cat([segments.keys[:, layer], key], 2),
        torch.cat([segments.values[:, layer], value], 2),
        attn_mask=segments.visible(query.shape[2], reach),
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found.transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Make no mask: :func:`attend` makes its own."""


def use_segments(base: Any) -> None:
    """Give a transformers model this attention.

    Raises:
        StmError: The model's attention cannot be exchanged.
    """
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    try:
        base.set_attn_implementation(NAME)
    except ValueError as error:
        raise StmError(
            f"the attention of {type(base).__name__} cannot be exchanged ({error}); take a model whose attention "
            "goes through transformers' AttentionInterface, such as ModernBERT"
        ) from error
