"""What holds for every registered environment with slots, whatever its transcripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import WordLM, load_script, random_actions, run_python

from stm_rl.evaluation import play
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine
from stm_rl.registration import NAMING
from stm_rl_agents.constant import idle_agents
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.vector import MemoryVectorEnv

IDS = sorted(name for name, spec in gym.registry.items() if spec.namespace == "stm_rl" and name not in NAMING)
ENGINE = ScoringEngine(WordLM())
ENCODER = HashedWords(16)
MODES = ["teacher-forced", "generate"]


def make(name: str, **options: Any) -> MemoryEnv:
    env = gym.make(name, lm=ENGINE, encoder=ENCODER, **options).unwrapped
    assert isinstance(env, MemoryEnv)
    return env


def seen(env: MemoryEnv, rng: np.random.Generator, steps: int) -> list[bytes]:
    """Return the observations, rewards and texts of random legal play."""
    result = []
    for _ in range(steps):
        action = random_actions(rng, env.action_masks(), env.episodes.settings.slots)
        observation, reward, terminated, truncated, info = env.step(action)
        result.append(b"".join(value.tobytes() for value in observation.values()) + repr((reward, info)).encode())
        if terminated or truncated:
            env.reset()
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", IDS)
def test_snapshot_is_exact(name: str, mode: str) -> None:
    env = make(name, mode=mode)
    env.reset(seed=3)
    seen(env, np.random.default_rng(0), 17)
    state = env.get_state()
    first = seen(env, np.random.default_rng(1), 40)
    env.set_state(state)
    assert seen(env, np.random.default_rng(1), 40) == first
    other = make(name, mode=mode)
    other.set_state(state)
    assert seen(other, np.random.default_rng(1), 40) == first


PLAY = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from hashlib import sha256
from test_every_id import IDS, MODES, make, np, seen
for name in IDS:
    for mode in MODES:
        env = make(name, mode=mode)
        env.reset(seed=5)
        print(name, mode, sha256(b"".join(seen(env, np.random.default_rng(2), 60))).hexdigest())
"""


def test_same_seed_gives_the_same_play_in_other_processes() -> None:
    first = run_python(PLAY, hash_seed=1)
    assert first == run_python(PLAY, hash_seed=2)
    assert len(set(first.split()[2::3])) == len(IDS) * len(MODES) - 5 * len(MODES)  # Medium is the default


@pytest.mark.parametrize("name", IDS)
def test_who_keeps_nothing_earns_nothing_where_the_model_writes(name: str) -> None:
    def makes(num_envs: int, full_context: bool) -> MemoryVectorEnv:
        options: dict[str, Any] = {"autoreset": False, "full_context": full_context, "mode": "generate"}
        env = gym.make_vec(
            name, num_envs, vectorization_mode="vector_entry_point", lm=ENGINE, encoder=ENCODER, **options
        ).unwrapped
        assert isinstance(env, MemoryVectorEnv)
        return env

    for agent in idle_agents():
        assert not play(agent, makes, range(4)).returns.any()


def test_catalogue_is_up_to_date() -> None:
    script = load_script("make_catalogue")
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python scripts/make_catalogue.py"
