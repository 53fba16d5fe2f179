"""Text encoders that use a language model, and the default encoder."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stm_rl.features import HashedWords, TextEncoder
from stm_rl.lm.protocol import LanguageModel
from stm_rl.lm.shared import load_engine


class LMEmbedding:
    """A language model's embedding of a text, scaled to unit length.

    Says what kind of thing is said, where words alone say which: on the dialogue world a linear
    probe tells plans from gossip without an error after 30 dialogues, against 4% to 7% of errors
    with hashed words. Unit length keeps texts from drowning the few plain features beside them (at
    length 16 a policy learns half as much). Embeddings longer than ``dimension`` go through a fixed random projection.

    Args:
        lm: The language model.
        dimension: Most numbers in a vector.
        keep: How many texts to remember.
    """

    def __init__(self, lm: LanguageModel, dimension: int = 128, keep: int = 100_000) -> None:
        self.lm, self.keep = lm, keep
        size = lm.embed(["a"]).shape[1]
        self.dimension = min(size, dimension)
        weights = getattr(lm, "fingerprint", "")
        self.id = "-".join(filter(None, ("lm", lm.id, weights, str(self.dimension))))
        self.seconds = 0.0
        self._projection: NDArray[np.float32] | None = None
        if size > dimension:
            normal = np.random.default_rng(0).standard_normal((size, dimension))
            self._projection = (normal / np.sqrt(size)).astype(np.float32)
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape ``(n, dimension)``."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            start = time.perf_counter()
            vectors = self.lm.embed(missing)
            self.seconds += time.perf_counter() - start
            if self._projection is not None:
                vectors = vectors @ self._projection
            vectors = vectors / np.sqrt((vectors**2).sum(1, keepdims=True) + 1e-12)
            self._known.update(zip(missing, vectors.astype(np.float32), strict=True))
        result = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            result[row] = self._known[text]
        while len(self._known) > self.keep:
            self._known.popitem(last=False)
        return result


class Joined:
    """Several encoders side by side."""

    def __init__(self, *encoders: TextEncoder) -> None:
        self.encoders = encoders
        self.dimension = sum(encoder.dimension for encoder in encoders)
        self.id = "+".join(encoder.id for encoder in encoders)

    @property
    def seconds(self) -> float:
        """Time spent in language models."""
        return sum(getattr(encoder, "seconds", 0.0) for encoder in self.encoders)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape ``(n, dimension)``."""
        return np.concatenate([encoder(texts) for encoder in self.encoders], axis=1)


@lru_cache(maxsize=1)
def default_encoder() -> Joined:
    """Return the encoder environments use: hashed words beside the embedded model's embedding.

    It is the same whichever model scores, so a policy trained with one model works with another.
    """
    return Joined(HashedWords(), LMEmbedding(load_engine().lm))
