from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WordLM, numbered

from stm_rl.cli.evaluate import trace_extremes
from stm_rl.cluster import Stage
from stm_rl.evaluation import Played, play
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine
from stm_rl_agents import FullContext, Informed, Oracle, heuristics
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_envs.dialogue import DialogueVectorEnv
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES

FAST: dict[str, Any] = {"lm": ScoringEngine(WordLM()), "encoder": HashedWords(16)}
MEASURES = [field.name for field in fields(Played) if field.name not in ("terms", "traces")]


def dialogues(count: int, full_context: bool) -> DialogueVectorEnv:
    return DialogueVectorEnv(count, turns=30, autoreset=False, full_context=full_context, **FAST)


def of_lengths(count: int, full_context: bool) -> MemoryVectorEnv:
    """Transcript ``i`` has ``i + 2`` turns."""
    settings = MemorySettings(full_context=full_context)
    return MemoryVectorEnv(
        count, [numbered(i + 2, str(i)) for i in range(20)], settings=settings, autoreset=False, **FAST
    )


def policy() -> PolicyAgent:
    torch.manual_seed(0)
    network = PointerNetwork(16, len(SLOT_FEATURES), len(GLOBAL_FEATURES), 2, width=16)
    torch.nn.init.normal_(list(network.pick.parameters())[-2])
    torch.nn.init.constant_(list(network.leave.parameters())[-1], -5.0)  # a new network would hardly act
    return PolicyAgent(network)


def named(name: str) -> Callable[[], Any]:
    return lambda: next(agent for agent in heuristics() if agent.name == name)


@pytest.mark.parametrize(
    "make_agent",
    [named("none"), named("fifo"), named("similarity"), named("salience"), FullContext, Informed, Oracle, policy],
    ids=["none", "fifo", "similarity", "salience", "full-context", "informed", "oracle", "policy"],
)
def test_results_do_not_depend_on_the_batch(make_agent: Callable[[], Any]) -> None:
    episodes = [5, 0, 9, 3, 17, 11, 2]
    results = [play(make_agent(), dialogues, episodes, batch=batch, traces=5) for batch in (1, 3, 64)]
    for name in MEASURES:
        values = [getattr(result, name) for result in results]
        assert values[0].shape == (7,)
        for other in values[1:]:
            np.testing.assert_allclose(other, values[0], atol=1e-12, err_msg=name)
    assert results[0].traces == results[1].traces == results[2].traces
    assert results[0].gains.any() == (results[0].traces[0]["agent"] != "none")


@pytest.mark.parametrize("batch", [1, 3, 4, 64])
def test_each_episode_is_played_once_and_in_its_place(batch: int) -> None:
    episodes = [7, 0, 19, 7, 3, 1, 12, 5]
    done: list[int] = []
    played = play(named("fifo")(), of_lengths, episodes, batch=batch, traces=8, on_episodes=done.append)
    assert played.turns.tolist() == [index + 1 for index in episodes]
    assert played.writes.tolist() == played.turns.tolist()
    assert [trace["transcript"] for trace in played.traces] == [str(index) for index in episodes]
    assert [len(trace["steps"]) for trace in played.traces] == [index + 1 for index in episodes]
    assert sum(done) == len(episodes)
    assert max(done) <= batch


def test_traces_add_up_to_the_sums() -> None:
    played = play(Oracle(), dialogues, range(6), batch=4, traces=6)
    assert played.asked.sum() > 6
    assert played.recalled.sum() > 0
    for number, trace in enumerate(played.traces):
        steps = trace["steps"]
        assert [step["step"] for step in steps] == list(range(29))
        assert sum(step["reward"] for step in steps) == pytest.approx(played.returns[number], abs=1e-3)
        assert sum(step["coherence_gain"] for step in steps) == pytest.approx(played.gains[number], abs=1e-3)
        assert sum(step["write"] > 0 for step in steps) == played.writes[number]
        assert sum(len(step["reads"]) for step in steps) == played.reads[number]
        asked = [step for step in steps if step["evidence_needed"]]
        assert len(asked) == played.asked[number]
        assert sum(step["evidence_held"] == step["evidence_needed"] for step in asked) == played.recalled[number]


def test_trace_shows_the_turns() -> None:
    (trace,) = play(Oracle(), dialogues, [3], traces=9).traces
    transcript = dialogues(1, False).episodes.prepare.transcripts[3]
    lines = [str(turn) for turn in transcript.turns]
    assert trace["agent"] == "oracle"
    assert trace["transcript"] == transcript.id
    assert trace["episode"] == 3
    assert [step["turn"] for step in trace["steps"]] == lines[:-1]
    assert [step["next_turn"] for step in trace["steps"]] == lines[1:]


@pytest.mark.parametrize(("traces", "expected"), [(0, 0), (2, 2), (3, 3), (5, 5), (50, 7)])
def test_only_the_first_episodes_are_traced(traces: int, expected: int) -> None:
    played = play(named("none")(), of_lengths, range(7), batch=3, traces=traces)
    assert [trace["transcript"] for trace in played.traces] == [str(index) for index in range(expected)]


def test_best_and_worst_episodes_are_traced_beside_those_without_memory() -> None:
    agents = {name: [named(name)()] for name in ("none", "salience")}
    played = {name: [play(one[0], dialogues, range(12), traces=3)] for name, one in agents.items()}
    traces = [trace for one in played.values() for trace in one[0].traces]
    traces += trace_extremes(Stage(agents, dialogues), ["salience"], played)
    keys = [(trace["agent"], trace["episode"]) for trace in traces]
    assert len(set(keys)) == len(keys)
    order = np.argsort(played["salience"][0].returns).tolist()
    for name in agents:
        assert {episode for agent, episode in keys if agent == name} == {0, 1, 2, *order[:2], *order[-2:]}
    for trace in traces:
        expected = played[trace["agent"]][0].returns[trace["episode"]]
        assert sum(step["reward"] for step in trace["steps"]) == pytest.approx(expected, abs=1e-2)


def test_gain_and_costs_make_the_return() -> None:
    played = play(named("similarity")(), dialogues, range(8))
    np.testing.assert_allclose(played.returns, played.gains - 0.01 * played.writes - 0.02 * played.reads)
    assert played.reads.sum() > 8


def test_terms_add_up_to_the_return() -> None:
    played = play(named("similarity")(), dialogues, range(5), batch=2)
    assert set(played.terms) == {"coherence", "write_cost", "read_cost"}
    np.testing.assert_allclose(np.sum(list(played.terms.values()), axis=0), played.returns)
    np.testing.assert_allclose(played.terms["write_cost"], -0.01 * played.writes)
    joined = Played.joined([played, played])
    assert joined.terms["read_cost"] == played.terms["read_cost"] * 2


def test_only_the_full_context_agent_gets_the_full_context() -> None:
    asked: list[tuple[int, bool]] = []

    def make(count: int, full_context: bool) -> Any:
        asked.append((count, full_context))
        return dialogues(count, full_context)

    full = play(FullContext(), make, range(3))
    none = play(named("none")(), make, range(5), batch=2)
    assert asked == [(3, True), (2, False)]
    assert full.gains.sum() > 1
    assert not none.gains.any()
