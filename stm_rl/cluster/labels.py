"""Hindsight labels made on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stm_rl.cluster.actors import Cluster
from stm_rl.errors import StmError
from stm_rl.features import HashedWords
from stm_rl.labels import GainTable, Labeller, PairSettings
from stm_rl.labels.labeller import digest
from stm_rl.lm import PromptFormat, ScoringEngine
from stm_rl.prepare import Prepared, Preparer

JOBS = 8
"""Jobs an actor, if there are enough transcripts: the last one to finish then keeps the others waiting for little."""
MOST = 64
"""Transcripts of a job, at most: what an interruption can lose on each actor."""


@dataclass(frozen=True, slots=True)
class LabelWork:
    """What an actor needs to label transcripts; calling it makes the function that does.

    Attributes:
        load: Loads the engine; a function of a module with its arguments, such as a ``partial`` of ``load_engine``.
        lm_name: What the driver's engine calls the model, weights included.
        window: Turns the model sees anyway.
        prompt: Layout of contexts.
        settings: Which pairs are scored.
    """

    load: Callable[[], ScoringEngine]
    lm_name: str
    window: int
    prompt: PromptFormat
    settings: PairSettings

    def __call__(self) -> Callable[[list[Prepared]], list[GainTable]]:
        """Load the model and return what labels transcripts.

        Raises:
            StmError: The model cannot be loaded here, or is another one.
        """
        engine = self.load()
        if engine.lm_name != self.lm_name:
            raise StmError(
                f"the language model is {engine.lm_name} on a machine of the cluster but {self.lm_name} here; put the "
                "same model on all machines"
            )

        def label(items: list[Prepared]) -> list[GainTable]:
            transcripts = [item.transcript for item in items]
            encoder = HashedWords(1)  # never asked: the transcripts come with their vectors
            return Labeller(Preparer(transcripts, engine, encoder, self.window, self.prompt), self.settings).label(
                items
            )

        return label


def label_on(
    cluster: Cluster,
    labeller: Labeller,
    load: Callable[[], ScoringEngine],
    items: Sequence[Prepared],
    on_transcripts: Callable[[int], None] = lambda count: None,
) -> None:
    """Label transcripts on a cluster, and keep the labels in the labeller's store as they come.

    What the store holds already is not made again. Afterwards ``labeller.label`` finds all in the store.

    Args:
        cluster: Where.
        labeller: Has the store, and the language model that noise is measured with.
        load: Loads that model's engine on an actor; see :class:`LabelWork`.
        items: The transcripts; equal ones are labelled once.
        on_transcripts: Called with the number of transcripts just done, for a progress bar.

    Raises:
        StmError: The labeller has no store, or the cluster failed; labels that came before that are kept.
    """
    store, prepare = labeller.store, labeller.prepare
    if store is None:
        raise StmError("labels made on a cluster need a store; give the labeller one")
    wanted = {digest(item): item for item in items}
    missing = {key: item for key, item in wanted.items() if store.get(key) is None}
    on_transcripts(len(items) - len(missing))
    if not missing:
        return
    keys = sorted(missing, key=lambda key: -len(missing[key]))  # the longest first: the last job is a short one
    count = max(-(-len(keys) // MOST), min(len(keys), JOBS * cluster.workers))
    jobs = [[keys[at] for at in part] for part in np.array_split(np.arange(len(keys)), count)]
    work = LabelWork(load, prepare.scorer.lm_name, prepare.window, prepare.prompt, labeller.settings)
    for number, tables in cluster.map(work, [[missing[key] for key in job] for job in jobs]):
        store.put(dict(zip(jobs[number], tables, strict=True)))
        labeller.scored += sum(map(len, tables))
        on_transcripts(len(tables))
