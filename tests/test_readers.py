from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm_rl.errors import StmError
from stm_rl.readers import READERS, read_transcripts, write_messages
from stm_rl.transcript import Transcript, Turn

GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: str | bytes, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that hypothesis examples share."""
    return tmp_path_factory.mktemp("readers")


def messages(*contents: Any, **record: Any) -> str:
    """Return a JSON line; a dict stands for a whole message, anything else for its content."""
    turns = [c if isinstance(c, dict) else {"role": "user", "content": c} for c in contents]
    return json.dumps({"messages": turns, **record})


def texts(transcript: Transcript) -> list[str]:
    return [turn.text for turn in transcript.turns]


def speakers(transcript: Transcript) -> list[str]:
    return [turn.speaker for turn in transcript.turns]


def only(path: Path, format: str = "auto") -> Transcript:
    (transcript,) = read_transcripts(path, format)
    return transcript


def failure(path: Path, format: str = "auto") -> str:
    """Return the message of the error that reading `path` to the end raises."""
    with pytest.raises(StmError) as caught:
        list(read_transcripts(path, format))
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- choosing a reader ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.jsonl", GOOD, "Hi"),
        ("A.JSONL", GOOD, "Hi"),
        ("a.txt", "One.\nTwo.\n", "One."),
        (
            "dialogues_001.json",
            json.dumps(
                [
                    {
                        "dialogue_id": "1_0",
                        "turns": [
                            {"speaker": "USER", "utterance": "A table?"},
                            {"speaker": "SYSTEM", "utterance": "Where?"},
                        ],
                    }
                ]
            ),
            "A table?",
        ),
    ],
)
def test_format_follows_from_the_name(write: Write, name: str, content: str, first: str) -> None:
    assert texts(only(write(content, name)))[0] == first


def test_wrong_arguments_fail_before_reading(write: Write, tmp_path: Path) -> None:
    path = write(GOOD)
    for wrong, format, hint in [
        (path, "xml", "unknown format 'xml'; expected auto or one of messages"),
        (tmp_path / "none.jsonl", "auto", "no such file"),
        (tmp_path / "none.jsonl", "sgd", "no such file"),
        (tmp_path, "messages", "not a regular file"),
        (write(GOOD, "data.csv"), "auto", "unknown format"),
        (tmp_path / ("x" * 300), "text", "cannot be read"),
    ]:
        with pytest.raises(StmError, match=hint):
            read_transcripts(wrong, format)
    with pytest.raises(StmError, match="limit is 0; expected at least 1"):
        read_transcripts(path, limit=0)


def test_limit_stops_before_what_follows(write: Write) -> None:
    path = write(f"{GOOD}\n{GOOD}\n{{broken\n")
    assert len(list(read_transcripts(path, limit=2))) == 2
    assert len(list(read_transcripts(str(path), limit=1))) == 1


def test_reading_is_lazy(write: Write) -> None:
    transcripts = read_transcripts(write(f"{GOOD}\n{GOOD}\n{{broken\n{GOOD}\n"))
    assert [t.meta["line"] for t in islice(transcripts, 2)] == [1, 2]
    with pytest.raises(StmError, match=r"data\.jsonl:3: broken JSON"):
        next(transcripts)


# --- messages ------------------------------------------------------------------------------------


def test_messages_know_where_they_stand(write: Write) -> None:
    path = write(f"\n{GOOD}\n\n" + messages("a", "b", id="second") + "\n" + messages("c", "d", id=7))
    first, second, third = read_transcripts(path)
    assert (first.id, second.id, third.id) == ("data.jsonl:2", "second", "7")
    assert first.meta == {"file": str(path), "line": 2}
    assert [turn.meta["line"] for turn in second.turns] == [4, 4]
    assert (texts(first), speakers(first)) == (["Hi", "Hello"], ["user", "assistant"])


def test_messages_accept_a_byte_order_mark_and_windows_line_ends(write: Write) -> None:
    path = write(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n" + GOOD.encode() + b"\r\n")
    assert len(list(read_transcripts(path))) == 2


def test_line_separators_of_unicode_do_not_end_a_line(write: Write) -> None:
    content = "one\u2028two\x85three"
    path = write(json.dumps({"messages": [{"role": "", "content": content}] * 2}, ensure_ascii=False))
    assert texts(only(path)) == [content] * 2


def test_text_parts_count_and_others_are_noted(write: Write) -> None:
    image = {"type": "image_url", "image_url": {"url": "x.png"}}
    parts = [{"type": "text", "text": "Look:"}, image, {"type": "text", "text": "a cat"}]
    turn = only(write(messages(parts, "Nice"))).turns[0]
    assert turn.text == "Look:\na cat"
    assert turn.meta["parts_left_out"] == ("image_url",)
    assert "data.jsonl:1: messages[1].content has only parts of type image_url" in failure(
        write(messages("Look", [image]))
    )


CALL = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"q":\n "cat  food"}'}}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "tool_calls": [CALL]}, 'tool_call find({"q": "cat  food"})'),
        ({"tool_calls": [CALL]}, 'tool_call find({"q": "cat  food"})'),
        (
            {"content": "", "tool_calls": [{"name": "a", "arguments": {"x": "é"}}, {"name": "b"}]},
            'tool_call a({"x": "é"}); tool_call b()',
        ),
        ({"content": "Let me see.", "tool_calls": [{"name": "b"}]}, "Let me see.\ntool_call b()"),
        ({"content": None, "function_call": {"name": "b", "arguments": ""}}, "tool_call b()"),
        ({"content": "Yes", "tool_calls": None}, "Yes"),
    ],
)
def test_tool_calls_are_kept_as_text(write: Write, message: dict[str, Any], text: str) -> None:
    turn = only(write(messages("Hi", {"role": "assistant", **message}))).turns[1]
    assert (turn.speaker, turn.text) == ("assistant", text)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("{broken", "broken JSON"),
        (GOOD + GOOD, "broken JSON"),
        ('{"messages": [], "messages": []}', "key 'messages' is given twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": ' + "9" * 5000 + "}", "broken JSON"),
        ("7", "expected a JSON object"),
        ('{"conversations": []}', "has no \"messages\" but ['conversations']"),
        ('{"messages": "Hi"}', "expected a list of messages"),
        (messages(), "0 turn(s); expected at least 2"),
        (messages("a"), "1 turn(s); expected at least 2"),
        ('{"messages": ["Hi", "Hello"]}', "messages[0] is 'Hi'; expected a JSON object"),
        (messages("a", {"content": "b"}), 'messages[1] has no "role"'),
        (messages("a", {"role": "user"}), 'messages[1] has no "content"'),
        (messages("a", {"role": 3, "content": "b"}), "messages[1].role is 3; expected a string"),
        (messages("a", 3), "messages[1].content is 3; expected a string"),
        (messages("a", " \n"), "messages[1].content is empty"),
        (messages("a", None), "messages[1].content is empty"),
        (messages("a", []), "messages[1].content is empty"),
        (messages("a", "b\0"), "messages[1].content holds a NUL"),
        (messages("a", "b\ud800"), "messages[1].content holds half a surrogate pair"),
        (messages("a", ["b"]), "messages[1].content[0] is 'b'; expected a JSON object"),
        (messages("a", [{"type": "text"}]), 'messages[1].content[0] has no "text"'),
        (messages("a", "b", id=[1]), "id is [1]; expected a string"),
        (messages("a", "b", id=True), "id is True; expected a string"),
        (messages("a", "b", id=""), "id is empty"),
        (messages("a", {"role": "x", "tool_calls": 1}), "messages[1].tool_calls is 1; expected a list"),
        (messages("a", {"role": "x", "tool_calls": [{}]}), 'messages[1].tool_calls[0] has no "name"'),
        (
            messages("a", {"role": "x", "tool_calls": [{"name": "f", "arguments": 1}]}),
            "messages[1].tool_calls[0].arguments is 1; expected a string",
        ),
    ],
)
def test_bad_messages_name_file_and_line(write: Write, line: str, hint: str) -> None:
    path = write(f"{GOOD}\n{line}\n")
    message = failure(path)
    assert message.startswith(f"{path}:2: ")
    assert hint in message
    assert message.count(";") >= 2  # what was got; what was expected; what to do


# --- every format --------------------------------------------------------------------------------

NAMES = {"text": "a.txt", "stories": "a.txt", "sgd": "dialogues_1.json", "irc": "a.ascii.txt"}


@pytest.mark.parametrize("format", sorted(READERS))
@pytest.mark.parametrize(
    ("content", "line", "hint"),
    [
        (b"", 1, "holds no transcript"),
        (b" \n\n\t\n", 1, "holds no transcript"),
        (b"\n\nab\0\n", 3, "NUL byte"),
        (b"\n\nab\xff\n", 3, "byte 0xff at byte 3 of the line is not UTF-8"),
        ("Hi.\n".encode("utf-16"), 1, "byte 0xff at byte 1 of the line is not UTF-8"),
    ],
)
def test_bad_files_name_file_and_line(write: Write, format: str, content: bytes, line: int, hint: str) -> None:
    path = write(content, NAMES.get(format, f"a.{format}"))
    message = failure(path, format)
    assert message.startswith(f"{path}:{line}: ")
    assert hint in message


@pytest.mark.parametrize("format", sorted(READERS))
@given(data=st.binary(max_size=200))
def test_any_bytes_give_transcripts_or_one_line_errors(scratch: Path, format: str, data: bytes) -> None:
    check_total(scratch / NAMES.get(format, f"a.{format}"), data, format)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "name", "arguments"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def shape(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return records that have some of the keys, each with a likely or any value."""
    return JSON | st.fixed_dictionaries({}, optional={key: value | JSON for key, value in keys.items()})


