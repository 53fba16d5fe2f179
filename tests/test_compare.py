from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WordLM, numbered, run_main

from stm_rl.comparison import Continuation, read_continuations
from stm_rl.comparison.sampling import sample
from stm_rl.errors import StmError
from stm_rl.features import HashedWords
from stm_rl.lm import PromptFormat, load_engine
from stm_rl.transcript import Transcript
from stm_rl.worlds import DialogueWorld, GeneratedTranscripts
from stm_rl_agents import Agent, Informed, heuristics
from stm_rl_agents.continuations import Moment, Writing, chosen_turns, continuations, moments
from stm_rl_agents.language.states import restore
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_envs import MemorySettings, MemoryVectorEnv

WORLD = GeneratedTranscripts(DialogueWorld(), "test", 6)
HOW = Writing(kind="dialogue", env="stm_rl/Dialogue-v0", encoder=HashedWords(16))


def env_of(lm: Any, transcripts: Sequence[Transcript] = WORLD, n: int = 2, **settings: Any) -> MemoryVectorEnv:
    return MemoryVectorEnv(
        n, transcripts, lm=lm, settings=MemorySettings(**settings), encoder=HashedWords(16), autoreset=False
    )


def named(name: str) -> Agent:
    return next(agent for agent in heuristics() if agent.name == name)


def played(agent: Agent, lm: Any, how: Writing = HOW, count: int = 3, **settings: Any) -> list[Continuation]:
    env = env_of(lm, **settings)
    return continuations(agent.name, env, moments(agent, env, range(count)), how)


class Noting(Agent):
    """Forgets slot 1, keeps each turn in it in words of its own, and reads slot 2, to which it wrote at first."""

    name = "noting"

    def start(self, env: MemoryVectorEnv) -> None:
        self.env = env

    def act_batch(self, observation: Any, action_masks: Any, deterministic: bool) -> Any:
        episodes = self.env.episodes
        actions = np.zeros((episodes.n, 1 + episodes.settings.reads), np.int64)
        for row in range(episodes.n):
            step = int(episodes.step_index[row])
            if step == 0:
                episodes.note(row, "the beginning")
                actions[row, 0] = 2
            elif step <= episodes.last_step[row]:
                if step > 1:
                    episodes.forget(row, 1)
                episodes.note(row, f"note {step}")
                actions[row] = [1, 2, 0]
        return actions


def test_turns_of_the_model_and_dependent_turns_are_continued() -> None:
    episodes = env_of(WordLM()).episodes
    told = WORLD[0]
    chosen = chosen_turns(told, episodes)
    assert {probe.turn for probe in told.probes if probe.turn > 2} <= chosen
    assert all(told.turns[turn].meta["kind"] in ("answer", "reply") for turn in chosen)
    assert min(chosen) > episodes.settings.window
    assert chosen_turns(numbered(6), episodes) == {3, 4, 5}  # nobody is an assistant: the model writes everything


def test_text_without_memory_is_what_the_window_alone_gives(lm: WordLM) -> None:
    found = played(Informed(), lm)
    assert any(one.reads for one in found)
    for one in found:
        alone = PromptFormat().context((), one.window, one.speaker)
        assert one.without_memory == lm.generate([alone])[0]
        assert one.with_memory == lm.generate([PromptFormat().context(one.reads, one.window, one.speaker)])[0]
        assert one.differs == bool(one.reads)


def test_history_is_the_true_one(lm: WordLM) -> None:
    told = {WORLD[i].id: WORLD[i] for i in range(3)}
    for one in played(Informed(), lm):
        turns = [str(turn) for turn in told[one.transcript].turns]
        assert one.before == turns[: one.turn]
        assert one.window == turns[one.turn - 2 : one.turn]
        assert set(one.reads) <= set(one.before[:-2])
        assert turns[one.turn] == f"{one.speaker}: {one.truth}"


