"""Run folders as a report needs them: whatever can be read, and what is missing or damaged."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from stm_rl.comparison import FILE, Continuation, read_continuations
from stm_rl.errors import StmError
from stm_rl.report.checks import check_details, check_evaluation, check_review, is_trace

SECTIONS = {"ppo": "train", "imitation": "imitate", "finetune": "finetune", "recurrent_ppo": "recurrent"}
"""Sections of ``config.yaml``, and the commands that write them."""
CARDS = ("policy.json", "language.json")


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the reader should know of.

    Attributes:
        where: The file or folder, and the line if there is one.
        what: What is missing, damaged or left out.
        command: What makes it, if a command does.
    """

    where: str
    what: str
    command: str = ""


@dataclass(slots=True)
class Source:
    """A folder with a run or an evaluation.

    Attributes:
        folder: Where it is.
        config: Its ``config.yaml``; empty if there is none.
        name: Name of its policy; empty if there is none yet.
        seed: Seed of its policy.
        metrics: Rows of ``metrics.jsonl``.
        evaluation: Contents of ``eval.json``.
        details: Agents of ``episodes.json``.
        traces: Rows of ``traces.jsonl``.
        continuations: What ``continuations.jsonl`` holds.
        review: Contents of ``review.json``.
        notes: What is missing or damaged.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    seed: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    traces: list[dict[str, Any]] = field(default_factory=list)
    continuations: list[Continuation] = field(default_factory=list)
    review: dict[str, Any] | None = None
    notes: list[Note] = field(default_factory=list)

    @property
    def section(self) -> str:
        """The section of ``config.yaml`` with the settings of the method; empty if there is none."""
        return next((name for name in SECTIONS if name in self.config), "")

    @property
    def command(self) -> str:
        """The command that trains such runs; empty for evaluations."""
        return SECTIONS.get(self.section, "")

    @property
    def request(self) -> dict[str, Any]:
        """What the command was asked for."""
        found = self.config.get("request")
        return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}

    def note(self, where: str | Path, what: str, command: str = "") -> None:
        """Add a note."""
        self.notes.append(Note(str(where), what, command))


def read_source(folder: Path) -> Source:
    """Read a folder; what is missing or damaged becomes notes.

    Raises:
        StmError: It is no folder of a run or an evaluation.
    """
    if not folder.is_dir():
        raise StmError(f"there is no folder {folder}; expected a run folder, as `stm-rl train --out {folder}` makes it")
    if not any((folder / name).is_file() for name in ("config.yaml", "eval.json")):
        raise StmError(
            f"{folder} is not a run folder (it has no config.yaml, and no eval.json); `stm-rl train --out` makes one, "
            "and `stm-rl eval --out FOLDER/eval.json` evaluates"
        )
    source = Source(folder)
    _read_config(source)
    for name in CARDS:
        card = _object(source, name)
        if card:
            network = card.get("network")
            core = network.get("core") if isinstance(network, dict) else None
            source.name = str(card.get("name") or core or source.command or folder.name)
            source.seed = card.get("seed", 0) if isinstance(card.get("seed", 0), int) else 0
            break
    else:
        source.name = source.command
        seed = source.request.get("seed", 0)
        source.seed = seed if isinstance(seed, int) else 0
    source.metrics = list(_rows(source, "metrics.jsonl"))
    source.evaluation = _checked(source, "eval.json", check_evaluation, evaluate_command(source))
    if source.evaluation is not None and "agents" in source.evaluation:
        check = partial(check_details, episodes=source.evaluation["episodes"])
        details = _checked(source, "episodes.json", check, evaluate_command(source))
        source.details = details["agents"] if details is not None else {}
    for row in _rows(source, "traces.jsonl"):
        if is_trace(row):
            source.traces.append(row)
        else:
            source.note(
                folder / "traces.jsonl", f"the trace of {row.get('transcript')!r:.60} is damaged; it is left out"
            )
    if (folder / FILE).is_file():
        try:
            source.continuations = read_continuations(folder)
        except StmError as error:
            where, _, what = str(error).partition(": ")
            source.note(where, f"{what}; the file is left out", shlex.join(["stm-rl", "compare", str(folder)]))
    results = shlex.join(["stm-rl", "review", "results", str(folder)])
    source.review = _checked(source, "review.json", check_review, results)
    _say_missing(source)
    return source


def _read_config(source: Source) -> None:
    path = source.folder / "config.yaml"
    if not path.is_file():
        return
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        source.note(f"{path}:{line}", f"is damaged ({error.problem}); settings are left out")
        return
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        source.note(path, f"is damaged ({error}); settings are left out")
        return
    if isinstance(config, dict):
        source.config = config
        for name in ("request", "versions"):
            if not isinstance(config.setdefault(name, {}), dict):
                source.note(path, f"is damaged ({name} holds {config.pop(name)!r:.40}; expected a mapping)")
    else:
        source.note(f"{path}:1", f"holds {config!r:.40}; expected a mapping; settings are left out")


def _text(source: Source, path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        source.note(f"{path}:{line}", "is damaged (not UTF-8); it is left out")
    except OSError as error:
        source.note(path, f"cannot be read ({error.strerror}); it is left out")
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _object(source: Source, name: str) -> dict[str, Any] | None:
    """Return the JSON object in a file; None, and a note if it is damaged, if there is none."""
    path = source.folder / name
    text = _text(source, path) if path.is_file() else None
    if text is None:
        return None
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        source.note(f"{path}:{line}", f"is damaged (not valid JSON: {getattr(error, 'msg', error)}); it is left out")
        return None
    if not isinstance(value, dict):
        source.note(f"{path}:1", f"holds {value!r:.40}; expected an object; it is left out")
        return None
    return value


def _rows(source: Source, name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects in a file of lines, up to the first line that is damaged, which becomes a note."""
    path = source.folder / name
    text = _text(source, path) if path.is_file() else None
    for number, line in enumerate((text or "").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse)
            reason = "" if isinstance(row, dict) else f"expected an object, got {row!r:.40}"
        except (ValueError, RecursionError) as error:
            reason = f"not valid JSON: {getattr(error, 'msg', error)}"
        if reason:
            source.note(f"{path}:{number}", f"is damaged ({reason}); this line and those after it are left out")
            return
        yield row


