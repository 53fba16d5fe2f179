"""Train one write policy on sets of real text mixed, and measure what it recalls on held-out parts of each.

    python scripts/train_recall.py imitate --data DATA --sets sgd multiwoz --seed 0 --out runs/cloned-0
    python scripts/train_recall.py train --data DATA --seed 0 --out runs/recall-0
    python scripts/train_recall.py train --data DATA --seed 0 --reward evidence --out runs/recall-evidence-0
    python scripts/train_recall.py report --data DATA --agent hindsight=runs/recall-0,runs/recall-1,runs/recall-2

DATA is a folder with ``sgd/dev``, ``multiwoz/val.json.zip``, ``babi`` (the training files) and ``irc/dev``. Of each set
60% are trained on, 10% choose between checkpoints, 30% are held out; the ten IRC logs are parted 6, 1 and 3.
``docs/recall-policies.md`` says what came of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stm_rl.evaluation.recall import Measured, streams_of
from stm_rl.evaluation.recall_keepers import keepers
from stm_rl.evaluation.recall_report import bench_recall
from stm_rl.files import write_json
from stm_rl.labels import TextLabels
from stm_rl.readers import read_transcripts
from stm_rl.readers.mix import Mixture, excerpts
from stm_rl.rewards import Reward, Term
from stm_rl.rewards.hindsight import Hindsight, Uses
from stm_rl.runs import Run
from stm_rl.transcript import Transcript
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.imitation.settings import ImitationSettings
from stm_rl_agents.imitation.trainer import ImitationTrainer
from stm_rl_agents.keepers import AgentKeeper
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.ppo import PPOSettings, PPOTrainer
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

SOURCES = {"sgd": "sgd/dev", "multiwoz": "multiwoz/val.json.zip", "babi": "babi", "irc": "irc/dev"}
BABI_TASKS = (2, 3)
PARTS = {"train": (0.0, 0.6), "validation": (0.6, 0.7), "test": (0.7, 1.0)}
PIECE, STRIDE = 64, 16
"""Turns of an IRC excerpt to train on, and from one to the next.

