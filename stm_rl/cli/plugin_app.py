"""The commands ``stm-rl init`` and ``stm-rl validate``, their options and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stm_rl.cli.options import Format, Json, Model, Rewards, Seed, Sets

init_app = typer.Typer(
    help="Write a small package of your own: an environment or a reward.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
validate_app = typer.Typer(
    help="Check an environment, a reward, transcripts or a policy, and say what to change. Exit status 1 if there is "
    "an error.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Name = Annotated[str, typer.Argument(help="Name of the package, such as my_env: small letters, digits, underscores.")]
Parent = Annotated[Path, typer.Option("--out", help="Folder to make the package's folder in.")]


@init_app.command(name="env")
def init_env(name: Name, out: Parent = Path()) -> None:
    """Write a package with an environment of your own.

    Example: `stm-rl init env my_env`
    """
    from stm_rl.cli.init import init_package

    init_package("env", name, out)


@init_app.command(name="reward")
def init_reward(name: Name, out: Parent = Path()) -> None:
    """Write a package with reward terms of your own.

    Example: `stm-rl init reward my_reward`
    """
    from stm_rl.cli.init import init_package

    init_package("reward", name, out)


@validate_app.command(name="env")
def validate_env(
    target: Annotated[str, typer.Argument(help="Environment id, or module:id of one in a package of your own.")],
    set_: Sets = None,
    reward: Rewards = None,
    lm: Model = "tiny",
    episodes: Annotated[int, typer.Option(help="Held-out episodes that agents play.", min=2)] = 16,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Check an environment: API, seeds, snapshots, speed, no look ahead, and that memory alone pays.

    Example: `stm-rl validate env my_env:my_env/MyEnv-v0`
    """
    from stm_rl.cli.validate import validate_env as validate

    raise typer.Exit(
        validate(target, sets=set_ or [], rewards=reward or [], lm=lm, episodes=episodes, seed=seed, as_json=as_json)
    )


@validate_app.command(name="reward")
def validate_reward(
    target: Annotated[
        list[str], typer.Argument(help="Reward term and its weight (1 if left out); several make one reward.")
    ],
    env: Annotated[
        list[str] | None,
        typer.Option(help="Environment to try it in, instead of dialogue, story and screenplay. Repeatable."),
    ] = None,
    set_: Sets = None,
    lm: Model = "tiny",
    episodes: Annotated[int, typer.Option(help="Episodes in each environment.", min=1)] = 6,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Check a reward: finite, the same for the same step, 0 without memory, and no gift to fixed rules.

    Examples:
    `stm-rl validate reward coherence=1 recall=0.5`

    `stm-rl validate reward my_reward.rewards:Politeness=0.2`
    """
    from stm_rl.cli.validate import validate_reward as validate

    raise typer.Exit(
        validate(target, envs=env or [], sets=set_ or [], lm=lm, episodes=episodes, seed=seed, as_json=as_json)
    )


@validate_app.command(name="transcripts")
def validate_transcripts(
    target: Annotated[Path, typer.Argument(help="File or folder of transcripts.")],
    format: Format = "auto",
    limit: Annotated[int, typer.Option(help="Look at the first transcripts only.", min=1)] = 5000,
    memory: Annotated[
        bool, typer.Option("--memory", help="Estimate how often memory matters, with the language model (slower).")
    ] = False,
    lm: Model = "tiny",
    as_json: Json = False,
) -> None:
    """Check transcripts: bad records, amount, lengths, speakers, labels, duplicates.

    Example: `stm-rl validate transcripts chats.jsonl --memory`
    """
    from stm_rl.cli.validate import validate_transcripts as validate

    raise typer.Exit(validate(target, format=format, limit=limit, lm=lm, memory=memory, as_json=as_json))


@validate_app.command(name="policy")
def validate_policy(
    target: Annotated[Path, typer.Argument(help="Run folder, as `stm-rl train` writes it.")],
    episodes: Annotated[int, typer.Option(help="Held-out episodes.", min=2)] = 32,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Check a trained policy: legal, deterministic, blind to the order of slots, and better than nothing.

    Example: `stm-rl validate policy runs/demo`
    """
    from stm_rl.cli.validate import validate_policy as validate

    raise typer.Exit(validate(target, episodes=episodes, seed=seed, as_json=as_json))
