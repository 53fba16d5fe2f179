"""A language model with a memory: what it has read leaves the text and stays in a neural memory."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stm_rl.augmented.adapter import GatedCrossAttention
from stm_rl.augmented.base import add_lora, check_writes_text, is_masked_model, layers_of, unmasked
from stm_rl.augmented.settings import MemorySettings
from stm_rl.augmented.writer import PooledWriter, TokenWriter, write
from stm_rl.memory import CORES, MemoryCore, State


@dataclass(slots=True)
class MemoryOutput:
    """What a pass over one segment returns.

    Attributes:
        loss: Sum of the labelled tokens' negative log-likelihoods in nats; None without labels.
        nats: The same for each token at its place, 0 where there is no label, shape (batch, time); no gradient.
        logits: Shape (batch, positions, vocabulary), of the last positions of each row: with labels those that
            predict a labelled token and what follows them, without labels all.
        memory: The memory after the segment.
    """

    loss: Tensor | None
    nats: Tensor | None
    logits: Tensor
    memory: State


def likelihood(logits: Tensor, labels: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    """Return the loss and the nats of a :class:`MemoryOutput`.

    Args:
        logits: Of the last positions of each row, shape (batch, positions, vocabulary).
        labels: Tokens to predict, -100 elsewhere, not shifted, shape (batch, time).
        masked: Whether a position predicts the token that stands there, and not the one after it.
    """
    wanted = labels[:, -logits.shape[1] :]
    scored = logits if masked else logits[:, :-1]
    wanted = wanted if masked else wanted[:, 1:]
    chosen = wanted != -100
    each = cross_entropy(scored[chosen].float(), wanted[chosen], reduction="none")
    nats = each.new_zeros(labels.shape)
    rows, places = chosen.nonzero(as_tuple=True)
    nats[rows, places + labels.shape[1] - wanted.shape[1]] = each.detach()
    return each.sum(), nats


class MemoryLM(nn.Module):
    """A causal (GPT-type) or masked (BERT-type) model that reads from and writes to a memory.

    The base model is frozen, or changed by low-rank additions only (LoRA). It sees the text of one segment and what is
    around it in the window; all that came before reaches it through the memory.

    Args:
        base: A transformers model with a language model's head.
        tokenizer: Its tokenizer.
        settings: What is added to it.
        base_name: Where the base comes from, as in :func:`stm_rl.lm.loading.load_pretrained`; None: its weights
            are saved with the memory.

    Attributes:
        masked: Whether the base is a masked model.
    """

    def __init__(
        self, base: Any, tokenizer: Any, settings: MemorySettings | None = None, base_name: str | Path | None = None
    ) -> None:
        super().__init__()
        self.settings = settings = settings or MemorySettings()
        self.tokenizer, self.base_name = tokenizer, base_name
        self.config = base.config
        self.masked = is_masked_model(base)
        base.requires_grad_(False)
        stack = layers_of(base)
        self.base = add_lora(base, settings.lora) if settings.lora else base
        self._keeps = "logits_to_keep" in inspect.signature(base.forward).parameters
        self._held: Tensor | None = None
        self._readers: Tensor | None = None
        self.core: MemoryCore | None = None
        if settings.core == "none":
            return
        width = int(base.config.hidden_size)
        self.writer = TokenWriter(width) if settings.write == "tokens" else PooledWriter(width, settings.queries)
        self.core = CORES[settings.core](self.writer.step_size, settings.size, **settings.core_sizes)
        slots, size = self.core.read_shape
        if settings.read == "adapters":
            heads = settings.heads or int(base.config.num_attention_heads)
            places = list(stack)[:-1] or list(stack)
            self.adapters = nn.ModuleList(GatedCrossAttention(width, slots, size, heads, settings.gate) for _ in places)
            for number, layer in enumerate(places):
                layer.register_forward_hook(self._reader(number))
        else:
            linear = nn.Linear(size, width)
            scale = float(base.get_input_embeddings().weight.std())
            nn.init.normal_(linear.weight, std=scale * size**-0.5)
            self.to_prompt = nn.Sequential(nn.LayerNorm(size), linear)

    def initial_memory(self, batch: int) -> State:
        """Return the memory before the first segment of ``batch`` transcripts."""
        return {} if self.core is None else self.core.initial_state(batch)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        memory: State | None = None,
        written: Tensor | None = None,
    ) -> MemoryOutput:
        """Predict a segment with the memory before it, then write it.

        Args:
            input_ids: Window and segment, shape (batch, time). In a masked model the tokens to predict
                are mask tokens; they are written as what they are by ``labels``.
            attention_mask: 1 for text and 0 for padding, on either side; None: no padding.
            labels: Tokens to predict, -100 elsewhere, not shifted; None: no loss.
            memory: The memory before the segment; None: an empty one.
            written: The segment: which tokens are written, and read the memory (as does the one before them, which
                predicts the first); None: the labelled ones or, without labels, all.
        """
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        memory = self.initial_memory(len(input_ids)) if memory is None else memory
        if written is None:
            written = (labels != -100) if labels is not None else attention_mask.bool()
        keep = self._kept(labels, input_ids.shape[1])
        logits, hidden = self._run(input_ids, attention_mask, memory, written, keep)
        loss, nats = (None, None) if labels is None else likelihood(logits, labels, self.masked)
        if self.core is not None:
            if self.masked and labels is not None:
                input_ids = unmasked(input_ids, labels)
                _, hidden = self._run(input_ids, attention_mask, memory, written, None)
            memory = self._write(input_ids, hidden, written, memory)
        return MemoryOutput(loss, nats, logits, memory)

    def write(
        self, input_ids: Tensor, attention_mask: Tensor | None, memory: State, written: Tensor | None = None
    ) -> State:
        """Return the memory after a segment; see :meth:`forward`."""
        out: MemoryOutput = self(input_ids, attention_mask, None, memory, written)
        return out.memory

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        memory: State | None = None,
        written: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Continue each row with what the memory holds in view.

        The memory is not changed; write the new turn with :meth:`write` once it is complete.

        Args:
            input_ids: The window and the beginning of the next turn, shape (batch, time), padded on the left.
            attention_mask: 1 for text and 0 for padding; None: no padding.
            memory: The memory before the turn; None: an empty one.
            written: Which tokens belong to the turn already (its speaker's name); None: all.
            **options: Those of transformers' ``generate``: sampling, beams, ``max_new_tokens``.

        Returns:
            The given and the new tokens, shape (batch, time + new).

        Raises:
            StmError: The base is a masked model.
        """
        check_writes_text(self.masked)
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        memory = self.initial_memory(len(input_ids)) if memory is None else memory
        written = attention_mask.bool() if written is None else written
        with self._reading(memory, written) as prompt:
            if prompt is None:
                found: Tensor = self.base.generate(input_ids=input_ids, attention_mask=attention_mask, **options)
                return found
            embeds, mask = self._with_prompt(prompt, input_ids, attention_mask)
            new: Tensor = self.base.generate(inputs_embeds=embeds, attention_mask=mask, **options)
        rows = input_ids.repeat_interleave(len(new) // len(input_ids), 0)
        return torch.cat([rows, new], 1)

    def trained(self) -> int:
        """Return the number of trainable parameters."""
        return sum(value.numel() for value in self.parameters() if value.requires_grad)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save what was added to the base (and the base, if it has no name); see :mod:`stm_rl.augmented.saving`."""
        from stm_rl.augmented.saving import save

        save(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", dtype: str = "float32") -> MemoryLM:
        """Load what :meth:`save_pretrained` saved.

        Raises:
            StmError: The folder or the base model cannot be read.
        """
        from stm_rl.augmented.saving import load

        return load(Path(folder), device, dtype)

    # Reading.

    def _run(
        self, input_ids: Tensor, attention_mask: Tensor, memory: State, written: Tensor, keep: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits of the last ``keep`` positions (None: all) and the middle hidden states of all."""
        options: dict[str, Any] = {"output_hidden_states": self.core is not None}
        if keep is not None:
            options["logits_to_keep"] = keep
        if not self.masked:
            options["use_cache"] = False
        time = input_ids.shape[1]
        with self._reading(memory, written) as prompt:
            if prompt is None:
                fed = {"input_ids": input_ids}
                mask = attention_mask
            else:
                embeds, mask = self._with_prompt(prompt, input_ids, attention_mask)
                fed = {"inputs_embeds": embeds}
            options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
            out = self.base(**fed, attention_mask=mask, **options)
        middle = (self.config.num_hidden_layers + 1) // 2
        hidden = out.hidden_states[middle][:, -time:] if self.core is not None else None
        return out.logits[:, -time:], hidden

    @contextmanager
    def _reading(self, memory: State, written: Tensor) -> Iterator[Tensor | None]:
        """Let the adapters see the memory; give the soft prompt if there is one."""
        if self.core is None:
            yield None
            return
        held = self.core.read(memory)
        if self.settings.read == "prompt":
            yield self.to_prompt(held)
            return
        last = torch.ones_like(written[:, :1])  # predicts what comes next
        readers = torch.cat([written[:, :-1] | written[:, 1:], last], 1)
        first = readers.any(0).nonzero()[0]
        self._held, self._readers = held, readers[:, int(first) :]
        try:
            yield None
        finally:
            self._held = self._readers = None

    def _with_prompt(self, prompt: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        embeds = torch.cat([prompt, self.base.get_input_embeddings()(input_ids)], 1)
        return embeds, torch.cat([attention_mask.new_ones(prompt.shape[:2]), attention_mask], 1)

    def _reader(self, number: int) -> Any:
        def read(layer: nn.Module, args: Any, out: Any) -> Any:
            held, readers = self._held, self._readers
            if held is None or readers is None:
                return out
            hidden = out[0] if isinstance(out, tuple) else out
            if times := len(hidden) // len(held) - 1:  # beams and several samples: rows are repeated
                held, readers = (value.repeat_interleave(times + 1, 0) for value in (held, readers))
            readers = readers[:, -hidden.shape[1] :]  # the rest of a text whose beginning is cached
            before, some = hidden[:, : -readers.shape[1]], hidden[:, -readers.shape[1] :]
            some = torch.where(readers[..., None], self.adapters[number](some, held), some)
            hidden = torch.cat([before, some], 1)
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        return read

    # Writing.

    def _write(self, input_ids: Tensor, hidden: Tensor | None, written: Tensor, memory: State) -> State:
        if self.core is None or hidden is None:
            return memory
        embedded = self.base.get_input_embeddings()(input_ids)
        steps, counts = self.writer(embedded, hidden, written)
        return write(self.core, steps, counts, memory)

    def _kept(self, labels: Tensor | None, time: int) -> int | None:
        """Return how many of the last positions need logits."""
        if labels is None or not self._keeps:
            return None
        first = (labels != -100).any(0).nonzero()
        return time - max(int(first[0]) - 1, 0) if len(first) else 1
