"""Train a language model with a memory on procedural stories and dialogues, and its baselines on the same data.

    python scripts/train_memory_lm.py --core attention --json runs/memory/attention-0.json
    python scripts/train_memory_lm.py --baseline window --json runs/memory/window-0.json
    python scripts/train_memory_lm.py --baseline full --json runs/memory/full-0.json
    python scripts/train_memory_lm.py --table runs/memory/*.json

Every run sees the same transcripts in the same order for as many steps. ``--baseline none`` is the model with memory,
``window`` the same model without, ``full`` the same model without memory but with all turns as text. Evaluation is on
transcripts of other seeds: nats per turn after the first two (a masked model: of masked tokens only, the same of every
model). The base may be a causal or a masked model; ``train_masked_lm.py`` makes a small masked one:

    python scripts/train_memory_lm.py --base runs/masked-base --core segments --json runs/memory/masked-0.json
    python scripts/train_memory_lm.py --base runs/masked-base --baseline window --json runs/memory/masked-window-0.json
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainingArguments

from stm_rl.augmented import (
    MemoryLM,
    MemorySettings,
    SegmentLM,
    SegmentTrainer,
    TranscriptSet,
    collate,
    start_from_attention,
    transcript_loss,
)
from stm_rl.augmented.base import load_base
from stm_rl.augmented.segments import mask_tokens
from stm_rl.evaluation.statistics import Bootstrap
from stm_rl.lm.loading import is_masked
from stm_rl.worlds import DialogueWorld, StoryWorld

WORLDS = (DialogueWorld(), StoryWorld())
TRAIN_SEED, BASE_SEED, HELD_OUT_SEED = 2**30, 2**31, 2**34
WINDOW = 2
MASK_RATE = 0.3
ALL_TURNS = 10**6
"""The window of a masked model that sees the whole text; a causal one needs a single pass for all turns instead."""
SEGMENTS = "segments"
"""Segment recurrence: the model's own attention over the keys and values of earlier segments, in place of a core."""
SIZES: dict[str, dict[str, Any]] = {"attention": {"history": 257}}
"""Sizes of cores that differ from their own defaults."""


class Collator:
    """Makes batches; for a masked model each with masks of its own."""

    def __init__(self, tokenizer: Any, window: int | None, masked: bool, seed: int) -> None:
        self.tokenizer, self.window, self.masked = tokenizer, window, masked
        self.draw = torch.Generator().manual_seed(seed)

    def __call__(self, items: list[Any]) -> dict[str, Tensor]:
        """Return a batch of transcripts."""
        batch = collate(items, self.tokenizer, self.window)
        if not self.masked:
            return batch
        return mask_tokens(batch, self.tokenizer.mask_token_id, MASK_RATE, self.draw)


@torch.no_grad()
def evaluate(model: MemoryLM | SegmentLM, window: int | None, count: int, batch_size: int) -> dict[str, Any]:
    """Return nats per turn for every held-out transcript, over all turns and over probes' turns."""
    model.eval()
    data = TranscriptSet(WORLDS, model.tokenizer, count, HELD_OUT_SEED)
    make = Collator(model.tokenizer, window, model.masked, 0)
    rows: dict[str, list[float]] = {"turns": [], "probes": [], "tokens": []}
    seconds, segments = 0.0, 0
    for first in range(0, count, batch_size):
        numbers = range(first, min(first + batch_size, count))
        batch = make([data[number] for number in numbers])
        begin = time.process_time()
        _, nats = transcript_loss(model, batch, 10**6)
        seconds += time.process_time() - begin
        segments += nats.shape[0] * nats.shape[1]
        for row, number in enumerate(numbers):
            transcript = data.transcript(number)
            turn, spent = batch["turn"][row].flatten(), nats[row].flatten().double()
            sums = torch.zeros(len(transcript), dtype=torch.double)
            sums.index_add_(0, turn.clamp(min=0), spent * (turn >= 0))
            probes = [probe.turn for probe in transcript.probes if probe.turn >= WINDOW]
            rows["turns"].append(float(sums[WINDOW:].mean()))
            rows["probes"].append(float(sums[probes].mean()) if probes else math.nan)
            rows["tokens"].append(float((batch["labels"][row] != -100).sum()) / len(transcript))
    return {**rows, "ms_per_segment": 1000 * seconds / segments}


