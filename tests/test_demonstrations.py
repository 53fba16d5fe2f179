from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import WordLM, assert_legal, assert_same, numbered, transcript

from stm_rl.errors import StmError
from stm_rl.evaluation import play
from stm_rl.transcript import Probe
from stm_rl_agents import Agent, Oracle, heuristics
from stm_rl_agents.base import Actions, Masks
from stm_rl_agents.demonstrations import CARD, DemoEpisode, Demonstrations, card_of, record
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

SLOTS = 3
ASKED = transcript(
    "a: the kite is in the shed", "b: right", "a: it rains", "b: so it does", "a: where is the kite", "b: kite shed",
    probes=[Probe(5, (0,))], name="asked",
)  # fmt: skip
TRANSCRIPTS = [numbered(9, "nine"), ASKED, numbered(2, "two"), numbered(14, "fourteen"), numbered(6, "six")]


def make(num_envs: int = 2, lm: WordLM | None = None, *, autoreset: bool = False, **settings: Any) -> MemoryVectorEnv:
    chosen = MemorySettings(slots=SLOTS, **settings)
    return MemoryVectorEnv(num_envs, TRANSCRIPTS, lm=lm or WordLM(), settings=chosen, autoreset=autoreset)


def named(name: str) -> Agent:
    return next(agent for agent in (*heuristics(0), Oracle()) if agent.name == name)


def assert_whole(episode: DemoEpisode, index: int, env: MemoryVectorEnv, steps: int) -> None:
    assert episode.transcript == TRANSCRIPTS[index].id
    assert len(episode) == steps
    assert episode.terminated == (steps == len(TRANSCRIPTS[index]) - 1)
    space = env.single_observation_space
    assert episode.observations.keys() == space.spaces.keys()  # type: ignore[attr-defined]
    assert {len(value) for value in episode.observations.values()} == {steps + 1}
    assert_legal(episode.actions, episode.masks, SLOTS)
    assert episode.rewards.shape == (steps,)
    assert episode.rewards.dtype == episode.stakes.dtype == np.float32


@pytest.mark.parametrize("reads", [1, 3])
@pytest.mark.parametrize("max_steps", [None, 5])
def test_episodes_are_whole_whatever_their_lengths(reads: int, max_steps: int | None) -> None:
    env = make(reads=reads, max_steps=max_steps)
    counts: list[int] = []
    episodes = record(named("random"), env, range(5), counts.append)
    assert counts == [2, 2, 1]
    for index, episode in enumerate(episodes):
        assert_whole(episode, index, env, min(len(TRANSCRIPTS[index]) - 1, max_steps or 99))
        assert episode.actions.shape == (len(episode), 1 + reads)


@pytest.mark.parametrize("name", ["random", "lru", "similarity", "oracle"])
def test_what_is_recorded_is_what_a_player_earns(name: str) -> None:
    indices = [3, 1, 0, 4]
    played = play(named(name), lambda n, full: make(n), indices, batch=2)
    episodes = record(named(name), make(), indices)
    np.testing.assert_allclose([one.rewards.sum() for one in episodes], played.returns, atol=1e-5)
    assert [len(one) for one in episodes] == played.turns.tolist()
    assert [(one.actions[:, 0] > 0).sum() for one in episodes] == played.writes.tolist()
    assert name != "oracle" or played.returns[1] > 0


def test_actions_lead_through_the_recorded_observations() -> None:
    episode = record(named("random"), make(), [0, 3])[1]
    env = make(1)
    seen, _ = env.reset(options={"transcripts": [3]})
    for step, action in enumerate(episode.actions):
        assert_same({name: value[0] for name, value in seen.items()}, at(episode, step))
        np.testing.assert_array_equal(env.action_masks()[0], episode.masks[step])
        seen, rewards, _, _, _ = env.step(action[None])
        assert np.float32(rewards[0]) == episode.rewards[step]
    assert_same({name: value[0] for name, value in seen.items()}, at(episode, len(episode)))


def at(episode: DemoEpisode, step: int) -> Observation:
    return {name: value[step] for name, value in episode.observations.items()}


def test_stakes_of_an_agent_that_knows_them_are_kept() -> None:
    class Staked(Agent):
        def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
            n = len(action_masks)
            self.stakes = np.tile(np.array([[0.5, 2, 4]]), (n, 1)) * np.arange(1, n + 1)[:, None]
            return np.zeros((n, 3), np.int64)

    first, second = record(Staked(), make(), [0, 1])
    assert (first.stakes == [0.5, 2, 4]).all()
    assert (second.stakes == [1, 4, 8]).all()
    assert (record(named("none"), make(), [0])[0].stakes == 1).all()


def test_an_environment_that_resets_itself_is_refused() -> None:
    with pytest.raises(StmError, match="autoreset=False"):
        record(named("none"), make(autoreset=True), [0])


def test_a_card_says_what_demonstrations_fit() -> None:
    env = make()
    card = card_of(env, "lru", "somewhere", options={"turns": 40})
    assert set(card) == {*CARD, "options"}
    assert card["settings"] == {"slots": SLOTS, "window": 2, "reads": 2}
    demonstrations = Demonstrations(record(named("lru"), env, [0, 1]), card)
    assert len(demonstrations) == 8 + 5
    demonstrations.check(card_of(make(5), "another", "elsewhere"))
    demonstrations.check({})
    with pytest.raises(StmError, match=r"settings .*'reads': 2.* but .*'reads': 1"):
        demonstrations.check(card_of(make(reads=1), "lru", "somewhere"))
    other = WordLM()
    other.id = "letters"
    with pytest.raises(StmError, match=r"made with lm 'words.*' but the environment has 'letters"):
        demonstrations.check(card_of(make(lm=other), "lru", "somewhere"))
