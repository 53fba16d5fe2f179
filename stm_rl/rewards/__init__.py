"""Rewards: small named terms, their weighted sum, and where terms are found."""

from stm_rl.rewards.base import Judged, Reward, Step, Steps, Term, per_step
from stm_rl.rewards.registry import COSTS, DEFAULT_WEIGHTS, TERMS, as_reward, make_term, parse_weights

__all__ = [
    "COSTS",
    "DEFAULT_WEIGHTS",
    "TERMS",
    "Judged",
    "Reward",
    "Step",
    "Steps",
    "Term",
    "as_reward",
    "make_term",
    "parse_weights",
    "per_step",
]