RECORDS = {
    "messages": shape(
        id=JSON,
        messages=st.lists(shape(role=st.text(), content=st.text(), tool_calls=st.lists(JSON), name=JSON), max_size=3),
    ),
    "sgd": shape(
        dialogue_id=st.text(),
        turns=st.lists(shape(speaker=st.sampled_from(["USER", "SYSTEM"]), utterance=st.text()), max_size=3),
    ),
}


@given(record=RECORDS["messages"])
def test_any_json_line_gives_a_transcript_or_an_error(scratch: Path, record: object) -> None:
    check_total(scratch / "a.jsonl", json.dumps(record).encode(), "messages")


@given(records=st.lists(RECORDS["sgd"], max_size=2) | JSON)
def test_any_json_list_gives_dialogues_or_an_error(scratch: Path, records: object) -> None:
    check_total(scratch / "dialogues_1.json", json.dumps(records).encode(), "sgd")


PROSE = st.lists(
    st.sampled_from(['"', "“", "”", ".", "!", " ", "\n", "<|endoftext|>", "Ann", "said", ":", "it", "Mr"])
).map("".join)


@pytest.mark.parametrize("format", ["text", "stories"])
@given(prose=PROSE)
def test_any_prose_gives_transcripts_or_an_error(scratch: Path, format: str, prose: str) -> None:
    check_total(scratch / "a.txt", prose.encode(), format)


