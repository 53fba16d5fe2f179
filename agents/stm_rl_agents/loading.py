"""Reading trained agents of any kind from run folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from stm_rl.extras import check_extra
from stm_rl_agents.policy import PolicyAgent

if TYPE_CHECKING:
    from stm_rl_agents.language.agent import LanguageAgent

Trained: TypeAlias = "PolicyAgent | LanguageAgent"
"""What ``stm-rl train``, ``imitate`` and ``finetune`` make."""
LANGUAGE_CARD = "language.json"
"""The file by which the folder of a language model that decides is known."""
TRL_PACKAGES = ("trl", "peft", "datasets", "accelerate")


def check_trl() -> None:
    """Raise StmError if a package is missing that language models that decide need."""
    check_extra("language models that decide need", TRL_PACKAGES, "trl")


def is_language(folder: str | Path) -> bool:
    """Return whether a folder holds a language model that decides."""
    return (Path(folder) / LANGUAGE_CARD).is_file()


def load_agent(folder: str | Path, device: str = "cpu", dtype: str = "float32") -> Trained:
    """Return the trained agent in a run folder: a slot policy, or a language model that decides.

    Args:
        folder: The run folder.
        device: Torch device of a language model, or ``auto``; slot policies are small and stay on the CPU.
        dtype: Torch dtype of a language model.

    Raises:
        StmError: The folder holds no agent, or a damaged one, or a package that it needs is missing.
    """
    if not is_language(folder):
        return PolicyAgent.load(folder)
    check_trl()
    from stm_rl_agents.language.agent import LanguageAgent

    return LanguageAgent.load(folder, device, dtype)
