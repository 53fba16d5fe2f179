import json

import numpy as np
import pytest
from helpers import transcript
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.chat_template_utils import (
    has_generation_markers,
    is_chat_template_prefix_preserving,
    is_chat_template_stop_token_trained,
    parse_response,
    supports_tool_calling,
)

from stm_rl.errors import StmError
from stm_rl_agents.language.chat import (
    PIECES,
    Slot,
    is_short,
    load_policy_model,
    prompt_of,
    read_decision,
    reordered,
    state_text,
    tools_for,
)
from stm_rl_agents.language.tools import TOOLS, Decision, decision_of, parse
from stm_rl_envs import MemorySettings, MemoryVectorEnv

SLOTS, READS = 4, 2


@pytest.fixture(scope="module")
def tokenizer():
    return load_policy_model("tiny")[1]


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def said(*calls, content=""):
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


decisions = st.builds(
    Decision,
    write=st.integers(0, SLOTS),
    text=st.just(""),
    forget=st.lists(st.integers(1, SLOTS), unique=True).map(tuple),
    reads=st.lists(st.integers(1, SLOTS), unique=True, max_size=READS).map(tuple),
)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30).map(
    lambda text: " ".join(text.split())
)


def written(tokenizer, decision):
    """Return the tokens of a prompt and of the decision after it."""
    asked = [{"role": "user", "content": state_text([None] * SLOTS, ["Ana: Hello."], 0)}]
    options = {"tokenize": True, "return_dict": False, "tools": tools_for(tokenizer)}
    whole = tokenizer.apply_chat_template([*asked, decision.message()], **options)
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, **options)
    assert whole[: len(prompt)] == prompt
    return prompt, whole[len(prompt) :]


@settings(max_examples=40)
@given(decisions, texts)
def test_a_decision_survives_being_written_and_read(tokenizer, decision, text):
    decision = Decision(decision.write, text if decision.write else "", decision.forget, decision.reads)
    prompt, answer = written(tokenizer, decision)
    assert read_decision(tokenizer, prompt, answer, SLOTS, READS) == decision


@settings(max_examples=40)
@given(st.data())
def test_whatever_a_model_writes_is_a_decision(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=30))
    decision = read_decision(tokenizer, [], ids, SLOTS, READS)
    assert 0 <= decision.write <= SLOTS
    assert len(decision.reads) <= READS
    assert all(1 <= slot <= SLOTS for slot in (*decision.reads, *decision.forget))


@settings(max_examples=40)
@given(decisions, st.data())
def test_a_decision_that_was_cut_off_or_scrambled_is_malformed_or_legal(tokenizer, decision, data):
    prompt, answer = written(tokenizer, decision)
    end = data.draw(st.integers(0, len(answer) - 1))
    assert read_decision(tokenizer, prompt, answer[:end], SLOTS, READS).malformed


@pytest.mark.parametrize(
    ("message", "expected", "reason"),
    [
        (said(call("memory_write", {"slot": 5})), Decision(), "memory_write of slot 5"),
        (said(call("memory_write", {"slot": 0})), Decision(), "memory_write of slot 0"),
        (said(call("memory_write", {"slot": True})), Decision(), "memory_write of slot True"),
        (said(call("memory_write", {"slot": "1"})), Decision(), "memory_write of slot '1'"),
        (said(call("memory_write", {})), Decision(), "memory_write of slot None"),
        (said(call("memory_write", {"slot": 1, "text": 3})), Decision(), "memory_write of the text 3"),
        (said(call("memory_write", None)), Decision(), "arguments of memory_write are no object"),
        (said(call("memory_write", "{")), Decision(), "arguments of memory_write are no object"),
        (said(call("memory_read", {"slots": 1})), Decision(), "memory_read of 1"),
        (said(call("memory_read", {"slots": [1, 9]})), Decision(), "memory_read of [1, 9]"),
        (said(call("memory_read", {"slots": [1, 2, 3]})), Decision(reads=(1, 2)), "memory_read of 3 slots"),
        (said(call("weather", {})), Decision(), "unknown tool 'weather'"),
        (said(content="<tool_call>{"), Decision(), "a tool call that cannot be read: '<tool_call>{'"),
        (
            said(call("memory_write", {"slot": 1}), call("memory_write", {"slot": 2})),
            Decision(1),
            "a second memory_write",
        ),
    ],
)
def test_what_is_malformed_is_left_out_and_told(message, expected, reason):
    found = parse(message, SLOTS, READS)
    assert found.malformed == (reason,)
    assert Decision(found.write, found.text, found.forget, found.reads) == expected


def test_arguments_may_be_text_and_words_may_stand_beside_calls():
    message = said(call("memory_write", json.dumps({"slot": 2, "text": " a \n b "})), content="I keep that.")
    assert parse(message, SLOTS, READS) == Decision(2, "a b")


