"""Data sets with annotations: what becomes a probe or a question, and what is evidence for it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stm_rl.errors import StmError
from stm_rl.readers import SkipReport, read_transcripts, write_messages
from stm_rl.transcript import Transcript

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8", newline="")
        return path

    return write_file


def only(path: Path, format: str = "auto", **options: Any) -> Transcript:
    (transcript,) = read_transcripts(path, format, **options)
    return transcript


def failure(path: Path, format: str = "auto") -> str:
    with pytest.raises(StmError) as caught:
        list(read_transcripts(path, format))
    return str(caught.value)


def texts(transcript: Transcript) -> list[str]:
    return [str(turn) for turn in transcript.turns]


def figures(transcripts: list[Transcript]) -> tuple[int, int, int, int, int]:
    """Return the number of transcripts, turns, probes, questions, and turns named as evidence."""
    notes = [note for t in transcripts for note in (*t.probes, *t.questions)]
    return (
        len(transcripts),
        sum(map(len, transcripts)),
        sum(len(t.probes) for t in transcripts),
        sum(len(t.questions) for t in transcripts),
        sum(len(note.evidence) for note in notes),
    )


def read_real(path: Path, tmp_path: Path, format: str = "auto") -> list[Transcript]:
    """Read real data without a single flaw, and check that our JSONL keeps all of some."""
    if not path.exists():
        pytest.skip(f"no data at {path}")
    report = SkipReport()
    transcripts = list(read_transcripts(path, format, report=report))
    assert (report.count, report.flaws) == (0, 0)
    some = transcripts[:: max(1, len(transcripts) // 200)]
    write_messages(some, tmp_path / "some.jsonl")
    assert list(read_transcripts(tmp_path / "some.jsonl")) == some
    return transcripts


# --- bAbI --------------------------------------------------------------------------------------------

BABI = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary took the milk.
5 Where is the milk?\tbathroom\t4 1
1 A.
2 B.
"""


def test_babi_stories(write: Write) -> None:
    first, second = read_transcripts(write("qa2_two_train.txt", BABI))
    assert texts(first) == [
        "Mary moved to the bathroom.",
        "John went to the hallway.",
        "question: Where is Mary?",
        "answer: bathroom",
        "Mary took the milk.",
        "question: Where is the milk?",
        "answer: bathroom",
    ]
    assert [(p.turn, p.evidence, p.answer) for p in first.probes] == [(3, (0,), "bathroom"), (6, (0, 4), "bathroom")]
    assert [turn.writable for turn in first.turns] == [True, True, False, False, True, False, False]
    assert (first.meta["task"], first.id, second.id) == (2, "qa2_two_train.txt:1", "qa2_two_train.txt:6")
    assert [turn.meta["line"] for turn in first.turns] == [1, 2, 3, 3, 4, 5, 5]


@pytest.mark.parametrize(
    ("content", "line", "hint"),
    [
        ("Mary moved.\n1 A.\n", 1, "the line is 'Mary moved.'; expected `NUMBER text`"),
        ("2 A.\n3 B.\n", 1, "number 2 follows 0"),
        ("1 A.\n1 B.\n2 C.\n", 1, "1 turn(s)"),
        ("1 A.\n3 B.\n2 C.\n", 3, "number 2 follows 3"),
        ("1 A.\n2 Q?\ta\tx\n", 2, "supporting line 'x' is none"),
        ("1 A.\n2 Q?\ta\t2\n", 2, "supporting line '2' is none"),
        ("1 A.\n2 Q?\t\t1\n", 2, "expected `NUMBER text`"),
        ("1 A.\n2 Q?\ta\t1\t1\n", 2, "expected `NUMBER text`"),
    ],
)
def test_bad_stories_name_file_and_line(write: Write, content: str, line: int, hint: str) -> None:
    path = write("qa1_x.txt", content)
    message = failure(path)
    assert message.startswith(f"{path}:{line}: ")
    assert hint in message


def test_a_bad_story_does_not_take_the_next_with_it(write: Write) -> None:
    report = SkipReport()
    path = write("qa1_x.txt", "1 A.\nbroken\n2 B.\n1 C.\n2 D.\n")
    assert texts(only(path, skip_bad=True, report=report)) == ["C.", "D."]
    assert report.messages == [failure(path)]


