"""Evaluation: the same held-out episodes for every agent, with intervals."""

from stm_rl.evaluation.runner import Played, play
from stm_rl.evaluation.statistics import Bootstrap, difference, summarize

__all__ = ["Bootstrap", "Played", "difference", "play", "summarize"]
