from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from docs_blocks import blocks, run_page

REPO = Path(__file__).parent.parent
DOCS = REPO / "docs"
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "envs" / "README.md", *sorted(DOCS.rglob("*.md"))]

WHOLE = [
    DOCS / "tutorial.md",
    DOCS / "deployment.md",
    *sorted((DOCS / "how-to").glob("*.md")),
]
"""Pages that are run from top to bottom, bash and Python; of the others each block of Python is run by itself."""


def name_of(page: Path) -> str:
    return str(page.relative_to(REPO))


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{name_of(page)}-{number}", block.code)
        for page in PAGES
        if page not in WHOLE
        for number, block in enumerate(blocks(page.read_text(encoding="utf-8")))
        if block.language == "python" and block.mark != "skip"
    ]


@pytest.mark.parametrize("code", [code for _, code in python_blocks()], ids=[name for name, _ in python_blocks()])
def test_code_block_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs", "exec"), {})  # our own documentation


@pytest.mark.parametrize("page", WHOLE, ids=name_of)
def test_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    run_page(page.read_text(encoding="utf-8"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in WHOLE if "test: slow" in page.read_text("utf-8")], ids=name_of)
def test_page_runs_with_its_slow_blocks(page: Path, tmp_path: Path) -> None:
    run_page(page.read_text(encoding="utf-8"), tmp_path, slow=True)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


# The runner itself: what fails must be seen.


def test_failing_blocks_fail(tmp_path: Path) -> None:
    for number, block in enumerate(("```bash\nfalse\ntrue\n```", "```python\nraise SystemExit(3)\n```")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(AssertionError, match="status"):
            run_page(block, folder)


def test_blocks_share_a_folder_and_skipped_ones_do_not_run(tmp_path: Path) -> None:
    page = (
        "```python\nopen('a', 'w').write('8')\n```\n<!-- test: skip (why) -->\n```bash\nfalse\n```\n"
        "```bash\ntest -s a\n```\n```text\nno code\n```\n"
    )
    run_page(page, tmp_path)
    assert len(blocks(page)) == 3


def test_servers_are_waited_for_and_stopped(tmp_path: Path) -> None:
    page = (
        "<!-- test: server (http://127.0.0.1:8080/) -->\n```bash\nsleep 1\necho $$ > pid\n"
        "exec python -m http.server 8080 --bind 127.0.0.1\n```\n"
        "```python\nimport urllib.request as u\nassert u.urlopen('http://127.0.0.1:8080/pid').status == 200\n```\n"
    )
    run_page(page, tmp_path)
    pid = int((tmp_path / "work" / "pid").read_text())
    time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


def test_servers_that_end_early_are_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the server ended"):
        run_page("<!-- test: server (http://127.0.0.1:8080/) -->\n```bash\necho no >&2; false\n```\n", tmp_path)
