from __future__ import annotations

from typing import Literal

import pytest
from browser import page_of
from report_runs import make_run

from stm_rl.report import Roles, make_report, render

ROLES = Roles(heuristics=["none", "fifo", "longest"], references=["oracle"])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a report on three runs, with a long word in a transcript."""
    folder = tmp_path_factory.mktemp("report")
    turns = ["user: <script>document.title = 'run'</script>", f"user: {'w' * 280}", *(f"user: {i}" for i in range(40))]
    runs = [make_run(folder / "a", turns=turns), make_run(folder / "b", seed=1)]
    runs.append(make_run(folder / "c", env="stm_rl/Story-v0", level=3.0))
    path = folder / "report.html"
    path.write_text(render(make_report(runs, ROLES)), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1280, "light"), (1280, "dark")])
def test_page_opens_without_a_problem_and_fits(report: str, width: int, scheme: Literal["light", "dark"]) -> None:
    with page_of(width=width, scheme=scheme) as (page, problems):
        page.goto(report)
        assert page.title().startswith("stm-rl report")  # the script in the transcript did not run
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        figures = page.locator("figure svg")
        assert figures.count() > 8
        assert all(figures.nth(i).bounding_box()["width"] > 350 for i in range(figures.count()))  # else text is tiny
        assert page.locator("#timeline-1 title").first.text_content().startswith("slot 1, written at turn 0")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
        assert ink == {"light": "rgb(27, 31, 36)", "dark": "rgb(230, 233, 237)"}[scheme]
        assert problems == []


def test_nothing_is_hidden_or_cut_in_print(report: str) -> None:
    with page_of(width=688, scheme="dark") as (page, problems):  # A4 less its margins
        page.goto(report)
        page.emulate_media(media="print")
        cut = page.evaluate(
            "[...document.querySelectorAll('.scroll, pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        )
        assert cut == 0
        assert page.evaluate("document.documentElement.scrollWidth") == 688
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.pdf(format="A4")  # opens whatever is folded
        assert page.locator("details:not([open])").count() == 0
        assert problems == []
