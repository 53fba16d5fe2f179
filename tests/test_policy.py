from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import WordLM, assert_legal, random_actions

from stm_rl import StmError
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PointerPolicy, PolicyAgent
from stm_rl_envs.dialogue import DialogueVectorEnv
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES

ENGINE = ScoringEngine(WordLM())
ENCODER = HashedWords(16)


def network(reads: int = 2, **options: Any) -> PointerNetwork:
    """Return a random network whose actions are far from evenly random."""
    torch.manual_seed(0)
    result = PointerNetwork(16, len(SLOT_FEATURES), len(GLOBAL_FEATURES), reads, **({"width": 16} | options))
    with torch.no_grad():
        for head in (result.pick, result.leave):
            for weight in head.parameters():
                weight.normal_(0, 0.5)
    return result


def seen(slots: int = 4, reads: int = 2, num_envs: int = 6, steps: int = 9) -> tuple[Any, Any]:
    """Return the observations and masks of episodes that are under way."""
    env = DialogueVectorEnv(num_envs, lm=ENGINE, encoder=ENCODER, turns=20, slots=slots, reads=reads)
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        observation, *_ = env.step(random_actions(rng, env.action_masks(), slots))
    return observation, env.action_masks()


def tensors(observation: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value) for name, value in observation.items()}


# The network.


@pytest.mark.parametrize("slots", [1, 4, 7])
def test_network_takes_any_number_of_slots(slots: int) -> None:
    observation, _ = seen(slots)
    logits, values = network()(tensors(observation))
    assert logits.shape == (6, 3 * (slots + 1))
    assert values.shape == (6, 1)


