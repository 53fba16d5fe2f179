from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import typer

from stm_rl.cli.serve_app import serve

REPO = Path(__file__).parent.parent
DEPLOY = REPO / "deploy"
INSTRUCTIONS = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER", "VOLUME",
    "WORKDIR",
}  # fmt: skip
ENVIRONMENT_ONLY = {"STM_RL_TOKEN", "STM_RL_UPSTREAM_KEY"}
"""Secrets: no option of the command line takes them, since others could read them there."""


def options() -> dict[str, Any]:
    """Return the options of `stm-rl serve` by the variable that sets them."""
    app = typer.Typer()
    app.command()(serve)
    parameters: list[Any] = list(typer.main.get_command(app).params)
    return {parameter.envvar: parameter for parameter in parameters if parameter.envvar}


# The container


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Containerfile and what they are given, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Containerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def sources() -> Iterator[str]:
    """Yield what the build copies from the source."""
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            yield from rest.split()[:-1]


def environment() -> dict[str, str]:
    pairs = [pair for word, rest in last_stage() if word == "ENV" for pair in rest.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def test_container_has_known_instructions_and_what_it_copies() -> None:
    assert {word for word, _ in instructions()} <= INSTRUCTIONS
    assert all((REPO / source).exists() for source in sources())
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(sources())


def test_container_runs_as_nobody_special_and_is_watched() -> None:
    stage = last_stage()
    words = [word for word, _ in stage]
    user = dict(stage)["USER"].split(":")[0]
    assert user.isdigit()
    assert int(user) >= 1000
    assert words.index("USER") > words.index("RUN")
    assert dict(stage)["VOLUME"] == "/data"
    assert dict(stage)["EXPOSE"] == environment()["STM_RL_PORT"] == str(options()["STM_RL_PORT"].default)
    command = dict(stage)["HEALTHCHECK"].partition("CMD ")[2]
    program = json.loads(command)
    assert program[:2] == ["python", "-c"]
    assert "/health" in program[2]
    compile(program[2], "healthcheck", "exec")
    assert json.loads(dict(stage)["ENTRYPOINT"]) + json.loads(dict(stage)["CMD"]) == ["stm-rl", "serve"]


def test_container_sets_variables_that_exist_and_writes_below_its_volume() -> None:
    ours = {name for name in environment() if name.startswith("STM_RL_")} - {"STM_RL_CACHE"}
    assert ours <= set(options())
    written = ("HF_HOME", "MPLCONFIGDIR", "STM_RL_CACHE", "STM_RL_DATABASE")
    assert all(environment()[name].startswith(("/data/", "/tmp/")) for name in written)


def test_container_holds_no_secret_so_it_does_not_start_without_a_token(tmp_path: Path) -> None:
    assert not ENVIRONMENT_ONLY & set(environment())
    done = subprocess.run(
        [sys.executable, "-c", "from stm_rl.cli import main; main()", "serve", "--model", "tiny"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), "STM_RL_POLICY": "similarity",
             "STM_RL_HOST": environment()["STM_RL_HOST"], "STM_RL_PORT": "0"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "STM_RL_TOKEN" in done.stderr


def test_what_the_container_copies_makes_a_wheel(tmp_path: Path) -> None:
    for source in sources():
        place, target = REPO / source, tmp_path / "source" / source
        target.parent.mkdir(exist_ok=True)
        if place.is_dir():
            shutil.copytree(place, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, target)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "..", "."],
        cwd=tmp_path / "source", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    names = set(ZipFile(next(tmp_path.glob("stm_rl-*.whl"))).namelist())
    assert {"stm_rl/cli/serve.py", "stm_rl_envs/sample.jsonl", "stm_rl_agents/serving/page/index.html"} <= names
    extras = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert "serve" in extras


# The systemd unit


def unit() -> dict[str, list[str]]:
    """Return the settings of the unit's service; a name may have several values."""
    settings: dict[str, list[str]] = {}
    section = ""
    for line in (DEPLOY / "stm-rl.service").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def test_unit_is_a_unit() -> None:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.read(DEPLOY / "stm-rl.service", encoding="utf-8")
    assert parser.sections() == ["Unit", "Service", "Install"]


def test_unit_starts_again_stops_gracefully_and_is_hardened() -> None:
    from stm_rl.cli.serve import STOP_SECONDS

    said = {name: values[-1] for name, values in unit().items()}
    assert said["Restart"] == "on-failure"
    assert said["RestartPreventExitStatus"] == "2"
    assert said["KillSignal"] == "SIGTERM"
    assert int(said["TimeoutStopSec"]) > STOP_SECONDS
    assert said["DynamicUser"] == said["NoNewPrivileges"] == said["ProtectHome"] == "yes"
    assert said["ProtectSystem"] == "strict"
    assert said["StateDirectory"] in said["WorkingDirectory"]
    assert said["EnvironmentFile"] == "/etc/stm-rl/stm-rl.env"
    names = {pair.split("=")[0] for value in unit()["Environment"] for pair in value.split()}
    assert {name for name in names if name.startswith("STM_RL_")} - {"STM_RL_CACHE"} <= set(options())


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Ask systemd about the unit."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    text = (DEPLOY / "stm-rl.service").read_text(encoding="utf-8")
    here = tmp_path / "stm-rl.service"
    here.write_text(text.replace("/opt/stm-rl/bin/stm-rl", sys.executable), encoding="utf-8")
    done = analyze("verify", "--man=no", "--recursive-errors=no", here)
    complaints = [line for line in done.stderr.splitlines() if "stm-rl.service" in line]
    assert done.returncode == 0, done.stderr
    assert not complaints
    here.write_text(text + "[Service]\nProtectEverything=yes\n", encoding="utf-8")
    assert "ProtectEverything" in analyze("verify", "--man=no", here).stderr  # it does look


def test_systemd_calls_the_unit_well_protected() -> None:
    done = analyze("security", "--offline=yes", "--threshold=25", DEPLOY / "stm-rl.service")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr  # an exposure of at most 2.5 of 10


# The settings


def example() -> dict[str, tuple[str, bool]]:
    """Return the variables of the example: value, and whether it is commented out."""
    text = (DEPLOY / "stm-rl.env.example").read_text(encoding="utf-8")
    found = re.findall(r"^(#?)([A-Z_]+)=(.*)$", text, re.MULTILINE)
    assert len(found) == len({name for _, name, _ in found})
    return {name: (value, mark == "#") for mark, name, value in found}


def test_example_has_every_setting_of_the_command_and_no_other() -> None:
    assert set(example()) == set(options()) | ENVIRONMENT_ONLY


def test_secrets_are_read_from_the_environment() -> None:
    text = (REPO / "stm_rl" / "cli" / "serve.py").read_text(encoding="utf-8")
    assert {name for name in ENVIRONMENT_ONLY if f'"{name}"' in text} == ENVIRONMENT_ONLY
    assert all(example()[name] == ("", True) for name in ENVIRONMENT_ONLY)


def test_lines_that_are_commented_out_show_the_defaults() -> None:
    said = {name: value for name, (value, commented) in example().items() if commented}
    for name, parameter in options().items():
        if name in said and parameter.default is not None:
            default = str(int(parameter.default)) if isinstance(parameter.default, bool) else str(parameter.default)
            assert said[name] == default, name
