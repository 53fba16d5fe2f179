#!/usr/bin/env python3
"""Write docs/results.md: every result at one place, from where it is kept.

    python scripts/make_results_page.py           # write it
    python scripts/make_results_page.py --check   # fail if it is stale

Two sources: evaluations in docs/results/*.json, as `stm-rl eval --out docs/results/NAME.json` writes them, and tables
of the pages that describe an experiment, which are quoted word for word, so that no number is kept twice by hand.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from generated import write_or_check

from stm_rl_agents import FullContext

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "results.md"
EVALUATIONS = REPO / "docs" / "results"

HEAD = """# Results

<!-- Written by scripts/make_results_page.py; do not edit by hand. -->

What was reached, at one place. Below each table is a link to the page that says how it was measured, and by which
command. Intervals are 95%, by bootstrap over episodes and seeds; all agents of a table play the same held-out episodes,
or as many of the first of them as is said, with the same budget. What did not work is in the
[lab notes](lab-notes.md), speed in [performance](performance.md).
"""
KEPT = """## Evaluations kept with the source

What needs no training, evaluated with the embedded model. Each file is what `stm-rl eval` wrote."""


class Quoted(NamedTuple):
    """A table of a page: the beginning of its first row tells it from the page's other tables."""

    title: str
    text: str
    page: str
    header: str


QUOTED = (
    Quoted(
        "Policies against every baseline",
        "Return in nats in three procedural worlds, 4 slots, window 2, 2 reads, three seeds, 300 transcripts that "
        "training never saw. `bc` and `dagger` clone hindsight labels; `bc-dagger-ppo` goes on with PPO; † measured "
        "before the slot feature `overlap_since`.",
        "README.md",
        "| agent | Dialogue | Story | Screenplay |",
    ),
    Quoted(
        "How many transcripts imitation needs",
        "Return in nats in the dialogue; in brackets the share of what the hindsight expert gains.",
        "docs/imitation.md",
        "| transcripts | cloning | after DAgger |",
    ),
    Quoted(
        "Language models that keep their own memory",
        "The embedded model with memory tools, in the dialogue: 4,000 episodes for `sft` and `grpo`, "
        "their first 1,500 or 400 for the others.",
        "docs/language-agents.md",
        "| agent | return | coherence gain | of `expert` |",
    ),
    Quoted(
        "Evidence recall on real data",
        "One policy, trained on four sets at once without a label (`hindsight`), and with labels (`evidence`): share "
        "of questions whose whole evidence is held.",
        "docs/recall-policies.md",
        "| joint %, 4 slots | SGD (115) | MultiWOZ (300) |",
    ),
    Quoted(
        "Neural memories on POPGym",
        "Mean return of each of three seeds, unless it says otherwise.",
        "docs/neural-memory.md",
        "| task | memory | return, each seed |",
    ),
)


def page() -> str:
    """Return the whole page.

    Raises:
        ValueError: A quoted table is not where it should be, or an evaluation is no evaluation.
    """
    parts = [HEAD.strip(), *(quote(item) for item in QUOTED)]
    files = sorted(file for file in EVALUATIONS.glob("*.json") if not file.name.endswith(".episodes.json"))
    if files:
        parts.append(KEPT)
        parts += [evaluation(file) for file in files]
    return "\n\n".join(parts) + "\n"


def quote(item: Quoted) -> str:
    """Return the section of a quoted table."""
    text = (REPO / item.page).read_text(encoding="utf-8")
    found = re.findall(rf"^{re.escape(item.header)}.*\n(?:\|.*\n)+", text, re.MULTILINE)
    if len(found) != 1:
        raise ValueError(
            f"{item.page} has {len(found)} tables that begin with {item.header!r}; expected 1: edit QUOTED"
        )
    link = posixpath.relpath(item.page, "docs")
    return f"## {item.title}\n\n{item.text}\n\n{found[0].strip()}\n\n[How it was measured]({link})"


def evaluation(file: Path) -> str:
    """Return the section of a file of `stm-rl eval`."""
    report = json.loads(file.read_text(encoding="utf-8"))
    missing = {"env", "settings", "episodes", "agents"} - set(report)
    if missing:
        raise ValueError(f"{file.name} has no {', '.join(sorted(missing))}; expected what `stm-rl eval --out` writes")
    settings = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    return "\n".join(
        [
            f"### {report['env']}",
            "",
            f"{report['episodes']} held-out episodes; {settings}.",
            "",
            "| agent | return, nats | coherence gain, nats | evidence recall | writes a turn | reads a turn |",
            "|---|---|---|---|---|---|",
            *rows(report["agents"]),
            "",
            f"```bash\nstm-rl eval {report['env']} --episodes {report['episodes']}{extra(report)} "
            f"--out docs/results/{file.name}\n```",
        ]
    )


def extra(report: dict[str, Any]) -> str:
    """Return the options that name agents which are not always there."""
    return " --agent expert" if "expert" in report["agents"] else ""


def rows(agents: dict[str, Any]) -> Iterator[str]:
    """Yield the rows of the agents, by return."""
    for name in sorted(agents, key=lambda name: agents[name]["return"]["mean"]):
        said = agents[name]
        recall = None if name == FullContext.name else said.get("evidence_recall")  # it has no memory
        cells = [interval(measure) for measure in (said["return"], said["coherence_gain"], recall)]
        cells += [f"{said[measure]:.2f}" for measure in ("writes_per_turn", "reads_per_turn")]
        yield f"| `{name}` | " + " | ".join(cells) + " |"


def interval(measure: dict[str, Any] | None) -> str:
    """Return a mean and its interval; a dash for what an agent has not."""
    if measure is None or measure["mean"] is None:
        return "–"
    low, high = measure["ci95"]
    return f"{measure['mean']:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")


if __name__ == "__main__":
    write_or_check(PAGE, page, __doc__)
