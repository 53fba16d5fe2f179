"""The methods of ``stm-rl finetune``: what each learns from, and which of TRL's trainers it makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from stm_rl.cli.progress import counted, say
from stm_rl.cli.task import Task
from stm_rl.errors import StmError
from stm_rl.files import reading, write_jsonl
from stm_rl.rewards import as_reward
from stm_rl_agents import Agent, heuristics
from stm_rl_agents.imitation.expert import EXPERT, HindsightExpert
from stm_rl_agents.language.chat import is_short
from stm_rl_agents.language.demonstrate import Demonstration, demonstrate, resampled
from stm_rl_agents.language.dpo import dpo_trainer, preference_pairs, read_pairs, write_pairs
from stm_rl_agents.language.grpo import grpo_trainer
from stm_rl_agents.language.learner import Learner
from stm_rl_agents.language.ppo import PPOSettings, ppo_trainer
from stm_rl_agents.language.returns import Playout
from stm_rl_agents.language.rewards import StateReturns
from stm_rl_agents.language.settings import DPO, GRPO, PPO, SFT, FinetuneSettings
from stm_rl_agents.language.sft import dataset_of, sft_trainer
from stm_rl_agents.language.tools import Decision
from stm_rl_agents.language.visits import state_rows, unsure, visits_of
from stm_rl_agents.loading import load_agent
from stm_rl_envs.vector import MemoryVectorEnv

MakeTrainer = Callable[..., Any]
"""Makes one of TRL's trainers of a model, a tokenizer, ``peft_config`` and options of its config class."""


