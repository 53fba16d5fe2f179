"""The commands, their options and their help. Work is done elsewhere and imported when needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import stm_rl
from stm_rl.cli.cache_app import cache_app
from stm_rl.cli.compare_app import compare
from stm_rl.cli.demonstrate_app import demos_app
from stm_rl.cli.finetune_app import finetune
from stm_rl.cli.many import ManyValues
from stm_rl.cli.options import (
    AgentDevice,
    AgentDtype,
    Cache,
    Candidates,
    Compile,
    Device,
    Dtype,
    EnvId,
    Format,
    ImitatedEnv,
    Json,
    LabelFile,
    Limit,
    Lookback,
    Model,
    NoiseLevel,
    PositionalTranscripts,
    Prefilter,
    Ray,
    RayWorkers,
    Rewards,
    Seed,
    Sets,
    Signal,
    SkipBad,
    Transcripts,
)
from stm_rl.cli.plugin_app import init_app, validate_app
from stm_rl.cli.report_app import report
from stm_rl.cli.review_app import review_app
from stm_rl.cli.serve_app import serve

app = typer.Typer(
    help="""Teach a language model what to remember.

    Examples:
    `stm-rl train --preset demo --out runs/demo`

    `stm-rl eval --agent runs/demo`

    `stm-rl imitate chats.jsonl --out runs/chats`
    """,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(stm_rl.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def envs(as_json: Json = False) -> None:
    """List the environments.

    Example: `stm-rl envs --json`
    """
    from stm_rl.cli.envs import list_envs

    list_envs(as_json)


@app.command()
def train(
    env: EnvId = "stm_rl/Dialogue-v0",
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/train"),
    preset: Annotated[str, typer.Option(help="demo (minutes), full (under an hour), smoke (seconds).")] = "demo",
    steps: Annotated[int | None, typer.Option(help="Environment steps, instead of the preset's.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seeds everything.")] = 0,
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
    eval_episodes: Annotated[
        int, typer.Option(help="Held-out episodes of the final evaluation; 0 for none.", min=0)
    ] = 200,
    init: Annotated[
        Path | None,
        typer.Option(help="Start from the policy in this folder, such as a clone, and not from scratch."),
    ] = None,
    kl_anchor: Annotated[
        float | None,
        typer.Option(
            help="Weight of the penalty for leaving the policy of --init; falls to 0 half-way. "
            "0.1 with --init unless given.",
            min=0,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with its own settings.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Move an existing --out aside and start anew.")] = False,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Train a PPO slot policy and evaluate it against every baseline.

    Examples:
    `stm-rl train stm_rl/Dialogue-v0 --preset demo --out runs/demo`

    `stm-rl train stm_rl/Story-v0 --reward coherence=1 --reward my_package.rewards:Politeness=0.2`

    `stm-rl train --transcripts chats.jsonl --out runs/chats --set slots=8`

    `stm-rl train --init runs/bc --kl-anchor 0.1 --out runs/bc-ppo`

    `stm-rl train --resume --out runs/demo`
    """
    from stm_rl.cli.train import TrainRequest, run_training

    request = TrainRequest(
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
        preset=preset,
        steps=steps,
        eval_episodes=eval_episodes,
        init=init,
        kl_anchor=kl_anchor,
    )
    run_training(request, resume=resume, force=force, as_json=as_json)


