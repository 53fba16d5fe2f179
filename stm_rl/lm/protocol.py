"""What stm-rl asks of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class LanguageModel(Protocol):
    """A language model that can say how well it predicted a text.

    Attributes:
        id: Name that identifies the model in run folders and logs.
        max_tokens: Most tokens a context and its target may have together.
    """

    id: str
    max_tokens: int

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats, summed over the target's tokens.

        Args:
            contexts: ``n`` texts; a context too long for the model loses its oldest tokens.
            targets: ``n`` texts that follow them.

        Returns:
            Array of shape ``(n,)``, each at most 0 and finite.

        Raises:
            StmError: A target has no tokens or does not fit, or a score is not finite.
        """

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape ``(n, d)``."""

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        """Continue each context until the end of its line or ``max_new_tokens`` tokens."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has."""
