from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WordLM, assert_legal, assert_same, numbered, random_actions
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import VecMonitor

from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine
from stm_rl_agents.policy import PointerPolicy, PolicyAgent
from stm_rl_agents.sb3 import MemoryVecEnv
from stm_rl_envs.dialogue import DialogueEnv, DialogueVectorEnv
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

FAST: dict[str, Any] = {"lm": ScoringEngine(WordLM()), "encoder": HashedWords(32)}
OPTIONS = FAST | {"turns": 12, "episodes": 20}


def adapted(num_envs: int = 2, **options: Any) -> MemoryVecEnv:
    return MemoryVecEnv(DialogueVectorEnv(num_envs, **(OPTIONS | options)))


def of_lengths(lengths: Sequence[int], max_steps: int | None = None) -> MemoryVecEnv:
    transcripts = [numbered(length, str(length)) for length in lengths]
    return MemoryVecEnv(MemoryVectorEnv(1, transcripts, settings=MemorySettings(max_steps=max_steps), **FAST))


def test_training_plays_legal_actions_only_and_changes_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    env = adapted()
    steps: list[int] = []
    step = env.env.step

    def checked(actions: Any) -> Any:
        assert_legal(actions, env.env.action_masks(), 4)
        steps.append(len(actions))
        return step(actions)

    monkeypatch.setattr(env.env, "step", checked)
    model = MaskablePPO(
        PointerPolicy, env, n_steps=16, batch_size=16, n_epochs=1, seed=0, policy_kwargs={"width": 16, "layers": 1}
    )
    before = [weight.clone() for weight in model.policy.parameters()]
    model.learn(64)
    assert sum(steps) == 64
    assert model.num_timesteps == 64
    assert model._n_updates == 2
    after = list(model.policy.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert len(model.ep_info_buffer) == 64 // 11 // 2 * 2
    observation, masks = env.reset(), env.env.action_masks()
    assert_legal(PolicyAgent(model.policy.network).act(observation, masks), masks, 4)
    predicted, _ = model.predict(observation, action_masks=masks, deterministic=True)
    assert predicted.tolist() == PolicyAgent(model.policy.network).act(observation, masks).tolist()


def test_training_repeats_with_its_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = MaskablePPO(
            PointerPolicy, adapted(), n_steps=16, batch_size=16, n_epochs=1, seed=seed, policy_kwargs={"width": 8}
        )
        model.learn(32)
        return torch.cat([weight.detach().flatten() for weight in model.policy.parameters()])

    first, again, other = (weights(seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_masks_are_found_by_their_users() -> None:
    env = adapted(3)
    assert is_masking_supported(env)
    env.reset()
    env.step(np.array([[1, 0, 0], [0, 0, 0], [2, 0, 0]]))
    masks = get_action_masks(env)
    np.testing.assert_array_equal(masks, env.env.action_masks())
    assert len({tuple(row) for row in masks.tolist()}) == 3
    (one,) = env.env_method("action_masks", indices=[2])
    np.testing.assert_array_equal(one, masks[2])


@pytest.mark.parametrize("max_steps", [None, 4])
def test_episodes_are_those_of_the_environment(max_steps: int | None) -> None:
    env, scalars = adapted(2, max_steps=max_steps), [DialogueEnv(**OPTIONS, max_steps=max_steps) for _ in range(2)]
    env.seed(5)
    observation = env.reset()
    rng = np.random.default_rng(0)
    for row, scalar in enumerate(scalars):
        assert_same({k: v[row] for k, v in observation.items()}, scalar.reset(seed=5 + row)[0])
    totals, ended = np.zeros((2, 4)), 0
    for _ in range(25):
        actions = random_actions(rng, env.env.action_masks(), 4)
        observation, rewards, dones, infos = env.step(actions)
        assert rewards.dtype == np.float32
        for row, scalar in enumerate(scalars):
            after, reward, terminated, truncated, info = scalar.step(actions[row])
            totals[row] += [reward, info["coherence_gain"], len(info["reads"]), actions[row, 0] > 0]
            assert rewards[row] == pytest.approx(reward, abs=1e-6)
            assert dones[row] == (terminated or truncated)
            if not dones[row]:
                assert infos[row] == {}
                continue
            ended += 1
            assert infos[row]["TimeLimit.truncated"] is truncated
            assert_same(infos[row]["terminal_observation"], after)
            episode = infos[row]["episode"]
            sums = [episode[name] for name in ("r", "coherence_gain", "reads", "writes")]
            assert sums == pytest.approx(totals[row].tolist())
            assert episode["l"] == (max_steps or 11)
            totals[row] = 0
            assert_same({k: v[row] for k, v in observation.items()}, scalar.reset()[0])
    assert ended >= 4


def test_truncation_is_told_from_termination() -> None:
    env = of_lengths([5, 9], max_steps=4)
    seen = set()
    for seed in range(8):
        env.seed(seed)
        env.reset()
        length = len(env.env.episodes.current[0])
        for step in range(4):
            _, _, dones, infos = env.step(np.zeros((1, 3), np.int64))
            assert dones[0] == (step == 3)
        seen.add((length, infos[0]["TimeLimit.truncated"]))
    assert seen == {(5, False), (9, True)}


def test_seeds_are_used_once() -> None:
    env = adapted()
    env.seed(3)
    first = env.reset()
    second = env.reset()
    env.seed(3)
    assert_same(env.reset(), first)
    assert (second["turn"] != first["turn"]).any()


def test_reset_forgets_the_sums_of_unfinished_episodes() -> None:
    env = of_lengths([4])
    env.reset()
    env.step(np.array([[1, 0, 0]]))
    env.reset()
    for _ in range(3):
        *_, infos = env.step(np.zeros((1, 3), np.int64))
    assert (infos[0]["episode"]["l"], infos[0]["episode"]["writes"], infos[0]["episode"]["r"]) == (3, 0, 0)


def test_monitor_wraps_it() -> None:
    env = VecMonitor(adapted())
    env.reset()
    for _ in range(11):
        _, _, dones, infos = env.step(np.zeros((2, 3), np.int64))
    assert dones.all()
    assert [info["episode"]["l"] for info in infos] == [11, 11]


def test_attributes_are_those_of_the_environments() -> None:
    env = adapted(3)
    assert env.has_attr("action_masks")
    assert not env.has_attr("nonsense")
    assert env.get_attr("num_envs", [0, 2]) == [3, 3]
    env.set_attr("autoreset", False)
    assert env.env.autoreset is False
    assert env.env_is_wrapped(DialogueEnv) == [False] * 3
