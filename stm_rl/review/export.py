"""Preferences between texts as a data set for direct preference optimisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stm_rl.comparison.continuation import Continuation
from stm_rl.lm.prompt import PromptFormat, target
from stm_rl.review.statistics import majority
from stm_rl.review.store import Rating
from stm_rl.transcript import Turn


def text_preferences(items: Mapping[str, Continuation], ratings: Sequence[Rating]) -> list[dict[str, Any]]:
    """Return the pairs that a majority decided, in TRL's standard preference format.

    Args:
        items: The pairs, by id.
        ratings: What raters said.

    Returns:
        ``prompt`` (reads, window and speaker, laid out as the model saw them with memory), ``chosen`` and ``rejected``,
        so that prompt and answer put together are what the model reads.
    """
    rows = []
    for name, memory_won in majority(items, ratings).items():
        one = items[name]
        texts = [target(Turn(text, one.speaker)) for text in (one.with_memory, one.without_memory)]
        chosen, rejected = texts if memory_won else reversed(texts)
        prompt = PromptFormat().context(one.reads, one.window, one.speaker)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows
