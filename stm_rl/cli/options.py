"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EnvId = Annotated[str, typer.Argument(help="Environment id; `stm-rl envs` lists them.")]
Transcripts = Annotated[
    list[str] | None,
    typer.Option(
        help="Your own transcripts, in any of the formats below; FORMAT:PATH where the name does not tell. Repeatable: "
        "in training every set has the same share of episodes.",
        metavar="PATH",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        help="Format of the transcripts: auto, messages, sharegpt, text, stories, fountain, play, locomo, babi, sgd, "
        "multiwoz, irc."
    ),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out records that cannot be read, and count them.")]
Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        help="Reward term and its weight, instead of the environment's: the name of a built-in term, or module:Name of "
        "your own, with options in brackets if it takes any. Repeatable.",
        metavar="TERM=WEIGHT",
    ),
]
Limit = Annotated[int | None, typer.Option(help="Take only the first transcripts.", min=1)]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Setting of the environment, for instance `--set slots=8`. Repeatable.",
        metavar="NAME=VALUE",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--lm",
        help="Language model: tiny (embedded), a folder or Hugging Face id of a causal or masked model, "
        "openai:MODEL[@URL] behind a server, vllm:MODEL, or none if no reward term needs one.",
    ),
]
Device = Annotated[str, typer.Option(help="Torch device of the language model: cpu, cuda, auto.")]
Dtype = Annotated[str, typer.Option(help="Torch dtype of the language model.")]
AgentDevice = Annotated[
    str, typer.Option("--device", help="Torch device of language models, those that decide too: cpu, cuda, auto.")
]
AgentDtype = Annotated[str, typer.Option("--dtype", help="Torch dtype of language models, those that decide too.")]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile a causal model with torch.compile; worth its minutes on a GPU, not on a CPU."
    ),
]
Cache = Annotated[
    str | None,
    typer.Option(
        help="Folder in which scores are kept from run to run, or none; $STM_RL_CACHE or the usual place for caches "
        "unless given.",
        metavar="PATH",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        help="Divide the work among the machines of a Ray cluster: its address, HOST:PORT as `ray start --head` prints "
        "it, or local to start one on this machine.",
        metavar="ADDRESS",
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option(help="Processes on the Ray cluster; one for each GPU, or without GPUs each CPU, unless given.", min=1),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int, typer.Option(help="Seeds everything.")]

LabelFile = Annotated[
    Path | None, typer.Option(help="File of labels, as `stm-rl label` writes it; in the run folder unless given.")
]
PositionalTranscripts = Annotated[
    list[str] | None,
    typer.Argument(
        help="Transcripts, in any of the formats below; FORMAT:PATH where the name does not tell. Without any: those "
        "of --env.",
        metavar="TRANSCRIPTS",
    ),
]
ImitatedEnv = Annotated[str, typer.Option("--env", help="Environment id; `stm-rl envs` lists them.")]
Lookback = Annotated[int, typer.Option(help="Most turns back that a turn is tried.", min=1)]
Prefilter = Annotated[
    str,
    typer.Option(
        help="Which turns are tried at a step: none (all), words (those that share a word with what comes next), "
        "embedding (those most similar to it)."
    ),
]
Candidates = Annotated[int, typer.Option(help="Turns tried at a step with the prefilter embedding.", min=1)]
NoiseLevel = Annotated[
    float | None,
    typer.Option(help="Gains below this many nats count as 0; measured on reads that cannot help unless given.", min=0),
]
Signal = Annotated[
    str,
    typer.Option(
        help="What labels come from: lm, or text (what later turns take up of earlier ones; needs no model, and is "
        "what --lm none means)."
    ),
]