def test_an_agent_that_reads_nothing_changes_nothing(lm: WordLM) -> None:
    for one in played(named("none"), lm):
        assert one.with_memory == one.without_memory
        assert one.measures["with"] == one.measures["without"]


def test_same_seeds_give_the_same_and_batches_do_not_matter(lm: WordLM) -> None:
    first, again = played(named("random"), lm), played(named("random"), WordLM())
    assert [one.as_json() for one in first] == [one.as_json() for one in again]
    alone = env_of(lm, n=1)
    one_by_one = continuations("informed", alone, moments(Informed(), alone, range(3)), HOW)
    assert [one.id for one in one_by_one] == [one.id for one in played(Informed(), lm)]


def test_true_likelihood_is_of_the_contexts_that_wrote(lm: WordLM) -> None:
    one = next(one for one in played(Informed(), lm) if one.reads)
    for side, reads in (("with", one.reads), ("without", [])):
        context = PromptFormat().context(reads, one.window, one.speaker)
        expected = lm.score([context], [f" {one.truth}"])[0]
        assert one.measures[side]["true_likelihood"] == pytest.approx(expected, abs=1e-4)


def test_notes_forgotten_slots_and_states_are_kept(lm: WordLM) -> None:
    env = env_of(lm)
    met = moments(Noting(), env, [0])
    late = next(moment for moment in met if moment.turn > 4)
    step = late.turn - 1
    assert late.reads == ["the beginning"]
    assert late.decision == {"write": 1, "reads": [2], "forget": [1], "text": f"note {step}"}
    other = env_of(lm, n=1).episodes
    restore(other, [late.state])
    assert other.step_index.tolist() == [step]
    assert other.held(0)[:2] == [f"note {step - 1}", "the beginning"]  # as it was before the decision
    [one] = continuations("noting", env, [late], HOW)
    assert one.reads == ["the beginning"]


def test_decisions_can_be_shown_as_they_were_when_they_were_made(lm: WordLM) -> None:
    pytest.importorskip("trl")
    from stm_rl_agents.language.chat import prompt_of
    from stm_rl_agents.language.reviewed import prompt_at

    env, fresh = env_of(lm), env_of(lm, n=1).episodes
    for agent in (Informed(), Noting()):
        met = moments(agent, env, range(2))
        for moment, one in zip(met, continuations(agent.name, env, met, HOW), strict=True):
            restore(fresh, [moment.state])
            for short in (True, False):
                assert prompt_at(one, json.loads(one.state or ""), short) == prompt_of(fresh, 0, short)


def test_no_moment_gives_no_text(lm: WordLM) -> None:
    none: list[Moment] = []
    assert continuations("fifo", env_of(lm), none, HOW) == []


# Drawn texts, with the embedded model.


def test_drawn_texts_are_the_same_for_the_same_seeds() -> None:
    lm = load_engine("tiny", "cpu", "float32").lm
    context = "user: Where is the key?\nassistant:"
    first = sample(lm, ["> user: The key is in the cupboard.\n" + context, *[context] * 8], range(9), 1.0, 16)
    assert sample(lm, [context] * 2, [3, 5], 1.0, 16) == [first[3], first[5]]
    assert len(set(first)) > 4
    assert sample(lm, [context], [5], 1e-3, 16) == lm.generate([context], 16)


def test_draws_follow_the_model() -> None:
    lm: Any = load_engine("tiny", "cpu", "float32").lm
    context, count = "user: Where is the key?\nassistant:", 600
    drawn = Counter(sample(lm, [context] * count, range(count), 1.0, 1))
    ids = torch.tensor(lm.text.texts([context]))
    with torch.inference_mode():
        likely = lm.model(input_ids=ids).logits[0, -1].softmax(-1)
    expected: Counter[str] = Counter()
    for token, share in enumerate(likely.tolist()):
        expected[lm.tokenizer.decode([token], skip_special_tokens=True).split("\n")[0].strip()] += share  # type: ignore[assignment]
    distance = sum(abs(drawn[text] / count - expected[text]) for text in {*drawn, *expected}) / 2
    assert distance < 0.1


