"""Transcripts: the raw material of every episode.

A transcript is an ordered list of turns (of a dialogue, a story or a screenplay). A probe
marks a turn that cannot be predicted well without earlier turns: its *evidence*. A question asks about the
whole transcript after its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError

IMAGE, AUDIO = KINDS = ("image", "audio")
"""Kinds of media a turn may carry."""


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a sound that a turn carries: a file, or its content.

    Attributes:
        kind: ``image`` or ``audio``.
        path: The file; empty where ``array`` is given. Only this form can be written to a file of transcripts.
        array: An image of shape ``(height, width, 3)``, uint8, or a sound of one channel, shape ``(samples,)``,
            float32, -1 to 1.
        rate: Samples a second of a sound given as an array; 0 otherwise (a file says itself).
    """

    kind: str
    path: str = ""
    array: NDArray[Any] | None = field(default=None, repr=False, hash=False)
    rate: int = 0

    def __post_init__(self) -> None:
        """Reject media that cannot be read as what they are said to be."""
        if self.kind not in KINDS:
            raise StmError(f"the kind of a medium is {self.kind!r}; expected {' or '.join(KINDS)}")
        if bool(self.path) == (self.array is not None):
            raise StmError(f"a medium of kind {self.kind} needs either a path or an array; give exactly one")
        if self.array is None:
            return
        array = self.array
        if self.kind == IMAGE and (array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size):
            raise StmError(f"an image is {array.dtype} of shape {array.shape}; expected uint8, (height, width, 3)")
        if self.kind == AUDIO and (array.dtype != np.float32 or array.ndim != 1 or not array.size or self.rate < 1):
            raise StmError(
                f"a sound is {array.dtype} of shape {array.shape} at {self.rate} samples a second; expected float32, "
                "(samples,), and its rate"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Media):
            return NotImplemented
        same = (self.kind, self.path, self.rate) == (other.kind, other.path, other.rate)
        return same and (
            self.array is other.array
            or (self.array is not None and other.array is not None and np.array_equal(self.array, other.array))
        )

    def as_json(self) -> dict[str, str]:
        """Return the medium as JSON values; ``Media(**values)`` gives it back.

        Raises:
            StmError: It is given as an array.
        """
        if not self.path:
            raise StmError(f"a medium of kind {self.kind} is given as an array; save it to a file and give its path")
        return {"kind": self.kind, "path": self.path}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn.

    Attributes:
        text: What was said or written; never blank.
        speaker: Who said it (a role such as ``user``, or a name); empty for plain prose.
        meta: What a generator or reader knows about the turn: JSON values, with tuples for lists. Never part of an
            observation. ``{"writable": False}`` marks a turn that may not be written to memory.
        media: The images and sounds it carries; see :mod:`stm_rl.media`.
    """

    text: str
    speaker: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    media: tuple[Media, ...] = ()

    def __post_init__(self) -> None:
        """Reject turns that hold no text."""
        if not self.text.strip():
            raise StmError("a turn has no text; leave blank turns out of the transcript")

    @property
    def writable(self) -> bool:
        """Whether an agent may write the turn to memory; questions put to the memory are not writable."""
        return bool(self.meta.get("writable", True))

    def __str__(self) -> str:
        return f"{self.speaker}: {self.text}" if self.speaker else self.text


@dataclass(frozen=True, slots=True)
class Probe:
    """A turn that depends on earlier turns.

    Attributes:
        turn: Index of the dependent turn in its transcript.
        evidence: Indices of the earlier turns it depends on, ascending.
        answer: The part of the dependent turn's text that the evidence determines.
        stale: Indices of earlier turns that once held the answer and no longer do.
    """

    turn: int
    evidence: tuple[int, ...]
    answer: str = ""
    stale: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Reject evidence that does not precede the dependent turn."""
        if not self.evidence:
            raise StmError(f"the probe at turn {self.turn} names no evidence; give at least one earlier turn")
        for index in (*self.evidence, *self.stale):
            if not 0 <= index < self.turn:
                raise StmError(
                    f"the probe at turn {self.turn} points to turn {index}; "
                    f"expected an earlier turn, 0 to {self.turn - 1}"
                )


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a whole transcript, asked after its last turn.

    Attributes:
        text: The question.
        answer: The right answer.
        evidence: Indices of the turns that hold the answer, ascending; empty if not known.
        category: What kind of question it is, in the words of the data set.
    """

    text: str
    answer: str
    evidence: tuple[int, ...] = ()
    category: str = ""

    def __post_init__(self) -> None:
        """Reject questions that cannot be asked."""
        if not self.text.strip() or not self.answer.strip():
            raise StmError(f"question {self.text!r} with answer {self.answer!r}: expected text in both")


@dataclass(frozen=True, slots=True)
class Transcript:
    """An ordered list of turns, with the probes and questions that are known about it.

    Attributes:
        turns: At least two turns: one to act on and one to predict.
        probes: Known dependencies, by ascending turn; empty for raw text.
        id: Name used in logs, traces and errors.
        meta: Anything a generator or reader wants to keep with it: JSON values, with tuples for lists.
        questions: Questions asked after the end; see :meth:`with_questions_asked`.
    """

    turns: tuple[Turn, ...]
    probes: tuple[Probe, ...] = ()
    id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    questions: tuple[Question, ...] = ()

    def __post_init__(self) -> None:
        """Reject transcripts that cannot make an episode."""
        if len(self.turns) < 2:
            raise StmError(
                f"transcript {self.id or '(unnamed)'} has {len(self.turns)} turn(s); "
                "expected at least 2: one to act on and one to predict"
            )
        for probe in self.probes:
            if probe.turn >= len(self.turns):
                raise StmError(
                    f"transcript {self.id or '(unnamed)'} has a probe at turn {probe.turn} "
                    f"but only {len(self.turns)} turns"
                )
        for question in self.questions:
            if outside := [turn for turn in question.evidence if not 0 <= turn < len(self.turns)]:
                raise StmError(
                    f"transcript {self.id or '(unnamed)'}: question {question.text[:60]!r} has evidence at turn "
                    f"{outside[0]}; expected 0 to {len(self.turns) - 1}"
                )

    def with_questions_asked(self) -> Transcript:
        """Return the transcript with its questions as turns at the end, each followed by its answer.

        Neither may be written to memory; each answer with known evidence is a probe.
        """
        turns, probes = list(self.turns), list(self.probes)
        for question in self.questions:
            kept = {"writable": False, "category": question.category}
            turns.append(Turn(question.text, "question", {"kind": "question", **kept}))
            if question.evidence:
                probes.append(Probe(len(turns), question.evidence, question.answer))
            turns.append(Turn(question.answer, "answer", {"kind": "answer", **kept}))
        return replace(self, turns=tuple(turns), probes=tuple(probes), questions=())

    def __len__(self) -> int:
        return len(self.turns)

    def __str__(self) -> str:
        return "\n".join(str(turn) for turn in self.turns)
