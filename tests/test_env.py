from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers import WordLM, assert_same, numbered, random_actions, transcript
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from stm_rl import Probe, Question, StmError, Transcript, Turn
from stm_rl.features import HashedWords, overlap
from stm_rl.lm import ScoringEngine, load_engine
from stm_rl.registration import NAMING
from stm_rl.rewards import Reward
from stm_rl_envs.dialogue import DialogueEnv
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES

IDS = [name for name in gym.registry if name.startswith("stm_rl/") and name not in NAMING]
ENCODER = HashedWords(32)
ENGINE = ScoringEngine(WordLM())
"""Shared, so that each score is computed once in all tests."""

KITE = transcript(
    "user: I put the kite in the cupboard.",
    "assistant: Noted.",
    "user: It rains again.",
    "assistant: The plants are happy.",
    "user: Where is the kite?",
    "assistant: In the cupboard.",
    "user: Thanks.",
    probes=[Probe(5, (0,), "cupboard")],
    name="kite",
)


def dialogue(**options: Any) -> DialogueEnv:
    return DialogueEnv(**({"lm": ENGINE, "encoder": ENCODER, "turns": 16, "episodes": 50} | options))


def memory(*transcripts: Transcript, **options: Any) -> MemoryEnv:
    names = MemorySettings.names()
    chosen = {name: options.pop(name) for name in names if name in options}
    return MemoryEnv(transcripts, settings=MemorySettings(**chosen), **({"lm": ENGINE, "encoder": ENCODER} | options))


def play(env: MemoryEnv, actions: Sequence[Sequence[int]], **reset: Any) -> list[tuple[Any, float, dict[str, Any]]]:
    """Return observation, reward and info after each action."""
    env.reset(**reset)
    return [(step[0], step[1], step[4]) for step in map(env.step, actions)]


def play_randomly(env: MemoryEnv, seed: int, steps: int) -> list[Any]:
    """Return everything that random legal play over several episodes shows."""
    rng = np.random.default_rng(seed)
    seen: list[Any] = [env.reset(seed=seed)]
    for _ in range(steps):
        masks = env.action_masks()
        seen += [masks, env.step(random_actions(rng, masks, env.episodes.settings.slots))]
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


