"""What causal and masked models through Hugging Face transformers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from stm_rl.lm.forward import Budget, Workers
from stm_rl.lm.loading import weights_hash
from stm_rl.lm.tokens import FittingTokenizer

Text = TypeVar("Text", bound=FittingTokenizer)

PROBE_TOKENS = 2048
"""Tokens of the pass that measures memory."""


class TransformersLM(Generic[Text]):
    """A model of transformers with its tokenizer, a budget of tokens a pass, and threads to run passes on.

    Attributes:
        id: The name or path it was loaded from.
        max_tokens: Most tokens of a context and its target together, special tokens included.
        tokens: Tokens put through the model for scores so far, without padding.
        padding: Padding tokens so far.
    """

    def __init__(self, model: Any, tokenizer: Any, text: Text, id: str, batch_tokens: int | None) -> None:
        """Wrap a loaded model; ``text`` turns texts into its tokens."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.text = text
        self.id = id
        self.max_tokens = text.max_tokens
        self.tokens = self.padding = 0
        self._budget = Budget(model.device, batch_tokens)
        self._workers = Workers(model.device)

    @property
    def batch_tokens(self) -> int:
        """Most tokens, padding included, in one forward pass."""
        return self._budget.tokens

    @property
    def truncated(self) -> int:
        """How many contexts have lost their oldest tokens so far because they did not fit."""
        return self.text.truncated

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the weights; see :func:`stm_rl.lm.loading.weights_hash`."""
        return weights_hash(self.model)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""
        return self.text.count(texts)

    def _move(self, array: NDArray[np.int64]) -> torch.Tensor:
        """Return an array on the model's device; the copy to a GPU does not wait for what runs there."""
        tensor = torch.from_numpy(array)
        if self.model.device.type == "cuda":
            return tensor.pin_memory().to(self.model.device, non_blocking=True)
        return tensor.to(self.model.device)

    def _mean(self, states: torch.Tensor, lengths: NDArray[np.int64]) -> torch.Tensor:
        """Return the mean of the first states of each row, shape ``(len(lengths), hidden size)``."""
        hidden = states[: len(lengths)].float()
        counts = self._move(lengths)[:, None]
        keep = torch.arange(hidden.shape[1], device=hidden.device) < counts
        return (hidden * keep[..., None]).sum(1) / counts