def memory_lm(
    base: Any, tokenizer: Any, name: str, core: str, sizes: dict[str, Any], args: argparse.Namespace
) -> MemoryLM:
    """Return a model with a memory, or ``none``, whose adapters start from the base's attention."""
    settings = MemorySettings(
        core=core, core_sizes=sizes, size=args.size, read=args.read, write=args.write, lora=args.lora, heads=args.heads
    )
    model = MemoryLM(base, tokenizer, settings, name)
    if core != "none":
        data = TranscriptSet(WORLDS, tokenizer, 8, BASE_SEED)
        sample = collate([data[number] for number in range(8)], tokenizer, None)
        explained = start_from_attention(model, sample["input_ids"][:, 0, -300:])
        print(f"the memory's vectors explain {explained:.0%} of the hidden states they were written from", flush=True)
    return model


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one model."""
    name, masked = args.base, args.type == "masked"
    window: int | None = WINDOW
    if args.baseline == "full":
        window = ALL_TURNS if masked else None
    base, tokenizer = load_base(name, masked, "cpu", "float32")
    torch.manual_seed(args.seed)
    core = args.core if args.baseline == "none" else "none"
    sizes = json.loads(args.sizes) if args.sizes else SIZES.get(core, {})
    model: MemoryLM | SegmentLM
    if core == SEGMENTS:
        window = 0
        model = SegmentLM(base, tokenizer, lora=args.lora, base_name=name, **sizes)
    else:
        model = memory_lm(base, tokenizer, name, core, sizes, args)
    first = TRAIN_SEED + args.seed * args.steps * args.batch
    options = TrainingArguments(
        output_dir=str(args.out or "runs/memory-lm"),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=args.lr,
        lr_scheduler_type="cosine",
        warmup_steps=min(20, args.steps // 5),
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=max(args.steps // 20, 1),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
        seed=args.seed,
    )
    trainer = SegmentTrainer(
        truncate=args.truncate,
        model=model,
        args=options,
        train_dataset=TranscriptSet(WORLDS, tokenizer, args.steps * args.batch, first),
        data_collator=Collator(tokenizer, window, masked, args.seed),
    )
    begin = time.process_time()
    if args.steps:
        trainer.train()
    seconds = time.process_time() - begin
    if args.out:
        model.save_pretrained(args.out)
    scores = evaluate(model, window, args.held_out, args.batch)
    known = {key: value for key, value in vars(args).items() if key not in ("out", "json", "table")}
    return {**known, **scores, "sizes": sizes, "trained": model.trained(), "seconds": round(seconds, 1)}


def table(paths: list[Path]) -> str:
    """Return the runs in ``paths`` as a Markdown table, seeds together, with 95 % bootstrap intervals.

    Gains over the window are paired: the same seeds, transcripts and masks.
    """
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    groups: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for run in runs:
        how = "" if run["core"] == SEGMENTS else f", {run['read']}, {run['write']}"
        label = f"{run['core']}{how}" if run["baseline"] == "none" else run["baseline"]
        groups.setdefault((run["type"], label), {})[run["seed"]] = run
    lines = [
        "| type | model | seeds | nats a turn | of probes' turns | share recovered | gain a turn | gain at probes "
        "| trained | ms a segment |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (kind, label), seeds in sorted(groups.items()):
        found, window = [seeds[seed] for seed in sorted(seeds)], groups.get((kind, "window"), {})
        both = [] if label == "window" else [seed for seed in sorted(seeds) if seed in window]
        turns, probes = (interval(np.array([run[name] for run in found])) for name in ("turns", "probes"))
        gain, near = (
            interval(np.array([np.subtract(window[seed][name], seeds[seed][name]) for seed in both])) if both else "–"
            for name in ("turns", "probes")
        )
        lines.append(
            f"| {kind} | {label} | {len(found)} | {turns} | {probes} | {recovered(groups, kind, seeds)} "
            f"| {gain} | {near} | {found[0]['trained']:,} | {np.mean([run['ms_per_segment'] for run in found]):.2f} |"
        )
    return "\n".join(lines)


def interval(values: np.ndarray) -> str:
    """Return the mean of values of shape (seeds, transcripts) with its interval; NaN where there is none."""
    known = ~np.isnan(values)
    entry = Bootstrap(values.shape[1]).interval(np.nan_to_num(values), known.astype(float))
    return f"{entry['mean']:.3f} [{entry['ci95'][0]:.3f}, {entry['ci95'][1]:.3f}]"


def recovered(groups: dict[Any, Any], kind: str, seeds: dict[int, dict[str, Any]]) -> str:
    """Return the share of the full context's advantage over the window that a model has, with its interval."""
    window, full = groups.get((kind, "window"), {}), groups.get((kind, "full"), {})
    shared = sorted(set(seeds) & set(window) & set(full))
    if not shared:
        return "–"
    low, own, high = (np.array([some[seed]["turns"] for seed in shared]) for some in (window, seeds, full))
    entry = Bootstrap(low.shape[1]).interval(low - own, low - high)
    return f"{entry['mean']:.1%} [{entry['ci95'][0]:.1%}, {entry['ci95'][1]:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", default="attention", help="name of a memory in stm_rl.memory.CORES, or segments")
    parser.add_argument("--sizes", default="", help="keyword sizes of the core as JSON")
    parser.add_argument("--size", type=int, default=192, help="numbers in the core's output")
    parser.add_argument("--read", default="adapters", choices=["adapters", "prompt"])
    parser.add_argument("--write", default="tokens", choices=["tokens", "pooled"])
    parser.add_argument("--base", default="tiny", help="tiny, a folder or a Hugging Face id")
    parser.add_argument("--baseline", default="none", choices=["none", "window", "full"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--batch", type=int, default=8, help="transcripts")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--lora", type=int, default=8, help="rank; 0: the base is frozen")
    parser.add_argument("--heads", type=int, default=0, help="of an adapter; 0: as many as the base has")
    parser.add_argument("--truncate", type=int, default=20, help="segments that the gradient goes back")
    parser.add_argument("--held-out", type=int, default=100, help="transcripts to evaluate on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder to save the model in")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--table", type=Path, nargs="+", help="results to print as a table; nothing is trained")
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    args.type = "masked" if is_masked(args.base) else "causal"
    torch.set_num_threads(args.threads)
    result = train(args)
    print(
        f"{np.mean(result['turns']):.3f} nats per turn, {np.nanmean(result['probes']):.3f} at probes, "
        f"{result['trained']:,} trained parameters, {result['ms_per_segment']:.2f} ms per segment, "
        f"{result['seconds']} s of training"
    )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
