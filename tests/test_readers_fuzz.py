"""Whatever a file holds, readers give transcripts or clear errors, and lose nothing silently."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stm_rl.errors import StmError
from stm_rl.readers import READERS, SkipReport, read_transcripts, write_fountain, write_messages
from stm_rl.transcript import Transcript

NAMES = {
    "messages": "a.jsonl",
    "sharegpt": "b.jsonl",
    "text": "a.txt",
    "stories": "b.txt",
    "fountain": "a.fountain",
    "play": "c.txt",
    "babi": "qa1_a.txt",
    "sgd": "dialogues_1.json",
    "multiwoz": "val.json",
    "locomo": "locomo.json",
    "irc": "a.ascii.txt",
}

# --- good files, and what they are made of -----------------------------------------------------------


def said(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text} for text in texts]


CALL = {"id": "1", "function": {"name": "find", "arguments": '{"q": [1, 2]}'}}
RECORDS: dict[str, list[Any]] = {
    "messages": [
        {"id": "x", "messages": [*said("Hi"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": said("a", "b"), "tools": [{"name": "find"}]},
        {
            "meta": {"a": [1, {"b": None}]},
            "messages": [{"role": "", "content": "c", "meta": {"line": 3}}, *said("d", "e")],
            "probes": [{"turn": 2, "evidence": [0], "answer": "e", "stale": [1]}],
            "questions": [{"text": "q", "answer": "a", "evidence": [2], "category": "c"}],
        },
    ],
    "sharegpt": [
        {"id": str(i), "conversations": [{"from": "human", "value": "é"}, {"from": "gpt", "value": "b"}]}
        for i in range(3)
    ],
    "sgd": [
        {
            "dialogue_id": f"1_{i}",
            "turns": [
                {
                    "speaker": "USER",
                    "utterance": "Two of us, at six.",
                    "frames": [{"service": "S", "state": {"slot_values": {"time": ["six", "18:00"], "seats": ["2"]}}}],
                },
                {"speaker": "SYSTEM", "utterance": "Done.", "frames": [{"service": "S", "slots": []}]},
            ],
        }
        for i in range(3)
    ],
    "multiwoz": [
        {
            "log": [
                {"text": "In the east .", "metadata": {}},
                {"text": "Ok .", "metadata": {"hotel": {"book": {"booked": [], "day": ""}, "semi": {"area": "east"}}}},
            ]
        }
        for _ in range(3)
    ],
    "locomo": [
        {
            "sample_id": f"conv-{i}",
            "conversation": {
                "speaker_a": "Ann",
                "speaker_b": "Bo",
                "session_1_date_time": "1 May 2023",
                "session_1": [
                    {"speaker": "Ann", "dia_id": "D1:1", "text": "I bought a kite."},
                    {"speaker": "Bo", "dia_id": "D1:2", "text": "Nice!", "blip_caption": "a kite"},
                ],
                "session_2": [{"speaker": "Ann", "dia_id": "D2:1", "text": "It flew."}],
            },
            "qa": [
                {"question": "What?", "answer": "a kite", "evidence": ["D1:1; D1:2"], "category": 1},
                {"question": "When?", "adversarial_answer": "May", "evidence": ["D"], "category": 5},
            ],
        }
        for i in range(3)
    ],
}

FILES: dict[str, bytes] = {
    "text": "Ann: Hi.\nBo: Hé.\n\nOne.\nTwo.\n\nThree.\nFour.\n".encode(),
    "stories": b'One. Two.\n<|endoftext|>\n"Stop!" he said. He ran.\n\nShe too.\n<|endoftext|>\nA. B.\n',
    "fountain": (
        b"Title: A\n\nINT. HOUSE - DAY #1#\n\nAnn /* no */ waits.\n\nANN (V.O.) ^\n(softly)\nHi. [[n]]\n  \nYou.\n\n"
        b"CUT TO:\n\n# Act\n\n!BANG\n\n> END <\n"
    ),
    "play": b"First:\nSpeak.\nAgain.\n\nAll:\n\nSecond:\nNo.\n\nThird:\nYes.\n",
    "babi": b"1 A moved.\n2 B left.\n3 Where is A? \there\t1 2\n1 C ran.\n2 Who ran?\tC\t1\n1 D.\n2 E.\n",
    "irc": b"[03:01] <a> hi\n=== b has joined\n[03:02] <b> a: yo\n[03:02]  * c waves\n[03:03] <d>\n",
}


def packed(format: str, records: list[Any], one: bool) -> bytes:
    """Return a file of records: JSONL, or one JSON list or object."""
    if format == "multiwoz":
        return json.dumps({f"M{i}.json": record for i, record in enumerate(records)}, indent=1).encode()
    if one or format in ("sgd", "locomo"):
        return json.dumps(records, indent=1).encode()
    return "".join(json.dumps(record) + "\n" for record in records).encode()


# --- what is fed to the readers ----------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
JSON_WORDS = '{ } [ ] , : " \\ \\ud800 null 1 1e999 {} "id" "messages" "role" "content" "meta" "turn" "from" "log"'
MARKS = "INT. EXT ANNA (V.O.) ^ @ ! . > < ~ # 1 #1# = === /* */ / * [ ] [[ ]] (beat) ( Hi. TO: Key: é ß a"
TOKENS = {
    "json": [*JSON_WORDS.split(), " ", "\n", '"messages":[', '"conversations":[', '"dialogue_id":"1"', "\0"],
    "prose": ['"', "“", "”", ".", "!", " ", "\n", "\n\n", "<|endoftext|>", "Ann", "said", ":", "Mr", "é", "\r\n"],
    "fountain": [*MARKS.split(), *["\n", "\n\n", "\n  \n", "  ", "\t", "\r", "\ufeff", "\x0b", "CUT TO:", "Title: "]],
    "babi": ["1 ", "2 ", "3 ", "9", " ", "\t", "\n", "A moved.", "Who?", "1", "2", "x", "é"],
    "irc": ["[03:01] ", "<a>", " ", "* ", "===", "\n", "\n", "hi", "é", "[", "\r\n"],
}
KIND = {"fountain": "fountain", "babi": "babi", "irc": "irc", "text": "prose", "stories": "prose", "play": "prose"}


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, element in items for found in paths_of(element, (*path, key)))]


@st.composite
def changed_records(draw: st.DrawFn, format: str) -> tuple[bytes, int, bool]:
    """Return a file whose records were changed within, their number, and whether they are one JSON list."""
    records = deepcopy(RECORDS[format])
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, len(records) - 1))
        *path, last = draw(st.sampled_from([[index, *found] for found in paths_of(records[index])]))
        holder: Any = records
        for key in path:
            holder = holder[key]
        if path and draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = draw(JSON)
    one = draw(st.booleans())
    return packed(format, records, one), len(records), one


@st.composite
def changed_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Return a file in which a stretch of bytes was replaced."""
    begin = draw(st.integers(0, len(good)))
    end = draw(st.integers(begin, min(len(good), begin + 20)))
    return good[:begin] + draw(st.binary(max_size=3) | st.sampled_from([b"\n", b'"', b"}", b"{", b"]"])) + good[end:]


