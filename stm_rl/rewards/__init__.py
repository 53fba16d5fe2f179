"""Reward terms and their sum."""

from stm_rl.rewards.base import DEFAULT_WEIGHTS, TERMS, Reward, Steps, Term

__all__ = ["DEFAULT_WEIGHTS", "TERMS", "Reward", "Steps", "Term"]
