"""The shapes of demonstrations, and what is stored beside the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from stm_rl.errors import StmError
from stm_rl_agents.demonstrations import CARD, DemoEpisode, Demonstrations

FORMAT = "stm-rl/demonstrations-1"
FEATURES = ("slot_features", "globals")
"""Observations between 0 and 2; the others are vectors between -8 and 8, as environments say."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What every step of some demonstrations looks like.

    Attributes:
        observation: Shapes of the parts of an observation.
        parts: Length of an action, ``1 + R``.
        choices: Choices of each part of it, ``K + 1``.
    """

    observation: Mapping[str, tuple[int, ...]]
    parts: int
    choices: int

    @classmethod
    def of(cls, demonstrations: Demonstrations, where: str) -> Layout:
        """Return the layout of demonstrations.

        Args:
            demonstrations: The demonstrations.
            where: What to call them in errors.

        Raises:
            StmError: There is no episode, or an episode without steps, with arrays that do not go together, or with
                other shapes than the first.
        """
        if not demonstrations.episodes:
            raise StmError(f"{where} hold no episode; expected at least one")
        first = demonstrations.episodes[0]
        parts = first.actions.shape[-1]
        shapes = {name: value.shape[1:] for name, value in first.observations.items()}
        layout = cls(shapes, parts, first.masks.shape[-1] // max(parts, 1))
        for number, episode in enumerate(demonstrations.episodes):
            layout.check(episode, f"{where}: episode {number}")
        return layout

    def check(self, episode: DemoEpisode, where: str) -> None:
        """Raise StmError unless an episode has this layout."""
        steps = len(episode.actions)
        if not steps:
            raise StmError(f"{where} has no step; expected at least one")
        if episode.observations.keys() != self.observation.keys():
            names = ", ".join(episode.observations)
            raise StmError(f"{where} observes {names}; expected {', '.join(self.observation)} as in the first")
        expected: dict[str, tuple[Any, type, tuple[int, ...]]] = {
            f"observation {name}": (episode.observations[name], np.float32, (steps + 1, *shape))
            for name, shape in self.observation.items()
        }
        expected |= {
            "actions": (episode.actions, np.int64, (steps, self.parts)),
            "masks": (episode.masks, np.bool_, (steps, self.parts * self.choices)),
            "stakes": (episode.stakes, np.float32, (steps, self.parts)),
            "rewards": (episode.rewards, np.float32, (steps,)),
        }
        for name, (value, kind, shape) in expected.items():
            if value.shape != shape or value.dtype != kind:
                raise StmError(
                    f"{where} has {name} of shape {value.shape} and type {value.dtype}; "
                    f"expected {shape} and {np.dtype(kind)}"
                )
        if episode.actions.min() < 0 or episode.actions.max() >= self.choices:
            raise StmError(f"{where} has an action outside 0..{self.choices - 1}; 0 is none and i is slot i")

    def observation_space(self) -> spaces.Dict:
        """Return the space of one observation."""

        def box(name: str, shape: tuple[int, ...]) -> spaces.Box:
            low, high = (0.0, 2.0) if name in FEATURES else (-8.0, 8.0)
            return spaces.Box(low, high, shape, np.float32)

        return spaces.Dict({name: box(name, shape) for name, shape in self.observation.items()})

    def action_space(self) -> spaces.MultiDiscrete:
        """Return the space of one action."""
        return spaces.MultiDiscrete([self.choices] * self.parts)


def packed(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card as it is stored, as plain JSON values.

    Raises:
        StmError: It does not say all it must, or holds what JSON does not know.
    """
    if missing := [name for name in CARD if name not in card]:
        raise StmError(f"the card of the demonstrations does not say {', '.join(missing)}; make it with card_of()")
    try:
        stored: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **card}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StmError(
            f"the card of the demonstrations cannot be stored as JSON ({error}); expected plain values"
        ) from error
    return stored


def unpacked(stored: Any, where: str) -> dict[str, Any]:
    """Return the card that :func:`packed` stored.

    Raises:
        StmError: There is none, or one of another format.
    """
    if not isinstance(stored, dict):
        raise StmError(
            f"{where} does not say where its data come from (it has no card); expected demonstrations as "
            "`stm-rl demos export` writes them"
        )
    card = dict(stored)
    found = card.pop("format", None)
    if found != FORMAT:
        raise StmError(f"{where} has format {found!r}; expected {FORMAT!r}")
    if missing := [name for name in CARD if name not in card]:
        raise StmError(f"the card in {where} does not say {', '.join(missing)}; write the demonstrations anew")
    return card
