"""The limit: transformers' forward pass of the same sequences with no bookkeeping at all, and TRL's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.models import PlainModel, seconds_of, starts
from stm_rl.errors import StmError

Request = tuple[str, str]
"""A context and a target."""
BUDGETS = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 8192, 16_384, 32_768, 65_536)}
"""Padded tokens of a batch to choose from."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Requests as tokens.

    Attributes:
        ids: Tokens of each context with its target.
        counts: How many of them are the target's.
    """

    ids: list[list[int]]
    counts: list[int]

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(map(len, self.ids))

    def part(self, first: int, last: int) -> Sequences:
        """Return the sequences from ``first`` to before ``last``."""
        return Sequences(self.ids[first:last], self.counts[first:last])


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of similar length, ready on the device.

    Attributes:
        rows: Numbers of the sequences.
        ids: Their tokens, padded on the right, shape ``(n, width)``.
        mask: 1 where there is a token, shape ``(n, width)``.
        labels: The tokens of targets, -100 elsewhere, shape ``(n, width)``.
        where: Row and position (shifted by one) of each token of a target.
    """

    rows: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    where: tuple[torch.Tensor, torch.Tensor]


Forward = Callable[[Any, Batch], torch.Tensor]
"""Gives the score of each sequence of a batch, shape ``(n,)``."""


def tokenize(plain: PlainModel, requests: Sequence[Request]) -> Sequences:
    """Return requests as tokens.

    Raises:
        StmError: One is longer than the model allows.
    """
    ids, counts = [], []
    for context, target in requests:
        encoding = plain.tokenizer(context + target)
        first = encoding.char_to_token(starts([context], [target])[0])
        ids.append(encoding["input_ids"])
        counts.append(len(ids[-1]) - first)
        if len(ids[-1]) > plain.max_tokens:
            raise StmError(
                f"a context and its target have {len(ids[-1])} tokens, but the model reads at most {plain.max_tokens}; "
                "take fewer reads or a smaller window"
            )
    return Sequences(ids, counts)


def batches(sequences: Sequences, budget: int, device: torch.device) -> list[Batch]:
    """Return the sequences sorted by length, in batches of at most ``budget`` padded tokens."""
    groups: list[list[int]] = [[]]
    for row in sorted(range(len(sequences.ids)), key=lambda row: len(sequences.ids[row])):
        if groups[-1] and (len(groups[-1]) + 1) * len(sequences.ids[row]) > budget:
            groups.append([])
        groups[-1].append(row)
    return [_batch(sequences, rows, device) for rows in groups]


def _batch(sequences: Sequences, rows: list[int], device: torch.device) -> Batch:
    width = len(sequences.ids[rows[-1]])
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        tokens = torch.tensor(sequences.ids[row])
        first, last = len(tokens) - sequences.counts[row], len(tokens)
        ids[number, :last], mask[number, :last], labels[number, first:last] = tokens, 1, tokens[first:]
    where = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    ids, mask, labels = ids.to(device), mask.to(device), labels.to(device)
    return Batch(rows, ids, mask, labels, (where[0].to(device), where[1].to(device)))


def full_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Score a batch from the logits of every token."""
    logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
    values = torch.log_softmax(logits.float(), -1).gather(-1, batch.ids[:, 1:, None])[..., 0]
    return _sum(batch, values[batch.where])


def target_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Score a batch from logits at the targets only."""
    hidden = model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1][batch.where]
    logits = model.get_output_embeddings()(hidden).float()
    return _sum(batch, -torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:][batch.where], reduction="none"))


def trl_selective(model: Any, batch: Batch) -> torch.Tensor:
    """Score a batch with ``trl.trainer.utils.selective_log_softmax`` on the logits of every token."""
    from trl.trainer.utils import selective_log_softmax  # type: ignore[import-not-found]

    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[:, :-1]
    return _sum(batch, selective_log_softmax(logits, batch.ids[:, 1:])[batch.where])


def trl_fused(model: Any, batch: Batch) -> torch.Tensor:
    """Score a batch with the fused head of TRL's trainers, ``trl.trainer.utils.add_fused_lm_head``."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model)
    try:
        values = model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels, fused_lm_head=True)
    finally:
        del model.forward  # it had put a forward of its own over the model's
    return _sum(batch, values.log_probs[batch.where])


def _sum(batch: Batch, values: torch.Tensor) -> torch.Tensor:
    """Return the sums of the targets' values by sequence."""
    sums = torch.zeros(len(batch.rows), dtype=torch.float64, device=values.device)
    return sums.index_add_(0, batch.where[0], values.double())


def run(forward: Forward, model: Any, ready: Sequence[Batch], count: int) -> tuple[float, NDArray[np.float64]]:
    """Return the seconds it takes to score all batches, and the ``count`` scores in nats."""
    results: list[torch.Tensor] = []
    with torch.inference_mode():
        seconds = seconds_of(lambda: results.extend(forward(model, batch) for batch in ready), model.device.type)
    scores = np.zeros(count)
    for batch, found in zip(ready, results, strict=True):
        scores[batch.rows] = found.cpu().numpy()
    return seconds, scores


def best_budget(forward: Forward, model: Any, sequences: Sequences) -> int:
    """Return the batch size in padded tokens that is fastest for some of the sequences."""
    step = max(1, len(sequences.ids) // 512)
    some = Sequences(sequences.ids[::step], sequences.counts[::step])
    speeds: dict[float, int] = {}
    for budget in BUDGETS["cuda" if model.device.type == "cuda" else "cpu"]:
        try:
            ready = batches(some, budget, model.device)
            speeds[min(run(forward, model, ready, len(some.ids))[0] for _ in range(2))] = budget
        except torch.OutOfMemoryError:
            break  # larger batches do not fit either
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    if not speeds:
        raise StmError("the smallest batch does not fit into the device's memory; take a smaller model")
    return speeds[min(speeds)]


def ways() -> dict[str, Forward | str]:
    """Return the forward passes by name; a text for those that cannot be measured here."""
    found: dict[str, Forward | str] = {"bare, logits of targets": target_logits, "bare, all logits": full_logits}
    for name, forward in {"trl, fused head": trl_fused, "trl, all logits": trl_selective}.items():
        try:
            from trl.trainer import utils  # type: ignore[import-not-found]
        except ImportError:
            found[name] = "not measured: trl is not installed"
            continue
        wanted = "add_fused_lm_head" if forward is trl_fused else "selective_log_softmax"
        found[name] = forward if hasattr(utils, wanted) else f"not measured: this version of trl has no {wanted}"
    return found
