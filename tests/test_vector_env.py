from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers import WordLM, assert_same, numbered, random_actions

from stm_rl import StmError
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine, load_engine
from stm_rl.registration import NAMING
from stm_rl_envs.dialogue import DialogueEnv, DialogueVectorEnv
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

IDS = [name for name in gym.registry if name.startswith("stm_rl/") and name not in NAMING]
ENGINE = ScoringEngine(WordLM())
ENCODER = HashedWords(32)
NOTHING = np.zeros((3, 3), np.int64)


def dialogues(num_envs: int = 3, **options: Any) -> DialogueVectorEnv:
    return DialogueVectorEnv(num_envs, **({"lm": ENGINE, "encoder": ENCODER, "turns": 12, "episodes": 50} | options))


def of_lengths(*lengths: int, **options: Any) -> MemoryVectorEnv:
    """Return three environments over transcripts of these lengths."""
    chosen = {name: options.pop(name) for name in ("max_steps", "slots") if name in options}
    transcripts = [numbered(length, str(length)) for length in lengths]
    return MemoryVectorEnv(3, transcripts, settings=MemorySettings(**chosen), lm=ENGINE, encoder=ENCODER, **options)


def row_of(observation: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: value[row] for name, value in observation.items()}


@pytest.mark.parametrize("name", IDS)
def test_registered_environment_has_a_vector_form(name: str) -> None:
    env = gym.make_vec(name, num_envs=3, vectorization_mode="vector_entry_point", lm=ENGINE)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    observation, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
    assert observation in env.observation_space
    assert rewards.shape == terminated.shape == truncated.shape == (3,)
    assert env.single_action_space == gym.make(name, lm=ENGINE).action_space


@pytest.mark.parametrize(
    ("lm", "options", "steps"),
    [(ENGINE, {}, 40), (ENGINE, {"max_steps": 4, "slots": 2, "reads": 3, "window": 1}, 30), ("tiny", {}, 15)],
    ids=["whole", "truncated", "embedded"],
)
def test_vector_form_follows_the_same_trajectories_as_the_scalar_form(
    lm: Any, options: dict[str, Any], steps: int
) -> None:
    engines = [lm] * 2 if lm is ENGINE else [ScoringEngine(load_engine().lm) for _ in range(2)]
    vector = dialogues(lm=engines[0], **options)
    scalars = [DialogueEnv(lm=engines[1], encoder=ENCODER, turns=12, episodes=50, **options) for _ in range(3)]
    rng, ended = np.random.default_rng(0), 0
    observation, _ = vector.reset(seed=7)
    for row, env in enumerate(scalars):
        assert_same(row_of(observation, row), env.reset(seed=7 + row)[0])
    for _ in range(steps):
        masks = vector.action_masks()
        actions = random_actions(rng, masks, vector.episodes.settings.slots)
        observation, rewards, terminated, truncated, infos = vector.step(actions)
        for row, env in enumerate(scalars):
            np.testing.assert_array_equal(masks[row], env.action_masks())
            after, reward, *done, info = env.step(actions[row])
            assert [terminated[row], truncated[row]] == done
            assert rewards[row] == pytest.approx(reward, abs=1e-4)
            assert infos["coherence_gain"][row] == pytest.approx(info["coherence_gain"], abs=1e-4)
            assert infos["read_turns"][row] == info["reads"]
            for name in (name for name in info if name.startswith("reward/")):
                assert infos[name][row] == pytest.approx(info[name], abs=1e-4)
            if any(done):
                ended += 1
                assert infos["_final_obs"][row]
                assert_same(infos["final_obs"][row], after)
                after, _ = env.reset()
            assert_same(row_of(observation, row), after)
    assert ended >= 3


def test_final_observation_is_there_for_ended_episodes_only() -> None:
    env = of_lengths(4, 7)
    env.reset(options={"transcripts": [0, 1, 0]})
    for _ in range(2):
        assert "final_obs" not in env.step(NOTHING)[4]
    *_, terminated, truncated, infos = env.step(NOTHING)
    assert terminated.tolist() == infos["_final_obs"].tolist() == [True, False, True]
    assert not truncated.any()
    assert infos["final_obs"][1] is None
    assert infos["final_obs"][0]["turn"].any()


def test_infos_count_what_was_needed_and_held() -> None:
    env = dialogues(num_envs=8, turns=30)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    needed = 0
    for _ in range(29):
        step = env.episodes.step_index.copy()
        expected = [env.episodes.needed_turns(row, int(step[row])) for row in range(8)]
        actions = random_actions(rng, env.action_masks(), 4)
        held = env.episodes.memory.turn.copy()
        held[np.flatnonzero(actions[:, 0]), actions[actions[:, 0] > 0, 0] - 1] = step[actions[:, 0] > 0]
        *_, infos = env.step(actions)
        assert infos["evidence_needed"].tolist() == [len(turns) for turns in expected]
        assert infos["evidence_held"].tolist() == [len({*turns} & {*held[i]}) for i, turns in enumerate(expected)]
        assert infos["writes"].tolist() == actions[:, 0].tolist()
        assert infos["reads"].tolist() == [len(infos["read_turns"][row]) for row in range(8)]
        needed += infos["evidence_needed"].sum()
    assert needed > 8


