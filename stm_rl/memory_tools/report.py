"""What became of the memory tool calls of transcripts."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Unmappable:
    """Calls that are no action, all for one reason.

    Attributes:
        count: How many.
        first: The first: where it is, and the call.
    """

    count: int
    first: str


@dataclass(slots=True)
class ToolReport:
    """What became of every call: it is counted once, in ``mapped`` or in ``unmappable``.

    Attributes:
        mapping: Name of the mapping.
        transcripts: Transcripts in all.
        demonstrations: Those that became demonstrations: at least one call of theirs became part of an action.
        without_calls: Those in which no tool is called, other than to say something.
        nothing_mapped: Those in which no call could be mapped.
        too_short: Those left with fewer than 2 turns without the calls.
        first_too_short: Where the first of these is.
        calls: Calls in all.
        mapped: Mapped calls, by operation.
        merged: Mapped calls that write what another call of the same step writes already: a slot holds a whole turn.
        superseded_for_room: Writes that superseded the least recently used slot, for none was free.
        unmappable: Calls that are no action, by reason.
    """

    mapping: str = ""
    transcripts: int = 0
    demonstrations: int = 0
    without_calls: int = 0
    nothing_mapped: int = 0
    too_short: int = 0
    first_too_short: str = ""
    calls: int = 0
    mapped: Counter[str] = field(default_factory=Counter)
    merged: int = 0
    superseded_for_room: int = 0
    unmappable: dict[str, Unmappable] = field(default_factory=dict)

    def miss(self, reason: str, example: str) -> None:
        """Count an unmappable call."""
        self.unmappable.setdefault(reason, Unmappable(0, example)).count += 1

    @property
    def missed(self) -> int:
        """Unmappable calls in all."""
        return sum(entry.count for entry in self.unmappable.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, reasons by descending count."""
        ordered = sorted(self.unmappable.items(), key=lambda item: -item[1].count)
        return {
            **asdict(self),
            "mapped": dict(self.mapped.most_common()),
            "unmappable": {reason: asdict(entry) for reason, entry in ordered},
        }
