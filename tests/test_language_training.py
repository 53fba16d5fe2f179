"""Imitation and same-state reinforcement learning of tool calls, end to end on a few transcripts."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import TRL_ON_CPU as CPU

from stm_rl.cli.labels import LabelOptions, make_expert, make_labels
from stm_rl.cli.task import Task
from stm_rl.evaluation.runner import play
from stm_rl.lm import load_engine
from stm_rl.rewards import as_reward
from stm_rl_agents.heuristics import NoMemory
from stm_rl_agents.language.agent import LanguageAgent
from stm_rl_agents.language.chat import Slot, load_policy_model, state_text
from stm_rl_agents.language.demonstrate import PARTS, Demonstration, demonstrate, resampled, shuffled
from stm_rl_agents.language.grpo import grpo_trainer
from stm_rl_agents.language.returns import Playout
from stm_rl_agents.language.rewards import StateReturns
from stm_rl_agents.language.sft import dataset_of, sft_trainer
from stm_rl_agents.language.tools import Decision
from stm_rl_agents.language.visits import LEAST_STAKE, state_rows, unsure, visits_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TRANSCRIPTS = 24


@pytest.fixture(scope="module", autouse=True)
def quiet():
    logging.getLogger("datasets").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def task():
    return Task("stm_rl/Dialogue-v0", "stm_rl/Dialogue-v0", load_engine("tiny", "cpu", "float32"), {"turns": 24})


@pytest.fixture(scope="module")
def expert(task):
    return make_expert(make_labels(task, LabelOptions(noise_level=1.5)))


@pytest.fixture(scope="module")
def lesson_env(task):
    unscored = Task(task.name, task.env, None, task.overrides, reward=as_reward({"write_cost": 1.0}))
    return unscored.make(TRANSCRIPTS, autoreset=False)


@pytest.fixture(scope="module")
def demonstrations(expert, lesson_env):
    return demonstrate(expert, expert, lesson_env, range(TRANSCRIPTS), short=True)


@pytest.fixture(scope="module")
def cloned(demonstrations, tmp_path_factory):
    """A policy that has learned a little of what the expert does."""
    folder = tmp_path_factory.mktemp("sft")
    model, tokenizer = load_policy_model("tiny-tools")
    rows = resampled(demonstrations, 1_920, np.random.default_rng(0))
    options = {"per_device_train_batch_size": 32, "learning_rate": 2e-3, "max_steps": 60, "output_dir": str(folder)}
    trainer = sft_trainer(model, tokenizer, dataset_of(rows, tokenizer), **options, **CPU)
    trainer.train()
    agent = LanguageAgent(model, tokenizer, {"env": "stm_rl/Dialogue-v0"}, "sft")
    agent.save(folder / "run")
    return folder / "run", [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_exactly_the_operations_are_trained_on():
    model, tokenizer = load_policy_model("tiny")
    decisions = [
        Decision(2, "Ana's key", (3,), (1, 4)),
        Decision(),
        Decision(1),
        Decision(reads=(2,)),
        Decision(forget=(1,)),
    ]
    prompt = [{"role": "user", "content": "1 Ana: My key is here.\n2\n\nBen: Hello.\nAna: Where is my key?"}]
    data = dataset_of([Demonstration(prompt, decision, 1.0, "") for decision in decisions], tokenizer)
    trainer = sft_trainer(model, tokenizer, data, output_dir="runs/unused", max_steps=1, **CPU)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(len(decisions))])
    for decision, ids, labels in zip(decisions, batch["input_ids"], batch["labels"], strict=True):
        trained = tokenizer.decode(ids[labels != -100])
        assert (labels[labels != -100] == ids[labels != -100]).all()
        whole = tokenizer.apply_chat_template([*prompt, decision.message()], tokenize=False)
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        assert trained == whole.removeprefix(asked)
        assert "null" not in trained
        assert trained.count("<tool_call>") == len(decision.calls())


WROTE = '<tool_call>{"name": "memory_write", "arguments": {"slot": 1}}</tool_call>'
READ = '<tool_call>{"name": "memory_read", "arguments": {"slots": [2'
NO_WRITE = '{"name": "memory_read", "arguments": {"slots": ['
ENDED = "]}}</tool_call></s>"


@pytest.mark.parametrize(
    ("decision", "learned", "given", "expected"),
    [
        (Decision(1), "write", 0, WROTE),
        (Decision(1, "Ana"), "write", 0, WROTE.replace("}}", ', "text": "Ana"}}')),
        (Decision(1, reads=(2,)), "write", 1, WROTE),
        (Decision(), "write", 0, NO_WRITE),  # if there is a call, it is none that writes; whether there is, is not said
        (Decision(reads=(2,)), "write", 0, NO_WRITE),
        (Decision(1), "read", 0, "</s>"),
        (Decision(), "read", 0, "</s>"),
        (Decision(1, reads=(2,)), "read", 0, READ),
        (Decision(reads=(2,)), "read", 0, READ),
        (Decision(reads=(2,)), "read", 1, ENDED),
        (Decision(1, reads=(2,)), "read", 1, ENDED),
        (Decision(1, reads=(2, 4)), "read", 1, ", 4"),
        (Decision(reads=(2, 12)), "read", 1, ", 12"),
        (Decision(reads=(2, 12)), "read", 1, ", 12" + ENDED),
        (Decision(reads=(2,)), "read", 0, READ + ENDED),
        (Decision(), "write read", 0, "</s>"),  # there is no call, so none that writes
        (Decision(1), "write read", 0, WROTE + "</s>"),
        (Decision(1, reads=(2,)), "write read", 0, WROTE + READ),
        (Decision(reads=(2,)), "write read", 0, READ),
        (Decision(reads=(2,)), "write read", 1, NO_WRITE + ENDED),
        (Decision(1, reads=(2,)), "write read", 1, WROTE + ENDED),
        (Decision(1, reads=(2,)), "worth", 0, "3 0 9</s>"),
        (Decision(), "write worth", 0, NO_WRITE + "3 0 9</s>"),
        (Decision(1), "write read worth", 0, WROTE + "</s>" + "3 0 9</s>"),
    ],
)
def test_parts_of_a_decision_are_trained_on_apart(decision, learned, given, expected):
    _, tokenizer = load_policy_model("tiny")
    prompt = [{"role": "user", "content": "1 Ana: My key is here.\n2\n\nBen: Hello.\nAna: Where is my key?"}]
    parts = tuple(learned.split())
    one = Demonstration(prompt, decision, 1.0, "", (1.0, 1.0, 1.0), parts, given, ENDED in expected, "3 0 9")
    (row,) = dataset_of([one], tokenizer)
    assert tokenizer.decode([token for token in row["labels"] if token >= 0]) == expected
    assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
    said = Decision(reads=(1,)) if decision == Decision() and "write" in parts and "read" not in parts else decision
    more = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "3 0 9"}] if "worth" in parts else []
    whole = tokenizer.apply_chat_template([*prompt, said.message(), *more], tokenize=False)
    assert tokenizer.decode(row["input_ids"]) == whole
    if len(parts) == 1:  # several need not stand side by side
        assert expected in whole.partition("<|assistant|>")[2]


def test_demonstrations_are_the_experts_play(demonstrations, expert, task, lesson_env):
    assert len(demonstrations) == TRANSCRIPTS * 23
    assert any(one.decision.write for one in demonstrations)
    assert any(one.decision.reads for one in demonstrations)
    best = play(expert, lambda n, full: task.make(n, autoreset=False), range(TRANSCRIPTS))
    assert sum(bool(one.decision.write) for one in demonstrations) == best.writes.sum()
    quoted = demonstrate(expert, expert, lesson_env, range(TRANSCRIPTS), short=True, quote=True)
    wrote = next(one for one in quoted if one.decision.write)
    assert re.search(rf"\n{re.escape(wrote.decision.text)}\n\d+=", wrote.prompt[0]["content"])


def test_parts_say_what_to_read_after_what_the_learner_reads(expert, lesson_env, demonstrations):
    class Always(NoMemory):
        """Writes as the expert does, and reads slots 3 and 1."""

        def act_batch(self, observation, action_masks, deterministic):
            actions = expert.act_batch(observation, action_masks, deterministic)
            actions[:, 1:] = 3, 1
            return actions

    parts = demonstrate(Always(), expert, lesson_env, range(8), short=True, parts=True)
    assert len(parts) == 2 * 8 * 23
    expert_reads = 0
    for read, more in zip(parts[::2], parts[1::2], strict=True):
        assert (read.given, more.given) == (0, 1)
        assert read.prompt == more.prompt
        assert read.decision.write == more.decision.write
        assert read.stakes[0] == more.stakes[0] > 0
        assert more.decision.reads[0] == 3
        assert (read.closed, more.closed) == (False, len(more.decision.reads) == 2)
        first, rest = read.decision.reads, more.decision.reads[1:]
        assert len(first) <= 1
        if first != (3,):
            assert rest == first  # what was read was no use, and what is of use is still to be read
        else:
            assert rest != (3,)
        expert_reads += bool(first)
        assert (read.stakes[1] > 1) == bool(first)
    assert expert_reads > 8


def test_what_slots_are_worth_is_asked_after_decisions(expert, lesson_env):
    found = demonstrate(expert, expert, lesson_env, range(8), short=True, parts=True)
    worth = [[int(digit) for digit in one.worth.split()] for one in found]
    for one, (*held, now) in zip(found, worth, strict=True):
        lines = one.prompt[0]["content"].split("\n")[:4]
        assert all(value == 0 for value, line in zip(held, lines, strict=True) if line in "1234")  # a free slot
        if one.decision.write:
            assert now >= held[one.decision.write - 1]
    assert sum(now > 1 for *_, now in worth) > 10
    assert sum(max(held) > 1 for *held, _ in worth) > 50
    for share in (0.0, 0.5, 1.0):
        drawn = resampled(found, 1_000, np.random.default_rng(0), share)
        assert np.mean(["worth" in one.learned for one in drawn]) == pytest.approx(share, abs=0.05)


def test_slots_are_learned_in_many_orders():
    held = [Slot("Ana: My key is here.", 3), None, None, Slot("Ben: A dog.", 9)]
    prompt = [{"role": "user", "content": state_text(held, ["Ana: Hello.", "Ana: Where is my key?"], 12)}]
    one = Demonstration(prompt, Decision(4, reads=(4, 1)), 1.0, stakes=(1.0, 1.0), worth="3 0 0 7 2")
    free = replace(one, decision=Decision(2, reads=(1,)))
    seen = set()
    for other, to_free in ((shuffled(one, rng), shuffled(free, rng)) for rng in map(np.random.default_rng, range(60))):
        lines = other.prompt[0]["content"].split("\n")
        assert len(lines) == 4 + 4
        dog, key = (next(at for at, text in enumerate(lines, 1) if words in text) for words in ("A dog", "My key"))
        assert lines[dog - 1] == f"{dog} 9 0 0 0 0 Ben: A dog."
        assert lines[4:] == ["", "Ana: Hello.", "Ana: Where is my key?", f"12= {key}"]
        assert other.decision == Decision(dog, reads=(dog, key))
        digits = [int(digit) for digit in other.worth.split()]
        assert (digits[dog - 1], digits[key - 1], digits[4], sum(digits)) == (7, 3, 2, 12)
        lines = to_free.prompt[0]["content"].split("\n")
        assert to_free.decision.write == min(at for at in range(1, 5) if lines[at - 1] == str(at))  # the first free one
        seen.add((dog, key))
    assert len(seen) == 12


def test_what_hangs_on_much_is_drawn_often():
    plain = [Demonstration([], Decision(), 0.1, "a"), Demonstration([], Decision(1), 9.9, "b")]
    drawn = resampled(plain, 1_000, np.random.default_rng(0))
    assert 975 <= sum(one.state == "b" for one in drawn) <= 1_000


def test_each_part_is_learned_as_often_as_its_stake_says():
    stakes = [(2.0, 1.0), (0.1, 3.0), (0.5, 0.0)]
    prompt = [{"role": "user", "content": "1\n\nAna: Hello.\n0="}]
    found = [Demonstration(prompt, Decision(), 1.0, str(i), stakes=each, worth="0 0") for i, each in enumerate(stakes)]
    drawn = resampled(found, 20_000, np.random.default_rng(0))
    counts = [
        [sum(one.state == str(i) and part in one.learned for one in drawn) for part in PARTS[:2]] for i in range(3)
    ]
    np.testing.assert_allclose(np.array(counts) / 20_000, np.array(stakes) / 5.5, atol=0.015)  # 2 + 3 + 0.5
    assert all(one.learned for one in drawn)


def test_cloning_learns_to_call_tools_and_to_remember(cloned, task):
    folder, losses = cloned
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    agent = LanguageAgent.load(folder)
    assert (agent.name, agent.card) == ("sft", {"env": "stm_rl/Dialogue-v0"})
    played = play(agent, lambda n, full: task.make(n, autoreset=False), range(16))
    assert agent.decisions == 16 * 23
    assert agent.bad / agent.decisions < 0.05
    assert played.writes.sum() > 5
    assert played.gains.mean() > 0.2
    again = play(LanguageAgent.load(folder), lambda n, full: task.make(n, autoreset=False), range(16))
    np.testing.assert_array_equal(played.returns, again.returns)


def test_one_by_one_and_together_a_model_decides_alike(cloned, task, demonstrations):
    agent = LanguageAgent.load(cloned[0])
    prompts = [one.prompt for one in demonstrations[:40]]
    together = agent.decide(prompts, 4, 2)
    assert together == [agent.decide([prompt], 4, 2)[0] for prompt in prompts]


def test_an_untrained_model_never_crashes_an_episode(task):
    agent = LanguageAgent(*load_policy_model("tiny"), max_new_tokens=16)
    played = play(agent, lambda n, full: task.make(n, autoreset=False), range(3))
    assert played.returns.tolist() == [0, 0, 0]
    assert agent.bad == agent.decisions == 3 * 23
    assert sum(agent.malformed.values()) >= agent.bad


def test_the_colder_the_likelier_decisions_are_drawn(cloned, demonstrations):
    agent = LanguageAgent.load(cloned[0])
    prompts = [one.prompt for one in demonstrations[:60]]
    likeliest = agent.decide(prompts, 4, 2)

    def share(temperature: float) -> float:
        agent.temperature = temperature
        drawn = agent.decide(prompts, 4, 2, deterministic=False)
        return float(np.mean([one == best for one, best in zip(drawn, likeliest, strict=True)]))

    assert share(0.01) == 1
    assert share(1.0) > share(4.0) + 0.1


def test_decisions_are_learned_where_the_model_is_not_sure(cloned, expert, lesson_env):
    agent = LanguageAgent.load(cloned[0])
    episodes: list[int] = []
    met = visits_of(agent, lesson_env, range(4), episodes.append)
    assert (sum(episodes), len(met)) == (4, 4 * 23)
    found = unsure(expert, lesson_env, met)
    assert 5 < len(found) < len(met)

    def differing(states):
        prompts = [one.prompt for one in states for _ in range(16)]
        told = agent.decide(prompts, 4, 2, deterministic=False)
        return np.mean([len(set(told[first : first + 16])) > 1 for first in range(0, len(told), 16)])

    assert differing(found) > differing(met) + 0.1
    assert min(one.stake for one in found) == LEAST_STAKE < max(one.stake for one in found)
    rows = state_rows(found, 4000, np.random.default_rng(0))
    assert np.mean(rows["weight"]) == pytest.approx(1, abs=0.1)  # drawn more often, counted less
    top = max(found, key=lambda one: one.stake)
    share = rows["state"].count(top.state) / 4000
    assert share == pytest.approx(top.stake / sum(one.stake for one in found), rel=0.3)


def test_same_state_training_makes_likelier_what_pays(expert, task, lesson_env, tmp_path):
    agent = LanguageAgent(*load_policy_model("tiny-tools"))
    states = unsure(expert, lesson_env, visits_of(agent, lesson_env, range(8)))
    returns = StateReturns(Playout(lambda n: task.make(n, autoreset=False), expert), agent.tokenizer, (4, 8))

    def drawn(one):
        return returns.returns([one.state] * 24, agent.decide([one.prompt] * 24, 4, 2, deterministic=False), 1.0)

    one = next(found for found in states if np.ptp([drawn(found).mean(), drawn(found).max()]) > 0.5)
    before = drawn(one)
    rows = state_rows([one], 12, np.random.default_rng(0))
    options = {"per_device_train_batch_size": 16, "num_generations": 16, "max_steps": 12, "learning_rate": 1e-3}
    options |= {"output_dir": str(tmp_path), "max_completion_length": 24}
    trainer = grpo_trainer(agent.model, agent.tokenizer, rows, returns, **options, **CPU)
    trainer.train()
    after = drawn(one)
    assert after.mean() > before.mean() + 0.3 * before.std()
    logs = [row for row in trainer.state.log_history if "reward" in row]
    assert logs[0]["horizon"] == 4
    assert logs[-1]["horizon"] == 8
    assert all({"malformed", "equal_groups", "frac_reward_zero_std"} <= row.keys() for row in logs)
