"""A world's transcripts as a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from stm_rl.errors import StmError
from stm_rl.transcript import Transcript
from stm_rl.worlds.base import World

FIRST_SEED = {"train": 0, "validation": 10**8, "test": 2 * 10**8}
"""First seed of each split, so that no episode is in two of them."""


class GeneratedTranscripts(Sequence[Transcript]):
    """``count`` transcripts of a world, generated when asked for.

    Args:
        world: The world.
        split: ``train``, ``validation`` or ``test``; they share no seed.
        count: How many transcripts; at most 100 million.
    """

    def __init__(self, world: World, split: str = "train", count: int = 4000) -> None:
        if split not in FIRST_SEED:
            raise StmError(f"split is {split!r}; expected one of {', '.join(FIRST_SEED)}")
        if not 1 <= count <= 10**8:
            raise StmError(f"{count} transcripts were asked for; expected 1 to {10**8}")
        self.world, self.split, self.size = world, split, count

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Transcript]:
        return (self[index] for index in range(self.size))

    @overload
    def __getitem__(self, index: int) -> Transcript: ...
    @overload
    def __getitem__(self, index: slice) -> list[Transcript]: ...
    def __getitem__(self, index: int | slice) -> Transcript | list[Transcript]:
        """Generate the transcript (or the list of transcripts) at ``index``."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(index)
        return self.world.generate(FIRST_SEED[self.split] + index % self.size)
