"""``stm-rl report`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stm_rl.cli.options import Json


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, and folders with the eval.json of an evaluation.", metavar="RUN..."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; report.html in the run folder, or for several runs here, unless given."),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write each figure as PNG into this folder, too.", metavar="DIR")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Write a report on runs: one HTML file that needs no network.

    Learning curves, agents with intervals and how probably one is better than another, memory over the turns of the
    best and worst episodes beside the model without memory, texts, people's judgement, settings and commands. Runs with
    the same name and settings are seeds of one agent. What a run lacks is said, with the command that makes it.

    Examples:
    `stm-rl report runs/demo`

    `stm-rl report runs/ppo-0 runs/ppo-1 runs/ppo-2 runs/dagger-0 --out report.html --png figures`

    `stm-rl eval --agent ppo=runs/ppo-0,runs/ppo-1 --out runs/both/eval.json --traces runs/both/traces.jsonl`, then
    `stm-rl report runs/both --open`
    """
    from stm_rl.cli.report import run_report

    run_report(runs, out=out, png=png, open_it=open_, as_json=as_json)
