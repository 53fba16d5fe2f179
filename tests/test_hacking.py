"""No policy that ignores what is said may earn much, in any environment; and no observation tells the future."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import WordLM, assert_same, random_actions
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl import Transcript, Turn
from stm_rl.evaluation import Played, play
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine
from stm_rl_agents import Agent, Oracle
from stm_rl_agents.base import Actions, Masks, reads_of
from stm_rl_agents.heuristics import RandomAgent, slot_feature
from stm_rl_envs.episodes import Observation
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.vector import MemoryVectorEnv

IDS = [name for name, spec in gym.registry.items() if spec.namespace == "stm_rl"]
EPISODES = 16
ENGINE = ScoringEngine(WordLM())
ENCODER = HashedWords(16)
Decide = Callable[[Observation, Actions], None]


class Constant(Agent):
    """Fills in actions of zeros by a rule that looks at no text."""

    def __init__(self, name: str, decide: Decide) -> None:
        self.name, self.decide = name, decide

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        actions = np.zeros((len(action_masks), 1 + reads_of(observation, action_masks)), np.int64)
        self.decide(observation, actions)
        slots = observation["slots"].shape[1]
        legal = np.take_along_axis(action_masks.reshape(len(actions), -1, slots + 1), actions[..., None], -1)[..., 0]
        return np.where(legal, actions, 0)


def newest(observation: Observation, count: int) -> Actions:
    """Return the slots written last, newest first, shape ``(n, count)``."""
    age = np.where(slot_feature(observation, "occupied") > 0, slot_feature(observation, "age"), np.inf)
    order = np.argsort(age, axis=1, kind="stable")[:, :count] + 1
    return np.pad(order, ((0, 0), (0, count - order.shape[1])))


def oldest_or_free(observation: Observation) -> Any:
    age = np.where(slot_feature(observation, "occupied") > 0, slot_feature(observation, "age"), np.inf)
    return age.argmax(1) + 1


def always_write(observation: Observation, actions: Actions) -> None:
    actions[:, 0] = oldest_or_free(observation)


def constant_slot(observation: Observation, actions: Actions) -> None:
    actions[:] = 1


def read_everything(observation: Observation, actions: Actions) -> None:
    actions[:, 0] = oldest_or_free(observation)
    actions[:, 1:] = np.arange(1, actions.shape[1])


def copy_last(observation: Observation, actions: Actions) -> None:
    actions[:, 0] = oldest_or_free(observation)
    actions[:, 1:] = newest(observation, actions.shape[1] + 1)[:, 2:]  # the newest two are still in the window


def first_turns(observation: Observation, actions: Actions) -> None:
    free = slot_feature(observation, "occupied") == 0
    actions[:, 0] = np.where(free.any(1), free.argmax(1) + 1, 0)
    actions[:, 1:] = np.arange(1, actions.shape[1])


def only_reads(observation: Observation, actions: Actions) -> None:
    actions[:, 1:] = np.arange(1, actions.shape[1])


def never(observation: Observation, actions: Actions) -> None:
    """Write nothing and read nothing."""


HACKS = {
    "always-write": always_write,
    "constant-slot": constant_slot,
    "read-everything": read_everything,
    "copy-last": copy_last,
    "first-turns": first_turns,
}
IDLE = {"abstain": never, "never-write": only_reads}


def makes(name: str) -> Callable[[int, bool], MemoryVectorEnv]:
    def make(num_envs: int, full_context: bool) -> MemoryVectorEnv:
        options = {"autoreset": False, "full_context": full_context, "encoder": "words"}
        env = gym.make_vec(name, num_envs, vectorization_mode="vector_entry_point", **options).unwrapped
        assert isinstance(env, MemoryVectorEnv)
        return env

    return make


def episodes_of(name: str) -> range:
    return range(min(EPISODES, len(makes(name)(1, False).episodes.prepare.transcripts)))


@lru_cache
def oracle(name: str) -> Played:
    return play(Oracle(), makes(name), episodes_of(name))


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("hack", IDLE)
def test_who_keeps_nothing_earns_exactly_nothing(name: str, hack: str) -> None:
    played = play(Constant(hack, IDLE[hack]), makes(name), episodes_of(name))
    assert not played.gains.any()
    assert not played.returns.any()


@pytest.mark.parametrize("name", IDS)
def test_who_ignores_what_is_said_earns_little(name: str) -> None:
    best = oracle(name).returns.mean()
    assert best > 1
    agents: list[Agent] = [Constant(hack, decide) for hack, decide in HACKS.items()]
    for agent in (*agents, RandomAgent(0)):
        earned = play(agent, makes(name), episodes_of(name)).returns.mean()
        assert earned < 0.35 * best, f"{agent.name} earns {earned:.2f} of the oracle's {best:.2f}"


@pytest.mark.parametrize("name", IDS)
@settings(max_examples=4)
@given(data=st.data())
def test_no_observation_tells_the_future(name: str, data: st.DataObject) -> None:
    known = gym.make(name, lm=ENGINE, encoder=ENCODER).unwrapped
    assert isinstance(known, MemoryEnv)
    transcripts = known.episodes.prepare.transcripts
    one = transcripts[data.draw(st.integers(0, min(20, len(transcripts) - 1)))]
    cut = data.draw(st.integers(1, len(one) - 1))
    later = [Turn(f"Entirely other words, number {i}?", turn.speaker) for i, turn in enumerate(one.turns[cut:])]
    other = Transcript((*one.turns[:cut], *reversed(later)), (), one.id)
    settings_, reward = known.episodes.settings, known.episodes.reward
    a, b = (MemoryEnv([t], settings=settings_, reward=reward, lm=ENGINE, encoder=ENCODER) for t in (one, other))
    rng = np.random.default_rng(0)
    seen = a.reset(), b.reset()
    for _ in range(min(cut, settings_.max_steps or cut) - 1):
        assert_same(seen[0][0], seen[1][0])
        assert (a.action_masks() == b.action_masks()).all()
        action = random_actions(rng, a.action_masks(), settings_.slots)
        (after_a, *_, info_a), (after_b, *_, info_b) = a.step(action), b.step(action)
        assert info_a["coherence_gain"] == info_b["coherence_gain"]
        seen = (after_a, info_a), (after_b, info_b)
    assert_same(seen[0][0], seen[1][0])
