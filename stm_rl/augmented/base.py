"""The pretrained model that a memory is added to."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from stm_rl.errors import StmError


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
