#!/usr/bin/env python3
"""Make a small masked language model (BERT type) of the embedded causal model, and train it on the procedural worlds.

A small BERT that began with random weights had not learned to copy after 3,000 steps. The embedded model copies
already, by layers that look for what followed the same words before. They are moved into a ModernBERT (rotary
positions, norms before each part), behind a first layer in which a mask takes the place of the token in front of it: a
causal model predicts from there. Training on the texts of ``train_tiny_lm.py``, of which tokens are masked, then
teaches it to look in both directions.

    python scripts/train_masked_lm.py --out runs/masked-base
    python scripts/train_memory_lm.py --base runs/masked-base --steps 100

Prints nats of masked tokens in training and, of held-out drills, at masked tokens of answers with the facts in the text
and without: a model that copies is much better with them.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, layer_norm
from train_tiny_lm import Corpus, Progress, batches
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, ModernBertConfig, ModernBertForMaskedLM

from stm_rl.lm.loading import load_pretrained, source_of

SCORED_RATE, OTHER_RATE = 0.3, 0.03
"""Shares of the scored and of the other tokens that are masked."""
SHARPNESS = 20.0
FASTEST = 4
"""The first layer's attention uses this many frequencies. Places next to the wanted one score less by ``SHARPNESS``
times the sum of ``1 - cos`` of their rotations by one place, which is 0.7."""
COPIED = 4.0
"""What the first layer's attention adds, in units of the word vectors: a mask's own vector weighs a quarter of it."""
DRILLS, DRILL_SEED = 60, 12_345


def transplanted(causal: LlamaForCausalLM, tokenizer: Any) -> ModernBertForMaskedLM:
    """Return a masked model of the layers of a causal one.

    Its norms subtract the mean of a vector first, which is near 0 anyway, and scale all word vectors alike.

    Args:
        causal: A model of Llama's make.
        tokenizer: Its tokenizer with a mask token as the last token.
    """
    old, count = causal.config, causal.config.num_hidden_layers + 1
    assert old.rope_parameters is not None
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=old.hidden_size,
        intermediate_size=old.intermediate_size,
        num_hidden_layers=count,
        num_attention_heads=old.num_attention_heads,
        hidden_activation=old.hidden_act,
        classifier_activation="linear",
        max_position_embeddings=old.max_position_embeddings,
        norm_eps=old.rms_norm_eps,
        attention_bias=True,
        layer_types=["full_attention"] * count,
        rope_parameters={name: dict(old.rope_parameters) for name in ("full_attention", "sliding_attention")},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        cls_token_id=tokenizer.bos_token_id,
        sep_token_id=tokenizer.eos_token_id,
    )
    model = ModernBertForMaskedLM(config).eval()
    with torch.no_grad():
        _start_first_layer(model, causal.get_input_embeddings().weight)
        for layer, given in zip(model.model.layers[1:], causal.model.layers, strict=True):
            _move(layer, given, old.num_attention_heads // old.num_key_value_heads)
        model.head.dense.weight.copy_(torch.eye(old.hidden_size))
        model.head.norm.weight.copy_(causal.model.norm.weight)
    return model


def _start_first_layer(model: ModernBertForMaskedLM, words: Tensor) -> None:
    """Let each token attend to itself, but a mask to the token in front of it, and add the word vector found there."""
    size, embeddings, layer = words.shape[1], model.model.embeddings, model.model.layers[0]
    normed = layer_norm(words, (size,))
    mask = torch.linalg.eigh(normed.T @ normed)[1][:, 1]  # hardly used by words; the norm takes out the very first
    scale = float(words.std(1).mean()) / (1 + COPIED)
    embeddings.tok_embeddings.weight[: len(words)] = words
    embeddings.tok_embeddings.weight[len(words)] = mask * words.norm(dim=1).mean()
    embeddings.norm.weight.fill_(scale)
    # A key that is the same everywhere scores best where its rotation is that of the query.
    frequencies = model.model.rotary_emb.full_attention_inv_freq
    head = 2 * len(frequencies)
    used = (SHARPNESS * head**0.5) ** 0.5 * (torch.arange(len(frequencies)) < FASTEST)
    here = torch.cat([used, torch.zeros_like(used)])
    before = torch.cat([used * frequencies.cos(), -used * frequencies.sin()])
    weight = torch.zeros(3, size // head, head, size)
    weight[0] = (before - here)[:, None] * mask / (scale * size**0.5)
    weight[2] = torch.eye(size).view(-1, head, size)
    bias = torch.zeros(3, size // head, head)
    bias[0], bias[1] = here, here
    layer.attn.Wqkv.weight.copy_(weight.flatten(0, 2))
    layer.attn.Wqkv.bias.copy_(bias.flatten())
    layer.attn.Wo.weight.copy_(COPIED * torch.eye(size))
    layer.mlp.Wo.weight.zero_()


def _move(layer: Any, given: Any, shared: int) -> None:
    """Give a layer the weights of a layer of Llama's make, in which each key belongs to ``shared`` heads."""
    own, head = given.self_attn, given.self_attn.head_dim
    keys, values = (
        part.weight.view(-1, head, part.in_features).repeat_interleave(shared, 0).flatten(0, 1)
        for part in (own.k_proj, own.v_proj)
    )
    layer.attn_norm.weight.copy_(given.input_layernorm.weight)
    layer.attn.Wqkv.weight.copy_(torch.cat([own.q_proj.weight, keys, values]))
    layer.attn.Wo.weight.copy_(own.o_proj.weight)
    layer.mlp_norm.weight.copy_(given.post_attention_layernorm.weight)
    layer.mlp.Wi.weight.copy_(torch.cat([given.mlp.gate_proj.weight, given.mlp.up_proj.weight]))
    layer.mlp.Wo.weight.copy_(given.mlp.down_proj.weight)


