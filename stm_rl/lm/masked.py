"""Masked (BERT-type) language models through Hugging Face transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForMaskedLM

from stm_rl.errors import StmError
from stm_rl.lm.batching import packed
from stm_rl.lm.checks import check_finite, check_pairs
from stm_rl.lm.loading import load_pretrained
from stm_rl.lm.masked_parts import close, head_alone, max_positions
from stm_rl.lm.masked_tokens import Ids, MaskedTokenizer, Variant
from stm_rl.lm.transformers_lm import PROBE_TOKENS, TransformersLM

PROBE_WIDTH = 32
"""Tokens of each text in the pass that measures memory."""

T = TypeVar("T")
Row = tuple[Ids, int, int, int]
"""Tokens of a request, position of the one to score, end of what is masked from there on, number of the request."""
Scored = tuple[list[int], torch.Tensor]
"""The requests that scored tokens belong to, and the log-probabilities of the tokens."""


class MaskedLM(TransformersLM[MaskedTokenizer]):
    """A masked language model and its tokenizer.

    A score is a pseudo-log-likelihood (Salazar et al. 2020, "Masked Language Model Scoring"): the sum over the
    target's tokens of log p(token | context, the rest of the target), where each token is masked in turn. Context
    tokens are seen but never masked or scored. It is no log-likelihood, since each token is predicted from those after
    it too: scores of one target with different contexts can be compared, those of two models cannot.

    Which tokens are masked together is the variant:

    - ``word-l2r`` masks the token and the later ones of its word (Kauf & Ivanova 2023, "A Better Way to Do Masked
      Language Model Scoring"). It is the default.
    - ``original`` masks the token alone. Then the rest of a word of several tokens gives each of them away: a rare
      name such as "Petro ##ni ##us" looks far more likely than a common one of a single token, whatever the context
      says.

    Context and target are one text for the tokenizer, with the special tokens its template adds. BERT's tokenizers
    drop line breaks, so the lines of a context follow one another like sentences.

    One row per masked token goes through the model, and logits are computed at the masked tokens only. Rows of
    similar length are packed and padded on the right; the attention mask hides padding. A model that has no attention
    mask, or whose logits padding changes all the same, gets rows of equal length.

    Attributes:
        variant: The scoring variant.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        id: str,
        batch_tokens: int | None = None,
        variant: Variant | None = None,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: A transformers model with a masked language model's head.
            tokenizer: Its fast tokenizer.
            id: Name that identifies the model.
            batch_tokens: Most tokens, padding included, in one forward pass. By default 1,024 on a CPU, where
                larger batches leave the cache and run slower; on a GPU by its free memory.
            variant: The scoring variant. By default ``word-l2r``, or ``original`` with a warning for a tokenizer
                that does not split texts into words.

        Raises:
            StmError: The tokenizer is slow, has no mask token, or splits no words and the variant needs them.
        """
        text = MaskedTokenizer(tokenizer, id, max_positions(model), variant)
        super().__init__(model, tokenizer, text, id, batch_tokens)
        self.variant = text.variant
        accepted = inspect.signature(model.base_model.forward).parameters
        self._takes_types = "token_type_ids" in accepted and "token_type_ids" in tokenizer.model_input_names
        self._pads = "attention_mask" in accepted and self._padding_is_hidden()
        self._head = head_alone(self.model, self._inputs(self.text.texts(["a b c d"])))

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch_tokens: int | None = None,
        variant: Variant | None = None,
    ) -> MaskedLM:
        """Load a masked model from the Hugging Face Hub or a local folder.

        Only safetensors weights are read and no code of the model's repository is run.

        Args:
            name: A folder, or a Hub id such as ``answerdotai/ModernBERT-base``.
            device: A torch device, or ``auto`` for a GPU if there is one.
            dtype: A torch dtype such as ``float32`` or ``bfloat16``.
            batch_tokens: Most tokens, padding included, in one forward pass; see the constructor.
            variant: The scoring variant; see the constructor.

        Raises:
            StmError: The model cannot be found or read, is no masked model, or the device or dtype is unknown.
        """
        model, tokenizer = load_pretrained(AutoModelForMaskedLM, name, device, dtype)
        return cls(model, tokenizer, str(name), batch_tokens, variant)

    @cached_property
    def cache_key(self) -> str:
        """What scores depend on besides the texts: weights, dtype, tokenizer, longest text and scoring variant."""
        return f"masked {self.fingerprint} {self.model.dtype} {self.text.fingerprint}"

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return the pseudo-log-likelihood of each target given its context in nats, shape ``(n,)``.

        See :class:`stm_rl.lm.protocol.LanguageModel`.
        """
        check_pairs(contexts, targets)
        if not contexts:
            return np.zeros(0)
        requests = self.text.encode(contexts, targets)
        rows = [(request.ids, *span, number) for number, request in enumerate(requests) for span in request.spans]
        batches = self._run(rows, [len(ids) for ids, *_ in rows], self._score_rows)
        found: list[Scored] = [scored for _, parts in batches for scored in parts]
        owners = [owner for some, _ in found for owner in some]
        values = torch.cat([value for _, value in found]).cpu().numpy()
        scores = np.asarray(np.bincount(owners, values, len(requests)), np.float64)  # sums in double precision
        check_finite(scores, targets, self.id)
        return scores

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean of the last hidden states over the tokens of each text, shape ``(n, hidden size)``."""
        vectors = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        rows = self.text.texts(texts)
        for batch, parts in self._run(rows, [len(ids) for ids in rows], self._embed_rows):
            vectors[batch] = torch.cat(parts).cpu().numpy()
        return vectors

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> NoReturn:
        """Masked models do not write.

        Raises:
            StmError: Always.
        """
        raise StmError(
            f"model {self.id} is a masked model, which cannot write text; give a causal (GPT-type) model for "
            "mode=generate"
        )

    # Batches.

    def _run(
        self, rows: Sequence[T], lengths: Sequence[int], work: Callable[[Sequence[T]], Any]
    ) -> list[tuple[list[int], list[Any]]]:
        """Return row numbers in batches, each with what ``work`` makes of it, in parts if memory runs out."""
        self._budget.measure(PROBE_TOKENS, self._probe)
        groups: dict[int, list[int]] = {}
        for row, length in enumerate(lengths):
            groups.setdefault(0 if self._pads else length, []).append(row)
        batches = [
            [group[i] for i in batch]
            for group in groups.values()
            for batch in packed([lengths[row] for row in group], self.batch_tokens, self._workers.parts)
        ]

        def run(batch: list[int]) -> list[Any]:
            return self._budget.run([rows[row] for row in batch], work)

        return list(zip(batches, self._workers.map(run, batches), strict=True))

    def _score_rows(self, rows: Sequence[Row]) -> Scored:
        width, real = max(len(ids) for ids, *_ in rows), sum(len(ids) for ids, *_ in rows)
        self.tokens += real
        self.padding += len(rows) * width - real
        return [number for *_, number in rows], self._log_probabilities(rows)

    def _log_probabilities(self, rows: Sequence[Row]) -> torch.Tensor:
        """Return log p in nats of one token of each row, shape ``(rows,)``."""
        masked = [ids.copy() for ids, *_ in rows]
        for ids, (_, first, end, _) in zip(masked, rows, strict=True):
            ids[first:end] = self.text.mask_id
        inputs = self._inputs(masked)
        width = inputs["input_ids"].shape[1]
        places = self._move(np.array([i * width + first for i, (_, first, _, _) in enumerate(rows)], np.int64))
        labels = self._move(np.array([ids[first] for ids, first, _, _ in rows], np.int64))
        with torch.inference_mode():
            if self._head is None:
                logits = self.model(**inputs).logits.flatten(0, 1)[places]
            else:
                hidden = self.model.base_model(**inputs)[0].flatten(0, 1)[places]
                logits = self._head(hidden[None]).logits[0]
            return -torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")

    def _embed_rows(self, rows: Sequence[Ids]) -> torch.Tensor:
        with torch.inference_mode():
            states: torch.Tensor = self.model.base_model(**self._inputs(rows))[0]
            return self._mean(states, np.array([len(ids) for ids in rows], np.int64))

    def _inputs(self, rows: Sequence[Ids]) -> dict[str, torch.Tensor]:
        """Return what the model takes for a batch of texts, padded on the right."""
        lengths = np.array([len(ids) for ids in rows], np.int64)
        width = int(lengths.max())
        real = np.arange(width) < lengths[:, None]
        ids = np.full(real.shape, self.text.pad_id, np.int64)
        ids[real] = np.concatenate(rows)
        inputs = {"input_ids": ids}
        if not real.all():
            inputs["attention_mask"] = real.astype(np.int64)
        if self._takes_types:
            inputs["token_type_ids"] = self.text.types(lengths, width)
        return {name: self._move(array) for name, array in inputs.items()}

    def _probe(self) -> None:
        """Run a pass of the size that memory is measured with, of short texts, which have most logits."""
        width = min(PROBE_WIDTH, self.max_tokens)
        ids = np.full(width, self.text.mask_id, np.int64)
        self._log_probabilities([(ids, 0, 1, 0)] * (PROBE_TOKENS // width))

    def _padding_is_hidden(self) -> bool:
        """Return whether padding leaves the logits of a text as they are; some models mix it in all the same."""
        short, long = self.text.texts(["a", "a b c d e f g h"])
        with torch.inference_mode():
            alone = self.model(**self._inputs([short])).logits[0]
            return close(self.model(**self._inputs([short, long])).logits[0, : len(short)], alone)