def test_our_template_is_fit_for_training(tokenizer):
    assert supports_tool_calling(tokenizer)
    assert is_chat_template_prefix_preserving(tokenizer)
    assert is_chat_template_stop_token_trained(tokenizer)
    assert has_generation_markers(tokenizer.chat_template)
    assert is_short(tokenizer)
    assert tools_for(tokenizer) is None


def test_frequent_pieces_are_one_token_each(tokenizer):
    prompt, answer = written(tokenizer, Decision(2))
    assert all(len(tokenizer(piece, add_special_tokens=False).input_ids) == 1 for piece in PIECES)
    assert len(answer) == 6  # <tool_call>, name, slot, braces, </tool_call>, end
    assert len(prompt) < 25


def test_a_known_template_of_another_model_lists_the_tools_and_is_read(tmp_path):
    qwen, tokenizer = load_policy_model("tiny")
    from trl import chat_template_utils

    tokenizer.chat_template = chat_template_utils.qwen3_chat_template
    tokenizer.response_template = None
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    qwen.resize_token_embeddings(len(tokenizer))
    qwen.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, tokenizer = load_policy_model(tmp_path)
    assert tools_for(tokenizer) == TOOLS
    assert has_generation_markers(tokenizer.chat_template)
    prompt, answer = written(tokenizer, Decision(3, "Ana's key", (1,), (2, 4)))
    assert "memory_forget" in tokenizer.decode(prompt)
    while answer[-1] != tokenizer.eos_token_id:
        answer.pop()  # what stands between messages
    assert read_decision(tokenizer, prompt, answer, SLOTS, READS) == Decision(3, "Ana's key", (1,), (2, 4))


def test_a_template_that_cannot_show_calls_is_an_error(tmp_path):
    model, tokenizer = load_policy_model("tiny")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(StmError, match="cannot show tool calls"):
        load_policy_model(tmp_path)


def test_a_saved_model_keeps_tokens_and_template(tmp_path, tokenizer):
    model, _ = load_policy_model("tiny")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, loaded = load_policy_model(tmp_path)
    assert len(loaded) == len(tokenizer) == again.config.vocab_size
    prompt, answer = written(loaded, Decision(1, reads=(2,)))
    assert (prompt, answer) == written(tokenizer, Decision(1, reads=(2,)))
    assert parse_response(loaded, answer, prompt)["tool_calls"]


def test_a_decision_becomes_an_action_and_back():
    action = np.array([3, 4, 0])
    assert decision_of(action) == Decision(3, reads=(4,))
    assert decision_of(np.array([0, 2, 1])) == Decision(reads=(1, 2))


def memory_env(lines, **settings):
    return MemoryVectorEnv(
        1, [transcript(*lines)], settings=MemorySettings(**settings), lm=None, reward={"write_cost": 1.0}
    )


@pytest.mark.parametrize("turns", [10, 1000])
def test_a_prompt_is_no_longer_late_in_an_episode(tokenizer, turns):
    env = memory_env([f"Ana: turn {number:04d} is here" for number in range(turns)], slots=3, window=2)
    env.reset(seed=0)
    lengths = []
    for step in range(turns - 2):
        prompt = prompt_of(env.episodes, 0, True)
        lengths.append(len(tokenizer.apply_chat_template(prompt, tokenize=True, return_dict=False)))
        env.step(np.array([[1 + step % 3, 0, 0]]))
    assert max(lengths) == lengths[min(10, turns - 3)]  # memory and window are full then, and the step has its digits
    assert max(lengths) < 100


SHOWN = st.builds(
    Slot,
    st.lists(st.sampled_from(["Ana:", "key", "dog", "=", "3", "here", "blue"]), min_size=1).map(" ".join),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(0, 300),
    st.floats(0, 1),
    st.floats(0, 1),
)


@given(
    st.lists(st.none() | SHOWN, min_size=1, max_size=12, unique_by=lambda slot: slot.age if slot else object()),
    st.data(),
)
def test_slots_in_another_order_are_told_as_if_they_had_been_so(held, data):
    order = data.draw(st.permutations(range(1, len(held) + 1)))
    window = ["Ben: dog =", "Ana: the blue key = 3"]
    moved = [held[number - 1] for number in order]
    assert reordered(state_text(held, window, 7), order) == state_text(moved, window, 7)


def test_prompt_shows_memory_window_and_turn(tokenizer):
    env = memory_env(["Ana: one", "Ben: two", "Ana: three", "Ben: four"], slots=2, window=2)
    env.reset(seed=0)
    env.step(np.array([[2, 0, 0]]))
    env.step(np.array([[0, 0, 0]]))
    shown = "1\n2 2 2 0 0 0 Ana: one\n\nBen: two\nAna: three\n2="
    assert prompt_of(env.episodes, 0, True) == [{"role": "user", "content": shown}]
    assert prompt_of(env.episodes, 0, False)[0]["role"] == "system"