def with_words(corpus: Corpus, tokenizer: Any) -> Corpus:
    """Return the corpus with the vocabulary's words for its drills."""
    words = (tokenizer.decode(number).strip() for number in range(259, len(tokenizer)))
    corpus.words = [word for word in words if word.isalpha()]
    return corpus


@torch.no_grad()
def copying(model: ModernBertForMaskedLM, tokenizer: Any, mask_id: int) -> tuple[float, float]:
    """Return nats at masked tokens of answers in held-out drills, with the facts in the text and without."""
    model.eval()
    corpus = with_words(Corpus(DRILL_SEED), tokenizer)
    spent: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in range(DRILLS):
        sample = corpus.drill(0.9)
        pieces = tokenizer([text for text, _ in sample], add_special_tokens=False).input_ids
        ids = torch.tensor([[0, *(token for piece in pieces for token in piece)]])
        answers = [float(scored) for (_, scored), piece in zip(sample, pieces, strict=True) for _ in piece]
        draw = torch.Generator().manual_seed(number)
        hidden = torch.rand(ids.shape, generator=draw) < SCORED_RATE * torch.tensor([[0.0, *answers]])
        for found, first in zip(spent, (1, 1 + len(pieces[0])), strict=True):
            some, here = (torch.cat([part[:, :1], part[:, first:]], 1) for part in (ids, hidden))
            logits = model(input_ids=some.masked_fill(here, mask_id)).logits
            found.append(cross_entropy(logits[here], some[here], reduction="none"))
    return float(torch.cat(spent[0]).mean()), float(torch.cat(spent[1]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/masked-base"), help="folder to write")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per batch")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    causal, tokenizer = load_pretrained(AutoModelForCausalLM, "tiny", "cpu", "float32")
    plain = AutoTokenizer.from_pretrained(source_of("tiny"))
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    model, mask_id = transplanted(causal, tokenizer), tokenizer.mask_token_id
    progress = Progress()
    source = batches(with_words(Corpus(args.seed), plain), plain, args.tokens, progress)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    generator, began, recent = torch.Generator().manual_seed(args.seed), time.monotonic(), 0.0
    near, far = copying(model, plain, mask_id)
    print(f"before training: answers in drills {near:.3f}, without facts {far:.3f}", flush=True)
    for step in range(1, args.steps + 1):
        progress.value = step / args.steps
        rate = args.lr * min(1.0, step / 50) * (0.5 + 0.5 * math.cos(math.pi * progress.value)) + 1e-5
        optimizer.param_groups[0]["lr"] = rate
        whole, scored = next(source)
        share = torch.where(scored != -100, SCORED_RATE, OTHER_RATE)
        hidden = (torch.rand(whole.shape, generator=generator) < share) & (whole > 2)  # never the special tokens
        given, seen = whole.masked_fill(hidden, mask_id), (whole != plain.pad_token_id).long()
        found = model.model(input_ids=given, attention_mask=seen).last_hidden_state[hidden]
        loss = cross_entropy(model.decoder(model.head(found)), whole[hidden])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent += loss.item() / 100
        if step % 100 == 0:
            near, far = copying(model, plain, mask_id)
            drills = f"answers in drills {near:.3f}, without facts {far:.3f}"
            print(f"step {step:6d}  {recent:.3f} nats  {drills}  {time.monotonic() - began:.0f}s", flush=True)
            recent = 0.0
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
