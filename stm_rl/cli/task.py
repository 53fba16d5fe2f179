"""What is trained or evaluated on: an environment id or a file of transcripts, and a language model."""

from __future__ import annotations

import difflib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from transformers.utils import logging as transformers_logging

from stm_rl.errors import StmError
from stm_rl.lm import LanguageModel, ScoringEngine, load_engine
from stm_rl.lm.prompt import line
from stm_rl.readers import read_transcripts
from stm_rl.transcript import Transcript
from stm_rl_envs.episodes import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

RESERVED = {
    "lm": "give the language model with --lm",
    "split": "train uses the train and validation splits, and evaluations the test split",
    "num_envs": "the preset says how many environments run together",
    "full_context": "every evaluation lists the agent full-context",
    "autoreset": "training needs it on and evaluation off",
}
"""Options of environments that the command line sets itself, with what to do instead."""
SPLIT_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0), "all": (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Task:
    """Makes the environments of one training or evaluation.

    Attributes:
        name: Environment id, or ``transcripts:FILE``.
        engine: Scores turns.
        overrides: Environment settings given by the user.
        transcripts: The user's transcripts, if any.
    """

    name: str
    engine: ScoringEngine
    overrides: dict[str, Any] = field(default_factory=dict)
    transcripts: tuple[Transcript, ...] = ()

    def make(
        self,
        num_envs: int,
        split: str = "train",
        autoreset: bool = True,
        full_context: bool = False,
        **overrides: Any,
    ) -> MemoryVectorEnv:
        """Make ``num_envs`` environments on a split."""
        options = self.overrides | overrides
        if self.transcripts:
            settings = MemorySettings(full_context=full_context, **options)
            chosen = split_transcripts(self.transcripts, split)
            return MemoryVectorEnv(num_envs, chosen, settings=settings, lm=self.engine, autoreset=autoreset)
        env = gym.make_vec(
            self.name,
            num_envs,
            vectorization_mode="vector_entry_point",
            split=split,
            lm=self.engine,
            autoreset=autoreset,
            full_context=full_context,
            **options,
        ).unwrapped
        if not isinstance(env, MemoryVectorEnv):
            raise TypeError(f"{type(env).__name__} is no MemoryVectorEnv")
        return env

    def check(self) -> None:
        """Play one step, so that what cannot work is an error before anything is written.

        Raises:
            StmError: The environment, its settings and the language model do not go together.
        """
        try:
            env = self.make(1, full_context=True)  # so that the model is asked whatever the action
            env.reset(seed=0)
            env.step(np.zeros((1, 1 + env.episodes.settings.reads), np.int64))
        except (TypeError, AttributeError, gym.error.Error) as error:
            given = ", ".join(f"{name}={value!r}" for name, value in self.overrides.items())
            advice = "the settings of transcripts are slots, window, reads and max_steps"
            if not self.transcripts:
                module = str(gym.spec(self.name).entry_point).partition(":")[0]
                advice = f"`stm-rl envs` lists the environments, `python -m pydoc {module}` the settings of this one"
            raise StmError(f"cannot play {self.name} with {given or 'its defaults'} ({error}); {advice}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """The command-line values that ``stm-rl train`` and ``stm-rl eval`` share; see their ``--help``."""

    env: str
    transcripts: Path | None
    format: str
    limit: int | None
    sets: list[str]
    lm: str
    device: str
    dtype: str
    seed: int
    threads: int


def make_task(request: TaskRequest) -> Task:
    """Build a task from command-line values.

    Raises:
        StmError: Something is unknown, malformed or does not fit.
    """
    overrides = parse_sets(request.sets)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a log file needs no bars
    if request.transcripts is None:
        check_env_id(request.env)
        return Task(request.env, load_engine(request.lm, request.device, request.dtype), overrides)
    found = tuple(itertools.islice(read_transcripts(request.transcripts, request.format), request.limit))
    if not found:
        raise StmError(f"{request.transcripts} holds no transcript; expected at least one")
    engine = load_engine(request.lm, request.device, request.dtype)
    check_fits(found, engine.lm)
    return Task(f"transcripts:{request.transcripts.name}", engine, overrides, found)


def check_env_id(env: str) -> None:
    """Raise StmError unless ``env`` is a registered id with a vector form."""
    known = sorted(name for name, spec in gym.registry.items() if spec.namespace == "stm_rl" or name == env)
    if env not in known:
        close = difflib.get_close_matches(env, known, 1, 0.3)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
        raise StmError(f"unknown environment {env!r}; {hint} (`stm-rl envs` lists them)")


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` settings as a dict; values are read as YAML scalars."""
    settings = {}
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise StmError(f"--set {text!r} is malformed; expected NAME=VALUE such as slots=8")
        if name in RESERVED:
            raise StmError(f"--set {text!r} is not possible; {RESERVED[name]}")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise StmError(f"--set {text!r} has a malformed value; expected a number or a word: slots=8") from error
    return settings


def check_fits(transcripts: Sequence[Transcript], lm: LanguageModel) -> None:
    """Raise StmError if a turn is longer than the language model can read."""
    lines = [(transcript, number) for transcript in transcripts for number in range(len(transcript))]
    counts = lm.count_tokens([line(transcript.turns[number]) for transcript, number in lines])
    for (transcript, number), count in zip(lines, counts, strict=True):
        if count + 2 > lm.max_tokens:
            turn = transcript.turns[number]
            number_in_file = turn.meta.get("line", transcript.meta.get("line", "?"))
            place = f"{transcript.meta.get('file', transcript.id)}:{number_in_file}"
            raise StmError(
                f"{place}: turn {number} of transcript {transcript.id} has {count} tokens, but model {lm.id} reads "
                f"at most {lm.max_tokens}; split the turn or take a model with a longer context (--lm)"
            )


def split_transcripts(transcripts: Sequence[Transcript], split: str) -> list[Transcript]:
    """Return a fixed random part of the transcripts: 80% train, 10% validation, 10% test, or all.

    With fewer than three transcripts every part holds them all.
    """
    count = len(transcripts)
    if count < 3:
        return list(transcripts)
    order = np.random.default_rng(0).permutation(count)
    low, high = SPLIT_SHARES[split]
    first, last = min(round(low * count), count - 1), round(high * count)
    return [transcripts[i] for i in sorted(order[first : max(last, first + 1)].tolist())]
