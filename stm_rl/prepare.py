"""Transcripts made ready for episodes: lines and vectors computed once, and the gains of reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import TextEncoder, name_id, turn_features, word_ids
from stm_rl.lm.engine import ScoringEngine
from stm_rl.lm.prompt import PromptFormat, line, target
from stm_rl.transcript import Probe, Transcript


@dataclass(frozen=True, slots=True)
class Prepared:
    """One transcript of ``T`` turns, ready to be played.

    Attributes:
        transcript: The transcript itself.
        lines: Each turn as one line of a context.
        targets: Each turn as the text that is scored.
        vectors: Encoded turns, shape ``(T, d)``.
        features: Plain features of the turns, shape ``(T, len(TURN_FEATURES))``.
        words: Content words of the turns, shape ``(T, MAX_WORDS)``.
        speakers: Who says each turn, numbered by first appearance, shape ``(T,)``.
        names: The first content word of each speaker's name, as in ``words``; -1 without one, shape ``(T,)``.
        writable: Which turns may be written to memory, shape ``(T,)``.
        probes: The probe of each dependent turn, by turn.
    """

    transcript: Transcript
    lines: list[str]
    targets: list[str]
    vectors: NDArray[np.float32]
    features: NDArray[np.float32]
    words: NDArray[np.int64]
    speakers: NDArray[np.int64]
    names: NDArray[np.int64]
    writable: NDArray[np.bool_]
    probes: dict[int, Probe]

    def __len__(self) -> int:
        return len(self.transcript)


Asked = tuple[Prepared, int, Sequence[int]]
"""A transcript, the turn to be predicted in it, and the turns read from memory."""

SILENCE = "..."
"""Stands for a turn that a model left blank."""


class Preparer:
    """Prepares transcripts and keeps those it prepared last.

    Args:
        transcripts: Where episodes come from.
        engine: Scores turns; without one nothing can be scored or generated.
        encoder: Encodes turns.
        window: How many turns the model sees without memory, at least 1.
        prompt: Layout of contexts.
        keep: How many prepared transcripts to keep.
    """

    def __init__(
        self,
        transcripts: Sequence[Transcript],
        engine: ScoringEngine | None,
        encoder: TextEncoder,
        window: int,
        prompt: PromptFormat,
        keep: int = 4096,
    ) -> None:
        if window < 1:
            raise StmError(f"window is {window}; expected at least 1 turn")
        if not len(transcripts):
            raise StmError("there are no transcripts; expected at least one")
        self.transcripts = transcripts
        self.engine, self.encoder, self.window, self.prompt, self.keep = engine, encoder, window, prompt, keep
        self._known: OrderedDict[int, Prepared] = OrderedDict()

    def __call__(self, indices: Sequence[int]) -> list[Prepared]:
        """Return the transcripts at ``indices``, preparing all that are new together."""
        missing = list(dict.fromkeys(i for i in indices if i not in self._known))
        if missing:
            self._known.update(zip(missing, self._prepare([self.transcripts[i] for i in missing]), strict=True))
        result = [self._known[i] for i in indices]
        while len(self._known) > max(self.keep, len(result)):
            self._known.popitem(last=False)
        return result

    def context(
        self,
        prepared: Prepared,
        turn: int,
        reads: Sequence[int] = (),
        start: int | None = None,
        read_lines: Sequence[str] | None = None,
    ) -> str:
        """Return the text in front of ``turn``.

        Args:
            prepared: The transcript.
            turn: Index of the turn to be predicted, at least 1.
            reads: Indices of the turns read from memory, ascending.
            start: First turn of the window; by default ``turn - window``.
            read_lines: Read these lines instead of turns.
        """
        first = max(0, turn - self.window if start is None else start)
        lines = prepared.lines
        speaker = prepared.transcript.turns[turn].speaker
        quoted = [lines[i] for i in reads] if read_lines is None else read_lines
        return self.prompt.context(quoted, lines[first:turn], speaker)

    def gains(self, asked: Sequence[Asked], whole: bool = False) -> NDArray[np.float64]:
        """Return log p(turn | reads, window) - log p(turn | window) in nats, shape ``(len(asked),)``.

        Args:
            asked: Transcripts, the turns to be predicted in them, and the turns read from memory.
            whole: Put the whole history in front of the model instead of reads and window.
        """
        count = len(asked)
        contexts = self._contexts(asked, whole)
        targets = [item.targets[turn] for item, turn, _ in asked]
        scores = self.scorer.score(contexts, targets * 2)
        return scores[:count] - scores[count:]

    def gains_of_lines(self, asked: Sequence[tuple[Prepared, int]], lines: Sequence[str]) -> NDArray[np.float64]:
        """Return the gains of reading lines that need not be of the transcript, shape ``(len(asked),)``.

        Args:
            asked: Transcripts and the turns to be predicted in them.
            lines: A line for each, read alone.
        """
        contexts = [
            self.context(item, turn, read_lines=[text]) for (item, turn), text in zip(asked, lines, strict=True)
        ]
        contexts += [self.context(item, turn) for item, turn in asked]
        scores = self.scorer.score(contexts, [item.targets[turn] for item, turn in asked] * 2)
        return scores[: len(asked)] - scores[len(asked) :]

    def write(self, asked: Sequence[Asked], whole: bool = False, max_new_tokens: int = 40) -> list[tuple[str, str]]:
        """Return what the model writes in place of turns: with the reads, and with the window alone.

        Args:
            asked: As for :meth:`gains`.
            whole: As for :meth:`gains`.
            max_new_tokens: Most tokens of a text.
        """
        count = len(asked)
        contexts = self._contexts(asked, whole)
        texts = [text.strip() or SILENCE for text in self.scorer.generate(contexts, max_new_tokens)]
        return list(zip(texts[:count], texts[count:], strict=True))

    def replace_turn(self, item: Prepared, turn: int, text: str) -> Prepared:
        """Return the transcript with other text in one of its turns; what is scored stays the true text."""
        turns = list(item.transcript.turns)
        turns[turn] = replace(turns[turn], text=text)
        lines = [*item.lines[:turn], line(turns[turn]), *item.lines[turn + 1 :]]
        vectors, features, words = item.vectors.copy(), item.features.copy(), item.words.copy()
        vectors[turn] = self._encode([lines[turn]])[0]
        features[turn] = turn_features(turns[turn])
        words[turn] = word_ids([text])[0]
        transcript = replace(item.transcript, turns=tuple(turns))
        return replace(item, transcript=transcript, lines=lines, vectors=vectors, features=features, words=words)

    @property
    def scorer(self) -> ScoringEngine:
        """The scoring engine.

        Raises:
            StmError: There is none.
        """
        if self.engine is None:
            raise StmError("the environment was made without a language model (lm=None), so nothing can be scored")
        return self.engine

    def _contexts(self, asked: Sequence[Asked], whole: bool) -> list[str]:
        """Return the contexts with the reads (or the whole history), and after them those of the window alone."""
        full = [self.context(item, turn, *(((), 0) if whole else (reads,))) for item, turn, reads in asked]
        return full + [self.context(item, turn) for item, turn, _ in asked]

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.clip(self.encoder(texts), -8.0, 8.0)

    def _prepare(self, transcripts: Sequence[Transcript]) -> list[Prepared]:
        lines = [[line(turn) for turn in transcript.turns] for transcript in transcripts]
        vectors = self._encode([text for texts in lines for text in texts])
        ends = np.cumsum([len(texts) for texts in lines])
        return [
            Prepared(
                transcript,
                texts,
                [target(turn) for turn in transcript.turns],
                own,
                np.stack([turn_features(turn) for turn in transcript.turns]),
                word_ids([turn.text for turn in transcript.turns]),
                _numbered([turn.speaker for turn in transcript.turns]),
                np.array([name_id(turn.speaker) for turn in transcript.turns], np.int64),
                np.array([turn.writable for turn in transcript.turns]),
                {probe.turn: probe for probe in transcript.probes},
            )
            for transcript, texts, own in zip(transcripts, lines, np.split(vectors, ends[:-1]), strict=True)
        ]


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)