def test_real_babi(shared_data: Path, tmp_path: Path) -> None:
    transcripts = read_real(shared_data / "babi", tmp_path)
    assert figures(transcripts) == (6267, 106362, 20000, 0, 34283)
    by_task = [sum(len(t.probes) for t in transcripts if t.meta["task"] == task) for task in range(1, 21)]
    assert by_task == [1000] * 20
    assert [t.meta["task"] for t in transcripts] == sorted(t.meta["task"] for t in transcripts)
    sizes = {len(p.evidence) for t in transcripts if t.meta["task"] == 3 for p in t.probes}
    assert sizes == {3}


# --- final states: Schema-Guided Dialogue and MultiWOZ -----------------------------------------------


def sgd_turn(text: str, user: bool, **slots: list[str]) -> dict[str, Any]:
    frames = [{"service": "S_1", "state": {"slot_values": slots}}] if user else [{"service": "S_1", "slots": []}]
    return {"speaker": "USER" if user else "SYSTEM", "utterance": text, "frames": frames}


def sgd(*turns: dict[str, Any]) -> str:
    return json.dumps([{"dialogue_id": "1_0", "services": ["S_1"], "turns": list(turns)}])


def test_origins_of_a_final_state(write: Write) -> None:
    dialogue = sgd(
        sgd_turn("A table for 2 at 12:30.", True, seats=["2"], time=["12:30"]),
        sgd_turn("In San Jose, at noon or 12:45?", False),
        sgd_turn("Yes, there, 12:45.", True, seats=["2"], time=["12:45"], city=["SJ", "san jose"]),
        sgd_turn("2 seats, any area?", False),
        sgd_turn("I don't mind.", True, seats=["2"], time=["12:45"], city=["SJ", "san jose"], area=["dontcare"]),
    )
    transcript = only(write("dialogues_1.json", dialogue))
    state = [(s["slot"], s["value"], s["turn"]) for s in transcript.meta["state"]]
    # seats: "2" as a word, when it was first set; time: changed; city: said by the system; area: never said.
    assert state == [("seats", "2", 0), ("time", "12:45", 2), ("city", "san jose", 1), ("area", "dontcare", 4)]
    (question,) = transcript.questions
    assert question.text == "What has been agreed?"
    assert question.answer == "seats: 2; time: 12:45; city: san jose; area: dontcare"
    assert (question.evidence, question.category) == ((0, 1, 2, 4), "state")


def test_slots_that_are_given_up_do_not_count(write: Write) -> None:
    dialogue = sgd(
        sgd_turn("At 6 for 2.", True, seats=["2"], time=["6"]),
        sgd_turn("Ok.", False),
        sgd_turn("Any time.", True, seats=["2"]),
    )
    transcript = only(write("dialogues_1.json", dialogue))
    assert [s["slot"] for s in transcript.meta["state"]] == ["seats"]
    nothing = only(write("dialogues_2.json", sgd(sgd_turn("Hi.", True), sgd_turn("Hello.", False))))
    assert (nothing.questions, "state" in nothing.meta) == ((), False)


@pytest.mark.parametrize(
    ("frames", "hint"),
    [
        (3, "turns[0].frames is 3; expected a list"),
        ([3], "turns[0].frames[0] is 3; expected a JSON object"),
        ([{"state": {}}], 'turns[0].frames[0] has no "service"'),
        ([{"service": "S", "state": 1}], "turns[0].frames[0].state is 1"),
        ([{"service": "S", "state": {"slot_values": {"a": "b"}}}], "slot_values.a is 'b'; expected a list"),
        ([{"service": "S", "state": {"slot_values": {"a": [1]}}}], "slot_values.a is 1; expected a string"),
    ],
)
def test_bad_states_name_file_and_line(write: Write, frames: Any, hint: str) -> None:
    turn = {"speaker": "USER", "utterance": "Hi.", "frames": frames}
    path = write("dialogues_1.json", "\n" + sgd(turn, turn))
    message = failure(path)
    assert message.startswith(f"{path}:2: ")
    assert hint in message


def test_real_sgd_states(shared_data: Path, tmp_path: Path) -> None:
    transcripts = read_real(shared_data / "sgd" / "dev", tmp_path)
    assert figures(transcripts) == (384, 6890, 0, 384, 1868)
    fits = [sum(len(t.questions[0].evidence) <= slots for t in transcripts) for slots in (2, 4, 8, 16)]
    assert fits == [27, 169, 377, 384]  # what a clairvoyant memory can hold
    for transcript in transcripts:
        for slot in transcript.meta["state"]:
            turn = transcript.turns[slot["turn"]]
            assert slot["value"].lower() in turn.text.lower() or turn.speaker == "user"


def multiwoz_log(*turns: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"goal": {}, "log": [{"text": text, "metadata": metadata} for text, metadata in turns]}


