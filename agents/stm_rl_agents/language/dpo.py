"""Preferences: pairs of decisions in the same state, for TRL's DPOTrainer, and the files they are kept in."""

from __future__ import annotations

import copy
import math
import reprlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer
from trl.chat_template_utils import parse_response

from stm_rl.errors import StmError
from stm_rl.files import write_jsonl
from stm_rl.readers.json_values import json_list, json_object, load_json, member
from stm_rl.readers.records import Place
from stm_rl_agents.language.agent import LanguageAgent
from stm_rl_agents.language.chat import prompt_ids, read_decision, tools_for
from stm_rl_agents.language.demonstrate import Demonstration
from stm_rl_agents.language.grpo import FORMAT_WEIGHT
from stm_rl_agents.language.labelled import score_labelled_only
from stm_rl_agents.language.returns import Playout
from stm_rl_agents.language.tools import Decision, Message, parse

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to the same prompt, one of which is better.

    Attributes:
        prompt: What the model is shown.
        chosen: The better answer, a message of the assistant; its tool calls are well formed.
        rejected: The worse one.
        margin: Nats by which the first is worth more; None: nobody measured it, such as where a person chose.
    """

    prompt: list[Message]
    chosen: Message
    rejected: Message
    margin: float | None = None

    def row(self, tools: list[Any] | None = None) -> dict[str, Any]:
        """Return the pair as a row for TRL's DPOTrainer, in its conversational form."""
        row: dict[str, Any] = {"prompt": self.prompt, "chosen": [self.chosen], "rejected": [self.rejected]}
        return row | {"tools": tools} if tools else row


def preference_pairs(
    agent: LanguageAgent,
    met: Sequence[Demonstration],
    playout: Playout,
    horizon: int,
    *,
    draws: int = 4,
    margin: float = 0.1,
    expert: bool = True,
) -> list[Pair]:
    """Return pairs of decisions in the same state, by what follows from them.

    In each state the decisions are the agent's likeliest one, others that it draws, and the expert's. What they are
    worth is their return and, as in :mod:`stm_rl_agents.language.grpo`, ``FORMAT_WEIGHT`` nats for being well formed.
    The best well-formed one is paired with each that is worth less by at least ``margin``.

    Args:
        agent: Draws decisions; its generator goes on.
        met: States, each with a prompt as the agent's template needs it.
        playout: Values decisions.
        horizon: Turns that are played after each, that of the decision included.
        draws: Decisions drawn in each state, beside the likeliest.
        margin: Least difference within a pair, nats, more than 0.
        expert: Also consider the decision that the expert made in the state.

    Raises:
        StmError: ``draws`` or ``margin`` is out of range.
    """
    if draws < 0 or not 0 < margin < math.inf:
        raise StmError(
            f"draws, margin are {draws}, {margin}; expected at least 0 draws and a margin of more than 0 nats"
        )
    prompts = [one.prompt for one in met]
    settings = playout.env.episodes.settings
    likeliest = _answers(agent, prompts, settings.slots, settings.reads, deterministic=True)
    drawn = _answers(agent, [prompt for prompt in prompts for _ in range(draws)], settings.slots, settings.reads)
    offers: list[tuple[int, Decision, Message]] = []
    for index, one in enumerate(met):
        answers = [likeliest[index], *drawn[index * draws : (index + 1) * draws]]
        if expert:
            answers.append((one.decision, one.decision.message()))
        offers += [(index, *answer) for answer in dict(answers).items()]  # each decision once
    decisions = [decision for _, decision, _ in offers]
    values = playout.returns([met[index].state for index, _, _ in offers], decisions, horizon)
    values += FORMAT_WEIGHT * np.array([not decision.malformed for decision in decisions])
    by_state: dict[int, list[tuple[float, Decision, Message]]] = {}
    for (index, decision, message), value in zip(offers, values.tolist(), strict=True):
        by_state.setdefault(index, []).append((value, decision, message))
    return [pair for index, found in by_state.items() for pair in _pairs(prompts[index], found, margin)]


def _pairs(prompt: list[Message], found: Sequence[tuple[float, Decision, Message]], margin: float) -> list[Pair]:
    sound = [(value, message) for value, decision, message in found if not decision.malformed]
    if not sound:
        return []
    best, chosen = max(sound, key=lambda one: one[0])
    return [Pair(prompt, chosen, message, best - value) for value, _, message in found if best - value >= margin]


def _answers(
    agent: LanguageAgent, prompts: Sequence[list[Message]], slots: int, reads: int, deterministic: bool = False
) -> list[tuple[Decision, Message]]:
    """Return what the agent decides and the message: in its plain form, or as it was written where it is malformed."""
    tokenizer, found = agent.tokenizer, []
    before = prompt_ids(tokenizer, prompts)
    for first in range(0, len(before), agent.batch):
        chunk = before[first : first + agent.batch]
        for prompt, ids in zip(chunk, agent.generate(chunk, deterministic), strict=True):
            decision = read_decision(tokenizer, prompt, ids, slots, reads)
            message = parse_response(tokenizer, list(ids), list(prompt)) if decision.malformed else decision.message()
            found.append((decision, {"role": "assistant", **message}))
    return found


