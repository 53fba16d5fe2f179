"""Makes the reference of the documentation site read our docstrings: mkdocs.yml gives this to mkdocstrings.

Cross-references such as ``:class:`~stm_rl.transcript.Turn` `` become links, and what a package takes from its modules
is shown at the module only.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|data|mod|meth|attr|exc|const):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Replaces roles in every docstring of a package, and leaves out what is imported."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through the package once it is loaded."""
        _visit(pkg, set())


def _visit(item: griffe.Object | griffe.Alias, seen: set[str]) -> None:
    if item.is_alias or item.path in seen:
        return
    seen.add(item.path)
    if item.is_module:
        item.exports = None
    if item.docstring:
        item.docstring.value = ROLE.sub(lambda match: _link(item, match), item.docstring.value)
    for member in item.members.values():
        _visit(member, seen)


def _link(item: griffe.Object | griffe.Alias, match: re.Match[str]) -> str:
    short, name = match[1] == "~", match[2]
    text = name.rpartition(".")[2] if short else name
    try:
        path = item.resolve(name.partition(".")[0]) + name[len(name.partition(".")[0]) :]
    except griffe.NameResolutionError:
        path = name
    return f'<autoref identifier="{path}" optional><code>{text}</code></autoref>'
