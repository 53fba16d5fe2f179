"""PPO: MaskablePPO on the pointer network, from scratch with a curriculum over distances, or from a policy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from stm_rl.errors import StmError
from stm_rl.evaluation import Played, play
from stm_rl.files import saved, write_json, write_tensors
from stm_rl.runs import Run
from stm_rl_agents.anchor import AnchoredPolicy
from stm_rl_agents.checkpoint import packed, unpack
from stm_rl_agents.policy import PointerPolicy, PolicyAgent
from stm_rl_agents.sb3 import LOGGED, MemoryVecEnv
from stm_rl_envs.vector import MemoryVectorEnv

VALUE_LR = 2e-3
"""Learning rate of the value head while nothing else is trained."""

MakeEnv = Callable[..., MemoryVectorEnv]
"""Makes environments: ``make_env(num_envs, split="train", autoreset=True, full_context=False, **overrides)``."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of training on its own settings of the environment.

    Attributes:
        share: Share of all steps.
        overrides: Environment settings during the stage, for instance ``{"max_gap": 5}``.
    """

    share: float
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PPOSettings:
    """Settings of training.

    Attributes:
        steps: Environment steps in all.
        num_envs: Environments stepped together.
        rollout: Steps of each environment in a rollout.
        batch_size: Steps in a minibatch.
        epochs: Passes over each rollout.
        lr: Learning rate at the start; falls linearly to a tenth.
        gamma: Discount.
        gae_lambda: Lambda of generalised advantage estimation (Schulman et al., 2016).
        entropy: Weight of the entropy bonus.
        value_weight: Weight of the value loss. Returns are in nats, a dozen in an episode; with the usual
            0.5 the value loss drowns the policy in the layers they share.
        clip: Clip range of the policy ratio.
        leave_bias: Added at the start to the logit of leaving a turn out. A policy that rewrites its
            memory at every turn never holds anything long enough to be paid for it.
        width: Width of the network.
        layers: Self-attention layers of the network.
        curriculum: Stages, in order; their shares add up to 1.
        validate_every: Rollouts between two validations.
        validation_episodes: Episodes of a validation.
        seed: Seeds everything.
        value_warmup: Environment steps during which a policy to start from stays as it is and only the value
            head is trained. That of a cloned policy knows nothing, and its errors would undo the policy.
        kl_anchor: Weight of the penalty for the KL divergence, in nats, from the policy to start from.
        kl_anchor_share: Share of all steps over which that weight falls linearly to 0.
    """

    steps: int = 400_000
    num_envs: int = 32
    rollout: int = 128
    batch_size: int = 512
    epochs: int = 4
    lr: float = 5e-4
    gamma: float = 0.98
    gae_lambda: float = 0.95
    entropy: float = 0.01
    value_weight: float = 0.1
    clip: float = 0.2
    leave_bias: float = 2.0
    width: int = 64
    layers: int = 1
    curriculum: tuple[Stage, ...] = (Stage(1.0),)
    validate_every: int = 8
    validation_episodes: int = 100
    seed: int = 0
    value_warmup: int = 0
    kl_anchor: float = 0.0
    kl_anchor_share: float = 0.5

    def __post_init__(self) -> None:
        """Reject settings that cannot be trained with."""
        for name in (
            "steps",
            "num_envs",
            "rollout",
            "batch_size",
            "epochs",
            "validate_every",
            "validation_episodes",
        ):
            if getattr(self, name) < 1:
                raise StmError(f"{name} is {getattr(self, name)}; expected at least 1")
        if (self.num_envs * self.rollout) % self.batch_size:
            raise StmError(
                f"batch_size {self.batch_size} does not divide a rollout of {self.num_envs} x {self.rollout} = "
                f"{self.num_envs * self.rollout} steps; use a divisor of that"
            )
        if not 0 <= self.value_warmup < self.steps:
            raise StmError(
                f"value_warmup is {self.value_warmup} of {self.steps} steps; expected at least 0 and fewer than all, "
                "so that some are left to train the policy"
            )
        if not 0 <= self.kl_anchor < math.inf:
            raise StmError(f"kl_anchor is {self.kl_anchor}; expected a weight of at least 0, such as 0.1")
        if not 0 < self.kl_anchor_share <= 1:
            raise StmError(f"kl_anchor_share is {self.kl_anchor_share}; expected more than 0 and at most 1")
        if abs(sum(stage.share for stage in self.curriculum) - 1) > 1e-6:
            shares = ", ".join(f"{stage.share:g}" for stage in self.curriculum)
            raise StmError(
                f"the shares of the curriculum's stages are {shares or 'none'}; expected them to add up to 1"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.yaml``."""
        return {**asdict(self), "curriculum": [asdict(stage) for stage in self.curriculum]}


