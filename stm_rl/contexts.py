"""Contexts that fit a language model: what does not fit is left out in whole lines, oldest first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, takewhile

from stm_rl.lm.prompt import PromptFormat
from stm_rl.lm.protocol import LanguageModel

SPECIAL_TOKENS = 8
"""Tokens kept free for those that a tokenizer adds to a text."""


class Contexts:
    """Builds contexts that a model can read whole.

    If reads, window and target have more tokens together than the model allows, reads are left out, oldest first, and
    if that is not enough turns of the window, oldest first. The target is never cut: one that does not fit alone is an
    error of the model.

    Tokens are counted only where a text has more bytes than the model allows tokens: a token stands for one byte at
    least. (Tokenizers may make more of a few rare characters; then the model cuts the context itself, and counts it.)
    They are counted line by line, and once for each line, so long histories cost no more than what fits of them.
    """

    def __init__(self, prompt: PromptFormat, lm: LanguageModel | None) -> None:
        """Build contexts for a model; without one, everything fits."""
        self.prompt, self.lm = prompt, lm
        self._tokens = lru_cache(maxsize=100_000)(self._count)

    def __call__(
        self, reads: Sequence[str], window: Sequence[str], speaker: str, target: str, spare: int = 0
    ) -> tuple[str, int]:
        """Return the text in front of a target, and how many lines were left out of it.

        Args:
            reads: Lines read from memory, oldest first.
            window: Lines of the window, oldest first.
            speaker: Who says the target; may be empty.
            target: The text that is to be scored.
            spare: Tokens to keep free, for text that the model is to write.
        """
        if self.lm is None:
            return self.prompt.context(reads, window, speaker), 0
        count = len(reads) + len(window)
        limit = self.lm.max_tokens - SPECIAL_TOKENS - spare
        window = window[-max(limit, 1) :]  # no line has less than one token
        context = self.prompt.context(reads, window, speaker)
        if len((context + target).encode()) > limit:
            room = limit - self._tokens(self.prompt.context((), (), speaker) + target)
            kept, used = self._newest(window, "", room)
            if kept == len(window):
                used += self._tokens(self.prompt.read_header) + self._tokens(self.prompt.window_header)
                reads = reads[len(reads) - self._newest(reads, self.prompt.read_prefix, room - used)[0] :]
            else:
                reads, window = (), window[len(window) - kept :]
            context = self.prompt.context(reads, window, speaker)
        return context, count - len(reads) - len(window)

    def _newest(self, lines: Sequence[str], prefix: str, room: int) -> tuple[int, int]:
        """Return how many of the newest lines fit into ``room`` tokens, and how many tokens they have."""
        totals = accumulate(self._tokens(f"{prefix}{text}\n") for text in reversed(lines))
        fitting = list(takewhile(lambda total: total <= room, totals))
        return len(fitting), fitting[-1] if fitting else 0

    def _count(self, text: str) -> int:
        return self.lm.count_tokens([text])[0] if self.lm and text else 0
