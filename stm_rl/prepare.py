"""Transcripts made ready for episodes: lines and vectors computed once, and the gains of reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stm_rl.contexts import Contexts
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


Asked = tuple[Prepared, int, Sequence[int | str]]
"""A transcript, the turn to be predicted in it, and the turns read from memory, or lines that stand for turns."""

SILENCE = "..."
"""Stands for a turn that a model left blank."""
AHEAD = 2**17
"""Characters of later histories of a transcript that are scored along with its first."""


@dataclass(frozen=True, slots=True)
class Gains:
    """Gains that were asked for.

    Attributes:
        left_out: How many turns of each context the model cannot read, shape ``(m,)``; see
            :class:`stm_rl.contexts.Contexts`.
        result: Waits for the model and returns the gains in nats, shape ``(m,)``.
    """

    left_out: NDArray[np.int64]
    result: Callable[[], NDArray[np.float64]]


def encode(encoder: TextEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return texts as observations show them: encoded, each number -8 to 8, shape ``(len(texts), d)``."""
    return np.clip(encoder(texts), -8.0, 8.0)


class Preparer:
    """Prepares transcripts and keeps those it prepared last.

    Args:
        transcripts: Where episodes come from.
        engine: Scores turns; without one nothing can be scored or generated.
        encoder: Encodes turns.
        window: How many turns the model sees without memory, at least 1.
        prompt: Layout of contexts.
        keep: How many turns of prepared transcripts to keep.
    """

    def __init__(
        self,
        transcripts: Sequence[Transcript],
        engine: ScoringEngine | None,
        encoder: TextEncoder,
        window: int,
        prompt: PromptFormat,
        keep: int = 200_000,
    ) -> None:
        if window < 1:
            raise StmError(f"window is {window}; expected at least 1 turn")
        if not len(transcripts):
            raise StmError("there are no transcripts; expected at least one")
        self.transcripts = transcripts
        self.engine, self.encoder, self.window, self.prompt, self.keep = engine, encoder, window, prompt, keep
        self._contexts = Contexts(prompt, engine.lm if engine else None)
        self._known: OrderedDict[int, Prepared] = OrderedDict()
        self._turns = 0

    def __call__(self, indices: Sequence[int]) -> list[Prepared]:
        """Return the transcripts at ``indices``, preparing all that are new together."""
        missing = list(dict.fromkeys(i for i in indices if i not in self._known))
        if missing:
            new = self._prepare([self.transcripts[i] for i in missing])
            self._known.update(zip(missing, new, strict=True))
            self._turns += sum(map(len, new))
        result = [self._known[i] for i in indices]
        while self._turns > self.keep and len(self._known) > len(result):
            self._turns -= len(self._known.popitem(last=False)[1])
        return result

    def context(
        self,
        prepared: Prepared,
        turn: int,
        reads: Sequence[int | str] = (),
        start: int | None = None,
    ) -> str:
        """Return the text in front of ``turn``, without the turns that the model cannot read.

        Args:
            prepared: The transcript.
            turn: Index of the turn to be predicted, at least 1.
            reads: Indices of the turns read from memory, ascending, or lines that stand for turns.
            start: First turn of the window; by default ``turn - window``.
        """
        return self._fitted(prepared, turn, reads, start)[0]

    def gains(self, asked: Sequence[Asked], whole: bool = False) -> NDArray[np.float64]:
        """Return log p(turn | reads, window) - log p(turn | window) in nats, shape ``(len(asked),)``.

        Args:
            asked: Transcripts, the turns to be predicted in them, and the turns read from memory.
            whole: Put the whole history in front of the model instead of reads and window.
        """
        contexts, targets, _ = self._texts(asked, whole)
        with_reads, without = np.split(self.scorer.score(contexts, targets), 2)
        return np.asarray(with_reads - without)

    def ask(self, asked: Sequence[Asked], whole: bool = False, ahead: bool = False) -> Gains:
        """Begin to compute :meth:`gains`; the model works while the caller does something else.

        Args:
            asked: As for :meth:`gains`.
            whole: As for :meth:`gains`.
            ahead: With ``whole``, score the later turns of a transcript along with its first: each history begins with
                the one before, so that one pass of a causal model does for all.
        """
        later = [one for item, turn, _ in asked if turn == 1 for one in _histories(item)] if whole and ahead else []
        contexts, targets, left_out = self._texts([*asked, *later], whole)
        scores = self.scorer.submit(contexts, targets)

        def result() -> NDArray[np.float64]:
            with_reads, without = np.split(scores.result(), 2)
            return np.asarray(with_reads - without)[: len(asked)]

        return Gains(left_out[: len(asked)], result)

    def gains_of_lines(self, asked: Sequence[tuple[Prepared, int]], lines: Sequence[str]) -> NDArray[np.float64]:
        """Return the gains of reading lines that need not be of the transcript, shape ``(len(asked),)``.

        Args:
            asked: Transcripts and the turns to be predicted in them.
            lines: A line for each, read alone.
        """
        contexts = [self.context(item, turn, [text]) for (item, turn), text in zip(asked, lines, strict=True)]
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
        full = [self._fitted(*one, spare=max_new_tokens, whole=whole)[0] for one in asked]
        plain = [self._fitted(item, turn, spare=max_new_tokens)[0] for item, turn, _ in asked]
        texts = [text.strip() or SILENCE for text in self.scorer.generate(full + plain, max_new_tokens)]
        return list(zip(texts[: len(asked)], texts[len(asked) :], strict=True))

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

    def _texts(self, asked: Sequence[Asked], whole: bool) -> tuple[list[str], list[str], NDArray[np.int64]]:
        """Return contexts with the reads (or the whole history) and then those of the window alone, and their targets.

        And how many turns were left out of each of the first, since the model cannot read them.
        """
        full = [self._fitted(*one, whole=whole) for one in asked]
        plain = [self._fitted(item, turn)[0] for item, turn, _ in asked]
        targets = [item.targets[turn] for item, turn, _ in asked]
        return [text for text, _ in full] + plain, targets * 2, np.array([count for _, count in full], np.int64)

    def _fitted(
        self,
        item: Prepared,
        turn: int,
        reads: Sequence[int | str] = (),
        start: int | None = None,
        *,
        whole: bool = False,
        spare: int = 0,
    ) -> tuple[str, int]:
        """Return a context that the model can read, and how many turns were left out of it; see :meth:`context`.

        With ``spare`` tokens to keep free, the model is to write the turn; else it is to score it.
        """
        if whole:
            reads, start = (), 0
        first = max(0, turn - self.window if start is None else start)
        quoted = [one if isinstance(one, str) else item.lines[one] for one in reads]
        speaker = item.transcript.turns[turn].speaker
        return self._contexts(quoted, item.lines[first:turn], speaker, "" if spare else item.targets[turn], spare)

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return encode(self.encoder, texts)

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


def _histories(item: Prepared) -> Iterator[Asked]:
    """Yield the turns after the first of a transcript, up to :data:`AHEAD` characters of histories."""
    length = total = 0
    for turn in range(2, len(item)):
        length += len(item.lines[turn - 1])
        total += length
        if total > AHEAD:
            return
        yield item, turn, ()
