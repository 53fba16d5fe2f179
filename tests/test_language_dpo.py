"""Preferences: pairs from returns, their files, what is trained on, and that decisions follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from helpers import TRL_ON_CPU as CPU
from helpers import WordLM
from peft import LoraConfig

from stm_rl.errors import StmError
from stm_rl.labels import Labeller, ModelLabels, PairSettings
from stm_rl.lm import ScoringEngine
from stm_rl.worlds import DialogueWorld
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.language.agent import LanguageAgent
from stm_rl_agents.language.chat import INSTRUCTION, load_policy_model, prompt_of
from stm_rl_agents.language.demonstrate import Demonstration
from stm_rl_agents.language.dpo import Pair, dpo_trainer, preference_pairs, read_pairs, write_pairs
from stm_rl_agents.language.grpo import FORMAT_WEIGHT
from stm_rl_agents.language.returns import Playout
from stm_rl_agents.language.sft import dataset_of, sft_trainer
from stm_rl_agents.language.states import state_of
from stm_rl_agents.language.tools import NAMES, Decision
from stm_rl_envs import MemorySettings, MemoryVectorEnv

pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")
MEMORY = MemorySettings(slots=2, window=1, reads=1)
TRANSCRIPTS = [DialogueWorld(turns=10, min_gap=1, max_gap=2).generate(seed) for seed in range(6)]
WRITE_1, WRITE_2, READ_2 = Decision(1), Decision(2, text="user: keys"), Decision(reads=(2,))
PROMPT = [{"role": "user", "content": "1\n2\n\nuser: The keys are in the hall."}]
BAD = {"role": "assistant", "content": "", "tool_calls": [
    {"type": "function", "function": {"name": "memory_write", "arguments": {"slot": "one"}}}
]}  # fmt: skip
GARBLED = {"role": "assistant", "content": '<tool_call>{"name": "memory_write", "arg'}
TEXTS = {
    WRITE_1: '<tool_call>{"name": "memory_write", "arguments": {"slot": 1}}</tool_call></s>',
    WRITE_2: '<tool_call>{"name": "memory_write", "arguments": {"slot": 2, "text": "user: keys"}}</tool_call></s>',
    READ_2: '<tool_call>{"name": "memory_read", "arguments": {"slots": [2]}}</tool_call></s>',
    Decision(): "</s>",
}


def make_env(count: int) -> MemoryVectorEnv:
    return MemoryVectorEnv(
        count, TRANSCRIPTS, settings=MEMORY, lm=ScoringEngine(WordLM()), encoder="words", autoreset=False
    )


def pair(chosen: Decision, rejected: Decision | dict[str, Any], margin: float | None = 1.0) -> Pair:
    return Pair(PROMPT, chosen.message(), rejected.message() if isinstance(rejected, Decision) else rejected, margin)


PAIRS = [pair(WRITE_1, Decision()), pair(READ_2, WRITE_2, None), pair(WRITE_2, BAD), pair(Decision(), GARBLED, 0.25)]


class Scripted(LanguageAgent):
    """Writes what it is told to, prompt after prompt; another text as its likeliest one."""

    def __init__(self, likeliest: str, drawn: list[str]) -> None:
        super().__init__(*load_policy_model("tiny"))
        self.likeliest, self.drawn = likeliest, drawn

    def generate(self, prompts: Any, deterministic: bool) -> list[list[int]]:
        texts = [self.likeliest if deterministic else self.drawn[i % len(self.drawn)] for i in range(len(prompts))]
        found: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found


def first_states(count: int = len(TRANSCRIPTS)) -> list[Demonstration]:
    """Return the states in which the first turn, a fact that is asked about soon, has arrived."""
    env, found = make_env(1), []
    for index in range(count):
        env.reset(options={"transcripts": [index]})
        found.append(Demonstration(prompt_of(env.episodes, 0, short=True), WRITE_1, 1.0, state_of(env.episodes, 0)))
    return found


def a_playout() -> Playout:
    labels = ModelLabels(Labeller(make_env(1).episodes.prepare, PairSettings(prefilter="words")), level=1.0, reads=1)
    return Playout(make_env, HindsightExpert(labels, 1.0), batch=8)


UNREADABLE = '<tool_call>{"name": "memory_write", "arguments": {"slot": }}</tool_call></s>'
HALF = '<tool_call>{"name": "memory_write", "arguments": {"slot": 9}}</tool_call>' + TEXTS[WRITE_1]


def test_pairs_are_of_higher_and_lower_return() -> None:
    met, playout = first_states(), a_playout()
    agent = Scripted(TEXTS[Decision()], [TEXTS[WRITE_1], TEXTS[WRITE_2], TEXTS[WRITE_1], HALF])
    pairs = preference_pairs(agent, met, playout, 6, draws=4, margin=0.15)
    states = [one.state for one in met]
    worth = {one: playout.returns(states, [one] * len(met), 6) for one in (Decision(), WRITE_1, WRITE_2)}
    expected = []
    for i, one in enumerate(met):
        values = {decision: value[i] for decision, value in worth.items()}
        best = max(values, key=lambda decision: values[decision])
        for other, value in [*values.items(), (None, values[WRITE_1] - FORMAT_WEIGHT)]:
            if values[best] - value >= 0.15:
                expected.append((one.prompt, best.message(), other and other.message(), values[best] - value))
    assert len(expected) > len(met)
    found = {(str(one.prompt), str(one.chosen), str(one.rejected)): one for one in pairs}
    assert len(found) == len(pairs) == len(expected)
    for prompt, chosen, rejected, margin in expected:
        ours = [
            one for one in pairs
            if one.prompt == prompt and (rejected in (None, one.rejected)) and one.margin == pytest.approx(margin)
        ]  # fmt: skip
        assert any(one.chosen == chosen for one in ours)
    assert all(one.margin is not None and one.margin >= 0.15 for one in pairs)


def test_malformed_answers_are_only_ever_rejected_as_they_were_written() -> None:
    met, playout = first_states(2), a_playout()
    agent = Scripted(HALF, [UNREADABLE])
    pairs = preference_pairs(agent, met, playout, 6, draws=1, margin=0.1)
    assert {str(one.chosen) for one in pairs} == {str(WRITE_1.message())}  # the expert's
    written = [agent.tokenizer.apply_chat_template([*one.prompt, one.rejected], tokenize=False) for one in pairs]
    assert sum(text.endswith(HALF) for text in written) == 2
    assert sum(text.endswith(UNREADABLE) for text in written) == 2
    half = next(one for one, text in zip(pairs, written, strict=True) if text.endswith(HALF))
    assert half.margin == pytest.approx(FORMAT_WEIGHT)  # the same is done
    assert preference_pairs(agent, met, playout, 6, draws=1, expert=False) == []
    assert len(preference_pairs(agent, met, playout, 6, draws=1, margin=FORMAT_WEIGHT + 0.1)) <= 2


def test_equal_returns_make_no_pair() -> None:
    agent = Scripted(TEXTS[WRITE_1], [TEXTS[READ_2]])
    met = [replace(one, decision=Decision(reads=(1,))) for one in first_states(2)]
    nothing = preference_pairs(Scripted(TEXTS[Decision()], [TEXTS[READ_2]]), met, a_playout(), 6, draws=1)
    assert nothing == []  # reads of free slots are as good as none
    assert preference_pairs(agent, met, a_playout(), 6, draws=1) != []
    for options in ({"draws": -1}, {"margin": 0.0}):
        with pytest.raises(StmError, match="draws, margin are"):
            preference_pairs(agent, met, a_playout(), 6, **options)  # type: ignore[arg-type]


def trained_on(trainer: trl.DPOTrainer, tokenizer: Any) -> list[tuple[str, str, str]]:
    """Return prompt, chosen and rejected as TRL's loss sees them: what is before, and what counts."""
    batch = trainer.data_collator(list(trainer.train_dataset))
    texts = [
        (tokenizer.decode(ids[(~mask.bool()) & real.bool()]), tokenizer.decode(ids[mask.bool()]))
        for ids, mask, real in zip(batch["input_ids"], batch["completion_mask"], batch["attention_mask"], strict=True)
    ]
    half = len(texts) // 2
    assert [prompt for prompt, _ in texts[:half]] == [prompt for prompt, _ in texts[half:]]
    return [(prompt, chosen, texts[half + i][1]) for i, (prompt, chosen) in enumerate(texts[:half])]


