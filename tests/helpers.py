"""A language model made of words, small transcripts and random legal play, for fast tests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stm_rl.features import HashedWords, content_words
from stm_rl.transcript import Probe, Transcript, Turn

KNOWN, UNKNOWN = 0.25, 3.0
"""Nats that a word costs :class:`WordLM` if its context holds it, and if not."""

TRL_ON_CPU = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
}
"""Options of TRL's trainers for a few quick steps on a CPU."""


class WordLM:
    """Predicts a word well if the context holds it; adds a little noise that is fixed by the texts.

    Attributes:
        asked: Every (context, target) it was asked to score, in order.
    """

    id = "words"
    max_tokens = 4096

    def __init__(self, noise: float = 0.01) -> None:
        self.noise = noise
        self.asked: list[tuple[str, str]] = []

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        self.asked += zip(contexts, targets, strict=True)
        return np.array([self._score(*pair) for pair in zip(contexts, targets, strict=True)])

    def _score(self, context: str, target: str) -> float:
        known, words = content_words(context), content_words(target)
        digest = blake2b(f"{context}|{target}".encode(), digest_size=4).digest()
        jitter = int.from_bytes(digest, "little") / 2**32
        return -0.1 - self.noise * jitter - KNOWN * len(words & known) - UNKNOWN * len(words - known)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return HashedWords(16)(texts)

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        return [" ".join(context.split()[-max_new_tokens:]) for context in contexts]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def transcript(*lines: str, probes: Sequence[Probe] = (), name: str = "t") -> Transcript:
    """Return a transcript of lines such as ``user: Hello``; without a colon the speaker is empty."""
    turns = []
    for line in lines:
        speaker, _, text = line.rpartition(": ")
        turns.append(Turn(text, speaker))
    return Transcript(tuple(turns), tuple(probes), name)


def numbered(count: int, name: str = "t") -> Transcript:
    """Return a transcript of ``count`` turns that share no word."""
    return transcript(*(f"{('a', 'b')[i % 2]}: word{i}" for i in range(count)), name=name)


def random_actions(rng: np.random.Generator, masks: NDArray[np.bool_], slots: int) -> NDArray[np.int64]:
    """Draw legal actions for flat masks with or without a leading axis; none is twice as likely as a slot."""
    parts = masks.reshape(*masks.shape[:-1], -1, slots + 1)
    weights = np.concatenate([[2.0], np.ones(slots)])
    return np.asarray((rng.random(parts.shape) ** (1 / weights) * parts).argmax(-1))


def assert_legal(actions: NDArray[np.int64], masks: NDArray[np.bool_], slots: int) -> None:
    """Fail unless every part of every action is legal under flat masks of shape ``(n, ...)``."""
    parts = masks.reshape(len(masks), -1, slots + 1)
    assert actions.shape == parts.shape[:2]
    assert actions.dtype == np.int64
    assert (actions >= 0).all()
    assert (actions <= slots).all()
    assert np.take_along_axis(parts, actions[..., None], -1).all()


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Fail unless two observations are equal to the last bit."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def load_script(name: str) -> Any:
    """Return the script ``scripts/<name>.py`` as a module; like Python, let it import what lies beside it."""
    path = Path(__file__).parent.parent / "scripts" / f"{name}.py"
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[name] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    return script


def run_python(code: str, hash_seed: int) -> str:
    """Return what ``code`` prints in a process of its own with another order of sets."""
    path = os.pathsep.join(filter(None, sys.path))
    env = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object) -> SimpleNamespace:
    """Run the command line in this process; return its exit ``code`` and what it printed, ``out`` and ``err``."""
    from stm_rl.cli import main

    monkeypatch.setattr(sys, "argv", ["stm-rl", *map(str, args)])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out, err = capsys.readouterr()
    return SimpleNamespace(code=code, out=out, err=err)
