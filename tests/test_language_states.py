"""Free text in slots, states as rows, and what follows from them."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import WordLM, assert_same, numbered, random_actions, transcript

from stm_rl.errors import StmError
from stm_rl.labels import Values
from stm_rl.lm import ScoringEngine
from stm_rl_agents import heuristics
from stm_rl_agents.heuristics import NoMemory
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.language.returns import Playout
from stm_rl_agents.language.rewards import StateReturns, equal_share, horizon_at
from stm_rl_agents.language.states import restore, state_of
from stm_rl_agents.language.tools import Decision
from stm_rl_envs import MemoryEnv, MemorySettings, MemoryVectorEnv

STORIES = [
    transcript(
        *("Ana: the flamingo likes marmalade", "Ben: nothing today", "Ana: quiet again", "Ben: still quiet"),
        *("Ana: very quiet", "Ben: who likes marmalade", "Ana: the flamingo likes marmalade", "Ben: good"),
        name=f"t{number}",
    )
    for number in range(3)
]
SETTINGS = MemorySettings(slots=3, window=1, reads=1)


def make(n, lm=None):
    engine = ScoringEngine(lm or WordLM())
    return MemoryVectorEnv(n, STORIES, settings=SETTINGS, lm=engine, autoreset=False)


def play(env, rng, steps):
    for _ in range(steps):
        env.step(random_actions(rng, env.action_masks(), 3))


def test_a_note_is_read_in_place_of_the_turn():
    lm = WordLM()
    env = MemoryEnv([STORIES[0]], settings=SETTINGS, lm=ScoringEngine(lm))
    env.reset(seed=0)
    env.episodes.note(0, "flamingo marmalade")
    env.step([1, 0])
    assert env.episodes.held(0) == ["flamingo marmalade", None, None]
    lm.asked.clear()
    for _ in range(4):
        env.step([0, 0])
    *_, info = env.step([0, 1])
    assert info["coherence_gain"] > 2
    assert any(context.startswith("> flamingo marmalade\n") for context, _ in lm.asked)
    assert not any("the flamingo" in context for context, _ in lm.asked)


def test_a_note_without_a_write_and_an_empty_slot_leave_nothing():
    env = make(1)
    env.reset(seed=0, options={"transcripts": [0]})
    env.episodes.note(0, "unused")
    env.step(np.array([[0, 0]]))
    assert env.episodes.held(0) == [None] * 3


def test_a_forgotten_slot_is_as_if_never_written():
    written, never = make(1), make(1)
    for env in (written, never):
        env.reset(seed=0, options={"transcripts": [0]})
    written.step(np.array([[2, 0]]))
    never.step(np.array([[0, 0]]))
    written.episodes.forget(0, 2)
    assert_same(written.episodes.observe(), never.episodes.observe())
    assert (written.action_masks() == never.action_masks()).all()
    with pytest.raises(StmError, match="slot 4 cannot be forgotten; expected 1 to 3"):
        written.episodes.forget(0, 4)


def test_states_go_on_as_the_episodes_did():
    rng = np.random.default_rng(0)
    env = make(3)
    env.reset(seed=0, options={"transcripts": [0, 1, 2]})
    play(env, rng, 2)
    env.episodes.note(1, "a note of its own")
    env.step(np.array([[1, 0], [2, 0], [3, 1]]))
    states = [state_of(env.episodes, row) for row in (2, 1)]
    other = make(4)
    other.reset(seed=5, options={"transcripts": [0] * 4})
    play(other, rng, 3)
    restore(other.episodes, states)
    ours, theirs = other.episodes.observe(), env.episodes.observe()
    assert_same(
        {name: value[:2] for name, value in ours.items()}, {name: value[[2, 1]] for name, value in theirs.items()}
    )
    assert other.episodes.held(1) == env.episodes.held(1)
    assert "a note of its own" in other.episodes.held(1)
    actions = np.array([[0, 1], [0, 2]])
    a = other.episodes.step(np.arange(2), actions)
    b = env.episodes.step(np.array([2, 1]), actions)
    np.testing.assert_array_equal(a.reward, b.reward)


def test_returns_are_those_of_playing_on_one_by_one():
    fifo = next(agent for agent in heuristics() if agent.name == "fifo")
    start = make(3)
    start.reset(seed=0, options={"transcripts": [0, 1, 2]})
    states = [state_of(start.episodes, row) for row in range(3)]
    decisions = [Decision(1), Decision(2, "marmalade flamingo"), Decision()]
    found = Playout(make, fifo, gamma=0.9, batch=2).returns(states, decisions, horizon=6)
    for number, decision in enumerate(decisions):
        env = make(1)
        fifo.start(env)
        observation, _ = env.reset(seed=0, options={"transcripts": [number]})
        action = decision.apply(env.episodes, 0)[None]
        total = 0.0
        for step in range(6):
            if step:
                action = fifo.act(observation, env.action_masks())
            observation, reward, *_ = env.step(action)
            total += 0.9**step * float(reward[0])
        assert found[number] == pytest.approx(total)
    assert found[0] != found[2]


def test_a_horizon_ends_the_play():
    start = make(1)
    start.reset(seed=0, options={"transcripts": [0]})
    state = state_of(start.episodes, 0)
    reader = next(agent for agent in heuristics() if agent.name == "longest")
    short, long = (Playout(make, reader).returns([state], [Decision(1)], horizon)[0] for horizon in (1, 8))
    assert short == pytest.approx(-0.01)  # only the write's cost
    assert long > 1


def test_what_the_memory_is_worth_at_the_end_of_play_counts():
    stories = [numbered(12)]
    gain, future = np.zeros((2, 12, 14), np.float32)
    future[0] = 3.0
    expert = HindsightExpert(lambda prepared: [Values(gain, future) for _ in prepared], 1.0)

    def make_one(n):
        return MemoryVectorEnv(n, stories, settings=SETTINGS, lm=ScoringEngine(WordLM()), autoreset=False)

    start = make_one(1)
    start.reset(seed=0, options={"transcripts": [0]})
    state = state_of(start.episodes, 0)
    decisions = [Decision(1), Decision(), Decision(1, "a note, of which nobody knows what it is worth")]
    for horizon, worth in ((1, 3.0), (3, 3.0), (50, 0.0)):  # what an episode that is over holds is worth nothing
        plain, valued = (
            Playout(make_one, NoMemory(), gamma=0.9, valuer=valuer).returns([state] * 3, decisions, horizon)
            for valuer in (None, expert)
        )
        np.testing.assert_allclose(valued - plain, [0.9**horizon * worth, 0.0, 0.0], atol=1e-6)


def test_equal_decisions_of_a_state_are_played_once():
    playout = Playout(make, NoMemory())
    start = make(1)
    start.reset(seed=0, options={"transcripts": [0]})
    state = state_of(start.episodes, 0)
    played = []
    playout.returns = lambda states, decisions, horizon: played.append(len(states)) or np.arange(len(states)) * 1.0
    found = StateReturns(playout, None).returns([state] * 4, [Decision(1), Decision(), Decision(1), Decision(2)], 0.0)
    assert played == [3]
    assert found.tolist() == [0, 1, 0, 2]


def test_returns_count_as_much_as_their_state_weighs():
    playout, logged = Playout(make, NoMemory()), {}
    playout.returns = lambda states, decisions, horizon: np.array([3.0, 1.0])
    rewards = StateReturns(playout, None)
    rewards.decisions = lambda prompts, completion_ids: [Decision(1), Decision(2)]
    now = SimpleNamespace(global_step=0, max_steps=1)
    found = rewards([[], []], [[], []], ["a", "b"], now, logged.__setitem__, [0.5, 2.0])
    assert found == [1.5, 2.0]
    assert logged["return"] == 2  # as it was


def test_horizons_grow_with_training():
    assert [horizon_at(progress) for progress in (0, 0.3, 0.34, 0.66, 0.67, 1)] == [8, 8, 16, 16, 32, 32]
    with pytest.raises(StmError, match="expected at least one"):
        StateReturns(Playout(make, NoMemory()), None, ())


def test_the_share_of_states_that_teach_nothing():
    assert equal_share(["a", "a", "b", "b"], np.array([1, 1, 1, 2.0])) == 0.5


def test_long_episodes_and_short_ones_go_side_by_side():
    stories = [numbered(4), numbered(12)]
    env = MemoryVectorEnv(2, stories, settings=SETTINGS, lm=ScoringEngine(WordLM()), autoreset=False)
    env.reset(seed=0, options={"transcripts": [0, 1]})
    states = [state_of(env.episodes, row) for row in range(2)]

    def again(n):
        return MemoryVectorEnv(n, stories, settings=SETTINGS, lm=ScoringEngine(WordLM()), autoreset=False)

    fifo = next(agent for agent in heuristics() if agent.name == "fifo")
    found = Playout(again, fifo, gamma=1.0, batch=8).returns(states, [Decision(), Decision()], horizon=50)
    assert found[0] == pytest.approx(-0.02, abs=0.005)  # fifo writes two of three turns
    assert found[1] == pytest.approx(-0.10, abs=0.005)
