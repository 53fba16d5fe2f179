"""Demonstrations as Hugging Face ``datasets``.

``datasets.load_from_disk(folder)`` gives two splits. ``train`` has one row a step: ``episode``, ``step``,
``transcript``, ``observation.<name>``, ``action``, ``action_mask``, ``stakes``, ``reward``, ``terminated`` and
``truncated``. ``final`` has one row an episode: the observation after its last step. The card is JSON in the
description of both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stm_rl.errors import StmError
from stm_rl_agents.demonstrations import DemoEpisode, Demonstrations
from stm_rl_agents.offline.layout import Layout, unpacked

NEEDS = ("datasets",)
"""Modules to be installed."""
STEPS, FINAL = "train", "final"
SEEN = "observation."


def is_one(path: Path) -> bool:
    """Return whether a folder looks like saved datasets."""
    return (path / "dataset_dict.json").is_file()


def write(demonstrations: Demonstrations, layout: Layout, card: Mapping[str, Any], folder: Path) -> None:
    """Write both splits into an empty folder."""
    import datasets
    import pyarrow as pa

    keys = {"episode": datasets.Value("int64"), "step": datasets.Value("int64"), "transcript": datasets.Value("string")}
    seen = {SEEN + name: _feature(datasets, shape) for name, shape in layout.observation.items()}
    done = {
        "action": datasets.List(datasets.Value("int64"), length=layout.parts),
        "action_mask": datasets.List(datasets.Value("bool"), length=layout.parts * layout.choices),
        "stakes": datasets.List(datasets.Value("float32"), length=layout.parts),
        "reward": datasets.Value("float32"),
        "terminated": datasets.Value("bool"),
        "truncated": datasets.Value("bool"),
    }

    def table(split: str, features: dict[str, Any]) -> Any:
        kind = datasets.Features(features)
        info = datasets.DatasetInfo(description=json.dumps(card), features=kind)
        rows = [_rows(number, episode, split) for number, episode in enumerate(demonstrations.episodes)]
        return datasets.Dataset(pa.concat_tables([_table(row, kind.arrow_schema) for row in rows]), info=info)

    with _quiet(datasets):
        both = {STEPS: table(STEPS, keys | seen | done), FINAL: table(FINAL, keys | seen)}
        datasets.DatasetDict(both).save_to_disk(str(folder))


def _feature(datasets: Any, shape: tuple[int, ...]) -> Any:
    """Return the feature for float32 arrays of a shape."""
    if len(shape) == 1:
        return datasets.List(datasets.Value("float32"), length=shape[0])
    if len(shape) == 2:
        return datasets.Array2D(shape, "float32")
    raise StmError(f"an observation has shape {shape}; expected one or two axes")


def _table(columns: Mapping[str, Any], schema: Any) -> Any:
    """Return columns as an Arrow table; many times faster than ``Dataset.from_dict``, which goes through lists."""
    import pyarrow as pa

    def array(values: Any, kind: Any) -> Any:
        if isinstance(kind, pa.ExtensionType):
            return pa.ExtensionArray.from_storage(kind, array(values, kind.storage_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), kind.list_size)
        if pa.types.is_list(kind):
            offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
            return pa.ListArray.from_arrays(offsets, array(values.reshape(-1, *values.shape[2:]), kind.value_type))
        return pa.array(values, kind)

    return pa.table([array(columns[field.name], field.type) for field in schema], schema=schema)


def _rows(number: int, episode: DemoEpisode, split: str) -> dict[str, Any]:
    """Return the columns of one episode in a split."""
    steps = len(episode)
    at = np.arange(steps) if split == STEPS else np.array([steps])
    columns: dict[str, Any] = {
        "episode": np.full(len(at), number),
        "step": at,
        "transcript": [episode.transcript] * len(at),
        **{SEEN + name: value[at] for name, value in episode.observations.items()},
    }
    if split == STEPS:
        last = at == steps - 1
        columns |= {
            "action": episode.actions,
            "action_mask": episode.masks,
            "stakes": episode.stakes,
            "reward": episode.rewards,
            "terminated": last & episode.terminated,
            "truncated": last & (not episode.terminated),
        }
    return columns


def read(path: Path) -> Demonstrations:
    """Read both splits; an episode that is left out of both is not missed."""
    import datasets

    with _quiet(datasets):
        found = datasets.load_from_disk(str(path))
    if missing := [name for name in (STEPS, FINAL) if name not in found]:
        raise StmError(f"{path} has no split {' and '.join(missing)}; expected {STEPS} and {FINAL}")
    card = unpacked(_json(found[STEPS].info.description), str(path))
    steps, final = (found[name].with_format("numpy") for name in (STEPS, FINAL))
    for split in (steps, final):
        split.data.validate(full=True)  # so that no damaged offset leads outside the file
    numbers = np.asarray(steps["episode"][:])
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))[: len(numbers)].tolist()
    if len(starts) != len(final):
        raise ValueError(f"{len(starts)} episodes but {len(final)} last observations")
    ends = [*starts[1:], len(numbers)]
    episodes = [_episode(steps[a:b], final[i : i + 1]) for i, (a, b) in enumerate(zip(starts, ends, strict=True))]
    return Demonstrations(episodes, card)


def _json(text: str) -> Any:
    """Return what a description says, or nothing if it was written by others."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _episode(rows: Mapping[str, Any], final: Mapping[str, Any]) -> DemoEpisode:
    """Return the episode with the given steps and last observation."""
    number, steps = int(rows["episode"][0]), len(rows["step"])
    ended = rows["terminated"] | rows["truncated"]
    if rows["step"].tolist() != list(range(steps)) or not ended[-1] or ended[:-1].any():
        raise ValueError(f"the steps of episode {number} are not whole and in order")
    if (int(final["episode"][0]), int(final["step"][0])) != (number, steps):
        raise ValueError(f"the last observation of episode {number} is missing")
    seen = [name for name in rows if name.startswith(SEEN)]
    return DemoEpisode(
        {name.removeprefix(SEEN): np.concatenate([rows[name], final[name]]) for name in seen},
        rows["action"],
        rows["action_mask"],
        rows["stakes"],
        rows["reward"],
        bool(rows["terminated"][-1]),
        str(rows["transcript"][0]),
    )


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Show no progress bars."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
