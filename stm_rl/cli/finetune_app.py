"""``stm-rl finetune`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stm_rl.cli.options import (
    Cache,
    Candidates,
    Compile,
    Device,
    Dtype,
    Format,
    ImitatedEnv,
    Json,
    LabelFile,
    Limit,
    Lookback,
    Model,
    NoiseLevel,
    Prefilter,
    Rewards,
    Seed,
    Sets,
    Signal,
    SkipBad,
    Transcripts,
)


def finetune(
    env: ImitatedEnv = "stm_rl/Dialogue-v0",
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/finetune"),
    method: Annotated[
        str,
        typer.Option(
            help="sft: imitate the hindsight expert. grpo: learn from what follows decisions in the same state. ppo: "
            "learn from whole episodes. dpo: learn from pairs of better and worse decisions."
        ),
    ] = "sft",
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model that decides: tiny-tools (embedded; the default), a folder or a Hugging Face id of a "
            "causal model."
        ),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Start from the model of this run of `stm-rl finetune` instead of --model.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, such as configs/finetune-gpu.yaml; options here win.")
    ] = None,
    peft: Annotated[str | None, typer.Option(help="lora: train low-rank additions only; none: all weights.")] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Transcripts to learn from; all, if there are fewer. [default: 300]", min=1)
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Rows of the data set: demonstrations, states or pairs that are drawn.", min=1)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of a round; TRL's max_steps.", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; TRL's learning_rate.")] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Rounds of DAgger after the first training by sft: the learner plays, the expert says what it would "
            "have done. [default: 2]",
            min=0,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Who plays on after decisions: expert, the name of a heuristic, or a run folder. [default: expert]"
        ),
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="For dpo: file of pairs, instead of pairs made here.")] = None,
    validate_every: Annotated[
        int | None, typer.Option(help="Training steps from one validation to the next; 0: none. [default: 0]", min=0)
    ] = None,
    labels: LabelFile = None,
    lookback: Lookback = 64,
    prefilter: Prefilter = "words",
    candidates: Candidates = 8,
    noise_level: NoiseLevel = None,
    signal: Signal = "lm",
    transcripts: Transcripts = None,
    format: Format = "auto",
    limit: Limit = None,
    skip_bad: SkipBad = False,
    set_: Sets = None,
    reward: Rewards = None,
    lm: Model = "tiny",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    compile: Compile = False,
    cache: Cache = None,
    seed: Seed = 0,
    eval_episodes: Annotated[
        int, typer.Option(help="Held-out episodes of the final evaluation; 0 for none.", min=0)
    ] = 200,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with its own settings.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Move an existing run folder aside and begin anew.")] = False,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Finetune a language model to keep its own memory by tool calls, with TRL, and evaluate it.

    --model decides; --lm is the frozen model that scores coherence. Training runs where TRL puts it: on a GPU if there
    is one, on several with `accelerate launch`. Needs `pip install 'stm-rl[trl]'`.

    Examples:
    `stm-rl finetune --method sft --out runs/sft`

    `stm-rl finetune --method grpo --init runs/sft --out runs/grpo`

    `stm-rl finetune --config configs/finetune-gpu.yaml --peft lora --lm Qwen/Qwen3-0.6B --device cuda --dtype bfloat16`

    `stm-rl finetune --resume --out runs/grpo`

    `stm-rl eval --agent runs/grpo --agent runs/sft`
    """
    from stm_rl_agents.loading import check_trl

    check_trl()
    from stm_rl.cli.finetune import FinetuneRequest, new_settings, run_finetune

    settings = None
    if not resume:
        settings = new_settings(
            method,
            config,
            steps,
            lr,
            model=model,
            peft=peft,
            transcripts=episodes,
            rows=rows,
            rounds=rounds,
            reference=reference,
            validation_every=validate_every,
            seed=seed,
        )
    request = FinetuneRequest(
        env=env,
        transcripts=transcripts or [],
        format=format,
        limit=limit,
        sets=set_ or [],
        rewards=reward or [],
        skip_bad=skip_bad,
        lm=lm,
        device=device,
        dtype=dtype,
        compile=compile,
        cache=cache,
        seed=seed,
        threads=threads,
        out=out,
        init=init.resolve() if init else None,
        pairs=pairs,
        labels=labels,
        signal=signal,
        lookback=lookback,
        prefilter=prefilter,
        candidates=candidates,
        noise_level=noise_level,
        eval_episodes=eval_episodes,
    )
    run_finetune(request, settings, force=force, as_json=as_json)
