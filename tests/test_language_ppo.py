"""Turn-level PPO of a language model: its advantages, what it plays, what it learns, and its checkpoints."""

import copy
import logging

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import transcript
from peft import LoraConfig
from safetensors.torch import load_file
from stable_baselines3.common.buffers import RolloutBuffer
from transformers import TrainerCallback

from stm_rl.errors import StmError
from stm_rl.rewards import per_step
from stm_rl_agents.advantages import advantages_of
from stm_rl_agents.language.chat import load_policy_model, prompt_of
from stm_rl_agents.language.grpo import FORMAT_WEIGHT
from stm_rl_agents.language.phases import Player
from stm_rl_agents.language.ppo import VALUE_HEAD, PPOSettings, ppo_trainer
from stm_rl_agents.language.tools import Decision
from stm_rl_agents.language.value import ValueHead, clipped_value_loss, explained_variance
from stm_rl_envs import MemorySettings, MemoryVectorEnv

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CPU = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "logging_steps": 1}
CODES = ("zebra", "otter", "falcon", "badger")
TRANSCRIPTS = [
    transcript(f"Ana: The code is {code}.", "Bo: All right then.", "Ana: See you.", "Bo: Yes.", name=code)
    for code in CODES
]
TURNS = 3  # decisions of an episode


@per_step
def kept(step):
    """1 at the end of an episode whose only slot still holds the code."""
    return float(step.last and 0 in step.held)


@per_step
def luck(step):
    """What is earned whatever is done: it depends on the code."""
    return float(CODES.index(step.transcript.id))


def make_env(n, reward=kept, **settings):
    settings = MemorySettings(**{"slots": 1, "window": 1, "reads": 1, **settings})
    return MemoryVectorEnv(n, TRANSCRIPTS, settings=settings, lm=None, reward={reward: 1.0})


@pytest.fixture(scope="module", autouse=True)
def quiet():
    logging.getLogger("datasets").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def novice():
    """A model that has not learned to call tools."""
    return load_policy_model("tiny")


def chance():
    """Return a policy that knows the format, and writes every turn or leaves it out, as likely as not."""
    torch.manual_seed(0)
    model, tokenizer = load_policy_model("tiny")
    n, rows = len(CODES), []
    for first in (Decision(), Decision(write=1)):
        episodes = make_env(n).episodes
        episodes.start(np.arange(n), list(range(n)))
        for decision in (first, Decision(), Decision()):
            prompts = [prompt_of(episodes, row, short=True) for row in range(n)]
            rows += [[*prompt, one.message()] for prompt in prompts for one in (Decision(), Decision(write=1))]
            episodes.step(np.arange(n), np.stack([decision.apply(episodes, row) for row in range(n)]))
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True, "padding": True}
    data = tokenizer.apply_chat_template(rows, return_tensors="pt", **options)
    labels = data["input_ids"].masked_fill(data["assistant_masks"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, (0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=80)
    model.train()
    for _ in range(80):
        part = torch.randint(len(rows), (16,))
        inputs = {"input_ids": data["input_ids"][part], "attention_mask": data["attention_mask"][part]}
        model(**inputs, labels=labels[part]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model, tokenizer


def trainer_of(policy, folder, env, settings=None, peft_config=None, **options):
    model, tokenizer = policy
    options = {
        "per_device_train_batch_size": env.num_envs * TURNS,
        "steps_per_generation": 1,
        "num_iterations": 1,
        "num_train_epochs": 1,
        "max_completion_length": 12,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "output_dir": str(folder),
        **CPU,
        **options,
    }
    return ppo_trainer(copy.deepcopy(model), tokenizer, env, settings, peft_config, **options)


def logged(trainer, name):
    return [row[name] for row in trainer.state.log_history if name in row]


# Values and advantages.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("discounts", [(0.98, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_advantages_are_those_of_stable_baselines(seed, discounts):
    t, n = 40, 5
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, t, n)).astype(np.float32)
    ends, last = rng.random((t, n)) < 0.2, rng.normal(size=n).astype(np.float32)
    gamma, gae_lambda = discounts
    buffer = RolloutBuffer(
        t, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), device="cpu", n_envs=n, gamma=gamma, gae_lambda=gae_lambda
    )
    buffer.rewards, buffer.values = rewards, values
    buffer.episode_starts[1:] = ends[:-1]
    buffer.compute_returns_and_advantage(torch.from_numpy(last), ends[-1])
    found = advantages_of(rewards, ends, values, last, gamma, gae_lambda)
    np.testing.assert_allclose(found, buffer.advantages, atol=1e-5)


