"""Several sets of transcripts as one, and long transcripts in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

from stm_rl.errors import StmError
from stm_rl.transcript import Probe, Transcript


class Mixture(Sequence[Transcript]):
    """Sets of transcripts, interleaved: every set has the same share, whatever its size.

    Transcript ``i`` comes from set ``i`` modulo their number; sets smaller than the largest are gone through again.
    Nothing is copied or read ahead, so a set may be lazy.

    Args:
        sets: The sets; each holds at least one transcript.
    """

    def __init__(self, sets: Sequence[Sequence[Transcript]]) -> None:
        if not sets:
            raise StmError("there is no set to mix; expected at least one")
        for number, transcripts in enumerate(sets, start=1):
            if not len(transcripts):
                raise StmError(f"set {number} of {len(sets)} holds no transcript; expected at least one in each")
        self.sets = tuple(sets)

    def __len__(self) -> int:
        return len(self.sets) * max(map(len, self.sets))

    @overload
    def __getitem__(self, index: int) -> Transcript: ...

    @overload
    def __getitem__(self, index: slice) -> list[Transcript]: ...

    def __getitem__(self, index: int | slice) -> Transcript | list[Transcript]:
        """Return one transcript, or a list of them."""
        count = len(self)
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(count))]
        if not -count <= index < count:
            raise IndexError(f"transcript {index} of a mixture of {count}")
        place, number = divmod(index % count, len(self.sets))
        found = self.sets[number]
        return found[place % len(found)]


def excerpts(transcript: Transcript, turns: int, stride: int) -> list[Transcript]:
    """Cut a long transcript into overlapping pieces.

    A piece begins every ``stride`` turns, and one more ends with the transcript if the others do not. Probes keep to
    the piece they are in, and are left out where part of their evidence came before it; so are questions about
    the whole transcript.

    Args:
        transcript: The transcript; one that is not longer than ``turns`` is returned as it is.
        turns: Turns of a piece.
        stride: Turns from the beginning of a piece to that of the next.

    Raises:
        StmError: The pieces would be too short, or would leave turns out.
    """
    if turns < 2:
        raise StmError(f"pieces of {turns} turn(s) were asked for; expected at least 2: one to act on, one to predict")
    if not 1 <= stride <= turns:
        raise StmError(f"stride is {stride} for pieces of {turns} turns; expected 1 to {turns}, so that none is lost")
    count = len(transcript)
    if count <= turns:
        return [transcript]
    firsts = [*range(0, count - turns, stride), count - turns]
    return [_piece(transcript, first, first + turns) for first in firsts]


def _piece(transcript: Transcript, first: int, end: int) -> Transcript:
    probes = tuple(
        Probe(
            probe.turn - first,
            tuple(turn - first for turn in probe.evidence),
            probe.answer,
            tuple(turn - first for turn in probe.stale if turn >= first),
        )
        for probe in transcript.probes
        if probe.turn < end and min(probe.evidence) >= first
    )
    return replace(
        transcript,
        turns=transcript.turns[first:end],
        probes=probes,
        id=f"{transcript.id}[{first}:{end}]",
        questions=(),
    )
