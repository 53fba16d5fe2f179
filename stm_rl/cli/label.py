"""``stm-rl label``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stm_rl.cli.cache import cache_folder, say_found
from stm_rl.cli.labels import LabelOptions, Labels, label_all, make_labels, prepared
from stm_rl.cli.output import print_json
from stm_rl.cli.progress import counted
from stm_rl.cli.task import TaskRequest, make_task
from stm_rl.cluster import LOCAL, connect, label_on
from stm_rl.errors import StmError
from stm_rl.files import write_json
from stm_rl.labels import TextLabels
from stm_rl.labels.statistics import label_statistics, prefilter_recall, warning
from stm_rl.lm import load_engine
from stm_rl.prepare import Prepared
from stm_rl.rewards import as_reward


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequest(TaskRequest):
    """The command-line values of ``stm-rl label``; see ``stm-rl label --help``."""

    episodes: int
    options: LabelOptions
    ray: str | None = None
    ray_workers: int | None = None


def run_label(request: LabelRequest, *, out: Path, report: Path | None, as_json: bool) -> None:
    """Do what ``stm-rl label`` asks for."""
    torch.set_num_threads(request.threads)
    task = replace(make_task(request), reward=as_reward({"write_cost": 1.0}))  # of no account, and needs no model
    labels = make_labels(task, request.options, out)
    split, count = ("all", None) if task.sets else ("train", request.episodes)
    items = prepared(task, split, count)
    start = time.monotonic()
    try:
        _label(request, labels, items)
    except KeyboardInterrupt:
        print(f"stm-rl: interrupted; the labels so far are in {out}; the same command goes on", file=sys.stderr)
        raise
    seconds = time.monotonic() - start
    settings = task.make(1, split).episodes.settings
    found: dict[str, Any] = {"env": task.name, "labels": labels.card}
    if labels.labeller is None:
        source = labels.source
        assert isinstance(source, TextLabels)
        tables = [source.table(item) for item in items]
    else:
        tables = labels.labeller.label(items)
        found |= {"file": str(out), "scored": labels.labeller.scored, "seconds": round(seconds, 2)}
        found["noise"] = None if labels.noise is None else asdict(labels.noise)
        if request.options.prefilter != "none":
            found["prefilter"] = prefilter_recall(labels.labeller, items, labels.source.level, settings.reads)
    found["statistics"] = label_statistics(items, tables, settings.window, labels.source.level)
    if labels.labeller is not None and (warned := warning(found["statistics"])):
        print(f"stm-rl: {warned}", file=sys.stderr)
    if report is not None:
        write_json(report, found)
    if as_json:
        print_json(found)
    else:
        _print(found)
    say_found(task.engine, as_json)


def _label(request: LabelRequest, labels: Labels, items: Sequence[Prepared]) -> None:
    """Label transcripts, here or on a Ray cluster, with a progress bar."""
    if request.ray is None:
        label_all(labels, items)
        return
    if labels.labeller is None:
        raise StmError("labels from text take no time, so there is nothing to divide; leave --ray out")
    folder = cache_folder(request.cache) if request.ray == LOCAL else None  # several machines cannot share the file
    load = partial(load_engine, request.lm, request.device, request.dtype, folder, request.compile)
    with (
        connect(request.ray, request.device, request.ray_workers, request.threads) as cluster,
        counted("labelling", len(items)) as advance,
    ):
        label_on(cluster, labels.labeller, load, items, advance)


def _print(found: dict[str, Any]) -> None:
    """Print what labels say, for people."""
    numbers = found["statistics"]
    lines = [
        f"{found['env']} · labels from {found['labels']['signal']}",
        f"  {numbers['transcripts']} transcripts, {numbers['turns']} turns, {numbers['pairs']} pairs of turn and step",
    ]
    if "scored" in found:
        lines.append(f"  {found['scored']} pairs scored in {found['seconds']:.1f} s; kept in {found['file']}")
    if noise := found.get("noise"):
        lines.append(
            f"  noise: reads that cannot help gain {noise['mean']:+.2f} nats, standard deviation {noise['std']:.2f}; "
            f"what gains less than {noise['level']:.2f} counts as 0"
        )
    if (kept := found.get("prefilter")) and kept["gain"] is not None:
        lines.append(
            f"  prefilter {found['labels']['pairs']['prefilter']}: {kept['pairs']:.0%} of the pairs hold "
            f"{kept['gain']:.0%} of the gain (all pairs of {kept['transcripts']} transcripts)"
        )
    unit = "nats" if "scored" in found else "of credit"
    lines += [
        f"  memory matters at {numbers['steps_that_gain']:.1%} of steps: {numbers['gain_per_transcript']:.2f} {unit} a "
        "transcript, read one turn at a time",
        f"  {numbers['turns_worth_keeping']:.1%} of turns are worth keeping",
    ]
    if distance := numbers["distance"]:
        low, middle, high = distance
        lines.append(f"  from {middle} turns back (median; 80% lie between {low} and {high})")
    Console().print("\n".join(lines), highlight=False, soft_wrap=True)