@st.composite
def one_byte_changed(draw: st.DrawFn, good: bytes) -> bytes:
    index = draw(st.integers(0, len(good) - 1))
    return good[:index] + bytes([draw(st.integers(0, 255))]) + good[index + 1 :]


Case = tuple[bytes, int | None, bool, bool]
"""A file, the number of its records where known, whether one may not vanish unnoticed, and whether it is one list."""


def fed(format: str) -> st.SearchStrategy[Case]:
    tokens = st.lists(st.sampled_from(TOKENS[KIND.get(format, "json")]), max_size=30).map(lambda t: "".join(t).encode())
    loose = st.binary(max_size=100) | st.text(max_size=60).map(str.encode) | tokens
    if format not in RECORDS:
        good = FILES[format]
        return (loose | changed_bytes(good) | one_byte_changed(good)).map(lambda data: (data, None, False, False))
    goods = {one: packed(format, RECORDS[format], one) for one in (False, True)}
    return st.booleans().flatmap(
        lambda one: (
            (loose | changed_bytes(goods[one])).map(lambda data: (data, None, False, one))
            | one_byte_changed(goods[one]).map(lambda data: (data, None, True, one))
            | changed_records(format).map(lambda case: (case[0], case[1], False, case[2]))
        )
    )


# --- what must hold ----------------------------------------------------------------------------------


def filled_lines(text: str) -> list[bool]:
    return [bool(line.strip()) for line in text.split("\n")]


def stories_in(text: str) -> int:
    return sum(bool(part.strip()) for part in text.split("<|endoftext|>"))


def babi_in(text: str) -> int:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    starts = [
        re.fullmatch(r"0*1[ \t]+.*", line) is not None and "\ufffd" not in line and "\0" not in line for line in lines
    ]
    return sum(starts) + bool(lines and not starts[0])


