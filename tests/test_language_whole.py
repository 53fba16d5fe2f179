"""Whole episodes by tool calls: the environment for TRL, its data sets, and a step of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trl
from helpers import TRL_ON_CPU as CPU
from helpers import WordLM, numbered, transcript
from transformers import AutoModelForCausalLM
from transformers.utils import get_json_schema
from trl import GRPOTrainer

from stm_rl.errors import StmError
from stm_rl.lm import ScoringEngine
from stm_rl.lm.loading import load_pretrained
from stm_rl.worlds import DialogueWorld
from stm_rl_agents.heuristics import RandomAgent
from stm_rl_agents.language.chat import Slot, load_policy_model, state_text
from stm_rl_agents.language.grpo import FORMAT_WEIGHT
from stm_rl_agents.language.sft import dataset_of, sft_trainer
from stm_rl_agents.language.tools import NAMES, TOOLS, Decision
from stm_rl_agents.language.whole import (
    DONE,
    INSTRUCTION,
    OVER,
    WholeEpisode,
    demonstrate_episodes,
    environment_factory,
    episode_rows,
    well_formed_calls,
    whole_episode_trainer,
)
from stm_rl_envs import MemoryEnv, MemorySettings, MemoryVectorEnv

pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")
MEMORY = MemorySettings(slots=2, window=1, reads=2)
TRANSCRIPTS = [DialogueWorld(turns=10, min_gap=1, max_gap=2).generate(seed) for seed in range(4)]


def make_env(count: int) -> MemoryVectorEnv:
    return MemoryVectorEnv(
        count, TRANSCRIPTS, settings=MEMORY, lm=ScoringEngine(WordLM()), encoder="words", autoreset=False
    )


def an_episode(transcript: int = 0, **options: Any) -> WholeEpisode:
    episode = environment_factory(make_env, **options)()
    episode.reset(transcript=transcript, prompt=[])
    return episode


def line_of(transcript: int, turn: int) -> str:
    said = TRANSCRIPTS[transcript].turns[turn]
    return f"{said.speaker}: {said.text}"


def decisions(seed: int, count: int) -> list[Decision]:
    """Return decisions of every kind: writes of turns and of words, forgets, reads of none to all slots."""
    rng = np.random.default_rng(seed)
    return [
        Decision(
            int(rng.integers(3)),
            text=("", "Diana has the bicycle")[rng.integers(2)],
            forget=tuple(rng.permutation([1, 2])[: rng.integers(2)].tolist()),
            reads=tuple(rng.permutation([1, 2])[: rng.integers(3)].tolist()),
        )
        for _ in range(count)
    ]


def calls_of(decision: Decision) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls that end a turn with a decision."""
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in decision.calls()]
    return calls if decision.reads else [*calls, ("memory_read", {"slots": []})]


def play_in_env(transcript: int, chosen: list[Decision]) -> float:
    """Return the reward of decisions in the environment for Gymnasium."""
    env = MemoryEnv(TRANSCRIPTS, settings=MEMORY, lm=ScoringEngine(WordLM()), encoder="words")
    env.reset(options={"transcript": transcript})
    return sum(env.step(decision.apply(env.episodes, 0))[1] for decision in chosen)


def play(episode: WholeEpisode, chosen: list[Decision]) -> list[str]:
    return [getattr(episode, name)(**values) for decision in chosen for name, values in calls_of(decision)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reward_is_that_of_the_same_decisions(seed: int) -> None:
    chosen = decisions(seed, 9)
    episode = an_episode(seed)
    answers = play(episode, chosen)
    assert [answer for answer in answers if answer != DONE] == [*(line_of(seed, turn) for turn in range(1, 9)), OVER]
    expected = play_in_env(seed, chosen)
    assert episode.get_reward() == pytest.approx(expected)
    assert episode.get_reward() == episode.get_reward()
    assert expected != 0
    assert not episode.malformed


def test_reset_leaves_nothing() -> None:
    """An instance that was in the middle of an episode plays another one as a fresh one does."""
    used, fresh = an_episode(0), an_episode(1)
    play(used, decisions(0, 4))
    used.memory_write(slot=9)
    used.memory_write(slot=1, text="left over")  # a turn that was not ended
    used.reset(transcript=1, prompt=[])
    assert (used.calls, used.turns, used.get_reward()) == (0, 0, 0)
    assert not used.malformed
    for step, decision in enumerate(decisions(3, 9)):
        one, other = used._env.episodes, fresh._env.episodes
        assert one.held(0) == other.held(0)
        for name, value in one.observe().items():
            np.testing.assert_array_equal(value, other.observe()[name], err_msg=f"{name} at step {step}")
        assert play(used, [decision]) == play(fresh, [decision])
    assert used.get_reward() == fresh.get_reward() != 0
    assert used.calls == fresh.calls


BAD_CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("memory_write", {}, "missing a required argument: 'slot'"),
    ("memory_write", {"slot": 3}, "memory_write of slot 3"),
    ("memory_write", {"slot": True}, "memory_write of slot True"),
    ("memory_write", {"slot": "1"}, "memory_write of slot '1'"),
    ("memory_write", {"slot": 1, "text": ["a"]}, "memory_write of the text"),
    ("memory_write", {"slot": 1, "words": "a"}, "unexpected keyword argument 'words'"),
    ("memory_forget", {"slot": None}, "memory_forget of slot None"),
    ("memory_read", {"slots": 1}, "memory_read of 1"),
    ("memory_read", {"slots": [0]}, "memory_read of"),
    ("memory_read", {"slots": {"a": 1}}, "memory_read of"),
]


