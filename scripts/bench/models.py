"""Language models to measure with, and what their arithmetic costs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from stm_rl.errors import StmError
from stm_rl.lm import EMBEDDED, CausalLM
from stm_rl.lm.loading import source_of

QWEN3: dict[str, dict[str, Any]] = {
    "qwen3-0.6b-random": {
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "qwen3-toy-random": {
        "vocab_size": 4096,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
}
"""Models made on the spot with random weights: the published sizes of Qwen3-0.6B, and a toy to try the script with."""
MATRIX_SIZE = {"cuda": 8192, "cpu": 1024}
"""Rows of the square matrices that :func:`matrix_rate` multiplies."""


class PlainModel:
    """What a user without an engine writes: each call of ``score`` is one call of the model, with nothing kept.

    All texts of a call are padded into one batch with an attention mask; the model gives all logits, of which those of
    the targets are used.

    Attributes:
        calls: Calls of the model so far.
        fed: Tokens put through it so far, without padding.
    """

    id = "plain"

    def __init__(self, lm: CausalLM) -> None:
        """Share the model of ``lm``, but not its tokenizer: padding is set on the tokenizer itself."""
        self.model = lm.model
        self.tokenizer = copy.deepcopy(lm.tokenizer)
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.tokenizer.padding_side = "right"
        self.max_tokens = lm.max_tokens
        self.embed, self.generate, self.count_tokens = lm.embed, lm.generate, lm.count_tokens
        self.calls = self.fed = 0

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats from one call of the model, shape ``(n,)``."""
        texts = [context + target for context, target in zip(contexts, targets, strict=True)]
        batch = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.model.device)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask).logits
            values = torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[:, 1:, None])[..., 0]
        first = [batch.char_to_token(row, start) for row, start in enumerate(starts(contexts, targets))]
        position = torch.arange(1, ids.shape[1], device=ids.device)
        scored = (position >= torch.tensor(first, device=ids.device)[:, None]) & (mask[:, 1:] > 0)
        self.calls += 1
        self.fed += int(mask.sum())
        return np.asarray((values.double() * scored).sum(1).cpu().numpy(), np.float64)


def starts(contexts: Sequence[str], targets: Sequence[str]) -> list[int]:
    """Return where the first letter of each target is in its context and target together."""
    return [len(c) + len(t) - len(t.lstrip()) for c, t in zip(contexts, targets, strict=True)]


def load_model(name: str, device: str, dtype: str, compile: bool = False) -> CausalLM:
    """Return a language model: one of :data:`QWEN3`, or any that ``CausalLM.load`` knows."""
    if name not in QWEN3:
        return CausalLM.load(name, device=device, dtype=dtype, compile=compile)
    tokenizer = AutoTokenizer.from_pretrained(source_of(EMBEDDED))
    config = Qwen3Config(
        **QWEN3[name],
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.model_max_length = config.max_position_embeddings
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(config)
    model = model.to(device=device, dtype=getattr(torch, dtype))
    return CausalLM(model, tokenizer, name, compile=compile)


def body_parameters(model: Any) -> int:
    """Return the number of parameters that every token passes: all but the embeddings and the head."""
    tables = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    return sum(p.numel() for p in model.parameters() if id(p) not in tables)


def model_flops(model: Any, lengths: Sequence[int], counts: Sequence[int]) -> float:
    """Return the floating-point operations that scoring sequences takes at the least.

    Two for each parameter and token, those of causal attention (each token attends to half of its sequence on
    average), and the head at target positions (Chowdhery et al., 2022, "PaLM", appendix B, for inference).

    Args:
        model: A transformers causal model.
        lengths: Tokens of each sequence.
        counts: How many of them are the target's.
    """
    config = model.config
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = 2 * config.num_hidden_layers * width * sum(length**2 for length in lengths)
    head = 2 * config.hidden_size * config.vocab_size * sum(counts)
    return float(2 * body_parameters(model) * sum(lengths) + attention + head)


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Return how long ``work`` takes on a device."""
    if not device.startswith("cuda"):
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    work()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1000


def matrix_rate(device: str, dtype: str, repeats: int = 10) -> float:
    """Return the floating-point operations a second of a large matrix product, the median of ``repeats``."""
    size = MATRIX_SIZE["cuda" if device.startswith("cuda") else "cpu"]
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    with torch.inference_mode():
        times = [seconds_of(lambda: a @ b, device) for _ in range(repeats + 2)][2:]
    return float(2 * size**3 / np.median(times))


def check_same(a: NDArray[np.float64], b: NDArray[np.float64], what: str, exact: bool) -> float:
    """Return the largest difference of scores in nats.

    Raises:
        StmError: It is above 1e-4 although the model computes in float32.
    """
    difference = float(np.abs(a - b).max(initial=0.0))
    if exact and difference > 1e-4:
        raise StmError(f"{what} differ by {difference:.2e} nats; expected at most 1e-4: one of them is wrong")
    return difference
