"""Training by the likelihood of the next segment, through the Hugging Face Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from stm_rl.augmented.model import MemoryLM
from stm_rl.augmented.recurrence import SegmentLM
from stm_rl.errors import StmError
from stm_rl.memory.core import detached

FIELDS = ("input_ids", "attention_mask", "labels", "written")


def transcript_loss(model: MemoryLM | SegmentLM, batch: dict[str, Tensor], truncate: int) -> tuple[Tensor, Tensor]:
    """Return what a batch of transcripts costs, read segment by segment in order.

    Args:
        model: The model; its memory is empty at first and is carried on.
        batch: Tensors of shape (batch, segments, time); see :func:`stm_rl.augmented.segments.collate`.
        truncate: After this many segments the memory is cut off from the gradient (truncated backpropagation).

    Returns:
        The loss in nats per labelled token, and the nats of every token, shape (batch, segments, time), which carry no
        gradient.
    """
    memory = model.initial_memory(len(batch["input_ids"]))
    losses, nats = [], torch.zeros(batch["labels"].shape, device=batch["labels"].device)
    for number in range(batch["input_ids"].shape[1]):
        if number and number % truncate == 0:
            memory = detached(memory)
        fields = {name: batch[name][:, number] for name in FIELDS}
        used = int(fields["attention_mask"].any(0).sum())  # the text is on the right
        out = model(**{name: value[:, -used:] for name, value in fields.items()}, memory=memory)
        memory = out.memory
        losses.append(out.loss)
        nats[:, number, -used:] = out.nats
    tokens = (batch["labels"] != -100).sum().clamp(min=1)
    return torch.stack(losses).sum() / tokens, nats


class SegmentTrainer(Trainer):
    """A Trainer whose batches are transcripts.

    Args:
        truncate: Segments that the gradient goes back through the memory.
        **options: Those of transformers' Trainer. ``args`` needs ``remove_unused_columns=False``.
    """

    def __init__(self, *, truncate: int, **options: Any) -> None:
        if truncate < 1:
            raise StmError(f"truncate is {truncate}; expected at least 1 segment")
        super().__init__(**options)
        self.truncate = truncate

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch of transcripts; see :func:`transcript_loss`."""
        loss, nats = transcript_loss(model, inputs, self.truncate)
        return (loss, {"nats": nats}) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model: Any = self.model
        model.save_pretrained(output_dir or self.args.output_dir)
