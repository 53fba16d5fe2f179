"""What all tests share: the data folder, one torch thread, and the settings of hypothesis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Deadlines and the speed check measure how busy the machine is, not the code.
settings.register_profile(
    "stm-rl",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("stm-rl")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Keep torch on one thread: two are many times slower when the other core is busy."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real transcripts; skip the test where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STM_RL_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"no folder of real transcripts at {folder}; set STM_RL_DATA to one")
    return folder
