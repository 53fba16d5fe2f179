"""One scoring engine per model and process, so that environments share weights and scores."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import overload

from stm_rl.lm.cache import ScoreCache
from stm_rl.lm.causal import CausalLM
from stm_rl.lm.engine import ScoringEngine
from stm_rl.lm.loading import EMBEDDED, is_masked
from stm_rl.lm.protocol import LanguageModel
from stm_rl.lm.sharded import load_shared


def load_engine(
    name: str = EMBEDDED,
    device: str = "cpu",
    dtype: str = "float32",
    cache: str | Path | None = None,
    compile: bool = False,
) -> ScoringEngine:
    """Return the engine of the language model ``name``, loading it at the first call.

    Args:
        name: ``tiny`` (the embedded model), a folder or a Hub id of a causal or masked model, ``openai:MODEL`` (or
            ``openai:MODEL@http://host:port/v1``) for one behind a server, or ``vllm:MODEL`` for one that vLLM runs.
        device: A torch device, or ``auto`` for a GPU if there is one; for models that transformers runs.
        dtype: A torch dtype such as ``float32`` or ``bfloat16``; not for models behind a server.
        cache: Folder in which scores are kept from run to run; see :class:`stm_rl.lm.cache.ScoreCache`.
        compile: Compile a causal model; see :class:`stm_rl.lm.causal.CausalLM`.

    Raises:
        StmError: The model cannot be loaded.
    """
    return _engine(name, device, dtype, str(cache) if cache else "", compile)


@lru_cache(maxsize=4)
def _engine(name: str, device: str, dtype: str, cache: str, compile: bool) -> ScoringEngine:
    return ScoringEngine(_load(name, device, dtype, compile), cache=ScoreCache(cache) if cache else None)


@lru_cache(maxsize=4)
def _load(name: str, device: str, dtype: str, compile: bool) -> LanguageModel:
    kind, _, rest = name.partition(":")
    if kind == "openai":
        from stm_rl.lm.remote import RemoteLM

        return RemoteLM.load(rest)
    if kind == "vllm":
        from stm_rl.lm.vllm import VLLM

        return VLLM.load(rest, dtype=dtype)
    if is_masked(name):
        from stm_rl.lm.masked import MaskedLM

        return load_shared(MaskedLM.load, name, device=device, dtype=dtype)
    return load_shared(CausalLM.load, name, device=device, dtype=dtype, compile=compile)


@overload
def as_engine(lm: str | LanguageModel | ScoringEngine) -> ScoringEngine: ...
@overload
def as_engine(lm: None) -> None: ...
@overload
def as_engine(lm: str | LanguageModel | ScoringEngine | None) -> ScoringEngine | None: ...
def as_engine(lm: str | LanguageModel | ScoringEngine | None) -> ScoringEngine | None:
    """Return a scoring engine for a model name, a model, or an engine; none for none."""
    if lm is None or isinstance(lm, ScoringEngine):
        return lm
    return load_engine(lm) if isinstance(lm, str) else ScoringEngine(lm)