def test_exactly_the_operations_are_trained_on(tmp_path: Path) -> None:
    model, tokenizer = load_policy_model("tiny")
    trainer = dpo_trainer(model, tokenizer, PAIRS, output_dir=str(tmp_path), **CPU)
    shown = "<s><|user|>" + PROMPT[0]["content"] + "<|assistant|>"
    bad = '<tool_call>{"name": "memory_write", "arguments": {"slot": "one"}}</tool_call></s>'
    assert trained_on(trainer, tokenizer) == [
        (shown, TEXTS[WRITE_1], TEXTS[Decision()]),
        (shown, TEXTS[READ_2], TEXTS[WRITE_2]),
        (shown, TEXTS[WRITE_2], bad),
        (shown, TEXTS[Decision()], GARBLED["content"] + "</s>"),
    ]


def test_templates_of_their_own_list_the_tools(tmp_path: Path) -> None:
    model, tokenizer = load_policy_model("tiny")
    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (folder / "qwen3_training.jinja").read_text(encoding="utf-8")
    prompt = [{"role": "system", "content": INSTRUCTION}, *PROMPT]
    trainer = dpo_trainer(model, tokenizer, [replace(PAIRS[1], prompt=prompt)], output_dir=str(tmp_path), **CPU)
    [(shown, chosen, rejected)] = trained_on(trainer, tokenizer)
    assert INSTRUCTION in shown
    assert "null" not in shown
    for name in NAMES:
        assert f'"name": "{name}", "description"' in shown
    for text, decision in ((chosen, READ_2), (rejected, WRITE_2)):
        _, _, call = text.partition("<tool_call>")
        assert json.loads(call.partition("</tool_call>")[0]) == decision.calls()[0]["function"]


