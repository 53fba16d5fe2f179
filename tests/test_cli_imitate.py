from __future__ import annotations

import json
import os
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

from stm_rl.labels import LabelStore
from stm_rl.runs import Run
from stm_rl.worlds.dialogue import DialogueWorld

Cli = Callable[..., Any]
IMITATE = ("imitate", "--env", "stm_rl/Recall-v0", "--set", "turns=16", "--set", "min_gap=2", "--set", "max_gap=4")
FEW = ("--episodes", 12, "--rounds", 1, "--eval-episodes", 4)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)

    return lambda *args: run_main(monkeypatch, capsys, *args)


def write_chats(path: Path, count: int, turns: int = 12) -> Path:
    world = DialogueWorld(turns=turns, min_gap=2, max_gap=3)
    with path.open("w", encoding="utf-8") as file:
        for seed in range(count):
            messages = [{"role": turn.speaker, "content": turn.text} for turn in world.generate(seed).turns]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def test_the_whole_road(cli: Cli, tmp_path: Path) -> None:
    done = cli(*IMITATE, *FEW, "--out", "clone", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report == json.loads((tmp_path / "clone" / "eval.json").read_text())
    assert {"dagger", "expert", "oracle", "informed", "none"} <= set(report["agents"])
    names = {path.name for path in (tmp_path / "clone").iterdir()}
    assert names >= {
        "config.yaml",
        "metrics.jsonl",
        "policy.safetensors",
        "policy.json",
        "labels.sqlite",
        "traces.jsonl",
        "episodes.json",
        "learning_curve.png",
        "checkpoint",
    }
    card = json.loads((tmp_path / "clone" / "policy.json").read_text())
    assert card["method"] == "dagger"
    assert card["labels"]["level"] > 0
    rows = Run.open(tmp_path / "clone").metrics()
    assert [row["round"] for row in rows if "validation/return" in row] == [0, 1]

    again = cli("imitate", "--resume", "--out", "clone")
    assert again.code == 0, again.err
    assert "0 pairs scored" in again.err
    assert Run.open(tmp_path / "clone").metrics() == rows

    taken = cli(*IMITATE, *FEW, "--out", "clone")
    assert taken.code == 2
    assert "exists already" in taken.err
    assert taken.err.count("\n") == 1

    valid = cli("validate", "policy", "clone", "--episodes", 8)
    assert valid.code == 0, valid.err + valid.out

    seen = cli("eval", *IMITATE[1:][1:], "--agent", "clone", "--agent", "expert", "--episodes", 4, "--json")
    assert seen.code == 0, seen.err
    assert json.loads(seen.out)["agents"]["expert"] == report["agents"]["expert"]

    exported = cli("demos", "export", *IMITATE[1:], "--agent", "expert", "--episodes", 2, "--out", "demos", "--json")
    assert exported.code == 0, exported.err
    assert json.loads(exported.out)["source"] == "expert"
    assert json.loads(exported.out)["mean_return"] > 0

    trained = cli(
        *("train", *IMITATE[2:], "--preset", "smoke", "--init", "clone", "--out", "ppo", "--eval-episodes", 2),
        *("--kl-anchor", "0.2"),
    )
    assert trained.code == 0, trained.err
    assert Run.open(tmp_path / "ppo").config["ppo"]["kl_anchor"] == 0.2
    assert json.loads((tmp_path / "ppo" / "policy.json").read_text())["init"]["method"] == "dagger"


def test_transcripts_without_a_model(cli: Cli, tmp_path: Path) -> None:
    write_chats(tmp_path / "chats.jsonl", 20)
    labelled = cli("label", "chats.jsonl", "--lm", "none")
    assert labelled.code == 0, labelled.err
    assert "labels from text" in labelled.out
    done = cli("imitate", "chats.jsonl", "--lm", "none", "--method", "bc", "--out", "bc", "--eval-episodes", 2)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "bc" / "policy.json").read_text())["labels"]["signal"] == "text"
    assert not (tmp_path / "bc" / "labels.sqlite").exists()


