"""Agents: heuristics, references and learned policies."""

from stm_rl_agents.base import Agent
from stm_rl_agents.heuristics import FullContext, heuristics
from stm_rl_agents.references import Informed, Oracle

__all__ = ["Agent", "FullContext", "Informed", "Oracle", "heuristics"]
