"""Run folders: everything a training run leaves behind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from stm_rl.errors import StmError
from stm_rl.files import move_aside, write_jsonl, write_text


class Run:
    """A run folder: ``config.yaml``, ``metrics.jsonl``, ``policy.*``, ``checkpoint/``, ``eval.json`` ...

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, config: dict[str, Any], *, force: bool = False) -> Run:
        """Make a new run folder and write its ``config.yaml``.

        Args:
            folder: Where; its parents are made.
            config: Everything needed to repeat the run.
            force: Move a folder that exists to ``<name>.1`` (or the next free number) first.

        Raises:
            StmError: The folder exists and ``force`` is off, or it has no name of its own.
        """
        if folder.name in ("", ".."):
            raise StmError(f"{folder} cannot be a run folder; give a folder with a name, such as runs/first")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if not force:
                raise StmError(
                    f"{folder} exists already; give another --out, --resume to go on with it, "
                    "or --force to move it aside and start anew"
                )
            move_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open an existing run folder.

        Raises:
            StmError: It is none.
        """
        if not (folder / "config.yaml").is_file():
            raise StmError(f"{folder} is not a run folder (it has no config.yaml); `stm-rl train` makes one")
        return cls(folder)

    @property
    def config(self) -> dict[str, Any]:
        """What ``config.yaml`` says.

        Raises:
            StmError: It is not YAML, or no mapping.
        """
        path = self.folder / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise StmError(f"{path} is not valid YAML ({error}); restore it, or train anew with --force") from error
        if not isinstance(config, dict):
            raise StmError(f"{path} holds {config!r:.40}; expected a mapping; restore it, or train anew with --force")
        return config

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to ``metrics.jsonl``; numbers that JSON does not know become null."""
        known = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        line = json.dumps(known, allow_nan=False) + "\n"
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

    def forget_after(self, steps: int, name: str = "steps") -> None:
        """Drop the rows of ``metrics.jsonl`` whose ``name`` is past ``steps``; they are younger than the checkpoint."""
        rows = self.metrics()
        kept = [row for row in rows if row[name] <= steps]
        if len(kept) < len(rows):
            write_jsonl(self.folder / "metrics.jsonl", kept)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``; none if there is no such file yet.

        Raises:
            StmError: A line is not JSON.
        """
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                rows.append(json.loads(text))
            except json.JSONDecodeError as error:
                raise StmError(f"{path}:{number}: not valid JSON ({error.msg}); expected one object a line") from error
        return rows
