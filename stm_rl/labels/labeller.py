"""Labels transcripts: scores pairs in batches, keeps what is known on disk, and never scores a transcript twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.labels.pairs import PairSettings, pairs_of
from stm_rl.labels.store import LabelStore
from stm_rl.labels.table import GainTable
from stm_rl.prepare import Prepared, Preparer

BATCH = 8_192
"""Pairs scored together, or those of one transcript if it has more: what an interruption can lose."""


class Labeller:
    """Makes the gain tables of transcripts.

    Args:
        prepare: Prepares transcripts and scores turns. Its language model, window and prompt make the labels.
        settings: Which pairs are scored.
        store: Where labels are kept between runs, if they are.

    Attributes:
        scored: Pairs scored so far; those found in the store do not count.
    """

    def __init__(
        self, prepare: Preparer, settings: PairSettings | None = None, store: LabelStore | None = None
    ) -> None:
        self.prepare = prepare
        self.settings = settings or PairSettings()
        self.store = store
        self.scored = 0
        if store is not None:
            store.claim(self.key)

    @property
    def key(self) -> dict[str, Any]:
        """What labels depend on besides the transcript."""
        prepare = self.prepare
        by_vector = {"encoder": prepare.encoder.id} if self.settings.prefilter == "embedding" else {}
        return {
            "lm": prepare.scorer.lm_name,
            "window": prepare.window,
            "prompt": list(asdict(prepare.prompt).values()),
            **asdict(self.settings),
            **by_vector,
        }

    def label(
        self, items: Sequence[Prepared], on_transcripts: Callable[[int], None] = lambda count: None
    ) -> list[GainTable]:
        """Return the gain table of each transcript.

        Args:
            items: The transcripts; equal ones are scored once.
            on_transcripts: Called with the number of transcripts just done, for a progress bar.
        """
        known: dict[bytes, GainTable] = {}
        waiting: dict[bytes, tuple[Prepared, NDArray[np.int32]]] = {}
        digests = [digest(item) for item in items]
        done = 0
        for number, (item, key) in enumerate(zip(items, digests, strict=True), 1):
            if key not in known and key not in waiting:
                stored = None if self.store is None else self.store.get(key)
                if stored is None:
                    waiting[key] = item, pairs_of(item, self.prepare.window, self.settings)
                else:
                    known[key] = stored
            if number == len(items) or sum(len(pairs) for _, pairs in waiting.values()) >= BATCH:
                known |= self._score(waiting)
                waiting.clear()
                on_transcripts(number - done)
                done = number
        return [known[key] for key in digests]

    def _score(self, waiting: dict[bytes, tuple[Prepared, NDArray[np.int32]]]) -> dict[bytes, GainTable]:
        asked = [(item, step + 1, (turn,)) for item, pairs in waiting.values() for turn, step in pairs.tolist()]
        gains = self.prepare.gains(asked).astype(np.float32) if asked else np.zeros(0, np.float32)
        self.scored += len(asked)
        ends = np.cumsum([len(pairs) for _, pairs in waiting.values()])
        found = (
            {
                key: GainTable(pairs[:, 0], pairs[:, 1], own)
                for (key, (_, pairs)), own in zip(waiting.items(), np.split(gains, ends[:-1]), strict=True)
            }
            if waiting
            else {}
        )
        if self.store is not None:
            self.store.put(found)
        return found


def digest(item: Prepared) -> bytes:
    """Return a hash of all that labels see of a transcript: lines, targets, and what may be written."""
    told = "\0".join([*item.lines, *item.targets, item.writable.tobytes().hex()])
    return blake2b(told.encode(), digest_size=16).digest()
