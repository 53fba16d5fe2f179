"""The agent that a language model is: it is shown its memory, and acts by tool calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stm_rl.errors import StmError
from stm_rl.files import reading, write_json
from stm_rl_agents.base import Actions, Agent, Masks
from stm_rl_agents.language.chat import is_short, load_policy_model, prompt_ids, prompt_of, read_decision
from stm_rl_agents.language.shared import generate_shared
from stm_rl_agents.language.tools import Decision, Message
from stm_rl_envs.episodes import Episodes
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

FORMAT = "stm-rl/language-policy-1"
CARD, MODEL = "language.json", "model"
"""In a run folder: what was trained and how, and the folder of the model."""
MAX_NEW_TOKENS = 64


class LanguageAgent(Agent):
    """A language model that decides what to write, forget and read.

    Args:
        model: A causal transformers model.
        tokenizer: Its tokenizer, with a chat template; see :func:`~stm_rl_agents.language.chat.load_policy_model`.
        card: What it was trained on and how.
        name: Name in tables.
        seed: Seeds decisions that are drawn.
        batch: Most decisions made together.
        max_new_tokens: Most tokens of a decision.
        temperature: Of decisions that are drawn; below 1, likelier ones are drawn more often still.

    Attributes:
        decisions: How many decisions were made.
        malformed: What was wrong with calls that were left out, and how often.
        bad: How many decisions had such calls.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        card: Mapping[str, Any] | None = None,
        name: str = "language",
        seed: int = 0,
        batch: int = 64,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 1.0,
    ) -> None:
        self.model, self.tokenizer, self.card, self.name = model, tokenizer, dict(card or {}), name
        self.batch, self.max_new_tokens, self.temperature = batch, max_new_tokens, temperature
        self.generator = torch.Generator().manual_seed(seed)
        self.decisions, self.bad = 0, 0
        self.malformed: Counter[str] = Counter()
        self._episodes: Episodes | None = None

    def start(self, env: MemoryVectorEnv) -> None:
        """Keep the environment's episodes, whose texts the model reads."""
        self._episodes = env.episodes

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return the model's actions; episodes that are over get none."""
        episodes = self._episodes
        if episodes is None:
            raise StmError(f"{self.name} was not started; call start(env) first")
        going = np.flatnonzero(episodes.step_index <= episodes.last_step).tolist()
        actions = np.zeros((episodes.n, 1 + episodes.settings.reads), np.int64)
        prompts = [prompt_of(episodes, row, is_short(self.tokenizer)) for row in going]
        slots, reads = episodes.settings.slots, episodes.settings.reads
        for row, decision in zip(going, self.decide(prompts, slots, reads, deterministic), strict=True):
            actions[row] = decision.apply(episodes, row)
        return actions

    def decide(
        self, prompts: Sequence[Sequence[Message]], slots: int, reads: int, deterministic: bool = True
    ) -> list[Decision]:
        """Return a decision for each prompt; what is malformed in one is left out and counted.

        Args:
            prompts: Messages, see :func:`~stm_rl_agents.language.chat.prompt_of`.
            slots: Slots of the memory.
            reads: Most slots that are read.
            deterministic: Take the likeliest tokens instead of drawing them.
        """
        ids = prompt_ids(self.tokenizer, prompts)
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))  # little padding
        found: dict[int, Decision] = {}
        for first in range(0, len(order), self.batch):
            chunk = order[first : first + self.batch]
            for index, new in zip(chunk, self.generate([ids[i] for i in chunk], deterministic), strict=True):
                found[index] = read_decision(self.tokenizer, ids[index], new, slots, reads)
        for decision in found.values():
            self.decisions += 1
            self.bad += bool(decision.malformed)
            self.malformed.update(decision.malformed)
        return [found[index] for index in range(len(prompts))]

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], deterministic: bool) -> list[list[int]]:
        """Return what the model writes after prompts.

        Args:
            prompts: The tokens of each.
            deterministic: Take the likeliest tokens instead of drawing them.

        Returns:
            The new tokens of each prompt, up to the one that ends the message, if there is one.
        """
        padded = self.tokenizer.pad({"input_ids": list(prompts)}, padding_side="left", return_tensors="pt")
        was_training = self.model.training
        self.model.eval()
        device = self.model.device
        # As TRL draws: a model's own generation_config.json may say otherwise.
        drawn: dict[str, Any] = {"temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=not deterministic):
            if not deterministic:
                torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
            out = generate_shared(
                self.model,
                **padded.to(device),
                max_new_tokens=self.max_new_tokens,
                do_sample=not deterministic,
                **({} if deterministic else drawn),
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
            )
        self.model.train(was_training)
        new = out[:, padded["input_ids"].shape[1] :].tolist()
        end = self.tokenizer.eos_token_id
        return [ids[: ids.index(end) + 1] if end in ids else ids for ids in new]

    def save(self, folder: str | Path) -> None:
        """Write the model, its tokenizer and the card to ``folder``."""
        folder = Path(folder)
        self.model.save_pretrained(folder / MODEL)
        self.tokenizer.save_pretrained(folder / MODEL)
        write_json(folder / CARD, {"format": FORMAT, "name": self.name, **self.card})

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", dtype: str = "float32") -> LanguageAgent:
        """Read what :meth:`save` wrote.

        Raises:
            StmError: The folder holds no language policy, or a damaged one.
        """
        import json

        folder = Path(folder)
        with reading(f"the policy in {folder}", "train it again"):
            try:
                card = json.loads((folder / CARD).read_text(encoding="utf-8"))
            except OSError as error:
                raise StmError(f"{folder} holds no language policy ({error}); give the folder of a run") from error
            if card.pop("format", None) != FORMAT:
                raise StmError(f"{folder / CARD} is not of the format {FORMAT}; train the policy again")
            name = card.pop("name")
        model, tokenizer = load_policy_model(folder / MODEL, device, dtype)
        return cls(model, tokenizer, card, name)
