"""The drills that ``scripts/train_tool_lm.py`` teaches the format of memory tool calls with."""

import re
from itertools import islice

import pytest
import torch
from helpers import load_script

from stm_rl_agents.language.chat import load_policy_model
from stm_rl_agents.language.sft import IGNORED

script = load_script("train_tool_lm")


@pytest.fixture(scope="module")
def drills():
    return list(islice(script.Drills(0).drills(0.0), 300))


def test_what_drills_teach_fits_together(drills):
    for text, decision, worth in drills:
        *slots, turn = map(int, worth.split())
        lines = text.split("\n")[: len(slots)]
        assert [line.split(" ")[0] for line in lines] == [str(number) for number in range(1, len(slots) + 1)]
        free = [re.fullmatch(r"\d+", line) is not None for line in lines]
        assert not any(is_free and value for is_free, value in zip(free, slots, strict=True))
        assert bool(decision.write) == (turn > 0)  # what states something is kept, and nothing else
        if decision.write:
            assert slots[decision.write - 1] == 0  # never in place of what still holds
        assert all(slots[number - 1] > 0 for number in decision.reads)
        assert not (decision.write and decision.reads)
        assert not decision.text
        assert not decision.forget
    kinds = [(bool(decision.write), bool(decision.reads)) for _, decision, _ in drills]
    assert min(kinds.count(kind) for kind in ((True, False), (False, True), (False, False))) > 30


def test_a_drill_is_learned_from_what_the_model_says(drills):
    _, tokenizer = load_policy_model("tiny")
    for text, decision, worth in drills[:20]:
        ids, labels = script.encode(tokenizer, text, decision, worth)
        assert len(ids) == len(labels)
        assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
        said = tokenizer.decode([label for label in labels if label != IGNORED])
        assert worth in said
        assert text not in said
        assert ("memory_write" in said) == bool(decision.write)


def test_more_layers_compute_the_same_at_first():
    model, tokenizer = load_policy_model("tiny")
    deep = script.deepened(model, 2 * model.config.num_hidden_layers)
    assert len(deep.model.layers) == 2 * len(model.model.layers)
    ids = tokenizer("user: Who has the kettle?", return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(deep(**ids).logits, model(**ids).logits)
