"""Agents as keepers of the recall benchmark: only what they write matters."""

from __future__ import annotations

from collections.abc import Sequence

from stm_rl.evaluation.recall import Held, Keeper, Stream
from stm_rl.features import TextEncoder
from stm_rl.memory import EMPTY
from stm_rl_agents.base import Agent
from stm_rl_agents.policy import PolicyAgent
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

BATCH = 64
"""Most streams played together."""


class AgentKeeper(Keeper):
    """Plays an agent over streams without a language model, and looks into its memory.

    Args:
        agent: Who decides what is written.
        reads: Slots it may read in a step; they change nothing but what it sees of its slots.
        window: Turns the language model would see; an agent also sees which reads were outside of it.
        encoder: Encodes turns; an encoder, its name, or none for the default one.
    """

    def __init__(self, agent: Agent, reads: int = 1, window: int = 1, encoder: TextEncoder | str | None = None) -> None:
        self.agent = agent
        self.name = agent.name
        self.reads, self.window, self.encoder = reads, window, encoder

    @classmethod
    def of_policy(cls, policy: PolicyAgent) -> AgentKeeper:
        """Return the keeper of a trained policy, with the reads, window and encoder of its training."""
        settings = policy.card.get("settings") or {}
        return cls(policy, policy.network.shape["reads"], settings.get("window", 1), settings.get("encoder"))

    def play(self, streams: Sequence[Stream], slots: int) -> list[Held]:
        """Return what is held at each check of each stream."""
        played = [index for index, stream in enumerate(streams) if stream.checks]
        played.sort(key=lambda index: len(streams[index]))  # so that those played together end together
        held: list[list[frozenset[int]]] = [[] for _ in streams]
        for first in range(0, len(played), BATCH):
            indices = played[first : first + BATCH]
            for index, found in zip(indices, self._play([streams[i] for i in indices], slots), strict=True):
                held[index] = found
        return list(held)

    def _play(self, streams: Sequence[Stream], slots: int) -> list[list[frozenset[int]]]:
        env = MemoryVectorEnv(
            len(streams),
            [stream.transcript for stream in streams],
            settings=MemorySettings(slots=slots, window=self.window, reads=self.reads),
            lm=None,
            reward={"write_cost": 1.0},  # of no account, and needs no language model
            encoder=self.encoder,
            autoreset=False,
        )
        self.agent.start(env)
        observation, _ = env.reset(seed=0, options={"transcripts": list(range(len(streams)))})
        held: list[list[frozenset[int]]] = [[] for _ in streams]
        for step in range(max(stream.checks[-1].step for stream in streams) + 1):
            observation, *_ = env.step(self.agent.act(observation, env.action_masks()))
            memory = env.episodes.memory.turn
            for row, stream in enumerate(streams):
                checks = stream.checks
                while len(held[row]) < len(checks) and checks[len(held[row])].step == step:
                    held[row].append(frozenset(memory[row][memory[row] != EMPTY].tolist()))
        return held
