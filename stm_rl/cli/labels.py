"""Hindsight labels for commands: the options that shape them, and the expert who acts on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stm_rl.cli.progress import counted, say
from stm_rl.cli.task import NO_LM, Task, TaskRequest
from stm_rl.errors import StmError
from stm_rl.labels import Labeller, LabelStore, ModelLabels, Noise, PairSettings, TextLabels, measure_noise
from stm_rl.labels.sources import LabelSource
from stm_rl.labels.statistics import label_statistics, warning
from stm_rl.prepare import Prepared
from stm_rl_agents.imitation.expert import HindsightExpert

NOISE_SAMPLE = 100
"""Transcripts in which noise is measured."""
FROM_MODEL, FROM_TEXT = SIGNALS = ("lm", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """What shapes labels; see ``stm-rl label --help``."""

    signal: str = FROM_MODEL
    lookback: int = 64
    prefilter: str = "words"
    candidates: int = 8
    noise_level: float | None = None

    def __post_init__(self) -> None:
        """Reject signals that do not exist."""
        if self.signal not in SIGNALS:
            raise StmError(f"--signal is {self.signal!r}; expected one of {', '.join(SIGNALS)}")

    @property
    def pairs(self) -> PairSettings:
        """Which pairs are scored."""
        return PairSettings(self.lookback, self.prefilter, self.candidates)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRequest(TaskRequest):
    """The command-line values of commands that learn from labels."""

    labels: Path | None
    signal: str
    lookback: int
    prefilter: str
    candidates: int
    noise_level: float | None

    @property
    def label_options(self) -> LabelOptions:
        """What shapes the labels."""
        return LabelOptions(
            signal=FROM_TEXT if self.lm == NO_LM else self.signal,
            lookback=self.lookback,
            prefilter=self.prefilter,
            candidates=self.candidates,
            noise_level=self.noise_level,
        )


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of the training part of a task.

    Attributes:
        source: Gives hindsight values.
        labeller: Makes gain tables; none for labels from text.
        noise: The noise that was measured; none if its level was given, or for labels from text.
    """

    source: LabelSource
    labeller: Labeller | None = None
    noise: Noise | None = None

    @property
    def card(self) -> dict[str, Any]:
        """What to keep about the labels."""
        card: dict[str, Any] = {"signal": self.source.name, "level": round(self.source.level, 4)}
        return card if self.labeller is None else card | {"pairs": self.labeller.key}


def make_labels(task: Task, options: LabelOptions, store: Path | None = None, gamma: float = 0.98) -> Labels:
    """Return the labels of a task's training part; nothing but noise is scored yet.

    Args:
        task: The task.
        options: What shapes the labels.
        store: File to keep the labels in.
        gamma: Discount of future gains.

    Raises:
        StmError: Labels from a model are wanted, but there is none.
    """
    if options.signal == FROM_TEXT:
        return Labels(TextLabels(gamma))
    if task.engine is None:
        raise StmError("labels from a language model need one; give --lm, or --signal text for labels from text alone")
    env = task.make(1)
    prepare = env.episodes.prepare
    labeller = Labeller(prepare, options.pairs, LabelStore(store) if store else None)
    noise, level = None, options.noise_level
    if level is None:
        sample = prepare(range(min(NOISE_SAMPLE, len(prepare.transcripts))))
        noise = measure_noise(prepare, sample)
        level = noise.level
    return Labels(ModelLabels(labeller, level, env.episodes.settings.reads, gamma), labeller, noise)


def make_expert(labels: Labels) -> HindsightExpert:
    """Return the hindsight expert that acts on labels."""
    return HindsightExpert(labels.source, labels.source.level)


def expert_of(task: Task, level: float | None = None) -> HindsightExpert:
    """Return the hindsight expert of a task, with the usual labels; noise is measured unless its ``level`` is given."""
    options = LabelOptions(signal=FROM_MODEL if task.engine else FROM_TEXT, noise_level=level)
    return make_expert(make_labels(task, options))


def label_all(labels: Labels, items: Sequence[Prepared]) -> None:
    """Label transcripts, with a progress bar."""
    if labels.labeller is not None:
        with counted("labelling", len(items)) as advance:
            labels.labeller.label(items, advance)


def prepared(task: Task, split: str, count: int | None) -> list[Prepared]:
    """Return the first transcripts of a split, ready to be labelled."""
    prepare = task.make(1, split).episodes.prepare
    available = len(prepare.transcripts)
    return prepare(np.arange(min(count or available, available)).tolist())


def label_training(task: Task, labels: Labels, store: Path, indices: Sequence[int]) -> None:
    """Make the labels of the transcripts that are learned from, and keep them in a file; none from text.

    Args:
        task: The task.
        labels: What the labels are.
        store: File to keep them in, unless ``labels`` has one already.
        indices: Which transcripts of the training part.
    """
    labeller = labels.labeller
    if labeller is None:
        return
    if labeller.store is None:
        labeller.store = LabelStore(store)
        labeller.store.claim(labeller.key)
    if labels.noise is not None:
        noise = labels.noise
        say(f"noise: standard deviation {noise.std:.2f} nats; gains below {noise.level:.2f} count as 0")
    items = task.make(1).episodes.prepare(indices)
    label_all(labels, items)
    say(f"labels: {len(items)} transcripts, {labeller.scored} pairs scored, kept in {store}")
    tables = labeller.label(items)
    if warned := warning(label_statistics(items, tables, labeller.prepare.window, labels.source.level)):
        say(f"stm-rl: {warned}")
