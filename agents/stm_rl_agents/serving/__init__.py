"""Serving: a chat server whose sessions keep a bounded memory, tended by an agent."""

from stm_rl_agents.serving.live_agent import load_serving_agent
from stm_rl_agents.serving.session import Context, LiveSession, Operations, Read, SlotContent

__all__ = ["Context", "LiveSession", "Operations", "Read", "SlotContent", "load_serving_agent"]
