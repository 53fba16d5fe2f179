"""Options that take several values at once: ``--slots 4 8 16``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


def spread(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    """Return arguments in which each value of the ``options`` has the option in front of it.

    ``--slots 4 8,16`` and ``--slots=4 --slots 8 --slots 16`` give the same. A value is a number or numbers joined by
    commas; the first argument that is neither ends the list, and what is no value stays as it is.
    """
    result: list[str] = []
    option, values = "", 0
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in options:
            _close(result, option, values)
            option, values = name, 0
            if not equals:
                continue
            argument = value
        parts = [part.strip() for part in argument.split(",")]
        if option and all(part.lstrip("+-").isdigit() for part in parts):
            for part in parts:
                result += [option, part]
            values += len(parts)
            continue
        _close(result, option, values)
        option = ""
        result.append(argument)
    _close(result, option, values)
    return result


def _close(result: list[str], option: str, values: int) -> None:
    """Leave an option without a value as it is, so that it is complained about."""
    if option and not values:
        result.append(option)


class ManyValues(TyperCommand):
    """A command without positional arguments some of whose list options take several numbers at once."""

    many = ("--slots", "--tasks")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Spread the values before they are parsed."""
        return super().parse_args(ctx, spread(args, self.many))
