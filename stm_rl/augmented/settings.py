"""What a memory-augmented language model is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from stm_rl.errors import StmError
from stm_rl.memory import CORES

READS, WRITES = ("adapters", "prompt"), ("tokens", "pooled")


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Settings of a :class:`~stm_rl.augmented.model.MemoryLM`.

    Attributes:
        core: Name of the memory in :data:`stm_rl.memory.CORES`, or ``none`` for the model without memory.
        core_sizes: Keyword sizes of the core.
        size: Numbers in an output of the core.
        read: ``adapters``: gated cross-attention to the memory between layers. ``prompt``: every vector of the
            memory becomes a soft prompt token in front of the text.
        write: ``tokens``: every token of a segment is a step of the core. ``pooled``: each segment is
            summed up by ``queries`` learned queries, which are the steps.
        queries: Steps of a segment if ``write`` is ``pooled``.
        heads: Heads of an adapter; 0: as many as the base has.
        gate: What the gates are at first, 0 to 1: the share of an adapter's output that is added.
        lora: Rank of the low-rank changes to the model's linear layers; 0 leaves the model as it is.
    """

    core: str = "attention"
    core_sizes: dict[str, Any] = field(default_factory=dict)
    size: int = 128
    read: str = "adapters"
    write: str = "tokens"
    queries: int = 4
    heads: int = 0
    gate: float = 0.5
    lora: int = 0

    def __post_init__(self) -> None:
        """Reject what no model can be made of."""
        for name, known in (("core", ("none", *CORES)), ("read", READS), ("write", WRITES)):
            if getattr(self, name) not in known:
                raise StmError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")
        if not 0 <= self.gate < 1:
            raise StmError(f"gate is {self.gate}; expected at least 0 and less than 1")
        for name, least in (("size", 1), ("queries", 1), ("heads", 0), ("lora", 0)):
            if getattr(self, name) < least:
                raise StmError(f"{name} is {getattr(self, name)}; expected at least {least}")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)