BELIEF = {
    "hotel": {"book": {"booked": [{"reference": "X"}], "day": "monday"}, "semi": {"area": "east|west", "name": "none"}},
    "taxi": {"book": {"booked": []}, "semi": {"area": "not mentioned"}},
}


def test_multiwoz_states(write: Write, tmp_path: Path) -> None:
    log = multiwoz_log(("A hotel in the west .", {}), ("Ok , Monday ?", {}), ("Yes .", {}), ("Booked .", BELIEF))
    path = write("val.json", json.dumps({"A.json": log, "B.json": log}, indent=2))
    first, second = read_transcripts(path)
    assert (first.id, second.id) == ("A.json", "B.json")
    assert texts(first)[:2] == ["user: A hotel in the west .", "assistant: Ok , Monday ?"]
    assert [tuple(s.values()) for s in first.meta["state"]] == [
        ("hotel", "area", "west", 0),
        ("hotel", "book day", "monday", 1),
    ]
    assert first.questions[0].evidence == (0, 1)
    assert (first.meta["line"], second.meta["line"]) == (2, 2 + path.read_text().split('"B.json"')[0].count("\n") - 1)
    with zipfile.ZipFile(tmp_path / "val.zip", "w") as archive:
        archive.write(path, "val.json")
    packed = list(read_transcripts(tmp_path / "val.zip"))
    assert [(t.id, t.questions) for t in packed] == [(t.id, t.questions) for t in (first, second)]
    assert packed[0].meta["file"] == str(tmp_path / "val.zip" / "val.json")


@pytest.mark.parametrize(
    ("content", "line", "hint"),
    [
        ("[]", 1, "expected a JSON object"),
        ("{}", 1, "holds no transcript"),
        ('{\n"A": 3}', 2, "the dialogue is 3; expected a JSON object"),
        ('{\n"A": {"log": 3}}', 2, "log is 3; expected a list"),
        ('{\n"A": {"log": [{"text": "a"}, {"text": " "}]}}', 2, "log[1].text is empty"),
        ('{\n"A": {"log": [{"text": "a"}, {"text": "b", "metadata": {"taxi": 1}}]}}', 2, "metadata.taxi is 1"),
        ('{\n"A": {"log": []},\n"A": {"log": []}}', 2, "0 turn(s)"),
        ('{\n"A" {"log": []}}', 2, "broken JSON (no key before"),
        ('{\n"A": {"log": [{"text": "a"}, {"text": "b"}]}', 2, "the file does not end"),
    ],
)
def test_bad_multiwoz_names_file_and_line(write: Write, content: str, line: int, hint: str) -> None:
    path = write("val.json", content)
    message = failure(path, "multiwoz")
    assert message.startswith(f"{path}:{line}: ")
    assert hint in message


def test_a_dialogue_given_twice_is_an_error(write: Write) -> None:
    log = json.dumps(multiwoz_log(("a", {}), ("b", {})))
    path = write("val.json", f'{{\n"A": {log},\n"A": {log}}}')
    assert failure(path).startswith(f"{path}:3: dialogue 'A' is given twice")


