"""Proximal policy optimisation of a language model, turn by turn, on TRL's GRPOTrainer.

The model plays whole episodes itself. Every decision is an action with an advantage of its own, from values of states
and the rewards of the turns that follow (Schulman et al., 2017); all its tokens share it. Generation, the clipped loss,
the KL to the reference, PEFT, vLLM and accelerate are TRL's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad

from stm_rl.errors import StmError
from stm_rl.files import saved, write_json, write_tensors
from stm_rl_agents.advantages import advantages_of
from stm_rl_agents.language.agent import MAX_NEW_TOKENS
from stm_rl_agents.language.grpo import FORMAT_WEIGHT, DecisionTrainer
from stm_rl_agents.language.labelled import score_labelled_only
from stm_rl_agents.language.phases import Phase, Player
from stm_rl_agents.language.value import (
    ValueGradients,
    ValueHead,
    clipped_value_loss,
    explained_variance,
)
from stm_rl_agents.recurrent.rollout import RewardScale
from stm_rl_envs.vector import MemoryVectorEnv

VALUE_HEAD = "value_head"
"""Name of the value head's files in a checkpoint; the exported model does not have it."""


@dataclass(frozen=True, slots=True)
class PPOSettings:
    """What turn-level PPO needs beside TRL's GRPOConfig.

    Values and their targets are in units of the running deviation of discounted returns.

    Attributes:
        gamma: Discount of a turn.
        gae_lambda: Lambda of generalised advantage estimation.
        value_lr: Learning rate of the value head; it follows the schedule of the model's.
        value_weight: Weight of the value loss.
        value_clip: How far a phase may move a value.
        value_gradient: Whether the value loss trains the language model, too, instead of the head only. It then learns
            the returns of a phase by heart, rather than what they depend on.
    """

    gamma: float = 0.98
    gae_lambda: float = 0.95
    value_lr: float = 1e-3
    value_weight: float = 0.5
    value_clip: float = 1.0
    value_gradient: bool = False

    def __post_init__(self) -> None:
        """Reject settings that cannot be trained with."""
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise StmError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        for name in ("value_lr", "value_weight", "value_clip"):
            if not getattr(self, name) > 0:
                raise StmError(f"{name} is {getattr(self, name)}; expected more than 0")


def turn_reward(turn_rewards: list[float], **_: Any) -> list[float]:
    """Return the reward of each turn in nats, as it was played; TRL calls this."""
    return turn_rewards


