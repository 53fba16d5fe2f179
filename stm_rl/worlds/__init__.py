"""Procedural worlds: transcripts with known dependencies, without limit."""

from stm_rl.worlds.base import World
from stm_rl.worlds.dialogue import DialogueWorld
from stm_rl.worlds.generated import GeneratedTranscripts

__all__ = ["DialogueWorld", "GeneratedTranscripts", "World"]
