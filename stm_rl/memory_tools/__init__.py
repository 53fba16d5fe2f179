"""Transcripts in which an assistant calls memory tools, as actions on a memory of slots.

A mapping (:mod:`~stm_rl.memory_tools.mapping`) says what each tool does; :func:`tool_script` takes the calls out of a
transcript; :func:`plan` turns them into the actions of an episode, and a :class:`ToolReport` says what became of each
call.
"""

from stm_rl.memory_tools.mapping import MAPPINGS, Tool, ToolMapping, tool_mapping
from stm_rl.memory_tools.plan import Plan, plan
from stm_rl.memory_tools.report import ToolReport, Unmappable
from stm_rl.memory_tools.script import Call, ToolScript, tool_script

__all__ = [
    "MAPPINGS",
    "Call",
    "Plan",
    "Tool",
    "ToolMapping",
    "ToolReport",
    "ToolScript",
    "Unmappable",
    "plan",
    "tool_mapping",
    "tool_script",
]
