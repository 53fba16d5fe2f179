"""Causal (GPT-type) language models through Hugging Face transformers."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, DynamicCache

from stm_rl.lm.batching import Family, Row, bucket, families, lay_out, merged, packed, padded
from stm_rl.lm.checks import check_finite, check_pairs, room_for
from stm_rl.lm.last_block import LastBlock
from stm_rl.lm.loading import EMBEDDED, load_pretrained
from stm_rl.lm.tokens import PairTokenizer
from stm_rl.lm.transformers_lm import PROBE_TOKENS, TransformersLM

HEAD_NUMBERS = {"cpu": 2**22}
"""Most logits at once, by device type."""
MOST_HEAD_NUMBERS = 2**27

Scored = tuple[NDArray[np.int64], torch.Tensor]
"""The requests that scored tokens belong to, and the log-likelihoods of the tokens."""


class CausalLM(TransformersLM[PairTokenizer]):
    """A causal language model and its tokenizer.

    Scoring pads on the right and passes no attention mask. Under a causal mask no token can see the
    padding after it, and positions count from the first real token, so the result is exact for
    rotary and for absolute positions alike. Logits are computed only where a target is. A sequence that another
    begins with is scored within it, and tokens that many sequences begin with are put through the model once (their
    keys and values are kept) where that saves at least half a batch.

    Attributes:
        reused: Tokens that needed no computing since they are those of another request.
        seconds: Time spent in forward passes; tokenization and batching are not part of it.
    """

    def __init__(
        self, model: Any, tokenizer: Any, id: str, batch_tokens: int | None = None, compile: bool = False
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: A transformers causal model.
            tokenizer: Its fast tokenizer.
            id: Name that identifies the model.
            batch_tokens: Most tokens, padding included, in one forward pass. By default 1,024 on a CPU, where
                larger batches leave the cache and run slower; on a GPU by its free memory.
            compile: Compile the model with ``torch.compile`` (CUDA graphs on a GPU). Batches then have a few fixed
                shapes; the first pass of each takes seconds to minutes.
        """
        text = PairTokenizer(tokenizer, id, getattr(model.config, "max_position_embeddings", None))
        super().__init__(model, tokenizer, text, id, batch_tokens)
        self.reused = 0
        self.seconds = 0.0
        self.compiled = compile
        arguments = inspect.signature(model.base_model.forward).parameters  # transformers renamed one in 5.24
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"
        self._plain_head = self._has_plain_head()
        self._keeps_prefix = self._plain_head and self._can_keep_prefix()
        self._last = None if compile or not self._plain_head else self._narrow_last_block()
        self._base = self._compile() if compile else model.base_model

    @classmethod
    def load(
        cls,
        name: str | Path = EMBEDDED,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch_tokens: int | None = None,
        compile: bool = False,
    ) -> CausalLM:
        """Load a model from the Hugging Face Hub, a local folder, or the package.

        Only safetensors weights are read and no code of the model's repository is run.

        Args:
            name: ``tiny`` (the embedded model), a folder, or a Hub id such as ``Qwen/Qwen3-0.6B``.
            device: A torch device, or ``auto`` for a GPU if there is one.
            dtype: A torch dtype such as ``float32`` or ``bfloat16``.
            batch_tokens: Most tokens, padding included, in one forward pass; see the constructor.
            compile: Compile the model; see the constructor.

        Raises:
            StmError: The model cannot be found or read, or the device or dtype is unknown.
        """
        model, tokenizer = load_pretrained(AutoModelForCausalLM, name, device, dtype)
        return cls(model, tokenizer, str(name), batch_tokens, compile)

    @cached_property
    def cache_key(self) -> str:
        """What scores depend on besides the texts: weights, tokenizer and dtype."""
        tokenizer = blake2b(self.tokenizer.backend_tokenizer.to_str().encode(), digest_size=8).hexdigest()
        return f"causal {self.fingerprint} {tokenizer} {self.model.dtype}"

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats; see :class:`stm_rl.lm.protocol.LanguageModel`."""
        check_pairs(contexts, targets)
        if not contexts:
            return np.zeros(0)
        pairs = self.text.encode(contexts, targets)
        self._budget.measure(PROBE_TOKENS, self._probe)
        rows = merged(pairs)
        groups = families(rows, max(self.batch_tokens // 2, 1)) if self._keeps_prefix else [Family(0, rows)]
        tasks = [
            (family.shared, batch)
            for family in groups
            for batch in ([family.rows] if family.shared else self._batches(family.rows, 0))
        ]
        start = time.perf_counter()
        found = [scored for some in self._workers.map(self._score_task, tasks) for scored in some]
        values = torch.cat([value for _, value in found]).cpu().numpy()
        self.seconds += time.perf_counter() - start
        self.reused += sum(len(ids) for ids, _ in pairs) - sum(len(row.ids) for row in rows)
        owners = np.concatenate([owner for owner, _ in found])
        scores = np.asarray(np.bincount(owners, values, len(pairs)), np.float64)  # sums in double precision
        check_finite(scores, targets, self.id)
        return scores

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean of the last hidden states of each text, shape ``(n, hidden size)``."""
        vectors = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        if not texts:
            return vectors
        rows = [Row(ids, []) for ids in self.text.texts(texts)]
        self._budget.measure(PROBE_TOKENS, self._probe)
        batches = packed([len(row.ids) for row in rows], self.batch_tokens, self._workers.parts, self._width)
        start = time.perf_counter()
        found = self._workers.map(
            lambda batch: self._budget.run([rows[number] for number in batch], self._embed_rows), batches
        )
        self.seconds += time.perf_counter() - start
        for batch, parts in zip(batches, found, strict=True):
            vectors[batch] = torch.cat(parts).cpu().numpy()
        return vectors

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        """Continue each context greedily until the end of its line or ``max_new_tokens`` tokens."""
        room = room_for(max_new_tokens, self.max_tokens, self.id)
        encoded = self.text.texts(contexts, room)
        texts = [""] * len(encoded)
        for batch in packed([len(ids) + max_new_tokens for ids in encoded], 4 * self.batch_tokens):
            parts = self._budget.run(batch, lambda rows: self._continue([encoded[row] for row in rows], max_new_tokens))
            for row, text in zip(batch, [text for part in parts for text in part], strict=True):
                texts[row] = text
        return texts

    # Batches.

    def _width(self, length: int) -> int:
        return bucket(length, 32) if self.compiled else length

    def _height(self, rows: int, width: int) -> int:
        """Return how many rows a batch has: those that fit, or the next of a few numbers."""
        full = max(self.batch_tokens // width, 1)
        return min(bucket(rows, 2), max(full, rows, 2)) if self.compiled else rows

    def _batches(self, rows: Sequence[Row], skip: int) -> list[list[Row]]:
        lengths = [len(row.ids) - skip for row in rows]
        return [
            [rows[number] for number in batch]
            for batch in packed(lengths, self.batch_tokens, 1 if skip else self._workers.parts, self._width)
        ]

    def _score_task(self, task: tuple[int, list[Row]]) -> list[Scored]:
        shared, rows = task
        if not shared:
            return self._budget.run(rows, self._score_rows)
        with torch.inference_mode():
            prefix = torch.tensor([rows[0].ids[:shared]], device=self.model.device)
            known = DynamicCache(config=self.model.config)
            self._go_on(prefix, known)
        self.tokens += shared
        self.reused += shared * (len(rows) - 1)
        found = []
        for batch in self._batches(rows, shared):
            found += self._budget.run(batch, lambda some: self._score_rows(some, shared, known))
        return found

    def _score_rows(self, rows: Sequence[Row], skip: int = 0, known: DynamicCache | None = None) -> Scored:
        """Return the log-likelihoods of the targets in rows whose first ``skip`` tokens are ``known``."""
        longest = max(len(row.ids) for row in rows) - skip
        width = longest if skip else self._width(longest)
        height = len(rows) if skip else self._height(len(rows), width)
        batch = lay_out(rows, skip, height, width, self.text.pad_id)
        real = sum(len(row.ids) - skip for row in rows)
        self.tokens += real
        self.padding += height * width - real
        with torch.inference_mode():
            ids, positions, labels = (self._move(array) for array in (batch.ids, batch.positions, batch.labels))
            if not self._plain_head:
                return batch.owners, self._full_head(ids, positions, labels)
            with self._last.only(positions) if self._last else nullcontext():
                if known is None:
                    hidden = self._base(input_ids=ids, use_cache=False).last_hidden_state
                else:
                    hidden = self._go_on(ids, _repeated(known, height))
            chosen = hidden.flatten(0, 1).index_select(0, positions)
            head = self.model.get_output_embeddings()
            size = max(HEAD_NUMBERS.get(ids.device.type, MOST_HEAD_NUMBERS) // self.model.config.vocab_size, 1)
            parts = [
                -torch.nn.functional.cross_entropy(head(some).float(), wanted, reduction="none")
                for some, wanted in zip(torch.split(chosen, size), torch.split(labels, size), strict=True)
            ]
            return batch.owners, torch.cat(parts)

    def _full_head(self, ids: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return log-likelihoods of a model that does more to its logits than multiply by the output embedding."""
        width = ids.shape[1]
        first = int((positions % width).min())  # no logits are needed before this position
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=width - first).logits
        chosen: torch.Tensor = logits[positions // width, positions % width - first].float()
        return -torch.nn.functional.cross_entropy(chosen, labels, reduction="none")

    def _go_on(self, ids: torch.Tensor, known: DynamicCache) -> torch.Tensor:
        """Return the hidden states of tokens that follow those whose keys and values are ``known``, and add theirs."""
        hidden: torch.Tensor = self.model.base_model(
            input_ids=ids, use_cache=True, **{self._cache_argument: known}
        ).last_hidden_state
        return hidden

    def _embed_rows(self, rows: Sequence[Row]) -> torch.Tensor:
        lengths = np.array([len(row.ids) for row in rows], np.int64)
        width = self._width(int(lengths.max()))
        height = self._height(len(rows), width)
        ids = padded([row.ids for row in rows], height, width, self.text.pad_id)
        with torch.inference_mode():
            states: torch.Tensor = self._base(input_ids=self._move(ids), use_cache=False).last_hidden_state
            return self._mean(states, lengths)

    def _continue(self, encoded: Sequence[list[int]], max_new_tokens: int) -> list[str]:
        pad = self.text.pad_id
        width = max(len(ids) for ids in encoded)
        ids = np.array([[pad] * (width - len(ids)) + ids for ids in encoded], np.int64)
        mask = np.array([[0] * (width - len(ids)) + [1] * len(ids) for ids in encoded], np.int64)
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=self._move(ids),
                attention_mask=self._move(mask),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
                stop_strings=["\n"],
                tokenizer=self.tokenizer,
            )
        texts = self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        return [text.split("\n")[0].strip() for text in texts]

    # What a model can do.

    def _compile(self) -> Any:
        mode = "reduce-overhead" if self.model.device.type == "cuda" else None
        return torch.compile(self.model.base_model, dynamic=True, mode=mode)

    def _probe(self) -> None:
        """Run a pass of the size that memory is measured with."""
        width = min(PROBE_TOKENS, self.max_tokens)
        ids = [self.text.pad_id] * width
        self._score_rows([Row(ids, [(width // 2, width, 0)])] * (PROBE_TOKENS // width))

    def _sample(self) -> torch.Tensor:
        return torch.arange(min(8, self.model.config.vocab_size), device=self.model.device)[None]

    def _has_plain_head(self) -> bool:
        """Return whether logits are just the output embedding of the last hidden states.

        Then they are computed where they are needed only. Models that scale or cap their logits
        take the longer way.
        """
        head = self.model.get_output_embeddings()
        if head is None:
            return False
        ids = self._sample()
        with torch.inference_mode():
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            return bool(torch.equal(head(hidden), self.model(input_ids=ids, use_cache=False).logits))

    def _narrow_last_block(self) -> LastBlock | None:
        """Return what keeps the last block to positions that are used, if that changes nothing in this model."""
        ids = self._sample()
        some = torch.arange(1, ids.shape[1], 2, device=ids.device)
        with torch.inference_mode():
            whole = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
            try:
                last = LastBlock(self.model.base_model)
            except LookupError:
                return None
            try:
                with last.only(some):
                    narrow = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
            except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
                narrow = torch.full_like(whole, torch.nan)
        if torch.allclose(whole[some], narrow[some], atol=1e-5 * float(whole.abs().max())):
            return last
        last.remove()
        return None

    def _can_keep_prefix(self) -> bool:
        """Return whether the model goes on from keys and values that are kept; those with other states do not."""
        ids = self._sample()
        try:
            with torch.inference_mode():
                whole = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
                known = DynamicCache(config=self.model.config)
                self._go_on(ids[:, :2], known)
                rest = self._go_on(ids[:, 2:].repeat(2, 1), _repeated(known, 2))
        except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError):
            return False
        scale = float(whole.abs().max())
        return bool(torch.allclose(whole[:, 2:].expand_as(rest), rest, atol=1e-2 * scale))


def _repeated(known: DynamicCache, times: int) -> DynamicCache:
    """Return a copy of the keys and values of one sequence for several; the original can be used again."""
    cache = deepcopy(known)
    cache.batch_repeat_interleave(times)
    return cache
