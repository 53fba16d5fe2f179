from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stm_rl import StmError
from stm_rl.files import reading, write_json, write_jsonl, write_text
from stm_rl.runs import Run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Files.


def test_write_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": "a much longer text than the new one"})
    write_json(path, {"new": "ü"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"new": "ü"}
    assert names(tmp_path) == ["a.json"]


def test_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")  # half a surrogate pair cannot be encoded
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_write_that_is_interrupted_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted(*_: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_lines_that_fail_half_way_leave_the_old_file(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, int]]:
        yield {"row": 1}
        raise RuntimeError("no second row")

    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"old": 1}])
    with pytest.raises(RuntimeError, match="no second row"):
        write_jsonl(path, rows())
    assert path.read_text() == '{"old": 1}\n'
    assert names(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize("error", [KeyError("seed"), RuntimeError("size mismatch"), TypeError("not a str")])
def test_damaged_file_is_one_error_with_advice(error: Exception) -> None:
    match = r"a/policy is damaged \(.*(seed|mismatch|str).*\); train it again"
    with pytest.raises(StmError, match=match), reading("a/policy", "train it again"):
        raise error


def test_errors_that_explain_themselves_pass_through() -> None:
    with pytest.raises(StmError, match=r"^reads is 0$"), reading("a/policy", "train it again"):
        raise StmError("reads is 0")


# Run folders.


def test_run_folder_is_made_with_its_parents_and_its_config(tmp_path: Path) -> None:
    config = {"seed": 3, "lr": 5e-05, "sets": ["slots=8"], "transcripts": None, "name": "Zoë"}
    folder = tmp_path / "runs" / "first"
    Run.create(folder, config)
    assert Run.open(folder).config == config
    assert names(folder) == ["config.yaml"]


def test_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    Run.create(tmp_path, {"seed": 1})
    assert Run.open(tmp_path).config == {"seed": 1}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_exists_is_not_touched(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    kept = path / "notes.txt" if kind == "folder" else path
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(StmError, match=r"run exists already; give another --out, --resume .* or --force"):
        Run.create(path, {})
    assert kept.read_text() == "mine"
    assert names(tmp_path) == ["run"]


def test_force_moves_aside_again_and_again_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.write_text("a file was here first")
    for number in range(3):
        Run.create(folder, {"number": number}, force=True).log({"steps": number})
    assert names(tmp_path) == ["run", "run.1", "run.2", "run.3"]
    assert (tmp_path / "run.1").read_text() == "a file was here first"
    found = [Run.open(tmp_path / name) for name in ("run.2", "run.3", "run")]
    assert [run.config["number"] for run in found] == [0, 1, 2]
    assert [run.metrics() for run in found] == [[{"steps": number}] for number in range(3)]


@pytest.mark.parametrize("name", [".", "..", "a/.."])
def test_folder_without_a_name_is_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").write_text("")
    with pytest.raises(StmError, match="give a folder with a name"):
        Run.create(Path(name), {}, force=True)
    assert names(tmp_path) == ["kept"]


def test_only_run_folders_can_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StmError, match=r"is not a run folder \(it has no config.yaml\); `stm-rl train` makes one"):
        Run.open(tmp_path)


@pytest.mark.parametrize("text", [b"a: [1", b"\xff\xfe", b"a: \x00", b"- 1\n- 2\n", b""])
def test_config_that_is_damaged_names_its_file(text: bytes, tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    (tmp_path / "config.yaml").write_bytes(text)
    with pytest.raises(StmError, match=r"config\.yaml (is not valid YAML|holds .*; expected a mapping)") as caught:
        _ = run.config
    assert "restore it, or train anew with --force" in str(caught.value)


# Metrics.


def test_metrics_are_read_as_they_were_logged(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    assert run.metrics() == []
    rows: list[dict[str, Any]] = [{"steps": 10, "loss": 0.5}, {"steps": 20, "note": "Zoë"}]
    for row in rows:
        run.log(row)
    assert Run.open(tmp_path).metrics() == rows


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_metrics_that_are_no_numbers_are_still_json(value: float, tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    run.log({"steps": 1, "ppo/explained_variance": value})

    def reject(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    (text,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(text, parse_constant=reject) == {"steps": 1, "ppo/explained_variance": None}


def test_broken_metrics_name_file_and_line(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"steps": 1}\n{"steps": 2, "los\n{"steps": 3}\n')
    with pytest.raises(StmError) as caught:
        run.metrics()
    assert str(caught.value).startswith(f"{path}:2: not valid JSON")
    assert "expected one object a line" in str(caught.value)
