"""Demonstrations as a Minari dataset.

The folder is a root of Minari datasets with one dataset in it, such as ``stm_rl/Dialogue/expert-v0``, so that plain
Minari loads it with ``MINARI_DATASETS_PATH`` set to the folder, or from its data folder wherever it is. Legal actions
(``action_mask``) and ``stakes`` are infos. As infos of Minari do, they have a row for each observation. That of the
last, after which nothing is done, says that only leaving out is legal and that nothing hangs on it.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl_agents.demonstrations import DemoEpisode, Demonstrations
from stm_rl_agents.offline.layout import Layout, unpacked

NEEDS = ("h5py", "minari")
"""Modules to be installed."""
ROOT = "MINARI_DATASETS_PATH"
"""The environment variable that tells Minari where its datasets are."""
METADATA, DATA = "metadata.json", "main_data.hdf5"
CARD_KEY = "stm_rl"
_lock = Lock()


def write(demonstrations: Demonstrations, layout: Layout, card: Mapping[str, Any], folder: Path) -> None:
    """Write a Minari dataset into an empty folder."""
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    def buffer(episode: DemoEpisode) -> EpisodeBuffer:
        ends = np.arange(1, len(episode) + 1) == len(episode)
        nothing = np.tile(np.arange(layout.choices) == 0, layout.parts)
        return EpisodeBuffer(
            observations=dict(episode.observations),
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=ends & episode.terminated,
            truncations=ends & (not episode.terminated),
            infos={
                "action_mask": np.concatenate([episode.masks, nothing[None]]),
                "stakes": np.concatenate([episode.stakes, np.zeros((1, layout.parts), np.float32)]),
            },
        )

    with _root(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"minari\.")  # what may be left unsaid
        dataset = minari.create_dataset_from_buffers(
            dataset_id(card),
            [buffer(episode) for episode in demonstrations.episodes],
            observation_space=layout.observation_space(),
            action_space=layout.action_space(),
            algorithm_name=str(card["source"]),
            description=f"What {card['source']} saw and did in {card['env']}, language model {card['lm']}.",
            requirements=["stm-rl"],
            data_format="hdf5",
        )
    spec = env_spec(card)
    dataset.storage.update_metadata({CARD_KEY: dict(card), **({"env_spec": spec} if spec else {})})
    dataset.storage.update_episode_metadata([{"transcript": one.transcript} for one in demonstrations.episodes])


def read(path: Path) -> Demonstrations:
    """Read the Minari dataset in a folder."""
    from minari.dataset.minari_storage import MinariStorage

    folders = data_folders(path)
    if len(folders) > 1:
        names = ", ".join(str(folder) for folder in folders)
        raise StmError(f"{path} holds {len(folders)} Minari datasets; give one of them: {names}")
    metadata = json.loads((folders[0] / METADATA).read_text(encoding="utf-8"))
    card = unpacked(metadata.get(CARD_KEY), str(path))
    if not {"observation_space", "action_space"} <= metadata.keys():  # Minari would run code that the file names
        raise StmError(f"{path} does not state its spaces; write the demonstrations anew")
    storage = MinariStorage.read(folders[0])
    numbers = range(storage.total_episodes)
    episodes = [
        DemoEpisode(
            found["observations"],
            found["actions"],
            found["infos"]["action_mask"][:-1],
            found["infos"]["stakes"][:-1],
            found["rewards"],
            _ending(found),
            about["transcript"],
        )
        for found, about in zip(storage.get_episodes(numbers), storage.get_episode_metadata(numbers), strict=True)
    ]
    return Demonstrations(episodes, card)


def _ending(found: Mapping[str, Any]) -> bool:
    """Return whether an episode was terminated."""
    terminated: NDArray[np.bool_] = found["terminations"]
    ended = terminated | found["truncations"]
    if len(ended) != len(found["actions"]) or not ended[-1] or ended[:-1].any():
        raise ValueError(f"episode {found['id']} does not end with its last step")
    return bool(terminated[-1])


def data_folders(path: Path) -> list[Path]:
    """Return the folders of Minari data in a folder or below it."""
    return sorted(file.parent for file in path.rglob(METADATA) if (file.parent / DATA).is_file())


def dataset_id(card: Mapping[str, Any]) -> str:
    """Return the id of a dataset, such as ``stm_rl/Dialogue/expert-v0``; what Minari does not allow becomes ``-``."""

    def plain(text: str, otherwise: str) -> str:
        return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:80] or otherwise

    env = re.sub(r"-v\d+$", "", str(card["env"]).rpartition(":")[2].rpartition("/")[2])
    return f"stm_rl/{plain(env, 'env')}/{plain(str(card['source']), 'agent')}-v0"


def env_spec(card: Mapping[str, Any]) -> str | None:
    """Return what ``recover_environment`` of Minari needs, if the environment is one that Gymnasium knows."""
    spec = gym.registry.get(str(card["env"]).rpartition(":")[2])
    if spec is None or not isinstance(spec.entry_point, str):
        return None
    options = {**spec.kwargs, **card["settings"], **card.get("options", {})}
    try:
        return gym.envs.registration.EnvSpec(spec.id, spec.entry_point, kwargs=options).to_json()
    except (TypeError, ValueError):
        return None  # made with objects that cannot be written down


@contextmanager
def _root(folder: Path) -> Iterator[None]:
    """Let Minari work in ``folder``, in this process only."""
    with _lock:
        before = os.environ.get(ROOT)
        os.environ[ROOT] = str(folder.resolve())  # Minari loses itself in relative paths
        try:
            yield
        finally:
            del os.environ[ROOT]
            if before is not None:
                os.environ[ROOT] = before
