"""The bars of the embedded model and of the worlds, on held-out transcripts."""

from __future__ import annotations

from functools import lru_cache

import gymnasium as gym
import pytest
from helpers import load_script

from stm_rl.evaluation import play
from stm_rl.lm import load_engine
from stm_rl.worlds import DialogueWorld, RecallWorld, ScreenplayWorld, ScriptWorld, StoryWorld
from stm_rl_agents import Informed, Oracle, heuristics
from stm_rl_envs.vector import MemoryVectorEnv

WORLDS = (DialogueWorld, StoryWorld, ScreenplayWorld, RecallWorld)


@lru_cache
def gains(world: type[ScriptWorld]) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = load_script("eval_tiny_lm").measure(load_engine().lm, world(), transcripts=40)
    return result


@pytest.mark.parametrize("world", WORLDS)
def test_needed_turn_gains_two_nats_and_more(world: type[ScriptWorld]) -> None:
    assert gains(world)["dependent turn, needed read (1 hop)"]["mean"] > 3
    assert gains(world)["dependent turn, needed read (2 hops)"]["mean"] > 3
    assert gains(world)["dependent turn, needed and unneeded read"]["mean"] > 2


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("read", ["stale", "foreign"])
def test_stale_or_foreign_turn_gains_nothing(world: type[ScriptWorld], read: str) -> None:
    assert gains(world)[f"dependent turn, {read} read"]["mean"] < 0


@pytest.mark.parametrize(("world", "spread"), list(zip(WORLDS, (0.3, 0.4, 0.4, 0.3), strict=True)))
def test_unneeded_turn_changes_next_to_nothing(world: type[ScriptWorld], spread: float) -> None:
    one = gains(world)["other turn, 1 past turn read"]
    assert abs(one["mean"]) < 0.1
    assert one["std"] < spread


@pytest.mark.parametrize("name", ["Dialogue", "Story", "Screenplay", "Recall"])
def test_world_can_be_learned_and_needs_learning(name: str) -> None:
    def make(num_envs: int, full_context: bool) -> MemoryVectorEnv:
        options = {"split": "test", "episodes": 60, "autoreset": False, "full_context": full_context}
        env = gym.make_vec(f"stm_rl/{name}-v0", num_envs, vectorization_mode="vector_entry_point", **options).unwrapped
        assert isinstance(env, MemoryVectorEnv)
        return env

    returns = {
        agent.name: play(agent, make, range(60)).returns.mean() for agent in (Oracle(), Informed(), *heuristics())
    }
    oracle = returns.pop("oracle")
    assert returns.pop("informed") > 0.85 * oracle
    assert max(returns.values()) < 0.4 * oracle
    assert returns["none"] == 0
