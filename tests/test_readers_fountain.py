"""Screenplays in Fountain, read and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stm_rl.errors import StmError
from stm_rl.readers import read_transcripts, write_fountain
from stm_rl.transcript import Transcript, Turn
from stm_rl.worlds.screenplay import ScreenplayWorld

Read = Callable[[str], Transcript]
TAIL = "\n\nThe end comes.\n\nIt came."


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read_text(text: str) -> Transcript:
        path = tmp_path / "a.fountain"
        path.write_text(text, encoding="utf-8", newline="")
        (transcript,) = read_transcripts(path)
        write_fountain(transcript, tmp_path / "again.fountain")
        (again,) = read_transcripts(tmp_path / "again.fountain")
        assert kept(again) == kept(transcript)
        return transcript

    return read_text


def kept(transcript: Transcript) -> object:
    """Return what a screenplay keeps when it is written: all but places."""
    turns = [(turn.text, turn.speaker, {**turn.meta, "line": 0}) for turn in transcript.turns]
    return turns, {key: value for key, value in transcript.meta.items() if key not in ("file", "line")}


def elements(transcript: Transcript) -> list[tuple[str, str, str]]:
    return [(turn.meta["element"], turn.speaker, turn.text) for turn in transcript.turns]


@pytest.mark.parametrize(
    ("text", "element", "content"),
    [
        ("INT. HOUSE - DAY", "scene_heading", "INT. HOUSE - DAY"),
        ("ext. garden", "scene_heading", "ext. garden"),
        ("EST MOON", "scene_heading", "EST MOON"),
        ("INT./EXT. CAR", "scene_heading", "INT./EXT. CAR"),
        ("INT/EXT CAR", "scene_heading", "INT/EXT CAR"),
        ("I/E CAR", "scene_heading", "I/E CAR"),
        (".SNIPER SCOPE POV", "scene_heading", "SNIPER SCOPE POV"),
        ("...and then", "action", "...and then"),
        ("INTERIOR HOUSE", "action", "INTERIOR HOUSE"),
        ("INT. HOUSE - DAY\nHe waits.", "scene_heading", "INT. HOUSE - DAY"),
        ("Est. 1999\nsays the sign.", "action", "Est. 1999\nsays the sign."),
        ("CUT TO:", "transition", "CUT TO:"),
        ("Cut to:", "action", "Cut to:"),
        ("> Burn to White.", "transition", "Burn to White."),
        ("> THE END <", "centered", "THE END"),
        ("> ONE <\n> TWO <", "centered", "ONE\nTWO"),
        ("~Willy Wonka!\n~Willy Wonka!", "lyrics", "Willy Wonka!\nWilly Wonka!"),
        ("He waits.\nAnd waits.", "action", "He waits.\nAnd waits."),
        ("\tHe is *very*\n  \\*tired\\*.", "action", "    He is *very*\n  \\*tired\\*."),
        ("BANG", "action", "BANG"),
        ("!SCANNING\nWhere is he?", "action", "SCANNING\nWhere is he?"),
        ("23\nis a number", "action", "23\nis a number"),
        ("He /* or she */ waits [[why?]].", "action", "He  waits ."),
    ],
)
def test_elements(read: Read, text: str, element: str, content: str) -> None:
    turn = read(f"First.\n\n{text}{TAIL}").turns[1]
    assert (turn.meta["element"], turn.speaker, turn.text) == (element, "", content)
    assert turn.meta["line"] == 3


@pytest.mark.parametrize(
    ("text", "speaker", "content", "meta"),
    [
        ("ANNA\nHi.", "ANNA", "Hi.", {}),
        ("@McCLANE\nYippie!", "McCLANE", "Yippie!", {}),
        ("R2D2\nBeep.", "R2D2", "Beep.", {}),
        ("HANS (on the radio)\nWhat?", "HANS", "What?", {"extension": "(on the radio)"}),
        ("MOM (O.S.) (CONT'D)\nLuke!", "MOM", "Luke!", {"extension": "(O.S.) (CONT'D)"}),
        ("EVE ^\nNo!", "EVE", "No!", {"dual": True}),
        ("ANNA\n(whispering)\nThe key.", "ANNA", "(whispering) The key.", {}),
        ("ANNA\n(a)\n(b)\nOne.\nTwo.\n(beat)\nThree.", "ANNA", "(a) (b) One.\nTwo.\n(beat) Three.", {}),
        ("ANNA\nOne.\n  \nTwo.", "ANNA", "One.\n\nTwo.", {}),
        ("ANNA\n~La la.", "ANNA", "~La la.", {}),
        ("ANNA\n[[note]]\nHi.", "ANNA", "Hi.", {}),
        ("ANNA\r\nHi.\r\nYou.", "ANNA", "Hi.\nYou.", {}),
        ("CUT TO:\nnot alone", "CUT TO:", "not alone", {}),
    ],
)
def test_dialogue(read: Read, text: str, speaker: str, content: str, meta: dict[str, Any]) -> None:
    turn = read(f"First.\n\n{text}{TAIL}").turns[1]
    assert (turn.speaker, turn.text) == (speaker, content)
    assert turn.meta == {"element": "dialogue", "line": 3, **meta}


def test_scene_numbers(read: Read) -> None:
    turn = read("INT. HOUSE - DAY #110A.1-x#" + TAIL).turns[0]
    assert (turn.text, turn.meta["scene_number"]) == ("INT. HOUSE - DAY", "110A.1-x")


def test_title_page(read: Read) -> None:
    transcript = read("Title:\n\tBRICK & STEEL\n    _Again_\nCredit: Written by\nDraft date: 1/20\n\nHe waits." + TAIL)
    assert transcript.meta["title_page"] == {
        "Title": ("BRICK & STEEL", "_Again_"),
        "Credit": ("Written by",),
        "Draft date": ("1/20",),
    }
    assert transcript.turns[0].text == "He waits."


@pytest.mark.parametrize("text", ["FADE IN:", "INT. HOUSE: DAY", "\nTitle: no", "He says: go\nand goes"])
def test_what_is_no_title_page(read: Read, text: str) -> None:
    transcript = read(text + TAIL)
    assert "title_page" not in transcript.meta
    assert transcript.turns[0].text == text.strip()


def test_what_is_not_told_is_kept_in_the_outline(read: Read) -> None:
    transcript = read(
        "# Act One\n= They meet.\n\nINT. HOUSE - DAY\n\n/* cut:\n\nANNA\nHi.\n*/\n\nShe [[Anna]] waits.\n\n"
        "===\n\n## Later\n\nBO\nYes [[a\n  \nb]].\n\n[[last]]\n"
    )
    assert elements(transcript) == [
        ("scene_heading", "", "INT. HOUSE - DAY"),
        ("action", "", "She  waits."),
        ("dialogue", "BO", "Yes ."),
    ]
    assert [(e["turn"], e["element"], e.get("text")) for e in transcript.meta["outline"]] == [
        (0, "section", "Act One"),
        (0, "synopsis", "They meet."),
        (1, "boneyard", " cut:\n\nANNA\nHi.\n"),
        (1, "note", "Anna"),
        (2, "page_break", None),
        (2, "section", "Later"),
        (2, "note", "a\n  \nb"),
        (3, "note", "last"),
    ]
    assert [turn.meta["line"] for turn in transcript.turns] == [4, 12, 18]


def test_marks_that_are_not_closed_are_text(read: Read) -> None:
    transcript = read("One */ two [[ three\n\nfour ]] /* five")
    assert [turn.text for turn in transcript.turns] == ["One */ two [[ three", "four ]] /* five"]


@pytest.mark.parametrize(
    "piece", ["/*", "[[", "[[a]] ", "/*a*/", "(a)", "(a)\n", "A\n", "A\n\n", "#", "~\n", ")", "> <\n"]
)
def test_reading_takes_linear_time(tmp_path: Path, piece: str) -> None:
    path = tmp_path / "a.fountain"
    path.write_text(f"One.\n\nANNA {piece * 30_000}\n\nTwo.")  # quadratic scans of this size take minutes
    (transcript,) = read_transcripts(path)
    assert len(transcript) >= 2


@pytest.mark.parametrize(
    "turn",
    [
        Turn("One.\n\nTwo."),
        Turn("One /* two */."),
        Turn("One [[two]]."),
        Turn("Hi.", "ANNA (V.O.)"),
        Turn(" Hi. ", "ANNA"),
        Turn("Hi.", "An\nna"),
        Turn("INT. HOUSE", "", {"element": "centred"}),
        Turn("Half \ud800."),
    ],
)
def test_what_would_not_read_back_is_not_written(tmp_path: Path, turn: Turn) -> None:
    path = tmp_path / "a.fountain"
    with pytest.raises(StmError, match=r"turn 1 .* would not read back from Fountain"):
        write_fountain(Transcript((Turn("Hi.", "ANNA"), turn)), path)
    assert not path.exists()
    with pytest.raises(StmError, match="outline or title_page"):
        write_fountain(Transcript((Turn("a"), Turn("b")), meta={"outline": "x"}), path)


def test_dialogues_of_any_kind_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.fountain"
    transcript = Transcript((Turn("INT. is short for interior.", "user"), Turn("Ok", "assistant"), Turn("Rain.")))
    write_fountain(transcript, path)
    assert path.read_text() == "@user\nINT. is short for interior.\n\n@assistant\nOk\n\nRain.\n"
    (again,) = read_transcripts(path)
    assert [(turn.text, turn.speaker) for turn in again.turns] == [(t.text, t.speaker) for t in transcript.turns]


def test_folders_and_errors(tmp_path: Path) -> None:
    (tmp_path / "b.fountain").write_text("One.\n\nTwo.")
    (tmp_path / "a.fountain").write_text("Three.\n\nFour.")
    assert [t.id for t in read_transcripts(tmp_path)] == ["a", "b"]
    for content, message in [(b"Alone.", ":1: the transcript has 1 turn"), (b"One.\n\n\xff", ":3: byte 0xff")]:
        (tmp_path / "c.fountain").write_bytes(content)
        with pytest.raises(StmError, match=f"c.fountain{message}"):
            list(read_transcripts(tmp_path / "c.fountain"))


def test_screenplay_worlds_are_valid_fountain(tmp_path: Path) -> None:
    for seed in range(30):
        transcript = ScreenplayWorld().generate(seed)
        write_fountain(transcript, tmp_path / "a.fountain")
        (again,) = read_transcripts(tmp_path / "a.fountain")
        assert elements(again) == elements(transcript)


def test_real_screenplay(shared_data: Path, read: Read) -> None:
    path = shared_data / "screenplay" / "Cyber_Bob_ep00001.fountain"
    if not path.is_file():
        pytest.skip(f"no screenplay at {path}")
    transcript = read(path.read_text(encoding="utf-8"))
    counts: dict[str, int] = {}
    for turn in transcript.turns:
        counts[turn.meta["element"]] = counts.get(turn.meta["element"], 0) + 1
    assert counts == {"transition": 2, "action": 35, "scene_heading": 3, "dialogue": 35, "centered": 1}
    speakers = {turn.speaker for turn in transcript.turns if turn.speaker}
    assert speakers == {"BOB", "BOSS", "CYBER BOB", "CYBER BOSS", "DOG", "MARGARET"}
    assert transcript.meta["title_page"]["Author"] == ("Richard Alexander Hall",)
    assert [entry["element"] for entry in transcript.meta["outline"]] == ["boneyard", "note", "note"]
    assert ("dialogue", "BOB", "(to dog) Is that a rhetorical question?!") in elements(transcript)