def assert_equal(a: Any, b: Any) -> None:
    """Fail unless two nested values are equal to the last bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_equal(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        np.testing.assert_array_equal(a, b)


# The interface.


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_finds_no_fault(name: str) -> None:
    check_env(gym.make(name, lm=ENGINE).unwrapped)


@pytest.mark.filterwarnings("ignore:.*has an unconventional shape:UserWarning")  # slots are a matrix on purpose
@pytest.mark.parametrize("name", IDS)
def test_stable_baselines3_finds_no_fault(name: str) -> None:
    check_sb3_env(gym.make(name, lm=ENGINE).unwrapped)


@pytest.mark.parametrize("name", IDS)
def test_registered_environment_plays_with_the_embedded_model(name: str) -> None:
    env = gym.make(name)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    total = 0.0
    for _ in range(4):
        observation, reward, *_ = env.step(np.array([1, 1, 0][: len(env.action_space.nvec)]))
        assert observation in env.observation_space
        total += abs(reward)
    assert total > 0


def test_there_are_registered_environments() -> None:
    assert "stm_rl/Dialogue-v0" in IDS
    assert isinstance(gym.make("stm_rl:stm_rl/Dialogue-v0", lm=ENGINE).unwrapped, DialogueEnv)


def test_observations_stay_in_their_space() -> None:
    env = dialogue(slots=2, window=1, reads=3)
    for item in play_randomly(env, 3, 60):
        if isinstance(item, tuple):
            assert item[0] in env.observation_space


def test_masks_allow_every_write_and_the_reads_of_what_is_held() -> None:
    env = memory(numbered(8), slots=2, reads=2)
    env.reset()
    free = [True, True, True, True, False, False, True, False, False]
    assert env.action_masks().tolist() == free
    env.step([2, 0, 0])
    assert env.action_masks().tolist() == [True, True, True] + [True, False, True] * 2
    env.step([1, 0, 0])
    assert env.action_masks().all()
    env.reset()
    assert env.action_masks().tolist() == free


@pytest.mark.parametrize("action", [[3, 0, 0], [0, 0, -1], [0, 3, 0], [0, 0], [0, 0, 0, 0]])
def test_action_out_of_range_is_an_error_and_changes_nothing(action: list[int]) -> None:
    env = memory(numbered(8), slots=2, reads=2)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(StmError, match=r"outside 0\.\.2|expected \(1, 3\)"):
        env.step(action)
    assert_equal(env.get_state(), before)


def test_step_without_an_episode_under_way_is_an_error() -> None:
    env = memory(numbered(3))
    with pytest.raises(StmError, match=r"call reset\(\) first"):
        env.step([0, 0, 0])
    env.reset()
    assert [env.step([0, 0, 0])[2] for _ in range(2)] == [False, True]
    with pytest.raises(StmError, match=r"call reset\(\) first"):
        env.step([0, 0, 0])
    env.reset()
    assert env.step([0, 0, 0])[2] is False


@pytest.mark.parametrize(
    "options", [{"slots": 0}, {"window": 0}, {"reads": 0}, {"max_steps": 0}, {"render_mode": "human"}]
)
def test_bad_settings_are_errors(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(StmError, match=f"{name} is"):
        memory(KITE, **options)


# Seeds and resets.


def test_same_seed_gives_the_same_trajectory() -> None:
    first, again, other = (play_randomly(dialogue(), seed, 40) for seed in (1, 1, 2))
    assert_equal(first, again)
    with pytest.raises(AssertionError):
        assert_equal(first, other)


def test_resets_without_a_seed_go_on_with_other_transcripts() -> None:
    env = dialogue()
    env.reset(seed=0)
    names = [env.reset()[1]["transcript"] for _ in range(20)]
    assert len(set(names)) > 5
    env.reset(seed=0)
    assert [env.reset()[1]["transcript"] for _ in range(20)] == names


def test_transcript_can_be_chosen() -> None:
    env = dialogue(split="test")
    for index in (0, 49, 7):
        assert env.reset(options={"transcript": index})[1]["transcript"] == f"dialogue-{2 * 10**8 + index}"


@pytest.mark.parametrize("index", [-1, 50])
def test_transcript_that_is_not_there_is_an_error(index: int) -> None:
    with pytest.raises(StmError, match=f"transcript {index} was asked for; expected 0 to 49"):
        dialogue().reset(options={"transcript": index})


# Rewards.


def test_without_any_write_gain_and_reward_are_exactly_zero() -> None:
    env = dialogue()
    rng = np.random.default_rng(0)
    for seed in range(5):
        env.reset(seed=seed)
        done = False
        while not done:
            action = [0, *rng.integers(0, 5, 2)]  # reads of free slots, which are no legal actions, too
            _, reward, terminated, truncated, info = env.step(action)
            assert reward == 0
            assert info["coherence_gain"] == 0
            done = terminated or truncated


def test_gain_is_what_the_read_turn_adds() -> None:
    lm = WordLM()
    actions = [[1, 0, 0], *[[0, 0, 0]] * 3, [0, 1, 0], [0, 0, 0]]
    steps = play(memory(KITE, lm=lm), actions)
    window = "assistant: The plants are happy.\nuser: Where is the kite?\nassistant:"
    read = "> user: I put the kite in the cupboard.\n"
    without, with_read = lm.score([window, read + window], [" In the cupboard."] * 2)
    _, reward, info = steps[4]
    assert info["coherence_gain"] == with_read - without > 1
    assert info["reads"] == [0]
    assert reward == pytest.approx(with_read - without - 0.02)
    assert info["reward/coherence"] == info["coherence_gain"]
    assert info["reward/read_cost"] == pytest.approx(-0.02)
    assert [step[1] for step in steps[:4]] == pytest.approx([-0.01, 0, 0, 0])


def test_reads_are_put_in_front_of_the_model_oldest_first() -> None:
    lm = WordLM()
    play(memory(numbered(7), lm=lm), [[2, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 2]])
    window = "b: word3\na: word4\nb:"
    assert lm.asked[-2:] == [(f"> a: word0\n> b: word1\n{window}", " word5"), (window, " word5")]


def test_superseded_turn_can_no_longer_be_read() -> None:
    steps = play(memory(KITE), [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]])
    assert steps[-1][2]["reads"] == [1]
    assert steps[-1][2]["coherence_gain"] < 0.1
    assert steps[-1][2]["memory"] == ["assistant: Noted.", None, None, None]


@pytest.mark.parametrize(
    ("actions", "same"),
    [
        ([[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 0]]),  # still in the window
        ([[0, 0, 0], [2, 2, 0]], [[0, 0, 0], [2, 0, 0]]),  # the current turn itself
        ([[1, 0, 0], [0, 0, 0], [0, 3, 4]], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),  # free slots
        ([[1, 0, 0], *[[0, 0, 0]] * 3, [0, 1, 1]], [[1, 0, 0], *[[0, 0, 0]] * 3, [0, 1, 0]]),  # twice the same
    ],
    ids=["window", "current", "free", "twice"],
)
def test_read_that_adds_nothing_costs_nothing(actions: list[list[int]], same: list[list[int]]) -> None:
    a, b = (play(memory(KITE), [*given, [0, 0, 0]]) for given in (actions, same))
    assert_equal(a, b)
    assert a[len(actions) - 1][2]["reads"] in ([], [0])


def test_turn_leaves_the_window_and_can_be_read_then() -> None:
    for window in (1, 2, 3):
        steps = play(memory(numbered(8), window=window), [[1, 0, 0], *[[0, 1, 0]] * 5])
        assert [info["reads"] for _, _, info in steps] == [[]] * window + [[0]] * (6 - window)


def test_reward_can_be_chosen() -> None:
    actions = [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    env = memory(KITE, reward=Reward({"write_cost": 0.5, "read_cost": 1.0}))
    steps = play(env, actions)
    assert [reward for _, reward, _ in steps] == [-0.5, 0, -1]
    assert "reward/coherence" not in steps[0][2]
    assert "reward/read_cost" in steps[0][2]


def test_reward_is_the_sum_of_its_terms() -> None:
    seen = [item for item in play_randomly(dialogue(), 0, 60) if isinstance(item, tuple) and len(item) == 5]
    assert any(reward > 0.5 for _, reward, *_ in seen)
    for _, reward, _, _, info in seen:
        terms = [value for name, value in info.items() if name.startswith("reward/")]
        assert len(terms) == 3
        assert reward == pytest.approx(sum(terms))


def test_full_context_gains_without_memory_and_its_actions_have_no_effect() -> None:
    free = {"reward": Reward({"coherence": 1.0}), "full_context": True}
    actions = [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 1], [2, 0, 0]]
    rewards = [reward for _, reward, _ in play(memory(KITE, **free), actions)]
    assert rewards == [reward for _, reward, _ in play(memory(KITE, **free), [[0, 0, 0]] * 6)]
    assert rewards[:2] == [0, 0]  # the window holds all there is
    assert rewards[4] > 1


# Ends.


@pytest.mark.parametrize(("max_steps", "terminated", "truncated"), [(None, 7, 0), (5, 0, 5), (7, 7, 0), (9, 7, 0)])
def test_episode_ends_with_its_transcript_or_is_truncated(
    max_steps: int | None, terminated: int, truncated: int
) -> None:
    env = memory(numbered(8), max_steps=max_steps)
    for _ in range(2):
        env.reset()
        ends = [0, 0]
        for number in range(1, 8):
            _, _, *done, info = env.step([0, 0, 0])
            assert info["step"] == number
            if any(done):
                ends = [number * done[0], number * done[1]]
                break
        assert ends == [terminated, truncated]


def test_shortest_transcript_is_an_episode_of_one_step() -> None:
    env = memory(numbered(2))
    env.reset()
    assert env.step([1, 1, 1])[2:4] == (True, False)


# What the agent may know.


@settings(max_examples=25)
@given(cut=st.integers(1, 14), seed=st.integers(0, 20))
def test_the_future_does_not_show_in_the_past(cut: int, seed: int) -> None:
    one = dialogue().episodes.prepare.transcripts[seed]
    future = transcript(*[f"{name}: What else?" for name in ("carol", "user", "assistant") * 5])
    other = Transcript((*one.turns[:cut], *future.turns[: 16 - cut]), (), one.id)
    rng = np.random.default_rng(seed)
    a, b = memory(one), memory(other)
    shown = a.reset(), b.reset()
    for _ in range(cut - 1):
        assert_same(shown[0][0], shown[1][0])
        assert {**shown[0][1], "oracle": 0} == {**shown[1][1], "oracle": 0}
        assert (a.action_masks() == b.action_masks()).all()
        action = random_actions(rng, a.action_masks(), 4)
        (after_a, reward_a, *_, info_a), (after_b, reward_b, *_, info_b) = a.step(action), b.step(action)
        assert reward_a == reward_b
        shown = (after_a, info_a), (after_b, info_b)
    assert_same(shown[0][0], shown[1][0])


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from keys(inner)


def test_dependencies_are_under_the_oracle_only() -> None:
    actions = [[1, 0, 0], *[[0, 0, 0]] * 3, [0, 1, 0], [0, 0, 0]]
    known = play(memory(KITE), actions)
    unknown = play(memory(Transcript(KITE.turns, (), KITE.id)), actions)
    assert known[3][2]["oracle"] == {"evidence": (0,)}  # at turn 4, which asks
    for (seen_a, reward_a, info_a), (seen_b, reward_b, info_b) in zip(known, unknown, strict=True):
        info_a, oracle = {**info_a}, info_a["oracle"]
        info_b = {**info_b}
        del info_a["oracle"], info_b["oracle"]
        assert_equal((seen_a, reward_a, info_a), (seen_b, reward_b, info_b))
        assert set(oracle) == {"evidence"}
        assert not {"evidence", "probes", "stale", "answer"} & set(keys(info_a))


def test_evidence_still_in_the_window_is_not_needed() -> None:
    steps = play(memory(KITE, window=5), [[0, 0, 0]] * 4)
    assert [info["oracle"]["evidence"] for _, _, info in steps] == [()] * 4


def test_info_says_what_happened() -> None:
    env = memory(KITE, slots=2)
    _, info = env.reset()
    assert info["transcript"] == "kite"
    assert (info["step"], info["speaker"], info["turn"]) == (0, "user", "I put the kite in the cupboard.")
    assert info["window"] == ["user: I put the kite in the cupboard."]
    assert info["memory"] == [None, None]
    assert "coherence_gain" not in info
    *_, info = env.step([2, 0, 0])
    assert (info["step"], info["speaker"], info["turn"]) == (1, "assistant", "Noted.")
    assert info["window"] == ["user: I put the kite in the cupboard.", "assistant: Noted."]
    assert info["memory"] == [None, "user: I put the kite in the cupboard."]
    assert info["reads"] == []
    json.dumps(info)  # plain values only


def test_slot_features_follow_what_slots_go_through() -> None:
    def feature(observation: dict[str, Any], name: str) -> list[float]:
        return observation["slot_features"][:, SLOT_FEATURES.index(name)].tolist()

    steps = play(memory(KITE, slots=2), [[1, 0, 0], *[[0, 0, 0]] * 3, [2, 1, 0]])
    first, asked, last = (steps[i][0] for i in (0, 3, 4))
    assert feature(first, "occupied") == [1, 0]
    assert feature(first, "age") == pytest.approx([np.log(2) / np.log(64), 0])
    assert feature(asked, "overlap_turn")[0] > 0.4  # both speak of the kite
    assert feature(asked, "same_speaker") == [1, 0]
    assert feature(asked, "question") == [0, 0]
    assert feature(last, "occupied") == [1, 1]
    assert feature(last, "times_read") == [0.25, 0]
    assert feature(last, "idle")[0] == feature(last, "idle")[1]  # read and written at the same step
    assert feature(last, "age")[0] > feature(last, "age")[1]
    assert feature(last, "question") == [0, 1]
    assert not first["slots"][1].any()
    assert not first["slot_features"][1].any()
    np.testing.assert_array_equal(asked["turn"], last["slots"][1])


def test_slot_features_tell_who_is_named() -> None:
    turns = [
        ("ann", "Who knows the way?"),
        ("bob", "ann: Left at the mill."),
        ("ann", "bob: Thanks!"),
        ("", "Bob left."),
    ]
    talk = Transcript(tuple(Turn(text, speaker) for speaker, text in turns))
    observations = [step[0] for step in play(memory(talk, slots=2), [[1, 0, 0], [2, 0, 0], [0, 0, 0]])]
    named, names = (
        [seen["slot_features"][:, SLOT_FEATURES.index(name)].tolist() for seen in observations]
        for name in ("named_by_turn", "names_speaker")
    )
    assert named == [[1, 0], [0, 1], [0, 1]]
    assert names == [[0, 0], [0, 1], [0, 0]]


def test_global_features_are_about_the_current_turn() -> None:
    def feature(observation: dict[str, Any], name: str) -> float:
        return float(observation["globals"][GLOBAL_FEATURES.index(name)])

    env = memory(KITE, slots=4)
    start, _ = env.reset()
    after = env.step([1, 0, 0])[0]
    assert (feature(start, "time"), feature(after, "time")) == pytest.approx((0, np.log(2) / np.log(64)))
    assert (feature(start, "occupied_share"), feature(after, "occupied_share")) == (0, 0.25)
    assert (feature(start, "first_speaker"), feature(after, "first_speaker")) == (1, 0)
    assert not start["window"].any()
    np.testing.assert_array_equal(after["window"], start["turn"])


# Turns that may not be written.

ASKED = Transcript(KITE.turns, (), "asked", questions=(Question("Where is the kite?", "cupboard", (0,)),))


def test_questions_are_asked_at_the_end_and_may_not_be_written() -> None:
    env = memory(ASKED.with_questions_asked())
    env.reset()
    for _ in range(7):
        assert env.action_masks().reshape(3, 5)[0].all()
        *_, info = env.step([1, 0, 0])
    assert info["turn"] == "Where is the kite?"
    assert env.action_masks().reshape(3, 5)[0].tolist() == [True, False, False, False, False]
    held = info["memory"]
    _, reward, terminated, _, info = env.step([2, 0, 0])  # no legal action: leaves the question out
    assert (info["memory"], reward, terminated) == (held, 0.0, True)
    assert info["oracle"]["evidence"] == ()


def test_memory_of_a_transcript_s_questions_is_rewarded_without_a_language_model() -> None:
    env = memory(ASKED.with_questions_asked(), lm=None, reward={"recall": 1.0}, encoder="words")
    keep, lose = [[1, 0, 0]] + [[0, 0, 0]] * 7, [[1, 0, 0]] * 8
    assert [[reward for _, reward, _ in play(env, actions)][-1] for actions in (keep, lose)] == [1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lm": None}, "mode teacher-forced with the reward coherence=1, .* needs a language model"),
        ({"lm": None, "reward": {"recall": 1.0}, "mode": "generate"}, "mode generate .* needs a language model"),
        ({"reward": ["similarity=1"]}, "judges text the model writes; set mode=generate"),
        ({"mode": "free"}, "mode is 'free'; expected teacher-forced or generate"),
        ({"mode": "generate", "authors": "assistant"}, "authors is 'assistant'; expected a list of speakers"),
        ({"slots": 10**9}, "slots is 1000000000; expected at most 4096"),
    ],
)
def test_settings_that_do_not_go_together_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError, match=message):
        memory(KITE, **options)


# The model writes.


def test_model_writes_its_own_turns_and_the_episode_goes_on_from_them() -> None:
    lm = WordLM()
    env = memory(KITE, lm=lm, mode="generate", reward={"answer_f1": 1.0}, max_new_tokens=6)
    env.reset()
    shown = [env.step(action)[4] for action in ([1, 0, 0], *[[0, 0, 0]] * 3, [0, 1, 0])]
    assert [bool(info["written"]) for info in shown] == [True, False, True, False, True]  # the assistant's turns
    assert (
        shown[0]["turn"]
        == shown[0]["written"]
        == lm.generate(["user: I put the kite in the cupboard.\nassistant:"], 6)[0]
    )
    assert shown[1]["window"][0] == f"assistant: {shown[0]['written']}"


def test_reads_change_what_the_model_writes_and_only_that_is_paid() -> None:
    class Copier(WordLM):
        def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
            return ["in the cupboard" if "> user: I put the kite" in text else "" for text in contexts]

    env = memory(KITE, lm=Copier(), mode="generate", reward={"answer_f1": 1.0})
    actions = [[1, 0, 0], *[[0, 0, 0]] * 3, [0, 1, 0], [0, 0, 0]]
    steps = play(env, actions)
    assert [reward for _, reward, _ in steps] == pytest.approx([0, 0, 0, 0, 2 / 3, 0])
    assert steps[4][2]["turn"] == "in the cupboard"
    assert steps[0][2]["turn"] == "..."  # a turn left blank
    assert all(reward == 0 for _, reward, _ in play(env, [[1, 0, 0], *[[0, 0, 0]] * 5]))


def test_speakers_the_model_writes_for_can_be_chosen() -> None:
    env = memory(KITE, mode="generate", reward={"similarity": 1.0}, authors=["user"])
    written = [bool(info["written"]) for _, _, info in play(env, [[0, 0, 0]] * 6)]
    assert written == [False, True, False, True, False, True]
    prose = transcript(*(f"Sentence number {i}." for i in range(6)))
    env = memory(prose, mode="generate", reward={"similarity": 1.0}, window=3)
    assert [bool(info["written"]) for _, _, info in play(env, [[0, 0, 0]] * 5)] == [False, False, True, True, True]


def test_hidden_state_of_the_world_judges_what_the_embedded_model_writes() -> None:
    def run(agent: Any) -> float:
        total = 0.0
        env = dialogue(lm=load_engine(), mode="generate", turns=40)
        for index in range(6):
            env.reset(options={"transcript": index})
            probes = env.episodes.current[0].probes
            done = False
            while not done:
                _, reward, *ends, _ = env.step(agent(env, probes))
                total += reward
                done = any(ends)
        return total

    def remember(env: MemoryEnv, probes: dict[int, Probe]) -> list[int]:
        at = int(env.episodes.step_index[0])
        coming = sorted((turn, probe) for turn, probe in probes.items() if turn > at)
        needs = list(dict.fromkeys(i for _, probe in coming for i in probe.evidence if i <= at))[:4]
        held = env.episodes.memory.turn[0].tolist()
        write = 0
        if at in needs:
            write = 1 + next(slot for slot, turn in enumerate(held) if turn not in needs)
            held[write - 1] = at
        due = probes.get(at + 1)
        reads = [held.index(turn) + 1 for turn in due.evidence if turn in held] if due else []
        return [write, *[*reads, 0, 0][:2]]

    assert run(lambda env, probes: [0, 0, 0]) == 0
    assert run(remember) > 10  # about one for each answer


# Rendering.


def test_rendering_shows_window_memory_and_the_last_step() -> None:
    env = memory(KITE, slots=2, render_mode="ansi")
    assert env.render() == "(no episode yet)"
    env.reset()
    assert "last step" not in str(env.render())
    for action in ([2, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 2, 0]):
        reward = env.step(action)[1]
    text = str(env.render())
    window, _, rest = text.partition("\nmemory\n")
    held, _, last = rest.partition("\nlast step\n")
    assert "kite · turn 5 of 6" in window
    assert "user: Where is the kite?" in window
    assert "assistant: In the cupboard." in window
    assert "It rains" not in window
    assert held.splitlines()[0].split() == "[1] user: Where is the kite? (turn 4)".split()
    assert held.splitlines()[1].split() == "[2] user: I put the kite in the cupboard. (turn 0)".split()
    assert "turn 4 into slot 1" in last
    assert "read   turn 0" in last
    assert f"reward {reward:+.2f}" in last
    assert "read_cost -0.02" in last


def test_action_that_is_changed_later_does_not_change_the_rendering() -> None:
    env = memory(KITE, render_mode="ansi")
    env.reset()
    action = np.array([2, 0, 0])
    env.step(action)
    text = env.render()
    action[:] = 0
    assert env.render() == text


def test_nothing_is_rendered_unless_asked_for() -> None:
    env = memory(KITE)
    env.reset()
    assert env.render() is None


# What was said since a slot was written.


HARBOR = transcript(
    "user: The blue kite flies at the harbor.",
    "assistant: Noted.",
    "user: Anna sails a boat.",
    "assistant: Is the kite old?",
    "user: The blue kite is old, the harbor busy.",
    "assistant: Good.",
    "user: Boats and weather.",
    "assistant: Fine.",
)


def since(observation: dict[str, Any]) -> list[float]:
    return observation["slot_features"][:, SLOT_FEATURES.index("overlap_since")].tolist()


def overlaps(talk: Transcript, held: int, *turns: int) -> list[float]:
    """Return how much of turn ``held`` each of the ``turns`` says again."""
    words = memory(talk).episodes.prepare([0])[0].words
    return [float(overlap(words[held], words[turn])) for turn in turns]


def test_overlap_since_is_the_greatest_so_far_and_begins_anew_with_a_write() -> None:
    kite, blue = overlaps(HARBOR, 0, 3, 4)
    assert 0 < kite < blue < 1
    steps = play(memory(HARBOR, slots=2), [[1, 0, 0], *[[0, 0, 0]] * 3, [2, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert [since(step[0])[0] for step in steps] == pytest.approx([0, 0, 0, kite, blue, 0, 0])
    assert [since(step[0])[1] for step in steps] == [0] * 7  # a slot that is free, and one of which nothing is said


def test_overlap_since_leaves_out_the_current_turn_and_the_one_that_was_written() -> None:
    again = transcript(*["user: The kite is blue."] * 4)
    env = memory(again, slots=2)
    assert [since(step[0])[0] for step in play(env, [[1, 0, 0], [0, 0, 0], [1, 0, 0]])] == pytest.approx([0, 1, 0])
    assert since(env.reset()[0]) == [0, 0]


def test_a_write_that_is_not_allowed_leaves_overlap_since_alone() -> None:
    turns = [Turn(turn.text, turn.speaker, {"writable": number != 4}) for number, turn in enumerate(HARBOR.turns)]
    steps = play(memory(Transcript(tuple(turns)), slots=1), [[1, 0, 0], *[[0, 0, 0]] * 3, [1, 0, 0]])
    assert since(steps[-1][0]) == pytest.approx(overlaps(HARBOR, 0, 4))


def test_overlap_since_counts_what_the_model_writes() -> None:
    class Parrot(WordLM):
        def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
            return ["the blue kite flies at the harbor"] * len(contexts)

    env = memory(HARBOR, lm=Parrot(), mode="generate", reward={"answer_f1": 1.0}, slots=1)
    observations = [step[0] for step in play(env, [[1, 0, 0], [0, 0, 0]])]
    assert since(observations[-1]) == pytest.approx([1])
    assert since(play(memory(HARBOR, slots=1), [[1, 0, 0], [0, 0, 0]])[-1][0]) == [0]
    state = env.get_state()
    other = memory(HARBOR, lm=Parrot(), mode="generate", reward={"answer_f1": 1.0}, slots=1)
    other.set_state(state)
    assert_equal(other.step([0, 0, 0])[0], env.step([0, 0, 0])[0])


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 14))
def test_overlap_since_is_what_a_recount_gives_one_by_one_side_by_side_and_restored(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    talks = [
        transcript(*(" ".join(rng.choice(list("abcdefgh"), 3)) + " word" for _ in range(16)), name=f"t{i}")
        for i in range(3)
    ]
    chosen = MemorySettings(slots=2, window=1, reads=1)
    vector = MemoryVectorEnv(3, talks, settings=chosen, lm=None, reward={"write_cost": 1.0}, encoder=ENCODER)
    single = [memory(*talks, slots=2, window=1, reads=1, lm=None, reward={"write_cost": 1.0}) for _ in talks]
    other = memory(*talks, slots=2, window=1, reads=1, lm=None, reward={"write_cost": 1.0})
    words = [item.words for item in vector.episodes.prepare([0, 1, 2])]
    vector.reset(options={"transcripts": [0, 1, 2]})
    for row, env in enumerate(single):
        env.reset(options={"transcript": row})
    wrote = np.full((3, 2), -1)
    for step in range(14):
        actions = random_actions(rng, vector.action_masks(), 2)
        found = vector.step(actions)[0]["slot_features"][..., SLOT_FEATURES.index("overlap_since")]
        for row, slot in enumerate(actions[:, 0]):
            if slot:
                wrote[row, slot - 1] = step
        for row, slot in np.ndindex(wrote.shape):
            at = wrote[row, slot]
            later = [float(overlap(words[row][at], words[row][turn])) for turn in range(at + 1, step + 1)]
            assert found[row, slot] == pytest.approx(max([0.0, *later]) if at >= 0 else 0)
        alone = [env.step(actions[row])[0] for row, env in enumerate(single)]
        np.testing.assert_array_equal([since(seen) for seen in alone], found)
        if step == cut:
            other.set_state(single[0].get_state())
        elif step > cut:
            assert_equal(other.step(actions[0])[0], alone[0])


# Snapshots.


@settings(max_examples=25)
@given(before=st.integers(0, 30), between=st.integers(1, 30), seed=st.integers(0, 3))
def test_snapshot_restores_an_episode_exactly(before: int, between: int, seed: int) -> None:
    env, rng = dialogue(max_steps=11), np.random.default_rng(seed)
    play_randomly(env, seed, before)
    state, masks = env.get_state(), env.action_masks()
    actions = []

    def go(next_action: Callable[[], Any]) -> list[Any]:
        seen: list[Any] = []
        for _ in range(between):
            seen += [env.action_masks(), step := env.step(next_action())]
            if step[2] or step[3]:
                seen.append(env.reset())
        return seen

    def draw() -> Any:
        actions.append(random_actions(rng, env.action_masks(), 4))
        return actions[-1]

    first = go(draw)
    for target in (env, dialogue(max_steps=11)):  # the same environment, and a new one
        env = target
        env.set_state(state)
        np.testing.assert_array_equal(env.action_masks(), masks)
        remaining = iter(actions)
        assert_equal(go(lambda again=remaining: next(again)), first)


def test_snapshot_of_another_memory_is_an_error() -> None:
    env, other = memory(KITE, slots=2), memory(KITE, slots=3)
    env.reset()
    with pytest.raises(StmError, match=r"\(1, 2\); expected \(1, 3\)"):
        other.set_state(env.get_state())


# The embedded model, once.


def test_embedded_model_rewards_the_turn_that_holds_the_answer() -> None:
    env = memory(KITE, lm=load_engine())
    actions = [[1, 0, 0], *[[0, 0, 0]] * 3, [0, 1, 0]]
    assert play(env, actions)[4][1] > 0.1
    assert play(env, [[0, 0, 0]] * 5)[4][1] == 0
