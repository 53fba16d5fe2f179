"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stm_rl.comparison import MEASURES, compare
from stm_rl.report.build import Report
from stm_rl.report.compared import NONE, Compared, Estimate
from stm_rl.report.episodes import TURNS, cut, describe
from stm_rl.report.figure import Figure
from stm_rl.report.reading import Source

TEMPLATES = Path(__file__).parent / "templates"
EXAMPLES = 4
"""Texts of each run that are shown, at most."""
RUNS = 30
"""Runs whose settings are shown, at most."""
SCRIPT = "addEventListener('beforeprint',()=>document.querySelectorAll('details').forEach(one=>one.open=true))"
"""Nothing is hidden in print; all that the page has of scripts."""


def render(report: Report) -> str:
    """Return the HTML of a report; all texts of models and transcripts are escaped."""
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    return (
        _jinja()
        .get_template("report.html")
        .render(
            report=report,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(SCRIPT),
            policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'",
            headlines=[headline(one) for one in report.compared],
            chances=[_chances(one) for one in report.compared],
            describe=describe,
            turns=TURNS,
            measures=MEASURES,
            written=[_written(source) for source in report.sources if source.continuations],
            reviews=[(source, source.review) for source in report.sources if source.review],
            runs=report.sources[:RUNS],
        )
    )


@cache
def _jinja() -> Environment:
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"num": number, "signed": signed, "estimate": estimate, "cut": cut, "yaml": _yaml}
    jinja.globals["figure"] = _figure
    return jinja


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a true minus sign; a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, plus too."""
    text = number(value, digits)
    return text if text.startswith("−") or not text.strip("0.") else f"+{text}"


def estimate(one: Estimate | dict[str, Any] | None, digits: int = 2) -> str:
    """Return a mean and its interval."""
    if one is None:
        return "–"
    if isinstance(one, dict):
        one = Estimate(one["mean"], *one["ci95"])
    return f"{number(one.mean, digits)} [{number(one.low, digits)},\N{NO-BREAK SPACE}{number(one.high, digits)}]"


def headline(one: Compared) -> dict[str, Any]:
    """Return what the first lines say of an environment: who is best, and by how much."""
    learned, heuristic, none = one.best_learned, one.best_heuristic, one.row(NONE)
    against = []
    if learned is not None:
        for words, other in (("the best heuristic", heuristic), ("no memory", none)):
            if other is not None:
                against.append((words, other, one.difference(learned, other), one.improvement(learned, other)))
    return {"compared": one, "learned": learned, "heuristic": heuristic, "against": against}


def _chances(one: Compared) -> list[tuple[str, str, Estimate, Estimate]]:
    """Return learned agents beside every other agent: how probably they earn more, and how much."""
    found = []
    learned = [row for row in one.rows if row.scores.role == "learned"]
    for number, row in enumerate(learned):
        for other in one.rows:
            if other in learned[: number + 1]:
                continue
            chance, difference = one.improvement(row, other), one.difference(row, other)
            if chance is not None and difference is not None:
                found.append((row.scores.agent, other.scores.agent, chance, difference))
    return found[:60]


def _written(source: Source) -> dict[str, Any]:
    """Return what measures say of the texts of a run, and the examples in which memory mattered most."""
    found = source.continuations
    differing = [one for one in found if one.differs] or found
    kinds = dict.fromkeys(one.kind for one in differing)
    chosen = [
        one for kind in kinds for one in [o for o in differing if o.kind == kind][: max(1, EXAMPLES // len(kinds))]
    ]
    return {
        "source": source,
        "kinds": compare(found),
        "examples": chosen[:EXAMPLES],
        "left": len(found) - len(chosen[:EXAMPLES]),
    }


def _figure(one: Figure) -> Markup:
    return Markup(_jinja().get_template("figure.html").render(one=one, svg=Markup(one.svg())))


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).strip()
