"""Text as numbers: what a small policy sees of a turn.

Policies see no text. Each turn becomes a vector (which words it holds), a few plain features (how
long, how many names and numbers, is it a question), and each pair of turns a similarity.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stm_rl.transcript import Turn

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
TURN_FEATURES = ("length", "question", "names", "numbers", "first_person", "salience")
"""Plain features of a turn, in order; see :func:`turn_features`."""

MAX_WORDS = 16
"""Most content words of a turn that count for :func:`overlap`."""

STOP_WORDS = frozenset(
    "a about after again all also am an and any are as at be been before being but by can could did do does "
    "for from get got had has have he her here him his how i i'd i'll i'm i've if in instead into is isn't it "
    "it's its just like may me might more must my no not now of off oh ok okay on one or our out please she "
    "should so some than that that's the their them then there they this to too up us was we we'll were what "
    "when where which who will with won't would yes you your".split()
)


class TextEncoder(Protocol):
    """Turns texts into vectors.

    Attributes:
        id: Name that identifies the encoder in saved policies.
        dimension: Length of each vector.
    """

    id: str
    dimension: int

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape ``(n, dimension)``, of length about 1."""


class HashedWords:
    """Sum of fixed random unit vectors, one for each distinct word, over the root of their number.

    Needs no training, no vocabulary and no model: a word's vector is drawn from a generator seeded
    by its hash (random projection of a bag of words; Johnson and Lindenstrauss, 1984). Texts that
    share words point the same way, and a linear layer can read off whether a word is there.
    """

    def __init__(self, dimension: int = 128) -> None:
        self.dimension = dimension
        self.id = f"hashed-words-{dimension}"
        self._word = lru_cache(maxsize=100_000)(self._draw)

    def _draw(self, word: str) -> NDArray[np.float32]:
        seed = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
        vector = np.random.default_rng(seed).standard_normal(self.dimension)
        return np.asarray(vector / np.linalg.norm(vector), np.float32)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape ``(n, dimension)``."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            words = dict.fromkeys(word.lower() for word in WORD.findall(text))
            if words:
                vectors[row] = sum(map(self._word, words)) / np.sqrt(len(words))
        return vectors


def turn_features(turn: Turn) -> NDArray[np.float32]:
    """Return the plain features of a turn, shape ``(len(TURN_FEATURES),)``, each 0 to 1.

    ``salience`` adds up what heuristics go by: names, numbers and the first person count for a
    turn, a question counts against it.
    """
    words = WORD.findall(turn.text)
    names = sum(word[0].isupper() for word in words[1:] if word.lower() not in STOP_WORDS)
    names += bool(words) and words[0][0].isupper() and words[0].lower() not in STOP_WORDS
    numbers = sum(word[0].isdigit() for word in words)
    first = any(word.lower() in {"i", "i'm", "i'll", "i've", "i'd", "my", "me", "we"} for word in words)
    question = turn.text.rstrip().endswith("?")
    salience = max(0.0, min(names, 3) + min(numbers, 2) + 0.5 * first - 2.0 * question)
    values = (len(words) / 32, question, names / 4, numbers / 4, first, salience / 6)
    return np.clip(np.array(values, np.float32), 0.0, 1.0)


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    sibilant = word.endswith(("ses", "xes", "zes", "ches", "shes"))
    for suffix in ("ing", "'s", "ed", "es" if sibilant else "s"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


def content_words(text: str) -> frozenset[str]:
    """Return the stems of a text's words that are not stop words."""
    return frozenset(_stem(word) for word in map(str.lower, WORD.findall(text)) if word not in STOP_WORDS)


def word_ids(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return hashes of each text's content words, shape ``(n, MAX_WORDS)``, padded with -1."""
    ids = np.full((len(texts), MAX_WORDS), -1, np.int64)
    for row, text in enumerate(texts):
        words = sorted(_word_id(word) for word in content_words(text))[:MAX_WORDS]
        ids[row, : len(words)] = words
    return ids


@lru_cache(maxsize=100_000)
def name_id(name: str) -> int:
    """Return the hash of the first content word of a name, by which texts address who bears it; -1 without one."""
    words = (word.lower() for word in WORD.findall(name))
    return next((_word_id(_stem(word)) for word in words if word not in STOP_WORDS), -1)


@lru_cache(maxsize=100_000)
def _word_id(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=7).digest(), "little")


def overlap(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the cosine of texts as sets of content words, 0 to 1.

    Args:
        a: Word ids of some texts, shape ``(..., MAX_WORDS)``.
        b: Word ids of other texts; the leading shapes broadcast.
    """
    valid_a, valid_b = a >= 0, b >= 0
    shared = ((a[..., :, None] == b[..., None, :]) & valid_a[..., :, None]).any(-1).sum(-1)
    sizes = np.maximum(valid_a.sum(-1), 1) * np.maximum(valid_b.sum(-1), 1)
    return np.asarray(shared / np.sqrt(sizes), np.float32)
