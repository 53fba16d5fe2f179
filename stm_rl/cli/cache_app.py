"""The commands ``stm-rl cache``, their options and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from stm_rl.cli.options import Json

cache_app = typer.Typer(
    help="The cache on disk of what language models scored: no score is computed twice.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Folder = Annotated[
    str | None,
    typer.Option("--cache", help="Folder of the cache; $STM_RL_CACHE or the usual one unless given.", metavar="PATH"),
]


@cache_app.command()
def info(cache: Folder = None, as_json: Json = False) -> None:
    """Say where the cache is, how large, and how many scores of which models it holds.

    Example: `stm-rl cache info --json`
    """
    from stm_rl.cli.cache import run_info

    run_info(cache, as_json=as_json)


@cache_app.command()
def clear(
    model: Annotated[
        str | None, typer.Option(help="Delete the scores of this model only; `stm-rl cache info` lists them.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cache: Folder = None,
    as_json: Json = False,
) -> None:
    """Delete scores. They are computed anew when they are needed.

    Examples:
    `stm-rl cache clear --yes`

    `stm-rl cache clear --model Qwen/Qwen3-0.6B`
    """
    from stm_rl.cli.cache import run_clear

    run_clear(cache, model, sure=yes, as_json=as_json)