class TurnPPOTrainer(DecisionTrainer):
    """A GRPOTrainer whose batches are turns of episodes that go on from phase to phase; see :func:`ppo_trainer`.

    A phase is one of TRL's generation batches: as many turns of every episode as make up its size. What its data set
    holds is of no account.

    Args:
        env: Episodes that are played; each process has its own.
        settings: See :class:`PPOSettings`.
        **options: Those of GRPOTrainer, without ``reward_funcs``.

    Raises:
        StmError: The generation batch is no whole number of turns of every episode.
    """

    def __init__(self, *, env: MemoryVectorEnv, settings: PPOSettings, **options: Any) -> None:
        super().__init__(reward_funcs=[turn_reward], **options)
        self.env, self.settings = env, settings
        size = self.args.per_device_train_batch_size * self.args.steps_per_generation
        if size % env.num_envs:
            raise StmError(
                f"a phase has {size} decisions (per_device_train_batch_size x steps_per_generation), which "
                f"{env.num_envs} episodes cannot share evenly; give a multiple of {env.num_envs}"
            )
        # Its constructor would warn that rollout functions are experimental, which is no news to those who use this.
        self.rollout_func = self._played
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.args.seed)  # the same in every process
            self.value_head = ValueHead(self._causal().config.get_text_config().hidden_size)
        self.value_head.to(self.accelerator.device)
        self.scale = RewardScale(env.num_envs * self.accelerator.num_processes, settings.gamma)
        self.player = Player(env, self.processing_class, lambda ids: self._generate_single_turn(ids, None, {}, 1))
        self.phase: Phase | None = None
        self.add_callback(ValueGradients(self.value_head, self.accelerator))

    # Playing.

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Play a phase; return its decisions with their advantages."""
        if self.phase is None:  # a run that is resumed begins other episodes
            self.player.begin([self.args.seed, self.accelerator.process_index, self.state.global_step])
        self.phase = phase = self.player.play(len(inputs) // self.env.num_envs)
        self._log_metric("malformed", float(phase.malformed.mean()))
        self._log_metric("episodes", float(len(phase.returns)))
        for total in phase.returns:
            self._log_metric("return", total)
        rewards = phase.rewards - FORMAT_WEIGHT * phase.malformed
        rows = [
            {"prompt": prompt, "turn_rewards": reward}
            for prompt, reward in zip(phase.prompts, rewards.ravel().tolist(), strict=True)
        ]
        output: dict[str, Any] = super()._generate_and_score_completions(rows)
        return output | self._advantages(phase, rewards)

    def _played(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """Return what was played, as TRL's rollout functions do."""
        phase = self.phase
        if phase is None:
            raise StmError("nothing was played yet; call train()")
        ids = {"prompt_ids": phase.prompt_ids, "completion_ids": phase.completion_ids}
        return {**ids, "logprobs": phase.log_probs or None}

    # Values.

    def _causal(self) -> Any:
        """Return the language model itself; looked up each time, since wrappers replace it."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @contextmanager
    def _states(self, position: int) -> Iterator[list[Tensor]]:
        """Keep the last hidden states at a position of every forward pass, each of shape ``(n, size)``."""
        found: list[Tensor] = []
        handle = self._causal().base_model.register_forward_hook(
            lambda _module, _inputs, output: found.append(output.last_hidden_state[:, position])
        )
        try:
            yield found
        finally:
            handle.remove()

    @torch.no_grad()
    def _values(self, prompts: list[list[int]]) -> NDArray[np.float32]:
        """Return the values of states, from their prompts' tokens."""
        device, size, found = self.accelerator.device, self.args.per_device_train_batch_size, []
        # Sharded models need as many passes in every process.
        most = int(self.accelerator.gather(torch.tensor([len(prompts)], device=device)).max())
        filled = prompts + prompts[:1] * (most - len(prompts))
        for first in range(0, most, size):
            chunk = [torch.tensor(ids) for ids in filled[first : first + size]]
            ids = pad(chunk, self.processing_class.pad_token_id, "left").to(device)
            mask = pad([torch.ones_like(one) for one in chunk], 0, "left").to(device)
            with (
                disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
                self.accelerator.autocast(),
                self._states(-1) as states,
            ):
                self.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
            found.append(self.value_head(states[0]))
        return np.asarray(torch.cat(found)[: len(prompts)].cpu().numpy())

    def _advantages(self, phase: Phase, rewards: NDArray[np.float64]) -> dict[str, Tensor]:
        """Return ``advantages``, ``values`` and their targets ``returns``, one for each decision, turn by turn."""
        settings, ends = self.settings, phase.ends
        found = self._values(phase.prompt_ids + phase.last + list(phase.cut.values()))
        values, last, cut = np.split(found, [rewards.size, rewards.size + len(phase.last)])
        values = values.reshape(rewards.shape)
        scaled = self._scaled(rewards, ends)
        for place, value in zip(phase.cut, cut.tolist(), strict=True):
            scaled[place] += settings.gamma * value
        advantages = advantages_of(scaled, ends, values, last, settings.gamma, settings.gae_lambda)
        device = self.accelerator.device
        kinds = {"advantages": advantages, "values": values, "returns": advantages + values}
        output = {name: torch.from_numpy(kind.reshape(-1)).to(device) for name, kind in kinds.items()}
        everyone = {name: self.accelerator.gather(kind) for name, kind in output.items()}
        center, spread = everyone["advantages"].mean(), everyone["advantages"].std()
        output["advantages"] = (output["advantages"] - center) / (spread + 1e-8)
        known = explained_variance(everyone["values"].cpu().numpy(), everyone["returns"].cpu().numpy())
        metrics = self._metrics["train"]
        metrics["explained_variance"].append(known)
        metrics["value"].append(everyone["values"].mean().item())
        # What TRL made of pairs of decisions as if they were a group of GRPO's says nothing here.
        metrics.pop("frac_reward_zero_std", None)
        self._logs["advantages"].extend(((everyone["advantages"] - center) / (spread + 1e-8)).tolist())
        return output

    def _scaled(self, rewards: NDArray[np.float64], ends: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return rewards in units of the deviation of discounted returns, of all processes together."""
        device, first = self.accelerator.device, self.accelerator.process_index * self.env.num_envs
        everyone = self.accelerator.gather(torch.from_numpy(rewards.T.astype(np.float32)).to(device)).cpu().numpy()
        over = self.accelerator.gather(torch.from_numpy(np.ascontiguousarray(ends.T)).to(device)).cpu().numpy()
        scaled = [self.scale(reward, ended) for reward, ended in zip(everyone.T, over.T, strict=True)]
        return np.stack(scaled)[:, first : first + self.env.num_envs].copy()

    # Learning.

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        with self._states(inputs["prompt_ids"].size(1) - 1) as states:  # prompts are padded on the left
            policy_loss: Tensor = super()._compute_loss(model, inputs)
        hidden = states[0] if self.settings.value_gradient else states[0].detach()
        value_loss = clipped_value_loss(
            self.value_head(hidden), inputs["values"], inputs["returns"], self.settings.value_clip
        )
        self._metrics["train"]["value_loss"].append(self.accelerator.gather(value_loss.detach()).mean().item())
        weight: float = self.settings.value_weight / self.current_gradient_accumulation_steps
        return policy_loss + weight * value_loss

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the optimizer, which trains the value head, too."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh:
            parameters = list(self.value_head.parameters())
            optimizer.add_param_group({"params": parameters, "lr": self.settings.value_lr, "weight_decay": 0.0})
        return optimizer

    # Checkpoints.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            write_json(folder / f"{VALUE_HEAD}.json", {"scale": self.scale.numbers()})
            write_tensors(folder / f"{VALUE_HEAD}.safetensors", self.value_head.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            with saved(Path(checkpoint), VALUE_HEAD, "value head", "resume from a checkpoint of PPO") as (
                known,
                tensors,
            ):
                self.value_head.load_state_dict(tensors)
                self.scale.restore(known["scale"])


def ppo_trainer(
    model: Any,
    tokenizer: Any,
    env: MemoryVectorEnv,
    settings: PPOSettings | None = None,
    peft_config: Any = None,
    **options: Any,
) -> TurnPPOTrainer:
    """Return a trainer that plays episodes with the model, and makes likelier what turned out better than expected.

    A phase has ``per_device_train_batch_size x steps_per_generation`` decisions, and is one of TRL's epochs:
    ``num_train_epochs`` is the number of phases. ``num_iterations`` is the number of passes over each phase, ``beta``
    the weight of the KL to the model as it was, ``epsilon`` the clip range.

    Args:
        model: A causal transformers model that calls tools already, or its folder.
        tokenizer: Its tokenizer, see :func:`~stm_rl_agents.language.chat.load_policy_model`.
        env: The episodes that are played side by side.
        settings: Of PPO; the default ones if None.
        peft_config: Train low-rank additions only.
        **options: Those of TRL's GRPOConfig.

    Raises:
        StmError: The phase is no whole number of turns of every episode.
    """
    # TRL counts prompts in groups of at least 2. Its loss (dapo) sums over tokens, as the gradient of a decision's
    # log-probability does; a mean over each decision's tokens would favour short ones.
    fixed = {"num_generations": 2, "scale_rewards": "none", "loss_type": "dapo"}
    usual = {"num_iterations": 2, "max_completion_length": MAX_NEW_TOKENS, "report_to": []}
    score_labelled_only()
    args = GRPOConfig(**{**usual, **options, **fixed})
    rows = Dataset.from_dict({"prompt": [""] * (args.generation_batch_size // args.num_generations)})
    return TurnPPOTrainer(
        env=env,
        settings=settings or PPOSettings(),
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