def test_values_that_moved_far_enough_are_not_pushed_on():
    values = torch.tensor([0.0, 0.5, -0.5, 0.1], requires_grad=True)
    targets = torch.tensor([1.0, 1.0, 1.0, 1.0])
    loss = clipped_value_loss(values, torch.zeros(4), targets, 0.2)
    loss.backward()
    # Unmoved: pushed. Past the clip range towards the target: not. Past it, but away from the target: pushed back.
    assert values.grad[0] < 0
    assert values.grad[1] == 0
    assert values.grad[2] < 0
    assert values.grad[3] < 0
    assert loss.item() == pytest.approx(0.5 * np.mean([1.0, 0.8**2, 1.5**2, 0.9**2]))


def test_explained_variance():
    targets = np.array([1.0, 2.0, 3.0])
    assert explained_variance(targets + 5, targets) == 1
    assert explained_variance(np.zeros(3), targets) == 0
    assert np.isnan(explained_variance(targets, np.ones(3)))


def test_a_value_head_starts_at_zero_and_learns():
    torch.manual_seed(0)
    head, states = ValueHead(16), torch.randn(64, 16, dtype=torch.bfloat16)
    assert not head(states).any()
    targets, optimizer = states.float()[:, 0] * 2, torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        ((head(states) - targets) ** 2).mean().backward()
        optimizer.step()
    assert explained_variance(head(states).detach().numpy(), targets.numpy()) > 0.9


# Playing.


def script(tokenizer, decisions):
    """Return what generates these decisions again and again, as a model that calls tools would write them."""
    asked = [{"role": "user", "content": "x"}]
    options = {"tokenize": True, "return_dict": False}
    start = len(tokenizer.apply_chat_template(asked, add_generation_prompt=True, **options))
    ids = [tokenizer.apply_chat_template([*asked, one.message()], **options)[start:] for one in decisions]
    return lambda prompts: ([ids[i % len(ids)] for i in range(len(prompts))], None)


def test_phases_go_on_where_the_last_ended(novice):
    tokenizer = novice[1]
    decisions = [Decision(write=1), Decision(), Decision(forget=(1,), reads=(1,)), Decision(write=1)]
    player = Player(make_env(4), tokenizer, script(tokenizer, decisions))
    player.begin([0])
    phases = [player.play(turns) for turns in (2, 5, 2)]  # 3 episodes of 3 turns

    twin = make_env(4)
    twin.reset(seed=np.random.SeedSequence([0]).generate_state(4).tolist())
    prompts, rewards, ends = [], [], []
    for _ in range(9):
        prompts += [prompt_of(twin.episodes, row, short=True) for row in range(4)]
        actions = np.stack([one.apply(twin.episodes, row) for row, one in enumerate(decisions)])
        _, reward, terminated, _, _ = twin.step(actions)
        rewards.append(reward)
        ends.append(terminated)
    assert [prompt for phase in phases for prompt in phase.prompts] == prompts
    np.testing.assert_array_equal(np.concatenate([phase.rewards for phase in phases]), rewards)
    np.testing.assert_array_equal(np.concatenate([phase.ends for phase in phases]), ends)
    assert [len(phase.returns) for phase in phases] == [0, 8, 4]
    assert sum(sum(phase.returns) for phase in phases) == np.sum(rewards)
    assert not any(phase.malformed.any() or phase.cut for phase in phases)
    assert phases[0].last == phases[1].prompt_ids[:4]


@pytest.mark.parametrize("max_steps", [2, None])
def test_episodes_that_a_time_limit_cut_off_count_as_if_they_went_on(novice, tmp_path, max_steps):
    env = make_env(2, max_steps=max_steps)
    trainer = trainer_of(novice, tmp_path, env, PPOSettings(gamma=0.5, gae_lambda=0.0), max_completion_length=1)
    torch.nn.init.constant_(trainer.value_head.out.bias, 8.0)  # each state is worth 8
    trainer.player.generate = script(novice[1], [Decision()])
    trainer.player.begin([0])
    phase = trainer.player.play(TURNS)
    output = trainer._advantages(phase, phase.rewards)
    ends = phase.ends.reshape(-1)
    worth = np.full(2 * TURNS, 4.0)
    if max_steps is None:
        worth[ends] = 0
    else:
        assert set(phase.cut) == {(1, 0), (1, 1)}
    assert ends.any()
    np.testing.assert_allclose(output["returns"], worth)


def test_malformed_decisions_cost_a_little(novice, tmp_path):
    trainer = trainer_of(novice, tmp_path, make_env(4))
    trainer.train()
    (share,), (reward,) = logged(trainer, "malformed"), logged(trainer, "rewards/turn_reward/mean")
    assert share > 0.5
    assert reward == pytest.approx(-FORMAT_WEIGHT * share, abs=1e-6)
    assert logged(trainer, "episodes") == [4]
    assert logged(trainer, "return") == [0]


def test_a_phase_is_a_whole_number_of_turns(novice, tmp_path):
    with pytest.raises(StmError, match=r"a phase has 6 decisions .*, which 4 episodes cannot share"):
        trainer_of(novice, tmp_path, make_env(4), per_device_train_batch_size=6)


