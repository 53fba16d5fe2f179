"""What raters are shown: which pairs, in which order, and which text comes first."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from stm_rl.comparison.continuation import WITH, WITHOUT, Continuation
from stm_rl.errors import StmError


class Tasks:
    """The pairs of one review. Everything is drawn from the seed, so a restart changes nothing.

    Args:
        continuations: Pairs; those whose two texts are the same are not shown.
        sample: Show so many, drawn at random; None: all.
        seed: Seeds the draw, the order of pairs of each rater, and the order of the two texts.

    Attributes:
        items: The pairs that are shown, by id.
        identical: How many have two texts that are the same.
    """

    def __init__(self, continuations: Sequence[Continuation], sample: int | None = None, seed: int = 0) -> None:
        found = {one.id: one for one in continuations if one.differs}
        self.identical = sum(not one.differs for one in continuations)
        self.seed = seed
        if not found:
            raise StmError(
                f"in all {len(continuations)} continuations both texts are the same: there is nothing to compare. Take "
                "an agent that reads (`stm-rl compare`), or more episodes"
            )
        chosen = sorted(found)
        if sample is not None and sample < len(chosen):
            drawn = np.random.default_rng([seed, 0]).choice(len(chosen), sample, replace=False)
            chosen = [chosen[index] for index in sorted(drawn.tolist())]
        self.items = {name: found[name] for name in chosen}

    def queue(self, rater: str) -> list[str]:
        """Return the ids of all pairs in the order in which a rater is shown them."""
        names = list(self.items)
        order = np.random.default_rng([self.seed, 1, _number(rater)]).permutation(len(names))
        return [names[index] for index in order.tolist()]

    def sides(self, rater: str, item: str) -> tuple[str, str]:
        """Return which side is shown first to a rater, and which second."""
        swapped = np.random.default_rng([self.seed, 2, _number(rater), _number(item)]).random() < 0.5
        return (WITHOUT, WITH) if swapped else (WITH, WITHOUT)


def _number(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
