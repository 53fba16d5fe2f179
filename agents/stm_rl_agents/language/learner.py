"""A language model under training: plain or with low-rank additions, from checkpoint to checkpoint."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from stm_rl.errors import StmError
from stm_rl.files import reading, saved, write_json, write_tensors
from stm_rl_agents.language.agent import MODEL, LanguageAgent
from stm_rl_agents.language.chat import has_template, load_policy_model
from stm_rl_agents.language.settings import LORA, SFT, FinetuneSettings

ADAPTER = "adapter"
"""In a run folder: the low-rank additions by themselves."""
BEST = "best"
"""In the folder of checkpoints: what is trained, as validation found it best."""


class Learner:
    """A model, and what is trained of it.

    Args:
        settings: How it is trained.
        init: Folder of a run to start from; None: start from ``settings.model``.
        device: Where it decides; TRL's trainers put it where they want it.

    Raises:
        StmError: The model has learned no tool calls yet, and the method needs them.
    """

    def __init__(self, settings: FinetuneSettings, init: Path | None, device: str) -> None:
        self.settings, self.device = settings, device
        self.source = str(init / MODEL) if init else settings.model
        self.model, self.tokenizer = load_policy_model(self.source, device, settings.model_dtype)
        self.is_new = init is None and not has_template(self.source)
        if settings.method != SFT and self.is_new:
            raise StmError(
                f"{settings.method} needs a model that can call tools already, and {settings.model!r} has learned "
                "none; finetune it with --method sft first, and give the folder of that run as --init"
            )

    def agent(self, model: Any = None, seed: int = 0) -> LanguageAgent:
        """Return the agent that the model is now.

        Args:
            model: The model as a trainer has it, if one has.
            seed: Seeds decisions that are drawn.
        """
        model = self.model if model is None else model
        temperature = self.settings.trl.get("temperature", 1.0)  # as TRL draws
        return LanguageAgent(model, self.tokenizer, name=self.settings.method, seed=seed, temperature=temperature)

    def train(
        self, make_trainer: Callable[..., Any], folder: Path, make_callback: Callable[[int], TrainerCallback]
    ) -> int:
        """Train, from the last checkpoint in a folder if there is one; return the steps done in all.

        Args:
            make_trainer: Makes one of TRL's trainers of a model, a tokenizer and options.
            folder: TRL's checkpoints.
            make_callback: Makes the callback of the training, which goes on after so many steps.
        """
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None  # type: ignore[no-untyped-call]
        if last is not None:
            done, total = steps_of(Path(last))
            if done >= total:  # a trainer would make a step more
                self._load(last)
                return done
        peft_config = None if isinstance(self.model, PeftModel) else self._peft_config()
        options = self.settings.options(folder)
        try:
            trainer = make_trainer(self.model, self.tokenizer, peft_config=peft_config, **options)
        except (ValueError, TypeError, ImportError) as error:
            raise StmError(f"TRL refuses these settings ({error}); change them under trl in --config") from error
        trainer.remove_callback(PrinterCallback)  # it would print to where results go
        trainer.add_callback(make_callback(steps_of(Path(last))[0] if last else 0))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True`", UserWarning)  # as it should
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # TRL's use
            trainer.train(resume_from_checkpoint=last)
        self.model = trainer.accelerator.unwrap_model(trainer.model)
        return int(trainer.state.global_step)

    def _peft_config(self) -> LoraConfig | None:
        """Return what low-rank additions are trained, if any."""
        if self.settings.peft != LORA:
            return None
        return LoraConfig(
            r=self.settings.lora_rank,
            lora_alpha=2 * self.settings.lora_rank,
            target_modules="all-linear",
            # The tokens of our template are new to the model; TRL's losses need the whole matrix in one piece.
            modules_to_save=["embed_tokens"] if self.is_new else None,
            ensure_weight_tying=self.is_new,
            task_type="CAUSAL_LM",
        )

    def _load(self, checkpoint: str) -> None:
        with reading(f"the checkpoint {checkpoint}", "begin anew with --force"):
            if self.settings.peft == LORA:
                base = self.model.unload() if isinstance(self.model, PeftModel) else self.model
                self.model = PeftModel.from_pretrained(base, checkpoint, is_trainable=True)
            else:
                self.model, _ = load_policy_model(checkpoint, self.device, self.settings.model_dtype)

    def keep_if_best(self, model: Any, value: float, folder: Path) -> None:
        """Keep what is trained of a model in ``folder``, if validation says that it is the best so far."""
        path = folder / f"{BEST}.json"
        known = json.loads(path.read_text(encoding="utf-8"))["return"] if path.exists() else -math.inf
        if value > known:
            model = getattr(model, "module", model)  # without what shares gradients between processes
            trained = {name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad}
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(folder / f"{BEST}.safetensors", trained)
            write_json(path, {"return": value})

    def take_best(self, folder: Path) -> float | None:
        """Take what validation found best, and return its return; None if nothing was validated."""
        if not (folder / f"{BEST}.json").exists():
            return None
        with saved(folder, BEST, "best model", "begin anew with --force") as (known, tensors):
            parameters = dict(self.model.named_parameters())
            with torch.no_grad():
                for name, tensor in tensors.items():
                    parameters[name].copy_(tensor)
            return float(known["return"])

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Write the agent to a run folder; low-rank additions are merged in, and kept by themselves in ``adapter``."""
        if isinstance(self.model, PeftModel):
            for config in self.model.peft_config.values():
                config.base_model_name_or_path = self.source
            self.model.save_pretrained(folder / ADAPTER, save_embedding_layers=False)  # they are saved if trained
            self.model = self.model.merge_and_unload()
        agent = self.agent()
        agent.card = card
        agent.save(folder)


def steps_of(checkpoint: Path) -> tuple[int, int]:
    """Return how many steps a checkpoint of TRL has made, and how many there are to make."""
    with reading(f"the checkpoint {checkpoint}", "begin anew with --force"):
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return int(state["global_step"]), int(state["max_steps"])