def check_total(path: Path, data: bytes, format: str) -> None:
    """Check that a file gives transcripts, or an error of one line that names it."""
    path.write_bytes(data)
    message, transcripts = "", []
    try:
        transcripts = list(read_transcripts(path, format))
    except StmError as error:
        message = str(error)
    if message:
        assert message.startswith(f"{path}:")
        assert "\n" not in message
    else:
        assert transcripts
        assert all(turn.meta["line"] > 0 for transcript in transcripts for turn in transcript.turns)


# --- plain text ----------------------------------------------------------------------------------


def test_blank_lines_separate_transcripts(write: Write) -> None:
    path = write("\nOne.\n  Two. \n\n \nThree.\nFour.", "a.txt")
    first, second = read_transcripts(path)
    assert (texts(first), texts(second)) == (["One.", "Two."], ["Three.", "Four."])
    assert (first.id, second.id) == ("a.txt:2", "a.txt:6")
    assert [turn.meta["line"] for turn in second.turns] == [6, 7]


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["Ann: Where?", "Old Bob: At 10:30, there."], ["Ann", "Old Bob"]),
        (["Ann: Where?", "There."], ["", ""]),
        (["See http://a.b", "Ann:Where"], ["", ""]),
        (["Well, Ann: no", "Bob: yes"], ["", ""]),
        (["A name of more than twenty letters: no", "Bob: yes"], ["", ""]),
    ],
)
def test_speakers_count_only_if_every_line_has_one(write: Write, lines: list[str], names: list[str]) -> None:
    transcript = only(write("\n".join(lines), "a.txt"))
    assert speakers(transcript) == names
    assert [str(turn) for turn in transcript.turns] == lines


@pytest.mark.parametrize(
    ("content", "line", "hint"),
    [
        ("One.\nTwo.\n\nAlone.\n\nThree.\nFour.\n", 4, "1 turn(s)"),
        ("Ann: Where?\nBob:\n", 2, "what Bob says is empty"),
        ("One.\nTwo.\n<|endoftext|>\nThree.\n", 3, 'read the file with format "stories"'),
    ],
)
def test_bad_text_names_file_and_line(write: Write, content: str, line: int, hint: str) -> None:
    path = write(content, "a.txt")
    message = failure(path)
    assert message.startswith(f"{path}:{line}: ")
    assert hint in message


