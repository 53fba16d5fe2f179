"""Starting adapters from the attention that a pretrained model has learned.

A model that was trained on longer texts knows how to look things up in them: its layers' queries, keys and values do
that. An adapter after layer ``i`` stands at the entrance of layer ``i + 1``; it starts as that layer's attention,
turned from tokens that are in the text to what the memory holds of tokens that no longer are (compare Wu et al.,
Memorizing Transformers, 2022, where the same attention reads both).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from stm_rl.augmented.adapter import GatedCrossAttention
from stm_rl.augmented.base import layers_of
from stm_rl.augmented.model import MemoryLM

RIDGE = 0.01
DISTANCES = (30, 300)
"""Tokens between what is read and the reader, over which rotary positions are averaged."""
LEAST_EXPLAINED = 0.5
NAMES = (
    tuple(f"self_attn.{name}_proj" for name in "qkvo"),
    ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    ("attn.Wqkv", "attn.Wo"),
)
"""Where the layers of Llama's, BERT's and ModernBERT's make keep their queries, keys, values (or all three in one
projection) and output."""
NORMS = ("input_layernorm", "attn_norm")
"""What the input of such a layer's attention goes through, if anything."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The projections of a layer's self-attention.

    Attributes:
        norm: What its input goes through first; None: nothing.
        query: Shape (heads, head size, hidden size).
        query_bias: Shape (heads, head size).
        key: As ``query``, repeated for heads that share it.
        value: As ``key``.
        join: Shape (hidden size, heads, head size).
    """

    norm: Any
    query: Tensor
    query_bias: Tensor
    key: Tensor
    value: Tensor
    join: Tensor


def attention_of(layer: nn.Module, heads: int) -> Attention | None:
    """Return the self-attention of a layer of Llama's, BERT's or ModernBERT's make; None if it is of another."""
    modules = dict(layer.named_modules())
    names = next((names for names in NAMES if all(name in modules for name in names)), None)
    if names is None:
        return None
    parts: list[Any] = [getattr(modules[name], "base_layer", modules[name]) for name in names]
    weights, bias = [part.weight.detach() for part in parts], parts[0].bias
    query, key, value = weights[:3] if len(weights) > 2 else weights[0].chunk(3)
    size, join = query.shape[0] // heads, weights[-1]
    norm: Any = next((getattr(layer, name) for name in NORMS if hasattr(layer, name)), None)
    return Attention(
        None if isinstance(norm, nn.Identity) else norm,
        query.view(heads, size, -1),
        query.new_zeros(heads, size) if bias is None else bias.detach()[: len(query)].view(heads, size),
        key.view(-1, size, key.shape[1]).repeat_interleave(heads * size // len(key), 0),
        value.view(-1, size, value.shape[1]).repeat_interleave(heads * size // len(value), 0),
        join.view(-1, heads, size),
    )


def mean_rotation(base: Any, layer: nn.Module, size: int) -> Tensor:
    """Return what rotary positions do to the product of a query and a key of a layer on average over far distances.

    Slow rotations stay, fast ones cancel out. The identity for models without rotary positions.
    """
    names = tuple(f"rotary_emb.{kind}inv_freq" for kind in (f"{getattr(layer, 'attention_type', '')}_", ""))
    frequencies = next((value for name, value in base.named_buffers() if name.endswith(names)), None)
    if frequencies is None or 2 * len(frequencies) != size:
        return torch.eye(size)
    angles = torch.arange(*DISTANCES, dtype=torch.float32)[:, None] * frequencies.float()
    cosine, sine = torch.diag(angles.cos().mean(0)), torch.diag(angles.sin().mean(0))
    return torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])


@torch.no_grad()
def start_from_attention(model: MemoryLM, input_ids: Tensor) -> float:
    """Start the adapters of a model, if its memory keeps each written token in a vector.

    Linear maps from the memory's vectors to the hidden states of their tokens are fitted by ridge regression; with them
    the projections of the base's layers become those of the adapters, each with the hidden states of its own place.
    Adapters in models of an unknown make stay as they are, and so do those that read a memory in which the
    tokens cannot be told.

    Args:
        model: A model that reads through adapters and writes tokens.
        input_ids: Texts to fit on, shape (batch, time); of each the last tokens count, as many as the
            memory has vectors.

    Returns:
        The least share of the hidden states' variance that a map explains; adapters with less than 0.5 are not changed.
    """
    settings = model.settings
    layers = list(layers_of(model.base))[1:]
    if model.core is None or settings.read != "adapters" or settings.write != "tokens" or not layers:
        return 0.0
    written = torch.ones_like(input_ids, dtype=torch.bool)
    adapters = cast("list[GatedCrossAttention]", list(model.adapters))
    gates = [adapter.gate.clone() for adapter in adapters]
    for adapter in adapters:
        adapter.gate.zero_()
    empty = model.initial_memory(len(input_ids))
    memory = model.core.read(model.write(input_ids, None, empty, written))
    steps = memory.new_zeros(1, 1, model.core.input_size)
    blank = model.core.read(model.core(steps, model.initial_memory(1))[1])[:, -1]
    options = {} if model.masked else {"use_cache": False}
    hidden = model.base(input_ids=input_ids, output_hidden_states=True, **options).hidden_states
    for adapter, gate in zip(adapters, gates, strict=True):
        adapter.gate.copy_(gate)
    count = min(memory.shape[1], input_ids.shape[1])
    explained = 1.0
    for adapter, layer, entering in zip(adapters, layers, hidden[1:-1], strict=True):
        attention = attention_of(layer, adapter.heads)
        if attention is None:
            return 0.0
        held = adapter.memory_norm(memory[:, -count:]).flatten(0, 1)
        empty_step = adapter.memory_norm(blank)
        kept = entering[:, -count:]
        wanted = (kept if attention.norm is None else attention.norm(kept)).flatten(0, 1)
        squares = held.T @ held + len(held) * empty_step.T @ empty_step  # an empty step stands for no token at all
        fitted = torch.linalg.solve(squares + RIDGE * len(held) * torch.eye(len(squares)).to(held), held.T @ wanted)
        share = 1 - float((wanted - held @ fitted).var() / wanted.var())
        explained = min(explained, share)
        if share < LEAST_EXPLAINED:
            continue
        size = attention.query.shape[1]
        rotation = mean_rotation(model.base, layer, size).to(held)
        scale = (adapter.size / size) ** 0.5
        keys = scale * fitted @ attention.key.transpose(1, 2) @ rotation.T  # (heads, memory size, head size)
        adapter.query.weight.copy_((keys @ attention.query).flatten(0, 1))
        adapter.query.bias.copy_((keys @ attention.query_bias[..., None]).flatten())
        if attention.norm is not None:
            adapter.before.weight.copy_(attention.norm.weight)
        joined = attention.join.transpose(0, 1) @ attention.value @ fitted.T  # (heads, hidden size, memory size)
        adapter.join.weight.copy_(joined.transpose(0, 1).flatten(1) / torch.tanh(adapter.gate))
    return explained
