"""Contexts and targets as tokens of a causal language model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from stm_rl.errors import StmError

logger = logging.getLogger(__name__)

UNSTATED_LENGTH = 2048
"""Context length of models that state none, such as those without position embeddings."""


class FittingTokenizer:
    """A fast tokenizer whose texts have to fit a model.

    Attributes:
        max_tokens: Most tokens of a text: those of a context and its target together.
        truncated: How many contexts have lost their oldest tokens so far because they did not fit.
    """

    def __init__(self, tokenizer: Any, model: str, max_positions: int | None, unstated: int) -> None:
        """Wrap a fast tokenizer.

        Args:
            tokenizer: The tokenizer of transformers.
            model: Name of the model, for messages.
            max_positions: Most tokens the model allows, if it states any.
            unstated: Most tokens if neither model nor tokenizer states any.

        Raises:
            StmError: The tokenizer is slow.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise StmError(f"model {model} has only a slow tokenizer; stm-rl needs a fast one (a tokenizer.json file)")
        self.tokenizer, self.model = tokenizer, model
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()  # a tokenizer file may ask for either
        self._backend.no_truncation()
        limits = (max_positions, tokenizer.model_max_length)
        self.max_tokens = int(min((limit for limit in limits if limit and limit < 10**9), default=unstated))
        self.truncated = 0

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""
        return [len(encoding) for encoding in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def _count_truncated(self, length: int) -> None:
        """Count a context of ``length`` tokens, which is too long; say so the first time."""
        if not self.truncated:
            logger.warning(
                "a context of %d tokens exceeds the %d of model %s: its oldest tokens are left out "
                "(said once; the number is counted)", length, self.max_tokens, self.model
            )  # fmt: skip
        self.truncated += 1


class PairTokenizer(FittingTokenizer):
    """Turns contexts and targets into token ids of a causal model."""

    def __init__(self, tokenizer: Any, model: str, max_positions: int | None) -> None:
        """Wrap a fast tokenizer; see :class:`FittingTokenizer`."""
        super().__init__(tokenizer, model, max_positions, UNSTATED_LENGTH)
        self._line = lru_cache(maxsize=100_000)(self._tokenize_line)
        self._last_line = lru_cache(maxsize=100_000)(self._tokenize_last_line)
        self._prefix: list[int] = self._backend.encode("").ids
        self._break = self._tokenize_line("\n")
        self._lines_stand_alone = self._check_lines()

    @property
    def pad_id(self) -> int:
        """A token to pad with: that for padding, or the one that ends texts, or any; none is ever looked at."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def encode(self, contexts: Sequence[str], targets: Sequence[str]) -> list[tuple[list[int], int]]:
        """Tokenize each context with its target; return the ids and how many of them are the target's.

        Both are tokenized as one text, since a tokenizer may treat the start of a text in its own
        way; the target's tokens begin with the one that holds its first letter. A context that does not fit
        loses its oldest tokens, but not the special ones in front of them.

        Raises:
            StmError: A target has no tokens, or too many.
        """
        encode = self._encode_lines if self._lines_stand_alone else self._encode_whole
        pairs = []
        for (ids, count), target in zip(encode(contexts, targets), targets, strict=True):
            if not count:
                raise StmError(f"the target {target[:60]!r} has no tokens; expected some text to score")
            if count == len(ids):  # an empty context, and a tokenizer that adds no start token
                start = self.tokenizer.bos_token_id
                ids = [start if start is not None else self.pad_id, *ids]
            if count + 1 > self.max_tokens:
                raise StmError(
                    f"the text {target[:60]!r} has {count} tokens but model {self.model} reads at most "
                    f"{self.max_tokens}; split the turn or take a model with a longer context"
                )
            pairs.append((self._cut(ids, count), count))
        return pairs

    def texts(self, texts: Sequence[str], room: int | None = None) -> list[list[int]]:
        """Return the ids of whole texts; those of more than ``room`` tokens lose their oldest."""
        room = room or self.max_tokens
        if self._lines_stand_alone and not any("\n" in text for text in texts):
            return [self._last([*self._prefix, *self._line(text)], room) for text in texts]
        return [self._last(encoding.ids, room) for encoding in self._backend.encode_batch(list(texts))]

    def _cut(self, ids: list[int], count: int) -> list[int]:
        if len(ids) <= self.max_tokens:
            return ids
        self._count_truncated(len(ids))
        return self._last(ids, self.max_tokens, count)

    def _last(self, ids: list[int], room: int, count: int = 1) -> list[int]:
        """Return the last of the ids that fit, after the special tokens that begin every text, if they fit too."""
        if len(ids) <= room:
            return ids
        start = len(self._prefix)
        keep = self._prefix if ids[:start] == self._prefix and start + count <= room else []
        return [*keep, *ids[len(ids) - room + len(keep) :]]

    def _encode_whole(self, contexts: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[list[int], int]]:
        """Yield the ids of each context with its target, and how many are the target's."""
        texts = [context + target for context, target in zip(contexts, targets, strict=True)]
        encodings = self._backend.encode_batch(texts)
        for context, target, encoding in zip(contexts, targets, encodings, strict=True):
            yield encoding.ids, _target_tokens(encoding, context, target)

    def _encode_lines(self, contexts: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[list[int], int]]:
        """Do the same line by line; a turn's line is in many contexts but is tokenized once."""
        for context, target in zip(contexts, targets, strict=True):
            *lines, start = context.split("\n")
            last, count = self._last_line(start, target)
            ids = [*self._prefix]
            for text in lines:
                ids += self._line(text)
                ids += self._break
            yield ids + last, count

    def _tokenize_line(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _tokenize_last_line(self, start: str, target: str) -> tuple[list[int], int]:
        encoding = self._backend.encode(start + target, add_special_tokens=False)
        return encoding.ids, _target_tokens(encoding, start, target)

    def _check_lines(self) -> bool:
        """Return whether a text's tokens are surely those of its lines.

        They are if the tokenizer first splits at line breaks and changes nothing before that, and if all it
        adds is a prefix.
        """
        parts = json.loads(self._backend.to_str())
        first = ((parts["pre_tokenizer"] or {}).get("pretokenizers") or [{}])[0]
        splits = first.get("pattern") == {"Regex": r"\n"} and first.get("behavior") == "Isolated"
        adds_prefix = self._backend.encode("a").ids == [*self._prefix, *self._tokenize_line("a")]
        return bool(splits and parts["normalizer"] is None and adds_prefix)


def _target_tokens(encoding: Any, context: str, target: str) -> int:
    """Return how many tokens of ``context + target`` are the target's: those from its first letter on."""
    first = encoding.char_to_token(len(context) + len(target) - len(target.lstrip()))
    return 0 if first is None else len(encoding.ids) - first
