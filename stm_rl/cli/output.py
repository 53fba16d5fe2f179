"""What commands print: tables for people, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from stm_rl.evaluation.statistics import verdict


def print_json(values: Any) -> None:
    """Print JSON to where results go."""
    json.dump(values, sys.stdout, indent=1)
    print()


def wide_console() -> Console:
    """Return a console as wide as the terminal, or, where there is none, wide enough that no table is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


def print_table(report: Mapping[str, Any], against_best: Mapping[str, Any], best_heuristic: str) -> None:
    """Print the agents of an ``eval.json``, best return last, and how learned agents compare."""
    settings = report["settings"]
    agents = report["agents"]
    oracle = agents["oracle"]["coherence_gain"]["mean"] if "oracle" in agents else 0.0
    title = (
        f"{report['env']} · {report['episodes']} held-out episodes · {settings['slots']} slots, "
        f"window {settings['window']}, {settings['reads']} reads · {settings['lm']}"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("agent", no_wrap=True)
    for column in ("return [95% CI]", "gain (nats)", "of oracle", "recall", "writes/turn", "reads/turn"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, entry in sorted(agents.items(), key=lambda item: item[1]["return"]["mean"]):
        low, high = entry["return"]["ci95"]
        gain, recall = entry["coherence_gain"]["mean"], entry["evidence_recall"]
        learned = name in against_best
        table.add_row(
            name,
            f"{entry['return']['mean']:.2f} [{low:.2f}, {high:.2f}]",
            f"{gain:.2f}",
            f"{gain / oracle:.0%}" if oracle > 0 else "-",
            f"{recall['mean']:.2f}" if recall and name != "full-context" else "-",
            f"{entry['writes_per_turn']:.2f}",
            f"{entry['reads_per_turn']:.2f}",
            style="bold green" if learned else None,
        )
    console = wide_console()
    console.print(title, style="italic", highlight=False, soft_wrap=True)
    console.print(table)
    for name, value in against_best.items():
        low, high = value["ci95"]
        console.print(
            f"{name} minus the best heuristic ({best_heuristic}), paired: "
            f"{value['mean']:+.2f} nats [{low:+.2f}, {high:+.2f}]: {verdict(low, high)}",
            highlight=False,
        )
