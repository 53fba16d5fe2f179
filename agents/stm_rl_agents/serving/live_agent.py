"""Which agents can keep the memory of a chat that is under way, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym

from stm_rl.errors import StmError
from stm_rl.features import TextEncoder
from stm_rl_agents.base import Agent
from stm_rl_agents.heuristics import FullContext, heuristics
from stm_rl_agents.imitation.expert import EXPERT, HindsightExpert
from stm_rl_agents.loading import load_agent
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.references import Informed, Oracle
from stm_rl_agents.tool_calls import ToolCallDemonstrator
from stm_rl_envs.settings import MemorySettings

FORESEEING = (Oracle, Informed, HindsightExpert, ToolCallDemonstrator)
"""Agents that look at what is known of a whole transcript."""
REFERENCES = (Oracle.name, Informed().name, EXPERT, FullContext.name)
"""Names of such agents."""
TRANSCRIPT_ENV = "stm_rl/Transcript-v0"
"""Where policies that learned from files of transcripts were trained, unless their cards name another."""


def check_live(agent: Agent) -> None:
    """Check that an agent needs no more than what a chat has shown so far.

    Raises:
        StmError: It looks at the whole transcript.
    """
    if isinstance(agent, FORESEEING) or agent.full_context:
        raise StmError(_refusal(agent.name))


def _refusal(name: str) -> str:
    return (
        f"{name} cannot keep the memory of a chat: it is a reference that looks at the whole transcript, which is not "
        f"known before the end; take a trained policy or one of {', '.join(agent.name for agent in heuristics())}"
    )


def encoder_of(agent: Agent) -> TextEncoder | str | None:
    """Return the name of the encoder that a trained agent asks for; None for the default one."""
    return _trained(agent).get("encoder")


def load_serving_agent(
    spec: str,
    *,
    slots: int | None = None,
    window: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> tuple[Agent, MemorySettings]:
    """Return an agent that can keep the memory of chats, and the settings of the memory.

    Args:
        spec: A run folder, whose policy comes with the slots, window and reads it was trained with; or the name of a
            heuristic, which gets the defaults of :class:`~stm_rl_envs.settings.MemorySettings`.
        slots: Slots of the memory, instead of those.
        window: Turns that a model sees without memory, instead of those.
        device: Torch device of a language model that decides.
        dtype: Torch dtype of a language model that decides.

    Raises:
        StmError: There is no such agent, it cannot play a chat, or nothing tells what it was trained with.
    """
    known = {agent.name: agent for agent in heuristics()}
    given: dict[str, Any] = {name: value for name, value in (("slots", slots), ("window", window)) if value is not None}
    if spec in REFERENCES:
        raise StmError(_refusal(spec))
    if spec in known:
        return known[spec], MemorySettings(**given)
    if not Path(spec).is_dir():
        raise StmError(f"unknown agent {spec!r}: it is neither a run folder nor one of {', '.join(known)}")
    agent = load_agent(spec, device, dtype)
    options = {name: value for name, value in _trained(agent).items() if name in ("slots", "window", "reads")}
    if isinstance(agent, PolicyAgent):
        options["reads"] = agent.network.shape["reads"]
    return agent, MemorySettings(**{**options, **given})


def _trained(agent: Agent) -> dict[str, Any]:
    """Return the settings of the environment that a learned agent was trained in; none for others."""
    card: dict[str, Any] = getattr(agent, "card", {})
    env = str(card.get("env", "")).partition(" on ")[0]
    if not env:
        return dict(card.get("settings") or {})
    if env.startswith("transcripts:"):
        env = TRANSCRIPT_ENV
    try:
        registered = gym.spec(env).kwargs
    except (gym.error.Error, ImportError) as error:
        raise StmError(
            f"the policy was trained in {env!r}, which is not known here ({error}); install what registers it"
        ) from error
    return {**registered, **(card.get("settings") or {})}
