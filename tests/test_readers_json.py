"""JSON transcripts: our own lossless JSONL, ShareGPT, tool calls, and files of any size and shape."""

from __future__ import annotations

import io
import json
import logging
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm_rl.errors import StmError
from stm_rl.readers import SkipReport, read_transcripts, write_messages
from stm_rl.readers.json_stream import records_of
from stm_rl.transcript import Probe, Question, Transcript, Turn

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json")


def only(path: Path, format: str = "auto") -> Transcript:
    (transcript,) = read_transcripts(path, format)
    return transcript


def failure(path: Path, format: str = "auto") -> str:
    with pytest.raises(StmError) as caught:
        list(read_transcripts(path, format))
    return str(caught.value)


def chat(*texts: str) -> str:
    return json.dumps({"conversations": [{"from": "human", "value": text} for text in texts]})


# --- our own JSONL -----------------------------------------------------------------------------------

CLEAN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
FILLED = CLEAN.filter(str.strip)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | CLEAN,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(CLEAN, inner, max_size=3),
    max_leaves=5,
)
META = st.dictionaries(CLEAN | st.sampled_from(["file", "line", "writable", "kind"]), VALUES, max_size=3)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    turns = draw(st.lists(st.builds(Turn, text=FILLED, speaker=CLEAN, meta=META), min_size=2, max_size=5))
    earlier = st.integers(1, len(turns) - 1).flatmap(
        lambda turn: st.builds(
            Probe,
            turn=st.just(turn),
            evidence=st.lists(st.integers(0, turn - 1), min_size=1, max_size=3).map(tuple),
            answer=CLEAN,
            stale=st.lists(st.integers(0, turn - 1), max_size=2).map(tuple),
        )
    )
    question = st.builds(
        Question,
        text=FILLED,
        answer=FILLED,
        evidence=st.lists(st.integers(0, len(turns) - 1), max_size=3).map(tuple),
        category=CLEAN,
    )
    return Transcript(
        turns=tuple(turns),
        probes=tuple(draw(st.lists(earlier, max_size=3))),
        id=draw(st.just("") | FILLED),
        meta=draw(META),
        questions=tuple(draw(st.lists(question, max_size=2))),
    )


@given(written=st.lists(transcripts(), min_size=1, max_size=3))
def test_what_was_written_is_equal_when_read(scratch: Path, written: list[Transcript]) -> None:
    path = scratch / "written.jsonl"
    assert write_messages(written, path) == len(written)
    assert list(read_transcripts(path)) == written


def test_provenance_stays_that_of_the_first_file(write: Write, tmp_path: Path) -> None:
    first = only(write("a.txt", "\nOne.\nTwo.\n"))
    write_messages([first], tmp_path / "b.jsonl")
    second = only(tmp_path / "b.jsonl")
    write_messages([second], tmp_path / "c.jsonl")
    assert second == only(tmp_path / "c.jsonl") == first
    assert (second.id, second.meta["file"], second.turns[0].meta["line"]) == ("a.txt:2", str(tmp_path / "a.txt"), 2)


