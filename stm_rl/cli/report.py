"""``stm-rl report``."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from stm_rl.cli.evaluate import references
from stm_rl.cli.output import print_json
from stm_rl.errors import StmError
from stm_rl.files import write_text
from stm_rl.report import Roles, make_report, render
from stm_rl_agents import heuristics
from stm_rl_agents.imitation.expert import EXPERT


def run_report(runs: Sequence[Path], *, out: Path | None, png: Path | None, open_it: bool, as_json: bool) -> None:
    """Do what ``stm-rl report`` asks for."""
    path = out or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    if path.is_dir():
        raise StmError(f"{path} is a folder; expected the name of a file, such as {path / 'report.html'}")
    if png is not None and png.exists() and not png.is_dir():
        raise StmError(f"{png} is a file; expected a folder for figures (--png)")
    known = heuristics()
    roles = Roles(
        heuristics=[agent.name for agent in known],
        references=[*(agent.name for agent in references(procedural=True)), EXPERT],
        varying=[*(agent.name for agent in known if agent.draws), EXPERT],
    )
    report = make_report(runs, roles)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(report))
    if png is not None:
        png.mkdir(parents=True, exist_ok=True)
        for figure in report.figures:
            figure.save(png / f"{figure.name}.png")
    for note in report.notes:
        print(f"{note.where} {note.what}" + (f": {note.command}" if note.command else ""), file=sys.stderr)
    if as_json:
        print_json({**report.summary(), "report": str(path)})
    else:
        pictures = f", and {len(report.figures)} figures in {png}" if png is not None else ""
        print(f"wrote {path} ({path.stat().st_size / 1000:,.0f} kB){pictures}")
    if open_it:
        webbrowser.open(path.resolve().as_uri())
