"""Evidence recall: does a memory of ``k`` slots still hold what is needed when it is needed?

Turns stream past, and a dropped turn cannot come back. At each probe (the turn ``p`` that depends on earlier turns)
the evidence should be in memory after the write at step ``p - 1``. No language model is needed to measure it.

**joint** is the share of probes with all their evidence held, **mean** the mean share of evidence held; both are
pooled over all probes of all transcripts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.transcript import Transcript

FloatArray = NDArray[np.float64]
Held = Sequence[frozenset[int]]
"""What a memory held at each check of a stream: indices of turns."""


class Check(NamedTuple):
    """One look into the memory.

    Attributes:
        step: The step after whose write the memory is looked into.
        evidence: Indices of the turns that should be held, at least one and each at most ``step``.
    """

    step: int
    evidence: frozenset[int]


@dataclass(frozen=True, slots=True)
class Stream:
    """A transcript of ``T`` turns as a memory meets it.

    Attributes:
        transcript: The transcript, its questions asked at the end.
        writable: Which turns may take a slot, shape ``(T,)``.
        checks: When the memory is looked into and for what, by ascending step.
    """

    transcript: Transcript
    writable: NDArray[np.bool_]
    checks: tuple[Check, ...]

    @classmethod
    def of(cls, transcript: Transcript) -> Stream:
        """Return the stream of a transcript; questions about the whole of it are asked at its end."""
        asked = transcript.with_questions_asked()
        checks = [Check(probe.turn - 1, frozenset(probe.evidence)) for probe in asked.probes]
        writable = np.array([turn.writable for turn in asked.turns], bool)
        return cls(asked, writable, tuple(sorted(checks, key=lambda check: check.step)))

    def __len__(self) -> int:
        return len(self.writable)


def streams_of(transcripts: Iterable[Transcript]) -> list[Stream]:
    """Return the streams of transcripts.

    Raises:
        StmError: None of them has a probe, so there is nothing to recall.
    """
    streams = [Stream.of(transcript) for transcript in transcripts]
    if not any(stream.checks for stream in streams):
        raise StmError(
            f"none of the {len(streams)} transcript(s) says which turns its later ones depend on; expected at least "
            "one with probes, or with questions that name their evidence; take an annotated format such as sgd"
        )
    return streams


@dataclass(frozen=True, slots=True)
class Recall:
    """What was recalled in each of ``n`` streams.

    Attributes:
        joint: Number of checks with all evidence held, shape ``(n,)``.
        mean: Sum of the shares of evidence held over the checks, shape ``(n,)``.
    """

    joint: FloatArray
    mean: FloatArray


def check_counts(streams: Sequence[Stream]) -> FloatArray:
    """Return the number of checks of each stream, shape ``(n,)``; divide by them to get shares."""
    return np.array([len(stream.checks) for stream in streams], float)


def recall_of(streams: Sequence[Stream], held: Sequence[Held]) -> Recall:
    """Return the recall of what was held at each check of each stream."""
    joint, mean = np.zeros(len(streams)), np.zeros(len(streams))
    for i, (stream, contents) in enumerate(zip(streams, held, strict=True)):
        shares = [
            len(check.evidence & content) / len(check.evidence)
            for check, content in zip(stream.checks, contents, strict=True)
        ]
        joint[i], mean[i] = sum(share == 1 for share in shares), sum(shares)
    return Recall(joint, mean)


class Measured(Protocol):
    """What the benchmark measures.

    Attributes:
        name: Name in tables.
    """

    name: str

    def recall(self, streams: Sequence[Stream], slots: int) -> Recall:
        """Return what it recalls with a memory of ``slots`` slots."""


class Keeper(ABC):
    """Decides which turns of a stream stay in memory."""

    name: str = "keeper"

    @abstractmethod
    def play(self, streams: Sequence[Stream], slots: int) -> list[Held]:
        """Return what a memory of ``slots`` slots holds at each check of each stream.

        The streams come together because some keepers learn from the others (``tf-idf``); what is held at a step
        may depend only on the turns up to it.
        """

    def recall(self, streams: Sequence[Stream], slots: int) -> Recall:
        """Return what it recalls with a memory of ``slots`` slots."""
        return recall_of(streams, self.play(streams, slots))