@pytest.mark.parametrize("peft", [False, True])
def test_reference_is_the_model_as_it_was_given(tmp_path: Path, peft: bool) -> None:
    """Even one that has learned since it was loaded: nothing is read from where it came from."""
    model, tokenizer = load_policy_model("tiny")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight += 0.05
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=True) if peft else None
    options = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2 if peft else 1e-3}
    trainer = dpo_trainer(model, tokenizer, PAIRS, config, output_dir=str(tmp_path), **CPU, **options)
    trainer.train()
    margins = [float(row["rewards/margins"]) for row in trainer.state.log_history if "rewards/margins" in row]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > 0.01
    reference = trainer.model.get_base_model() if peft else trainer.ref_model
    found = {name.replace(".base_layer", ""): value for name, value in reference.state_dict().items()}
    for name, value in before.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_no_pair_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StmError, match="there is no pair to learn from"):
        dpo_trainer(*load_policy_model("tiny"), [], output_dir=str(tmp_path), **CPU)


def test_decisions_follow_what_was_preferred(tmp_path: Path) -> None:
    """A few steps raise the margin of chosen over rejected, and change what the model decides."""
    model, tokenizer = load_policy_model("tiny")
    met = first_states()
    prompts = [one.prompt for one in met]
    common = [replace(one, decision=Decision()) for one in met]
    options = {**CPU, "output_dir": str(tmp_path), "per_device_train_batch_size": 6}
    data = dataset_of([*met, *common, *common], tokenizer)  # writing is known, but less likely than doing nothing
    sft_trainer(model, tokenizer, data, num_train_epochs=12, learning_rate=5e-3, **options).train()
    agent = LanguageAgent(model, tokenizer, max_new_tokens=16)
    assert agent.decide(prompts, 2, 1) == [Decision()] * len(prompts)
    pairs = [Pair(one, WRITE_1.message(), Decision().message(), 1.0) for one in prompts]
    trainer = dpo_trainer(model, tokenizer, pairs, num_train_epochs=20, learning_rate=2e-3, **options)
    trainer.train()
    margins = [float(row["rewards/margins"]) for row in trainer.state.log_history if "rewards/margins" in row]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > 0.2
    assert [one.write for one in agent.decide(prompts, 2, 1)] == [1] * len(prompts)


