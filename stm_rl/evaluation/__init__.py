"""Evaluation: the same held-out episodes for every agent, with intervals."""

from stm_rl.evaluation.runner import Played, play, play_all

__all__ = ["Played", "play", "play_all"]