Whole logs are trained on too: held-out ones are played whole, and a policy that has seen no late turn and no old slot
does not know what to do with one.
"""


class EvidenceCredit(Hindsight):
    """Paid as :class:`~stm_rl.rewards.hindsight.Hindsight` is, but for the evidence of each probe: for labels."""

    def credit(self, transcript: Transcript) -> Uses:
        """Return when each turn is evidence; the probes of a transcript share as much credit as it has steps."""
        uses: Uses = {}
        for probe in transcript.probes:
            value = (len(transcript) - 1) / len(transcript.probes) / len(probe.evidence)
            for turn in probe.evidence:
                uses.setdefault(turn, []).append((probe.turn - 1, value))
        return uses


REWARDS: Mapping[str, Mapping[str | Term, float]] = {
    "hindsight": {"hindsight": 1.0, "write_cost": 0.01, "read_cost": 0.02},
    "evidence": {EvidenceCredit(): 1.0, "write_cost": 0.01, "read_cost": 0.02},
}
"""``hindsight`` looks at text alone; ``evidence`` is told the labels: the supervised reference."""

VALIDATION: Mapping[str, Mapping[str | Term, float]] = {
    "hindsight": {"hindsight[shaped=false]": 1.0},
    "evidence": {EvidenceCredit(shaped=False): 1.0},
}
"""What chooses between checkpoints: the same without shaping and costs."""

PPO = PPOSettings(gamma=0.0, num_envs=64, rollout=64, batch_size=256, validate_every=16, validation_episodes=60)
"""Discount 0: shaped credit pays a write at once, so all that comes later is noise to it."""


CLONE = ImitationSettings(method="bc", loss="regret", round_transcripts=2_000, epochs=5)
"""Expected credit ranks turns better than the credit they got (see the document), so what is cloned is not what the
expert does but what it is worth on average."""


def read_part(data: Path, name: str, part: str) -> list[Transcript]:
    """Return a part of a set, the same ones every time."""
    found = list(read_transcripts(data / SOURCES[name], name))
    if name == "babi":
        found = [transcript for transcript in found if transcript.meta["task"] in BABI_TASKS]
    order = np.random.default_rng(0).permutation(len(found))
    low, high = (round(share * len(found)) for share in PARTS[part])
    return [found[index] for index in sorted(order[low:high].tolist())]


def episodes_of(name: str, transcripts: Sequence[Transcript], ask: bool, whole: bool) -> list[Transcript]:
    """Return what is played in training.

    Args:
        name: The set.
        transcripts: Its transcripts.
        ask: Ask the questions about whole transcripts, as for a policy that is told the labels.
        whole: Play IRC logs whole, and not only in pieces.
    """
    if name == "irc":
        pieces = [piece for log in transcripts for piece in excerpts(log, PIECE, STRIDE)]
        pieces += transcripts if whole else []
        return [piece for piece in pieces if piece.probes] if ask else pieces
    return [transcript.with_questions_asked() for transcript in transcripts] if ask else list(transcripts)


def train(arguments: argparse.Namespace) -> None:
    """Train a policy."""
    ask = arguments.reward == "evidence"
    sets = {
        part: [episodes_of(name, read_part(arguments.data, name, part), ask, part == "train") for name in SOURCES]
        for part in ("train", "validation")
    }
    sources = {part: Mixture(found) for part, found in sets.items()}
    memory = MemorySettings(slots=arguments.slots, window=1, reads=1)
    settings = replace(PPO, **json.loads(arguments.ppo), seed=arguments.seed, steps=arguments.steps)

    def make_env(
        num_envs: int, split: str = "train", autoreset: bool = True, full_context: bool = False, **overrides: Any
    ) -> MemoryVectorEnv:
        transcripts = sources[split] if split == "train" else sources[split][: settings.validation_episodes]
        return MemoryVectorEnv(
            num_envs,
            transcripts,
            settings=replace(memory, full_context=full_context),
            lm=None,
            reward=(VALIDATION if split == "validation" else REWARDS)[arguments.reward],
            encoder=arguments.encoder,
            autoreset=autoreset,
        )

    card = {
        "env": "recall on " + "+".join(SOURCES),
        "settings": {"slots": memory.slots, "window": memory.window, "encoder": arguments.encoder},
        "lm": "none",
        "reward": Reward(REWARDS[arguments.reward]).specs,
        "seed": settings.seed,
        "steps": settings.steps,
    }
    if arguments.resume:
        run = Run.open(arguments.out)
    else:
        run = Run.create(arguments.out, {"card": card, "ppo": settings.as_dict()}, force=arguments.force)

    def report(steps: int, row: dict[str, Any]) -> None:
        if "validation/return" in row:
            print(
                f"{steps:>9,} steps  {row['seconds']:5.0f} s  return {row.get('train/return', 0):6.2f}  "
                f"validation {row['validation/return']:6.2f}  writes {row.get('train/writes_per_turn', 0):.2f}",
                flush=True,
            )

    trainer = PPOTrainer(make_env, settings, run, card, report)
    if arguments.resume:
        trainer.load_checkpoint()
    trainer.train()


def imitate(arguments: argparse.Namespace) -> None:
    """Clone what hindsight says of text alone, without any label."""
    sources = {
        part: Mixture([episodes_of(n, read_part(arguments.data, n, part), False, True) for n in arguments.sets])
        for part in ("train", "validation")
    }
    memory = MemorySettings(slots=arguments.slots, window=1, reads=1)
    reward = VALIDATION["hindsight"]

    def make_env(
        num_envs: int, split: str = "train", autoreset: bool = True, full_context: bool = False, **overrides: Any
    ) -> MemoryVectorEnv:
        options: dict[str, Any] = {"lm": None, "reward": reward, "encoder": arguments.encoder, "autoreset": autoreset}
        return MemoryVectorEnv(num_envs, sources[split], settings=memory, **options)

    settings = replace(CLONE, **json.loads(arguments.imitation), seed=arguments.seed)
    settings = replace(settings, transcripts=len(sources["train"]))
    card = {
        "env": "recall on " + "+".join(arguments.sets),
        "settings": {"slots": memory.slots, "window": memory.window, "encoder": arguments.encoder},
        "lm": "none",
        "reward": Reward(reward).specs,
        "seed": settings.seed,
    }
    run = Run.create(arguments.out, {"card": card, "imitation": settings.as_dict()}, force=arguments.force)

    def report(row: dict[str, Any]) -> None:
        if "validation/return" in row:
            print(f"{row['steps']:>9,} steps  {row['seconds']:5.0f} s  validation {row['validation/return']:6.2f}")

    expert = HindsightExpert(TextLabels(gamma=1.0, end=4.0), level=0.0)
    lessons = partial(make_env, autoreset=False)
    ImitationTrainer(make_env, lessons, expert, settings, run, card, on_progress=report).train()


def report(arguments: argparse.Namespace) -> None:
    """Measure keepers and policies on a part of each set."""
    groups: dict[str, Sequence[Measured]] = dict(keepers())
    oracle = groups.pop("oracle")
    for spec in arguments.agent:
        name, _, folders = spec.partition("=")
        groups[name] = [AgentKeeper.of_policy(PolicyAgent.load(folder, name)) for folder in folders.split(",")]
    groups["oracle"] = oracle
    results = {}
    for name in arguments.sets:
        streams = streams_of(read_part(arguments.data, name, arguments.part))
        results[name] = bench_recall(streams, groups, arguments.slots)
        for budget, agents in results[name].items():
            print(f"\n{name}, {len(streams)} transcripts, {budget} slots: joint, mean (%)")
            for agent, entry in sorted(agents.items(), key=lambda item: item[1]["joint"]["mean"]):
                print(f"  {agent:20s} {'   '.join(map(cell, entry.values()))}", flush=True)
    if arguments.out:
        write_json(arguments.out, results)


def cell(value: Mapping[str, Any]) -> str:
    """Return a share and its interval in percent."""
    low, high = value["ci95"]
    return f"{100 * value['mean']:5.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train a policy")
    command.set_defaults(run=train)
    command.add_argument("--data", type=Path, required=True, help="folder of the sets")
    command.add_argument("--reward", choices=REWARDS, default="hindsight")
    command.add_argument("--encoder", default="words", help="words, words+minilm ...")
    command.add_argument("--slots", type=int, default=4)
    command.add_argument("--steps", type=int, default=300_000)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--ppo", default="{}", help="other PPO settings, as JSON")
    command.add_argument("--out", type=Path, required=True, help="run folder")
    command.add_argument("--resume", action="store_true", help="go on with the run in --out, up to --steps in all")
    command.add_argument("--force", action="store_true", help="move an existing run aside")
    command = commands.add_parser("imitate", help="clone a policy from hindsight labels of text alone")
    command.set_defaults(run=imitate)
    command.add_argument("--data", type=Path, required=True, help="folder of the sets")
    command.add_argument("--sets", nargs="+", choices=SOURCES, default=list(SOURCES), help="sets to learn from")
    command.add_argument("--encoder", default="words512", help="words, words512, words+minilm ...")
    command.add_argument("--slots", type=int, default=4)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--imitation", default="{}", help="other imitation settings, as JSON")
    command.add_argument("--out", type=Path, required=True, help="run folder")
    command.add_argument("--force", action="store_true", help="move an existing run aside")
    command = commands.add_parser("report", help="measure policies and keepers")
    command.set_defaults(run=report)
    command.add_argument("--data", type=Path, required=True, help="folder of the sets")
    command.add_argument("--agent", action="append", default=[], metavar="NAME=FOLDER,FOLDER")
    command.add_argument("--part", choices=PARTS, default="test")
    command.add_argument("--sets", nargs="+", choices=SOURCES, default=list(SOURCES), help="sets to measure on")
    command.add_argument("--slots", type=int, nargs="+", default=[4, 8])
    command.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
