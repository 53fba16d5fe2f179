"""A headless Chromium for tests of pages: `with page_of(width=390) as (page, problems): ...`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"]
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def chromium() -> str:
    """Return the path of Chromium; skip the test where it or Playwright is missing."""
    pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    path = shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(path).exists():
        pytest.skip("needs Chromium on PATH: apt-get install chromium")
    return path


def is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"file", "data", "blob", "about"} or parts.hostname in LOOPBACK


@contextmanager
def browser_of() -> Iterator[Any]:
    """Start Chromium; several pages may use it, one after the other."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(
    width: int = 1280,
    height: int = 800,
    scheme: Literal["light", "dark"] = "light",
    browser: Any = None,
    **context: Any,
) -> Iterator[tuple[Any, list[str]]]:
    """Open an empty page of ``width`` x ``height`` CSS pixels; yield it and the list of what went wrong on it so far.

    Problems are errors on the console, errors of scripts, requests that failed and requests to other hosts, of
    which Chromium finds none.

    Args:
        width: Of the window.
        height: Of the window.
        scheme: Which colours the user likes.
        browser: Of :func:`browser_of`; by default one is started for this page.
        context: More settings of Playwright's ``new_context``, such as ``has_touch``.
    """
    if browser is None:
        with browser_of() as started, page_of(width, height, scheme, started, **context) as opened:
            yield opened
        return
    problems: list[str] = []

    def asked(request: Any) -> None:
        if not is_local(request.url):
            problems.append(f"other host: {request.url}")

    def failed(request: Any) -> None:
        # Downloads and pages that stop a request of their own are reported as aborted.
        if is_local(request.url) and "ERR_ABORTED" not in (request.failure or ""):
            problems.append(f"request failed: {request.url} {request.failure}")

    size = {"width": width, "height": height}
    visit = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", **context)
    try:
        visit.set_default_timeout(20_000)
        page = visit.new_page()
        page.on("console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(f"script: {error}"))
        page.on("request", asked)
        page.on("requestfailed", failed)
        yield page, problems
    finally:
        visit.close()