@app.command()
def label(
    transcripts: PositionalTranscripts = None,
    env: ImitatedEnv = "stm_rl/Dialogue-v0",
    out: Annotated[Path, typer.Option(help="File of labels; labels that are in it already are not made again.")] = Path(
        "labels.sqlite"
    ),
    episodes: Annotated[int, typer.Option(help="Transcripts to label of a procedural environment.", min=1)] = 500,
    lookback: Lookback = 64,
    prefilter: Prefilter = "words",
    candidates: Candidates = 8,
    noise_level: NoiseLevel = None,
    signal: Signal = "lm",
    format: Format = "auto",
    limit: Limit = None,
    skip_bad: SkipBad = False,
    set_: Sets = None,
    lm: Model = "tiny",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    compile: Compile = False,
    cache: Cache = None,
    seed: Seed = 0,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    report: Annotated[Path | None, typer.Option(help="Write the report here as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Find out what would have been worth remembering: hindsight labels of transcripts, and what they say.

    For each turn and each later step: how many nats better the model predicts what comes next if it reads that turn. An
    interrupted labelling goes on where it was.

    Examples:
    `stm-rl label chats.jsonl --out labels.sqlite`

    `stm-rl label --env stm_rl/Story-v0 --episodes 100 --json`

    `stm-rl label sgd:dev/ --lm Qwen/Qwen3-0.6B --device cuda --dtype bfloat16 --prefilter embedding`

    `stm-rl label chats.jsonl --ray 10.0.0.1:6379 --device cuda`
    """
    from stm_rl.cli.label import LabelRequest, run_label
    from stm_rl.cli.labels import LabelOptions

    request = LabelRequest(
        env=env,
        transcripts=transcripts or [],
        format=format,
        limit=limit,
        sets=set_ or [],
        skip_bad=skip_bad,
        lm=lm,
        device=device,
        dtype=dtype,
        compile=compile,
        cache=cache,
        seed=seed,
        threads=threads,
        episodes=episodes,
        ray=ray,
        ray_workers=ray_workers,
        options=LabelOptions(
            signal="text" if lm == "none" else signal,
            lookback=lookback,
            prefilter=prefilter,
            candidates=candidates,
            noise_level=noise_level,
        ),
    )
    run_label(request, out=out, report=report, as_json=as_json)


@app.command()
def imitate(
    transcripts: PositionalTranscripts = None,
    env: ImitatedEnv = "stm_rl/Dialogue-v0",
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/imitate"),
    method: Annotated[
        str,
        typer.Option(
            help="bc: behaviour cloning of what the hindsight expert does. dagger: then the learner plays, and the "
            "expert says what it would have done."
        ),
    ] = "dagger",
    loss: Annotated[
        str,
        typer.Option(
            help="Loss of behaviour cloning: cross-entropy, or regret (nats lost in hindsight), which the rounds of "
            "dagger minimise in any case."
        ),
    ] = "cross-entropy",
    episodes: Annotated[int, typer.Option(help="Transcripts to learn from; all, if there are fewer.", min=2)] = 500,
    rounds: Annotated[int | None, typer.Option(help="Rounds of dagger; 3 unless given.", min=1)] = None,
    labels: LabelFile = None,
    demonstrations: Annotated[
        Path | None,
        typer.Option(help="Clone these demonstrations (`stm-rl demos export`) instead of the hindsight expert."),
    ] = None,
    tools: Annotated[
        str | None,
        typer.Option(
            help="Clone what an assistant did with its memory tools: letta, mem0, stm-rl, or a YAML file that says "
            "which tool does what."
        ),
    ] = None,
    lookback: Lookback = 64,
    prefilter: Prefilter = "words",
    candidates: Candidates = 8,
    noise_level: NoiseLevel = None,
    signal: Signal = "lm",
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
    """Clone a memory policy from transcripts, and evaluate it against every baseline.

    Transcripts need no label: in hindsight the language model says what would have been worth remembering.

    Examples:
    `stm-rl imitate chats.jsonl --method bc --out runs/bc`

    `stm-rl imitate --env stm_rl/Story-v0 --episodes 500 --out runs/dagger`

    `stm-rl imitate agents.jsonl --method bc --tools letta --out runs/letta`

    `stm-rl train --init runs/dagger --out runs/dagger-ppo` goes on with PPO.
    """
    from stm_rl.cli.imitate import ImitateRequest, run_imitation

    request = ImitateRequest(
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
        method=method,
        loss=loss,
        episodes=episodes,
        rounds=rounds,
        labels=labels,
        demonstrations=demonstrations,
        tools=tools,
        signal=signal,
        lookback=lookback,
        prefilter=prefilter,
        candidates=candidates,
        noise_level=noise_level,
        eval_episodes=eval_episodes,
    )
    run_imitation(request, resume=resume, force=force, as_json=as_json)


@app.command()
def recurrent(
    env: Annotated[str, typer.Argument(help="Any Gymnasium id; MODULE:ID imports the module first.", metavar="ENV")],
    core: Annotated[
        str, typer.Option(help="Memory: lstm, gru, attentive, linear, attention, matrix, hashed or linked.")
    ] = "linear",
    core_option: Annotated[
        list[str] | None,
        typer.Option("--core-option", help="A size of the memory, as history=64. Repeatable.", metavar="NAME=NUMBER"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/recurrent"),
    steps: Annotated[int, typer.Option(help="Environment steps.", min=1)] = 1_000_000,
    num_envs: Annotated[int, typer.Option(help="Environments stepped together.", min=1)] = 64,
    rollout: Annotated[int, typer.Option(help="Steps of each environment in a rollout.", min=1)] = 128,
    minibatches: Annotated[int, typer.Option(help="Parts of a rollout; a divisor of --num-envs.", min=1)] = 8,
    epochs: Annotated[int, typer.Option(help="Passes over each rollout.", min=1)] = 4,
    width: Annotated[int, typer.Option(help="Width of encoder, memory and heads.", min=1)] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start; falls to a tenth.")] = 1e-3,
    gamma: Annotated[float, typer.Option(help="Discount. Where reward follows at once, 0.5 learns faster.")] = 0.99,
    entropy: Annotated[float, typer.Option(help="Weight of the entropy bonus.", min=0)] = 0.01,
    stagger: Annotated[
        int, typer.Option(help="Steps over which the environments begin, for long episodes of one length.", min=0)
    ] = 0,
    seed: Seed = 0,
    eval_episodes: Annotated[int, typer.Option(help="New episodes to evaluate on; 0: none.", min=0)] = 100,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out, with its settings.")] = False,
    force: Annotated[bool, typer.Option(help="Move an existing run folder aside.")] = False,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Train a recurrent policy with PPO: any neural memory, on any Gymnasium environment.

    Examples:
    `stm-rl recurrent CartPole-v1 --core gru --steps 200000 --out runs/cartpole`

    `stm-rl recurrent popgym:popgym-RepeatPreviousHard-v0 --core attention --core-option history=96 --gamma 0.5`

    `stm-rl recurrent CartPole-v1 --out runs/cartpole --resume`
    """
    from stm_rl.cli.recurrent import RecurrentRequest, parse_options, run_recurrent
    from stm_rl_agents.recurrent import RecurrentPPOSettings

    settings = RecurrentPPOSettings(
        core=core,
        core_options=parse_options(core_option or []),
        width=width,
        steps=steps,
        num_envs=num_envs,
        rollout=rollout,
        minibatches=minibatches,
        epochs=epochs,
        lr=lr,
        gamma=gamma,
        entropy=entropy,
        stagger=stagger,
        seed=seed,
    )
    request = RecurrentRequest(env, eval_episodes)
    run_recurrent(request, settings, out, resume=resume, force=force, threads=threads, as_json=as_json)


app.command()(finetune)
app.command()(report)
app.command()(serve)
app.command()(compare)


@app.command(name="eval")
def evaluate(
    env: EnvId = "stm_rl/Dialogue-v0",
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="A run folder, the name of a baseline, or NAME=FOLDER,FOLDER,... for one policy trained with "
            "several seeds. Repeatable. Baselines and references are always there.",
            metavar="AGENT",
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(help="Held-out episodes.", min=1)] = 200,
    transcripts: Transcripts = None,
    format: Format = "auto",
    limit: Limit = None,
    skip_bad: SkipBad = False,
    set_: Sets = None,
    reward: Rewards = None,
    lm: Model = "tiny",
    device: AgentDevice = "cpu",
    dtype: AgentDtype = "float32",
    compile: Compile = False,
    cache: Cache = None,
    seed: Annotated[int, typer.Option(help="Seeds random agents and the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write eval.json here, and episodes.json beside it.")] = None,
    traces: Annotated[Path | None, typer.Option(help="Write traces of the first episodes here.")] = None,
    ray: Ray = None,
    ray_workers: RayWorkers = None,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Evaluate agents on the same held-out episodes.

    Examples:
    `stm-rl eval --agent runs/demo`

    `stm-rl eval --agent runs/demo --set turns=80 --set entities=heldout --set templates=heldout`

    `stm-rl eval --transcripts chats.jsonl --agent runs/demo --json`

    `stm-rl eval --agent runs/demo --episodes 5000 --ray local --ray-workers 8`
    """
    from stm_rl.cli.evaluate import EvalRequest, run_evaluation

    request = EvalRequest(
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
        agents=agent or [],
        episodes=episodes,
        ray=ray,
        ray_workers=ray_workers,
    )
    run_evaluation(request, out=out, traces=traces, as_json=as_json)


bench = typer.Typer(help="Measure memories against known evidence.", no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(bench, name="bench")
app.add_typer(init_app, name="init")
app.add_typer(validate_app, name="validate")
app.add_typer(demos_app, name="demos")
app.add_typer(review_app, name="review")
app.add_typer(cache_app, name="cache")


@bench.command(name="recall", cls=ManyValues)
def bench_recall(
    data: Annotated[Path, typer.Option(help="Annotated data: a file or folder.")],
    format: Format = "auto",
    slots: Annotated[list[int] | None, typer.Option(help="Sizes of the memory: `--slots 4 8 16`.", min=1)] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="A run folder, or NAME=FOLDER,FOLDER,... for one policy trained with several seeds. Repeatable. "
            "Heuristics and the optimum are always there.",
            metavar="AGENT",
        ),
    ] = None,
    tasks: Annotated[list[int] | None, typer.Option(help="bAbI tasks: `--tasks 2 3`; all by default.")] = None,
    split: Annotated[str, typer.Option(help="Part of the data: train, validation, test, or all.")] = "all",
    limit: Limit = None,
    skip_bad: SkipBad = False,
    metric: Annotated[str, typer.Option(help="joint (all evidence held), mean (share held), or both.")] = "both",
    seed: Annotated[int, typer.Option(help="Seeds random keepers and the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the report here as JSON.")] = None,
    threads: Annotated[int, typer.Option(help="Torch threads.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Measure evidence recall at a budget of slots, for heuristics, policies and the clairvoyant optimum.

    Examples:
    `stm-rl bench recall --format sgd --data data/sgd/dev --slots 4 8 16`

    `stm-rl bench recall --data data/babi --tasks 2 3 --slots 4 --agent runs/recall --json`
    """
    from stm_rl.cli.bench import RecallRequest, run_recall

    request = RecallRequest(
        data=data,
        format=format,
        slots=slots or (4, 8, 16),
        agents=agent or [],
        tasks=tasks or [],
        split=split,
        limit=limit,
        skip_bad=skip_bad,
        metric=metric,
        seed=seed,
        threads=threads,
    )
    run_recall(request, out=out, as_json=as_json)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="File or folder to read.", metavar="IN")],
    out: Annotated[Path, typer.Argument(help="File to write: .jsonl, or .fountain for one screenplay.")],
    format: Format = "auto",
    limit: Limit = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Convert transcripts of any format to messages JSONL, with all that is known about them.

    Examples:
    `stm-rl convert data/babi babi.jsonl`

    `stm-rl convert chats.json chats.jsonl --format sharegpt --skip-bad`
    """
    from stm_rl.cli.convert import run_convert

    run_convert(source, out, format, skip_bad=skip_bad, limit=limit, as_json=as_json)
