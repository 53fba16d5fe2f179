"""A learnable hash table: what is kept and what is looked up meet in the buckets that their keys are hashed to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stm_rl.errors import StmError
from stm_rl.memory.core import MemoryCore, State
from stm_rl.memory.gather import gather, gather_sum
from stm_rl.memory.hashed_walk import walk
from stm_rl.memory.matrix import unit


class HashedCore(MemoryCore):
    """Hash tables whose hash functions are learned, with differentiable attention within the buckets looked up.

    At every step a query is looked up; then a gate decides whether key and value of the input are kept. The hash of
    a key in each table are the signs of ``bits`` learned projections (as in Charikar, Similarity estimation
    techniques from rounding algorithms, 2002, where they are random), so keys and queries that are alike share
    buckets. A bucket holds ``entries`` entries, the oldest of which is replaced. A lookup attends to the entries of
    its bucket and of the one across the nearest hyperplane (Lv et al., Multi-probe LSH, 2007) in all tables, or to
    nothing: scores are the cosine of query and key, times a learned factor, plus how well the signs of query and
    bucket agree, times another. A step costs the same however many buckets there are.

    Signs and gate are straight-through estimators (Bengio et al., 2013): the agreement with the second bucket teaches
    the projections which side of a hyperplane a query should lie on. An input that was not kept gives its gate no
    gradient; gates begin open.

    Args:
        input_size: Numbers in an input.
        output_size: Numbers in an output.
        tables: Number of hash tables.
        bits: Projections of a table, which has ``2 ** bits`` buckets.
        entries: Entries of a bucket.
        entry_size: Numbers in a key, and in a value.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        tables: int = 4,
        bits: int = 4,
        entries: int = 4,
        entry_size: int = 16,
    ) -> None:
        super().__init__(input_size, output_size)
        sizes = {"tables": tables, "bits": bits, "entries": entries, "entry_size": entry_size}
        if min(sizes.values()) < 1 or bits > 16:
            raise StmError(f"the sizes are {sizes}; expected at least 1 of each, and at most 16 bits")
        self.tables, self.bits, self.entries, self.entry_size = tables, bits, entries, entry_size
        self.slots = tables * 2**bits * entries
        self.project = nn.Linear(input_size, 3 * entry_size + 1)  # key, query, value, gate
        self.hash = nn.Linear(entry_size, tables * bits, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(8.0))
        self.agreement = nn.Parameter(torch.ones(()))
        self.nothing = nn.Parameter(torch.zeros(()))
        self.output = nn.Sequential(
            nn.Linear(input_size + entry_size + 1, output_size), nn.ReLU(), nn.Linear(output_size, output_size)
        )
        self.register_buffer("powers", 2 ** torch.arange(bits), persistent=False)
        self.powers: Tensor
        with torch.no_grad():
            self.project.bias[-1] = 2.0  # keep most of what comes
            for weight in self.project.parameters():  # keys and queries begin as the same
                weight[entry_size : 2 * entry_size] = weight[:entry_size]

    def initial_state(self, batch: int) -> State:
        """Return empty tables; see :meth:`MemoryCore.initial_state`.

        Returns:
            ``entries`` (batch, slots, 2 * entry_size), keys and values, where slots are all entries of all buckets
            of all tables; ``written`` (batch, tables * buckets), int64: how often each bucket was written to.
        """
        weight = self.project.weight
        written = torch.zeros(batch, self.tables * 2**self.bits, dtype=torch.long, device=weight.device)
        return {"entries": weight.new_zeros(batch, self.slots, 2 * self.entry_size), "written": written}

    def forward(self, inputs: Tensor, state: State, done: Tensor | None = None) -> tuple[Tensor, State]:
        """Read a sequence; see :meth:`MemoryCore.forward`."""
        sizes = [self.entry_size, self.entry_size, self.entry_size, 1]
        key, query, value, gate = torch.split(self.project(inputs), sizes, -1)
        key, query, gate = unit(key), unit(query), gate.sigmoid()
        # The straight-through factor is 1 where something is kept; elsewhere nothing can be read of the step.
        new = torch.cat([key, value * (1 + (gate - gate.detach()))], -1)
        table = torch.cat([state["entries"], new, torch.zeros_like(new[:, :1])], 1)
        projected, signs = self._hash(query)
        probes = torch.stack([signs, signs * (1 - 2 * nearest(projected))], 3)
        kept_in = self._buckets(self._hash(key)[1].unsqueeze(3)).squeeze(3)
        walked = walk(gate.squeeze(2) > 0.5, kept_in, self._buckets(probes), state, self.entries, done)
        soft = projected.tanh()
        agreement = ((soft - soft.detach() + signs).unsqueeze(3) * probes).sum(4) - self.bits
        found = self._look_up(table, walked.places, query, agreement * self.agreement)
        after = {"entries": gather(table, walked.held), "written": walked.written}
        return self.output(torch.cat([inputs, found], -1)), after

    def read(self, state: State) -> Tensor:
        """Return the values of all entries, bucket by bucket; zeros where there is none."""
        return state["entries"][..., self.entry_size :]

    @property
    def read_shape(self) -> tuple[int, int]:
        """``(tables * buckets * entries, entry_size)``."""
        return self.slots, self.entry_size

    def _hash(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the projections of each table, shape (batch, time, tables, bits), and their signs, -1 or 1."""
        projected: Tensor = self.hash(vectors).view(*vectors.shape[:2], self.tables, self.bits)
        return projected, torch.where(projected > 0, 1.0, -1.0).to(projected.dtype)

    def _buckets(self, signs: Tensor) -> Tensor:
        """Return the numbers of the buckets, among all tables, with these signs (batch, time, tables, n, bits)."""
        within: Tensor = ((signs > 0) * self.powers).sum(4)
        first: Tensor = 2**self.bits * torch.arange(self.tables, device=signs.device).unsqueeze(1)
        return within + first

    def _look_up(self, table: Tensor, places: Tensor, query: Tensor, agreement: Tensor) -> Tensor:
        """Return what is found, shape (batch, time, entry_size + 1): a value, and the weight of finding nothing."""
        keys, values = torch.split(table, self.entry_size, -1)
        likeness = (gather(keys, places) @ query.unsqueeze(3)).squeeze(3) * self.sharpness
        scores = likeness + agreement.flatten(2).repeat_interleave(self.entries, 2)
        scores = scores.masked_fill(places == table.shape[1] - 1, -torch.inf)
        weights = torch.cat([self.nothing.expand(*scores.shape[:2], 1), scores], 2).softmax(2)
        return torch.cat([gather_sum(values, places, weights[..., 1:]), weights[..., :1]], 2)


def nearest(projected: Tensor) -> Tensor:
    """Return 1 for the projection of a table that is closest to zero, 0 for the others."""
    closest: Tensor = functional.one_hot(projected.abs().argmin(-1), projected.shape[-1])
    return closest