@pytest.mark.parametrize(("name", "values", "reason"), BAD_CALLS)
def test_malformed_calls_are_answered_and_do_nothing(name: str, values: dict[str, Any], reason: str) -> None:
    episode, clean = an_episode(), an_episode()
    answer = getattr(episode, name)(**values)
    assert answer.startswith("error: ")
    assert reason in answer
    assert len(answer) < 100
    assert episode.malformed.total() == episode.calls == 1
    assert episode.turns == 0
    chosen = decisions(0, 9)
    assert play(episode, chosen) == play(clean, chosen)
    assert episode.get_reward() == clean.get_reward()


def test_second_write_of_a_turn_and_calls_after_the_end_are_left_out() -> None:
    episode = an_episode(max_turns=1)
    assert episode.memory_write(slot=1) == DONE
    assert episode.memory_write(slot=2) == "error: a second memory_write"
    assert episode.memory_read(slots=[]) == OVER
    assert episode._env.episodes.held(0) == [line_of(0, 0), None]
    assert episode.memory_read(slots=[]) == "error: the conversation is over"
    assert (episode.turns, episode.calls, episode.malformed.total()) == (1, 4, 2)
    unused = environment_factory(make_env)()
    assert unused.memory_read(slots=[]).startswith("error: ")  # before the first reset


def test_memory_is_shown_if_asked_for() -> None:
    episode = an_episode(show_memory=True)
    episode.memory_write(slot=2, text="a bicycle")
    assert episode.memory_read(slots=[]) == state_text(
        [None, Slot("a bicycle", age=1, idle=1, taken_up_last=1.0)], [line_of(0, 1)], 1
    )


def test_settings_that_cannot_work_are_errors() -> None:
    with pytest.raises(StmError, match=r"2 episodes.*expected one"):
        WholeEpisode(make_env(2))
    with pytest.raises(StmError, match="max_turns is 0"):
        WholeEpisode(make_env(1), max_turns=0)
    with pytest.raises(StmError, match="transcript 9"):
        an_episode(9)


def test_tools_are_those_of_single_decisions() -> None:
    """The public methods are the three tools and no more, with the same arguments."""
    public = {name for name in dir(WholeEpisode) if not name.startswith("_")}
    assert public == {*NAMES, "reset", "get_reward"}
    for tool in TOOLS:
        known = tool["function"]
        made = get_json_schema(getattr(an_episode(), known["name"]))["function"]
        assert made["name"] == known["name"]
        ours, theirs = known["parameters"], made["parameters"]
        assert theirs["required"] == ours["required"]
        assert {name: value["type"] for name, value in theirs["properties"].items()} == {
            name: value["type"] for name, value in ours["properties"].items()
        }


def test_rows_hold_first_turn_and_transcript() -> None:
    rows = episode_rows(make_env(1), [2, 0], short=False)
    assert rows["transcript"][:] == [2, 0]
    system, user = rows[0]["prompt"]
    assert system == {"role": "system", "content": INSTRUCTION}
    assert user == {"role": "user", "content": state_text([None, None], [line_of(2, 0)], 0)}
    assert episode_rows(make_env(1), [2], short=True)[0]["prompt"] == [user]


def test_imitation_trains_on_exactly_the_calls(tmp_path: Path) -> None:
    shown = demonstrate_episodes(RandomAgent(), make_env(1), [0, 1], short=True)
    model, tokenizer = load_policy_model("tiny")
    trainer = sft_trainer(model, tokenizer, dataset_of(shown, tokenizer), output_dir=str(tmp_path), **CPU)
    for one, row in zip(shown, trainer.train_dataset, strict=True):
        expected = ""
        for message in one.messages:
            if message["role"] == "assistant":
                found = [call["function"] for call in message.get("tool_calls", ())]
                expected += "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in found) + "</s>"
        assert tokenizer.decode([token for token in row["labels"] if token >= 0]) == expected
        assert len(one.messages) > 2 * len(TRANSCRIPTS[0].turns)


def qwen_like(folder: Path) -> tuple[Any, Any]:
    """Return a small model with the chat template of Qwen3, loaded as any model with one of its own is."""
    model, tokenizer = load_pretrained(AutoModelForCausalLM, "tiny", "cpu", "float32")
    known = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
    tokenizer.chat_template = known.read_text(encoding="utf-8")
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    model.resize_token_embeddings(len(tokenizer))
    model.config.max_position_embeddings = tokenizer.model_max_length = 2048  # the list of tools is long
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_policy_model(folder)


