"""Recurrent PPO: rollouts, spaces, learning, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from stm_rl.errors import StmError
from stm_rl.memory import CORES
from stm_rl_agents.advantages import advantages_of
from stm_rl_agents.recurrent import (
    RecurrentAgent,
    RecurrentNetwork,
    RecurrentPPOSettings,
    RecurrentPPOTrainer,
    evaluate,
    make_envs,
)
from stm_rl_agents.recurrent.rollout import Collector, RewardScale
from stm_rl_agents.recurrent.spaces import Actions, flattener


class Recall(gym.Env[Any, Any]):
    """Say the symbol of ``lag`` steps ago; reward 1 if right, and an episode of ``length`` steps."""

    def __init__(self, lag: int = 2, length: int = 12, truncate: bool = False) -> None:
        self.observation_space = spaces.Dict({"symbol": spaces.Discrete(3, start=1), "noise": spaces.Box(-1, 1, (2,))})
        self.action_space = spaces.Discrete(3, start=5)
        self.lag, self.length, self.truncate = lag, length, truncate
        self.seen: list[int] = []

    def _observation(self) -> dict[str, Any]:
        self.seen.append(int(self.np_random.integers(3)))
        return {"symbol": 1 + self.seen[-1], "noise": self.np_random.uniform(-1, 1, 2).astype(np.float32)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seen = []
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        asked = len(self.seen) - 1 - self.lag
        reward = float(asked >= 0 and action - 5 == self.seen[max(asked, 0)])
        over = len(self.seen) == self.length
        return self._observation(), reward, over and not self.truncate, over and self.truncate, {}


def recall_envs(count: int, **options: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: Recall(**options) for _ in range(count)], autoreset_mode=AutoresetMode.SAME_STEP)


SPACES = [
    spaces.Discrete(5, start=2),
    spaces.MultiDiscrete([2, 4, 3]),
    spaces.MultiBinary(4),
    spaces.Box(-1, 1, (2, 3)),
    spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 1, (2,)))),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.MultiDiscrete([3, 2])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_vectors_are_those_of_gymnasium(space: spaces.Space[Any]) -> None:
    space.seed(0)
    samples = [space.sample() for _ in range(4)]
    empty = gym.vector.utils.create_empty_array(space, 4)
    batch = gym.vector.utils.concatenate(space, samples, empty)
    size, flatten = flattener(space)
    expected = np.stack([spaces.flatten(space, sample) for sample in samples])
    assert expected.shape == (4, size)
    np.testing.assert_allclose(flatten(batch), expected, rtol=1e-6)


def test_images_are_scaled() -> None:
    _, flatten = flattener(spaces.Box(0, 255, (2, 2, 3), np.uint8))
    assert flatten(np.full((1, 2, 2, 3), 255, np.uint8)).max() == 1


def test_text_has_no_vectors() -> None:
    with pytest.raises(StmError, match=r"observations are of Text.*wrap the environment"):
        flattener(spaces.Text(3))


@pytest.mark.parametrize("space", [*SPACES[:4]], ids=str)
def test_actions_are_of_their_space_and_as_likely_as_drawn(space: spaces.Space[Any]) -> None:
    torch.manual_seed(0)
    actions, generator = Actions(space), torch.Generator().manual_seed(0)
    outputs = torch.randn(1, actions.outputs).expand(4000, -1)
    drawn = actions.draw(outputs, generator)
    for action in actions.for_env(drawn)[:20]:
        assert space.contains(action)
    log_probs, entropy = actions.evaluate(outputs, drawn)
    assert float(-log_probs.detach().mean()) == pytest.approx(float(entropy[0].detach()), rel=0.05)
    best, _ = actions.evaluate(outputs, actions.draw(outputs, generator, deterministic=True))
    assert bool((best >= log_probs - 1e-6).all())


def a_collector(envs: SyncVectorEnv, gamma: float = 0.9, gae_lambda: float = 0.95, stagger: int = 0) -> Collector:
    network = RecurrentNetwork(envs.single_observation_space, envs.single_action_space, "gru", 8)
    return Collector(envs, network, gamma, gae_lambda, stagger)


@pytest.mark.parametrize("core", list(CORES))
def test_training_sees_what_acting_saw(core: str) -> None:
    """Run over a whole rollout from its stored state, the network gives the log-probabilities of acting again."""
    torch.manual_seed(0)
    envs = recall_envs(4, length=7)
    network = RecurrentNetwork(envs.single_observation_space, envs.single_action_space, core, 16)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.5)
    collector = Collector(envs, network, 0.9, 0.95)
    collector.restart(0)
    for _ in range(2):  # the second rollout begins in the middle of episodes
        rollout = collector.collect(10)
        outputs, values, _ = network(rollout.observations, rollout.first, rollout.state)
        log_probs, _ = network.actions.evaluate(outputs, rollout.actions)
        torch.testing.assert_close(log_probs, rollout.log_probs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(values, rollout.values, atol=1e-4, rtol=1e-4)


def test_episodes_are_cut_where_they_end() -> None:
    collector = a_collector(recall_envs(2, length=4))
    collector.restart(0)
    rollout = collector.collect(9)
    assert rollout.first.tolist() == [[True, False, False, False, True, False, False, False, True]] * 2
    assert [length for _, length in rollout.episodes] == [4] * 4


def test_staggered_environments_are_in_different_phases() -> None:
    collector = a_collector(recall_envs(8, length=20), stagger=20)
    assert collector.restart(0) == 160
    begins = collector.collect(20).first.float().argmax(1)
    assert len(set(begins.tolist())) > 3


def test_advantages_are_those_of_the_definition() -> None:
    """Against sums over the future, written out, with an end of an episode in between."""
    gamma, lam = 0.9, 0.8
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(5, 1)).astype(np.float32), rng.normal(size=(5, 1)).astype(np.float32)
    ends, last = np.array([[False], [True], [False], [False], [False]]), np.float32([0.7])
    got = advantages_of(rewards, ends, values, last, gamma, lam)[:, 0]
    following = np.append(values[1:, 0], last)
    surprise = rewards[:, 0] + gamma * following * ~ends[:, 0] - values[:, 0]
    expected = [sum((gamma * lam) ** (k - t) * surprise[k] for k in range(t, 2 if t < 2 else 5)) for t in range(5)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_time_limit_is_not_an_end() -> None:
    """What is cut off is worth what the critic thinks of it; what is over is worth nothing."""
    sums = {}
    for truncate in (False, True):
        envs = recall_envs(1, length=3, truncate=truncate)
        torch.manual_seed(0)
        network = RecurrentNetwork(envs.single_observation_space, envs.single_action_space, "gru", 8)
        with torch.no_grad():
            network.critic[-1].bias.fill_(10.0)  # type: ignore[union-attr, operator]
        collector = Collector(envs, network, 0.9, 0.0)
        collector.restart(0)
        rollout = collector.collect(3)
        sums[truncate] = float(rollout.advantages[0, 2])
    assert sums[True] - sums[False] == pytest.approx(9, abs=1)


def test_rewards_are_scaled_by_the_deviation_of_returns() -> None:
    scale, rng = RewardScale(64, 0.9), np.random.default_rng(0)
    for _ in range(300):
        scaled = scale(rng.normal(size=64) * 50, np.zeros(64, np.bool_))
    assert scaled.std() == pytest.approx((1 - 0.81) ** 0.5, rel=0.2)


def test_no_return_reaches_over_a_new_beginning() -> None:
    collector = a_collector(recall_envs(8, length=20), gamma=1.0, stagger=10)
    assert collector.restart(0) == 80
    np.testing.assert_array_equal(collector.scale.discounted, collector.sums)
    collector.collect(5)
    collector.restart(1)
    np.testing.assert_array_equal(collector.scale.discounted, collector.sums)


def settings(**changes: Any) -> RecurrentPPOSettings:
    small = {"num_envs": 16, "rollout": 24, "minibatches": 4, "width": 32, "gamma": 0.5, "lr": 3e-3}
    return RecurrentPPOSettings(**{**small, **changes})


@pytest.mark.parametrize("core", ["attention", "linear", "gru"])
def test_a_memory_learns_what_needs_one(core: str) -> None:
    """Ten answers an episode: a third of them are right by chance."""
    trainer = RecurrentPPOTrainer(
        recall_envs(16), settings(core=core, steps=60_000), lambda steps, row: row.get("return", 0) > 8.5
    )
    network = trainer.train()
    returns = evaluate(network, recall_envs(8), 40, seed=99, deterministic=True)
    assert returns.mean() > 8, trainer.recent


def test_the_same_seed_gives_the_same_policy() -> None:
    results = []
    for _ in range(2):
        trainer = RecurrentPPOTrainer(recall_envs(16), settings(core="attention", steps=2_000, seed=3))
        results.append(torch.cat([weight.flatten() for weight in trainer.train().state_dict().values()]))
    assert torch.equal(*results)


def test_what_a_later_update_spoils_is_not_what_is_kept(tmp_path: Path) -> None:
    """Once the policy does well its weights are overwritten with noise, and training goes on from there."""
    spoiled = 0

    def spoil(steps: int, row: dict[str, float]) -> bool:
        nonlocal spoiled
        if not spoiled and trainer.best > 7:
            spoiled = steps
            with torch.no_grad():
                for weight in trainer.network.parameters():
                    weight.normal_()
        return bool(spoiled) and steps > spoiled + 10 * 384

    trainer = RecurrentPPOTrainer(recall_envs(16), settings(core="attention", steps=60_000, minibatches=2), spoil)
    policy = trainer.train()
    assert spoiled, trainer.recent
    assert np.mean(trainer.recent) < trainer.best - 2
    assert 0 < trainer.policy_steps <= spoiled
    now, kept = (evaluate(network, recall_envs(8), 40, seed=99).mean() for network in (trainer.network, policy))
    assert kept > 7 > now + 1

    trainer.save_checkpoint(tmp_path)
    resumed = RecurrentPPOTrainer(recall_envs(16), settings(core="attention", steps=trainer.done, minibatches=2))
    resumed.load_checkpoint(tmp_path)
    assert (resumed.best, resumed.policy_steps) == (trainer.best, trainer.policy_steps)
    for name, value in resumed.train().state_dict().items():  # no step is left to be done
        assert torch.equal(value, policy.state_dict()[name])


def test_an_update_that_moves_the_policy_too_far_is_taken_back() -> None:
    changes = {}
    for max_kl in (0.1, 1e9):
        trainer = RecurrentPPOTrainer(recall_envs(16), settings(core="gru", lr=0.3, max_kl=max_kl))
        trainer.collector.restart(0)
        rollout = trainer.collector.collect(24)
        row = trainer._update(rollout)
        log_probs, _, _ = trainer._outcomes(rollout, torch.arange(16))
        changes[max_kl] = float((rollout.log_probs - log_probs).mean().detach())
        assert row["taken_back"] == (max_kl == 0.1)
    assert changes[0.1] < 0.2 < 1 < changes[1e9]


def test_the_last_policy_is_kept_if_few_episodes_ended() -> None:
    trainer = RecurrentPPOTrainer(recall_envs(16), settings(steps=800))
    policy = trainer.train()
    assert len(trainer.recent) < 200
    assert trainer.policy_steps == trainer.done == 1152
    for name, value in policy.state_dict().items():
        assert torch.equal(value, trainer.network.state_dict()[name])


def test_training_goes_on_with_scale_and_staggering(tmp_path: Path) -> None:
    trainer = RecurrentPPOTrainer(recall_envs(16), settings(steps=500, stagger=10))
    trainer.train()
    assert trainer.done == 160 + 384
    trainer.save_checkpoint(tmp_path)
    resumed = RecurrentPPOTrainer(recall_envs(16), settings(steps=1_000, stagger=10))
    resumed.load_checkpoint(tmp_path)
    assert resumed.done == 544
    assert resumed.recent == trainer.recent
    assert resumed.collector.scale.numbers() == trainer.collector.scale.numbers()
    assert resumed.collector.scale.count == 544
    resumed.train()
    assert resumed.done == 544 + 160 + 384  # staggered anew
    assert resumed.collector.scale.count == resumed.done


def test_training_stops_when_asked_to() -> None:
    trainer = RecurrentPPOTrainer(recall_envs(16), settings(), lambda steps, row: steps >= 768)
    trainer.train()
    assert trainer.done == 768


def test_a_saved_policy_acts_as_before(tmp_path: Path) -> None:
    envs = recall_envs(5)
    torch.manual_seed(1)
    network = RecurrentNetwork(envs.single_observation_space, envs.single_action_space, "linear", 16, {"layers": 1})
    RecurrentAgent(network).save(tmp_path, {"env": "Recall"})
    loaded = RecurrentAgent.load(tmp_path, envs)
    assert loaded.network.sizes == network.sizes
    one = evaluate(network, recall_envs(5), 10, seed=4)
    np.testing.assert_array_equal(one, evaluate(loaded.network, recall_envs(5), 10, seed=4))


def test_a_policy_for_another_environment_is_refused(tmp_path: Path) -> None:
    envs = recall_envs(1)
    RecurrentAgent(RecurrentNetwork(envs.single_observation_space, envs.single_action_space, "gru", 8)).save(tmp_path)
    with pytest.raises(StmError, match="does not fit the environment's spaces"):
        RecurrentAgent.load(tmp_path, make_envs("CartPole-v1", 1))


def test_continuous_actions_and_time_limits_are_trained_on() -> None:
    trainer = RecurrentPPOTrainer(
        make_envs("Pendulum-v1", 4, max_episode_steps=20), settings(num_envs=4, steps=400, core="attention")
    )
    trainer.train()
    assert all(np.isfinite(value) for value in trainer.recent)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"core": "elephant"}, "core is 'elephant'; expected one of attention"),
        ({"core": "gru", "core_options": {"slots": 3}}, "core 'gru' cannot be made with"),
        ({"minibatches": 3}, "minibatches is 3, which does not divide num_envs 16"),
        ({"gamma": 1.5}, "gamma is 1.5; expected 0 to 1"),
        ({"num_envs": 8}, "there are 16 environments; settings.num_envs is 8"),
    ],
)
def test_settings_that_cannot_be_trained_with(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(StmError, match=problem):
        RecurrentPPOTrainer(recall_envs(16), settings(**change))


def test_environments_that_reset_a_step_later_are_refused() -> None:
    envs = SyncVectorEnv([Recall] * 16)
    with pytest.raises(StmError, match=r"make it with AutoresetMode\.SAME_STEP"):
        RecurrentPPOTrainer(envs, settings())
