"""Losses of labelled tokens only, on every device."""

from __future__ import annotations

from typing import Any

import trl.trainer.utils


def score_labelled_only() -> None:
    """Let TRL's fused heads project only the tokens that are trained on; on a CPU they would project all.

    TRL 1.16 leaves the others out on GPUs, where its kernels run, and pads to fixed shapes elsewhere, for devices that
    compile each shape. A decision is a tenth of its conversation, so that a CPU trains four times as fast without them.
    """
    known: Any = trl.trainer.utils
    on_gpu = known._use_triton
    if getattr(on_gpu, "also_on_cpu", False):
        return

    def compact(device: Any) -> bool:
        return bool(device.type == "cpu" or on_gpu(device))

    compact.also_on_cpu = True  # type: ignore[attr-defined]
    known._use_triton = compact
