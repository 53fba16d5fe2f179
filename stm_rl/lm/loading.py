"""Loading Hugging Face models: safetensors weights only, and no code of a model's repository."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from stm_rl.errors import StmError

EMBEDDED = "tiny"
"""Name of the model that ships with the package."""
EMBEDDED_TOOLS = "tiny-tools"
"""Name of the same model after it has learned to call memory tools, where ``stm-rl finetune`` starts."""
PROBLEMS = (OSError, ValueError, RuntimeError, AssertionError, SafetensorError)
"""What transformers raises for models that cannot be found or read, and torch for devices that are not there."""


def load_pretrained(auto_class: Any, name: str | Path, device: str, dtype: str) -> tuple[Any, Any]:
    """Load a model and its tokenizer from the Hugging Face Hub, a local folder, or the package.

    Args:
        auto_class: Which of transformers' auto classes makes the model.
        name: ``tiny`` or ``tiny-tools`` (the embedded models), a folder, or a Hub id such as ``Qwen/Qwen3-0.6B``.
        device: A torch device, or ``auto`` for a GPU if there is one.
        dtype: A torch dtype such as ``float32`` or ``bfloat16``.

    Returns:
        The model on its device, and the tokenizer.

    Raises:
        StmError: The model cannot be found or read, or the device or dtype is unknown.
    """
    torch_dtype = getattr(torch, dtype, None)
    if not isinstance(torch_dtype, torch.dtype):
        raise StmError(f"dtype is {dtype!r}; expected a torch dtype such as float32 or bfloat16")
    source = source_of(name)
    if source != name:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for a file of 2 MB is noise
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model, info = auto_class.from_pretrained(
            source, dtype=torch_dtype, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"it has no weights {missing[0]}; expected a checkpoint with a language model's head")
        return model.to(device_of(device)).eval(), tokenizer
    except PROBLEMS as error:
        raise _cannot_load(name, error) from error


def is_masked(name: str | Path) -> bool:
    """Return whether the model ``name`` is a masked (BERT-type) one, by its configuration.

    Raises:
        StmError: The model cannot be found or read.
    """
    try:
        architectures = AutoConfig.from_pretrained(source_of(name)).architectures or ()
    except PROBLEMS as error:
        raise _cannot_load(name, error) from error
    return any(architecture.endswith(("ForMaskedLM", "ForPreTraining")) for architecture in architectures)


def source_of(name: str | Path) -> str | Path:
    """Return where transformers finds the model ``name``: a folder of the package for the embedded ones."""
    return Path(__file__).parent / name if str(name) in (EMBEDDED, EMBEDDED_TOOLS) else name


def device_of(name: str) -> str:
    """Return a torch device's name, that of a GPU or else the CPU for ``auto``."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def weights_hash(model: Any) -> str:
    """Return a short hash of all weights of a model, with their names, types and shapes."""
    digest = blake2b(digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def _cannot_load(name: str | Path, error: BaseException) -> StmError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return StmError(
        f"cannot load the language model {str(name)!r} ({reason}); give {EMBEDDED!r} for the embedded "
        "model, a folder with config.json, tokenizer.json and model.safetensors, or a Hugging Face id"
    )
