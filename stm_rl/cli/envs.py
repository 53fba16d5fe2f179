"""``stm-rl envs``."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
from rich.console import Console
from rich.table import Table


def list_envs(as_json: bool) -> None:
    """Print every registered environment with the first line of its description and the settings of its level."""
    rows = [_row(env_id) for env_id, spec in gym.registry.items() if spec.namespace == "stm_rl"]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("id", style="bold", no_wrap=True)
    table.add_column("what it is; settings of its levels")
    for row in rows:
        is_level = row["id"].count("-") > 1
        settings = " ".join(f"{name}={value}" for name, value in row["settings"].items()) or "the defaults"
        medium = " (medium=audio)" if row["settings"].get("medium") == "audio" else ""
        table.add_row(
            f"  {row['id']}" if is_level else row["id"], settings if is_level else row["description"] + medium
        )
    Console().print(table)


def _row(env_id: str) -> dict[str, Any]:
    spec = gym.spec(env_id)
    described = gym.envs.registration.load_env_creator(str(spec.entry_point))
    return {
        "id": env_id,
        "description": (described.__doc__ or "").strip().splitlines()[0],
        "settings": dict(spec.kwargs),
    }