def test_lists_in_meta_come_back_as_tuples(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_messages([Transcript((Turn("a", meta={"x": [1, {"y": [2]}]}), Turn("b")))], path)
    assert only(path).turns[0].meta == {"x": (1, {"y": (2,)})}


def test_other_tools_can_read_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_messages([Transcript((Turn("a", "user"), Turn("b", "assistant")), id="x")], path)
    assert json.loads(path.read_text()) == {
        "id": "x",
        "meta": {},
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    }


@pytest.mark.parametrize(
    ("meta", "hint"),
    [
        ({"x": float("nan")}, "holds nan; expected JSON values"),
        ({"x": (1, {2: 3})}, "holds {2: 3}; expected JSON values"),
        ({"x": b""}, "holds b''"),
        ({"x": "\ud800"}, "half a surrogate pair"),
        ({"\ud800": 1}, "half a surrogate pair"),
        ({"x": 10**5000}, "cannot be written as JSON"),
    ],
)
def test_meta_that_json_cannot_hold_is_an_error(tmp_path: Path, meta: dict[str, Any], hint: str) -> None:
    path = tmp_path / "a.jsonl"
    for transcript in (Transcript((Turn("a"), Turn("b")), meta=meta), Transcript((Turn("a"), Turn("b", meta=meta)))):
        with pytest.raises(StmError) as caught:
            write_messages([transcript], path)
        assert str(caught.value).startswith(f"{path}:1: ")
        assert hint in str(caught.value)
    assert not path.exists()


def test_meta_nested_too_deeply_is_an_error(tmp_path: Path) -> None:
    deep: Any = ()
    for _ in range(5000):
        deep = (deep,)
    with pytest.raises(StmError, match="nested too deeply"):
        write_messages([Transcript((Turn("a"), Turn("b")), meta={"x": deep})], tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"meta": 3}, "meta is 3; expected a JSON object"),
        ({"probes": 3}, "probes is 3; expected a list"),
        ({"probes": [{"turn": 1}]}, 'probes[0] has no "evidence"'),
        ({"probes": [{"turn": "1", "evidence": [0]}]}, "probes[0].turn is '1'; expected a whole number"),
        ({"probes": [{"turn": True, "evidence": [0]}]}, "probes[0].turn is True"),
        ({"probes": [{"turn": 2, "evidence": [0]}]}, "probes[0].turn is 2; expected a turn of the record, 0 to 1"),
        ({"probes": [{"turn": 1, "evidence": [1]}]}, "probes[0]: the probe at turn 1 points to turn 1"),
        ({"probes": [{"turn": 1, "evidence": []}]}, "probes[0]: the probe at turn 1 names no evidence"),
        ({"probes": [{"turn": 1, "evidence": [0], "stale": 0}]}, "probes[0].stale is 0; expected a list"),
        ({"questions": [{"text": "q"}]}, 'questions[0] has no "answer"'),
        ({"questions": [{"text": "q", "answer": " "}]}, "questions[0].answer is empty"),
        ({"questions": [{"text": "q", "answer": "a", "evidence": [2]}]}, "questions[0].evidence names turn 2"),
    ],
)
def test_bad_notes_name_file_and_line(write: Write, change: dict[str, Any], hint: str) -> None:
    record = {"messages": [{"role": "a", "content": "b"}] * 2}
    path = write("a.jsonl", json.dumps(record) + "\n" + json.dumps(record | change))
    message = failure(path)
    assert message.startswith(f"{path}:2: ")
    assert hint in message


# --- tool calls --------------------------------------------------------------------------------------


def test_tool_calls_stay_structured(write: Write) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q":  1}'}}
    record = {
        "tools": [{"type": "function", "function": {"name": "find"}}],
        "messages": [
            {"role": "user", "content": "Find it.", "name": "Ann"},
            {"role": "assistant", "content": None, "tool_calls": [call, {"name": "b", "arguments": {"x": [1]}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            {"role": "assistant", "content": "Ok", "function_call": {"name": "c"}},
        ],
    }
    transcript = only(write("a.jsonl", json.dumps(record)))
    assert transcript.meta["tools"] == ({"type": "function", "function": {"name": "find"}},)
    assert transcript.turns[1].text == 'tool_call find({"q":  1}); tool_call b({"x": [1]})'
    assert transcript.turns[1].meta["tool_calls"] == (
        {"id": "c1", "name": "find", "arguments": '{"q":  1}'},
        {"name": "b", "arguments": {"x": (1,)}},
    )
    assert transcript.turns[2].meta["tool_call_id"] == "c1"
    assert transcript.turns[3].meta["tool_calls"] == ({"name": "c", "arguments": None},)
    write_messages([transcript], write("b.jsonl", ""))
    assert only(write("b.jsonl", "").parent / "a.jsonl") == transcript


# --- ShareGPT ----------------------------------------------------------------------------------------


def test_sharegpt_of_both_forms(write: Write) -> None:
    record = {
        "id": "x",
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "observation", "value": "3"},
        ],
    }
    lines = only(write("a.jsonl", json.dumps(record) + "\n"))
    assert [str(turn) for turn in lines.turns] == [
        "system: Be brief.",
        "user: Hi",
        "assistant: Hello",
        "observation: 3",
    ]
    array = only(write("a.json", json.dumps([record], indent=2)))
    assert (array.turns[1].text, array.id, array.meta["line"]) == ("Hi", "x", 2)


@pytest.mark.parametrize(
    ("record", "hint"),
    [
        ("{}", 'the record has no "conversations"'),
        ('{"conversations": {}}', "conversations is {}; expected a list"),
        ('{"conversations": [{"value": "a"}]}', 'conversations[0] has no "from"'),
        ('{"conversations": [{"from": "gpt"}]}', 'conversations[0] has no "value"'),
        ('{"conversations": [{"from": "gpt", "value": ""}]}', "conversations[0].value is empty"),
        (chat("a"), "1 turn(s); expected at least 2"),
    ],
)
def test_bad_sharegpt_names_file_and_line(write: Write, record: str, hint: str) -> None:
    for name, content in (("a.jsonl", f"{chat('a', 'b')}\n{record}"), ("a.json", f"[{chat('a', 'b')},\n{record}]")):
        path = write(name, content)
        message = failure(path, "sharegpt")
        assert message.startswith(f"{path}:2: ")
        assert hint in message


# --- one big array -----------------------------------------------------------------------------------


def cut(text: str, opening: str = "[") -> list[tuple[int, str, object]]:
    found = records_of(io.BytesIO(text.encode()), Path("a"), opening, "a record")
    return [(place.line, key, str(value) if isinstance(value, StmError) else value) for place, key, value in found]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(values=st.lists(JSON, min_size=1, max_size=4), indent=st.sampled_from([None, 1]), ascii=st.booleans())
def test_arrays_are_cut_as_json_reads_them(values: list[Any], indent: int | None, ascii: bool) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii)
    if not ascii and any("\ud800" <= c <= "\udfff" or c == "\0" for c in text):
        return
    assert [value for _, _, value in cut(f" \n{text}\n")] == values
    keyed = {str(index): value for index, value in enumerate(values)}
    text = json.dumps(keyed, indent=indent, ensure_ascii=ascii)
    assert [(key, value) for _, key, value in cut(text, "{")] == list(keyed.items())