def test_labels_are_shared_and_say_what_they_are(cli: Cli, tmp_path: Path) -> None:
    write_chats(tmp_path / "chats.jsonl", 12)
    first = cli("label", "chats.jsonl", "--out", "labels.sqlite", "--json", "--report", "report.json")
    assert first.code == 0, first.err
    found = json.loads(first.out)
    assert found == json.loads((tmp_path / "report.json").read_text())
    assert found["scored"] > 0
    assert found["statistics"]["transcripts"] == 12
    assert 0 < found["statistics"]["steps_that_gain"] < 1
    assert 0 < found["prefilter"]["pairs"] < 1
    second = cli("label", "chats.jsonl", "--out", "labels.sqlite", "--json")
    assert json.loads(second.out)["scored"] == 0
    text = cli("label", "chats.jsonl", "--out", "labels.sqlite")
    assert "memory matters at" in text.out
    used = cli("imitate", "chats.jsonl", "--labels", "labels.sqlite", *FEW, "--method", "bc", "--out", "bc")
    assert used.code == 0, used.err
    assert ", 0 pairs scored" in used.err
    refused = cli("imitate", "chats.jsonl", "--labels", "labels.sqlite", "--lookback", 9, "--out", "new")
    assert refused.code == 2
    assert "lookback 64 instead of 9; give another file" in refused.err
    with sqlite3.connect("labels.sqlite") as file:
        (card,) = file.execute("SELECT value FROM card").fetchone()
        file.execute("UPDATE card SET value = ?", (json.dumps(json.loads(card) | {"lm": "other"}),))
    file.close()
    refused = cli("imitate", "chats.jsonl", "--labels", "labels.sqlite", "--out", "new")
    assert refused.code == 2
    assert "labels.sqlite holds labels made with lm 'other' instead of 'tiny" in refused.err
    assert not (tmp_path / "new").exists()
    with sqlite3.connect("labels.sqlite") as file:
        file.execute("UPDATE card SET value = ?", (card,))
    file.close()
    nothing = cli("label", "chats.jsonl", "--out", "other.sqlite", "--noise-level", 99)
    assert "only 0.00% of steps gain more than noise" in nothing.err
    assert "--signal text" in nothing.err
    other = cli("label", "chats.jsonl", "--out", "labels.sqlite", "--prefilter", "none")
    assert other.code == 2
    assert "prefilter 'words' instead of 'none'" in other.err


