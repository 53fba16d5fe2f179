#!/usr/bin/env python3
"""Teach a small language model the format of memory tool calls, as a start for ``stm-rl finetune``.

Single decisions in states that are made up: slots hold facts of the procedural worlds, facts that have changed since,
distractors and small talk; what has just been said asks about a fact, changes one, states a new one, or needs nothing.
A new fact goes to a free slot, or supersedes what states nothing or has changed. Most words are random at first, so
that the model cannot guess and has to look up in which slot the thing is that a turn is about. Nothing here looks
ahead, and no transcript is played: which facts are worth keeping is left to imitation and reinforcement learning.

    python scripts/train_tool_lm.py --out runs/tool-lm
    stm-rl finetune --method sft --model runs/tool-lm --out runs/sft

It starts from the embedded model. Prints the loss and the share of drills that are right to the
last token, the worth of slots included.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from train_tiny_lm import WORLDS, Corpus

from stm_rl.lm.prompt import line
from stm_rl.worlds.relation import Fact
from stm_rl_agents.language.chat import MOST, Slot, load_policy_model, state_text, text_overlap
from stm_rl_agents.language.demonstrate import QUESTION
from stm_rl_agents.language.sft import IGNORED
from stm_rl_agents.language.tools import Decision

SLOTS = (4, 4, 4, 2, 6, 8)
"""Numbers of slots, as often as listed."""
FULL = 0.5
"""Share of drills whose memory is full."""
WORTH = 3
"""What a fact is worth in drills, nats; nothing else is worth anything."""
POOL = 2048
"""Samples sorted by length at a time."""


@dataclass
class Held:
    """What a slot holds in a drill; ``fact`` is None for what states nothing, or no longer holds."""

    text: str
    fact: Fact | None
    age: int
    taken_up: float


class Drills(Corpus):
    """Endless made-up states with the decision that is right in them."""

    def drill(self, random_words: float) -> tuple[str, Decision, str] | None:
        """Return what a model is shown, what it should do, and what slots and turn are worth; None: try again."""
        world = self.pick(WORLDS)()
        if self.rng.random() < random_words:
            world = self.with_random_words(world, 12)
        script = world.script(self.rng)
        slots = self.pick(SLOTS)
        relations = [self.pick(script.relations) for _ in range(3)]
        full = self.rng.random() < FULL
        held = self._held(script, relations, slots if full else int(self.rng.integers(0, slots + 1)))
        places = self.rng.permutation(slots)[: len(held)].tolist()
        memory: list[Slot | None] = [None] * slots
        facts: dict[int, Fact] = {}
        for place, one in zip(places, held, strict=True):
            reads = int(self.rng.choice(3, p=[0.7, 0.2, 0.1]))
            idle = 1 + int(self.rng.integers(one.age)) if reads else one.age
            memory[place] = Slot(one.text, one.age, idle, reads, one.taken_up)
            if one.fact is not None:
                facts[place + 1] = one.fact
        if self.rng.random() < 0.5:  # what stands before is as often small talk
            script.tell_filler()
        start = len(script.turns)
        found = self._event(script, memory, facts, relations)
        if found is None or len(script.turns) == start:
            return None
        decision, stated = found
        window = [line(turn) for turn in script.turns[max(start - 1, 0) :]][-2:]
        memory = [slot and replace(slot, taken_up_last=text_overlap(slot.text, window[0])) for slot in memory]
        oldest = max((slot.age for slot in memory if slot), default=0)
        worth = [WORTH * (number in facts) for number in range(1, slots + 1)] + [WORTH * stated]
        return state_text(memory, window, oldest + int(self.rng.integers(12))), decision, " ".join(map(str, worth))

    def _held(self, script: Any, relations: Any, count: int) -> list[Held]:
        """Return what some slots hold: facts, a third of them with what they were before, and what states nothing."""
        held: list[Held] = []
        while len(held) < count:
            relation = self.pick(relations)
            fact = Fact(relation, script.new_key(relation), script.entity(relation.value))
            draw, age = self.rng.random(), 1 + int(self.rng.integers(30))
            taken_up = float(self.rng.uniform(0.2, 0.9)) if self.rng.random() < 0.3 else 0.0
            if draw < 0.3:
                script.tell_distractor() if draw < 0.25 else script.tell_filler()
                held.append(Held(line(script.turns[-1]), None, age, taken_up))
            elif all(one.fact is None or one.fact.id != fact.id for one in held):
                turn = script.tell_fact(fact, "message" if draw < 0.5 else "fact")
                held.append(Held(line(script.turns[turn]), fact, age, taken_up))
                if draw > 0.75 and len(held) < count and relation.updates[0]:
                    old = held[-1]
                    turn = script.tell_update(Fact(relation, fact.key, script.entity(relation.value)))
                    now = line(script.turns[turn])
                    held.append(Held(now, fact, 1 + int(self.rng.integers(age)), taken_up))
                    old.fact, old.age = None, age + 1
                    old.taken_up = max(old.taken_up, text_overlap(old.text, now))
        return held

    def _event(
        self, script: Any, memory: list[Slot | None], facts: dict[int, Fact], relations: Any
    ) -> tuple[Decision, bool] | None:
        """Let something be said; return what to do about it, and whether a fact was stated."""
        draw = self.rng.random()
        if draw < 0.35 and facts:
            slot = self.pick(list(facts))
            script.tell_ask((facts[slot],))
            return Decision(reads=(slot,)), False
        if draw < 0.5 and facts:
            slot = self.pick(list(facts))
            old = facts.pop(slot)
            if not old.relation.updates[0]:
                return None
            script.tell_update(Fact(old.relation, old.key, script.entity(old.relation.value)))
            return Decision(slot), True
        relation = self.pick(relations)
        fact = Fact(relation, script.new_key(relation), script.entity(relation.value))
        if any(known.id == fact.id for known in facts.values()):
            return None
        if draw < 0.8:
            turn = script.tell_fact(fact, "fact")
            del script.turns[turn + 1 :]
            idle = {number: slot.idle if slot else MOST + 1 for number, slot in enumerate(memory, 1)}
            worthless = [number for number in idle if number not in facts]
            return (Decision(max(worthless, key=lambda number: idle[number])), True) if worthless else None
        if draw < 0.85:
            script.tell_ask((fact,))  # about what the memory does not hold
        elif draw < 0.95:
            script.tell_distractor()
        else:
            script.tell_filler()
        return Decision(), False

    def drills(self, progress: float) -> Iterator[tuple[str, Decision, str]]:
        """Yield drills for a moment of training (0 at its start, 1 at its end)."""
        random_words = 0.9 if progress < 0.5 else 0.3
        while True:
            try:
                drill = self.drill(random_words)
            except ValueError:  # a world has run out of names
                continue
            if drill is not None:
                yield drill


def encode(tokenizer: Any, text: str, decision: Decision, worth: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a drill and their labels: what the model does, and what it says slots are worth."""
    said: list[Any] = [{"role": "user", "content": text}, decision.message()]
    said += [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": worth}]
    ids: list[int] = []
    labels: list[int] = []
    before = ""
    for count in range(1, 5):
        whole = tokenizer.apply_chat_template(said[:count], add_generation_prompt=count % 2 == 1, tokenize=False)
        new = tokenizer.backend_tokenizer.encode(whole.removeprefix(before), add_special_tokens=False).ids
        ids += new
        labels += [IGNORED] * len(new) if count % 2 else new
        before = whole
    return ids, labels


def batches(drills: Drills, tokenizer: Any, tokens: int, progress: list[float]) -> Iterator[Any]:
    """Yield (ids, labels) padded on the right, about ``tokens`` tokens each, similar lengths together."""
    while True:
        samples = drills.drills(progress[0])
        pool = sorted((encode(tokenizer, *next(samples)) for _ in range(POOL)), key=lambda pair: len(pair[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in pool:
            if (len(groups[-1]) + 1) * len(pair[0]) > tokens:
                groups.append([])
            groups[-1].append(pair)
        drills.rng.shuffle(groups)  # type: ignore[arg-type]
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            yield (
                torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in group]),
                torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in group]),
            )


