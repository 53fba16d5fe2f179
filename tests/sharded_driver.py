"""What ``test_sharded.py`` runs on several processes; prints what process 0 saw as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from helpers import WordLM

from stm_rl.errors import StmError
from stm_rl.lm import load_engine, sharded, team
from stm_rl.lm.causal import CausalLM

RANK = int(os.environ["RANK"])
TEXTS = [f"user: line {number % 7}.\n" * (1 + number % 11) + f"assistant: {number}" for number in range(40)]
TARGETS = [f" the answer is {number * number}.\n" for number in range(40)]


class Troubled(WordLM):
    """Does as it is told by the first context, on the workers only."""

    tokens = padding = reused = truncated = 0

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> Any:
        self.tokens += len(contexts)
        told = next((text for text in contexts if text.startswith("!")), "")
        if RANK and told == "!refuse":
            raise StmError("the score is nan")
        if RANK and told == "!fail":
            raise ZeroDivisionError("by nothing")
        if RANK and told == "!die":
            os._exit(9)
        if RANK and told == "!hang":
            time.sleep(600)
        if not RANK and told == "!interrupt":
            raise KeyboardInterrupt
        if not RANK and told == "!driver":
            raise StmError("the driver's own share")
        return super().score(contexts, targets)


def troubled(name: str, device: str) -> Troubled:
    """Load a model that tells which process it is on."""
    if RANK and name == "missing":
        raise StmError("no such model here")
    return Troubled()


def said(lm: Any, order: str) -> str:
    """Return the error of a call in which every share holds ``order``."""
    try:
        lm.score([order] * 8, [" a target"] * 8)
    except StmError as error:
        return str(error)
    return ""


def equal() -> dict[str, Any]:
    """Compare with a model of this process."""
    alone, lm = (
        CausalLM.load(dtype="float64"),
        sharded.load_shared(CausalLM.load, "tiny", device="cpu", dtype="float64"),
    )
    scores = lm.score(TEXTS, TARGETS)
    found = {
        "kind": [type(lm).__name__, type(load_engine().lm).__name__],
        "protocol": isinstance(lm, sharded.LanguageModel),
        "scores": float(np.abs(scores - alone.score(TEXTS, TARGETS)).max()),
        "tokens": [lm.tokens + lm.reused, alone.tokens + alone.reused, lm.lm.tokens + lm.lm.reused],  # type: ignore[attr-defined]
        "vectors": float(np.abs(lm.embed(TEXTS) - alone.embed(TEXTS)).max()),
        "texts": lm.generate(TEXTS[:6], 8) == alone.generate(TEXTS[:6], 8),
        "count": lm.count_tokens(TEXTS) == alone.count_tokens(TEXTS),
        "fingerprint": lm.fingerprint == alone.fingerprint,  # type: ignore[attr-defined]
        "few": float(np.abs(lm.score(TEXTS[:3], TARGETS[:3]) - scores[:3]).max()),
        "none": lm.score([], []).shape,
    }
    other = sharded.load_shared(troubled, "words", device="cpu")
    other.score(["a"] * 3, [" b"] * 3)
    other.score(["a"] * 8, [" b"] * 8)
    found["own"] = [other.tokens, other.lm.tokens]  # type: ignore[attr-defined]
    found["errors"] = [said(other, order) for order in ("!refuse", "!fail", "!driver", "fine")]
    for name, device in (("missing", "cpu"), ("words", "cuda:1")):
        try:
            sharded.load_shared(troubled, name, device=device)
        except StmError as error:
            found["errors"].append(str(error))
    found["after"] = [said(sharded.load_shared(troubled, "words", device="cpu"), "fine"), said(lm, "fine")]
    return found


def lost(order: str) -> Callable[[], dict[str, Any]]:
    """Return what asks the workers to be lost, asks once more, and fails."""

    def ask() -> dict[str, Any]:
        lm = sharded.load_shared(troubled, "words", device="cpu")
        start = time.monotonic()
        errors = [said(lm, order), said(lm, "fine")]
        print(json.dumps({"errors": errors, "seconds": time.monotonic() - start}), flush=True)
        sys.exit(2)

    return ask


def broken() -> dict[str, Any]:
    """Fail on the driver."""
    said(sharded.load_shared(troubled, "words", device="cpu"), "fine")
    raise RuntimeError("the driver fails")


def interrupted() -> dict[str, Any]:
    """Be interrupted within a call."""
    said(sharded.load_shared(troubled, "words", device="cpu"), "!interrupt")
    return {}


def main() -> None:
    what = sys.argv[1]
    logging.basicConfig(format=f"process {RANK}: %(message)s")
    if what == "!hang":
        team.TIMEOUT = timedelta(seconds=3)
    print(f"pid {os.getpid()}", file=sys.stderr, flush=True)
    do = {"equal": equal, "broken": broken, "interrupted": interrupted}.get(what) or lost(what)
    sharded.run(lambda: print(json.dumps(do()), flush=True))


if __name__ == "__main__":
    main()
