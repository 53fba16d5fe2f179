"""``stm-rl compare`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stm_rl.cli.options import Cache, Device, Dtype, Format, Json, Limit, Model, Seed, Sets, SkipBad, Transcripts


def compare(
    agent: Annotated[
        str,
        typer.Argument(
            help="Who decides what to remember: a run folder, or the name of a baseline, informed or oracle.",
            metavar="AGENT",
        ),
    ],
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            help="Environment id; repeatable. Unless given: the dialogue, story and screenplay worlds.",
            metavar="ENV",
        ),
    ] = None,
    transcripts: Transcripts = None,
    episodes: Annotated[int, typer.Option(help="Held-out episodes of each environment.", min=1)] = 20,
    samples: Annotated[
        str,
        typer.Option(
            help="greedy: the likeliest text. A number: draw at this temperature, both texts with the same random "
            "numbers.",
            metavar="greedy|TEMPERATURE",
        ),
    ] = "greedy",
    encoder: Annotated[
        str, typer.Option(help="Embeds texts for the measure of relevance: tiny, minilm, or a causal model.")
    ] = "tiny",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; the run folder, or runs/compare-AGENT for a baseline, unless given."),
    ] = None,
    format: Format = "auto",
    limit: Limit = None,
    skip_bad: SkipBad = False,
    set_: Sets = None,
    lm: Model = "tiny",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    cache: Cache = None,
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Continue stories, dialogues and screenplay scenes with and without memory, and measure both texts.

    The same model writes both, from the same states: once with what the agent read from its memory in front of the
    window, once with the window alone. Writes continuations.jsonl, which `stm-rl review` shows to people, and
    comparison.json.

    Examples:
    `stm-rl compare runs/demo`

    `stm-rl compare runs/demo --env stm_rl/Story-Hard-v0 --episodes 50 --samples 0.8`

    `stm-rl compare similarity --transcripts chats.jsonl --lm Qwen/Qwen3-0.6B --out runs/chats`
    """
    from stm_rl.cli.compare import CompareRequest, run_compare

    request = CompareRequest(
        env="",
        envs=env or [],
        transcripts=transcripts or [],
        format=format,
        limit=limit,
        sets=set_ or [],
        skip_bad=skip_bad,
        lm=lm,
        device=device,
        dtype=dtype,
        cache=cache,
        seed=seed,
        threads=threads,
        agent=agent,
        episodes=episodes,
        samples=samples,
        encoder=encoder,
        out=out,
    )
    run_compare(request, as_json=as_json)