@pytest.mark.parametrize("wrong", [{"gamma": 1.5}, {"gae_lambda": -1}, {"value_lr": 0}, {"value_clip": 0}])
def test_settings_that_cannot_be_trained_with(wrong):
    with pytest.raises(StmError, match=next(iter(wrong))):
        PPOSettings(**wrong)


# Learning.


def log_probs(trainer, model, inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].size(1)
    with torch.no_grad():
        found, _, _ = trainer._get_per_token_logps_and_entropies(model, ids, mask, width)
    return (found * inputs["completion_mask"]).sum(1)


def test_an_update_makes_decisions_with_positive_advantage_likelier(novice, tmp_path):
    trainer = trainer_of(novice, tmp_path, make_env(8, luck), learning_rate=1e-4)
    before = copy.deepcopy(trainer.model)
    head = copy.deepcopy(trainer.value_head.state_dict())
    trainer.train()
    (inputs,) = trainer._buffered_inputs
    advantages = inputs["advantages"]
    assert abs(advantages.mean()) < 1e-5
    assert advantages.std() == pytest.approx(1, abs=1e-3)
    # No state is worth anything yet, so that what is expected is 0, and better than it is whatever comes to more.
    assert np.corrcoef(advantages, inputs["returns"])[0, 1] > 0.99
    change = log_probs(trainer, trainer.model, inputs) - log_probs(trainer, before, inputs)
    assert change[advantages > 0].mean() > 0
    assert (change * advantages).mean() > 0
    assert any((head[name] != value).any() for name, value in trainer.value_head.state_dict().items())


@pytest.mark.parametrize("flows", [False, True])
def test_whether_the_value_loss_trains_the_model(novice, tmp_path, flows):
    trainer = trainer_of(novice, tmp_path, make_env(2), PPOSettings(value_gradient=flows), learning_rate=1e-3)
    torch.nn.init.normal_(trainer.value_head.out.weight)
    inputs = trainer._prepare_inputs([{"prompt": ""}] * (2 * TURNS))
    inputs["advantages"] = torch.zeros_like(inputs["advantages"])  # nothing but values is left to learn
    trainer.current_gradient_accumulation_steps = 1  # as train() sets it
    trainer.compute_loss(trainer.model, inputs).backward()
    assert any(parameter.grad.any() for parameter in trainer.value_head.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trainer.model.parameters()) == flows


def test_low_rank_additions_with_a_reference(novice, tmp_path):
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    options = {"beta": 0.1, "num_iterations": 2, "steps_per_generation": 2, "per_device_train_batch_size": 3}
    trainer = trainer_of(novice, tmp_path, make_env(2), None, lora, learning_rate=1e-2, **options)
    trainer.train()
    base = novice[0].state_dict()
    for name, value in trainer.model.get_base_model().state_dict().items():
        if "lora" not in name:
            assert torch.equal(value, base[name.replace("base_layer.", "")]), name
    assert logged(trainer, "kl")[0] == pytest.approx(0, abs=1e-5)
    assert logged(trainer, "kl")[-1] > 0
    assert any("lora" in name and value.any() for name, value in trainer.model.state_dict().items())
    assert trainer.value_head.out.bias.item() != 0


def test_a_run_that_is_resumed_keeps_its_values(novice, tmp_path):
    first = trainer_of(novice, tmp_path, make_env(2), save_strategy="epoch")
    first.train()
    checkpoint = tmp_path / "checkpoint-1"
    head = {name: value.clone() for name, value in first.value_head.state_dict().items()}
    assert head["out.bias"].item() != 0
    assert not any("value" in name for name in load_file(checkpoint / "model.safetensors"))

    found = {}

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            found.update(copy.deepcopy(again.value_head.state_dict()), scale=again.scale.numbers())
            moments = again.optimizer.state[again.value_head.out.bias]
            found["moment"] = moments["exp_avg"].clone()

    again = trainer_of(novice, tmp_path, make_env(2), num_train_epochs=2)
    again.add_callback(Look())
    again.train(resume_from_checkpoint=str(checkpoint))
    assert found.pop("scale") == first.scale.numbers()
    assert found.pop("moment").any()
    assert found.keys() == head.keys()
    assert all(torch.equal(found[name], head[name]) for name in head)
    assert again.state.global_step == 2

    (checkpoint / f"{VALUE_HEAD}.safetensors").unlink()
    with pytest.raises(StmError, match="holds no value head"):
        trainer_of(novice, tmp_path, make_env(2), num_train_epochs=2).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.slow
def test_what_pays_only_at_the_end_is_learned(tmp_path):
    options = {"per_device_train_batch_size": 32, "steps_per_generation": 3, "num_iterations": 2}
    trainer = trainer_of(chance(), tmp_path, make_env(32), num_train_epochs=15, learning_rate=1e-4, **options)
    trainer.train()
    returns = logged(trainer, "return")  # 1 at most; by chance 1/8: written at first, then left alone twice
    assert np.mean(returns[:3]) < 0.3
    assert np.mean(returns[-3:]) > 0.7