def dpo_trainer(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], peft_config: Any = None, **options: Any
) -> DPOTrainer:
    """Return a trainer that makes chosen decisions likelier than rejected ones (Rafailov et al., 2023).

    The loss also holds the log-likelihood of what was chosen (Pang et al., 2024). Without it both answers may become
    less likely, the rejected one only more so, until tool calls are no longer well formed.

    The reference is the model as it is given: its folder, a copy of it in memory, or, with low-rank additions, the
    model without what is trained.

    Args:
        model: A causal transformers model that calls tools already, or its folder.
        tokenizer: Its tokenizer, see :func:`~stm_rl_agents.language.chat.load_policy_model`.
        pairs: See :func:`preference_pairs` and :func:`read_pairs`.
        peft_config: Train low-rank additions only.
        **options: Those of TRL's DPOConfig; no answer is cut off unless ``max_length`` is given.

    Raises:
        StmError: There is no pair.
    """
    if not pairs:
        raise StmError("there is no pair to learn from; draw more decisions, or take a smaller margin or other states")
    tools = tools_for(tokenizer)
    losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
    score_labelled_only()
    args = DPOConfig(**{**losses, "report_to": [], "max_length": None, **options})
    # TRL would load the reference from where the model once came from, whatever it has learned since.
    alone = isinstance(model, PreTrainedModel) and peft_config is None and not args.precompute_ref_log_probs
    return DPOTrainer(
        model=model,
        ref_model=copy.deepcopy(model) if alone else None,
        args=args,
        train_dataset=Dataset.from_list([pair.row(tools) for pair in pairs], on_mixed_types="use_json"),
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs to ``path``, a JSON object a line: ``prompt``, ``chosen``, ``rejected`` and ``margin``."""
    write_jsonl(Path(path), ({**pair.row(), "margin": pair.margin} for pair in pairs))


def read_pairs(path: str | Path) -> list[Pair]:
    """Read what :func:`write_pairs` wrote, or whoever writes the same; ``margin`` may be missing.

    Raises:
        StmError: The file cannot be read, or a line is no pair; the error names file and line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StmError(f"{path} cannot be read ({error}); give a file of pairs, a JSON object a line") from error
    return [_pair(line, Place(path, number)) for number, line in enumerate(lines, 1) if line.strip()]


def _pair(text: str, place: Place) -> Pair:
    expected = 'an object with "prompt", "chosen" and "rejected"'
    record = json_object(load_json(text, place, expected), "the pair", place)
    shown = json_list(member(record, "prompt", "the pair", place), "prompt", place, "messages")
    prompt = [_message(one, f"prompt[{number}]", place) for number, one in enumerate(shown)]
    if not prompt or prompt[-1]["role"] == "assistant":
        raise place.error("prompt does not end in what the model was shown; expected a message of another role; add it")
    chosen, rejected = (_answer(record, key, place) for key in ("chosen", "rejected"))
    wrong = parse(chosen, sys.maxsize, sys.maxsize).malformed
    if wrong:
        raise place.error(f"chosen is malformed ({wrong[0]}); expected well-formed tool calls; correct them")
    if chosen == rejected:
        raise place.error("chosen and rejected are the same; expected two different answers; leave the pair out")
    margin = record.get("margin")
    number = isinstance(margin, (int, float)) and not isinstance(margin, bool) and 0 <= margin < math.inf
    if margin is not None and not number:
        raise place.error(f"margin is {reprlib.repr(margin)}; expected nats, at least 0, or null; correct the value")
    return Pair(prompt, chosen, rejected, margin)


def _answer(record: dict[str, Any], key: str, place: Place) -> Message:
    """Return the one message of an answer; sound tool calls in their plain form."""
    messages = json_list(member(record, key, "the pair", place), key, place, "one message")
    if len(messages) != 1:
        raise place.error(f"{key} holds {len(messages)} messages; expected one, of the assistant; correct the list")
    message = _message(messages[0], f"{key}[0]", place)
    if message["role"] != "assistant":
        raise place.error(f"{key}[0].role is {message['role']!r}; expected 'assistant'; correct the value")
    decision = parse(message, sys.maxsize, sys.maxsize)
    return message if decision.malformed or message["content"] else decision.message()


def _message(value: object, what: str, place: Place) -> Message:
    """Return a message, if templates can show it."""
    message = json_object(value, what, place)
    role = place.string(member(message, "role", what, place), f"{what}.role")
    if role not in ROLES:
        raise place.error(f"{what}.role is {role!r}; expected one of {', '.join(ROLES)}; correct the value")
    found: Message = {"role": role, "content": place.string(message.get("content") or "", f"{what}.content")}
    if message.get("tool_calls") is None:
        return found
    calls = json_list(message["tool_calls"], f"{what}.tool_calls", place, "tool calls")
    for number, call in enumerate(calls):
        name = f"{what}.tool_calls[{number}]"
        function = json_object(call, name, place)
        function = json_object(function.get("function", function), f"{name}.function", place)
        place.string(member(function, "name", f"{name}.function", place), f"{name}.function.name")
        member(function, "arguments", f"{name}.function", place)
    return {**found, "tool_calls": calls}
