"""The option ``--cache`` of commands that score, and ``stm-rl cache``."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from helpers import run_main

from stm_rl.lm import ScoreCache, shared
from stm_rl.lm.score_file import FILE, describe

Cli = Callable[..., Any]
SMALL = ("stm_rl/Recall-v0", "--set", "turns=16", "--set", "min_gap=2", "--set", "max_gap=4")
EVAL = ("eval", *SMALL, "--episodes", 2)
LABEL = ("label", "--env", *SMALL, "--episodes", 3, "--noise-level", 1)
FOUND = r"scores: ([\d,]+) from the cache on disk, (\d+) computed\n"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return what runs a command as a process of its own would: nothing in memory before, all on disk afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STM_RL_CACHE", "usual")
    caches: list[ScoreCache] = []

    def remembered(folder: Path) -> ScoreCache:
        caches.append(ScoreCache(folder))
        return caches[-1]

    monkeypatch.setattr(shared, "ScoreCache", remembered)

    def run(*args: object) -> SimpleNamespace:
        shared._engine.cache_clear()
        result = run_main(monkeypatch, capsys, *args)
        for cache in caches:
            cache.close()
        return result

    return run


def fill(folder: Path, **models: int) -> None:
    with closing(ScoreCache(folder)) as cache:
        for name, count in models.items():
            cache.put({os.urandom(16): -1.5 for _ in range(count)}, name)


def found_and_computed(err: str) -> tuple[int, int]:
    found = re.search(FOUND, err)
    assert found is not None, err
    return int(found[1].replace(",", "")), int(found[2])


def test_a_second_process_computes_no_score(tmp_path: Path) -> None:
    code = "from stm_rl.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, EVAL), "--cache", "kept"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    first, second = (
        subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert "scores:" not in first.stderr
    assert found_and_computed(second.stderr) == (describe(tmp_path / "kept")["entries"], 0)
    assert second.stdout == first.stdout


def test_commands_share_the_usual_cache(cli: Cli, tmp_path: Path) -> None:
    first = cli(*LABEL)
    assert "scores:" not in first.err
    labels = tmp_path / "labels.sqlite"
    labels.unlink()
    again = cli(*LABEL)
    assert found_and_computed(again.err)[1] == 0
    said, statistics = first.out.split("  memory matters")
    assert said
    assert again.out.endswith(statistics)
    silent = cli(*EVAL, "--json"), cli(*EVAL, "--json")
    assert [one.err for one in silent] == ["", ""]  # with JSON, nothing else is printed
    assert silent[0].out == silent[1].out
    assert describe(tmp_path / "usual")["models"].keys() == {"tiny"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.sqlite", "usual"]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_none_is_no_cache(how: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "variable":
        monkeypatch.setenv("STM_RL_CACHE", "none")
    result = cli(*EVAL, *(("--cache", "none") if how == "option" else ()))
    assert result.code == 0, result.err
    assert list(tmp_path.iterdir()) == []
    if how == "variable":
        assert "STM_RL_CACHE or --cache is none; give --cache PATH" in cli("cache", "info").err


def test_training_keeps_its_cache_and_may_be_given_another(cli: Cli, tmp_path: Path) -> None:
    small = ("--preset", "smoke", "--steps", "256", "--eval-episodes", "2", *SMALL[1:])
    trained = cli("train", SMALL[0], *small, "--out", "run", "--cache", "first")
    assert trained.code == 0, trained.err
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["request"]["cache"] == "first"
    entries = describe(tmp_path / "first")["entries"]
    resumed = cli("train", "--resume", "--out", "run")
    assert resumed.code == 0, resumed.err
    assert found_and_computed(resumed.err)[0] > 0
    assert describe(tmp_path / "first")["entries"] >= entries
    assert cli("train", "--resume", "--out", "run", "--cache", "second").code == 0
    assert describe(tmp_path / "second")["entries"] > 0
    assert not (tmp_path / "usual").exists()


def test_unusable_cache_is_one_warning_and_no_error(cli: Cli, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "notes").write_text("These are my notes.\n")
    result = cli(*EVAL, "--cache", "notes")
    assert result.code == 0, result.err
    warned = [record.getMessage() for record in caplog.records if "cache of scores" in record.getMessage()]
    assert len(warned) == 1
    assert (tmp_path / "notes").read_text() == "These are my notes.\n"


def test_info(cli: Cli, tmp_path: Path) -> None:
    assert json.loads(cli("cache", "info", "--json").out) == {
        "file": f"usual/{FILE}", "bytes": 0, "entries": 0, "models": {}, "max_bytes": 2_000_000_000,
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path / "usual", tiny=1200, **{"Qwen/Qwen3-0.6B": 3})
    found = json.loads(cli("cache", "info", "--json").out)
    assert found["models"] == {"tiny": 1200, "Qwen/Qwen3-0.6B": 3}
    assert found["bytes"] == (tmp_path / "usual" / FILE).stat().st_size
    text = cli("cache", "info").out
    for line in (rf"file +usual/{FILE}", r"size +0\.\d+ MB of at most 2\.00 GB", "scores +1,203", "  tiny +1,200"):
        assert re.search(rf"^{line} *$", text, re.MULTILINE), line
    assert json.loads(cli("cache", "info", "--json", "--cache", "other").out)["entries"] == 0


def test_clear(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "usual"
    fill(folder, tiny=1200, other=3)
    refused = cli("cache", "clear")
    assert refused.code == 2
    assert (
        refused.err
        == "stm-rl: nothing was deleted, since nobody can be asked; give --yes to delete the scores in usual\n"
    )
    unknown = cli("cache", "clear", "--model", "large", "--yes")
    assert unknown.err == f"stm-rl: usual/{FILE} has no scores of the model 'large'; it has those of tiny, other\n"
    assert cli("cache", "clear", "--model", "tiny", "-y").out == f"deleted 1,200 scores from usual/{FILE}\n"
    assert describe(folder)["models"] == {"other": 3}

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    asked = cli("cache", "clear")
    assert asked.code == 1
    assert "Delete all scores in usual?" in asked.out + asked.err
    assert describe(folder)["models"] == {"other": 3}
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert cli("cache", "clear").code == 0
    assert describe(folder)["models"] == {}
    assert json.loads(cli("cache", "clear", "--yes", "--json").out) == {"file": f"usual/{FILE}", "cleared": 0}


def test_files_of_others_are_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual" / FILE).write_text("These are my notes.\n" * 99)
    for command in (("info",), ("clear", "--yes")):
        result = cli("cache", *command)
        assert result.code == 2
        assert result.err == (
            f"stm-rl: usual/{FILE} cannot be used as a cache of scores (file is not a database); move the file away, "
            "or give another folder with --cache\n"
        )
    assert (tmp_path / "usual" / FILE).read_text() == "These are my notes.\n" * 99


def test_help_has_examples(cli: Cli) -> None:
    assert "stm-rl cache info --json" in cli("cache", "info", "--help").out
    assert "stm-rl cache clear --yes" in cli("cache", "clear", "--help").out
