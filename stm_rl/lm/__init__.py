"""Language models: the protocol, the Hugging Face backend, the scoring engine, its cache and the embedded model."""

from stm_rl.lm.cache import ScoreCache
from stm_rl.lm.causal import CausalLM
from stm_rl.lm.engine import ScoringEngine
from stm_rl.lm.loading import EMBEDDED
from stm_rl.lm.prompt import PromptFormat
from stm_rl.lm.protocol import LanguageModel
from stm_rl.lm.shared import as_engine, load_engine

__all__ = [
    "EMBEDDED",
    "CausalLM",
    "LanguageModel",
    "PromptFormat",
    "ScoreCache",
    "ScoringEngine",
    "as_engine",
    "load_engine",
]
