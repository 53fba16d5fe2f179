"""Saving a memory-augmented model: what was added to the base, as safetensors and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from stm_rl.augmented.base import load_base
from stm_rl.augmented.model import MemoryLM
from stm_rl.augmented.settings import MemorySettings
from stm_rl.errors import StmError
from stm_rl.files import reading, write_json, write_tensors

SETTINGS, WEIGHTS, ADAPTER, BASE = "memory.json", "memory.safetensors", "lora", "base"


def save(model: MemoryLM, folder: Path) -> None:
    """Write ``memory.json``, ``memory.safetensors``, ``lora/`` if there is any, and ``base/`` if it has no name."""
    folder.mkdir(parents=True, exist_ok=True)
    added = {name: value for name, value in model.state_dict().items() if not name.startswith("base.")}
    write_tensors(folder / WEIGHTS, added)
    base = model.base
    if model.settings.lora:
        base.save_pretrained(folder / ADAPTER)
        base = base.get_base_model()
    if model.base_name is None:
        state = {name.replace(".base_layer", ""): value for name, value in base.state_dict().items()}
        base.save_pretrained(
            folder / BASE, state_dict={name: value for name, value in state.items() if ".lora_" not in name}
        )
        model.tokenizer.save_pretrained(folder / BASE)
    known = {
        "base": None if model.base_name is None else str(model.base_name),
        "masked": model.masked,
        **model.settings.to_json(),
    }
    write_json(folder / SETTINGS, known)


def load(folder: Path, device: str, dtype: str) -> MemoryLM:
    """Return the model that was saved in ``folder``.

    Raises:
        StmError: The folder or the base model cannot be read.
    """
    if not (folder / SETTINGS).is_file():
        raise StmError(f"{folder} has no {SETTINGS}; expected a folder that MemoryLM.save_pretrained wrote")
    with reading(folder, "save the model again"):
        known = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        name, masked = known.pop("base"), known.pop("masked")
        settings = MemorySettings(**known)
        weights = load_file(folder / WEIGHTS)
    base, tokenizer = load_base(folder / BASE if name is None else name, masked, device, dtype)
    model = MemoryLM(base, tokenizer, settings, name)
    with reading(folder, "save the model again"):
        if settings.lora:
            load_lora(model.base, folder / ADAPTER)
        missing, unknown = model.load_state_dict(weights, strict=False)
        if unknown or any(not entry.startswith("base.") for entry in missing):
            raise ValueError(f"its weights do not fit its settings: {(unknown or missing)[0]}")
    return model.to(base.device, base.dtype).eval()


def load_lora(base: Any, folder: Path) -> None:
    """Load the low-rank changes that were saved in ``folder`` into a model that has room for them."""
    from peft import set_peft_model_state_dict

    result: Any = set_peft_model_state_dict(base, load_file(folder / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise ValueError(f"unknown LoRA weights {result.unexpected_keys[0]}")
