"""Texts drawn from a causal language model, so that two contexts are continued with the same luck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from stm_rl.errors import StmError
from stm_rl.lm.protocol import LanguageModel

BATCH = 32
"""Texts written together."""


class _SameLuck(LogitsProcessor):
    """Adds Gumbel noise to the logits: the likeliest token is then a draw from the model (the Gumbel-max trick).

    The noise of a row depends on its seed and on how many tokens were written, so rows with the same seed have the
    same luck.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, width: int) -> None:
        self.seeds, self.temperature, self.width = seeds, temperature, width

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return the logits with noise."""
        step = input_ids.shape[1] - self.width
        noise = [np.random.default_rng([seed, step]).gumbel(size=scores.shape[1]) for seed in self.seeds]
        moved = torch.as_tensor(np.stack(noise), dtype=torch.float32, device=scores.device)
        return scores.float() / self.temperature + moved  # type: ignore[return-value]


def sample(
    lm: LanguageModel, contexts: Sequence[str], seeds: Sequence[int], temperature: float, max_new_tokens: int
) -> list[str]:
    """Continue each context until the end of its line, with tokens drawn at a temperature.

    Args:
        lm: A causal model of transformers on this machine.
        contexts: ``n`` texts.
        seeds: A seed for each, at least 0; contexts with the same seed are continued with the same random numbers.
        temperature: More than 0; 1 draws from the model as it is.
        max_new_tokens: Most tokens of a text.

    Raises:
        StmError: The temperature is out of range, or the model cannot be drawn from.
    """
    if not 0 < temperature < np.inf:
        raise StmError(f"temperature is {temperature}; expected more than 0, such as 0.8")
    model, tokenizer, text = (getattr(lm, name, None) for name in ("model", "tokenizer", "text"))
    if not (hasattr(model, "generate") and hasattr(text, "texts") and getattr(model, "can_generate", bool)()):
        raise StmError(
            f"texts of {lm.id} cannot be drawn at a temperature; take a causal model on this machine (--lm), or the "
            "likeliest text (--samples greedy)"
        )
    encoded = text.texts(contexts, lm.max_tokens - max_new_tokens)  # type: ignore[union-attr]
    texts: list[str] = []
    for first in range(0, len(encoded), BATCH):
        rows = slice(first, first + BATCH)
        texts += _write(model, tokenizer, text, encoded[rows], seeds[rows], temperature, max_new_tokens)
    return texts


def _write(
    model: Any,
    tokenizer: Any,
    text: Any,
    encoded: Sequence[list[int]],
    seeds: Sequence[int],
    temperature: float,
    max_new_tokens: int,
) -> list[str]:
    width = max(map(len, encoded))
    ids = torch.tensor([[text.pad_id] * (width - len(row)) + row for row in encoded], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=text.pad_id,
            stop_strings=["\n"],
            tokenizer=tokenizer,
            logits_processor=LogitsProcessorList([_SameLuck(seeds, temperature, width)]),
        )
    written = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return [one.split("\n")[0].strip() for one in written]