def test_damaged_zips_are_errors(write: Write, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "Hi")
    assert "the zip holds no .json file" in failure(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("val.json", json.dumps({str(i): multiwoz_log(("a", {}), (str(i), {})) for i in range(99)}))
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[100:120] = bytes(20)
    (tmp_path / "b.zip").write_bytes(data)
    assert "the zip is damaged" in failure(tmp_path / "b.zip")


def test_real_multiwoz(shared_data: Path, tmp_path: Path) -> None:
    transcripts = read_real(shared_data / "multiwoz" / "val.json.zip", tmp_path)
    assert figures(transcripts) == (999, 14730, 0, 999, 4978)
    fits = [sum(len(t.questions[0].evidence) <= slots for t in transcripts) for slots in (2, 4, 8, 16)]
    assert fits == [101, 408, 963, 999]


# --- IRC ---------------------------------------------------------------------------------------------

LOG = "[03:01] <ann> hi\n=== bo has joined #u\n[03:02] <bo> ann: yo\r\n[03:02]  * cy waves\n[03:03] <dan>\n"


def test_irc_links_are_probes(write: Write) -> None:
    path = write("a.ascii.txt", LOG)
    write("a.annotation.txt", "0 0 -\n0 2 -\n3 2 -\n2 4 -\n0 4 -\n1 1\n")
    transcript = only(path)
    assert [(turn.speaker, turn.text, turn.meta["element"]) for turn in transcript.turns] == [
        ("ann", "hi", "message"),
        ("", "=== bo has joined #u", "notice"),
        ("bo", "ann: yo", "message"),
        ("cy", "* cy waves", "action"),
        ("dan", "<dan>", "empty"),
    ]
    assert [(probe.turn, probe.evidence) for probe in transcript.probes] == [(2, (0,)), (3, (2,)), (4, (0, 2))]
    assert (transcript.id, transcript.turns[2].meta["time"]) == ("a", "03:02")


def test_blank_lines_keep_links_right(write: Write) -> None:
    path = write("a.ascii.txt", "[03:01] <ann> hi\n\n[03:02] <bo> yo\n")
    annotation = write("a.annotation.txt", "0 2 -\n")
    assert [(probe.turn, probe.evidence) for probe in only(path).probes] == [(1, (0,))]
    for link, hint in [("0 1 -", "line 1 of the log (from 0) is blank"), ("0 9 -", "line 9"), ("x", "the link is 'x'")]:
        annotation.write_text(f"0 2 -\n{link}\n")
        message = failure(path)
        assert message.startswith(f"{annotation}:2: ")
        assert hint in message


def test_a_log_without_annotation_is_reported(write: Write) -> None:
    report = SkipReport()
    assert only(write("a.ascii.txt", LOG), report=report).probes == ()
    assert report.flaws == 1
    assert "a.annotation.txt" in report.flaw_messages[0]


def test_real_irc(shared_data: Path, tmp_path: Path) -> None:
    transcripts = read_real(shared_data / "irc" / "dev", tmp_path)
    assert figures(transcripts) == (10, 12500, 2038, 0, 2145)
    for transcript in transcripts:
        lines = Path(transcript.meta["file"]).read_text(encoding="utf-8").split("\n")[:-1]
        assert len(lines) == len(transcript)  # so that numbers in the annotation are turn indices
        assert all(turn.text in line for turn, line in zip(transcript.turns, lines, strict=True))
        raw = Path(transcript.meta["file"].replace("ascii", "annotation")).read_text().splitlines()
        links = {(int(a), int(b)) for a, b in (line.split()[:2] for line in raw) if a != b}
        assert links == {(evidence, p.turn) for p in transcript.probes for evidence in p.evidence}


# --- LoCoMo ------------------------------------------------------------------------------------------

CONVERSATION = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Bo",
        "session_10": [{"speaker": "Ann", "dia_id": "D10:1", "text": "Back again."}],
        "session_10_date_time": "9 May, 2023",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ann", "dia_id": "D1:1", "text": "I bought a kite."},
            {"speaker": "Bo", "dia_id": "D1:2", "text": "See!", "img_url": ["x"], "blip_caption": "a red kite"},
            {"speaker": "Bo", "dia_id": "D1:3", "text": "", "blip_caption": "a dog"},
        ],
        "session_2_date_time": "no such session",
    },
    "qa": [
        {"question": "What?", "answer": "a kite", "evidence": ["D1:1"], "category": 4},
        {"question": "When?", "answer": 2023, "evidence": ["D10:1; D1:2"], "category": 2},
        {"question": "Who?", "answer": "Bo", "evidence": ["D1:01 D:1:3 D1:2", "D"], "category": 1},
        {"question": "Whose?", "adversarial_answer": "Ann's", "evidence": ["D7:7"], "category": 5},
        {"question": "Why?", "answer": "fun", "evidence": [], "category": 3},
    ],
}


def test_locomo(write: Write) -> None:
    report = SkipReport()
    transcript = only(write("locomo.json", json.dumps([CONVERSATION])), report=report)
    assert texts(transcript) == [
        "Ann: I bought a kite.",
        "Bo: See! [image: a red kite]",
        "Bo: [image: a dog]",
        "Ann: Back again.",
    ]
    assert [turn.meta["session"] for turn in transcript.turns] == [1, 1, 1, 10]
    assert (transcript.turns[1].meta["blip_caption"], transcript.turns[3].meta["date"]) == ("a red kite", "9 May, 2023")
    assert [(q.answer, q.evidence, q.category) for q in transcript.questions] == [
        ("a kite", (0,), "4"),
        ("2023", (1, 3), "2"),
        ("Bo", (0, 1, 2), "1"),
        ("not mentioned in the conversation", (), "5"),
        ("fun", (), "3"),
    ]
    assert transcript.id == "conv-1"
    assert transcript.meta["adversarial"] == ((3, "Ann's"),)
    left_out = transcript.meta["left_out"]
    assert [message.split(",")[0] for message in left_out] == [
        "qa[2].evidence[1] holds 'D'",
        "qa[3].evidence[0] holds 'D7:7'",
    ]
    assert report.flaws == 2
    assert report.flaw_messages[0].endswith(left_out[0])
    assert ":1: qa[2]" in report.flaw_messages[0]


