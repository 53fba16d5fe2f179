"""``stm-rl convert``, as a function."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stm_rl.cli.convert import run_convert
from stm_rl.errors import StmError
from stm_rl.readers import read_transcripts

BABI = "1 A is here.\n2 Where is A?\there\t1\n1 B.\nbroken\n1 C.\n2 D.\n"


def test_convert_keeps_everything_and_sums_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "qa1_x.txt", tmp_path / "a.jsonl"
    source.write_text(BABI)
    run_convert(source, out, skip_bad=True)
    said, first = capsys.readouterr().out.splitlines()
    assert said == f"{out}: 2 transcripts, 5 turns, 1 probes, 0 questions; 1 bad records skipped"
    assert first.startswith(f"the first skipped: {source}:4: the line is 'broken'; expected")
    assert list(read_transcripts(out)) == list(read_transcripts(source, skip_bad=True))
    run_convert(source, out, limit=1, as_json=True)
    summary = json.loads(capsys.readouterr().out)
    assert summary == {
        "transcripts": 1,
        "turns": 3,
        "probes": 1,
        "questions": 0,
        "skipped": 0,
        "skipped_messages": [],
        "flaws": 0,
        "flaw_messages": [],
        "out": str(out),
    }


def test_a_bad_record_stops_and_leaves_what_was_there(tmp_path: Path) -> None:
    source, out = tmp_path / "qa1_x.txt", tmp_path / "a.jsonl"
    source.write_text(BABI)
    out.write_text("before")
    with pytest.raises(StmError, match=r"qa1_x\.txt:4: the line is 'broken'"):
        run_convert(source, out)
    assert out.read_text() == "before"


def test_one_screenplay_becomes_fountain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "a.txt", tmp_path / "a.fountain"
    source.write_text("Ann: Hi.\nBo: Hello.\n\nOne.\nTwo.\n")
    with pytest.raises(StmError, match="holds several transcripts; expected one"):
        run_convert(source, out)
    run_convert(source, out, limit=1)
    assert out.read_text() == "@Ann\nHi.\n\n@Bo\nHello.\n"
    run_convert(out, tmp_path / "b.jsonl")
    assert [str(turn) for turn in next(read_transcripts(tmp_path / "b.jsonl")).turns] == ["Ann: Hi.", "Bo: Hello."]
    (tmp_path / "qa1_x.txt").write_text("1 A.\n2 Who?\tA\t1\n")
    capsys.readouterr()
    run_convert(tmp_path / "qa1_x.txt", out)
    assert "have no place in a screenplay" in capsys.readouterr().err


def test_flaws_are_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.ascii.txt"
    source.write_text("[01:00] <a> b\n[01:00] <c> d\n")
    run_convert(source, tmp_path / "a.jsonl")
    assert "1 parts of records could not be read; the first: " in capsys.readouterr().out


@pytest.mark.parametrize("out", ["a.csv", "a"])
def test_outputs_of_another_kind_are_errors(tmp_path: Path, out: str) -> None:
    with pytest.raises(StmError, match=r"expected \.jsonl or \.fountain"):
        run_convert(tmp_path / "none.txt", tmp_path / out)
