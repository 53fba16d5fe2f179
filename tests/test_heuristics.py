from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from helpers import WordLM, assert_legal, numbered, transcript
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl import Transcript
from stm_rl.features import TURN_FEATURES, HashedWords, turn_features
from stm_rl.lm import ScoringEngine
from stm_rl.memory import EMPTY
from stm_rl_agents import Agent, FullContext, Informed, Oracle, heuristics
from stm_rl_envs.dialogue import DialogueEnv, DialogueVectorEnv
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

ENGINE = ScoringEngine(WordLM())
FAST: dict[str, Any] = {"lm": ENGINE, "encoder": HashedWords(8)}
NAMES = ["none", "random", "fifo", "lru", "reservoir", "longest", "salience", "similarity"]
ALL = [*NAMES, "oracle", "informed"]


def agent(name: str, seed: int = 0) -> Agent:
    known = [*heuristics(seed), FullContext(), Oracle(), Informed()]
    return next(each for each in known if each.name == name)


def environment(*transcripts: Transcript, num_envs: int = 1, **options: Any) -> MemoryVectorEnv:
    chosen = MemorySettings(**options)
    return MemoryVectorEnv(num_envs, transcripts, settings=chosen, **FAST, autoreset=False)


def memories(who: Agent, env: MemoryVectorEnv, **reset: Any) -> list[Any]:
    """Play to the end; return what the memory held after each step."""
    observation, _ = env.reset(**reset)
    who.start(env)
    held = []
    while not env.resting.all():
        observation, *_ = env.step(who.act(observation, env.action_masks()))
        held.append(env.episodes.memory.turn.copy())
    return held


def of_sizes(sizes: list[int]) -> Transcript:
    return transcript(*(f"a: {' '.join(f'w{i}x{k}' for k in range(size))}" for i, size in enumerate(sizes)))


def test_all_have_their_names() -> None:
    assert [each.name for each in heuristics()] == NAMES


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    slots=st.integers(1, 5),
    reads=st.integers(1, 6),
    window=st.integers(1, 4),
    name=st.sampled_from(ALL),
)
def test_every_action_is_legal(seed: int, slots: int, reads: int, window: int, name: str) -> None:
    env = DialogueVectorEnv(4, **FAST, turns=20, slots=slots, reads=reads, window=window, autoreset=False)
    observation, _ = env.reset(seed=seed)
    who = agent(name, seed)
    who.start(env)
    while not env.resting.all():
        masks = env.action_masks()
        actions = who.act(observation, masks)
        assert_legal(actions, masks, slots)
        observation, *_ = env.step(actions)


@pytest.mark.parametrize("name", ALL)
def test_one_observation_gets_the_same_action_as_a_batch_of_one(name: str) -> None:
    env, one, batch = DialogueEnv(**FAST, turns=20), agent(name), agent(name)
    observation, _ = env.reset(seed=3)
    for each in (one, batch):
        each.start(env)  # type: ignore[arg-type]
    done, used = False, Counter[int]()
    while not done:
        masks = env.action_masks()
        action = one.act(observation, masks)
        stacked = {key: value[None] for key, value in observation.items()}
        assert action.shape == (3,)
        assert action.tolist() == batch.act(stacked, masks[None])[0].tolist()
        used.update(action.tolist())
        observation, _, done, *_ = env.step(action)
    assert (len(used) == 1) == (name == "none")


def test_random_agent_takes_every_legal_action_and_repeats_with_its_seed() -> None:
    env = DialogueVectorEnv(4, **FAST, turns=20)
    observation, _ = env.reset(seed=0)
    env.step(np.array([[1, 0, 0]] * 4))
    masks = env.action_masks()
    first, again, other = (agent("random", seed).act(observation, masks).tolist() for seed in (5, 5, 6))
    assert first == again != other
    who = agent("random")
    seen = Counter(tuple(action) for _ in range(300) for action in who.act(observation, masks).tolist())
    assert len(seen) == 5 * 2 * 2
    assert min(seen.values()) > 1200 / 20 * 0.5


def test_no_memory_does_nothing() -> None:
    assert (memories(agent("none"), environment(numbered(9)))[-1] == EMPTY).all()


# What is kept.


