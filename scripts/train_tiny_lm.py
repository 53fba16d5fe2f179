#!/usr/bin/env python3
"""Train the language model that ships with stm-rl, from nothing, on the procedural worlds.

A model that only reads ordinary transcripts never learns to copy from its memory in the minutes a
small model may cost. So training starts with *copy drills*: many facts about random words, then
questions about them, where frequencies say nothing and copying everything. The share of drills then
falls and transcripts of the worlds, laid out exactly as the scoring engine lays them out, take over:
with the needed turn in memory, with unneeded, outdated or foreign turns, or with none. Those teach
the model to leave alone what does not matter.

    python scripts/train_tiny_lm.py --steps 9000 --out stm_rl/lm/tiny

Steps, not minutes, make the schedule, so a run can be repeated. Prints the loss as it goes and writes
model.safetensors, config.json, tokenizer files and training.json (settings, losses) every 1,000 steps.
``scripts/eval_tiny_lm.py`` measures what was learned.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stm_rl.lm.prompt import PromptFormat, line, target
from stm_rl.transcript import Probe, Transcript, Turn
from stm_rl.worlds import DialogueWorld, RecallWorld, ScreenplayWorld, ScriptWorld, StoryWorld
from stm_rl.worlds.lexicon import Pool
from stm_rl.worlds.relation import Fact

FORMAT = PromptFormat()
WORLDS = (DialogueWorld, StoryWorld, ScreenplayWorld, RecallWorld)
POOL = 4000
"""Transcripts kept at a time."""
Sample = list[tuple[str, bool]]
"""Pieces of text in order, each with whether its tokens are scored."""


class Corpus:
    """Endless training samples."""

    def __init__(self, seed: int, window: int = 2) -> None:
        self.rng = np.random.default_rng(seed)
        self.window = window
        self.words: list[str] = []
        self.transcripts: list[Transcript] = []

    def pick(self, options: list | tuple):  # type: ignore[no-untyped-def,type-arg]
        """Return one of ``options``."""
        return options[int(self.rng.integers(len(options)))]

    def random_word(self) -> str:
        """Return a piece of the vocabulary, a number or a made-up word."""
        draw = self.rng.random()
        if self.words and draw < 0.5:
            return str(self.pick(self.words))
        if draw < 0.6:
            return str(int(self.rng.integers(10, 1000)))
        vowels, consonants = "aeiou", "bcdfghjklmnprstvwz"
        word = "".join(self.pick(consonants) + self.pick(vowels) for _ in range(int(self.rng.integers(1, 4))))
        word += self.pick(consonants) if self.rng.random() < 0.5 else ""
        return word.capitalize() if self.rng.random() < 0.4 else word

    def with_random_words(self, world: ScriptWorld, size: int) -> ScriptWorld:
        """Return the world with a lexicon of random words."""
        words = {name: tuple(dict.fromkeys(self.random_word() for _ in range(size))) for name in world.lexicon}
        return replace(world, lexicon={name: Pool(pool, pool) for name, pool in words.items()})

    def transcript(self, random_words: float) -> Transcript:
        """Return a transcript from a rolling pool, so that generating never is the bottleneck."""
        if len(self.transcripts) < POOL or self.rng.random() < 0.05:
            plain = self.pick(WORLDS)()
            least, most = plain.min_gap, plain.max_gap
            world = replace(
                plain,
                turns=2 * int(self.rng.integers(12, 30)),
                min_gap=int(self.rng.integers(max(2, least // 2), least + 1)),
                max_gap=int(self.rng.integers((least + most) // 2, most + 3)),
                distractor_rate=plain.distractor_rate * float(self.rng.uniform(0.5, 1.3)),
                chat_rate=float(self.rng.uniform(0.03, max(0.15, plain.chat_rate))),
            )
            if self.rng.random() < random_words:
                world = self.with_random_words(world, 40)
            transcript = world.generate(int(self.rng.integers(2**40, 2**60)))
            if len(self.transcripts) < POOL:
                self.transcripts.append(transcript)
            else:
                self.transcripts[int(self.rng.integers(POOL))] = transcript
        return self.pick(self.transcripts)

    def drill(self, random_words: float) -> Sample:
        """Facts in memory, then what calls for them; only the answers are scored."""
        world: ScriptWorld = self.pick(WORLDS)()
        if self.rng.random() < random_words:
            world = self.with_random_words(world, 12)
        script = world.script(self.rng)
        relations = [self.pick(script.relations) for _ in range(3)]
        facts: dict[str, Fact] = {}
        lines: list[str] = []
        for _ in range(int(self.rng.integers(1, 9))):
            relation = self.pick(relations)
            fact = Fact(relation, script.new_key(relation), script.entity(relation.value))
            draw = self.rng.random()
            if draw < 0.15:
                script.tell_distractor()
                turn = max(i for i, told in enumerate(script.turns) if told.meta["kind"] == "distractor")
            elif fact.id in facts:
                if not relation.updates[0]:
                    continue
                turn = script.tell_update(fact)
                facts[fact.id] = fact
            else:
                hedge = bool(relation.hedged[0]) and draw > 0.8
                turn = script.tell_fact(fact, "message" if draw < 0.3 else "hedge" if hedge else "fact")
                facts[fact.id] = fact
            lines.append(line(script.turns[turn]))
        sample: Sample = [("".join(f"{FORMAT.read_prefix}{text}\n" for text in lines), False)]
        asked = list(facts.values())
        self.rng.shuffle(asked)  # type: ignore[arg-type]
        for fact in asked:
            start = len(script.turns)
            script.tell_ask((fact,))
            answer = script.tell_answer((fact,))
            turn = script.turns[answer]
            sample.append((FORMAT.context([], map(line, script.turns[start:answer]), turn.speaker), False))
            sample.append((f"{target(turn)}\n", True))
        return sample

    def scored_turn(self, random_words: float) -> Sample:
        """One turn to predict, laid out as in an episode."""
        transcript = self.transcript(random_words)
        probe: Probe | None = None
        if transcript.probes and self.rng.random() < 0.6:
            probe = self.pick(transcript.probes)
            index = probe.turn
        else:
            index = int(self.rng.integers(1, len(transcript)))
        start = max(0, index - self.window)
        needed = {e for e in probe.evidence if e < start} if probe else set()
        past = [i for i in range(start) if i not in needed and transcript.turns[i].writable]
        stale = [i for i in (probe.stale if probe else ()) if i < start]
        reads: list[Turn] = []
        draw = self.rng.random()
        if probe and draw < 0.55:
            chosen = sorted(needed)
            if len(chosen) > 1 and self.rng.random() < 0.3:
                chosen = [self.pick(chosen)]
            if stale and self.rng.random() < 0.5:
                chosen.append(self.pick(stale))
            elif past and self.rng.random() < 0.4:
                chosen.append(self.pick(past))
            reads = [transcript.turns[i] for i in sorted(set(chosen))]
        elif probe and stale and draw < 0.75:
            reads = [transcript.turns[self.pick(stale)]]
        elif draw < 0.9:
            source = past
            if self.rng.random() < 0.5:  # what an agent would rather keep than small talk
                source = [i for i in past if "facts" in transcript.turns[i].meta]
            count = min(len(source), 1 + (self.rng.random() < 0.4) + (self.rng.random() < 0.15))
            chosen = sorted(int(i) for i in self.rng.choice(source, count, replace=False)) if count else []
            reads = [transcript.turns[i] for i in chosen]
            if self.rng.random() < 0.3:
                other = self.transcript(random_words)
                reads.append(other.turns[int(self.rng.integers(len(other)))])
        turn = transcript.turns[index]
        context = FORMAT.context(map(line, reads), map(line, transcript.turns[start:index]), turn.speaker)
        return [(context, False), (target(turn) + "\n", True)]

    def whole(self, random_words: float) -> Sample:
        """A stretch of a transcript, every turn scored."""
        transcript = self.transcript(random_words)
        start = int(self.rng.integers(0, max(1, len(transcript) - 20)))
        stretch = transcript.turns[start : start + int(self.rng.integers(6, 60))]
        sample: Sample = []
        for turn in stretch:
            sample += [(FORMAT.context([], [], turn.speaker), False), (f"{target(turn)}\n", True)]
        return sample

    def samples(self, progress: float) -> Iterator[Sample]:
        """Yield samples for a moment of training (0 at its start, 1 at its end)."""
        random_words = 0.9 if progress < 0.4 else 0.3
        drills = 0.8 if progress < 0.25 else (0.4 if progress < 0.5 else 0.1)
        whole = 0.0 if progress < 0.5 else 0.08
        while True:
            draw = self.rng.random()
            if draw < drills:
                yield self.drill(random_words)
            elif draw < drills + whole:
                yield self.whole(random_words)
            else:
                yield self.scored_turn(random_words)


def train_tokenizer(corpus: Corpus, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train byte-level byte-pair encoding on transcripts, with a tenth of random words in them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Split(Regex(r" ?\p{L}+(?:'\p{L}+)?:?| ?\p{N}|:| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [
        FORMAT.context(map(line, t.turns[:5]), map(line, t.turns), "user")
        for t in (corpus.transcript(0.1) for _ in range(POOL))
    ]
    special = ["<s>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=1024,
    )


def batches(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tokens: int, progress: Progress) -> Iterator:  # type: ignore[type-arg]
    """Yield (ids, labels) padded on the right, about ``tokens`` tokens each, similar lengths together."""
    backend = tokenizer.backend_tokenizer
    pool: list[tuple[list[int], list[int]]] = []
    while True:
        while len(pool) < 2048:
            samples = corpus.samples(progress.value)
            chunk = [next(samples) for _ in range(1024)]
            encoded = iter(
                backend.encode_batch([text for sample in chunk for text, _ in sample], add_special_tokens=False)
            )
            for sample in chunk:
                ids, labels = [0], [-100]
                for _, scored in sample:
                    piece = next(encoded).ids
                    ids += piece
                    labels += piece if scored else [-100] * len(piece)
                pool.append((ids[:640], labels[:640]))
        pool.sort(key=lambda pair: len(pair[0]))
        groups, group = [], []
        for pair in pool:
            if group and (len(group) + 1) * len(pair[0]) > tokens:
                groups.append(group)
                group = []
            group.append(pair)
        pool = group
        corpus.rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            yield (
                torch.tensor([ids + [2] * (width - len(ids)) for ids, _ in group]),
                torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in group]),
            )


@dataclass(slots=True)
class Progress:
    """Share of the steps that are done, 0 to 1."""

    value: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("stm_rl/lm/tiny"), help="folder to write")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=3072)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--tokens", type=int, default=6144, help="tokens per batch")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    corpus = Corpus(args.seed)
    tokenizer = train_tokenizer(corpus, args.vocabulary)
    corpus.words = [
        word.strip() for word in map(tokenizer.decode, range(259, len(tokenizer))) if word.strip().isalpha()
    ]
    corpus.transcripts.clear()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        intermediate_size=args.width * 2,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads // 2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    progress, began = Progress(), time.monotonic()
    average, log = None, []
    source = batches(corpus, tokenizer, args.tokens, progress)
    for step in range(1, args.steps + 1):
        done = progress.value = step / args.steps
        ids, labels = next(source)
        rate = args.lr * min(1.0, step / 100) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-5
        for group in optimizer.param_groups:
            group["lr"] = rate
        hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
        keep = labels[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[keep]), labels[:, 1:][keep])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if step % 200 == 0:
            log.append({"step": step, "loss": round(average, 4)})
            print(
                f"step {step:6d}  {done:4.0%}  loss {average:.3f}  {time.monotonic() - began:.0f}s",
                flush=True,
            )
        if step % 1000 == 0:
            save(model, tokenizer, args, log)
    save(model, tokenizer, args, log)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace, log: list) -> None:  # type: ignore[type-arg]
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    (args.out / "training.json").write_text(json.dumps({"settings": settings, "log": log}, indent=1) + "\n")


if __name__ == "__main__":
    main()