def test_demonstrations_and_memory_tools(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("minari")
    small = IMITATE[3:]
    exported = cli("demos", "export", "--env", "stm_rl/Recall-v0", *small, "--episodes", 8, "--out", "demos")
    assert exported.code == 0, exported.err
    clone = ("imitate", "--env", "stm_rl/Recall-v0", *small, "--method", "bc", "--eval-episodes", 2)
    done = cli(*clone, "--demonstrations", "demos", "--out", "bc")
    assert done.code == 0, done.err
    for more, message in (
        (("--set", "slots=8"), "the demonstrations were made with settings"),
        (("--loss", "regret"), "use the loss cross-entropy"),
        (("--method", "dagger"), "use method bc"),
    ):
        wrong = cli(*clone, "--demonstrations", "demos", *more, "--out", "bad")
        assert wrong.code == 2
        assert message in wrong.err
        assert wrong.err.count("\n") == 1
        assert not (tmp_path / "bad").exists()

    chats = []
    for name in ("Ada", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ivy", "Jo", "Kim", "Lee"):
        call = {"name": "archival_memory_insert", "arguments": json.dumps({"content": f"{name} breeds alpacas"})}
        chats.append(
            [
                {"role": "user", "content": f"My friend {name} breeds alpacas."},
                {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]},
                {"role": "assistant", "content": "How lovely!"},
                {"role": "user", "content": "It rains."},
                {"role": "assistant", "content": "It does."},
                {"role": "user", "content": "Who breeds alpacas?"},
                {"role": "assistant", "content": f"{name} does."},
            ]
        )
    for mapping, tool, out in (("letta", call["name"], "letta"), ("mem0", "add", "mem0")):
        text = "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)
        (tmp_path / "tools.jsonl").write_text(text.replace(call["name"], tool))
        cloned = cli("imitate", "tools.jsonl", "--tools", mapping, "--method", "bc", "--eval-episodes", 2, "--out", out)
        assert cloned.code == 0, cloned.err
        assert "10 of 10 transcripts demonstrate: 10 calls, 10 write" in cloned.err
        card = json.loads((tmp_path / out / "policy.json").read_text())
        assert card["demonstrations"]["source"] == f"tool-calls:{mapping}"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("imitate", "empty.jsonl"), "empty.jsonl:1: holds no transcript"),
        (("label", "empty.jsonl"), "empty.jsonl:1: holds no transcript"),
        (("label", "single.jsonl"), "single.jsonl:1"),
        (("imitate", "single.jsonl", "--out", "new"), "single.jsonl:1"),
        (("imitate", "one.jsonl", "--out", "new"), "there is only 1 episode to learn from; expected at least 2"),
        (("imitate", "one.jsonl", "--lm", "none", "--out", "new"), "there is only 1 episode to learn from"),
        (("imitate", "short.jsonl", "--out", "new"), "noise cannot be measured with 3 transcript(s) and 0 step(s)"),
        (("imitate", "one.jsonl", "one.jsonl", "--labels", "one.jsonl", "--out", "new"), "one.jsonl"),
        (("imitate", "--method", "gail", "--out", "new"), "method is 'gail'"),
        (("imitate", "--loss", "mse", "--out", "new"), "loss is 'mse'"),
        (("imitate", "--prefilter", "magic", "--out", "new"), "prefilter is 'magic'"),
        (("label", "--prefilter", "magic"), "prefilter is 'magic'"),
        (("imitate", "--signal", "tea", "--out", "new"), "--signal is 'tea'"),
        (("imitate", "--tools", "letta", "--out", "new"), "give the files that hold them"),
        (("imitate", "--tools", "letta", "--demonstrations", "demos", "--out", "new"), "expected one of them"),
        (("imitate", "--method", "bc", "--demonstrations", "nowhere", "--out", "new"), "nowhere is no folder"),
        (("imitate", "--resume", "--out", "nowhere"), "is not a run folder"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], expected: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "single.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}) + "\n")
    write_chats(tmp_path / "one.jsonl", 1)
    short = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]})
    (tmp_path / "short.jsonl").write_text(4 * (short + "\n"))
    result = cli(*args)
    assert result.code == 2
    assert result.err.startswith("stm-rl: ")
    assert result.err.count("\n") == 1
    assert expected in result.err
    assert not (tmp_path / "new").exists()


def test_a_killed_labelling_goes_on(tmp_path: Path) -> None:
    command = ["label", "--env", "stm_rl/Recall-v0", "--episodes", "400", "--prefilter", "none"]
    code = "from stm_rl.labels import labeller; labeller.BATCH = 300\nfrom stm_rl.cli import main; main()"
    args = [sys.executable, "-c", code, *command, "--noise-level", "1", "--out", "labels", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(args, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (tmp_path / "labels").exists() and len(LabelStore(tmp_path / "labels")) >= 3:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(LabelStore(tmp_path / "labels"))
    assert 3 <= kept < 400
    few = [str(kept + 2) if one == "400" else one for one in args]
    done = subprocess.run(few, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["statistics"]["transcripts"] == kept + 2
    assert 0 < found["scored"] < found["statistics"]["pairs"]
    assert len(LabelStore(tmp_path / "labels")) == kept + 2
