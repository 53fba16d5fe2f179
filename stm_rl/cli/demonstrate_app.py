"""The commands ``stm-rl demos``, their options and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stm_rl.cli.options import Device, Dtype, Json, Limit, Model, Rewards, Seed, Sets, SkipBad

demos_app = typer.Typer(
    help="Demonstrations for offline learning: what an agent saw and did.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@demos_app.command()
def export(
    transcripts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Your own transcripts to play instead of the environment's; FORMAT:PATH where the name does not tell.",
            metavar="TRANSCRIPTS",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demos"),
    env: Annotated[str, typer.Option(help="Environment id; `stm-rl envs` lists them.")] = "stm_rl/Dialogue-v0",
    agent: Annotated[
        str,
        typer.Option(
            help="Who plays: expert (in hindsight), the name of a baseline, oracle, informed, or a run folder.",
            metavar="AGENT",
        ),
    ] = "expert",
    episodes: Annotated[int, typer.Option(help="Episodes of the train split.", min=1)] = 500,
    to: Annotated[
        str, typer.Option("--format", help="Format to write: minari, or datasets (Hugging Face).")
    ] = "minari",
    limit: Limit = None,
    skip_bad: SkipBad = False,
    set_: Sets = None,
    reward: Rewards = None,
    lm: Model = "tiny",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Move an existing --out aside and write anew.")] = False,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Play an agent and write what it saw, did and earned as a dataset.

    Examples:
    `stm-rl demos export --env stm_rl/Dialogue-v0 --agent informed --episodes 500 --out demos/informed`

    `stm-rl demos export chats.jsonl --agent runs/chats --out demos/chats --format datasets`
    """
    from stm_rl.cli.demonstrate import ExportRequest, run_export

    request = ExportRequest(
        env=env,
        transcripts=transcripts or [],
        format="auto",
        limit=limit,
        sets=set_ or [],
        rewards=reward or [],
        skip_bad=skip_bad,
        lm=lm,
        device=device,
        dtype=dtype,
        seed=seed,
        threads=threads,
        agent=agent,
        episodes=episodes,
        out=out,
        to=to,
        force=force,
    )
    run_export(request, as_json=as_json)


@demos_app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Folder that `stm-rl demos export` wrote.")],
    as_json: Json = False,
) -> None:
    """Say what demonstrations are: where they come from, how many, what they earn.

    Example: `stm-rl demos show demos/informed`
    """
    from stm_rl.cli.demonstrate import run_show

    run_show(folder, as_json=as_json)
