"""No policy that ignores what is said may earn much, in any environment; and no observation tells the future."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
from helpers import WordLM, assert_same, random_actions
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl import Transcript, Turn
from stm_rl.evaluation import play
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine
from stm_rl.registration import NAMING
from stm_rl_agents import Agent, Oracle
from stm_rl_agents.constant import constant_agents, idle_agents
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.vector import MemoryVectorEnv

IDS = [name for name, spec in gym.registry.items() if spec.namespace == "stm_rl" and name not in NAMING]
EPISODES = 16
ENGINE = ScoringEngine(WordLM())
ENCODER = HashedWords(16)


def makes(name: str) -> Callable[[int, bool], MemoryVectorEnv]:
    def make(num_envs: int, full_context: bool) -> MemoryVectorEnv:
        options = {"autoreset": False, "full_context": full_context, "encoder": "words"}
        env = gym.make_vec(name, num_envs, vectorization_mode="vector_entry_point", **options).unwrapped
        assert isinstance(env, MemoryVectorEnv)
        return env

    return make


def episodes_of(name: str) -> range:
    return range(min(EPISODES, len(makes(name)(1, False).episodes.prepare.transcripts)))


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("agent", idle_agents(), ids=lambda agent: agent.name)
def test_who_keeps_nothing_earns_exactly_nothing(name: str, agent: Agent) -> None:
    played = play(agent, makes(name), episodes_of(name))
    assert not played.gains.any()
    assert not played.returns.any()


@pytest.mark.parametrize("name", IDS)
def test_who_ignores_what_is_said_earns_little_and_the_oracle_most(name: str) -> None:
    best = play(Oracle(), makes(name), episodes_of(name)).returns.mean()
    assert best > 1
    for agent in constant_agents():
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