@dataclass(frozen=True, slots=True)
class Finetuning:
    """One finetuning: what it is done with.

    Attributes:
        task: What is played.
        expert: The hindsight expert, who knows the labels of the transcripts that are learned from.
        learner: The model.
        settings: How it is trained.
        folder: Where checkpoints and data are kept, so that the training can go on.
        processes: The processes that train together.
        reference: Who plays on after decisions.
        pairs: File of given pairs, for dpo.
    """

    task: Task
    expert: HindsightExpert
    learner: Learner
    settings: FinetuneSettings
    folder: Path
    processes: PartialState
    reference: Agent
    pairs: Path | None

    def rounds(self) -> Iterator[MakeTrainer]:
        """Yield what makes the trainer of each round; data of a round is made once the one before is over."""
        if self.settings.method == SFT:
            yield from self._sft()
        else:
            yield {GRPO: self._grpo, PPO: self._ppo, DPO: self._dpo}[self.settings.method]()

    def _sft(self) -> Iterator[MakeTrainer]:
        found: list[Demonstration] = []
        for number in range(self.settings.rounds + 1):
            if number == 1:
                found.clear()  # the expert's own play served to begin with
            found += self._kept(f"demonstrations-{number}.jsonl", partial(self._demonstrate, number))
            yield _sft_of(resampled(found, self.settings.rows, self._rng(number), self.settings.worth_share))

    def _grpo(self) -> MakeTrainer:
        rows = state_rows(self._met(), self.settings.rows, self._rng(1))
        returns = StateReturns(self._playout(), self.learner.tokenizer, self.settings.horizons)
        return lambda model, tokenizer, **options: grpo_trainer(model, tokenizer, rows, returns, **options)

    def _ppo(self) -> MakeTrainer:
        env = self.task.make(self.settings.num_envs, autoreset=False)
        ppo = PPOSettings(gamma=self.settings.gamma, **self.settings.value)
        return lambda model, tokenizer, **options: ppo_trainer(model, tokenizer, env, ppo, **options)

    def _dpo(self) -> MakeTrainer:
        pairs = read_pairs(self.pairs or self._made_pairs())
        say(f"{len(pairs):,} pairs to learn from")
        return lambda model, tokenizer, **options: dpo_trainer(model, tokenizer, pairs, **options)

    def _made_pairs(self) -> Path:
        """Return the run's file of pairs, which the main process writes if there is none yet."""
        path, states = self.folder / "pairs.jsonl", self._met()
        if self.processes.is_main_process and not path.exists():
            agent = self.learner.agent(seed=self.settings.seed)
            stakes = np.array([one.stake for one in states])
            count = min(self.settings.rows, len(states))
            chosen = self._rng(1).choice(len(states), count, replace=False, p=stakes / stakes.sum()).tolist()
            write_pairs(
                path, preference_pairs(agent, [states[i] for i in chosen], self._playout(), self.settings.horizons[-1])
            )
        self.processes.wait_for_everyone()
        return path

    def _met(self) -> list[Demonstration]:
        """Return states in which the learner gets and is not sure, with what hangs on its decision there."""

        def met() -> list[Demonstration]:
            agent, env = self.learner.agent(seed=self.settings.seed), self._env()
            indices = self.settings.chosen(len(env.episodes.prepare.transcripts))
            with counted(f"{agent.name} plays", len(indices)) as advance:
                return unsure(self.expert, env, visits_of(agent, env, indices, advance))

        return self._kept("states.jsonl", met, "states to decide in")

    def _playout(self) -> Playout:
        settings = self.settings
        return Playout(
            lambda count: self.task.make(count, autoreset=False),
            self.reference,
            settings.gamma,
            settings.num_envs,
            self.expert if settings.bootstrap else None,
        )

    def _demonstrate(self, number: int) -> list[Demonstration]:
        """Return what the expert does by itself, or, after the first training, would do where the learner gets.

        Each round plays transcripts of its own: what is learned by heart in one is no use in the next.
        """
        if number:
            seed = self.settings.seed + number
            played = [self._play(self.learner.agent(seed=seed), 0.0, number)]
        else:
            played = [self._play(self.expert, noise, number) for noise in self.settings.noise]
        return [one for part in played for one in part]

    def _play(self, actor: Agent, noise: float, number: int) -> list[Demonstration]:
        """Return decisions of the expert where an actor gets, in the transcripts of a round."""
        env = self._env()
        indices = self.settings.chosen(len(env.episodes.prepare.transcripts))
        if len(indices) > self.settings.rounds:
            indices = indices[number :: self.settings.rounds + 1]
        with counted(f"{actor.name} plays", len(indices)) as advance:
            return demonstrate(
                actor,
                self.expert,
                env,
                indices,
                short=is_short(self.learner.tokenizer),
                quote=self.settings.quote,
                parts=True,
                noise=noise,
                rng=self._rng(number, round(1e6 * noise)),
                on_episodes=advance,
            )

    def _env(self) -> MemoryVectorEnv:
        unscored = replace(self.task, engine=None, reward=as_reward({"write_cost": 1.0}))  # of no account here
        return unscored.make(self.settings.num_envs, autoreset=False)

    def _rng(self, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *more])

    def _kept(
        self,
        name: str,
        make: Callable[[], Sequence[Demonstration]],
        what: str = "decisions of the expert to learn from",
    ) -> list[Demonstration]:
        """Return demonstrations from a file of the run, which the main process writes if there is none yet."""
        path = self.folder / name
        if self.processes.is_main_process and not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_jsonl(path, map(packed, make()))
        self.processes.wait_for_everyone()
        with reading(path, "begin anew with --force"):
            found = [unpacked(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        if self.processes.is_main_process:
            say(f"{len(found):,} {what}, kept in {path}")
        return found


def _sft_of(rows: Sequence[Demonstration]) -> MakeTrainer:
    return lambda model, tokenizer, **options: sft_trainer(model, tokenizer, dataset_of(rows, tokenizer), **options)


def packed(one: Demonstration) -> dict[str, Any]:
    """Return a demonstration as plain values."""
    decision = one.decision
    told = {"write": decision.write, "text": decision.text, "forget": decision.forget, "reads": decision.reads}
    return {
        "prompt": one.prompt,
        "decision": told,
        "stake": round(one.stake, 4),
        "state": one.state,
        "stakes": [round(stake, 4) for stake in one.stakes],
        "given": one.given,
        "closed": one.closed,
        "worth": one.worth,
    }


def unpacked(values: dict[str, Any]) -> Demonstration:
    """Return the demonstration that :func:`packed` told."""
    told = values["decision"]
    decision = Decision(told["write"], told["text"], tuple(told["forget"]), tuple(told["reads"]))
    return Demonstration(**{**values, "decision": decision, "stakes": tuple(values["stakes"])})


def reference_of(name: str, expert: HindsightExpert, seed: int, device: str) -> Agent:
    """Return who plays on after decisions.

    Args:
        name: ``expert``, the name of a heuristic, or a run folder.
        expert: The expert.
        seed: Seeds heuristics that draw.
        device: Torch device of a language model.

    Raises:
        StmError: There is no such agent.
    """
    known: dict[str, Agent] = {EXPERT: expert, **{agent.name: agent for agent in heuristics(seed)}}
    if name in known:
        return known[name]
    if Path(name).is_dir():
        return load_agent(name, device)
    raise StmError(f"--reference is {name!r}; expected a run folder, or one of {', '.join(known)}")