@pytest.mark.parametrize(
    ("evidence", "turns", "flaws"),
    [
        (["D1:1", "D1:2"], (0, 1), 0),
        (["D1:1; D1:2"], (0, 1), 0),
        (["D1:1 D1:2 D10:1"], (0, 1, 3), 0),
        (["D1:1,D1:2"], (0, 1), 0),
        (["D"], (), 1),
        (["D:1:2"], (1,), 0),
        (["D1:1", "D:11:26"], (0,), 1),
        (["x D1:1 y"], (0,), 2),
        ([""], (), 0),
        (None, (), 0),
    ],
)
def test_evidence_that_can_be_read_counts(write: Write, evidence: Any, turns: tuple[int, ...], flaws: int) -> None:
    question = {"question": "What?", "answer": "a", "evidence": evidence, "category": 1}
    report = SkipReport()
    path = write("locomo.json", json.dumps([{**CONVERSATION, "qa": [question]}]))
    assert only(path, report=report).questions[0].evidence == turns
    assert report.flaws == flaws


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"conversation": 3}, "conversation is 3; expected a JSON object"),
        ({"conversation": {"session_1": 3}}, "session_1 is 3; expected a list"),
        ({"conversation": {"session_1": [{"speaker": "A", "text": "a"}]}}, 'session_1[0] has no "dia_id"'),
        ({"conversation": {"session_1": [{"speaker": "A", "text": "a", "dia_id": "x"}]}}, "dia_id is 'x'"),
        ({"qa": [{"question": "a"}]}, "qa[0].answer is None; expected a string"),
        ({"qa": [{"question": "a", "answer": "b", "evidence": "D1:1"}]}, "qa[0].evidence is 'D1:1'; expected a list"),
        ({"qa": [{"question": "a", "answer": "b", "category": "c"}]}, "qa[0].category is 'c'"),
    ],
)
def test_bad_conversations_name_file_and_line(write: Write, change: dict[str, Any], hint: str) -> None:
    path = write("locomo.json", "[\n" + json.dumps({**CONVERSATION, **change}) + "]")
    message = failure(path, "locomo")
    assert message.startswith(f"{path}:2: ")
    assert hint in message


# --- plays -------------------------------------------------------------------------------------------


def test_plays(write: Write) -> None:
    path = write("p.txt", "First Citizen:\nBefore we go,\nhear me.\n\nAll:\n\nEnter MARCIUS\n\nTwo: no cue\n")
    transcript = only(path, "play")
    assert texts(transcript) == ["First Citizen: Before we go,\nhear me.", "Enter MARCIUS", "Two: no cue"]
    assert transcript.meta["silent"] == (("All", 5),)


@pytest.mark.parametrize(
    ("speeches", "lengths"), [(2, [2]), (200, [200]), (201, [199, 2]), (202, [200, 2]), (601, [200, 200, 199, 2])]
)
def test_long_plays_are_cut(write: Write, speeches: int, lengths: list[int]) -> None:
    path = write("p.txt", "".join(f"A{i}:\n{i}\n\nMute:\n\n" for i in range(speeches)))
    transcripts = list(read_transcripts(path, "play"))
    assert [len(t) for t in transcripts] == lengths
    assert [turn.text for t in transcripts for turn in t.turns] == [str(i) for i in range(speeches)]


def test_a_bad_line_parts_a_play(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"A:\n1\n\nB:\n2\n\nC:\n\xff\n\nA:\n3\n\nB:\n4\n")
    report = SkipReport()
    transcripts = list(read_transcripts(path, "play", skip_bad=True, report=report))
    assert [[turn.text for turn in t.turns] for t in transcripts] == [["1", "2"], ["3", "4"]]
    assert report.messages == [failure(path, "play")]
    assert report.messages[0].startswith(f"{path}:8: byte 0xff")


def test_real_shakespeare(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "tinyshakespeare" / "data" / "tinyshakespeare" / "input.txt"
    transcripts = read_real(path, tmp_path, "play")
    assert figures(transcripts) == (36, 7097, 0, 0, 0)
    silent = [name for t in transcripts for name, _ in t.meta.get("silent", ())]
    assert len(silent) == 7222 - 7097
    spoken = [word for t in transcripts for turn in t.turns for word in (turn.speaker + ": " + turn.text).split()]
    words = sorted(spoken + [word for name in silent for word in f"{name}:".split()])
    assert words == sorted(path.read_text(encoding="utf-8").split())  # no word is lost
