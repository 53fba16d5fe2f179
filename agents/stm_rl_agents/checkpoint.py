"""Network and optimizer as plain tensors, so that loading a checkpoint runs no code."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Optimizer


def packed(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the state of a network and of its optimizer as tensors by name, for a safetensors file."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return tensors


def unpack(tensors: Mapping[str, Tensor], network: nn.Module, optimizer: Optimizer) -> None:
    """Load what :func:`packed` returned into a network and its optimizer."""
    prefix = "network."
    network.load_state_dict(
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    )
    state = optimizer.state_dict()
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(state)
