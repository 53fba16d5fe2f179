from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import stm_rl
from stm_rl import encoders
from stm_rl.cli import main
from stm_rl.lm import shared
from stm_rl.lm.prompt import line
from stm_rl.runs import Run
from stm_rl.worlds import DialogueWorld, GeneratedTranscripts

SMOKE = ("--preset", "smoke", "--steps", "512", "--eval-episodes", "2")
HEURISTICS = ["none", "random", "fifo", "lru", "reservoir", "longest", "salience", "similarity"]
ENTRY = ["return", "coherence_gain", "evidence_recall", "writes_per_turn", "reads_per_turn"]
"""What ``eval.json`` says of each agent."""
AGENTS = {*HEURISTICS, "full-context", "informed", "oracle"}
# A shell that runs the tests in the background makes its children deaf to Ctrl-C.
START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from stm_rl.cli import main; main()"


@dataclass(frozen=True)
class Result:
    """What a command gave: exit status, stdout and stderr."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``stm-rl`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["stm-rl", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code or 0, *capsys.readouterr())  # type: ignore[arg-type]

    return run


def command(*args: object) -> list[str]:
    return [sys.executable, "-c", START, *map(str, args)]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, sys.path))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Train in a process of its own; return the run folder and what was printed."""
    folder = tmp_path_factory.mktemp("cli")
    args = ("train", "--preset", "smoke", "--steps", "1024", "--eval-episodes", "8", "--out", "runs/first")
    done = subprocess.run(command(*args), cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    return folder / "runs" / "first", Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run_folder(finished: tuple[Path, Result], tmp_path: Path) -> Path:
    """Return a copy of a finished run that a test may damage."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return every file and folder below ``folder`` with what it holds."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def messages(*texts: str) -> str:
    """Return a transcript as a line of JSON; user and assistant take turns."""
    roles = itertools.cycle(["user", "assistant"])
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return json.dumps({"messages": turns}) + "\n"


CHAT = messages(
    "I'm meeting Anna at the harbor on Friday.", "Noted.", "It rains again.", "Take an umbrella.",
    "Where do I meet Anna?", "You are meeting Anna at the harbor.",
)  # fmt: skip


def check_report(report: Any, learned: Sequence[str], episodes: int, seeds: Sequence[int]) -> None:
    """Fail unless ``report`` is an ``eval.json`` as the design describes it."""
    assert list(report) == ["env", "settings", "episodes", "seeds", "agents"]
    assert list(report["settings"])[:4] == ["slots", "window", "reads", "lm"]
    assert report["episodes"] == episodes
    assert report["seeds"] == list(seeds)
    procedural = report["env"].startswith("stm_rl/")
    assert report["agents"].keys() == {*AGENTS, *learned} - (set() if procedural else {"informed"})
    for entry in report["agents"].values():
        assert list(entry) == ENTRY
        for name in (name for name in ENTRY if "per" not in name and (procedural or name != "evidence_recall")):
            assert list(entry[name]) == ["mean", "ci95"]
            low, high = entry[name]["ci95"]
            assert low <= entry[name]["mean"] <= high
        assert 0 <= entry["writes_per_turn"] <= 1
        assert 0 <= entry["reads_per_turn"] <= report["settings"]["reads"]
    nothing = {"mean": 0.0, "ci95": [0.0, 0.0]}
    assert report["agents"]["none"]["return"] == report["agents"]["none"]["coherence_gain"] == nothing


# Help and lists.


@pytest.mark.parametrize(
    ("args", "examples"),
    [
        ((), ["stm-rl train --preset demo --out runs/demo", "stm-rl eval --agent runs/demo"]),
        (("--help",), ["stm-rl train --preset demo --out runs/demo", "stm-rl eval --agent runs/demo"]),
        (("envs", "--help"), ["stm-rl envs --json"]),
        (("train", "--help"), ["stm-rl train --transcripts chats.jsonl", "stm-rl train --resume --out runs/demo"]),
        (("eval", "--help"), ["--set entities=heldout", "stm-rl eval --transcripts chats.jsonl --agent runs/demo"]),
        (("bench", "recall", "--help"), ["stm-rl bench recall --format sgd --data data/sgd/dev --slots 4 8 16"]),
        (("convert", "--help"), ["stm-rl convert data/babi babi.jsonl"]),
        (("init", "env", "--help"), ["stm-rl init env my_env"]),
        (("validate", "reward", "--help"), ["stm-rl validate reward coherence=1 recall=0.5"]),
    ],
    ids=["nothing", "root", "envs", "train", "eval", "bench", "convert", "init", "validate"],
)
def test_help_has_examples(args: tuple[str, ...], examples: list[str], cli: Cli) -> None:
    result = cli(*args)
    assert result.code == (0 if args else 2)
    for example in examples:
        assert example in result.out + result.err


def test_version(cli: Cli) -> None:
    assert cli("--version") == Result(0, f"{stm_rl.__version__}\n", "")


def test_environments_are_listed(cli: Cli) -> None:
    listed = json.loads(cli("envs", "--json").out)
    assert [entry["id"] for entry in listed] == [name for name in gym.registry if name.startswith("stm_rl/")]
    assert all(entry["description"] for entry in listed)
    assert "stm_rl/Dialogue-v0" in cli("envs").out


# Training.


def test_training_leaves_everything_behind(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    assert result.code == 0, result.err
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "checkpoint/state.json", "checkpoint/state.safetensors", "config.yaml", "episodes.json", "eval.json",
        "learning_curve.png", "metrics.jsonl", "policy.json", "policy.safetensors", "traces.jsonl",
    }  # fmt: skip
    run = Run.open(folder)
    assert run.config["command"].startswith("stm-rl train --preset smoke")
    assert run.config["versions"]["stm-rl"] == stm_rl.__version__
    assert run.metrics()[-1]["steps"] == 1024
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    check_report(json.loads((folder / "eval.json").read_text()), ["ppo"], 8, [0])
    traces = [json.loads(text) for text in (folder / "traces.jsonl").read_text().splitlines()]
    assert {trace["agent"] for trace in traces} == {"none", "oracle", "ppo"}
    assert all(len(trace["steps"]) == 39 for trace in traces)


def test_evaluation_leaves_what_each_agent_earned_in_each_episode(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    report = json.loads((folder / "eval.json").read_text())
    details = json.loads((folder / "episodes.json").read_text())
    assert details["env"] == report["env"]
    assert list(details["agents"]) == list(report["agents"])
    for name, entry in report["agents"].items():
        (one,) = details["agents"][name]
        assert one["seed"] == 0
        assert np.mean(one["return"]) == pytest.approx(entry["return"]["mean"], abs=1e-3)
        assert np.mean(one["coherence_gain"]) == pytest.approx(entry["coherence_gain"]["mean"], abs=1e-3)
        total = np.sum(list(one["terms"].values()), axis=0)
        np.testing.assert_allclose(total, one["return"], atol=1e-3)


def test_training_says_how_it_went(finished: tuple[Path, Result]) -> None:
    _, result = finished
    for name in (*AGENTS, "ppo"):
        assert f"\n{name} " in result.out
    assert "ppo minus the best heuristic" in result.out
    assert "1,024 of 1,024 steps" in result.err
    assert result.err.endswith("wrote runs/first\n")


def test_the_same_seed_gives_the_same_result(finished: tuple[Path, Result], cli: Cli, tmp_path: Path) -> None:
    for remembered in (shared._engine, encoders.sentence_encoder, encoders.named_encoder):
        remembered.cache_clear()  # the last bits of a score or a vector depend on what else the model was asked with it
    args = ("--preset", "smoke", "--steps", "1024", "--eval-episodes", "8", "--json")
    result = cli("train", *args, "--out", "again")
    folder, again = finished[0], tmp_path / "again"
    for name in ("eval.json", "traces.jsonl", "policy.json", "policy.safetensors"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name
    assert json.loads(result.out) == json.loads((again / "eval.json").read_text())


def test_training_on_transcripts(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text(CHAT * 3)
    (tmp_path / "chat.txt").write_text("Ann: The key is under the mat.\nBob: Fine.\nAnn: Where is it?\nBob: The mat.\n")
    trained = cli("train", "--transcripts", "chats.jsonl", "--out", "chats", *SMOKE, "--set", "slots=3")
    assert trained.code == 0, trained.err
    report = json.loads((tmp_path / "chats" / "eval.json").read_text())
    check_report(report, ["ppo"], 1, [0])
    assert report["env"] == "transcripts:chats.jsonl"
    assert report["settings"]["slots"] == 3
    for name, episodes in (("chats.jsonl", 3), ("chat.txt", 1)):
        evaluated = cli("eval", "--transcripts", name, "--agent", "chats", "--json")
        check_report(json.loads(evaluated.out), ["ppo"], episodes, [0])


def test_training_on_several_sets_without_a_language_model(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text(CHAT * 4)
    (tmp_path / "story.txt").write_text("Anna hid the kite.\nIt rained.\nThe sun came out.\nAnna took the kite.\n")
    sets = ("--transcripts", "chats.jsonl", "--transcripts", "text:story.txt")
    given = (*sets, "--lm", "none", "--reward", "hindsight=1", "--set", "excerpt=3", "--set", "encoder=words")
    trained = cli("train", *given, "--out", "mixed", *SMOKE)
    assert trained.code == 0, trained.err
    report = json.loads((tmp_path / "mixed" / "eval.json").read_text())
    assert report["env"] == "transcripts:chats.jsonl+story.txt"
    assert report["settings"] == {"slots": 4, "window": 2, "reads": 2, "lm": "none", "reward": {"hindsight": 1.0},
                                  "excerpt": 3, "encoder": "words"}  # fmt: skip
    assert "full-context" not in report["agents"]
    resumed = cli("train", "--resume", "--out", "mixed")
    assert resumed.code == 0, resumed.err


def test_own_reward_terms_are_logged(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_terms.py").write_text("def twice(steps):\n    return 2 * steps.gain\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = ("--reward", "own_terms:twice=0.5", "--reward", "write_cost=0.01", "--set", "turns=16", *SMOKE)
    trained = cli("train", "stm_rl/Story-v0", *given, "--out", "own")
    assert trained.code == 0, trained.err
    card = json.loads((tmp_path / "own" / "policy.json").read_text())
    assert card["reward"] == {"own_terms:twice": 0.5, "write_cost": 0.01}


def test_model_writes_when_asked_to(cli: Cli) -> None:
    settings = ("--set", "mode=generate", "--set", "turns=16", "--episodes", "2", "--json")
    report = json.loads(cli("eval", "stm_rl/Screenplay-v0", *settings).out)
    check_report(report, [], 2, [0])
    assert report["settings"]["mode"] == "generate"


def test_convert_and_bench_recall(cli: Cli, tmp_path: Path) -> None:
    story = "1 Mary took the apple.\n2 Mary went to the bath.\n3 Where is the apple?\tbath\t1 2\n"
    (tmp_path / "qa2_two.txt").write_text(story * 3 + "1 Who?\n")
    converted = cli("convert", "qa2_two.txt", "out.jsonl", "--format", "babi", "--skip-bad", "--json")
    assert converted.code == 0, converted.err
    summary = json.loads(converted.out)
    assert [summary[name] for name in ("transcripts", "turns", "probes", "skipped")] == [3, 12, 3, 1]
    measured = cli("bench", "recall", "--data", "out.jsonl", "--slots", "1", "2", "--json")
    assert measured.code == 0, measured.err
    joint = {slots: {name: entry["joint"]["mean"] for name, entry in agents.items()}
             for slots, agents in json.loads(measured.out)["slots"].items()}  # fmt: skip
    assert joint["1"]["oracle"] == 0
    assert joint["2"]["oracle"] == joint["2"]["fifo"] == 1


def test_init_and_validate(cli: Cli, tmp_path: Path) -> None:
    assert cli("init", "reward", "my_terms").code == 0
    assert (tmp_path / "my_terms" / "pyproject.toml").is_file()
    again = cli("init", "reward", "my_terms")
    assert again.code == 2
    assert "exists already" in again.err
    (tmp_path / "chats.jsonl").write_text(CHAT * 3)
    findings = cli("validate", "transcripts", "chats.jsonl", "--json")
    assert findings.code == 0, findings.err
    assert json.loads(findings.out)["ok"]


def test_force_moves_the_old_run_aside(run_folder: Path, cli: Cli, tmp_path: Path) -> None:
    before = contents(run_folder)
    assert cli("train", "--out", "run", "--force", *SMOKE, "--eval-episodes", "0").code == 0
    assert contents(tmp_path / "run.1") == before
    assert Run.open(run_folder).metrics()[-1]["steps"] == 512
    assert not (run_folder / "eval.json").exists()


def test_interrupted_training_is_resumed_and_loses_nothing(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "long"
    args = ("train", "--preset", "smoke", "--steps", "2048", "--eval-episodes", "4", "--out", "long", "--seed", "5")
    process = subprocess.Popen(
        command(*args), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    (told,) = (text for text in error.splitlines() if text.startswith("stm-rl:"))
    assert told == error.splitlines()[-1]
    assert told.startswith("stm-rl: interrupted after ")
    assert told.endswith("go on with: stm-rl train --resume --out long")
    assert (folder / "policy.safetensors").exists()
    rows, config = Run.open(folder).metrics(), Run.open(folder).config
    assert 0 < rows[-1]["steps"] < 2048
    assert cli("eval", "--agent", "long", "--episodes", "2").code == 0  # what was trained can be used

    resumed = cli("train", "--resume", "--out", "long")
    assert resumed.code == 0, resumed.err
    went_on = Run.open(folder).metrics()
    assert went_on[: len(rows)] == rows
    steps = [row["steps"] for row in went_on]
    assert steps == sorted(set(steps))
    assert 2048 <= steps[-1] < 2048 + 2 * 512
    assert Run.open(folder).config == config
    check_report(json.loads((folder / "eval.json").read_text()), ["ppo"], 4, [5])


def test_interrupted_evaluation_is_said_and_can_go_on(
    run_folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    (run_folder / "eval.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("stm_rl.cli.running.evaluate_task", interrupted)
        result = cli("train", "--resume", "--out", "run")
    assert result.code == 130
    assert "stm-rl: interrupted while evaluating" in result.err
    assert cli("train", "--resume", "--out", "run").code == 0
    check_report(json.loads((run_folder / "eval.json").read_text()), ["ppo"], 8, [0])


# Evaluation.


def test_json_is_all_that_is_printed(run_folder: Path, cli: Cli) -> None:
    result = cli("eval", "--agent", run_folder, "--agent", "fifo", "--json", "--episodes", "8")
    assert result.code == 0
    assert json.loads(result.out) == json.loads((run_folder / "eval.json").read_text())
    assert result.err == ""


def test_a_process_prints_one_line_or_nothing_but_json(run_folder: Path) -> None:
    """What imports and libraries print shows in a process of its own only."""

    def run(*args: str) -> Result:
        done = subprocess.run(
            command(*args), cwd=run_folder.parent, env=environment(), capture_output=True, text=True, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    good = run("eval", "--agent", "run", "--json", "--episodes", "2")
    assert (good.code, good.err) == (0, "")
    check_report(json.loads(good.out), ["ppo"], 2, [0])
    assert_one_line(run("eval", "--agent", "rum"), "unknown agent 'rum'")


def test_several_seeds_are_one_agent(run_folder: Path, cli: Cli, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run_folder, tmp_path / "lr=0.1"))
    card = json.loads((other / "policy.json").read_text())
    (other / "policy.json").write_text(json.dumps(card | {"seed": 1}))
    result = cli("eval", "--agent", "pooled=run,lr=0.1", "--agent", "lr=0.1", "--json", "--episodes", "4")
    report = json.loads(result.out)
    check_report(report, ["pooled", "ppo"], 4, [0, 1, 1])
    assert report["agents"]["pooled"] == report["agents"]["ppo"]  # the same policy, twice and once


def test_runs_of_one_name_are_told_apart(run_folder: Path, cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(run_folder, tmp_path / name / "run")
    result = cli("eval", *("--agent", "run", "--agent", "a/run", "--agent", "b/run"), "--json", "--episodes", "2")
    check_report(json.loads(result.out), ["ppo", "ppo:a/run", "ppo:b/run"], 2, [0, 0, 0])


def test_settings_reach_the_world(cli: Cli, tmp_path: Path) -> None:
    options = ("--set", "slots=8", "--set", "turns=80", "--set", "entities=heldout", "--episodes", "2", "--json")
    result = cli("eval", *options, "--out", "a/eval.json", "--traces", "b/traces.jsonl")
    report = json.loads(result.out)
    check_report(report, [], 2, [0])
    assert report == json.loads((tmp_path / "a" / "eval.json").read_text())
    settings = report["settings"]
    assert (settings["slots"], settings["turns"], settings["entities"]) == (8, 80, "heldout")
    expected = GeneratedTranscripts(DialogueWorld(turns=80, entities="heldout"), "test")[0].turns
    trace = json.loads((tmp_path / "b" / "traces.jsonl").read_text().splitlines()[0])
    assert [step["turn"] for step in trace["steps"]] == [line(turn) for turn in expected[:-1]]
    assert max(step["write"] for step in trace["steps"]) <= 8


# Bad input: one line, exit status 2, and nothing left behind.

LONG = "word " * 2000


def prepare(folder: Path, run: Path) -> None:
    """Make the files that the cases below name."""
    texts = {
        "empty.jsonl": "", "empty.txt": "\n\n", "one.jsonl": messages("Hello."), "one.txt": "a: Hello.\n",
        "chat.jsonl": CHAT, "broken.jsonl": CHAT * 2 + '{"messages": [\n', "long.jsonl": CHAT + messages("Hi.", LONG),
        "long.txt": f"a: Hi.\nb: {LONG}\n", "latin.txt": "a: caf\udce9\nb: Hi.\n", "chat.csv": "a,b\n", "file": "mine",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    shutil.copytree(run, folder / "run")


TRAIN = ("train", "--out", "new", *SMOKE)
BAD_INPUT: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "environment": (
        ("train", "stm_rl/Dialog-v0", "--out", "new"),
        ["unknown environment 'stm_rl/Dialog-v0'", "did you mean stm_rl/Dialogue-v0?"],
    ),
    "environment of others": (
        ("train", "CartPole-v1", "--out", "new"),
        ["cannot play CartPole-v1", "`stm-rl envs` lists the environments"],
    ),
    "agent": (("eval", "--agent", "fifoo"), ["unknown agent 'fifoo'", "neither a run folder nor one of expert, "]),
    "agent without a folder": (("eval", "--agent", "ppo=run,"), ["'ppo=run,' names no folder", "NAME=FOLDER,FOLDER"]),
    "agent given twice": (("eval", *("--agent", "run") * 3), ["--agent 'run' is given twice", "--agent NAME=run"]),
    "agent that is no run": (("eval", "--agent", "."), [". holds no policy", "as `stm-rl train` writes them"]),
    "missing transcripts": ((*TRAIN, "--transcripts", "no.jsonl"), ["no.jsonl: no such file", "check the path"]),
    "unknown suffix": ((*TRAIN, "--transcripts", "chat.csv"), ["chat.csv: unknown format (suffix '.csv')", ".jsonl"]),
    "unknown format": (
        ("eval", "--transcripts", "one.txt", "--format", "xml"),
        ["unknown format 'xml'", "expected auto or one of messages"],
    ),
    "model": ((*TRAIN, "--lm", "nobody/nothing"), ["cannot load the language model 'nobody/nothing'", "give 'tiny'"]),
    "dtype": (("eval", "--dtype", "float99"), ["dtype is 'float99'", "such as float32"]),
    "device": (("eval", "--device", "abacus"), ["abacus"]),
    "preset": (("train", "--preset", "huge", "--out", "new"), ["unknown preset 'huge'", "demo, full, smoke"]),
    "malformed setting": ((*TRAIN, "--set", "slots"), ["--set 'slots' is malformed", "such as slots=8"]),
    "malformed value": ((*TRAIN, "--set", "slots=[8"), ["--set 'slots=[8' has a malformed value", "slots=8"]),
    "unknown setting": ((*TRAIN, "--set", "slotz=8"), ["slotz=8", "python -m pydoc stm_rl_envs.dialogue"]),
    "no slots": ((*TRAIN, "--set", "slots=0"), ["slots is 0; expected at least 1"]),
    "word for a number": ((*TRAIN, "--set", "slots=many"), ["slots", "many"]),
    "odd number of turns": ((*TRAIN, "--set", "turns=9"), ["turns is 9; expected an even number of at least 8"]),
    "gaps that cross": ((*TRAIN, "--set", "max_gap=2"), ["gaps are 4..2", "min_gap <= max_gap"]),
    "unknown word": ((*TRAIN, "--set", "entities=new"), ["entities is 'new'; expected one of train, heldout"]),
    "reserved setting": ((*TRAIN, "--set", "lm=gpt2"), ["--set 'lm=gpt2' is not possible", "--lm"]),
    "reserved split": (("eval", "--set", "split=train"), ["--set 'split=train' is not possible", "test split"]),
    "number for a reward": ((*TRAIN, "--set", "reward=3"), ["reward=3"]),
    "world's setting for transcripts": (
        ("eval", "--transcripts", "chat.jsonl", "--set", "turns=8"),
        ["turns=8", "unexpected keyword argument 'turns'", "python -m pydoc stm_rl_envs.transcript"],
    ),
    "no transcripts": ((*TRAIN, "--transcripts", "empty.jsonl"), ["empty.jsonl:1: holds no transcript"]),
    "no text": (("eval", "--transcripts", "empty.txt"), ["empty.txt:1: holds no transcript"]),
    "one message": ((*TRAIN, "--transcripts", "one.jsonl"), ["one.jsonl:1: the transcript has 1 turn", "at least 2"]),
    "one line": (("eval", "--transcripts", "one.txt"), ["one.txt:1: the transcript has 1 turn", "at least 2"]),
    "broken JSON": (
        (*TRAIN, "--transcripts", "broken.jsonl"),
        ["broken.jsonl:3: broken JSON", "one whole JSON object"],
    ),
    "not UTF-8": ((*TRAIN, "--transcripts", "latin.txt"), ["latin.txt:1: byte 0xe9", "iconv"]),
    "long message": (
        (*TRAIN, "--transcripts", "long.jsonl"),
        ["long.jsonl:2: turn 1", "tokens, but model tiny reads at most 1024", "split the turn"],
    ),
    "long line": (("eval", "--transcripts", "long.txt"), ["long.txt:2: turn 1", "reads at most 1024"]),
    "run that exists": (("train", "--out", "run"), ["run exists already", "--resume", "--force"]),
    "file for a run": (("train", "--out", "file"), ["file exists already", "--force"]),
    "file for a parent": (("train", "--out", "file/new", *SMOKE), ["file/new: Not a directory", "check the path"]),
    "here": (("train", "--out", ".", "--force", *SMOKE), [". cannot be a run folder", "runs/first"]),
    "nothing to resume": (
        ("train", "--resume", "--out", "new"),
        ["new is not a run folder", "`stm-rl train` makes one"],
    ),
    "file to resume": (("train", "--resume", "--out", "file"), ["file is not a run folder"]),
    "folder for a report": (("eval", "--out", "run"), ["run is a folder", "run/eval.json"]),
    "file for a report's parent": (("eval", "--traces", "file/a.jsonl"), ["file: File exists", "check the path"]),
    "other reads": (
        ("eval", "--agent", "run", "--set", "reads=1", "--episodes", "1"),
        ["trained with 2 reads a step but the environment has 1", "reads=2"],
    ),
}


def assert_one_line(result: Result, *parts: str) -> None:
    """Fail unless a command ended with status 2 and one line that holds ``parts``."""
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.startswith("stm-rl: ")
    assert result.err.endswith("\n")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line(case: str, finished: tuple[Path, Result], cli: Cli, tmp_path: Path) -> None:
    args, parts = BAD_INPUT[case]
    prepare(tmp_path, finished[0])
    before = contents(tmp_path)
    assert_one_line(cli(*args), *parts)
    assert contents(tmp_path) == before


def test_model_with_broken_weights_is_one_line(rotary_folder: Path, cli: Cli, tmp_path: Path) -> None:
    model = Path(shutil.copytree(rotary_folder, tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    save_file(
        {name: value * float("nan") for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"}
    )
    for args in (TRAIN, ("eval", "--out", "new.json")):
        assert_one_line(cli(*args, "--lm", "model", "--set", "turns=8"), "nan", "check the model's weights")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def swap(path: Path) -> None:
    save_file(dict(list(load_file(path).items())[:3]), path)


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "config missing": ("config.yaml", Path.unlink, "is not a run folder"),
    "config not YAML": ("config.yaml", lambda path: path.write_text("a: [1\nb"), "config.yaml is not valid YAML"),
    "config not UTF-8": ("config.yaml", lambda path: path.write_bytes(b"\xff"), "config.yaml is not valid YAML"),
    "config empty": ("config.yaml", lambda path: path.write_text(""), "config.yaml holds None; expected a mapping"),
    "config of others": ("config.yaml", lambda path: path.write_text("a: 1"), "config.yaml is damaged"),
    "config with a wrong type": (
        "config.yaml",
        lambda path: path.write_text(path.read_text().replace("gamma: 0.98", "gamma: high")),
        "gamma is 'high'",
    ),
    "config with a wrong value": (
        "config.yaml",
        lambda path: path.write_text(path.read_text().replace("epochs: 4", "epochs: 0")),
        "epochs is 0; expected at least 1",
    ),
    "config with an unknown name": (
        "config.yaml",
        lambda path: path.write_text(path.read_text().replace("epochs: 4", "epoch: 4")),
        "config.yaml is damaged",
    ),
    "checkpoint missing": ("checkpoint", shutil.rmtree, "checkpoint holds no checkpoint"),
    "progress missing": ("checkpoint/state.json", Path.unlink, "checkpoint holds no checkpoint"),
    "progress broken": ("checkpoint/state.json", lambda path: path.write_text('{"done": 5'), "checkpoint"),
    "progress of another form": ("checkpoint/state.json", lambda path: path.write_text("[]"), "checkpoint is damaged"),
    "progress incomplete": ("checkpoint/state.json", lambda path: path.write_text("{}"), "checkpoint is damaged"),
    "tensors cut off": ("checkpoint/state.safetensors", cut, "checkpoint is damaged"),
    "tensors empty": ("checkpoint/state.safetensors", lambda path: path.write_bytes(b""), "checkpoint is damaged"),
    "tensors missing": ("checkpoint/state.safetensors", swap, "checkpoint is damaged"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_run_cannot_be_resumed(case: str, run_folder: Path, cli: Cli, tmp_path: Path) -> None:
    name, damage, part = DAMAGE[case]
    damage(run_folder / name)
    before = contents(tmp_path)
    assert_one_line(cli("train", "--resume", "--out", "run"), part)
    assert contents(tmp_path) == before


DAMAGED_POLICY: dict[str, tuple[str, Callable[[Path], object]]] = {
    "card missing": ("policy.json", Path.unlink),
    "card broken": ("policy.json", lambda path: path.write_text('{"format"')),
    "card not UTF-8": ("policy.json", lambda path: path.write_bytes(b"\xff")),
    "card of another form": ("policy.json", lambda path: path.write_text("[]")),
    "card of another format": ("policy.json", lambda path: path.write_text('{"format": "other"}')),
    "card incomplete": ("policy.json", lambda path: path.write_text('{"format": "stm-rl/slot-policy-1"}')),
    "weights missing": ("policy.safetensors", Path.unlink),
    "weights empty": ("policy.safetensors", lambda path: path.write_bytes(b"")),
    "weights cut off": ("policy.safetensors", cut),
    "weights of others": ("policy.safetensors", swap),
}


@pytest.mark.parametrize("case", DAMAGED_POLICY)
def test_damaged_policy_is_one_line(case: str, run_folder: Path, cli: Cli) -> None:
    name, damage = DAMAGED_POLICY[case]
    damage(run_folder / name)
    assert_one_line(cli("eval", "--agent", "run", "--episodes", "1"), "run")


@pytest.mark.parametrize(
    "args", [("teach",), ("train", "--stepps", "5"), ("eval", "--episodes", "0"), ("train", "--steps", "many")]
)
def test_unknown_commands_and_options_are_usage_errors(args: tuple[str, ...], cli: Cli) -> None:
    result = cli(*args)
    assert result.code == 2
    assert "--help" in result.err
    assert "Traceback" not in result.err