def test_demonstrations_are_what_a_model_would_have_seen() -> None:
    """Said again call by call, a demonstration gets the same answers, to the end of the transcript."""
    env = MemoryVectorEnv(
        1, [numbered(4), transcript("over", "over", "and out", "over")], settings=MEMORY, lm=None,
        reward={"write_cost": 1.0}, encoder="words", autoreset=False,
    )  # fmt: skip
    for index, one in enumerate(demonstrate_episodes(RandomAgent(1), env, [0, 1], short=False)):
        system, user, *rest = one.messages
        assert [system, user] == episode_rows(env, [index], short=False)[0]["prompt"]
        episode = WholeEpisode(env)
        episode.reset(transcript=index)
        calls = [call["function"] for message in rest for call in message.get("tool_calls", ())]
        answers = [message["content"] for message in rest if message["role"] == "tool"]
        assert [getattr(episode, call["name"])(**call["arguments"]) for call in calls] == answers
        assert episode.turns == 3
        assert answers[-1] == OVER
        assert rest[-1] == {"role": "assistant", "content": ""}


def script_of(chosen: list[Decision], short: bool) -> list[str]:
    """Return what a model writes to decide so, turn by turn, and its last word."""
    call = "<tool_call>{}</tool_call>" if short else "<tool_call>\n{}\n</tool_call>"
    end = "</s>" if short else "<|im_end|>"
    texts = []
    for decision in chosen:
        calls = [json.dumps({"name": name, "arguments": values}) for name, values in calls_of(decision)]
        texts.append(("" if short else "\n").join(map(call.format, calls)) + end)
    return [*texts, end]


@pytest.mark.parametrize(("short", "turns"), [(True, 9), pytest.param(False, 3, marks=pytest.mark.slow)])
def test_a_training_step_on_whole_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool, turns: int
) -> None:
    """TRL runs the loop; rewards are those of the same decisions, and only what the model wrote is trained on."""
    model, tokenizer = load_policy_model("tiny") if short else qwen_like(tmp_path)
    rows = episode_rows(make_env(1), [0, 3], short)
    trainer = whole_episode_trainer(
        model, tokenizer, rows, environment_factory(make_env, max_turns=turns), output_dir=str(tmp_path), max_steps=1,
        per_device_train_batch_size=4, num_generations=2, max_completion_length=900, learning_rate=1e-3, **CPU,
    )  # fmt: skip
    played = [decisions(seed, turns) for seed in range(4)]
    scripts = [script_of(chosen, short) for chosen in played]
    scripts[1][1] = '<tool_call>{"name": "memory_write", "arguments": {"slot": 7}}</tool_call>' + scripts[1][1]
    scripts[2][2] = '<tool_call>{"name": "memory_wipe", "arguments": {}}</tool_call>' + scripts[2][2]
    asked: list[list[int]] = []

    def write(self: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        assert len(prompt_ids) == 4  # every episode goes on to its end
        texts = [script[len(asked)] for script in scripts]
        asked.append(prompt_ids[0])
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], None

    kept: dict[str, Any] = {}
    scored = GRPOTrainer._generate_and_score_completions

    def keep(self: Any, inputs: Any) -> Any:
        kept.update(scored(self, inputs))
        kept["indices"] = [row["transcript"] for row in inputs]
        return dict(kept)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", write)
    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", keep)
    before = model.get_input_embeddings().weight.detach().clone()
    trainer.train()
    assert len(asked) == turns + 1
    rewards = [play_in_env(index, chosen) for index, chosen in zip(kept["indices"], played, strict=True)]
    episodes = trainer.environments
    assert [one.get_reward() for one in episodes] == pytest.approx(rewards)
    assert [one.malformed.total() for one in episodes] == [0, 1, 0, 0]
    history = trainer.state.log_history[0]
    share = [1.0, 1 - 1 / episodes[1].calls, 1.0, 1.0]
    assert history["reward"] == pytest.approx(np.mean(rewards) + FORMAT_WEIGHT * np.mean(share), rel=1e-4)
    assert history["turns"] == turns
    assert history["tools/failure_frequency"] > 0  # the tool that does not exist
    trained = kept["tool_mask"].bool() & kept["completion_mask"].bool()
    for ids, mask, script in zip(kept["completion_ids"], trained, scripts, strict=True):
        assert tokenizer.decode(ids[mask]) == "".join(script)
    shown = tokenizer.decode(asked[-1])
    assert all(line_of(kept["indices"][0], turn) in shown for turn in range(turns))
    assert ("memory_forget" in tokenizer.decode(asked[0])) is not short  # the tools are listed, or known
    assert history["grad_norm"] > 0
    assert not torch.equal(before, model.get_input_embeddings().weight)


def test_share_of_well_formed_calls() -> None:
    good, half, silent = an_episode(), an_episode(), an_episode()
    good.memory_read(slots=[])
    half.memory_read(slots=[])
    half.memory_read(slots=[5])
    logged: dict[str, float] = {}
    assert well_formed_calls([good, half, silent], logged.__setitem__) == [1.0, 0.5, 0.0]
    assert logged == pytest.approx({"malformed": 1 / 3, "turns": 2 / 3})
