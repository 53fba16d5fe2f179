"""``stm_rl/Transcript-v0``: any file of real transcripts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers import read_transcripts
from stm_rl.readers.mix import excerpts
from stm_rl.readers.split import split_transcripts
from stm_rl.transcript import Transcript
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.options import TEXT_REWARDS, Rewards, memory_options
from stm_rl_envs.vector import MemoryVectorEnv


def transcript_options(
    rewards: Rewards = TEXT_REWARDS,
    *,
    transcripts: Sequence[Transcript] | None = None,
    path: str | os.PathLike[str] | None = None,
    format: str = "auto",
    limit: int | None = None,
    skip_bad: bool = False,
    ask: bool = False,
    split: str = "all",
    excerpt: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the keyword arguments of a memory environment on given transcripts.

    Args:
        rewards: The reward in each mode, unless ``reward`` is given.
        transcripts: The transcripts themselves.
        path: A file or folder of them; without either, a small sample that comes with the package.
        format: Format of ``path``; see :mod:`stm_rl.readers`.
        limit: Take only the first transcripts.
        skip_bad: Leave out records that cannot be read instead of raising an error.
        ask: Ask the questions that come with transcripts at their ends.
        split: ``train`` (80%), ``validation`` (10%), ``test`` (10%), or ``all``.
        excerpt: Cut longer transcripts into pieces of so many turns, which overlap by half.
        **options: See :func:`~stm_rl_envs.options.memory_options`.

    Raises:
        StmError: Both or unreadable sources are given, or there is no transcript.
    """
    if transcripts is not None and path is not None:
        raise StmError(f"transcripts were given, and the path {os.fspath(path)!r}; expected one of both")
    source = sample_path() if path is None else Path(path)
    found = load_transcripts(source, format, limit, skip_bad) if transcripts is None else tuple(transcripts)[:limit]
    if ask:
        found = tuple(transcript.with_questions_asked() for transcript in found)
    if not found:
        raise StmError("there are no transcripts; expected at least one")
    return memory_options(cut(split_transcripts(found, split), excerpt), rewards, options)


def cut(transcripts: list[Transcript], excerpt: int | None) -> list[Transcript]:
    """Return the transcripts, those longer than ``excerpt`` turns in pieces of that length that overlap by half."""
    if excerpt is None:
        return transcripts
    if excerpt < 2:
        raise StmError(f"excerpt is {excerpt}; expected at least 2 turns")
    return [piece for transcript in transcripts for piece in excerpts(transcript, excerpt, max(1, excerpt // 2))]


@lru_cache(maxsize=4)
def load_transcripts(path: Path, format: str, limit: int | None, skip_bad: bool) -> tuple[Transcript, ...]:
    """Return the transcripts of a file or folder; read once, however many environments are made of them."""
    return tuple(read_transcripts(path, format, limit=limit, skip_bad=skip_bad))


def sample_path() -> Path:
    """Return the path of the sample that comes with the package."""
    return Path(str(files("stm_rl_envs") / "sample.jsonl"))


class TranscriptEnv(MemoryEnv):
    """Real transcripts of any kind: chats, stories, screenplays, forums.

    Description:
        Give ``path`` and, if its name does not tell, ``format``; or ``transcripts``. Without either a small
        sample of a dialogue, a story and a screenplay world is played, which is only good for a first look.
        Nothing needs to be labelled. Evidence that a data set annotates is used to measure, never shown.

    Action space, observation space, termination:
        See :class:`~stm_rl_envs.memory_env.MemoryEnv`.

    Reward:
        In ``teacher-forced`` mode the coherence gain; in ``generate`` mode, in which the model writes the
        assistant's turns itself (``authors`` chooses other speakers), the similarity of its text with the true one,
        against what it writes without memory. Minus the costs of writing and reading.

    Registered ids:
        ``stm_rl/Transcript-Easy-v0``, ``stm_rl/Transcript-Medium-v0`` (also ``stm_rl/Transcript-v0``),
        ``stm_rl/Transcript-Hard-v0``
    """

    def __init__(self, **options: Any) -> None:
        """Make the environment.

        Args:
            **options: Those of :func:`transcript_options` and of :class:`~stm_rl_envs.memory_env.MemoryEnv`.
        """
        super().__init__(**transcript_options(**options))


class TranscriptVectorEnv(MemoryVectorEnv):
    """The vector form of :class:`TranscriptEnv`."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        """Make the environments.

        Args:
            num_envs: How many.
            **options: Those of :class:`TranscriptEnv`.
        """
        super().__init__(num_envs, **transcript_options(**options))
