"""The bars of the embedded model and of the dialogue world, on held-out dialogues."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from stm_rl.evaluation import play
from stm_rl.lm import load_engine
from stm_rl.worlds import DialogueWorld
from stm_rl_agents import Informed, Oracle, heuristics
from stm_rl_envs.dialogue import DialogueVectorEnv

REPO = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def gains() -> dict[str, dict[str, float]]:
    spec = importlib.util.spec_from_file_location("eval_tiny_lm", REPO / "scripts" / "eval_tiny_lm.py")
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    result: dict[str, dict[str, float]] = script.measure(load_engine().lm, DialogueWorld(), transcripts=40)
    return result


def test_needed_turn_gains_two_nats_and_more(gains: dict[str, dict[str, float]]) -> None:
    assert gains["dependent turn, needed read (1 hop)"]["mean"] > 3
    assert gains["dependent turn, needed read (2 hops)"]["mean"] > 4
    assert gains["dependent turn, needed and unneeded read"]["mean"] > 2


@pytest.mark.parametrize("read", ["stale", "foreign"])
def test_stale_or_foreign_turn_gains_nothing(gains: dict[str, dict[str, float]], read: str) -> None:
    assert gains[f"dependent turn, {read} read"]["mean"] < 0


def test_unneeded_turn_changes_next_to_nothing(gains: dict[str, dict[str, float]]) -> None:
    one = gains["other turn, 1 past turn read"]
    assert abs(one["mean"]) < 0.05
    assert one["std"] < 0.3


def test_world_can_be_learned_and_needs_learning() -> None:
    def make(num_envs: int, full_context: bool) -> DialogueVectorEnv:
        return DialogueVectorEnv(num_envs, split="test", episodes=60, autoreset=False, full_context=full_context)

    returns = {
        agent.name: play(agent, make, range(60)).returns.mean() for agent in (Oracle(), Informed(), *heuristics())
    }
    oracle = returns.pop("oracle")
    assert returns.pop("informed") > 0.85 * oracle
    assert max(returns.values()) < 0.4 * oracle
    assert returns["none"] == 0
