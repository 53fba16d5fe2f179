"""Contexts and targets as tokens of a masked language model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.lm.tokens import FittingTokenizer

logger = logging.getLogger(__name__)

Variant = Literal["word-l2r", "original"]
"""Which tokens are masked together: see :class:`stm_rl.lm.masked.MaskedLM`."""
UNSTATED_LENGTH = 512
"""Longest text of models that state none."""

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Request:
    """A context and its target as tokens.

    Attributes:
        ids: All tokens, special ones included.
        spans: For each token of the target its position, and the end of what is masked to score it.
    """

    ids: Ids
    spans: list[tuple[int, int]]


class MaskedTokenizer(FittingTokenizer):
    """Turns contexts and targets into tokens that fit a masked model.

    Attributes:
        mask_id: The token that masks others.
        pad_id: The padding token, or the mask token of a tokenizer without one: no token sees it.
        variant: The scoring variant.
    """

    def __init__(self, tokenizer: Any, model: str, max_positions: int | None, variant: Variant | None = None) -> None:
        """Wrap a fast tokenizer.

        Args:
            tokenizer: The tokenizer of transformers.
            model: Name of the model, for messages.
            max_positions: Most tokens the model can take, if it states any.
            variant: The scoring variant. By default ``word-l2r``, or ``original`` with a warning for a tokenizer
                that does not split texts into words.

        Raises:
            StmError: The tokenizer is slow, has no mask token, or splits no words and the variant needs them.
        """
        super().__init__(tokenizer, model, max_positions, UNSTATED_LENGTH)
        if tokenizer.mask_token_id is None:
            raise StmError(
                f"the tokenizer of model {model} has no mask token; expected that of a masked (BERT-type) model"
            )
        self.mask_id = int(tokenizer.mask_token_id)
        self.pad_id = self.mask_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.variant = self._choose(variant)
        sample = self._backend.encode("a")
        self._before = sample.special_tokens_mask.index(0)  # special tokens in front of a text, and after it
        self._after = sample.special_tokens_mask[::-1].index(0)
        self._types = np.array(sample.type_ids, np.int64)

    @property
    def fingerprint(self) -> str:
        """Short hash of all that decides which tokens a text has and which are masked."""
        tokenizer = blake2b(self._backend.to_str().encode(), digest_size=8).hexdigest()
        return f"{tokenizer} {self.max_tokens} {self.variant}"

    def encode(self, contexts: Sequence[str], targets: Sequence[str]) -> list[Request]:
        """Tokenize each context with its target as one text.

        A target's tokens begin with the one that holds its first letter. A context that does not fit loses its oldest
        tokens, but not the special ones in front of them.

        Raises:
            StmError: A target has no tokens, or too many.
        """
        texts = [context + target for context, target in zip(contexts, targets, strict=True)]
        encodings = self._backend.encode_batch(texts)
        return [
            self._request(encoding, len(context), target)
            for context, target, encoding in zip(contexts, targets, encodings, strict=True)
        ]

    def texts(self, texts: Sequence[str]) -> list[Ids]:
        """Return the tokens of whole texts, at least one each; those of too many lose their oldest."""
        encodings = self._backend.encode_batch(list(texts))
        return [self._fit(np.array(encoding.ids or [self.mask_id], np.int64)) for encoding in encodings]

    def types(self, lengths: Ids, width: int) -> Ids:
        """Return token types by the tokenizer's template.

        Args:
            lengths: Tokens of each text, shape ``(n,)``.
            width: Tokens of each row, padding included.

        Returns:
            Array of shape ``(n, width)``.
        """
        place = np.arange(width)
        behind = place - lengths[:, None]  # negative within a text: -1 for its last token
        within = np.minimum(place, self._before)
        types: Ids = self._types[np.where(behind < -self._after, within, np.minimum(behind, -1))]
        return types

    def _request(self, encoding: Any, start: int, target: str) -> Request:
        letters = range(start + len(target) - len(target.lstrip()), start + len(target))
        tokens = (encoding.char_to_token(letter) for letter in letters)  # none for letters the tokenizer drops
        first = next((token for token in tokens if token is not None), None)
        if first is None:
            raise StmError(f"the target {target[:60]!r} has no tokens; expected some text to score")
        end = len(encoding) - self._after
        room = self.max_tokens - self._before - self._after
        if end - first > room:
            raise StmError(
                f"the text {target[:60]!r} has {end - first} tokens but model {self.model} reads at most {room} "
                "besides special ones; split the turn or take a model with a longer context"
            )
        excess = max(0, len(encoding) - self.max_tokens)
        if excess:
            self._count_truncated(len(encoding))
        words = encoding.word_ids[first:end] if self.variant == "word-l2r" else [None] * (end - first)
        spans = [(first + i - excess, first + stop - excess) for i, stop in enumerate(_ends(words))]
        return Request(self._fit(np.array(encoding.ids, np.int64)), spans)

    def _fit(self, ids: Ids) -> Ids:
        """Leave out the oldest tokens of a text too long, but not the special ones in front of it."""
        excess = len(ids) - self.max_tokens
        return ids if excess <= 0 else np.delete(ids, slice(self._before, self._before + excess))

    def _choose(self, variant: Variant | None) -> Variant:
        """Return the variant to score with."""
        if variant not in (None, *get_args(Variant)):
            raise StmError(f"the scoring variant is {variant!r}; expected one of {', '.join(get_args(Variant))}")
        words = self._backend.encode("a b", add_special_tokens=False).word_ids
        if len(set(words) - {None}) > 1:
            return variant or "word-l2r"
        if variant == "word-l2r":
            raise StmError(
                f"the tokenizer of model {self.model} does not split texts into words, which the scoring variant "
                "word-l2r needs; take original"
            )
        if variant is None:
            logger.warning(
                "the tokenizer of model %s does not split texts into words: scores are of the variant original, "
                "in which words of several tokens look too likely", self.model
            )  # fmt: skip
        return "original"


def _ends(words: Sequence[int | None]) -> list[int]:
    """Return for each token the end of its word; a token of no word is one of its own."""
    return list(_from_last(words))[::-1]


def _from_last(words: Sequence[int | None]) -> Iterator[int]:
    end = len(words)
    for i in range(len(words) - 1, -1, -1):
        if end > i + 1 and (words[i] is None or words[i] != words[i + 1]):
            end = i + 1
        yield end
