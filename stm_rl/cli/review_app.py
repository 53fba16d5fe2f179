"""``stm-rl review`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stm_rl.cli.options import Json

PAGE = "page"


class _PageUnlessNamed(TyperGroup):
    """``stm-rl review runs/x`` is ``stm-rl review page runs/x``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the usual command in front, unless one is named."""
        if args and args[0] not in (*self.commands, "--help"):
            args = [PAGE, *args]
        return super().parse_args(ctx, args)


review_app = typer.Typer(
    cls=_PageUnlessNamed,
    help="""People compare texts written with and without memory, blind and in random order.

    `stm-rl compare runs/x` writes the texts. Needs `pip install 'stm-rl[review]'`.

    Examples:
    `stm-rl review runs/x --rater anna --open`

    `stm-rl review results runs/x`

    `stm-rl review export runs/x --out pairs.jsonl`
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Run = Annotated[Path, typer.Argument(help="Folder that `stm-rl compare` wrote.", metavar="RUN")]


@review_app.command(name=PAGE)
def page(
    run: Run,
    rater: Annotated[str | None, typer.Option(help="Who rates; the page asks unless given.")] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: any that is free.", min=0, max=65535)] = 8766,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    sample: Annotated[int | None, typer.Option(help="Show so many pairs, drawn at random.", min=1)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seeds the draw and all orders; kept with the ratings. [default: 0]", min=0)
    ] = None,
) -> None:
    """Serve the page on which people compare (the usual command: its name may be left out).

    Ratings are kept in RUN/review.sqlite. Stop with Ctrl-C; start again to go on. Several people may rate at once.
    """
    from stm_rl.cli.review import run_page

    run_page(run, rater, port, open_, sample, seed)


@review_app.command()
def results(run: Run, as_json: Json = False) -> None:
    """Say who won, by how much, and whether raters agree; write it to RUN/review.json.

    Example: `stm-rl review results runs/x`
    """
    from stm_rl.cli.review import run_results

    run_results(run, as_json)


@review_app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("pairs.jsonl"),
    decisions: Annotated[
        bool,
        typer.Option(
            "--decisions",
            help="Write pairs of memory decisions, for `stm-rl finetune --method dpo --pairs`, instead of pairs of "
            "texts.",
        ),
    ] = False,
    instruction: Annotated[
        bool,
        typer.Option(
            "--instruction",
            help="With --decisions: prompts begin with the instruction, as models with a chat template of their own "
            "need it.",
        ),
    ] = False,
) -> None:
    """Write what people preferred as a data set for direct preference optimisation.

    Texts are written in TRL's format: prompt, chosen, rejected. Of several raters the majority counts.

    Examples:
    `stm-rl review export runs/x --out pairs.jsonl`

    `stm-rl review export runs/x --decisions --out decisions.jsonl`

    `stm-rl finetune --method dpo --init runs/sft --pairs decisions.jsonl --out runs/dpo`
    """
    from stm_rl.cli.review import run_export

    run_export(run, out, decisions, instruction)