@pytest.mark.parametrize("name", ["fifo", "similarity"])
@pytest.mark.parametrize("slots", [1, 3])
def test_the_newest_turns_are_kept(name: str, slots: int) -> None:
    for step, held in enumerate(memories(agent(name), environment(numbered(20), slots=slots))):
        newest = list(range(max(0, step - slots + 1), step + 1))
        assert sorted(turn for turn in held[0].tolist() if turn != EMPTY) == newest


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 31), min_size=3, max_size=12), slots=st.integers(1, 4))
def test_the_longest_turns_are_kept(sizes: list[int], slots: int) -> None:
    for step, (held,) in enumerate(memories(agent("longest"), environment(of_sizes(sizes), slots=slots))):
        kept = [turn for turn in held.tolist() if turn != EMPTY]
        assert len(kept) == len(set(kept)) == min(slots, step + 1)
        assert sorted(sizes[turn] for turn in kept) == sorted(sizes[: step + 1])[-slots:]


def test_among_equals_the_newer_stay() -> None:
    held = memories(agent("longest"), environment(of_sizes([3, 5, 5, 2, 5, 1]), slots=2))
    assert [sorted(each[0].tolist()) for each in held] == [[EMPTY, 0], [0, 1], [1, 2], [1, 2], [2, 4]]


def test_the_most_salient_turns_are_kept() -> None:
    env = DialogueVectorEnv(6, **FAST, turns=30, autoreset=False)
    held = memories(agent("salience"), env, seed=0)[-1]
    for row in range(6):
        turns = env.episodes.current[row].transcript.turns[:-1]
        worth = [turn_features(turn)[TURN_FEATURES.index("salience")] for turn in turns]
        assert sorted(worth[turn] for turn in held[row]) == sorted(worth)[-4:]


def test_lru_gives_up_what_was_not_read_for_longest() -> None:
    def kept(name: str, third: str) -> list[int]:
        talk = ("a: the kite", "a: noise", third, "a: more noise", "a: end")
        held = memories(agent(name), environment(transcript(*talk), slots=3))[-1]
        return sorted(held[0].tolist())

    assert kept("lru", "a: something else") == kept("fifo", "a: the kite again") == [1, 2, 3]
    assert kept("lru", "a: the kite again") == [0, 2, 3]  # the third turn read the first


def test_reservoir_is_an_even_sample() -> None:
    turns, slots, runs = 21, 4, 1500
    env = environment(numbered(turns), num_envs=runs, slots=slots)
    held = memories(agent("reservoir"), env)
    for step in (7, turns - 2):
        share = slots / (step + 1)
        counts = Counter(held[step].ravel().tolist())
        assert set(counts) == set(range(step + 1))
        deviation = np.sqrt(runs * share * (1 - share))
        assert all(abs(count - runs * share) < 4 * deviation for count in counts.values())


# What is read.


def reads_at_the_end(who: Agent, *lines: str, **options: Any) -> list[int]:
    """Return the turns read at the last step but one turn: when the question is the current turn."""
    env = environment(transcript(*lines, "a: end"), **options)
    observation, _ = env.reset()
    for _ in lines:
        actions = who.act(observation, env.action_masks())
        observation, *_, infos = env.step(actions)
    return list(infos["read_turns"][0])


STORY = ("a: kite lamp drum", "a: kite lamp", "a: kite", "a: soup", "b: so", "b: kite lamp drum")


def test_similarity_reads_the_turns_that_share_most_words() -> None:
    assert reads_at_the_end(agent("similarity"), *STORY, slots=6, reads=2) == [0, 1]
    assert reads_at_the_end(agent("similarity"), *STORY, slots=6, reads=1) == [0]
    assert reads_at_the_end(agent("similarity"), *STORY, slots=6, reads=5) == [0, 1, 2]  # no word of the soup


def test_fewer_slots_than_reads_will_do() -> None:
    assert reads_at_the_end(agent("similarity"), *STORY[2:], slots=4, reads=6) == [0]


@pytest.mark.parametrize("name", ["fifo", "lru", "longest", "salience", "reservoir"])
def test_turns_below_the_threshold_are_not_read(name: str) -> None:
    lines = ("a: kite lamp drum soup zoo farm bank", "a: kite", "b: so", "b: kite mill bakery library")
    picky, lenient = ({each.name: each for each in heuristics(threshold=t)}[name] for t in (0.3, 0.1))
    assert reads_at_the_end(picky, *lines, slots=6) == [1]
    assert reads_at_the_end(lenient, *lines, slots=6) == [0, 1]


def test_slot_being_superseded_is_not_read() -> None:
    lines = ("a: kite", "b: so", "b: oh", "b: kite")
    env = environment(transcript(*lines, "a: end"), slots=3)
    observation, _ = env.reset()
    who = agent("fifo")
    for _ in range(3):
        observation, *_ = env.step(who.act(observation, env.action_masks()))
    assert who.act(observation, env.action_masks()).tolist() == [[1, 0, 0]]