@pytest.mark.parametrize("size", [(1 << 16) - 3, (1 << 16) - 2, (1 << 16) - 1, 1 << 16, 300_000])
@pytest.mark.parametrize("text", ["x", '\\"', "\\\\", "é", "]", "\\u00e9"])
def test_records_longer_than_a_piece(size: int, text: str) -> None:
    content = '["' + text * (size // len(text)) + '", [1], {"a": "' + "x" * 70_000 + '"}]'
    assert [value for _, _, value in cut(content)] == json.loads(content)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, x, {}]", [1, "a:1: broken JSON (Expecting value at column 1)", {}]),
        ('[\n{"a" 1},\n{"a": 1}]', ["a:2: broken JSON (Expecting ':' delimiter", {"a": 1}]),
        ('[{"a": 1, "a": 2}, 3]', ["a:1: broken JSON (key 'a' is given twice)", 3]),
        ('["\t", 2]', ["a:1: broken JSON (Invalid control character", 2]),
        ('["\n", 2]', ["a:1: broken JSON (Invalid control character", "a:2: broken JSON (the file does not end"]),
        ("[1,]", [1, "a:1: broken JSON (Expecting value"]),
        ("[1", [1, "a:1: broken JSON (the file does not end"]),
        ("[1}", [1, "a:1: broken JSON (the file does not end"]),
        ("[1] 2", [1, "a:1: broken JSON (the file does not end"]),
        ("[1 2]", ["a:1: broken JSON (Extra data"]),
        ("[]", ["a:1: holds no transcript"]),
        ("[] 1", ["a:1: holds no transcript", "a:1: broken JSON (the file does not end"]),
        ("", ["a:1: holds no transcript"]),
        ("{}", ["a:1: the file begins with '{}'; expected a JSON list"]),
        ('[1,\n\n"x\0", 2]', [1, "a:3: holds a NUL byte", 2]),
    ],
)
def test_a_broken_element_does_not_take_the_next_with_it(text: str, expected: list[Any]) -> None:
    found = [value for _, _, value in cut(text)]
    assert len(found) == len(expected)
    for value, hint in zip(found, expected, strict=True):
        assert value.startswith(hint) if isinstance(hint, str) else value == hint


def test_a_big_array_is_not_held_in_memory(write: Write) -> None:
    path = write("big.json", "[" + ",".join([chat("x" * 1000, "y" * 1000)] * 2_000) + "]")  # 4 MB on one line
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_transcripts(path)) == 2_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- what is skipped ---------------------------------------------------------------------------------


