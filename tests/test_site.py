from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from xml.etree import ElementTree

import pytest
from helpers import load_script

REPO = Path(__file__).parent.parent
DOCS = REPO / "docs"
PACKAGES = {
    "stm_rl": REPO / "stm_rl",
    "stm_rl_envs": REPO / "envs/stm_rl_envs",
    "stm_rl_agents": REPO / "agents/stm_rl_agents",
}
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
"""What a browser fetches by itself, by element."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as scripts/docs does, in which every warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPO, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Elements(HTMLParser):
    """Collects what a page loads, where it links to, and the names in it that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag in LOADED and said.get("rel") != "canonical":
            self.loaded += [value for value in [said.get(LOADED[tag])] if value]
        if tag == "a" and said.get("href"):
            self.linked.append(str(said["href"]))
        self.names |= {value for value in [said.get("id")] if value}


@cache
def read(page: Path) -> Elements:
    elements = Elements()
    elements.feed(page.read_text(encoding="utf-8"))
    return elements


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        for target in read(page).loaded:
            assert not re.match(r"(\w+:)?//", target), f"{page.relative_to(site)} loads {target}"
            if page.name != "404.html" and not target.startswith("data:"):
                assert (page.parent / target.partition("?")[0]).exists(), f"{page.relative_to(site)} lacks {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_links_lead_to_pages_and_places_on_them(site: Path) -> None:
    pages = {page for page in site.rglob("*.html") if page.name != "404.html"}
    for page in pages:
        for link in set(read(page).linked):
            path, _, name = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            target = Path(os.path.normpath(page.parent / path)) if path else page
            assert target.exists(), f"{page.relative_to(site)} links to {link}"
            if name and target in pages:
                assert name in read(target).names, f"{page.relative_to(site)} links to {link}"


def test_search_needs_no_server_of_others(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any("coherence gain" in entry["text"].lower() for entry in index["docs"])


def test_every_public_module_is_in_the_reference() -> None:
    named = {
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M)
    }
    hidden = {"stm_rl.cli"}  # the command line has a page of its own
    for package, folder in PACKAGES.items():
        for path in folder.iterdir():
            module = f"{package}.{path.stem}"
            if path.name.startswith("_") or not (path.suffix == ".py" or (path / "__init__.py").exists()):
                continue
            assert module in hidden or {package, module} & named, f"{module} is in no page of docs/reference"


@pytest.mark.parametrize("name", ["make_cli_reference", "make_results_page"])
def test_generated_pages_are_fresh(name: str) -> None:
    script = load_script(name)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), f"run: python scripts/{name}.py"


def test_no_option_is_left_out_of_the_reference() -> None:
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    for text in ("## stm-rl train", "`--preset PRESET`", "## stm-rl serve", "`STM_RL_PORT`", "## stm-rl demos export"):
        assert text in page


def test_results_page_says_where_a_table_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("make_results_page")
    lost = script.Quoted("Lost", "", "README.md", "| no | such |")
    with pytest.raises(ValueError, match=r"README\.md has 0 tables that begin with '\| no \| such \|'; expected 1"):
        script.quote(lost)


def test_evaluations_become_tables(tmp_path: Path) -> None:
    script = load_script("make_results_page")
    numbers = {"mean": -1.25, "ci95": [-2.0, 0.5]}
    agent = {
        "return": numbers,
        "coherence_gain": numbers,
        "evidence_recall": None,
        "writes_per_turn": 1.0,
        "reads_per_turn": 0,
    }
    report = {
        "env": "stm_rl/Story-v0",
        "settings": {"slots": 4},
        "episodes": 9,
        "agents": {"none": agent, "expert": agent},
    }
    path = tmp_path / "story.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    said = script.evaluation(path)
    assert "| `none` | −1.25 [−2.00, 0.50] | −1.25 [−2.00, 0.50] | – | 1.00 | 0.00 |" in said
    assert "stm-rl eval stm_rl/Story-v0 --episodes 9 --agent expert --out docs/results/story.json" in said
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"story\.json has no agents, env, episodes, settings"):
        script.evaluation(path)


@pytest.mark.parametrize("figure", sorted((DOCS / "figures").glob("*.svg")), ids=lambda path: path.name)
def test_figures_are_whole_and_follow_the_colours_of_the_reader(figure: Path) -> None:
    text = figure.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert "prefers-color-scheme: dark" in text
    assert "href" not in text


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site on this machine; return its address."""
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_pages_open_in_a_browser(address: str, width: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    arguments = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
    complaints: list[str] = []
    ours = (address, "data:", f"blob:{address}")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.set_default_timeout(60_000)
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: complaints.extend([] if asked.url.startswith(ours) else [asked.url]))
        for name in ("index", "tutorial", "concepts", "results", "reference/cli", "reference/agents"):
            page.goto(f"{address}/{name}.html")
            too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert too_wide <= 0, f"{name} is {too_wide} pixels too wide"
        if width > 1000:
            page.get_by_role("textbox", name="Search").fill("hindsight")
            page.locator(".md-search-result__link").first.wait_for()
        browser.close()
    assert not complaints