def test_resets_itself_with_the_next_transcripts_of_its_seed() -> None:
    env, again = dialogues(), dialogues()
    for one in (env, again):
        one.reset(seed=[3, 9, 3])
    chosen = []
    for _ in range(33):
        chosen.append(env.episodes.transcript_index.tolist())
        observation, again_observation = env.step(NOTHING)[0], again.step(NOTHING)[0]
        assert_same(observation, again_observation)
        assert_same(row_of(observation, 0), row_of(observation, 2))
    assert len({first for first, _, _ in chosen}) == 3
    assert any(first != second for first, second, _ in chosen)


def test_without_autoreset_ended_episodes_rest() -> None:
    env = of_lengths(4, 7, autoreset=False)
    assert env.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    env.reset(options={"transcripts": [0, 1, 0]})
    for _ in range(3):
        observation, *_ = env.step(NOTHING)
    later, rewards, terminated, _, infos = env.step(np.array([[1, 0, 0]] * 3))
    for row in (0, 2):
        assert_same(row_of(later, row), row_of(observation, row))
    assert rewards.tolist() == [0, -0.01, 0]
    assert not terminated.any()
    assert infos["writes"].tolist() == [0, 1, 0]
    assert list(infos["read_turns"]) == [1]


def test_part_of_the_environments_can_be_reset() -> None:
    env = of_lengths(4, 7, autoreset=False)
    env.reset(options={"transcripts": [0, 1, 0]})
    for _ in range(3):
        before = env.step(np.array([[1, 0, 0]] * 3))[0]
    mask = np.array([False, False, True])
    after, _ = env.reset(options={"reset_mask": mask, "transcripts": [1]})
    assert env.episodes.step_index.tolist() == [3, 3, 0]
    assert env.episodes.transcript_index.tolist() == [0, 1, 1]
    for row in (0, 1):
        assert_same(row_of(after, row), row_of(before, row))
    assert not after["slot_features"][2].any()
    ends = [env.step(NOTHING)[2].tolist() for _ in range(6)]
    assert ends[2] == [False, True, False]
    assert ends[5] == [False, False, True]


def test_a_longer_transcript_later_leaves_the_others_as_they_are() -> None:
    env = of_lengths(4, 30, autoreset=False)
    env.reset(options={"transcripts": [0, 0, 0]})
    before = env.step(np.array([[1, 0, 0]] * 3))[0]
    after, _ = env.reset(options={"reset_mask": np.array([True, False, False]), "transcripts": [1]})
    for row in (1, 2):
        assert_same(row_of(after, row), row_of(before, row))


def test_step_when_all_rest_is_an_error() -> None:
    env = of_lengths(2, autoreset=False)
    with pytest.raises(StmError, match=r"call reset\(\) first"):
        env.step(NOTHING)
    env.reset()
    assert env.step(NOTHING)[2].all()
    with pytest.raises(StmError, match=r"call reset\(\) first"):
        env.step(NOTHING)


def test_batches_play_every_transcript_once_and_leave_the_other_environments_at_rest() -> None:
    env = of_lengths(4, 7, 3, 5, autoreset=False)
    env.reset()  # what is under way is given up
    finished: list[int] = []
    played: list[tuple[int, list[int], int]] = []
    for first, observation in env.batches([3, 1, 1, 0], finished.append):
        assert observation in env.observation_space
        assert not observation["slot_features"][~env.resting].any()
        transcripts = env.episodes.transcript_index[~env.resting].tolist()
        steps = 0
        while not env.resting.all():
            steps += int((~env.resting).sum())
            observation, *_ = env.step(np.array([[1, 0, 0]] * 3))
        played.append((first, transcripts, steps))
    assert played == [(0, [3, 1, 1], 4 + 6 + 6), (3, [0], 3)]
    assert finished == [3, 1]
    assert list(env.batches([])) == []


def test_batches_are_played_to_their_end() -> None:
    env = of_lengths(4, 7, autoreset=False)
    batches = env.batches([0, 1, 0, 1])
    next(batches)
    for _ in range(4):
        env.step(NOTHING)
    with pytest.raises(StmError, match="1 episodes are under way; step until all environments rest"):
        next(batches)
    with pytest.raises(StmError, match="make it with autoreset=False"):
        next(of_lengths(4).batches([0]))


def test_number_of_chosen_transcripts_must_fit() -> None:
    with pytest.raises(StmError, match="2 transcripts were given for 3 environments"):
        of_lengths(4).reset(options={"transcripts": [0, 0]})
    with pytest.raises(StmError, match="num_envs is 0"):
        dialogues(0)


@pytest.mark.parametrize("value", [-1, 5])
def test_action_out_of_range_is_an_error(value: int) -> None:
    env = of_lengths(4)
    env.reset()
    actions = NOTHING.copy()
    actions[1, 2] = value
    with pytest.raises(StmError, match=r"outside 0\.\.4"):
        env.step(actions)


@pytest.mark.parametrize("count", [2, 4])
def test_actions_for_another_number_of_environments_are_an_error(count: int) -> None:
    env = of_lengths(4)
    env.reset()
    with pytest.raises(StmError):
        env.step(np.zeros((count, 3), np.int64))


@pytest.mark.parametrize("seed", [[1], [1, 2, 3, 4]], ids=["few", "many"])
def test_seeds_for_another_number_of_environments_are_an_error(seed: Sequence[int]) -> None:
    with pytest.raises(StmError):
        dialogues().reset(seed=seed)


def test_seed_may_be_a_numpy_integer() -> None:
    seed: Any = np.int64(3)
    assert_same(dialogues().reset(seed=seed)[0], dialogues().reset(seed=3)[0])
