"""Demonstrations: what an expert saw and did, episode by episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl_agents.base import Actions, Agent, Masks
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

CARD = ("env", "settings", "lm", "encoder", "source")
"""What a card says at least: where demonstrations come from and what they fit."""


@dataclass(frozen=True, slots=True)
class DemoEpisode:
    """One episode of ``T`` steps.

    Attributes:
        observations: What was seen, the last observation included: float32 arrays of shape ``(T + 1, ...)``.
        actions: What was done, int64, shape ``(T, 1 + R)``.
        masks: What was legal, flat, bool, shape ``(T, (1 + R) * (K + 1))``.
        stakes: Nats that hang on each part of an action, float32, shape ``(T, 1 + R)``; 1 where nobody knows.
        rewards: What was earned, float32, shape ``(T,)``.
        terminated: Whether the transcript ended; else the episode was truncated.
        transcript: Id of the transcript.
    """

    observations: Observation
    actions: Actions
    masks: Masks
    stakes: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: bool
    transcript: str

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(slots=True)
class Demonstrations:
    """Episodes of one expert in one environment.

    Attributes:
        episodes: The episodes.
        card: What they fit: ``env``, ``settings`` (``slots``, ``window``, ``reads``), ``lm`` (name and fingerprint of
            the language model behind them, or ``none``), ``encoder`` and ``source`` (who demonstrated).
    """

    episodes: list[DemoEpisode] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of steps."""
        return sum(map(len, self.episodes))

    def check(self, card: Mapping[str, Any]) -> None:
        """Check that the demonstrations fit what ``card`` says of an environment.

        Args:
            card: ``settings``, ``lm`` and ``encoder`` of the environment; what it does not name is not checked.

        Raises:
            StmError: They were made with others.
        """
        for name in ("settings", "lm", "encoder"):
            if name in card and card[name] != self.card.get(name):
                raise StmError(
                    f"the demonstrations were made with {name} {self.card.get(name)!r} but the environment has "
                    f"{card[name]!r}; make the environment like that, or make demonstrations anew"
                )


def card_of(env: MemoryVectorEnv, source: str, name: str, **more: Any) -> dict[str, Any]:
    """Return the card of demonstrations made in ``env``.

    Args:
        env: The environment.
        source: Who demonstrates.
        name: Name of the environment.
        **more: Anything else to keep.
    """
    settings, engine = env.episodes.settings, env.episodes.engine
    return {
        "env": name,
        "settings": {"slots": settings.slots, "window": settings.window, "reads": settings.reads},
        "lm": "none" if engine is None else engine.lm_name,
        "encoder": env.episodes.encoder.id,
        "source": source,
        **more,
    }


def record(
    agent: Agent,
    env: MemoryVectorEnv,
    indices: Sequence[int],
    on_episodes: Callable[[int], None] = lambda count: None,
) -> list[DemoEpisode]:
    """Play transcripts once each and return what the agent saw and did.

    Args:
        agent: Who demonstrates. If it has ``stakes``, shape ``(n, 1 + R)`` after each action, they are kept.
        env: An environment that does not reset itself.
        indices: Indices of the transcripts.
        on_episodes: Called with the number of episodes just finished.
    """
    agent.start(env)
    episodes: list[DemoEpisode] = []
    for _, observation in env.batches(indices, on_episodes):
        playing = np.flatnonzero(~env.resting).tolist()
        steps: list[tuple[Observation, Masks, Actions, NDArray[np.float32], NDArray[np.float64]]] = []
        ends = np.zeros(env.num_envs, np.int64)
        ended_whole = np.zeros(env.num_envs, bool)
        while not env.resting.all():
            masks = env.action_masks()
            actions = agent.act(observation, masks)
            stakes = getattr(agent, "stakes", np.ones(actions.shape, np.float32))
            ends += ~env.resting
            after, rewards, terminated, _, _ = env.step(actions)
            steps.append((observation, masks, actions, stakes.astype(np.float32), rewards))
            observation = after
            ended_whole |= terminated
        seen = [step[0] for step in steps] + [observation]
        for row in playing:
            count = int(ends[row])
            episodes.append(
                DemoEpisode(
                    {name: np.stack([one[name][row] for one in seen[: count + 1]]) for name in observation},
                    np.stack([step[2][row] for step in steps[:count]]),
                    np.stack([step[1][row] for step in steps[:count]]),
                    np.stack([step[3][row] for step in steps[:count]]),
                    np.array([step[4][row] for step in steps[:count]], np.float32),
                    bool(ended_whole[row]),
                    env.episodes.current[row].transcript.id,
                )
            )
    return episodes