def test_network_does_not_mind_the_order_of_slots() -> None:
    observation = tensors(seen()[0])
    order = torch.tensor([2, 0, 3, 1])
    shuffled = observation | {name: observation[name][:, order] for name in ("slots", "slot_features")}
    model = network()
    with torch.no_grad():
        logits, values = model(observation)
        other_logits, other_values = model(shuffled)
    parts, other = logits.reshape(6, 3, 5), other_logits.reshape(6, 3, 5)
    torch.testing.assert_close(other[..., 0], parts[..., 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(other[..., 1:], parts[..., 1:][..., order], atol=1e-5, rtol=0)
    torch.testing.assert_close(other_values, values, atol=1e-5, rtol=0)
    assert (parts[..., 1:] - parts[..., 1:].roll(1, -1)).abs().max() > 0.1  # it does tell slots apart


@pytest.mark.parametrize("name", ["turn", "window", "slots", "slot_features", "globals"])
def test_every_part_of_the_observation_counts(name: str) -> None:
    observation = tensors(seen()[0])
    model = network()
    with torch.no_grad():
        logits, values = model(observation)
        other_logits, other_values = model(observation | {name: observation[name] + 0.5})
    assert (logits - other_logits).abs().max() > 1e-3
    assert (values - other_values).abs().max() > 1e-4


def test_new_network_is_close_to_evenly_random() -> None:
    torch.manual_seed(0)
    model = PointerNetwork(16, len(SLOT_FEATURES), len(GLOBAL_FEATURES), 2)
    with torch.no_grad():
        logits, _ = model(tensors(seen()[0]))
    assert logits.abs().max() < 0.5


# The agent.


def test_agent_takes_the_likeliest_legal_actions() -> None:
    observation, masks = seen()
    model = network()
    actions = PolicyAgent(model).act(observation, masks)
    assert_legal(actions, masks, 4)
    with torch.no_grad():
        logits = model(tensors(observation))[0].numpy()
    best = np.where(masks, logits, -np.inf).reshape(6, 3, 5).argmax(-1)
    assert actions.tolist() == best.tolist()
    assert len({tuple(action) for action in actions.tolist()}) > 1


def test_drawn_actions_are_legal_and_as_frequent_as_the_policy_says() -> None:
    observation, masks = ({k: v[:1] for k, v in seen()[0].items()}, seen()[1][:1])
    model, draws = network(), 4000
    with torch.no_grad():
        logits = model(tensors(observation))[0].masked_fill(~torch.as_tensor(masks), -torch.inf)
    expected = logits.reshape(3, 5).softmax(-1).numpy()
    stacked = {name: np.repeat(value, draws, 0) for name, value in observation.items()}
    actions = PolicyAgent(model).act(stacked, np.repeat(masks, draws, 0), deterministic=False)
    assert_legal(actions, np.repeat(masks, draws, 0), 4)
    for part in range(3):
        shares = np.bincount(actions[:, part], minlength=5) / draws
        np.testing.assert_allclose(shares, expected[part], atol=0.04)


def test_draws_repeat_with_their_seed() -> None:
    observation, masks = seen(num_envs=32)
    first, again, other = (
        PolicyAgent(network(), seed=seed).act(observation, masks, deterministic=False).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_saved_policy_acts_the_same_after_loading(tmp_path: Path) -> None:
    observation, masks = seen()
    before = PolicyAgent(network(layers=1), {"env": "stm_rl/Dialogue-v0", "steps": 7}, name="mine", seed=3)
    before.save(tmp_path / "new" / "run")
    after = PolicyAgent.load(tmp_path / "new" / "run")
    assert after.name == "mine"
    assert after.card == {"env": "stm_rl/Dialogue-v0", "steps": 7}
    assert after.act(observation, masks).tolist() == before.act(observation, masks).tolist()
    with torch.no_grad():
        torch.testing.assert_close(
            after.network(tensors(observation)), before.network(tensors(observation)), atol=0, rtol=0
        )
    assert PolicyAgent.load(tmp_path / "new" / "run", "yours").name == "yours"
    assert {path.name for path in (tmp_path / "new" / "run").iterdir()} == {"policy.json", "policy.safetensors"}


def test_loaded_policy_plays_with_another_number_of_slots(tmp_path: Path) -> None:
    PolicyAgent(network()).save(tmp_path)
    for slots in (2, 8):
        observation, masks = seen(slots)
        assert_legal(PolicyAgent.load(tmp_path).act(observation, masks), masks, slots)


def test_environment_with_other_reads_is_an_error() -> None:
    observation, masks = seen(reads=3)
    with pytest.raises(StmError, match="trained with 2 reads a step but the environment has 3; make it with reads=2"):
        PolicyAgent(network()).act(observation, masks)


def test_environment_with_another_encoder_is_an_error() -> None:
    observation, masks = seen()
    observation = {**observation, "turn": observation["turn"][:, :8]}
    with pytest.raises(StmError, match="texts of 16 numbers but the environment gives 8"):
        PolicyAgent(network()).act(observation, masks)


def rewrite(**changes: Any) -> Callable[[Path], Any]:
    """Return an edit of the card; ``None`` takes an entry away."""

    def edit(folder: Path) -> None:
        card = json.loads((folder / "policy.json").read_text()) | changes
        card = {name: value for name, value in card.items() if value is not None}
        (folder / "policy.json").write_text(json.dumps(card))

    return edit


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no card": lambda folder: (folder / "policy.json").unlink(),
    "no weights": lambda folder: (folder / "policy.safetensors").unlink(),
    "half a card": lambda folder: (folder / "policy.json").write_text('{"format"'),
    "another format": rewrite(format="stm-rl/slot-policy-0"),
    "no format": rewrite(format=None),
    "card is a list": lambda folder: (folder / "policy.json").write_text("[]"),
    "card without network": rewrite(network=None),
    "another network": rewrite(network=network(reads=1).shape),
    "damaged weights": lambda folder: (folder / "policy.safetensors").write_bytes(b"x" * 99),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_folder_without_a_whole_policy_is_an_error(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    PolicyAgent(network()).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(StmError, match=r"holds no policy|has format|is damaged"):
        PolicyAgent.load(tmp_path)


# The policy that stable-baselines3 trains.


@pytest.fixture
def policy() -> PointerPolicy:
    env = DialogueVectorEnv(1, lm=ENGINE, encoder=ENCODER)
    space = env.single_action_space
    assert isinstance(space, spaces.MultiDiscrete)
    torch.manual_seed(0)
    result = PointerPolicy(env.single_observation_space, space, lambda _: 1e-3, width=16, layers=1)
    for head in (result.network.pick, result.network.leave):
        torch.nn.init.normal_(list(head.parameters())[-2], std=0.5)
    return result


def test_policy_rates_the_actions_it_takes(policy: PointerPolicy) -> None:
    observation, masks = seen()
    given = tensors(observation)
    actions, values, log_prob = policy(given, action_masks=masks)
    assert_legal(actions.numpy(), masks, 4)
    again_values, again_log_prob, entropy = policy.evaluate_actions(given, actions, torch.as_tensor(masks))
    torch.testing.assert_close(again_log_prob, log_prob)
    torch.testing.assert_close(again_values, values)
    torch.testing.assert_close(policy.predict_values(given), values)
    assert entropy is not None
    assert (entropy > 0).all()
    logits = policy.network(given)[0].masked_fill(~torch.as_tensor(masks), -torch.inf)
    chances = logits.reshape(6, 3, 5).log_softmax(-1)
    torch.testing.assert_close(chances.gather(-1, actions[..., None]).sum((1, 2)), log_prob)


def test_policy_agrees_with_the_agent_made_of_its_network(policy: PointerPolicy) -> None:
    observation, masks = seen()
    actions, _, _ = policy(tensors(observation), deterministic=True, action_masks=masks)
    assert actions.tolist() == PolicyAgent(policy.network).act(observation, masks).tolist()


def test_all_weights_of_the_policy_learn(policy: PointerPolicy) -> None:
    observation, masks = seen()
    given = tensors(observation)
    actions = policy(given, action_masks=masks)[0]
    values, log_prob, entropy = policy.evaluate_actions(given, actions, torch.as_tensor(masks))
    assert entropy is not None
    (values.sum() + log_prob.sum() + entropy.sum()).backward()
    still = [name for name, weight in policy.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []
    assert sum(weight.numel() for group in policy.optimizer.param_groups for weight in group["params"]) == sum(
        weight.numel() for weight in policy.parameters()
    )
