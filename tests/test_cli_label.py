"""What ``stm-rl label`` prints, and how it meets bad input; more of it in ``test_cli_imitate.py``."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import run_main

from stm_rl.labels import Labeller, LabelStore

Cli = Callable[..., Any]
SMALL = ("--env", "stm_rl/Recall-v0", "--set", "turns=16", "--set", "min_gap=2", "--set", "max_gap=4", "--episodes", 3)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)

    return lambda *args: run_main(monkeypatch, capsys, "label", *args)


def test_json_says_all_there_is(cli: Cli) -> None:
    found = json.loads(cli(*SMALL, "--json").out)
    assert list(found) == ["env", "labels", "file", "scored", "seconds", "noise", "prefilter", "statistics"]
    assert found["file"] == "labels.sqlite"
    assert list(found["labels"]) == ["signal", "level", "pairs"]
    assert found["labels"]["pairs"]["lm"] == found["labels"]["signal"]
    assert list(found["noise"]) == ["mean", "std", "level", "reads"]
    assert found["statistics"]["turns"] == 3 * 16
    assert found["scored"] == found["statistics"]["pairs"]


def test_all_pairs_need_no_prefilter_report_and_a_given_level_no_noise(cli: Cli) -> None:
    found = json.loads(cli(*SMALL, "--json", "--prefilter", "none", "--noise-level", 1).out)
    assert "prefilter" not in found
    assert found["noise"] is None
    assert found["labels"]["level"] == 1


def test_text_for_people(cli: Cli) -> None:
    result = cli(*SMALL, "--out", "kept/labels.sqlite")
    assert result.code == 0, result.err
    for line in (
        r"stm_rl/Recall-v0 · labels from tiny-\w+",
        r"  3 transcripts, 48 turns, \d+ pairs of turn and step",
        r"  \d+ pairs scored in \d+\.\d s; kept in kept/labels.sqlite",
        r"  noise: reads that cannot help gain [+-]\d\.\d+ nats, standard deviation \d\.\d+; what gains less than .*",
        r"  prefilter words: \d+% of the pairs hold \d+% of the gain \(all pairs of 3 transcripts\)",
        r"  memory matters at \d+\.\d% of steps: \d+\.\d+ nats a transcript, read one turn at a time",
        r"  \d+\.\d% of turns are worth keeping",
        r"  from \d+ turns back \(median; 80% lie between \d+ and \d+\)",
    ):
        assert re.search(f"^{line}$", result.out, re.MULTILINE), line


def test_labels_from_text_alone_are_not_kept(cli: Cli, tmp_path: Path) -> None:
    found = json.loads(cli(*SMALL, "--lm", "none", "--json").out)
    assert found["labels"] == {"signal": "text", "level": 0.0}
    assert found["statistics"]["distance"][0] >= 2  # outside the window
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_says_how_to_go_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Labeller, "label", interrupted)
        stopped = cli(*SMALL, "--noise-level", 1)
    assert stopped.code == 130
    assert stopped.err == "stm-rl: interrupted; the labels so far are in labels.sqlite; the same command goes on\n"
    assert cli(*SMALL, "--noise-level", 1).code == 0


def test_ctrl_c_loses_no_finished_batch(tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import time; from stm_rl.labels import labeller, LabelStore; labeller.BATCH = 100\n"
        "put = LabelStore.put\n"
        "LabelStore.put = lambda self, tables: (put(self, tables), len(self) < 6 or time.sleep(60))\n"
        "from stm_rl.cli import main; main()"
    )
    args = [
        sys.executable,
        "-c",
        code,
        "label",
        *map(str, SMALL[:-1]),
        "9",
        "--noise-level",
        "1",
        "--prefilter",
        "none",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    path = tmp_path / "labels.sqlite"
    with subprocess.Popen(args, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (path.exists() and len(LabelStore(path)) >= 6):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in err
    kept = len(LabelStore(path))
    assert 6 <= kept < 9


def test_a_damaged_row_is_made_anew(cli: Cli) -> None:
    first = json.loads(cli(*SMALL, "--json", "--noise-level", 1).out)
    with sqlite3.connect("labels.sqlite") as db:
        db.execute("UPDATE labels SET digest = x'00' WHERE rowid = 2")
    db.close()
    second = json.loads(cli(*SMALL, "--json", "--noise-level", 1).out)
    assert 0 < second["scored"] < first["scored"]
    assert second["statistics"] == first["statistics"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--out", "."), "cannot be used as a file of labels"),
        (("--out", "notes.txt"), "cannot be used as a file of labels"),
        (("--out", "notes.txt/labels"), "notes.txt"),
        (("--signal", "lm", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--signal", "tea"), "--signal is 'tea'"),
        (("chat.jsonl",), "noise cannot be measured with 1 transcript(s)"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], expected: str, cli: Cli, tmp_path: Path) -> None:
    notes = "This is no file of labels.\n" * 99
    (tmp_path / "notes.txt").write_text(notes)
    chat = [{"role": role, "content": f"word {role}"} for role in ("user", "assistant") * 4]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    result = cli(*args)
    assert result.code == 2
    assert result.err.startswith("stm-rl: ")
    assert result.err.count("\n") == 1
    assert expected in result.err
    assert (tmp_path / "notes.txt").read_text() == notes
