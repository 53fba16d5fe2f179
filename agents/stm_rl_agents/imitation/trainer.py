"""Imitation from start to end: behaviour cloning, rounds of DAgger, validation, and going on after an interruption."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stm_rl.errors import StmError
from stm_rl.evaluation import Played, play
from stm_rl.files import reading, write_json
from stm_rl.runs import Run
from stm_rl_agents.demonstrations import Demonstrations
from stm_rl_agents.imitation.clone import fit
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.imitation.lessons import Lessons, collect
from stm_rl_agents.imitation.losses import CROSS_ENTROPY, UNSAID
from stm_rl_agents.imitation.settings import BC, ImitationSettings
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.ppo import MakeEnv
from stm_rl_envs.vector import MemoryVectorEnv

HELD_OUT = 50
"""Most episodes that are held out."""
_ASKS = "method {} has to ask the expert in states of the learner's own; use method bc"
OnProgress = Callable[[dict[str, Any]], None]


class ImitationTrainer:
    """Clones an expert, and keeps the policy that did best on validation episodes.

    Args:
        make_env: Makes environments.
        lesson_env: Makes environments to collect lessons in; they need no language model and no reward.
        expert: Who is imitated; none if all there is are ``demonstrations``.
        settings: How.
        run: Where metrics, checkpoint and policy go.
        card: What to keep beside the policy's weights.
        demonstrations: Learn from these instead of asking the expert (behaviour cloning only).
        on_progress: Called with each row of metrics, and with ``{"episodes": n}`` while lessons are collected.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        lesson_env: Callable[[int], MemoryVectorEnv],
        expert: HindsightExpert | None,
        settings: ImitationSettings,
        run: Run,
        card: Mapping[str, Any] | None = None,
        demonstrations: Demonstrations | None = None,
        on_progress: OnProgress = lambda row: None,
    ) -> None:
        if expert is None and (demonstrations is None or settings.method != BC):
            raise StmError(_ASKS.format(settings.method))
        self.make_env, self.lesson_env = make_env, lesson_env
        self.expert, self.settings, self.run = expert, settings, run
        self.demonstrations, self.on_progress = demonstrations, on_progress
        self.best = -np.inf
        self.done = 0
        self.steps = 0
        self.seconds = 0.0
        env = lesson_env(1)
        self.card = {**(card or {}), "encoder": env.episodes.encoder.id, "method": settings.method}
        shapes = {name: box.shape for name, box in env.single_observation_space.spaces.items()}  # type: ignore[attr-defined]
        torch.manual_seed(settings.seed)
        self.network = PointerNetwork(
            text_size=shapes["slots"][1],
            slot_features=shapes["slot_features"][1],
            global_features=shapes["globals"][0],
            reads=env.episodes.settings.reads,
            width=settings.width,
            layers=settings.layers,
        )
        self.parts: list[tuple[Lessons, Lessons]] = []

    def agent(self, seed: int = 0) -> PolicyAgent:
        """Return the network as it is now, as an agent."""
        return PolicyAgent(self.network, self.card, self.settings.method, seed)

    def train(self) -> PolicyAgent:
        """Learn to the end; return the best policy.

        Raises:
            KeyboardInterrupt: Learning was interrupted; the rounds that were finished and the best policy so far have
                been saved.
        """
        settings = self.settings
        start = time.monotonic() - self.seconds
        rounds = 1 if settings.method == BC else 1 + settings.rounds
        if self.done >= rounds:
            return PolicyAgent.load(self.run.folder)
        for number in range(rounds):
            self._collect(number)
            if number < self.done:
                self._load_round(number)
                continue
            torch.manual_seed(settings.seed + number)
            rng = np.random.default_rng([settings.seed, number])

            def log(row: dict[str, Any], number: int = number) -> None:
                self._log({"round": number, **row}, start)

            lessons, held_out = (Lessons.joined(side) for side in zip(*self.parts, strict=True))
            how: dict[str, Any] = {"loss": settings.loss, "epochs": settings.epochs, "lr": settings.lr}
            if number:
                how = {"loss": settings.round_loss, "epochs": settings.round_epochs, "lr": settings.round_lr}
            fit(self.network, lessons, held_out, settings, **how, rng=rng, on_epoch=log)
            played = self.validate()
            row: dict[str, Any] = {
                "validation/return": float(played.returns.mean()),
                "validation/coherence_gain": float(played.gains.mean()),
            }
            if played.asked.any():
                row["validation/evidence_recall"] = float(played.recalled.sum() / played.asked.sum())
            if row["validation/return"] > self.best:
                self.best = row["validation/return"]
                self.agent().save(self.run.folder)
            log(row)
            self._save_round(number)
        return PolicyAgent.load(self.run.folder)

    def validate(self) -> Played:
        """Play the validation episodes with the policy as it is now."""

        def make(num_envs: int, full_context: bool) -> MemoryVectorEnv:
            return self.make_env(num_envs, split="validation", autoreset=False, full_context=full_context)

        available = len(make(1, False).episodes.prepare.transcripts)
        return play(self.agent(), make, range(min(self.settings.validation_episodes, available)))

    def _collect(self, number: int) -> None:
        """Collect the lessons of a round: of the expert's own play at first, then of the learner's."""
        settings = self.settings
        if self.demonstrations is not None:
            parts = _parted(self.demonstrations.episodes)
            made = [Lessons.of(Demonstrations(list(part), self.demonstrations.card)) for part in parts]
            passes = [(made[0], made[1])]
        else:
            expert = self.expert
            assert expert is not None  # __init__ saw to it
            env = self.lesson_env(settings.num_envs)
            split = _parted(range(min(settings.transcripts, len(env.episodes.prepare.transcripts))))
            rng = np.random.default_rng([settings.seed, number, 1])
            actor = self.agent(settings.seed + number) if number else expert
            first = len(settings.expert_noise) + number - 1 if number else 0

            def played(part: Sequence[int], turn: int, noise: float) -> Lessons:
                indices = _turn(part, turn, settings.round_transcripts)
                return collect(actor, expert, env, indices, noise=noise, rng=rng, on_episodes=self._on_episodes)

            levels = (0.0,) if number else settings.expert_noise
            passes = [(played(split[0], first + i, n), played(split[1], first + i, n)) for i, n in enumerate(levels)]
        self.steps += sum(len(lessons) + len(held_out) for lessons, held_out in passes)
        if number == 1:
            del self.parts[1:]  # the learner has states of its own now; those of one pass of the expert are enough
        self.parts += passes

    def _on_episodes(self, count: int) -> None:
        self.on_progress({"episodes": count})

    def _log(self, row: dict[str, Any], start: float) -> None:
        self.seconds = time.monotonic() - start
        row = {"steps": self.steps, "seconds": round(self.seconds, 1), **row}
        self.run.log({name: round(v, 5) if isinstance(v, float) else v for name, v in row.items()})
        self.on_progress(row)

    # After an interruption the lessons of finished rounds are collected again by the policies of these rounds: they
    # and the draws of their actions are the same, and it costs no score.

    def _save_round(self, number: int) -> None:
        folder = self.run.folder / "checkpoint"
        folder.mkdir(exist_ok=True)
        self.agent().save(folder / f"round-{number}")
        self.done = number + 1
        write_json(folder / "state.json", {"done": self.done, "best": self.best, "seconds": self.seconds})

    def _load_round(self, number: int) -> None:
        saved = PolicyAgent.load(self.run.folder / "checkpoint" / f"round-{number}")
        self.network.load_state_dict(saved.network.state_dict())

    def load_checkpoint(self) -> None:
        """Go on after the last finished round, if there is one."""
        path = self.run.folder / "checkpoint" / "state.json"
        if path.exists():
            with reading(path, "it cannot be resumed: begin anew with --force, which moves the old run aside"):
                state = json.loads(path.read_text(encoding="utf-8"))
                self.done, self.best, self.seconds = int(state["done"]), float(state["best"]), float(state["seconds"])
        self.run.forget_after(self.done - 1, "round")


