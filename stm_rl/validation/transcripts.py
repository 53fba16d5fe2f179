"""Checks of real transcripts: is there enough, is it whole, does it fit the model, does anything repeat?"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stm_rl.features import WORD
from stm_rl.lm import LanguageModel
from stm_rl.lm.prompt import line
from stm_rl.readers import SkipReport, read_transcripts
from stm_rl.transcript import Transcript
from stm_rl.validation.findings import ERROR, Check, Finding, error, ok, run_checks, warning

FEW, MANY = 10, 100
"""Transcripts below which there is not one of each split for long, and below which intervals are wide."""
SHORT = 8
"""Turns below which hardly anything can be needed from outside the window."""
NEAR_EMPTY = 2
"""Words below which a turn says hardly anything."""
REPEATED_WORDS = 5
"""Words from which a turn that comes again counts as repeated."""
SAMPLED = 4000
"""Turns whose tokens are counted for the distribution."""


class TranscriptChecks:
    """The checks of one file or folder.

    Args:
        path: The file or folder.
        format: Its format; see :mod:`stm_rl.readers`.
        lm: The model that will read the turns.
        limit: Look at the first transcripts only; none for all.
        window: Turns the model sees without memory.
        reads: Most turns read in one step.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        lm: LanguageModel,
        limit: int | None = None,
        window: int = 2,
        reads: int = 2,
    ) -> None:
        self.lm, self.limit, self.window, self.reads = lm, limit, window, reads
        self.report = SkipReport()
        self.path = path
        self._source = read_transcripts(path, format, limit=limit, skip_bad=True, report=self.report)
        self.transcripts: list[Transcript] = []

    def run(self) -> Iterator[Finding]:
        """Yield what is found; if nothing can be read, no more than that."""
        first = list(run_checks([("records", self.check_records)]))
        yield from first
        if not self.transcripts:
            if not any(finding.level == ERROR for finding in first):
                yield error("amount", "there is no transcript", "give a file that holds at least one")
            return
        checks: list[tuple[str, Check]] = [
            ("amount", self.check_amount),
            ("turns", self.check_turns),
            ("length of turns", self.check_lengths),
            ("speakers", self.check_speakers),
            ("labels", self.check_labels),
            ("duplicates", self.check_duplicates),
            ("repetition", self.check_repetition),
        ]
        yield from run_checks(checks)

    def check_records(self) -> Iterator[Finding]:
        """Read everything, and say where records are broken."""
        log = logging.getLogger("stm_rl.readers")
        level = log.level
        log.setLevel(logging.CRITICAL)  # each is a finding
        try:
            self.transcripts.extend(self._source)
        finally:
            log.setLevel(level)
        report = self.report
        if report.count:
            yield error(
                "records",
                f"{report.count} bad record(s): {_first(report.messages, report.count)}",
                "mend these lines, or leave them out with --skip-bad when training",
            )
        if report.flaws:
            yield warning(
                "records",
                f"{report.flaws} part(s) left out: {_first(report.flaw_messages, report.flaws)}",
                "mend these, or go on: the records they are in are kept",
            )
        if not report.count and not report.flaws:
            only = " (the first; more may follow)" if len(self.transcripts) == self.limit else ""
            yield ok("records", f"{len(self.transcripts):,} transcripts{only}, no bad record")

    def check_amount(self) -> Iterator[Finding]:
        """Count what there is for training, validation and test."""
        count = len(self.transcripts)
        test = max(1, round(count * 0.1))
        found = f"{count:,} transcripts: about {max(count - 2 * test, 1):,} train, {test:,} validation, {test:,} test"
        if count < 3:
            yield error("amount", found, "give at least 3, so that training, validation and test share none")
        elif count < FEW:
            yield warning("amount", found, f"give at least {FEW}: with one test transcript nothing can be concluded")
        elif count < MANY:
            yield warning("amount", found, f"expect wide intervals; {MANY} or more are better")
        else:
            yield ok("amount", found)

    def check_turns(self) -> Iterator[Finding]:
        """Look at numbers of turns."""
        counts = [len(transcript) for transcript in self.transcripts]
        found = f"{sum(counts):,} turns, {_spread(counts)} a transcript"
        short = sum(count < SHORT for count in counts) / len(counts)
        if short > 0.5:
            yield warning(
                "turns",
                f"{found}; {short:.0%} have fewer than {SHORT}",
                "join what belongs together (one file, one chat): with so few turns all is in the window",
            )
        else:
            yield ok("turns", found)

    def check_lengths(self) -> Iterator[Finding]:
        """Look at words and tokens of turns."""
        turns = [(transcript, number) for transcript in self.transcripts for number in range(len(transcript))]
        words = [len(WORD.findall(transcript.turns[number].text)) for transcript, number in turns]
        empty = sum(count < NEAR_EMPTY for count in words) / len(words)
        yield ok("words", f"{_spread(words)} words a turn")
        if empty > 0.2:
            yield warning(
                "near-empty turns",
                f"{empty:.0%} of turns have fewer than {NEAR_EMPTY} words",
                "join them with the turn before, or leave them out: each costs a step and says nothing",
            )
        most = self.lm.max_tokens
        lines = [line(transcript.turns[number]) for transcript, number in turns]
        # A token is at least one byte, so only a line of that many bytes can be too long.
        suspects = [row for row, text in enumerate(lines) if len(text.encode()) + 2 > most]
        lengths = self.lm.count_tokens([lines[row] for row in suspects]) if suspects else []
        too_long = [row for row, count in zip(suspects, lengths, strict=True) if count + 2 > most]
        if too_long:
            places = [_place(*turns[row]) for row in too_long[:3]]
            yield error(
                "length of turns",
                f"{len(too_long)} turn(s) have more than the {most} tokens {self.lm.id} reads: {', '.join(places)}",
                "split these turns, or take a model with a longer context (--lm)",
            )
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(lines), min(SAMPLED, len(lines)), replace=False)
        tokens = np.array(self.lm.count_tokens([lines[row] for row in chosen.tolist()]))
        typical = float(np.quantile(tokens, 0.95))
        shown = self.window + self.reads + 1
        found = (
            f"{_spread(tokens.tolist())} tokens a turn; {shown} long ones (95%) have {shown * typical:.0f} of {most}"
        )
        if shown * typical > most:
            yield warning(
                "context",
                found,
                "reads will push each other out of the model's context: split turns, lower window or reads, or take "
                "a model with a longer context (--lm)",
            )
        elif not too_long:
            yield ok("context", found)

    def check_speakers(self) -> Iterator[Finding]:
        """Look at who speaks."""
        names = Counter(turn.speaker for transcript in self.transcripts for turn in transcript.turns)
        total = sum(names.values())
        top = ", ".join(f"{name or '(none)'} {count / total:.0%}" for name, count in names.most_common(5))
        found = f"{len(names):,} speakers: {top}"
        long = [name for name in names if len(name.split()) > 5]
        if long:
            yield warning(
                "speakers",
                f"{found}; {len(long)} have more than 5 words, such as {long[0][:60]!r}",
                "check the format: text before a colon may have been taken for a name (--format)",
            )
        else:
            yield ok("speakers", found)

    def check_labels(self) -> Iterator[Finding]:
        """Count probes and questions."""
        probes = [probe for transcript in self.transcripts for probe in transcript.probes]
        questions = sum(len(transcript.questions) for transcript in self.transcripts)
        if not probes and not questions:
            yield ok("labels", "no probes and no questions: nothing is needed to train, but recall cannot be measured")
            return
        gaps = [probe.turn - min(probe.evidence) for probe in probes]
        inside = sum(gap <= self.window for gap in gaps)
        found = f"{len(probes):,} probes, {questions:,} questions"
        found += f"; evidence {_spread(gaps)} turns back" if gaps else ""
        if probes and inside == len(probes):
            change = "memory cannot matter for them: make the window smaller (--set window=1)"
            yield warning("labels", f"{found}, all inside the window", change)
        else:
            yield ok("labels", found)

    def check_duplicates(self) -> Iterator[Finding]:
        """Look for transcripts that come again."""
        texts = Counter(map(str, self.transcripts))
        again = len(self.transcripts) - len(texts)
        if again:
            twice = next(item for item in self.transcripts if texts[str(item)] > 1)
            yield warning(
                "duplicates",
                f"{again} transcript(s) repeat another word for word, such as {_place(twice, 0)}",
                "leave them out: a copy in the test split was seen in training",
            )
        else:
            yield ok("duplicates", "no transcript comes twice")

    def check_repetition(self) -> Iterator[Finding]:
        """Look for turns that come again."""
        texts = Counter(turn.text for transcript in self.transcripts for turn in transcript.turns)
        long = {text: count for text, count in texts.items() if len(text.split()) >= REPEATED_WORDS}
        total = sum(long.values())
        share = (total - len(long)) / total if total else 0.0
        found = f"{share:.0%} of turns of at least {REPEATED_WORDS} words come again word for word"
        if share > 0.3:
            top = max(long, key=long.__getitem__)
            yield warning(
                "repetition",
                f"{found}, most often {top[:60]!r} ({long[top]} times)",
                "take out signatures, greetings and templates: what always comes again is easily predicted",
            )
        else:
            yield ok("repetition", found)


def _first(messages: Sequence[str], count: int, most: int = 3) -> str:
    more = f" and {count - most} more" if count > most else ""
    return "; ".join(messages[:most]) + more


def _spread(values: Sequence[int]) -> str:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], method="nearest")
    return f"{low:,} to {high:,} (5% to 95%, median {middle:,}, most {max(values):,})"


def _place(transcript: Transcript, number: int) -> str:
    turn = transcript.turns[number]
    where = turn.meta.get("line", transcript.meta.get("line", "?"))
    return f"{transcript.meta.get('file', transcript.id)}:{where} (turn {number})"