# --- stories -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentences",
    [
        ["A cat sat.", "It was red!", "Was it?", "Yes..."],
        ["Tom looked.", '"Stop! It is hot," said Tom.', "He ran."],
        ['"Can I play?" asked the fish.', "The crab left."],
        ['"Stop! Wait!" Tom shouted.', "He ran."],
        ['"Stop! Wait!"', 'Tom said, "It is hot."', "He ran."],
        ['She said, "No. I am cold."', "“Is it? Oh.”", "He slept."],
        ["Mr. Fox met Dr. Owl.", "They sang."],
        ["It cost 3.50 coins.", "(It was dear.)", "So be it"],
        ['He said, "Unclosed.', "Then he left."],
    ],
)
def test_sentences_keep_their_quotations(write: Write, sentences: list[str]) -> None:
    assert texts(only(write(" ".join(sentences), "a.txt"), "stories")) == sentences


def test_stories_know_their_lines(write: Write) -> None:
    path = write(
        "A cat sat on\nthe mat. It slept.\nIt woke\n\nThe End\n<|endoftext|>\n<|endoftext|>\n"
        "One. Two.<|endoftext|>Three. Four.<|endoftext|>Five. Six.\n",
        "a.txt",
    )
    stories = list(read_transcripts(path, "stories"))
    assert [story.id for story in stories] == ["a.txt:1", "a.txt:8", "a.txt:8.1", "a.txt:8.2"]
    assert texts(stories[0]) == ["A cat sat on the mat.", "It slept.", "It woke", "The End"]
    assert [turn.meta["line"] for turn in stories[0].turns] == [1, 2, 3, 5]
    assert {turn.speaker for story in stories for turn in story.turns} == {""}


def test_a_story_of_one_sentence_is_an_error(write: Write) -> None:
    path = write("One. Two.\n<|endoftext|>\nAlone.\n", "a.txt")
    assert failure(path, "stories").startswith(f"{path}:3: the transcript has 1 turn(s)")


@given(prose=PROSE)
def test_no_word_of_a_story_is_lost(scratch: Path, prose: str) -> None:
    path = scratch / "whole.txt"
    path.write_text(prose)
    try:
        stories = list(read_transcripts(path, "stories"))
    except StmError:
        return
    words = [text.split() for story in stories for text in texts(story)]
    assert list(chain.from_iterable(words)) == prose.replace("<|endoftext|>", " ").split()


@pytest.mark.parametrize("piece", ['"', "“", ".", "!x", "a. ", '" A. ', "a\n"])
def test_splitting_takes_linear_time(write: Write, piece: str) -> None:
    # Quadratic scans of this size take minutes.
    path = write("One. Two. " + piece * 300_000, "a.txt")
    assert only(path, "stories").turns


# --- Schema-Guided Dialogue ----------------------------------------------------------------------


def dialogue(name: str, *utterances: Any) -> dict[str, Any]:
    names = ("USER", "SYSTEM")
    turns = [{"speaker": names[i % 2], "utterance": text} for i, text in enumerate(utterances)]
    return {"dialogue_id": name, "services": [], "turns": turns}


def test_sgd_folder_is_read_by_name(write: Write, tmp_path: Path) -> None:
    write(json.dumps([dialogue("2_0", "e", "f")]), "dialogues_002.json")
    path = write(json.dumps([dialogue("1_0", "a", "b"), dialogue("1_1", "c", "d")], indent=1), "dialogues_001.json")
    write("not read", "schema.json")
    transcripts = list(read_transcripts(tmp_path))
    assert [t.id for t in transcripts] == ["1_0", "1_1", "2_0"]
    assert (texts(transcripts[0]), speakers(transcripts[0])) == (["a", "b"], ["user", "assistant"])
    starts = [n for n, line in enumerate(path.read_text().splitlines(), start=1) if line == " {"]
    assert [t.meta["line"] for t in transcripts[:2]] == starts


@pytest.mark.parametrize(
    ("content", "line", "hint"),
    [
        ("{}", 1, "expected a JSON list"),
        ("\n[]", 1, "holds no transcript"),
        ("[\n{broken}]", 2, "broken JSON"),
        ("[\n{},\n7]", 2, 'the dialogue has no "dialogue_id"'),
        ("[\n\n7]", 3, "the dialogue is 7; expected a JSON object"),
        ('[\n{"dialogue_id": "1"}]', 2, "has no \"turns\" but ['dialogue_id']"),
        ('[\n{"dialogue_id": "1", "turns": 2}]', 2, "turns is 2; expected a list"),
        ("[\n" + json.dumps(dialogue("1", "a")) + "]", 2, "1 turn(s)"),
        ("[\n" + json.dumps(dialogue("1", "a", " ")) + "]", 2, "turns[1].utterance is empty"),
        (
            "[\n" + json.dumps(dialogue("1", "a", None)) + "]",
            2,
            "turns[1].utterance is None; expected a string",
        ),
        (
            "[\n" + json.dumps(dialogue("1", "a", "b")).replace("USER", "BOB") + "]",
            2,
            "expected USER or SYSTEM",
        ),
        ("[\n" + json.dumps(dialogue("1", "a", "b")), 2, "broken JSON"),
        ("[\n" + json.dumps(dialogue("1", "a", "b")) + ",\n]", 3, "broken JSON"),
        ("[\n" + json.dumps(dialogue("1", "a", "b")) + "\n] x", 3, "broken JSON"),
    ],
)
def test_bad_dialogues_name_file_and_line(write: Write, content: str, line: int, hint: str) -> None:
    path = write(content, "dialogues_1.json")
    message = failure(path)
    assert message.startswith(f"{path}:{line}: ")
    assert hint in message


