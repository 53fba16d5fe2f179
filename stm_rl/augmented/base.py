"""The pretrained model that a memory is added to."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from stm_rl.errors import StmError
from stm_rl.lm.loading import load_pretrained


def load_base(name: str | Path, masked: bool, device: str, dtype: str) -> tuple[Any, Any]:
    """Load a masked or a causal model and its tokenizer; see :func:`stm_rl.lm.loading.load_pretrained`."""
    return load_pretrained(AutoModelForMaskedLM if masked else AutoModelForCausalLM, name, device, dtype)


def is_masked_model(base: Any) -> bool:
    """Return whether a loaded model is a masked (BERT-type) one."""
    return "MaskedLM" in type(base).__name__


def check_writes_text(masked: bool) -> None:
    """Raise StmError for a masked model, which cannot continue a text."""
    if masked:
        raise StmError("a masked model cannot write text; take a causal (GPT-type) model")


def unmasked(input_ids: Tensor, labels: Tensor) -> Tensor:
    """Return a text whose masks are the tokens that they stand for, by its labels (-100: not masked)."""
    return torch.where(labels != -100, labels, input_ids)


def layers_of(base: Any) -> nn.ModuleList:
    """Return the transformer layers of a model.

    Raises:
        StmError: There is no list of as many modules as the configuration has layers.
    """
    count = base.config.num_hidden_layers
    for module in base.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise StmError(f"{type(base).__name__} has no list of {count} layers; take a transformer (GPT or BERT type)")


def add_lora(base: Any, rank: int) -> Any:
    """Return the model with trainable low-rank changes to its linear layers (Hu et al., LoRA, 2021).

    Raises:
        StmError: ``peft`` is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise StmError("LoRA needs peft; pip install 'stm-rl[augmented]', or set lora to 0") from error
    with warnings.catch_warnings():  # peft asks transformers by a name that has become deprecated
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
