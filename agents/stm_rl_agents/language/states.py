"""Single states of episodes: kept as text, so that they fit into a data set's rows, and restored many at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from stm_rl_envs.episodes import Episodes

LISTS = ("written", "notes")
"""Parts of a state that are dictionaries of turns and texts."""


def states_of(episodes: Episodes, rows: Sequence[int]) -> list[str]:
    """Return the states of episodes, from which they can go on in the same environment, as JSON."""
    state = episodes.get_state()
    found: list[str] = []
    for row in rows:
        memory = {name: values[row].tolist() for name, values in state["memory"].items()}
        arrays = {name: state[name][row].tolist() for name in ("step_index", "transcript_index", "overlap_since")}
        texts = {name: list(state[name][row].items()) for name in LISTS}
        found.append(json.dumps({"memory": memory, **arrays, **texts}))
    return found


def state_of(episodes: Episodes, row: int) -> str:
    """Return the state of one episode; see :func:`states_of`."""
    return states_of(episodes, [row])[0]


def restore(episodes: Episodes, states: Sequence[str]) -> None:
    """Put episodes into states, one each; rows beyond them are in the first state, too.

    Args:
        episodes: At least as many as there are states.
        states: From :func:`state_of`.
    """
    found: list[dict[str, Any]] = [json.loads(text) for text in states]
    found += found[:1] * (episodes.n - len(found))
    like = episodes.get_state()
    memory = {
        name: np.array([one["memory"][name] for one in found], values.dtype) for name, values in like["memory"].items()
    }
    arrays = {
        name: np.array([one[name] for one in found], like[name].dtype)
        for name in ("step_index", "transcript_index", "overlap_since")
    }
    texts = {name: [{int(turn): text for turn, text in one[name]} for one in found] for name in LISTS}
    episodes.set_state({"memory": memory, **arrays, **texts})