def test_bad_records_are_counted_only_with_skip_bad(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = write("a.jsonl", chat("a", "b") + "\n{broken\n" + chat("c") + "\n\xff\n".encode("latin-1").decode("latin-1"))
    path.write_bytes(path.read_bytes() + b"\xfe\n" + chat("d", "e").encode())
    report = SkipReport()
    with caplog.at_level(logging.WARNING, "stm_rl.readers"):
        found = list(read_transcripts(path, skip_bad=True, report=report))
    assert [t.turns[0].text for t in found] == ["a", "d"]
    assert [message.removeprefix(str(path))[:3] for message in report.messages] == [":2:", ":3:", ":4:", ":5:"]
    assert report.count == len(caplog.records) == 4
    assert failure(path) == report.messages[0]


def test_a_report_keeps_the_first_messages_and_counts_all(write: Write) -> None:
    report = SkipReport()
    path = write("a.jsonl", "x\n" * 50 + chat("a", "b"))
    assert len(list(read_transcripts(path, "sharegpt", skip_bad=True, report=report))) == 1
    assert (report.count, len(report.messages)) == (50, 20)


def test_a_limit_counts_what_is_read_not_what_is_skipped(write: Write) -> None:
    report = SkipReport()
    path = write("a.jsonl", "x\n" + chat("a", "b") + "\ny\n" + chat("c", "d") + "\nz\n")
    found = list(read_transcripts(path, "sharegpt", limit=2, skip_bad=True, report=report))
    assert (len(found), report.count) == (2, 2)


def test_nothing_readable_is_an_error_after_all(write: Write) -> None:
    for content in ("x\ny\n", ""):
        path = write("a.jsonl", content)
        with pytest.raises(StmError, match=r"a\.jsonl:1: .*no record could be read; [12] skipped"):
            list(read_transcripts(path, skip_bad=True))


# --- choosing a reader -------------------------------------------------------------------------------

MESSAGES = '{"messages": [{"role": "a", "content": "b"}, {"role": "a", "content": "c"}]}'
LOCOMO = (
    '{"conversation": {"session_1": [{"speaker": "A", "dia_id": "D1:1", "text": "a"}, '
    '{"speaker": "B", "dia_id": "D1:2", "text": "b"}]}, "qa": []}'
)
SGD = '{"dialogue_id": "1", "turns": [{"speaker": "USER", "utterance": "a"}, {"speaker": "SYSTEM", "utterance": "b"}]}'
MULTIWOZ = '{"A": {"log": [{"text": "a"}, {"text": "b"}]}}'


@pytest.mark.parametrize(
    ("name", "content", "speaker"),
    [
        ("a.jsonl", MESSAGES, "a"),
        ("a.json", MESSAGES, "a"),
        ("a.json", f"[{MESSAGES}]", "a"),
        ("a.jsonl", chat("a", "b"), "user"),
        ("a.json", f"\ufeff[{chat('a', 'b')}]", "user"),
        ("a.json", f"[{LOCOMO}]", "A"),
        ("a.json", f"[{SGD}]", "user"),
        ("a.json", MULTIWOZ, "user"),
        ("qa3_x.txt", "1 A.\n2 B.", ""),
        ("a.ascii.txt", "[01:00] <ann> a\n[01:00] <bo> b", "ann"),
        ("A.FOUNTAIN", "@Ann\nHi.\n\nOne.", "Ann"),
        ("a.txt", "Ann: Hi.\nBo: Hi.", "Ann"),
    ],
)
def test_format_follows_from_name_and_first_record(write: Write, name: str, content: str, speaker: str) -> None:
    assert only(write(name, content)).turns[0].speaker == speaker


def test_the_first_whole_record_tells_the_format(write: Write) -> None:
    path = write("a.jsonl", "{broken\n" + chat("a", "b"))
    assert len(list(read_transcripts(path, skip_bad=True))) == 1
    assert failure(path).startswith(f"{path}:1: broken JSON")


@pytest.mark.parametrize("content", ["", "3", "[3]", '[{"a": 1}]', '{"a": {"b": 1}}', "{broken"])
def test_json_of_another_kind_is_an_error_at_once(write: Write, content: str) -> None:
    with pytest.raises(StmError, match=r"unknown format .*first record has none of the keys"):
        read_transcripts(write("a.json", content))


def test_reading_stops_where_nothing_more_is_asked(write: Write) -> None:
    path = write("a.json", f"[{chat('a', 'b')},\n{chat('c', 'd')},\nbroken]")
    assert len(list(islice(read_transcripts(path), 2))) == 2