def deepened(model: Any, layers: int) -> Any:
    """Return a Llama with more layers that computes the same: new ones stand behind the old and add nothing yet.

    A slot is worth what its text, its numbers and what has been said since make it, and a decision compares slots. That
    is more steps than the layers of the embedded model.
    """
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    deep = type(model)(config)
    known = model.state_dict()
    per_old = layers // model.config.num_hidden_layers
    with torch.no_grad():
        for name, tensor in deep.named_parameters():
            before, _, rest = name.partition(".layers.")
            number, _, of_layer = rest.partition(".")
            if not rest:
                tensor.copy_(known[name])
            elif int(number) % per_old == 0:
                tensor.copy_(known[f"{before}.layers.{int(number) // per_old}.{of_layer}"])
            elif of_layer.startswith(("self_attn.o_proj", "mlp.down_proj")):
                tensor.zero_()
    return deep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tool-lm"), help="folder to write")
    parser.add_argument("--base", default="tiny", help="model to start from")
    parser.add_argument("--layers", type=int, default=4, help="a multiple of those of the base")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--tokens", type=int, default=1536, help="tokens per batch")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_policy_model(args.base)
    if args.layers % model.config.num_hidden_layers:
        parser.error(f"--layers is {args.layers}; expected a multiple of {model.config.num_hidden_layers}")
    model = deepened(model, args.layers)
    drills, progress = Drills(args.seed + 1), [0.0]
    words = map(tokenizer.decode, range(259, len(tokenizer)))
    drills.words = [word.strip() for word in words if word.strip().isalpha()]
    source = batches(drills, tokenizer, args.tokens, progress)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    began, log = time.monotonic(), []
    sums = torch.zeros(4, dtype=torch.double)
    for step in range(1, args.steps + 1):
        progress[0] = step / args.steps
        ids, labels = next(source)
        rate = args.lr * min(1.0, step / 100) * (0.5 + 0.5 * math.cos(math.pi * progress[0])) + 1e-5
        optimizer.param_groups[0]["lr"] = rate
        hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
        keep = labels[:, 1:] != -100
        logits, wanted = model.lm_head(hidden[keep]), labels[:, 1:][keep]
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        wrong = torch.zeros_like(keep)
        wrong[keep] = logits.argmax(-1) != wanted
        sums += torch.tensor([loss.item(), 1, (~wrong.any(1)).sum(), len(ids)])
        if step % 100 == 0:
            row = {"step": step, "loss": float(sums[0] / sums[1]), "right": float(sums[2] / sums[3])}
            log.append({name: round(value, 4) for name, value in row.items()})
            spent = time.monotonic() - began
            print(f"step {step:6d}  loss {row['loss']:.3f}  right {row['right']:.1%}  {spent:.0f}s", flush=True)
            sums.zero_()
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    (args.out / "training.json").write_text(json.dumps({"settings": settings, "log": log}, indent=1) + "\n")


if __name__ == "__main__":
    main()
