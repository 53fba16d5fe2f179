"""Causal (GPT-type) language models through Hugging Face transformers."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from stm_rl.errors import StmError
from stm_rl.lm.loading import EMBEDDED, load_pretrained, weights_hash

logger = logging.getLogger(__name__)

UNSTATED_LENGTH = 2048
"""Context length of models that state none, such as those without position embeddings."""


class CausalLM:
    """A causal language model and its tokenizer.

    Scoring pads on the right and passes no attention mask. Under a causal mask no token can see the
    padding after it, and positions count from the first real token, so the result is exact for
    rotary and for absolute positions alike.

    Attributes:
        id: The name or path it was loaded from.
        max_tokens: Length of the model's context.
        truncated: How many contexts have lost their oldest tokens so far because they did not fit.
    """

    def __init__(self, model: Any, tokenizer: Any, id: str, batch_tokens: int | None = None) -> None:
        """Wrap a loaded model.

        Args:
            model: A transformers causal model.
            tokenizer: Its fast tokenizer.
            id: Name that identifies the model.
            batch_tokens: Most tokens, padding included, in one forward pass. By default 1,024 on a CPU, where
                larger batches leave the cache and run slower, and 16,384 elsewhere.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise StmError(f"model {id} has only a slow tokenizer; stm-rl needs a fast one (a tokenizer.json file)")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.id = id
        self.batch_tokens = batch_tokens or (1024 if model.device.type == "cpu" else 16_384)
        tokenizer.backend_tokenizer.no_padding()  # a tokenizer file may ask for either
        tokenizer.backend_tokenizer.no_truncation()
        limits = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
        self.max_tokens = int(min((limit for limit in limits if limit and limit < 10**9), default=UNSTATED_LENGTH))
        self.truncated = 0
        self._line = lru_cache(maxsize=100_000)(self._tokenize_line)
        self._last_line = lru_cache(maxsize=100_000)(self._tokenize_last_line)
        self._prefix: list[int] = tokenizer.backend_tokenizer.encode("").ids
        self._lines_stand_alone = self._check_lines()
        self._plain_head = self._has_plain_head()

    @classmethod
    def load(
        cls,
        name: str | Path = EMBEDDED,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch_tokens: int | None = None,
    ) -> CausalLM:
        """Load a model from the Hugging Face Hub, a local folder, or the package.

        Only safetensors weights are read and no code of the model's repository is run.

        Args:
            name: ``tiny`` (the embedded model), a folder, or a Hub id such as ``Qwen/Qwen3-0.6B``.
            device: A torch device, or ``auto`` for a GPU if there is one.
            dtype: A torch dtype such as ``float32`` or ``bfloat16``.
            batch_tokens: Most tokens, padding included, in one forward pass; see the constructor.

        Raises:
            StmError: The model cannot be found or read, or the device or dtype is unknown.
        """
        model, tokenizer = load_pretrained(AutoModelForCausalLM, name, device, dtype)
        return cls(model, tokenizer, str(name), batch_tokens)

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats; see :class:`stm_rl.lm.protocol.LanguageModel`."""
        if len(contexts) != len(targets):
            raise StmError(f"got {len(contexts)} contexts and {len(targets)} targets; expected as many of both")
        if not contexts:
            return np.zeros(0)
        pairs = self._encode(contexts, targets)
        scores = np.zeros(len(pairs))
        for rows in self._packed([len(ids) for ids, _ in pairs]):
            scores[rows] = self._score_batch([pairs[row] for row in rows])
        if not np.isfinite(scores).all():
            bad = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise StmError(
                f"model {self.id} gave the score {scores[bad]} for {targets[bad][:60]!r}; "
                "expected a finite log-likelihood: try dtype float32, or check the model's weights"
            )
        return scores

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean of the last hidden states of each text, shape ``(n, hidden size)``."""
        if not texts:
            return np.zeros((0, self.model.config.hidden_size), np.float32)
        encoded = [ids[-self.max_tokens :] for ids in self.tokenizer(list(texts))["input_ids"]]
        vectors = np.zeros((len(encoded), self.model.config.hidden_size), np.float32)
        for rows in self._packed([len(ids) for ids in encoded]):
            batch = [encoded[row] for row in rows]
            ids, lengths = self._pad(batch)
            with torch.inference_mode():
                hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state.float()
            keep = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
            vectors[rows] = ((hidden * keep[..., None]).sum(1) / lengths[:, None]).cpu().numpy()
        return vectors

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        """Continue each context greedily until the end of its line or ``max_new_tokens`` tokens."""
        pad = self._pad_id
        room = self.max_tokens - max_new_tokens
        if room < 1 or max_new_tokens < 1:
            raise StmError(
                f"max_new_tokens is {max_new_tokens}; expected 1 to {self.max_tokens - 1}, since model {self.id} "
                f"reads at most {self.max_tokens} tokens"
            )
        if not contexts:
            return []
        encoded = [ids[-room:] for ids in self.tokenizer(list(contexts))["input_ids"]]
        width = max(len(ids) for ids in encoded)
        ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in encoded], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in encoded], device=self.model.device)
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
                stop_strings=["\n"],
                tokenizer=self.tokenizer,
            )
        texts = self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        return [text.split("\n")[0].strip() for text in texts]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the weights; see :func:`stm_rl.lm.loading.weights_hash`."""
        return weights_hash(self.model)

    @property
    def _pad_id(self) -> int:
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def _encode(self, contexts: Sequence[str], targets: Sequence[str]) -> list[tuple[list[int], int]]:
        """Tokenize each context with its target; return the ids and how many of them are the target's.

        Both are tokenized as one text, since a tokenizer may treat the start of a text in its own
        way; the target's tokens begin with the one that holds its first letter.
        """
        encode = self._encode_lines if self._lines_stand_alone else self._encode_whole
        start = self.tokenizer.bos_token_id
        pairs = []
        for (ids, count), target in zip(encode(contexts, targets), targets, strict=True):
            if not count:
                raise StmError(f"the target {target[:60]!r} has no tokens; expected some text to score")
            if count == len(ids):  # an empty context, and a tokenizer that adds no start token
                ids = [start if start is not None else self._pad_id, *ids]
            if count + 1 > self.max_tokens:
                raise StmError(
                    f"the text {target[:60]!r} has {count} tokens but model {self.id} reads at most "
                    f"{self.max_tokens}; split the turn or take a model with a longer context"
                )
            if len(ids) > self.max_tokens:
                if not self.truncated:
                    logger.warning(
                        "a context of %d tokens exceeds the %d of model %s: its oldest tokens are left out "
                        "(said once; the number is counted)", len(ids), self.max_tokens, self.id
                    )  # fmt: skip
                self.truncated += 1
                ids = ids[-self.max_tokens :]
            pairs.append((ids, count))
        return pairs

    def _encode_whole(self, contexts: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[list[int], int]]:
        """Yield the ids of each context with its target, and how many are the target's."""
        texts = [context + target for context, target in zip(contexts, targets, strict=True)]
        encodings = self.tokenizer.backend_tokenizer.encode_batch(texts)
        for context, target, encoding in zip(contexts, targets, encodings, strict=True):
            yield encoding.ids, _target_tokens(encoding, context, target)

    def _encode_lines(self, contexts: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[list[int], int]]:
        """Do the same line by line; a turn's line is in many contexts but is tokenized once."""
        for context, target in zip(contexts, targets, strict=True):
            end = context.rfind("\n") + 1
            last, count = self._last_line(context[end:], target)
            lines = (self._line(text + "\n") for text in context[:end].split("\n")[:-1])
            yield [*self._prefix, *itertools.chain.from_iterable(lines), *last], count

    def _tokenize_line(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _tokenize_last_line(self, start: str, target: str) -> tuple[list[int], int]:
        encoding = self.tokenizer.backend_tokenizer.encode(start + target, add_special_tokens=False)
        return encoding.ids, _target_tokens(encoding, start, target)

    def _check_lines(self) -> bool:
        """Return whether a text's tokens are surely those of its lines.

        They are if the tokenizer first splits at line breaks and changes nothing before that, and if all it
        adds is a prefix.
        """
        backend = self.tokenizer.backend_tokenizer
        parts = json.loads(backend.to_str())
        first = ((parts["pre_tokenizer"] or {}).get("pretokenizers") or [{}])[0]
        splits = first.get("pattern") == {"Regex": r"\n"} and first.get("behavior") == "Isolated"
        adds_prefix = backend.encode("a").ids == [*self._prefix, *self._tokenize_line("a")]
        return bool(splits and parts["normalizer"] is None and adds_prefix)

    def _packed(self, lengths: list[int]) -> Iterator[list[int]]:
        """Yield row numbers in groups of similar length, ``batch_tokens`` padded tokens at most."""
        group: list[int] = []
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            if group and (len(group) + 1) * lengths[row] > self.batch_tokens:
                yield group
                group = []
            group.append(row)
        yield group

    def _pad(self, batch: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(ids) for ids in batch)
        pad = self._pad_id
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids in batch], device=self.model.device)
        return ids, torch.tensor([len(ids) for ids in batch], device=self.model.device)

    def _score_batch(self, batch: list[tuple[list[int], int]]) -> NDArray[np.float64]:
        ids, lengths = self._pad([ids for ids, _ in batch])
        counts = torch.tensor([count for _, count in batch], device=ids.device)
        with torch.inference_mode():
            position = torch.arange(1, ids.shape[1], device=ids.device)
            scored = (position >= (lengths - counts)[:, None]) & (position < lengths[:, None])
            logits = self._logits(ids, scored)
            losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][scored], reduction="none")
            values = torch.zeros(scored.shape, dtype=torch.float64, device=ids.device)
            values[scored] = -losses.double()
        return np.asarray(values.sum(1).cpu().numpy(), np.float64)

    def _logits(self, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        """Return the logits that predict the ``scored`` positions, shape ``(scored positions, vocabulary)``."""
        if self._plain_head:
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            logits: torch.Tensor = self.model.get_output_embeddings()(hidden[:, :-1][scored])
            return logits
        first = int(scored.any(0).nonzero()[0, 0])  # no logits are needed before this position
        keep = ids.shape[1] - first
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        return logits[:, :-1][scored[:, first:]]

    def _has_plain_head(self) -> bool:
        """Return whether logits are just the output embedding of the last hidden states.

        Then they are computed where they are needed only. Models that scale or cap their logits
        take the longer way.
        """
        head = self.model.get_output_embeddings()
        if head is None:
            return False
        ids = torch.arange(min(8, self.model.config.vocab_size), device=self.model.device)[None]
        with torch.inference_mode():
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            return bool(torch.equal(head(hidden), self.model(input_ids=ids, use_cache=False).logits))


def _target_tokens(encoding: Any, context: str, target: str) -> int:
    """Return how many tokens of ``context + target`` are the target's: those from its first letter on."""
    first = encoding.char_to_token(len(context) + len(target) - len(target.lstrip()))
    return 0 if first is None else len(encoding.ids) - first
