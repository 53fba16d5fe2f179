"""Procedural worlds: transcripts with known dependencies, without limit."""

from stm_rl.worlds.base import World
from stm_rl.worlds.dialogue import DialogueWorld

__all__ = ["DialogueWorld", "World"]
