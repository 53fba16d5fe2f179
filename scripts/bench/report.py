"""The figures as JSON, and as tables in a page."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.sides import AT_ONCE, DISK, FIRST, KEPT, KINDER, PLAIN, REPEAT, STEPWISE, Row, Sides, process_peak
from stm_rl.errors import StmError
from stm_rl.files import write_text

PACKAGES = ("stm-rl", "torch", "transformers", "numpy")
BARE = ("bare, logits of targets", "bare, all logits")
RATIOS: dict[str, tuple[str, Sequence[str], str]] = {
    "first sight / plain loop": (FIRST, (PLAIN,), "steps"),
    "first sight / kinder plain loop": (FIRST, (KINDER,), "steps"),
    "repeat epoch / plain loop": (REPEAT, (PLAIN,), "steps"),
    "repeat epoch / kinder plain loop": (REPEAT, (KINDER,), "steps"),
    "repeat epoch from disk / plain loop": (DISK, (PLAIN,), "steps"),
    "engine, all at once / bare": (AT_ONCE, BARE, "tokens"),
    "engine, step by step / bare": (STEPWISE, BARE, "tokens"),
    "engine, all at once / trl": (AT_ONCE, ("trl, fused head", "trl, all logits"), "tokens"),
}
"""Ratios of rates: what, to the fastest of which, and by which count."""
Spread = dict[str, float]
"""The median, the lowest and the highest of all rounds."""


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the range of some values."""
    return {"median": float(np.median(values)), "low": float(min(values)), "high": float(max(values))}


def rate(row: Row, count: str) -> float:
    """Return how much of something a way did in a second."""
    return row[count] / row["seconds"]


def machine(device: str) -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'CPU'} ({len(names) or '?'} processors)"


def summary(sides: Sides) -> dict[str, Any]:
    """Return the medians and ranges of all rounds."""
    rounds = sides.rounds
    ways = {
        name: {
            f"{count}_per_second": spread([rate(row[name], count) for row in rounds])
            for count in ("steps", "scores", "tokens")
            if rounds[0][name].get(count)
        }
        for name in rounds[0]
    }
    ratios = {}
    for name, (what, others, count) in RATIOS.items():
        others = [other for other in others if other in rounds[0]]
        if others:
            ratios[name] = spread([rate(row[what], count) / max(rate(row[o], count) for o in others) for row in rounds])
    shares = {}
    for name in (FIRST, KEPT, REPEAT, DISK):
        rows = [row[name] for row in rounds]
        model = [row["scoring_seconds"] + row["encoding_seconds"] for row in rows]
        shares[name] = {
            "outside_the_model": spread([1 - time / row["seconds"] for time, row in zip(model, rows, strict=True)]),
            "scoring": spread([row["scoring_seconds"] / row["seconds"] for row in rows]),
            "forward_passes": spread([row["lm_seconds"] / row["seconds"] for row in rows]),
            "encoding_turns": spread([row["encoding_seconds"] / row["seconds"] for row in rows]),
            "known_scores": spread([1 - row["computed"] / max(row["requests"], 1) for row in rows]),
        }
        if name in (FIRST, KEPT):
            passed = [row["lm_tokens"] + row["lm_padding"] for row in rows]
            shares[name] |= {
                "padding": spread([row["lm_padding"] / total for row, total in zip(rows, passed, strict=True)]),
                "reused_tokens": spread([row["lm_reused"] / (row["lm_reused"] + row["lm_tokens"]) for row in rows]),
            }
    peaks = {name: round(value / 2**20) for name, value in sides.peaks.items()}
    return {
        "contexts": sides.contexts,
        "ways": ways,
        "not_measured": sides.missing,
        "ratios": ratios,
        "shares": shares,
        "largest_difference_nats": sides.difference,
        "peak_memory_mib": peaks | {"the whole process": round(process_peak() / 2**20)},
        "bare_batch_tokens": sides.budgets,
        "matrix_flops_per_second": spread(sides.matrix_rates),
        "utilisation": {name: spread(sides.utilisation(name)) for name in rounds[0] if "flops" in rounds[0][name]},
        "cores": spread(sides.cores),
        "rounds": rounds,
    }


# Tables.


def table(found: Mapping[str, Any]) -> str:
    """Return the figures of one run as text with tables in Markdown."""
    model, world, contexts = found["model"], found["world"], found["contexts"]
    lines = [
        f"`{found['command']}`, {found['machine']['date']}: {found['machine']['device']}, "
        f"{found['machine']['threads']} thread(s), "
        + ", ".join(f"{name} {number}" for name, number in found["machine"]["versions"].items())
        + f". Model {model['name']} ({model['parameters'] / 1e6:.2f} M parameters) in {model['dtype']}, "
        f"{world['num_envs']} environments {world['env_id']} with {_options(world['options'])}, actions: "
        f"{world['agent']}; contexts with their targets have {contexts['mean_tokens']:.0f} tokens on average and "
        f"{contexts['longest_tokens']:.0f} at most. "
        f"Medians of {len(found['rounds'])} round(s), in which all take turns, and the range.",
        "",
        "| way | environment steps/s | scores/s | tokens/s |",
        "|---|---|---|---|",
    ]
    for name, rates in found["ways"].items():
        cells = [_spread(rates.get(f"{count}_per_second"), ",.0f") for count in ("steps", "scores", "tokens")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"| {name} | {reason} | | |" for name, reason in found["not_measured"].items()]
    lines += ["", "| ratio | |", "|---|---|"]
    lines += [f"| {name} | {_spread(ratio, ',.2f')} |" for name, ratio in found["ratios"].items()]
    first, repeat = found["shares"][FIRST], found["shares"][REPEAT]
    lines += ["", "| share | first sight | repeat epoch |", "|---|---|---|"]
    for name in first:
        lines.append(
            f"| {name.replace('_', ' ')} | {_spread(first[name], '.1%')} | {_spread(repeat.get(name), '.1%')} |"
        )
    peaks = found["peak_memory_mib"]
    lines += [
        "",
        "Peak memory: " + ", ".join(f"{name} {value:,} MiB" for name, value in peaks.items()) + ". "
        f"The scores of all ways differ by {found['largest_difference_nats']:.1e} nats at most. "
        f"The process had {_spread(found['cores'], '.2f')} CPU cores.",
    ]
    matrix = found["matrix_flops_per_second"]["median"]
    lines += [
        "",
        f"Large matrix products of {model['dtype']} run at {matrix / 1e12:.3g} TFLOP/s here; as a share of that, "
        "by the operations of a plain forward pass with logits at targets: "
        + ", ".join(f"{name} {_spread(share, '.1%')}" for name, share in found["utilisation"].items())
        + ".",
    ]
    return "\n".join(lines)


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "default settings"


def _spread(values: Spread | None, form: str) -> str:
    if values is None:
        return "–"
    middle, low, high = (format(values[name], form) for name in ("median", "low", "high"))
    return middle if low == high else f"{middle} ({low}–{high})"


def write_block(page: Path, name: str, text: str) -> None:
    """Put a text between the markers ``<!-- name:begin -->`` and ``<!-- name:end -->`` of a page.

    Raises:
        StmError: The page has no such markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    whole = page.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise StmError(f"{page} has no lines {begin} and {end}; put them where the table shall be")
    write_text(page, f"{before}{begin}\n\n{text}\n\n{end}{after}")
