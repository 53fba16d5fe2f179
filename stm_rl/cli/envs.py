"""``stm-rl envs``."""

from __future__ import annotations

import json

import gymnasium as gym
from rich.console import Console
from rich.table import Table


def list_envs(as_json: bool) -> None:
    """Print every registered environment with the first line of its description."""
    rows = []
    for name, spec in sorted(gym.registry.items()):
        if spec.namespace == "stm_rl":
            entry = spec.entry_point
            described = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
            rows.append({"id": name, "description": (described.__doc__ or "").strip().splitlines()[0]})
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("id", style="bold", no_wrap=True)
    table.add_column("description")
    for row in rows:
        table.add_row(row["id"], row["description"])
    Console().print(table)
