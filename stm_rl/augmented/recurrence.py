"""Segment recurrence: a model's own attention goes on over the keys and values of segments that have left the text."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from stm_rl.augmented.base import add_lora, check_writes_text, is_masked_model, load_base, unmasked
from stm_rl.augmented.bidirectional import Earlier, use_segments
from stm_rl.augmented.model import MemoryOutput, likelihood
from stm_rl.augmented.saving import ADAPTER, load_lora
from stm_rl.errors import StmError
from stm_rl.files import reading, write_json
from stm_rl.lm.loading import is_masked
from stm_rl.memory import State

SETTINGS = "segments.json"
Run = tuple[Tensor, Tensor, Tensor]
"""Logits, and the keys and values kept before and made now, shapes (batch, layers, heads, history + time, size)."""


class SegmentLM(nn.Module):
    """A model that keeps the keys and values of the last ``history`` tokens of earlier segments.

    Transformer-XL's segment recurrence (Dai et al., 2019) with a pretrained model's own attention: nothing is added
    to the model, and nothing has to be trained. Its positions are relative (rotary), so they may go on for ever; the
    memory holds the last tokens only and never grows. A masked model attends to what is kept as well as to its own
    segment in both directions; a second pass, in which nothing is masked, makes what is kept of a segment.

    Args:
        base: A causal or masked transformers model with rotary positions.
        tokenizer: Its tokenizer.
        history: Tokens that are kept.
        lora: Rank of the low-rank changes to the model's linear layers; 0 leaves the model as it is.
        base_name: Where the base comes from, as in :func:`stm_rl.lm.loading.load_pretrained`.

    Raises:
        StmError: The model has no rotary positions, or is a masked model whose attention cannot be exchanged.
    """

    def __init__(self, base: Any, tokenizer: Any, history: int = 256, lora: int = 0, base_name: str = "") -> None:
        super().__init__()
        if not getattr(base.config, "rope_parameters", None):
            raise StmError(
                f"{type(base).__name__} has no rotary positions, so keys cannot be kept beyond its longest text; "
                "take a model of the make of Llama, Qwen or ModernBERT, or a memory that is read by adapters"
            )
        if history < 1:
            raise StmError(f"history is {history}; expected at least 1 token")
        base.requires_grad_(False)
        self.masked = is_masked_model(base)
        if self.masked:
            use_segments(base)
        self.config, self.tokenizer, self.history, self.base_name = base.config, tokenizer, history, base_name
        # transformers 5.24 has another name for it.
        self._argument = "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"
        self.lora = lora
        self.base = add_lora(base, lora) if lora else base

    def initial_memory(self, batch: int) -> State:
        """Return the memory before the first segment of ``batch`` transcripts."""
        config, like = self.config, next(self.base.parameters())
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kept = like.new_zeros(batch, config.num_hidden_layers, heads, self.history, size)
        held = torch.zeros(batch, self.history, dtype=torch.bool, device=like.device)
        return {"keys": kept, "values": kept, "held": held, "position": held.sum(1)}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        memory: State | None = None,
        written: Tensor | None = None,
    ) -> MemoryOutput:
        """Predict a segment, then keep its keys and values; see :meth:`stm_rl.augmented.MemoryLM.forward`.

        The tokens that are not ``written`` stand before the segment, where the memory's last tokens stand.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        memory = self.initial_memory(len(input_ids)) if memory is None else memory
        written = mask.bool() if written is None else written
        before = (mask.bool() & ~written).sum(1, keepdim=True)
        positions = (memory["position"][:, None] - before + mask.cumsum(1) - 1).clamp(min=0)
        exists = torch.cat([memory["held"], mask.bool()], 1)
        run = self._run_masked if self.masked else self._run_causal
        logits, keys, values = run(input_ids, exists, positions, memory)
        loss, nats = (None, None) if labels is None else likelihood(logits, labels, self.masked)
        if self.masked and labels is not None:
            input_ids = unmasked(input_ids, labels)
            _, keys, values = run(input_ids, exists, positions, memory)
        return MemoryOutput(loss, nats, logits, self._kept(keys, values, written, memory))

    @torch.no_grad()
    def generate(self, input_ids: Tensor, memory: State, **options: Any) -> Tensor:
        """Continue texts with the memory in view; the memory is not changed.

        Args:
            input_ids: The last token of the turn before and the beginning of the next turn, shape (batch, time); no
                padding.
            memory: The memory before the turn.
            **options: Those of transformers' ``generate``: sampling, ``max_new_tokens``.

        Returns:
            The given and the new tokens, shape (batch, time + new).

        Raises:
            StmError: The base is a masked model.
        """
        check_writes_text(self.masked)
        held, own = memory["held"].to(input_ids.dtype), torch.ones_like(input_ids)
        past = torch.cat([torch.zeros_like(held), input_ids], 1)  # zeros for what the cache stands for
        before = memory["position"][:, None] - self.history - 1  # so that the first of the text stands where it stood
        found: Tensor = self.base.generate(
            input_ids=past,
            attention_mask=torch.cat([held, own], 1),
            position_ids=(before + torch.arange(past.shape[1], device=past.device)).clamp(min=0),
            **{self._argument: self._cache(memory)},
            **options,
        )
        return found[:, self.history :]

    def _cache(self, memory: State) -> DynamicCache:
        cache = DynamicCache(config=self.config)
        for number in range(self.config.num_hidden_layers):
            cache.update(memory["keys"][:, number], memory["values"][:, number], number)
        return cache

    def _run_causal(self, input_ids: Tensor, exists: Tensor, positions: Tensor, memory: State) -> Run:
        cache = self._cache(memory)
        mask = exists.to(input_ids.dtype)
        options = {"attention_mask": mask, "position_ids": positions, "use_cache": True, self._argument: cache}
        out = self.base(input_ids=input_ids, **options)
        keys, values = (torch.stack([getattr(layer, name) for layer in cache.layers], 1) for name in ("keys", "values"))
        return out.logits, keys, values

    def _run_masked(self, input_ids: Tensor, exists: Tensor, positions: Tensor, memory: State) -> Run:
        kept = memory["position"][:, None] + torch.arange(-self.history, 0, device=positions.device)
        earlier = Earlier(memory["keys"], memory["values"], exists, torch.cat([kept, positions], 1))
        out = self.base(input_ids=input_ids, position_ids=positions, segments=earlier)
        new = [earlier.new[number] for number in range(self.config.num_hidden_layers)]
        keys, values = (torch.stack(part, 1) for part in zip(*new, strict=True))
        return out.logits, torch.cat([memory["keys"], keys], 3), torch.cat([memory["values"], values], 3)

    def _kept(self, keys: Tensor, values: Tensor, written: Tensor, memory: State) -> State:
        """Return the memory with the written tokens at its end."""
        exists = torch.cat([memory["held"], written], 1)
        order = torch.argsort(exists.to(torch.int8), dim=1, stable=True)[:, -self.history :]  # what exists, at the end
        place = order[:, None, None, :, None].expand(*memory["keys"].shape)
        kept = {"keys": keys.gather(3, place), "values": values.gather(3, place)}
        return {**kept, "held": exists.gather(1, order), "position": memory["position"] + written.sum(1)}

    def trained(self) -> int:
        """Return the number of trainable parameters."""
        return sum(value.numel() for value in self.parameters() if value.requires_grad)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``segments.json`` and the low-rank changes, if there are any; the base stays where it is.

        Raises:
            StmError: The base has no name to be found by again.
        """
        if not self.base_name:
            raise StmError("the base model has no name; save it to a folder and give that folder as base_name")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.lora:
            self.base.save_pretrained(folder / ADAPTER)
        write_json(folder / SETTINGS, {"base": self.base_name, "history": self.history, "lora": self.lora})

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", dtype: str = "float32") -> SegmentLM:
        """Load what :meth:`save_pretrained` wrote.

        Raises:
            StmError: The folder or the base model cannot be read.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise StmError(f"{folder} has no {SETTINGS}; expected a folder that SegmentLM.save_pretrained wrote")
        with reading(folder, "save the model again"):
            known = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            base, tokenizer = load_base(known["base"], is_masked(known["base"]), device, dtype)
            model = cls(base, tokenizer, known["history"], known["lora"], known["base"])
            if model.lora:
                load_lora(model.base, folder / ADAPTER)
        return model.eval()
