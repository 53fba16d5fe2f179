"""Hooks of the documentation site (mkdocs.yml).

Markdown here reads well on a code host as well: it links to files of the repository by relative paths, also out of
``docs/``. For the site those files are added under their path in the repository, Markdown as pages and the rest as they
are, and the links are made to lead there.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPO = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")
HOME = "README.md"
"""Its place is taken by ``docs/index.md``."""


def links(text: str, page: str) -> list[str]:
    """Return the files, relative to the repository, that a page (its path likewise) links to."""
    return [_target(match[2], page) for match in LINK.finditer(text)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages and the navigation name out of ``docs/``, and what those link to in turn."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    done = set(waiting)
    waiting += [path for path in _pages(config.nav) if _outside(path)]
    while waiting:
        path = waiting.pop()
        if path not in done:
            done.add(path)
            files.append(File.generated(config, path, abs_src_path=str(REPO / path)))
        if path.endswith(".md"):
            found = links((REPO / path).read_text(encoding="utf-8"), path)
            waiting += [link for link in found if link not in done and _outside(link)]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Make links out of ``docs/``, and links of pages from there, lead to their places on the site."""
    source = _in_repository(page.file)

    def replace(match: re.Match[str]) -> str:
        uri = _on_site(_target(match[2], source))
        return match[1] + posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".") + match[3]

    return LINK.sub(replace, markdown)


def _pages(nav: Any) -> list[str]:
    """Return all paths of a navigation."""
    if isinstance(nav, str):
        return [nav]
    below = nav.values() if isinstance(nav, dict) else nav or []
    return [path for item in below for path in _pages(item)]


def _target(link: str, page: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _outside(path: str) -> bool:
    return not path.startswith("docs/") and path != HOME and (REPO / path).is_file()


def _on_site(path: str) -> str:
    return "index.md" if path == HOME else path.removeprefix("docs/")


def _in_repository(file: File) -> str:
    return file.src_uri if file.generated_by else f"docs/{file.src_uri}"
