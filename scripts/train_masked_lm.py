#!/usr/bin/env python3
"""Train a small masked language model (BERT type) on the procedural worlds, from nothing but word vectors.

It sees what the embedded causal model was trained on (``train_tiny_lm.py``): copy drills first, transcripts later. In
texts that are scored, half of the scored tokens and a tenth of the others are masked, so that the model learns
to look up what was said elsewhere in the text.

    python scripts/train_masked_lm.py --steps 3000 --out runs/masked-base
    python scripts/train_memory_lm.py --type masked --base runs/masked-base
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from train_tiny_lm import Corpus, Progress, batches
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from stm_rl.lm.loading import load_pretrained, source_of

SCORED_RATE, OTHER_RATE = 0.5, 0.02
"""Shares of the scored and of the other tokens that are masked."""
LONGEST = 1024


def new_model(tokenizer: AutoTokenizer, layers: int) -> BertForMaskedLM:
    """Return a model with the embedded model's word vectors, and sinusoids as position vectors."""
    words = load_pretrained(AutoModelForCausalLM, "tiny", "cpu", "float32")[0].get_input_embeddings().weight.detach()
    config = BertConfig(
        vocab_size=len(tokenizer),  # type: ignore[arg-type]
        hidden_size=words.shape[1],
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * words.shape[1],
        max_position_embeddings=LONGEST,
        pad_token_id=tokenizer.pad_token_id,  # type: ignore[attr-defined]
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[: len(words)] = words
        size = words.shape[1] // 2
        angles = torch.arange(LONGEST)[:, None] * 10_000 ** (-torch.arange(size) / size)
        waves = torch.cat([angles.sin(), angles.cos()], 1)
        model.bert.embeddings.position_embeddings.weight.copy_(waves * words.std())
    return model


def masked(ids: Tensor, labels: Tensor, mask_id: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a batch with masks, and the tokens behind them (-100 elsewhere)."""
    rate = torch.where(labels != -100, SCORED_RATE, OTHER_RATE)
    hidden = (torch.rand(ids.shape, generator=generator) < rate) & (ids > 2)  # never the special tokens
    return ids.masked_fill(hidden, mask_id), ids.masked_fill(~hidden, -100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/masked-base"), help="folder to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per batch")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(source_of("tiny"))
    corpus, progress = Corpus(args.seed), Progress()
    corpus.words = [
        word.strip() for word in map(tokenizer.decode, range(259, len(tokenizer))) if word.strip().isalpha()
    ]
    source = batches(corpus, tokenizer, args.tokens, progress)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    model = new_model(tokenizer, args.layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    generator, began = torch.Generator().manual_seed(args.seed), time.monotonic()
    sums = torch.zeros(2, dtype=torch.double)
    for step in range(1, args.steps + 1):
        progress.value = step / args.steps
        rate = args.lr * min(1.0, step / 100) * (0.5 + 0.5 * math.cos(math.pi * progress.value)) + 1e-5
        optimizer.param_groups[0]["lr"] = rate
        whole, scored = next(source)
        ids, labels = masked(whole, scored, tokenizer.mask_token_id, generator)
        hidden = model.bert(input_ids=ids, attention_mask=(whole != tokenizer.pad_token_id).long()).last_hidden_state
        keep = labels != -100
        nats = cross_entropy(model.cls(hidden[keep]), labels[keep], reduction="none")
        answers = nats.detach()[(scored != -100)[keep]]
        sums += torch.tensor([float(answers.sum()), len(answers)])
        optimizer.zero_grad()
        nats.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            spent = time.monotonic() - began
            print(f"step {step:6d}  {progress.value:4.0%}  {sums[0] / sums[1]:.3f} nats  {spent:.0f}s", flush=True)
            sums.zero_()
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
