"""What is trained or evaluated on: an environment id or a file of transcripts, and a language model."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from transformers.utils import logging as transformers_logging

from stm_rl.cli.cache import NO_CACHE, cache_folder
from stm_rl.cli.sources import parse_source, read_saying
from stm_rl.errors import StmError
from stm_rl.lm import LanguageModel, ScoringEngine, load_engine
from stm_rl.lm.prompt import line
from stm_rl.readers.mix import Mixture
from stm_rl.readers.split import split_transcripts
from stm_rl.rewards import Reward, as_reward
from stm_rl.transcript import Transcript
from stm_rl.values import parse_value
from stm_rl_envs.transcript import cut
from stm_rl_envs.vector import MemoryVectorEnv

DEFAULT_ENV = "stm_rl/Dialogue-v0"
TRANSCRIPT_ENV = "stm_rl/Transcript-v0"
"""The environment of ``--transcripts``, unless another is named."""
NO_LM = "none"
"""What ``--lm`` says for no language model."""
RESERVED = {
    "lm": "give the language model with --lm",
    "split": "train uses the train and validation splits, and evaluations the test split",
    "num_envs": "the preset says how many environments run together",
    "full_context": "every evaluation lists the agent full-context",
    "transcripts": "give the file with --transcripts",
    "path": "give the file with --transcripts",
    "reward": "give the terms with --reward",
    "autoreset": "training needs it on and evaluation off",
}
"""Options of environments that the command line sets itself, with what to do instead."""


@dataclass(frozen=True, slots=True)
class Task:
    """Makes the environments of one training or evaluation.

    Attributes:
        name: Environment id, or ``transcripts:FILE``; for tables and cards.
        env: Environment id.
        engine: Scores turns; none if no reward term needs it.
        overrides: Environment settings given by the user.
        sets: The user's transcripts, if any; in training every set has the same share of episodes.
        reward: Weights of the reward terms, if the user gave any; else the environment's own.
    """

    name: str
    env: str
    engine: ScoringEngine | None
    overrides: dict[str, Any] = field(default_factory=dict)
    sets: tuple[tuple[Transcript, ...], ...] = ()
    reward: Reward | None = None

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
        if self.sets:
            excerpt = options.pop("excerpt", None)  # cut before mixing, so that every set keeps its share
            parts = [cut(split_transcripts(transcripts, split), excerpt) for transcripts in self.sets]
            options["transcripts"] = Mixture(parts) if split == "train" else list(chain.from_iterable(parts))
            split = "all"
        if self.reward:
            options["reward"] = self.reward
        env = gym.make_vec(
            self.env,
            num_envs,
            vectorization_mode="vector_entry_point",
            split=split,
            lm=self.engine,
            autoreset=autoreset,
            full_context=full_context,
            **options,
        ).unwrapped
        if not isinstance(env, MemoryVectorEnv):
            raise StmError(
                f"the vector form of {self.env} is a {type(env).__name__}; expected a subclass of "
                "stm_rl_envs.MemoryVectorEnv as its vector_entry_point (`stm-rl init env` writes one)"
            )
        return env

    @property
    def lm_id(self) -> str:
        """Name of the language model; ``none`` without one."""
        return self.engine.lm.id if self.engine else NO_LM

    def check(self) -> None:
        """Play one step, so that what cannot work is an error before anything is written.

        Raises:
            StmError: The environment, its settings and the language model do not go together.
        """
        try:
            env = self.make(1, full_context=self.engine is not None)  # so that the model is asked whatever the action
            env.reset(seed=0)
            env.step(np.zeros((1, 1 + env.episodes.settings.reads), np.int64))
        except (TypeError, AttributeError, gym.error.Error) as error:
            given = ", ".join(f"{name}={value!r}" for name, value in self.overrides.items())
            module = str(gym.spec(self.env.rpartition(":")[2]).entry_point).partition(":")[0]
            raise StmError(
                f"cannot play {self.name} with {given or 'its defaults'} ({error}); `stm-rl envs` lists the "
                f"environments, `python -m pydoc {module}` the settings of this one"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """The command-line values that ``stm-rl train`` and ``stm-rl eval`` share; see their ``--help``."""

    env: str
    transcripts: list[str]
    format: str
    limit: int | None
    sets: list[str]
    lm: str
    device: str
    dtype: str
    seed: int
    threads: int
    rewards: list[str] = field(default_factory=list)
    skip_bad: bool = False
    cache: str | None = NO_CACHE
    compile: bool = False


def make_task(request: TaskRequest) -> Task:
    """Build a task from command-line values.

    Raises:
        StmError: Something is unknown, malformed or does not fit.
    """
    overrides = parse_sets(request.sets)
    reward = as_reward(request.rewards or None)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a log file needs no bars
    if not request.transcripts:
        check_env_id(request.env)
        return Task(request.env, request.env, engine_of(request), overrides, reward=reward)
    env = TRANSCRIPT_ENV if request.env == DEFAULT_ENV else request.env
    check_env_id(env)
    sources = [parse_source(text, request.format) for text in request.transcripts]
    sets = tuple(_read(path, format, request) for format, path in sources)
    engine = engine_of(request)
    if engine is not None:
        check_fits([transcript.with_questions_asked() for found in sets for transcript in found], engine.lm)
    name = "transcripts:" + "+".join(path.name for _, path in sources)
    return Task(name if env == TRANSCRIPT_ENV else f"{env} on {name}", env, engine, overrides, sets, reward)


def engine_of(request: TaskRequest) -> ScoringEngine | None:
    """Return the scoring engine of a request; none without a language model."""
    if request.lm == NO_LM:
        return None
    return load_engine(request.lm, request.device, request.dtype, cache_folder(request.cache), request.compile)


def _read(path: Path, format: str, request: TaskRequest) -> tuple[Transcript, ...]:
    found = tuple(read_saying(path, format, request.limit, request.skip_bad))
    if not found:
        raise StmError(f"{path} holds no transcript; expected at least one")
    return found


def check_env_id(env: str) -> None:
    """Raise StmError unless ``env`` is a registered id; ``module:id`` imports the module that registers it first."""
    module, colon, _ = env.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise StmError(
                f"cannot import {module!r} of the environment {env!r} ({error}); install it first"
            ) from error
        env = env.rpartition(":")[2]
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
        settings[name] = parse_value(value, f"--set {text!r}")
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