def test_pairs_are_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, PAIRS)
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    assert [set(line) for line in lines] == [{"prompt", "chosen", "rejected", "margin"}] * len(PAIRS)
    assert read_pairs(path) == PAIRS


def test_choices_of_people_need_no_margin_and_may_have_arguments_as_text(tmp_path: Path) -> None:
    path = tmp_path / "chosen.jsonl"
    call = {"type": "function", "function": {"name": "memory_write", "arguments": '{"slot": 1}'}}
    chosen = {"role": "assistant", "content": None, "tool_calls": [call]}
    record = {"prompt": PROMPT, "chosen": [chosen], "rejected": [{"role": "assistant", "content": ""}]}
    path.write_text("\n" + json.dumps(record) + "\n", encoding="utf-8")
    assert read_pairs(path) == [pair(WRITE_1, Decision(), None)]


def record(**changes: Any) -> str:
    values: dict[str, Any] = {**PAIRS[0].row(), "margin": 1.0, **changes}
    return json.dumps({name: value for name, value in values.items() if value != "missing"})


ASSISTANT = {"role": "assistant", "content": ""}
BAD_LINES = [
    ("{", "broken JSON"),
    ("[]", r"the pair is \[\]; expected a JSON object"),
    (record(prompt="missing"), 'the pair has no "prompt"'),
    (record(prompt="hello"), "prompt is 'hello'; expected a list of messages"),
    (record(prompt=[]), "prompt does not end in what the model was shown"),
    (record(prompt=[*PROMPT, ASSISTANT]), "prompt does not end in what the model was shown"),
    (record(prompt=[{"role": "human", "content": "x"}]), r"prompt\[0\].role is 'human'; expected one of system"),
    (record(prompt=[{"content": "x"}]), r'prompt\[0\] has no "role"'),
    (record(prompt=[{"role": "user", "content": 3}]), r"prompt\[0\].content is 3; expected a string"),
    (record(chosen="missing"), 'the pair has no "chosen"'),
    (record(chosen=WRITE_1.message()), "chosen is .* expected a list of one message"),
    (record(chosen=[ASSISTANT, ASSISTANT]), "chosen holds 2 messages; expected one"),
    (record(chosen=PROMPT), r"chosen\[0\].role is 'user'; expected 'assistant'"),
    (record(chosen=[BAD]), "chosen is malformed .memory_write of slot 'one'"),
    (record(chosen=[GARBLED]), "chosen is malformed .a tool call that cannot be read"),
    (record(chosen=[ASSISTANT]), "chosen and rejected are the same"),
    (record(rejected=[{**ASSISTANT, "tool_calls": {}}]), r"rejected\[0\].tool_calls is {}; expected a list"),
    (record(rejected=[{**ASSISTANT, "tool_calls": ["x"]}]), r"tool_calls\[0\] is 'x'; expected a JSON object"),
    (record(rejected=[{**ASSISTANT, "tool_calls": [{"name": "x"}]}]), 'has no "arguments"'),
    (record(margin="much"), "margin is 'much'; expected nats"),
    (record(margin=-1), "margin is -1; expected nats, at least 0"),
    (record(margin=float("nan")), "margin is nan"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_bad_lines_are_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(record() + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(StmError, match=rf"pairs.jsonl:2: .*{reason}"):
        read_pairs(path)


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StmError, match=r"none.jsonl cannot be read"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(StmError, match=r"binary.jsonl cannot be read"):
        read_pairs(tmp_path / "binary.jsonl")
