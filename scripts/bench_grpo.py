#!/usr/bin/env python3
"""Say where a step of same-state GRPO spends its time, and how much faster it is with shared prompts run once.

Both ways take turns in the same process and learn from the same states: as TRL does, every completion behind a prompt
of its own; and ours, with the prompt of a group run once. A step draws completions, plays on from them, and learns.

    python scripts/bench_grpo.py --json docs/bench_grpo_cpu.json
    python scripts/bench_grpo.py --random qwen3-0.6b --peft lora --device cuda --dtype bfloat16 --json bench.json

`--random` takes a model of that size with random weights, which writes as many tokens as it may.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl import GRPOTrainer

from stm_rl.cli.labels import LabelOptions, make_expert, make_labels
from stm_rl.cli.task import Task
from stm_rl.files import write_json
from stm_rl.lm import load_engine
from stm_rl.rewards import as_reward
from stm_rl_agents.language.agent import LanguageAgent
from stm_rl_agents.language.chat import load_policy_model
from stm_rl_agents.language.grpo import SameStateTrainer, grpo_trainer
from stm_rl_agents.language.returns import Playout
from stm_rl_agents.language.rewards import StateReturns
from stm_rl_agents.language.settings import GRPO, make_settings
from stm_rl_agents.language.visits import state_rows, unsure, visits_of

SHARED, EACH = WAYS = ("prompts run once", "every completion by itself")
RANDOM = {
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
    "qwen3-tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
}
HEADS = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
PARTS = ("draw", "play", "learn")


def random_model(size: str, folder: Path) -> Path:
    """Write a model of random weights that calls tools in our format, and return its folder."""
    _, tokenizer = load_policy_model("tiny-tools")
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=151_936, tie_word_embeddings=True, **RANDOM[size], **HEADS)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Clock:
    """Adds up the time of parts of steps."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does what ``call`` does, and adds its time to a part."""

        def timed(*args: Any, **options: Any) -> Any:
            before = self.now()
            found = call(*args, **options)
            self.seconds[part] += self.now() - before
            return found

        return timed

    def now(self) -> float:
        """Return seconds, when all that was asked of the device is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def train(way: str, model: Any, tokenizer: Any, rows: Any, returns: StateReturns, args: argparse.Namespace) -> Clock:
    """Make some steps and return their times; those of the first step are left out."""
    peft = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM") if args.peft == "lora" else None
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "max_steps": args.steps + 1,
            "per_device_train_batch_size": args.batch,
            "num_generations": args.generations,
            "max_completion_length": args.tokens,
            "save_strategy": "no",
            "logging_steps": 1000,
            "use_cpu": args.device == "cpu",
            "bf16": args.dtype == "bfloat16",
        }
        options = make_settings(GRPO, given={"trl": options}).options(Path(folder))
        trainer = grpo_trainer(copy.deepcopy(model), tokenizer, rows, returns, peft, **options)
        if way == EACH:
            for name in ("_generate_single_turn", "_get_per_token_logps_and_entropies"):
                setattr(trainer, name, MethodType(getattr(GRPOTrainer, name), trainer))
        clock = Clock(args.device)
        trainer._generate_single_turn = clock.timed("draw", trainer._generate_single_turn)
        trainer._calculate_rewards = clock.timed("play", trainer._calculate_rewards)
        step, whole = trainer.training_step, Clock(args.device)
        trainer.training_step = whole.timed("learn", step)
        _forget_first(trainer, clock, whole)
        trainer.train()
        clock.seconds["learn"] = whole.seconds["learn"] - clock.seconds["draw"] - clock.seconds["play"]
        return clock


def _forget_first(trainer: SameStateTrainer, *clocks: Clock) -> None:
    step, done = trainer.training_step, []

    def training_step(*args: Any, **options: Any) -> Any:
        found = step(*args, **options)
        if not done:
            done.append(True)
            for clock in clocks:
                clock.seconds = dict.fromkeys(PARTS, 0.0)
        return found

    trainer.training_step = training_step


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-tools", help="model that decides, a Hugging Face id or a folder")
    parser.add_argument(
        "--random", choices=sorted(RANDOM), help="take a model of this size with random weights instead"
    )
    parser.add_argument("--peft", choices=("none", "lora"), default="none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--lm", default="tiny", help="model that scores")
    parser.add_argument("--transcripts", type=int, default=24, help="transcripts that states are taken from")
    parser.add_argument("--steps", type=int, default=10, help="steps of each way in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="completions of a step")
    parser.add_argument("--generations", type=int, default=4, help="completions of a state")
    parser.add_argument("--tokens", type=int, default=32, help="most tokens of a completion")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        source = random_model(args.random, Path(folder)) if args.random else args.model
        model, tokenizer = load_policy_model(source, args.device, args.dtype)
    task = Task("stm_rl/Dialogue-v0", "stm_rl/Dialogue-v0", load_engine(args.lm, args.device, args.dtype), {})
    expert = make_expert(make_labels(task, LabelOptions(noise_level=1.5)))
    unscored = Task(task.name, task.env, None, {}, reward=as_reward({"write_cost": 1.0}))
    env = unscored.make(min(args.transcripts, 64), autoreset=False)
    agent = LanguageAgent(copy.deepcopy(model), tokenizer, max_new_tokens=args.tokens)
    states = unsure(expert, env, visits_of(agent, env, range(args.transcripts)))
    rows = state_rows(states, (args.steps + 1) * args.batch, np.random.default_rng(0))
    returns = StateReturns(Playout(lambda n: task.make(n, autoreset=False), expert, valuer=expert), tokenizer, (4,))
    seconds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(args.rounds):
        for way in WAYS if number % 2 else WAYS[::-1]:
            seconds[way].append(train(way, model, tokenizer, rows, returns, args).seconds)
    report = report_of(seconds, args)
    print(json.dumps(report, indent=1))
    if args.json:
        write_json(args.json, report)


def report_of(seconds: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures: medians of rounds, and of the ratios of a round."""
    total = {way: np.array([sum(one.values()) for one in rounds]) for way, rounds in seconds.items()}
    parts = {way: {part: np.array([one[part] for one in rounds]) for part in PARTS} for way, rounds in seconds.items()}
    gpu = torch.cuda.get_device_name() if args.device != "cpu" else None
    return {
        "command": {name: str(value) for name, value in vars(args).items() if name != "json"},
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "gpu": gpu},
        "seconds_a_step": {
            way: {part: round(float(np.median(values)) / args.steps, 4) for part, values in parts[way].items()}
            for way in WAYS
        },
        "completions_per_second": {
            way: round(float(np.median(args.steps * args.batch / total[way])), 1) for way in WAYS
        },
        "ratio": {
            "step": spread(total[EACH] / total[SHARED]),
            **{part: spread(parts[EACH][part] / parts[SHARED][part]) for part in ("draw", "learn")},
        },
    }


def spread(values: np.ndarray) -> list[float]:
    """Return median, least and greatest."""
    return [round(float(value), 2) for value in (np.median(values), values.min(), values.max())]


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
