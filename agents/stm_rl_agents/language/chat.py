"""How a language model is shown its memory, and how its tool calls are written and read: the chat format."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.chat_template_utils import (
    add_response_schema,
    get_training_chat_template,
    has_generation_markers,
    parse_response,
    supports_tool_calling,
)

from stm_rl.errors import StmError
from stm_rl.features import content_words
from stm_rl.lm.loading import load_pretrained, source_of
from stm_rl_agents.language.tools import CUT_OFF, FORGET, READ, TOOLS, WRITE, Decision, Message, parse
from stm_rl_envs.episodes import Episodes

INSTRUCTION = (
    "You keep a small memory of a conversation. You see its slots (number, age in turns, turns since it was last read, "
    "how often it was read, how far any turn since and how far the turn before this one took it up, 0 to 9, text), "
    "then the last turns, of which the last has just arrived, then the number of turns before it and, after =, the "
    "slots that share words with it. Keep that turn if it will be needed later, supersede what is out of date or worth "
    "least, and read the slots that the next turn depends on. Call no tool if there is nothing to do."
)
"""What models with a template of their own are told; short templates say nothing, and models learn it."""
SPEAKER = re.compile(r"^[^:]{1,40}: ")
"""The name of who says a line."""
MOST = 99
"""Greatest number of turns or reads that is shown."""
TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- generation -%}
{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{%- set call = call.function or call -%}
{{- '<tool_call>{"name": "' + call.name + '", "arguments": ' -}}
{{- call.arguments if call.arguments is string else call.arguments | tojson -}}
{{- '}</tool_call>' -}}
{%- endfor -%}
{{- eos_token -}}
{%- endgeneration -%}
{%- else -%}
{{- '<|' + message.role + '|>' + message.content -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""
"""Our own short chat template; the tools are not listed, since a model trained with it knows them."""
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "</s>", "content": "text"},
    },
}
"""How answers in that template are read."""
PIECES = (
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<tool_call>",
    "</tool_call>",
    f'{{"name": "{WRITE}", "arguments": {{"slot": ',
    f'{{"name": "{FORGET}", "arguments": {{"slot": ',
    f'{{"name": "{READ}", "arguments": {{"slots": [',
    ', "text": "',
    '"}}',
    "]}}",
    "}}",
)
"""Frequent pieces of the format, one token each in models that get our template."""


def load_policy_model(name: str | Path, device: str = "cpu", dtype: str = "float32") -> tuple[Any, Any]:
    """Load a causal model that can learn to call tools, and its tokenizer.

    A model without a chat template (such as the embedded one, ``tiny``) gets ours, and a token for each frequent piece
    of it; others keep theirs, as far as TRL knows it.

    Args:
        name: ``tiny``, a Hugging Face id or a folder.
        device: Such as ``cpu`` or ``cuda``.
        dtype: Such as ``float32`` or ``bfloat16``.

    Raises:
        StmError: The model cannot be loaded, or its template cannot call tools.
    """
    model, tokenizer = load_pretrained(AutoModelForCausalLM, str(name), device, dtype)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = TEMPLATE
        if tokenizer.add_tokens(list(PIECES)):
            model.resize_token_embeddings(len(tokenizer))
            _start(model, tokenizer)
    if tokenizer.chat_template == TEMPLATE:
        tokenizer.response_template = RESPONSE
        if tokenizer.eos_token != "</s>":
            tokenizer.response_template = {
                **RESPONSE,
                "fields": {**RESPONSE["fields"], "content": {"close": tokenizer.eos_token, "content": "text"}},  # type: ignore[dict-item]
            }
    else:
        _known_template(name, tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def has_template(name: str | Path) -> bool:
    """Return whether a model comes with a chat template: without one it has learned no tool calls yet."""
    return AutoTokenizer.from_pretrained(source_of(name)).chat_template is not None


def _start(model: Any, tokenizer: Any) -> None:
    """Begin the vectors of new tokens as the mean of those they are made of, so that they mean something at once."""
    plain = tokenizer.backend_tokenizer.model
    weights = [model.get_input_embeddings().weight]
    if not model.config.tie_word_embeddings:
        weights.append(model.get_output_embeddings().weight)
    for piece in PIECES:
        parts = [token.id for token in plain.tokenize(piece.replace(" ", "Ġ"))]
        for weight in weights:
            weight.data[tokenizer.convert_tokens_to_ids(piece)] = weight.data[parts].mean(0)


def _known_template(name: str | Path, tokenizer: Any) -> None:
    if not supports_tool_calling(tokenizer):
        raise StmError(
            f"the chat template of {name} cannot show tool calls; take a model that can call tools (Qwen3, Llama 3.1, "
            "...), or one without a chat template, which gets a short one"
        )
    try:
        if getattr(tokenizer, "response_template", None) is None:
            add_response_schema(tokenizer)
        if not has_generation_markers(tokenizer.chat_template):
            tokenizer.chat_template = get_training_chat_template(tokenizer) or tokenizer.chat_template
    except ValueError as error:
        raise StmError(
            f"the chat template of {name} is not one that TRL can read answers of ({error}); take a model whose "
            "template it knows, or one whose tokenizer has a response_template"
        ) from error


def is_short(tokenizer: Any) -> bool:
    """Return whether the tokenizer has our short template, which needs neither instruction nor list of tools."""
    return bool(tokenizer.chat_template == TEMPLATE)


@dataclass(frozen=True, slots=True)
class Slot:
    """What a slot holds.

    Attributes:
        text: The line.
        age: Turns since it was written.
        idle: Turns since it was read, or written.
        reads: How often it has been read.
        taken_up: Greatest overlap of its words with a turn since, 0 to 1.
        taken_up_last: Overlap of its words with the turn before the current one, 0 to 1.
    """

    text: str
    age: int = 0
    idle: int = 0
    reads: int = 0
    taken_up: float = 0.0
    taken_up_last: float = 0.0


def state_text(held: Sequence[Slot | None], window: Sequence[str], step: int) -> str:
    """Return what a language model is shown before it decides.

    The slots: number, age, turns idle, reads, how far any turn since and the turn before the last have taken them up (0
    to 9), and text; the window; the number of turns before, and after it the numbers of slots that share words with the
    turn that has just arrived, most words and then newest first. Slot policies see the same as features.

    Args:
        held: What each slot holds; None: it is free.
        window: Lines of the window; the last is the turn that has just arrived.
        step: Turns before that one.
    """
    lines = [
        f"{number} {_numbers(slot)} {slot.text}\n" if slot else f"{number}\n" for number, slot in enumerate(held, 1)
    ]
    words = _words(window[-1])
    shared = [(-len(words & _words(slot.text)), slot.age, number) for number, slot in enumerate(held, 1) if slot]
    related = "".join(f" {number}" for count, _, number in sorted(shared) if count)
    return "".join(lines) + "\n" + "\n".join(window) + f"\n{min(step, MOST)}={related}"


def reordered(text: str, order: Sequence[int]) -> str:
    """Return what :func:`state_text` says of the same slots in another order.

    Args:
        text: What it says of them.
        order: For each slot of the result the number of the one whose content it gets.
    """
    lines = text.split("\n")
    slots = [lines[number - 1].partition(" ")[1:] for number in order]
    step, _, related = lines[-1].partition("=")
    moved = "".join(f" {order.index(int(number)) + 1}" for number in related.split())
    shown = [f"{number}{''.join(slot)}" for number, slot in enumerate(slots, 1)]
    return "\n".join([*shown, *lines[len(order) : -1], f"{step}={moved}"])


def _numbers(slot: Slot) -> str:
    counts = (min(count, MOST) for count in (slot.age, slot.idle, slot.reads))
    overlaps = (round(9 * overlap) for overlap in (slot.taken_up, slot.taken_up_last))
    return " ".join(map(str, (*counts, *overlaps)))


def _words(text: str) -> frozenset[str]:
    """Return the content words of a line, without the name of its speaker."""
    return content_words(SPEAKER.sub("", text, count=1))


def text_overlap(a: str, b: str) -> float:
    """Return the cosine of two lines as sets of content words, 0 to 1, without the names of their speakers."""
    first, second = _words(a), _words(b)
    return len(first & second) / math.sqrt(max(len(first), 1) * max(len(second), 1))


def held_by(episodes: Episodes, row: int) -> list[Slot | None]:
    """Return what the slots of an episode hold."""
    step, memory = int(episodes.step_index[row]), episodes.memory
    return [
        None
        if text is None
        else Slot(
            text,
            step - int(memory.written[row, number]),
            step - int(memory.last_read[row, number]),
            int(memory.reads[row, number]),
            float(episodes.view.overlap_since[row, number]),
            float(episodes.view.overlap_previous[row, number]),
        )
        for number, text in enumerate(episodes.held(row))
    ]


def prompt_of(episodes: Episodes, row: int, short: bool) -> list[Message]:
    """Return the messages that ask for a decision at the current turn of an episode.

    Their length depends on slots and window only, never on how long the episode is.

    Args:
        episodes: The episodes.
        row: Which.
        short: Leave out the instruction; see :func:`is_short`.
    """
    step, item = int(episodes.step_index[row]), episodes.current[row]
    window = [item.lines[turn] for turn in range(max(0, step + 1 - episodes.settings.window), step + 1)]
    asked = {"role": "user", "content": state_text(held_by(episodes, row), window, step)}
    return [asked] if short else [{"role": "system", "content": INSTRUCTION}, asked]


def tools_for(tokenizer: Any) -> list[Any] | None:
    """Return the tools that the template lists; None for our short one."""
    return None if is_short(tokenizer) else TOOLS


def prompt_ids(tokenizer: Any, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Return the tokens of prompts, up to where the model begins to write."""
    if not prompts:
        return []
    options: Any = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    found: list[list[int]] = tokenizer.apply_chat_template(
        [list(prompt) for prompt in prompts], tools=tools_for(tokenizer), **options
    )
    return found


def read_decision(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int], slots: int, reads: int) -> Decision:
    """Return the decision that a model wrote.

    Args:
        tokenizer: Its tokenizer.
        prompt: The tokens before: templates may begin the answer.
        ids: The new tokens, those that end the message included.
        slots: Slots of the memory.
        reads: Most slots that are read.
    """
    if not ids:
        return Decision(malformed=(CUT_OFF,))
    ended = ids[-1] in {tokenizer.eos_token_id, tokenizer.pad_token_id}
    return parse(parse_response(tokenizer, list(ids), list(prompt)), slots, reads, ended)
