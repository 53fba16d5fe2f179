"""LoCoMo (Maharana et al. 2024): a JSON list of long conversations with questions about them.

The turns of all sessions follow each other in order; ``meta`` of a turn holds its ``dia_id``, ``session`` and the
session's ``date``. A shared picture is part of what was said: its caption is added to the text as ``[image: ...]``.
``qa`` become questions; evidence names turns by ``dia_id``. Parts of it that name no turn, and turns without text,
are left out, reported as flaws and listed in the transcript's ``meta["left_out"]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.json_stream import json_records
from stm_rl.readers.json_values import json_list, json_object, member, scalar_id, whole_number
from stm_rl.readers.records import Flaw, Place, Record, attempt
from stm_rl.transcript import Question, Transcript, Turn

UNANSWERABLE = "not mentioned in the conversation"
"""The answer of questions that have none (category 5); what they tempt one to say is in ``meta["adversarial"]``."""

_SESSION = re.compile(r"session_([1-9][0-9]{0,5})")
_DIA_ID = re.compile(r"D:?([0-9]{1,6}):([0-9]{1,6})(?![0-9])")  # some are written D:11:26
_BETWEEN = " \t\r\n,;"


def read_locomo(path: Path) -> Iterator[Record]:
    """Yield the conversations of a file."""
    for place, _, value in json_records(path, "a conversation as a JSON object"):
        if isinstance(value, StmError):
            yield value
            continue
        conversation = _Conversation(place)
        record = attempt(place, conversation.read, value)
        if isinstance(record, Transcript):
            yield from (Flaw(str(place.error(problem))) for problem in conversation.left_out)
        yield record


@dataclass(slots=True)
class _Conversation:
    """One record while it is read.

    Attributes:
        place: Where it is.
        turns: The turns so far.
        by_id: Index of each turn by the two numbers of its ``dia_id``.
        left_out: What could not be read.
        adversarial: Number of a question without an answer, and the wrong one that it tempts to.
    """

    place: Place
    turns: list[Turn] = field(default_factory=list)
    by_id: dict[tuple[int, int], int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    adversarial: list[tuple[int, str]] = field(default_factory=list)

    def read(self, value: object) -> Transcript:
        record = json_object(value, "the record", self.place)
        conversation = json_object(member(record, "conversation", "the record", self.place), "conversation", self.place)
        for number in sorted(int(name[1]) for name in map(_SESSION.fullmatch, conversation) if name):
            self._session(conversation, number)
        pairs = record.get("qa")
        pairs = [] if pairs is None else json_list(pairs, "qa", self.place, "questions")
        questions = [self._question(pair, number) for number, pair in enumerate(pairs)]
        kept: dict[str, Any] = {"left_out": tuple(self.left_out), "adversarial": tuple(self.adversarial)}
        return self.place.transcript(
            self.turns,
            scalar_id(record.get("sample_id"), self.place),
            meta={key: found for key, found in kept.items() if found},
            questions=questions,
        )

    def _session(self, conversation: dict[str, Any], number: int) -> None:
        name = f"session_{number}"
        meta: dict[str, Any] = {"line": self.place.line, "session": number}
        if (date := conversation.get(f"{name}_date_time")) is not None:
            meta["date"] = self.place.string(date, f"{name}_date_time")
        session = conversation[name]
        for index, value in enumerate([] if session is None else json_list(session, name, self.place, "turns")):
            self._turn(json_object(value, f"{name}[{index}]", self.place), f"{name}[{index}]", meta)

    def _turn(self, turn: dict[str, Any], what: str, meta: dict[str, Any]) -> None:
        speaker = self.place.filled(member(turn, "speaker", what, self.place), f"{what}.speaker")
        dia_id = self.place.filled(member(turn, "dia_id", what, self.place), f"{what}.dia_id")
        numbers = _DIA_ID.fullmatch(dia_id.strip())
        if numbers is None:
            raise self.place.error(f"{what}.dia_id is {dia_id[:40]!r}; expected an id such as D1:3; correct it")
        key = int(numbers[1]), int(numbers[2])
        if key in self.by_id:
            raise self.place.error(f"{what}.dia_id {dia_id!r} is given twice; expected one turn for each; correct it")
        text = self.place.string(turn.get("text") or "", f"{what}.text")
        caption = self.place.string(turn.get("blip_caption") or "", f"{what}.blip_caption")
        if caption.strip():
            text = f"{text} [image: {caption}]" if text.strip() else f"[image: {caption}]"
            meta = {**meta, "blip_caption": caption}
        if not text.strip():
            self.left_out.append(f"turn {dia_id} has no text; expected some; the turn is left out")
            return
        self.by_id[key] = len(self.turns)
        self.turns.append(Turn(text, speaker, {**meta, "dia_id": dia_id}))

    def _question(self, value: object, number: int) -> Question:
        what = f"qa[{number}]"
        pair = json_object(value, what, self.place)
        text = self.place.filled(member(pair, "question", what, self.place), f"{what}.question")
        answer = pair.get("answer")
        if answer is None and pair.get("adversarial_answer") is not None:
            wrong = self._answer(pair["adversarial_answer"], f"{what}.adversarial_answer")
            self.adversarial.append((number, wrong))
            answer = UNANSWERABLE
        answer = self._answer(answer, f"{what}.answer")
        evidence = pair.get("evidence")
        parts = [] if evidence is None else json_list(evidence, f"{what}.evidence", self.place, "ids")
        turns = {turn for index, part in enumerate(parts) for turn in self._evidence(part, f"{what}.evidence[{index}]")}
        category = pair.get("category")
        kind = "" if category is None else str(whole_number(category, f"{what}.category", self.place))
        return Question(text, answer, tuple(sorted(turns)), kind)

    def _answer(self, value: object, what: str) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):  # years are numbers
            return str(value)
        return self.place.filled(value, what)

    def _evidence(self, value: object, what: str) -> Iterator[int]:
        """Yield the turns named by one string of evidence, which may hold several ids; note the rest."""
        text = self.place.string(value, what)
        begin = 0
        rest: list[str] = []
        for match in _DIA_ID.finditer(text):
            rest.append(text[begin : match.start()].strip(_BETWEEN))
            begin = match.end()
            turn = self.by_id.get((int(match[1]), int(match[2])))
            if turn is None:
                rest.append(match[0])
            else:
                yield turn
        rest.append(text[begin:].strip(_BETWEEN))
        for part in filter(None, rest):
            self.left_out.append(
                f"{what} holds {part!r}, which names no turn; expected ids such as D1:3; it is left out"
            )
