"""Procedural worlds: transcripts with known dependencies, without limit."""

from stm_rl.worlds.base import World
from stm_rl.worlds.check import Verdict, judge
from stm_rl.worlds.dialogue import DialogueWorld
from stm_rl.worlds.generated import GeneratedTranscripts
from stm_rl.worlds.recall import RecallWorld
from stm_rl.worlds.screenplay import ScreenplayWorld
from stm_rl.worlds.script import ScriptWorld
from stm_rl.worlds.story import StoryWorld

__all__ = [
    "DialogueWorld",
    "GeneratedTranscripts",
    "RecallWorld",
    "ScreenplayWorld",
    "ScriptWorld",
    "StoryWorld",
    "Verdict",
    "World",
    "judge",
]
