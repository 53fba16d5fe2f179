"""Gated cross-attention from a language model's hidden states to what a memory holds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BIAS_SCALE = 8.0
"""Multiplies the learned slot biases, so that usual learning rates move them as far as attention needs."""
NOTHING = 8.0
"""Score of reading nothing at first, so that a reader begins with what stands out only."""


class GatedCrossAttention(nn.Module):
    """Adds to each hidden state what it finds in the memory.

    ``h + tanh(g) · Attention(h, memory)`` with a learned scalar gate ``g`` (Alayrac et al., Flamingo, 2022). The gate
    starts open: one that starts at 0 lets no gradient into the memory. All heads share the memory's vectors as keys
    and values (Shazeer, Fast Transformer Decoding, 2019), so nothing is computed for a vector that is held for
    long; the queries have the vectors' size. One more, learned vector stands for "nothing of this".

    Args:
        hidden_size: Numbers in a hidden state.
        slots: Vectors in the memory.
        size: Numbers in each.
        heads: Attention heads.
        gate: What ``tanh(g)`` is at first.
    """

    def __init__(self, hidden_size: int, slots: int, size: int, heads: int, gate: float) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.before = nn.LayerNorm(hidden_size)
        self.memory_norm = nn.LayerNorm(size)
        self.query = nn.Linear(hidden_size, heads * size)
        self.nothing = nn.Parameter(torch.zeros(1, 1, size))
        self.bias = nn.Parameter(torch.zeros(heads, slots + 1))
        nn.init.constant_(self.bias[:, 0], NOTHING / BIAS_SCALE)
        self.join = nn.Linear(heads * size, hidden_size, bias=False)
        self.gate = nn.Parameter(torch.tensor(math.atanh(gate)))

    def forward(self, hidden: Tensor, memory: Tensor) -> Tensor:
        """Return the hidden states with what was read added.

        Args:
            hidden: Shape ``(batch, time, hidden_size)``.
            memory: Shape ``(batch, slots, size)``.
        """
        batch, time, _ = hidden.shape
        held = torch.cat([self.nothing.expand(batch, -1, -1), self.memory_norm(memory)], 1)
        queries = self.query(self.before(hidden)).view(batch, time * self.heads, self.size) * self.size**-0.5
        bias = (BIAS_SCALE * self.bias).repeat(time, 1)
        weights = torch.softmax(torch.baddbmm(bias, queries, held.transpose(1, 2)), -1)
        found = torch.bmm(weights, held).view(batch, time, self.heads * self.size)
        read: Tensor = hidden + torch.tanh(self.gate) * self.join(found)
        return read
