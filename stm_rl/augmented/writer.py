"""From the hidden states of a segment to the steps of a memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stm_rl.memory import MemoryCore, State

ROUND = 4
"""Segments are filled up with empty steps to a multiple of this, so that more rows of a batch have equally many."""


class TokenWriter(nn.Module):
    """Writes every token of a segment, in order.

    A step holds the hidden state there and the mean embedding of its segment (what the segment is about).

    Args:
        hidden_size: Numbers in a hidden state.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.step_size = 2 * hidden_size
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(2))

    def forward(self, embedded: Tensor, hidden: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """Return the steps, shape (batch, steps, step_size), and how many each row has, shape (batch,).

        Args:
            embedded: The tokens' embeddings, shape (batch, time, hidden_size).
            hidden: The hidden states of the middle layer, shape (batch, time, hidden_size).
            written: Which tokens belong to the segment, booleans of shape (batch, time).
        """
        counts = written.sum(1)
        state = self.norms[0](hidden)
        weights = written.to(embedded.dtype) / counts.clamp(min=1)[:, None]
        about = self.norms[1](torch.matmul(weights[:, None], embedded)).expand_as(state)
        steps = torch.cat([state, about], -1)
        rounded = (counts + ROUND - 1) // ROUND * ROUND
        width = int(rounded.max())
        order = torch.argsort((~written).to(torch.int8), dim=1, stable=True)[:, :width]
        kept = torch.gather(steps, 1, order[..., None].expand(-1, -1, steps.shape[-1]))
        kept = kept * (torch.arange(order.shape[1], device=counts.device) < counts[:, None])[..., None]
        return nn.functional.pad(kept, (0, 0, 0, width - order.shape[1])), rounded


class PooledWriter(nn.Module):
    """Writes a segment as a few vectors, each what a learned query finds in it.

    Args:
        hidden_size: Numbers in a hidden state.
        queries: Vectors of a segment.
    """

    def __init__(self, hidden_size: int, queries: int) -> None:
        super().__init__()
        self.step_size = hidden_size
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(2))
        self.queries = nn.Linear(hidden_size, queries, bias=False)
        self.values = nn.ModuleList(nn.Linear(2 * hidden_size, hidden_size) for _ in range(queries))

    def forward(self, embedded: Tensor, hidden: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """Return the steps and how many each row has; see :meth:`TokenWriter.forward`."""
        found = torch.cat([self.norms[0](embedded), self.norms[1](hidden)], -1)
        scores = self.queries(self.norms[1](hidden)).masked_fill(~written[..., None], -1e9)
        pooled = torch.matmul(torch.softmax(scores, 1).transpose(1, 2), found)
        steps = torch.stack([value(pooled[:, number]) for number, value in enumerate(self.values)], 1)
        return steps, written.any(1) * len(self.values)


def write(core: MemoryCore, steps: Tensor, counts: Tensor, state: State) -> State:
    """Return the state after each row's first ``counts`` steps; rows without steps keep theirs.

    Rows with equally many steps go through the core together, so padding is never written.
    """
    found, places = [], []
    for count in sorted(set(counts.tolist())):
        rows = (counts == count).nonzero()[:, 0]
        some = state if len(rows) == len(counts) else {name: value[rows] for name, value in state.items()}
        if count:
            some = core(steps[rows, :count], some)[1]
        found.append(some)
        places.append(rows)
    if len(found) == 1:
        return found[0]
    back = torch.argsort(torch.cat(places))
    return {name: torch.cat([part[name] for part in found])[back] for name in state}
