"""The scoring engine between environments and a language model: no score is computed twice."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.lm.cache import ScoreCache
from stm_rl.lm.checks import check_finite
from stm_rl.lm.protocol import LanguageModel


class ScoringEngine:
    """Deduplicates the scores of one language model, and looks for them in memory and on disk before it asks the model.

    Threads may share an engine; the model is asked by one of them at a time.

    Attributes:
        lm: The language model.
        cache: Keeps scores on disk; none for memory only.
        requests: Scores asked for.
        computed: Scores the model computed.
        cached: Scores found on disk; the others were in memory.
        seconds: Time spent in the model.
        written: Texts the model wrote.
    """

    def __init__(self, lm: LanguageModel, cache_size: int = 2_000_000, cache: ScoreCache | None = None) -> None:
        """Wrap ``lm``; remember at most ``cache_size`` scores in memory (about 150 bytes each)."""
        self.lm = lm
        self.cache_size = cache_size
        self.cache = cache
        self.requests = 0
        self.computed = 0
        self.cached = 0
        self.seconds = 0.0
        self.written = 0
        # In memory there are scores of this model only. On disk its identity is part of each key, at no cost as a salt.
        self._salt = blake2b(self.cache_key.encode(), digest_size=16).digest() if cache else b""
        self._scores: OrderedDict[bytes, float] = OrderedDict()
        self._texts: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._asking = threading.Lock()
        self._counting = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "scores")

    def __deepcopy__(self, memo: dict[int, Any]) -> ScoringEngine:
        """Return the engine itself: Gymnasium copies what environments are made with, and a model is there once."""
        return self

    @property
    def lm_name(self) -> str:
        """The model's name and, where it has one, the fingerprint of its weights: two models never share it."""
        return "-".join(filter(None, (self.lm.id, getattr(self.lm, "fingerprint", ""))))

    @property
    def cache_key(self) -> str:
        """All that scores depend on besides their texts.

        These are the model's name, how many tokens it reads, and its ``cache_key`` (weights, tokenizer and dtype) or
        else ``fingerprint`` (weights). A model that has neither, such as a remote one, is known by its name alone.
        """
        identity = getattr(self.lm, "cache_key", "") or getattr(self.lm, "fingerprint", "")
        return json.dumps([self.lm.id, self.lm.max_tokens, identity])

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats, shape ``(n,)``; see the language model's ``score``."""
        keys = self._keys(contexts, targets)
        known = self._remembered(keys)
        return self._find(keys, contexts, targets) if known is None else known

    def submit(self, contexts: Sequence[str], targets: Sequence[str]) -> Future[NDArray[np.float64]]:
        """Begin :meth:`score` on the engine's own thread, if anything is not in memory; return its result to come.

        The future's ``result()`` is what ``score`` would return, and raises what it would raise.
        """
        keys = self._keys(contexts, targets)
        known = self._remembered(keys)
        if known is None:
            return self._worker.submit(self._find, keys, tuple(contexts), tuple(targets))
        future: Future[NDArray[np.float64]] = Future()
        future.set_result(known)
        return future

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        """Return what the model writes after each context; see the language model's ``generate``.

        A model writes greedily, so the same context always gives the same text and is asked about once.
        """
        keys = [(context, max_new_tokens) for context in contexts]
        with self._asking:
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

    def _keys(self, contexts: Sequence[str], targets: Sequence[str]) -> list[bytes]:
        salt = self._salt
        keys = [  # the length tells context and target apart
            blake2b(f"{len(context)} {context}{target}".encode(), digest_size=16, salt=salt).digest()
            for context, target in zip(contexts, targets, strict=True)
        ]
        with self._counting:
            self.requests += len(keys)
        return keys

    def _remembered(self, keys: Sequence[bytes]) -> NDArray[np.float64] | None:
        """Return the scores if all of them are in memory."""
        scores = self._scores
        try:
            return np.array([scores[key] for key in keys], np.float64)
        except KeyError:
            return None

    def _find(self, keys: Sequence[bytes], contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return the scores, from memory, disk or the model.

        One thread at a time: what another is computing now is in memory when it is this one's turn.
        """
        with self._asking:
            missing = {key: row for row, key in enumerate(keys) if key not in self._scores}
            if self.cache and missing:
                found = self.cache.get(missing)
                self._scores.update(found)
                self.cached += len(found)
                missing = {key: row for key, row in missing.items() if key not in found}
            if missing:
                self._compute(missing, contexts, targets)
            result = np.array([self._scores[key] for key in keys])
            while len(self._scores) > self.cache_size:
                self._scores.popitem(last=False)
        return result

    def _compute(self, missing: dict[bytes, int], contexts: Sequence[str], targets: Sequence[str]) -> None:
        rows = list(missing.values())
        start = time.perf_counter()
        scores = self.lm.score([contexts[row] for row in rows], [targets[row] for row in rows])
        self.seconds += time.perf_counter() - start
        self.computed += len(rows)
        check_finite(scores, [targets[row] for row in rows], self.lm.id, "check the model's weights")
        new = dict(zip(missing, scores.tolist(), strict=True))
        self._scores.update(new)
        if self.cache:
            self.cache.put(new, self.lm.id)
