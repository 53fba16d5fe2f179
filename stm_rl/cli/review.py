"""``stm-rl review``."""

from __future__ import annotations

import re
import sys
import webbrowser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.table import Table

from stm_rl.cli.output import print_json, wide_console
from stm_rl.comparison import read_continuations
from stm_rl.errors import StmError
from stm_rl.extras import check_extra
from stm_rl.files import write_json, write_jsonl
from stm_rl.review.export import text_preferences
from stm_rl.review.statistics import majority
from stm_rl.review.statistics import results as results_of
from stm_rl.review.store import FILE, Rating, Store
from stm_rl.review.tasks import Tasks
from stm_rl.web import listening

REPORT = "review.json"
HOST = "127.0.0.1"


def run_page(run: Path, rater: str | None, port: int, open_page: bool, sample: int | None, seed: int | None) -> None:
    """Serve the page until it is interrupted."""
    check_extra("the page needs", ("fastapi", "uvicorn"), "review")
    import uvicorn

    from stm_rl.review.app import RATER, create_app

    if rater is not None and not re.fullmatch(RATER, rater):
        raise StmError(f"--rater is {rater!r}; expected 1 to 40 letters, digits, spaces, dots or dashes")
    continuations = read_continuations(run)
    store = Store(run / FILE)
    tasks = Tasks(continuations, sample, store.seed(seed))
    listener = listening(HOST, port)
    url = f"http://{HOST}:{listener.getsockname()[1]}/" + (f"?rater={quote(rater)}" if rater else "")
    print(
        f"{len(tasks.items)} pairs to compare ({tasks.identical} more have the same text twice); ratings: {store.path}"
    )
    print(f"{url}  (stop with Ctrl-C)", flush=True)
    if open_page:
        webbrowser.open(url)
    config = uvicorn.Config(create_app(tasks, store), log_level="warning", server_header=False, access_log=False)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        store.close()


def run_results(run: Path, as_json: bool) -> None:
    """Print what raters said, and write it beside the run."""
    tasks, ratings = _rated(run)
    report = {
        "identical": tasks.identical,
        "shown": len(tasks.items),
        **results_of(tasks.items, ratings, tasks.seed),
    }
    write_json(run / REPORT, report)
    if as_json:
        print_json(report)
    else:
        _print(report)
    print(f"wrote {run / REPORT}", file=sys.stderr)


def run_export(run: Path, out: Path, decisions: bool, instruction: bool) -> None:
    """Write preferences as a data set."""
    if out.is_dir():
        raise StmError(f"{out} is a folder; expected the name of a file, such as {out / 'pairs.jsonl'}")
    if instruction and not decisions:
        raise StmError("--instruction is of use with --decisions only; texts have no instruction")
    tasks, ratings = _rated(run)
    if decisions:
        from stm_rl_agents.loading import check_trl

        check_trl()
        from stm_rl_agents.language.dpo import write_pairs
        from stm_rl_agents.language.reviewed import decision_pairs

        pairs = decision_pairs(tasks.items, majority(tasks.items, ratings), short=not instruction)
        _check_any(len(pairs), "decisions")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_pairs(out, pairs)
        count = len(pairs)
    else:
        rows = text_preferences(tasks.items, ratings)
        _check_any(len(rows), "texts")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(out, rows)
        count = len(rows)
    print(f"wrote {count} pair(s) of {'decisions' if decisions else 'texts'} to {out}", file=sys.stderr)


def _check_any(count: int, what: str) -> None:
    if not count:
        raise StmError(f"no pair of {what} was decided by a majority, so there is nothing to export; rate more pairs")


def _rated(run: Path) -> tuple[Tasks, list[Rating]]:
    """Return all pairs of a run and what was said of them."""
    continuations = read_continuations(run)
    store = Store(run / FILE, write=False)
    try:
        return Tasks(continuations, seed=store.seed()), store.ratings()
    finally:
        store.close()


def _print(report: dict[str, Any]) -> None:
    console = wide_console()

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say(
        f"{report['pairs']} of {report['shown']} pairs rated by {report['raters']} rater(s), {report['ratings']} "
        f"ratings, {report['skipped']} skipped; {report['identical']} more turns have the same text twice"
    )
    if report["unknown"]:
        say(f"{report['unknown']} rating(s) are of texts that were compared anew since, and left out")
    say(f"memory won {report['wins']}, lost {report['losses']}, tied {report['ties']}")
    for kind, rate in {"all": report["win_rate"], **report["kinds"]}.items():
        if rate is not None and (kind == "all" or len(report["kinds"]) > 1):
            low, high = rate["ci95"]
            name = "win rate of memory over none" if kind == "all" else f"  {kind}"
            say(f"{name}: {rate['mean']:.1%} [{low:.1%}, {high:.1%}] ({rate['interval']}, ties apart)")
    if report["aspects"]:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, column in enumerate(("marks (1 to 5)", "ratings", "without", "with", "difference [95% CI]")):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for name, entry in report["aspects"].items():
            low, high = entry["difference"]["ci95"]
            table.add_row(
                name, str(entry["ratings"]), f"{entry['without']:.2f}", f"{entry['with']:.2f}",
                f"{entry['difference']['mean']:+.2f} [{low:+.2f}, {high:+.2f}]",
            )  # fmt: skip
        console.print(table)
    for name, entry in report["agreement"].items():
        told = f"{entry['alpha']:.2f}" if entry["alpha"] is not None else f"not defined: {entry['note']}"
        same = f"; {entry['same']:.0%} of two raters' answers are the same" if entry["same"] is not None else ""
        say(f"Krippendorff's alpha, {name} ({entry['level']}): {told}{same}")