COUNT: dict[str, Callable[[str], int]] = {
    "messages": lambda text: sum(filled_lines(text)),
    "text": lambda text: sum(filled for filled, _ in groupby(filled_lines(text))),
    "stories": stories_in,
    "babi": babi_in,
    "irc": lambda text: 1,
    "fountain": lambda text: 1,
}
COUNT["sharegpt"] = COUNT["messages"]
"""How many records a file has, found without the reader."""


def check(folder: Path, format: str, data: bytes, count: int | None, guarded: bool, one: bool) -> None:
    path = folder / (NAMES[format].replace(".jsonl", ".json") if one else NAMES[format])
    path.write_bytes(data)
    error = ""
    strict: list[Transcript] = []
    try:
        for transcript in read_transcripts(path, format):
            strict.append(transcript)
    except StmError as caught:
        error = str(caught)
        assert re.match(re.escape(str(path)) + r":[1-9][0-9]*: \S", error)
        assert "\n" not in error
    report = SkipReport()
    tolerant: list[Transcript] = []
    again = ""
    try:
        for transcript in read_transcripts(path, format, skip_bad=True, report=report):
            tolerant.append(transcript)
    except StmError as caught:
        again = str(caught)
    assert again.startswith(error) if again else tolerant
    assert not (again and tolerant)
    # The error comes with skip_bad as a count, with what followed it read.
    assert tolerant[: len(strict)] == strict
    assert bool(error) == bool(report.count)
    assert report.messages[:1] == ([error] if error else [])
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if count is None and format in COUNT and not one:
        count = COUNT[format](text)
    if count is not None:
        assert len(tolerant) + report.count == max(count, 1)
    if guarded and len(tolerant) < len(RECORDS[format]):
        assert report.count
    if format != "messages":  # whose records may say themselves what is in meta
        assert all(turn.meta["line"] > 0 for transcript in tolerant for turn in transcript.turns)
    if format == "play" and not error:
        names = [word for t in tolerant for name, _ in t.meta.get("silent", ()) for word in name.split()]
        words = [word for t in tolerant for turn in t.turns for word in f"{turn.speaker} {turn.text}".split()]
        assert sorted(" ".join(names + words).replace(":", " ").split()) == sorted(text.replace(":", " ").split())
    check_round_trip(folder, format, tolerant)


def check_round_trip(folder: Path, format: str, transcripts: list[Transcript]) -> None:
    if not transcripts:
        return
    failure = ""
    try:
        write_messages(transcripts, folder / "out.jsonl")
    except StmError as error:  # JSON has no numbers such as 1e999, nor halves of pairs
        failure = str(error)
    if failure:
        assert re.search("inf|nan|digits|surrogate", failure)
    else:
        assert list(read_transcripts(folder / "out.jsonl", "messages")) == transcripts
    if format == "fountain":
        write_fountain(transcripts[0], folder / "out.fountain")
        (again,) = read_transcripts(folder / "out.fountain")
        assert without_lines(again) == without_lines(transcripts[0])


def without_lines(transcript: Transcript) -> object:
    turns = [(turn.text, turn.speaker, {**turn.meta, "line": 0}) for turn in transcript.turns]
    return turns, {**transcript.meta, "file": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    log = logging.getLogger("stm_rl.readers")
    log.disabled = True
    yield tmp_path_factory.mktemp("fuzz")
    log.disabled = False


def fuzz(folder: Path, format: str, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(fed(format))
    def run(case: Case) -> None:
        check(folder, format, *case)

    run()


def test_every_format_is_fuzzed() -> None:
    assert set(NAMES) == set(READERS)


@pytest.mark.parametrize("format", sorted(READERS))
def test_good_files_read_whole(folder: Path, format: str) -> None:
    if format in RECORDS:
        for one in (False, True):
            check(folder, format, packed(format, RECORDS[format], one), 3, True, one)
    else:
        check(folder, format, FILES[format], None, False, False)


@pytest.mark.parametrize("format", sorted(READERS))
def test_any_file_gives_transcripts_or_errors(folder: Path, format: str) -> None:
    fuzz(folder, format, 200)


@pytest.mark.slow
@pytest.mark.parametrize("format", sorted(READERS))
def test_ten_thousand_files_give_transcripts_or_errors(folder: Path, format: str) -> None:
    fuzz(folder, format, 10_000)