def test_folder_without_dialogues(tmp_path: Path) -> None:
    assert f"{tmp_path}: holds no dialogues_*.json" in failure(tmp_path)


# --- writing -------------------------------------------------------------------------------------

CLEAN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
FILLED = CLEAN.filter(str.strip)
TRANSCRIPTS = st.lists(
    st.builds(
        Transcript,
        turns=st.lists(st.builds(Turn, text=FILLED, speaker=CLEAN), min_size=2, max_size=4).map(tuple),
        id=FILLED,
    ),
    min_size=1,
    max_size=3,
)


@given(transcripts=TRANSCRIPTS)
def test_what_was_written_reads_the_same(scratch: Path, transcripts: list[Transcript]) -> None:
    path = scratch / "written.jsonl"
    assert write_messages(transcripts, path) == len(transcripts)
    again = list(read_transcripts(path))
    assert [(t.id, texts(t), speakers(t)) for t in again] == [(t.id, texts(t), speakers(t)) for t in transcripts]


def test_a_file_can_be_rewritten_while_it_is_read(write: Write) -> None:
    path = write(f"{GOOD}\n" * 3)
    assert write_messages(read_transcripts(path, limit=2), path) == 2
    assert [t.id for t in read_transcripts(path)] == ["data.jsonl:1", "data.jsonl:2"]


def test_a_failed_write_changes_nothing(write: Write) -> None:
    path = write(GOOD)
    transcript = only(path)

    def interrupted() -> Iterator[Transcript]:
        yield transcript
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_messages(interrupted(), path)
    with pytest.raises(StmError, match="no transcript to write"):
        write_messages([], path)
    half = Transcript((Turn("a"), Turn("b\ud800")))
    with pytest.raises(StmError, match=r"data\.jsonl:2: text of turn 1 holds half a surrogate"):
        write_messages([transcript, half], path)
    assert path.read_text() == GOOD
    assert list(path.parent.iterdir()) == [path]


def test_places_that_cannot_be_written(write: Write, tmp_path: Path) -> None:
    transcript = only(write(GOOD))
    for path, hint in [
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "a.jsonl", "cannot be written"),
        (tmp_path / "data.jsonl" / "a.jsonl", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ]:
        with pytest.raises(StmError, match=hint):
            write_messages([transcript], path)


# --- real data -----------------------------------------------------------------------------------


def test_real_dialogues(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "sgd" / "dev"
    if not folder.is_dir():
        pytest.skip(f"no Schema-Guided Dialogue at {folder}")
    for file in sorted(folder.glob("dialogues_*.json"))[:1]:
        raw = json.loads(file.read_text(encoding="utf-8"))
        transcripts = list(read_transcripts(file))
        assert [t.id for t in transcripts] == [d["dialogue_id"] for d in raw]
        assert [texts(t) for t in transcripts] == [[u["utterance"] for u in d["turns"]] for d in raw]
        assert speakers(transcripts[0])[:2] == ["user", "assistant"]
        write_messages(transcripts, tmp_path / "sgd.jsonl")
        again = read_transcripts(tmp_path / "sgd.jsonl")
        assert [(t.id, texts(t)) for t in again] == [(t.id, texts(t)) for t in transcripts]


def test_real_stories(shared_data: Path) -> None:
    path = shared_data / "tinystories" / "tinystories_sample.txt"
    if not path.is_file():
        pytest.skip(f"no stories at {path}")
    stories = list(read_transcripts(path, "stories", limit=200))
    assert len(stories) == 200
    raw = path.read_text(encoding="utf-8").split("<|endoftext|>")
    assert [" ".join(texts(s)).split() for s in stories] == [story.split() for story in raw[:200]]
    assert 8 < sum(len(s) for s in stories) / len(stories) < 40
    assert 'yes, lily, we can share the needle and fix your shirt."' in texts(stories[0])[4].lower()