class PPOTrainer:
    """Trains a slot policy and keeps the one that did best on validation episodes.

    Args:
        make_env: Makes environments.
        settings: How to train.
        run: Where metrics, checkpoint and policy go.
        card: What to keep beside the policy's weights.
        on_progress: Called after each rollout with the steps done and the last metrics.
        init: The policy to start from; width and layers are its own. A copy is kept in ``checkpoint/init/``.

    Raises:
        StmError: The policy to start from does not fit the environment, or there is none to anchor to.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        settings: PPOSettings,
        run: Run,
        card: Mapping[str, Any] | None = None,
        on_progress: Callable[[int, dict[str, Any]], None] = lambda steps, row: None,
        init: PolicyAgent | None = None,
    ) -> None:
        self.make_env, self.settings, self.run = make_env, settings, run
        self.card, self.on_progress = dict(card or {}), on_progress
        self.best = -np.inf
        self.done = 0
        self.seconds = 0.0
        env = self._stage_env(0)
        self.card["encoder"] = env.episodes.encoder.id
        self.init = init
        policy_kwargs: dict[str, Any]
        if init is not None:
            init.check_fits(env)
            policy_kwargs = {"anchor": init.network, "entropy_weight": settings.entropy}
        elif settings.kl_anchor:
            raise StmError(f"kl_anchor is {settings.kl_anchor} but there is no policy to stay close to; give init")
        else:
            policy_kwargs = {"width": settings.width, "layers": settings.layers}
        self.model = MaskablePPO(
            PointerPolicy if init is None else AnchoredPolicy,
            MemoryVecEnv(env),
            learning_rate=self._rate,
            n_steps=settings.rollout,
            batch_size=settings.batch_size,
            n_epochs=settings.epochs,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
            ent_coef=settings.entropy if init is None else 1.0,  # an AnchoredPolicy weighs the entropy itself
            vf_coef=settings.value_weight,
            clip_range=settings.clip,
            seed=settings.seed,
            policy_kwargs=policy_kwargs,
        )
        # The run folder has the metrics: a logger of SB3's own would leave an empty folder among the temporary files.
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        policy = self.model.policy
        assert isinstance(policy, PointerPolicy)
        self.network = policy.network
        self.anchored = policy if isinstance(policy, AnchoredPolicy) else None
        if self.anchored is None:
            self.network.prefer_leaving(settings.leave_bias)

    def _rate(self, _: float) -> float:
        if self.init is not None and self.done < self.settings.value_warmup:
            return VALUE_LR
        return self.settings.lr * (1 - 0.9 * min(1.0, self.done / self.settings.steps))

    def prepare_update(self) -> None:
        """Set what the next update trains and the weight of leaving the anchor."""
        if self.anchored is None:
            return
        settings = self.settings
        self.network.requires_grad_(self.done >= settings.value_warmup)
        self.network.value.requires_grad_(True)
        self.anchored.beta = settings.kl_anchor * max(0.0, 1 - self.done / (settings.kl_anchor_share * settings.steps))

    def _stage_env(self, number: int) -> MemoryVectorEnv:
        return self.make_env(self.settings.num_envs, split="train", **self.settings.curriculum[number].overrides)

    def agent(self) -> PolicyAgent:
        """Return the network as it is now, as an agent."""
        return PolicyAgent(self.network, self.card)

    def train(self) -> PolicyAgent:
        """Train to the end; return the best policy.

        Raises:
            KeyboardInterrupt: Training was interrupted; the checkpoint and the best policy so far
                have been saved.
        """
        start = time.monotonic() - self.seconds
        end = 0.0
        try:
            if self.init is not None and self.best == -np.inf:
                self._log_start(start)
            for number, stage in enumerate(self.settings.curriculum):
                end += stage.share * self.settings.steps
                if self.done >= end:
                    continue
                env = MemoryVecEnv(self._stage_env(number))
                env.seed(self.settings.seed + 1_000 * number + self.done)
                self.model.set_env(env)
                final = number == len(self.settings.curriculum) - 1
                callback = _AfterRollout(self, start, final)
                self.model.learn(round(end) - self.done, callback=callback, reset_num_timesteps=True)
                callback.close()
        finally:
            self.network.eval()
            self.save_checkpoint()
            if self.best == -np.inf:
                self.agent().save(self.run.folder)
        return PolicyAgent.load(self.run.folder)

    def _log_start(self, start: float) -> None:
        """Validate the policy to start from: the first best, so that a run never ends worse than it began."""
        row = {"steps": self.done, **self.validation_row()}
        self.seconds = time.monotonic() - start
        row["seconds"] = round(self.seconds, 1)
        self.keep(row["validation/return"])
        self.log(row)

    def keep(self, score: float) -> None:
        """Save the policy as it is now if no other scored as much."""
        if score > self.best:
            self.best = score
            self.agent().save(self.run.folder)
            self.network.train()

    def log(self, row: dict[str, Any]) -> None:
        """Write a row of metrics and report it."""
        self.run.log({name: round(v, 5) if isinstance(v, float) else v for name, v in row.items()})
        self.on_progress(self.done, row)

    def validation_row(self) -> dict[str, Any]:
        """Validate; return the means."""
        played = self.validate()
        row = {
            "validation/return": float(played.returns.mean()),
            "validation/coherence_gain": float(played.gains.mean()),
        }
        if played.asked.any():
            row["validation/evidence_recall"] = float(played.recalled.sum() / played.asked.sum())
        return row

    def validate(self) -> Played:
        """Play the validation episodes with the policy as it is now."""
        count = self.settings.validation_episodes

        def make(num_envs: int, full_context: bool) -> MemoryVectorEnv:
            return self.make_env(num_envs, split="validation", autoreset=False, full_context=full_context)

        available = len(make(1, False).episodes.prepare.transcripts)
        played = play(self.agent(), make, range(min(count, available)))
        self.network.train()
        return played

    # Checkpoints hold tensors and JSON only, so that loading one runs no code.

    def save_checkpoint(self) -> None:
        """Write network, optimizer, progress and the policy that was started from to ``checkpoint/``."""
        folder = self.run.folder / "checkpoint"
        folder.mkdir(exist_ok=True)
        if self.init is not None and not (folder / "init" / "policy.json").exists():
            self.init.save(folder / "init")
        best = self.best if np.isfinite(self.best) else None  # JSON knows no infinity
        write_tensors(folder / "state.safetensors", packed(self.network, self.model.policy.optimizer))
        write_json(folder / "state.json", {"done": self.done, "best": best, "seconds": self.seconds})

    def load_checkpoint(self) -> None:
        """Go on from ``checkpoint/``.

        Raises:
            StmError: There is no readable checkpoint, or the run started from a policy and none was given here.
        """
        folder = self.run.folder / "checkpoint"
        if self.init is None and (folder / "init").exists():
            raise StmError(f"the run in {self.run.folder} started from a policy; give init, as in {folder / 'init'}")
        advice = "it cannot be resumed: train anew with --force, which moves the old run aside"
        with saved(folder, "state", "checkpoint", advice) as (state, tensors):
            unpack(tensors, self.network, self.model.policy.optimizer)
            if self.anchored is not None:
                self.anchored.anchor.load_state_dict(PolicyAgent.load(folder / "init").network.state_dict())
            self.done, self.seconds = int(state["done"]), float(state["seconds"])
            self.best = -np.inf if state["best"] is None else float(state["best"])
        self.run.forget_after(self.done)


class _AfterRollout(BaseCallback):
    """Logs each rollout, validates now and then, and keeps the best policy."""

    def __init__(self, trainer: PPOTrainer, start: float, final: bool) -> None:
        super().__init__()
        self.trainer, self.start, self.final = trainer, start, final
        self.first = trainer.done
        self.rollouts = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.rollouts:  # the update after the last rollout is over
            self._log(self.rollouts % self.trainer.settings.validate_every == 0)
        self.rollouts += 1
        self.trainer.prepare_update()

    def close(self) -> None:
        """Log the last rollout of the stage."""
        self._log(True)

    def _log(self, validate: bool) -> None:
        trainer = self.trainer
        trainer.done = self.first + self.num_timesteps  # a rollout counts once it has been learned from
        trainer.seconds = time.monotonic() - self.start
        row: dict[str, Any] = {"steps": trainer.done, "seconds": round(trainer.seconds, 1)}
        episodes = list(self.model.ep_info_buffer or ())
        if episodes:
            mean = {name: float(np.mean([e[name] for e in episodes])) for name in ("r", "l", *LOGGED)}
            row |= {
                "train/return": mean["r"],
                "train/coherence_gain": mean["coherence_gain"],
                "train/writes_per_turn": mean["writes"] / mean["l"],
                "train/reads_per_turn": mean["reads"] / mean["l"],
                "train/evidence_held": mean["evidence_held"] / max(mean["evidence_needed"], 1e-9),
            }
        for name, value in self.model.logger.name_to_value.items():
            if name.startswith("train/"):
                row[f"ppo/{name.removeprefix('train/')}"] = float(value)
        if trainer.anchored is not None:
            row |= {f"ppo/{name}": value for name, value in trainer.anchored.take_log().items()}
        if validate:
            row |= trainer.validation_row()
            trainer.seconds = time.monotonic() - self.start
            if self.final:
                trainer.keep(row["validation/return"])
            trainer.save_checkpoint()
        trainer.log(row)
