from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stm_rl import StmError
from stm_rl.plugins import KINDS, write_package
from stm_rl.plugins.scaffold import names_of

ENV_ID = "my_env:my_env/MyEnv-v0"
START = "from stm_rl.cli import main; main()"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_package_has_all_a_package_needs(kind: str, tmp_path: Path) -> None:
    files = write_package(kind, "treasure", tmp_path / "made" / "here")
    folder = tmp_path / "made" / "here" / "treasure"
    assert sorted(files) == sorted(path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)) for path in files}
    assert {"README.md", "pyproject.toml", "treasure/__init__.py"} <= names
    assert any(name.startswith("tests/test_") for name in names)
    assert list((tmp_path / "made" / "here").iterdir()) == [folder]
    for path in files:
        assert "${" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_package_is_free_of_lint(kind: str, tmp_path: Path) -> None:
    write_package(kind, "treasure", tmp_path)
    for command in ("check", "format --diff"):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command.split(), "--no-cache", "."],
            cwd=tmp_path / "treasure", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_names_follow_from_the_name_of_the_package() -> None:
    assert names_of("my_env")["id"] == "my_env/MyEnv-v0"
    assert names_of("my_env")["stem"] == "My"
    assert names_of("env")["stem"] == "Env"
    assert names_of("busy_week_2")["id"] == "busy_week_2/BusyWeek2-v0"
    assert names_of("busy_week_2")["project"] == "busy-week-2"


@pytest.mark.parametrize(
    "name", ["", "My_env", "my-env", "2nd", "_my", "my__env", "my_", "class", "my env", "../up", "é"]
)
def test_other_names_are_errors(name: str, tmp_path: Path) -> None:
    with pytest.raises(StmError, match="cannot be the name of a package; expected small letters"):
        write_package("env", name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["json", "stm_rl", "stm_rl_envs", "numpy", "stable_baselines3", "pytest"])
def test_installed_packages_are_not_hidden(name: str, tmp_path: Path) -> None:
    with pytest.raises(StmError, match=f"'{name}' is the name of an installed package"):
        write_package("reward", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine", encoding="utf-8")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    before = contents(tmp_path)
    for name in ("mine", "gone"):
        with pytest.raises(StmError, match=f"{name} exists already and is left as it is"):
            write_package("env", name, tmp_path)
    assert contents(tmp_path) == before


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, *args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space"):
        write_package("env", "treasure", tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StmError, match="kind 'agent'; expected env or reward"):
        write_package("agent", "treasure", tmp_path)


# The packages installed: what their READMEs say works.


def run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``, with the packages installed there in front of those of the tests."""
    path = os.pathsep.join(filter(None, [str(folder / "site"), *sys.path]))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    env |= {
        "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }  # fmt: skip
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)


def stm_rl(folder: Path, *arguments: object) -> str:
    done = run(folder, "-c", START, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write both packages and install them, and nothing else, into a folder of their own; return what it is in."""
    folder = tmp_path_factory.mktemp("plugins")
    for kind in KINDS:
        stm_rl(folder, "init", kind, f"my_{kind}", "--out", "src")
    sources = [f"./src/my_{kind}" for kind in KINDS]
    options = ("--no-deps", "--no-build-isolation", "--no-compile", "--target", "site")
    done = run(folder, "-m", "pip", "install", "-q", *options, *sources)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "site" / "my_env" / "world.py").is_file()
    assert (folder / "site" / "my_reward" / "rewards.py").is_file()
    return folder


def test_own_tests_of_the_packages_pass(installed: Path) -> None:
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "src/my_env/tests", "src/my_reward/tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "warning" not in done.stdout


def test_validation_finds_no_fault_in_the_environment(installed: Path) -> None:
    printed = stm_rl(installed, "validate", "env", ENV_ID, "--episodes", "6", "--set", "turns=20", "--json")
    result = json.loads(printed)
    assert [finding for finding in result["findings"] if finding["level"] != "ok"] == []
    assert {"vector form", "determinism", "oracle", "no memory"} <= {item["check"] for item in result["findings"]}


def test_validation_finds_no_error_in_the_reward(installed: Path) -> None:
    terms = ("brevity=0.002", "my_reward.rewards:Politeness[words=3]=0.2")
    arguments = ("--env", ENV_ID, "--episodes", "2", "--set", "turns=16", "--set", "max_new_tokens=8", "--json")
    result = json.loads(stm_rl(installed, "validate", "reward", *terms, *arguments))
    assert result["ok"]
    assert {"pure", "no memory", "beside coherence"} <= {item["check"] for item in result["findings"]}


def test_environment_and_reward_train_together(installed: Path) -> None:
    rewards = ("--reward", "coherence=1", "--reward", "politeness=0.2", "--reward", "my_reward.rewards:brevity=0.002")
    settings = ("--set", "mode=generate", "--set", "turns=16", "--set", "max_new_tokens=8")
    sizes = ("--preset", "smoke", "--steps", "1024", "--eval-episodes", "2")
    printed = stm_rl(installed, "train", ENV_ID, *sizes, "--out", "run", *settings, *rewards, "--json")
    result = json.loads(printed)
    assert result["env"] == ENV_ID
    assert result["agents"]["oracle"]["return"]["mean"] > 0
    card = json.loads((installed / "run" / "policy.json").read_text(encoding="utf-8"))
    assert card["env"] == ENV_ID
    assert card["reward"] == {"coherence": 1.0, "politeness": 0.2, "my_reward.rewards:brevity": 0.002}