def check_learnable(settings: ImitationSettings, transcripts: int, demonstrations: Demonstrations | None) -> None:
    """Check, before anything is written, that there is enough to learn from, and that it says what has to be known.

    Args:
        settings: How a policy is cloned.
        transcripts: Transcripts there are.
        demonstrations: What is learned from instead, if anything.

    Raises:
        StmError: It cannot be learned from.
    """
    if demonstrations is None:
        _parted(range(min(settings.transcripts, transcripts)))
        return
    if settings.method != BC:
        raise StmError(_ASKS.format(settings.method))
    if settings.loss != CROSS_ENTROPY:
        raise StmError(UNSAID)
    _parted(demonstrations.episodes)


def _parted(items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return what is learned from, and the last tenth that is held out: at least one, at most :data:`HELD_OUT`."""
    if len(items) < 2:
        raise StmError(f"there is only {len(items)} episode to learn from; expected at least 2, one of them held out")
    held_out = min(max(1, len(items) // 10), HELD_OUT)
    return items[:-held_out], items[-held_out:]


def _turn(items: Sequence[int], number: int, size: int) -> list[int]:
    """Return the ``size`` items whose turn it is, or all; all have theirs before one has it again."""
    return [items[(number * size + i) % len(items)] for i in range(min(size, len(items)))]
