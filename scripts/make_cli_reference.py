#!/usr/bin/env python3
"""Write docs/reference/cli.md, the reference of the command line, from the help of the commands themselves.

python scripts/make_cli_reference.py           # write it
python scripts/make_cli_reference.py --check   # fail if it is stale
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from generated import write_or_check

from stm_rl.cli.app import app

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
HEAD = """# Command line

<!-- Written by scripts/make_cli_reference.py; do not edit by hand. -->

What `stm-rl COMMAND --help` says, on one page. A command that is given something wrong says in one line what it got,
what it expected and what to do, and ends with status 2.
"""


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its full name."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
    else:
        for key in below:
            yield from commands(below[key], f"{name} {key}")


def section(name: str, command: Any) -> str:
    """Return what the page says about a command."""
    parts = [f"## {name}", *prose(command.help or "")]
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    if shown:
        parts.append("\n".join(["| option | | default |", "|---|---|---|", *map(row, shown)]))
    return "\n\n".join(parts).replace("\n```\n\n```bash\n", "\n")  # examples in a row are one block


def prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; an example that is a command alone becomes a block."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        said = re.sub(r"^Examples?:\s*", "", paragraph).replace("\n", " ")
        example = re.fullmatch(r"`([^`]+)`(.*)", said)
        if example is None:
            yield said
            continue
        rest = example[2].strip(" .,")
        yield f"```bash\n{example[1]}{'  # ' + rest if rest else ''}\n```"


def row(parameter: Any) -> str:
    """Return the row of an argument or option."""
    option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if option else [metavar(parameter)]
    value = "" if not option or getattr(parameter, "is_flag", False) else " " + metavar(parameter)
    shown = ", ".join(f"`{name}{value}`" for name in names)
    help_text = (parameter.help or "").replace("|", "\\|").replace("\n", " ")
    if parameter.envvar:
        help_text += f" Environment: `{parameter.envvar}`."
    return f"| {shown} | {help_text} | {default(parameter)} |"


def metavar(parameter: Any) -> str:
    """Return what stands for an option's value."""
    return str(parameter.metavar or parameter.name.strip("_").upper())


def default(parameter: Any) -> str:
    """Return the default as one would type it; empty for none."""
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False or value in ((), [], "") or callable(value):
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(f"`{item}`" for item in value)
    return "on" if value is True else f"`{value}`"


def page() -> str:
    """Return the whole page."""
    sections = [section(name, command) for name, command in commands(typer.main.get_command(app), "stm-rl")]
    return HEAD + "\n" + "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    write_or_check(PAGE, page, __doc__)
