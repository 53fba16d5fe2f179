"""Transcripts as segments: one turn each, with the turns of the window before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stm_rl.lm.prompt import PromptFormat, target
from stm_rl.transcript import Transcript
from stm_rl.worlds import World

FORMAT = PromptFormat()


@dataclass(frozen=True, slots=True)
class Segments:
    """The token ids of a transcript.

    Attributes:
        turns: For each turn its tokens, and how many of the first are the speaker's name, which is given.
    """

    turns: tuple[tuple[list[int], int], ...]


def segments(transcript: Transcript, tokenizer: Any) -> Segments:
    """Return a transcript's tokens, laid out as in an episode; see :class:`~stm_rl.lm.prompt.PromptFormat`."""
    texts = [
        text for turn in transcript.turns for text in (FORMAT.context([], [], turn.speaker) or "", f"{target(turn)}\n")
    ]
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    return Segments(tuple((ids[i] + ids[i + 1], len(ids[i])) for i in range(0, len(ids), 2)))


class TranscriptSet(Dataset[Segments]):
    """Transcripts of procedural worlds, one world after the other in turn, by seed.

    Args:
        worlds: Where transcripts come from.
        tokenizer: Makes tokens of them.
        size: How many there are.
        first_seed: The seed of the first; the sets of training and evaluation must not overlap.
    """

    def __init__(self, worlds: Sequence[World], tokenizer: Any, size: int, first_seed: int) -> None:
        self.worlds, self.tokenizer, self.size, self.first_seed = worlds, tokenizer, size, first_seed

    def __len__(self) -> int:
        return self.size

    def transcript(self, index: int) -> Transcript:
        """Return a transcript."""
        return self.worlds[index % len(self.worlds)].generate(self.first_seed + index)

    def __getitem__(self, index: int) -> Segments:
        return segments(self.transcript(index), self.tokenizer)


def collate(batch: Sequence[Segments], tokenizer: Any, window: int | None) -> dict[str, Tensor]:
    """Return a batch of transcripts, padded on the left.

    Args:
        batch: Transcripts.
        tokenizer: Gives the padding and the token that begins a text.
        window: Turns in front of each segment; 0: only the last token of the turn before, for a memory that holds the
            window too. None: the whole transcript is one text, with the labels of all turns.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels`` (-100 except in the segment's text), ``written`` (the segment),
        and ``turn`` (the turn a label belongs to, -1 elsewhere), each of shape (batch, segments, time). Turn 0 is
        never labelled; where a transcript has ended, nothing is labelled or written.
    """
    first = tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    begin = [] if first is None else [first]
    rows = [_rows(one, begin, window) for one in batch]
    longest = max(len(row) for row in rows)
    width = max(len(cells) for row in rows for cells in row)
    shape = (len(batch), longest, width)
    ids = torch.full(shape, tokenizer.pad_token_id)
    mask, turn = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    written, labelled = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for b, row in enumerate(rows):
        for s, cells in enumerate(row):
            found = torch.tensor(cells).T
            ids[b, s, -len(cells) :], turn[b, s, -len(cells) :] = found[0], found[1]
            mask[b, s, -len(cells) :] = 1
            labelled[b, s, -len(cells) :], written[b, s, -len(cells) :] = found[2].bool(), found[3].bool()
    labels = torch.where(labelled, ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "written": written, "turn": turn}


def _rows(one: Segments, begin: list[int], window: int | None) -> list[list[tuple[int, int, int, int]]]:
    """Return for each segment its cells: token, turn, whether it is labelled and whether it is written."""
    rows = []
    for current in range(len(one.turns)) if window is not None else [len(one.turns) - 1]:
        first = 0 if window is None else max(current - window, 0)
        before = one.turns[current - 1][0][-1:] if window == 0 and current else begin
        cells = [(token, -1, 0, 0) for token in before]
        for number in range(first, current + 1):
            ids, given = one.turns[number]
            own = window is None or number == current
            cells += [
                (token, number if own else -1, int(own and number > 0 and place >= given), int(own))
                for place, token in enumerate(ids)
            ]
        rows.append(cells)
    return rows


def mask_tokens(batch: dict[str, Tensor], mask_id: int, rate: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a batch for a masked model: of the labelled tokens a share is masked and predicted, the others are given.

    Args:
        batch: From :func:`collate`.
        mask_id: The mask token.
        rate: Share of the labelled tokens that are masked.
        generator: Draws them; the same seed gives every model the same masks, whatever stands around the labels.
    """
    hidden = batch["labels"] != -100
    hidden[hidden.clone()] = torch.rand(int(hidden.sum()), generator=generator) < rate
    return {
        **batch,
        "input_ids": batch["input_ids"].masked_fill(hidden, mask_id),
        "labels": batch["labels"].masked_fill(~hidden, -100),
    }
