"""One scoring engine per model and process, so that environments share weights and scores."""

from __future__ import annotations

from functools import lru_cache
from typing import overload

from stm_rl.lm.causal import CausalLM
from stm_rl.lm.engine import ScoringEngine
from stm_rl.lm.loading import EMBEDDED
from stm_rl.lm.protocol import LanguageModel


@lru_cache(maxsize=4)
def load_engine(name: str = EMBEDDED, device: str = "cpu", dtype: str = "float32") -> ScoringEngine:
    """Return the engine of the causal model ``name``, loading it at the first call."""
    return ScoringEngine(CausalLM.load(name, device=device, dtype=dtype))


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