def _checked(source: Source, name: str, check: Callable[[dict[str, Any]], None], command: str) -> dict[str, Any] | None:
    """Return the JSON object in a file if it holds what it should; None, and a note, if not."""
    value = _object(source, name)
    if value is not None:
        try:
            check(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            source.note(f"{source.folder / name}:1", f"is damaged ({reason}); it is left out", command)
            return None
    return value


def evaluate_command(source: Source) -> str:
    """Return the command that evaluates a run again: the same episodes, and everything a report needs."""
    request, folder = source.request, source.folder
    if source.command == "recurrent" or (source.command and request.get("eval_episodes", 200)):
        return shlex.join(["stm-rl", source.command, "--resume", "--out", str(folder)])
    words = ["stm-rl", "eval", str(request.get("env", (source.evaluation or {}).get("env", "stm_rl/Dialogue-v0")))]
    for option, name in (("--transcripts", "transcripts"), ("--set", "sets"), ("--reward", "rewards")):
        values = request.get(name)
        for value in values if isinstance(values, list) else []:
            words += [option, str(value)]
    if request.get("lm", "tiny") != "tiny":
        words += ["--lm", str(request["lm"])]
    words += ["--agent", str(folder) if source.config else "RUN"]
    return shlex.join([*words, "--out", str(folder / "eval.json"), "--traces", str(folder / "traces.jsonl")])


def _say_missing(source: Source) -> None:
    """Note what is not there, and the command that makes it."""
    folder, command = source.folder, source.command
    resume = shlex.join(["stm-rl", command, "--resume", "--out", str(folder)]) if command else ""
    if command and not (folder / "metrics.jsonl").is_file():
        source.note(folder, "has no metrics.jsonl: training has not come to its first row", resume)
    planned = source.config.get(source.section, {})
    total = planned.get("steps") if isinstance(planned, dict) and command in ("train", "recurrent") else None
    done = source.metrics[-1].get("steps") if source.metrics else None
    if isinstance(total, int) and isinstance(done, int) and done < total:
        source.note(folder, f"was interrupted after {done:,} of {total:,} steps", resume)
    if not (folder / "eval.json").is_file():
        source.note(folder, "has no eval.json: it was not evaluated", evaluate_command(source))
        return
    if command == "recurrent" or (source.evaluation is not None and "agents" not in source.evaluation):
        return
    if not (folder / "episodes.json").is_file():
        what = "has no episodes.json, so that there are no interquartile means and no paired comparisons"
        source.note(folder, what, evaluate_command(source))
    if not (folder / "traces.jsonl").is_file():
        source.note(folder, "has no traces.jsonl, so that no episodes can be shown", evaluate_command(source))
    if source.continuations and not (folder / "review.json").is_file():
        rate = shlex.join(["stm-rl", "review", str(folder)])
        what = f"has no review.json: let people rate the texts with `{rate}`, then"
        source.note(folder, what, shlex.join(["stm-rl", "review", "results", str(folder)]))