def test_draws_without_reads_are_the_same_twice() -> None:
    how = Writing(kind="dialogue", env="e", temperature=1.0, seed=3, encoder=HashedWords(16))
    found = played(Informed(), "tiny", how, count=1)
    assert all(one.differs <= bool(one.reads) for one in found)
    again = played(Informed(), "tiny", how, count=1)
    assert [one.id for one in found] == [one.id for one in again]
    other = Writing(kind="dialogue", env="e", temperature=1.0, seed=4, encoder=HashedWords(16))
    assert [one.id for one in played(Informed(), "tiny", other, count=1)] != [one.id for one in found]


def test_models_that_cannot_be_drawn_from_are_refused(lm: WordLM) -> None:
    with pytest.raises(StmError, match="greedy"):
        sample(lm, ["a"], [0], 1.0, 4)
    with pytest.raises(StmError, match="temperature is 0"):
        sample(lm, ["a"], [0], 0.0, 4)


# The command.


def test_command_compares_three_worlds(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stm_rl.cli", "compare", "informed", "--episodes", "1", "--out", "runs/x"]
    done = subprocess.run(
        [*command, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "runs/x/comparison.json").read_text())
    assert list(report["kinds"]) == ["dialogue", "story", "screenplay", "all"]
    recall = report["kinds"]["all"]["measures"]["answer_recall"]
    assert recall["with"] > 0.6 > 0.3 > recall["without"]
    assert recall["difference"]["ci95"][0] > 0
    found = read_continuations(tmp_path / "runs/x")
    assert len(found) == report["kinds"]["all"]["turns"]
    assert {one.kind for one in found} == {"dialogue", "story", "screenplay"}
    assert "stm-rl review runs/x" in done.stderr


def test_command_prints_a_table_of_own_transcripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = [
        ("user", "My cat is called Minka."),
        ("assistant", "Nice."),
        ("user", "It rains."),
        ("assistant", "Oh."),
    ] * 2
    turns = [{"role": role, "content": text} for role, text in told]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    done = run_main(monkeypatch, capsys, "compare", "similarity", "--transcripts", "chats.jsonl", "--samples", "0.8")
    assert done.code == 0, done.err
    assert "transcript · 1 episodes · 3 turns continued" in done.out
    assert "rouge_l" in done.out
    assert "contradiction" not in done.out
    assert (tmp_path / "runs/compare-similarity/continuations.jsonl").is_file()


def test_a_policy_is_compared_in_its_run_folder_and_has_to_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = MemoryVectorEnv(1, WORLD, lm=None, reward={"recall": 1.0}).single_observation_space
    sizes = {name: space[name].shape[-1] for name in ("turn", "slot_features", "globals")}  # type: ignore[index]
    torch.manual_seed(0)
    network = PointerNetwork(sizes["turn"], sizes["slot_features"], sizes["globals"], reads=2)
    PolicyAgent(network, name="untrained").save(tmp_path)
    arguments = ("compare", tmp_path, "--env", "stm_rl/Story-v0", "--episodes", 1)
    done = run_main(monkeypatch, capsys, *arguments)
    assert done.code == 0, done.err
    assert {one.agent for one in read_continuations(tmp_path)} == {"untrained"}
    refused = run_main(monkeypatch, capsys, *arguments, "--set", "reads=3")
    assert refused.code == 2
    assert "trained with 2 reads" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "unknown agent 'nobody'"),
        (["fifo", "--samples", "often"], "--samples is 'often'"),
        (["fifo", "--samples", "0"], "--samples is '0'"),
        (["fifo", "--lm", "none"], "--lm none"),
        (["fifo", "--env", "stm_rl/Dialog-v0"], "unknown environment"),
        (["fifo", "--transcripts", "x.jsonl", "--env", "a", "--env", "b"], "one --env"),
        (["fifo", "--out", "file"], "is a file"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    done = run_main(monkeypatch, capsys, "compare", *arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))
