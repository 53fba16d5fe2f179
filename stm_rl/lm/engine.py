"""The scoring engine between environments and a language model: no score is computed twice."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from stm_rl.lm.protocol import LanguageModel


class ScoringEngine:
    """Deduplicates and caches the scores of one language model.

    Attributes:
        lm: The language model.
        requests: Scores asked for.
        computed: Scores the model computed; the others were known.
        seconds: Time spent in the model.
        written: Texts the model wrote.
    """

    def __init__(self, lm: LanguageModel, cache_size: int = 2_000_000) -> None:
        """Wrap ``lm``; remember at most ``cache_size`` scores (about 150 bytes each)."""
        self.lm = lm
        self.cache_size = cache_size
        self.requests = 0
        self.computed = 0
        self.seconds = 0.0
        self.written = 0
        self._cache: OrderedDict[bytes, float] = OrderedDict()
        self._texts: OrderedDict[tuple[str, int], str] = OrderedDict()

    @property
    def lm_name(self) -> str:
        """The model's name and, where it has one, the fingerprint of its weights: two models never share it."""
        return "-".join(filter(None, (self.lm.id, getattr(self.lm, "fingerprint", ""))))

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats, shape ``(n,)``; see the language model's ``score``."""
        keys = [
            blake2b(f"{context}\0{target}".encode(), digest_size=16).digest()
            for context, target in zip(contexts, targets, strict=True)
        ]
        missing = {key: row for row, key in enumerate(keys) if key not in self._cache}
        if missing:
            rows = list(missing.values())
            start = time.perf_counter()
            scores = self.lm.score([contexts[row] for row in rows], [targets[row] for row in rows])
            self.seconds += time.perf_counter() - start
            self._cache.update(zip(missing, scores.tolist(), strict=True))
        self.requests += len(keys)
        self.computed += len(missing)
        result = np.array([self._cache[key] for key in keys])
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return result

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        """Return what the model writes after each context; see the language model's ``generate``.

        A model writes greedily, so the same context always gives the same text and is asked about once.
        """
        keys = [(context, max_new_tokens) for context in contexts]
        missing = [key for key in dict.fromkeys(keys) if key not in self._texts]
        if missing:
            start = time.perf_counter()
            texts = self.lm.generate([context for context, _ in missing], max_new_tokens)
            self.seconds += time.perf_counter() - start
            self.written += len(missing)
            self._texts.update(zip(missing, texts, strict=True))
        result = [self._texts[key] for key in keys]
        while len(self._texts) > self.cache_size // 20:
            self._texts.popitem(last=False)
        return result
