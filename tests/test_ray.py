"""Labels and evaluations made by Ray actors on a cluster of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WordLM, transcript

from stm_rl.cli import main
from stm_rl.cluster import Cluster, LabelWork, Stage, connect, label_on, play_on
from stm_rl.encoders import default_encoder
from stm_rl.errors import StmError
from stm_rl.evaluation import Played, play
from stm_rl.features import HashedWords
from stm_rl.labels import GainTable, Labeller, LabelStore, PairSettings
from stm_rl.lm import PromptFormat, ScoringEngine
from stm_rl.prepare import Prepared, Preparer
from stm_rl.worlds.dialogue import DialogueWorld
from stm_rl_agents import FullContext, Informed, Oracle, heuristics
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_envs.dialogue import DialogueVectorEnv
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES

ALL_PAIRS = PairSettings(prefilter="none")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connect("local", workers=2) as connected:
        yield connected


def squares(place: str) -> Callable[[int], tuple[int, int]]:
    """Make what squares numbers; at some of them it does as the file at ``place`` says, once or always."""

    def square(number: int) -> tuple[int, int]:
        if number == 3 and "fail" in place:
            raise StmError("3 has no square here")
        if number == 3 and "bug" in place:
            raise ZeroDivisionError("by nothing")
        if number == 3 and "die" in place:
            try:
                Path(place).touch(exist_ok="always" in place)
            except FileExistsError:
                pass
            else:
                os._exit(1)
        return number * number, os.getpid()

    if "refuse" in place:
        raise StmError("no squares on this machine")
    return square


def ask(cluster: Cluster, place: object) -> dict[int, tuple[int, int]]:
    return dict(cluster.map(partial(squares, str(place)), range(2, 12)))


def test_actors_share_the_work_and_one_that_is_lost_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    found = ask(cluster, tmp_path / "die")
    assert {number: square for number, (square, _) in found.items()} == {n: (n + 2) ** 2 for n in range(10)}
    assert (tmp_path / "die").exists()
    assert len({process for _, process in found.values()} - {os.getpid()}) >= 2
    assert dict(cluster.map(partial(squares, ""), [])) == {}


@pytest.mark.slow
def test_a_job_that_loses_two_actors_is_an_error(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(StmError, match=r"an actor on the Ray cluster was lost, and the one that took its place too"):
        ask(cluster, tmp_path / "die-always")


def test_errors_of_actors_are_those_of_the_user(cluster: Cluster) -> None:
    with pytest.raises(StmError, match=r"^3 has no square here$"):
        ask(Cluster(1, gpus=False, threads=1), "fail")


@pytest.mark.slow
def test_errors_of_making_the_work_are_those_of_the_user(cluster: Cluster) -> None:
    with pytest.raises(StmError, match=r"^no squares on this machine$"):
        ask(cluster, "refuse")
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        ask(cluster, "bug")


def words(name: str = "words") -> ScoringEngine:
    lm = WordLM()
    lm.id = name
    return ScoringEngine(lm)


def unasked() -> ScoringEngine:
    raise StmError("nothing was left to ask for")


@pytest.fixture(scope="module")
def items() -> list[Prepared]:
    world = DialogueWorld()
    transcripts = [world.generate(seed) for seed in range(30)]
    transcripts += [transcript("a: one", "b: two"), transcripts[4]]
    return Preparer(transcripts, None, HashedWords(16), 3, PromptFormat())(range(len(transcripts)))


def labeller(items: list[Prepared], path: Path | None, settings: PairSettings = ALL_PAIRS) -> Labeller:
    prepare = Preparer([item.transcript for item in items], words(), HashedWords(16), 3, PromptFormat())
    return Labeller(prepare, settings, LabelStore(path) if path else None)


def assert_equal(tables: list[GainTable], others: list[GainTable]) -> None:
    assert len(tables) == len(others)
    for table, other in zip(tables, others, strict=True):
        for name in ("turns", "steps", "gains"):
            np.testing.assert_array_equal(getattr(table, name), getattr(other, name))


@pytest.mark.parametrize(
    "settings",
    [ALL_PAIRS, pytest.param(PairSettings(prefilter="embedding", candidates=2), marks=pytest.mark.slow)],
    ids=["none", "embedding"],
)
def test_labels_are_those_of_one_process(
    settings: PairSettings, cluster: Cluster, items: list[Prepared], tmp_path: Path
) -> None:
    alone = labeller(items, None, settings)
    expected = alone.label(items)
    shared = labeller(items, tmp_path / "labels.sqlite", settings)
    done: list[int] = []
    label_on(cluster, shared, words, items, done.append)
    assert shared.scored == alone.scored > 0
    assert sum(done) == len(items)
    assert len(done) > 8
    assert_equal(shared.label(items), expected)
    assert shared.scored == alone.scored
    assert shared.prepare.scorer.requests == 0


def test_what_is_in_the_store_is_not_sent(cluster: Cluster, items: list[Prepared], tmp_path: Path) -> None:
    labeller(items, tmp_path / "labels.sqlite").label(items)
    again = labeller(items, tmp_path / "labels.sqlite")
    label_on(cluster, again, unasked, items)
    assert again.scored == 0


@pytest.mark.slow
def test_labels_that_came_before_a_failure_are_kept(cluster: Cluster, items: list[Prepared], tmp_path: Path) -> None:
    store = labeller(items, tmp_path / "labels.sqlite")

    def interrupt(count: int) -> None:
        if store.scored:
            raise KeyboardInterrupt

    assert store.store is not None
    with pytest.raises(KeyboardInterrupt):
        label_on(cluster, store, words, items, interrupt)
    kept = len(store.store)
    assert 0 < kept < len(items)
    scored = store.scored
    label_on(cluster, store, words, items)
    assert store.scored > scored
    assert_equal(store.label(items), labeller(items, None).label(items))


def test_labels_need_a_store_and_the_same_model(cluster: Cluster, items: list[Prepared]) -> None:
    with pytest.raises(StmError, match="need a store"):
        label_on(cluster, labeller(items, None), words, items)
    work = LabelWork(partial(words, "other"), "words", 3, PromptFormat(), ALL_PAIRS)
    with pytest.raises(StmError, match="is other on a machine of the cluster but words here; put the same model"):
        work()


def dialogues(lm: ScoringEngine, count: int, full_context: bool) -> DialogueVectorEnv:
    return DialogueVectorEnv(
        count, turns=20, autoreset=False, full_context=full_context, lm=lm, encoder=HashedWords(16)
    )


def policy(seed: int, size: int = 16) -> PolicyAgent:
    torch.manual_seed(seed)
    network = PointerNetwork(size, len(SLOT_FEATURES), len(GLOBAL_FEATURES), 2, width=16)
    torch.nn.init.normal_(list(network.pick.parameters())[-2])
    torch.nn.init.constant_(list(network.leave.parameters())[-1], -5.0)  # a new network would hardly act
    return PolicyAgent(network)


def stage() -> Stage:
    players = [*heuristics(7), FullContext(), Informed(), Oracle()]
    return Stage(
        {agent.name: [agent] for agent in players} | {"ppo": [policy(0), policy(1)]}, partial(dialogues, words())
    )


def same(a: Played, b: Played) -> bool:
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))


def test_episodes_are_those_of_one_process(cluster: Cluster) -> None:
    """All measures to the last bit, with more episodes than one process plays at once."""
    episodes = list(range(3, 73))
    traces = {"oracle": 4, "random": 2, "ppo": 1}
    alone = stage()
    expected = {
        name: [play(agent, alone.make_env, episodes, traces=traces.get(name, 0)) for agent in agents]
        for name, agents in alone.agents.items()
    }
    done: list[int] = []
    found = play_on(cluster, stage, stage().agents, episodes, traces, done.append)
    assert list(found) == list(expected)
    for name, played in expected.items():
        assert len(found[name]) == len(played)
        for one, other in zip(found[name], played, strict=True):
            assert same(one, other), name
            assert len(one.traces) == traces.get(name, 0)
    assert sum(done) == len(episodes) * 13
    assert len(done) > 4
    assert not np.array_equal(found["ppo"][0].returns, found["ppo"][1].returns)
    assert not np.array_equal(found["random"][0].returns, found["none"][0].returns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 3}, r"0 GPU\(s\), and CPUs for 2 actor\(s\) of 1 thread\(s\): too little for 3 on cpu"),
        ({"threads": 3}, r"CPUs for 0 actor\(s\) of 3 thread\(s\): too little for 1 on cpu"),
        ({"workers": 0}, r"too little for 1 on cpu"),
        ({"device": "cuda"}, r"has 0 GPU\(s\).* too little for 1 on cuda"),
    ],
)
def test_a_cluster_that_is_too_small_is_an_error(options: dict[str, Any], message: str, cluster: Cluster) -> None:
    with pytest.raises(StmError, match=message), connect("local", **options):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "ray://127.0.0.1:9", "127.0.0.1:x"])
def test_nobody_at_the_address_is_one_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(StmError, match=r"cannot use the Ray cluster at .* give the address"), connect(address):
        pass


def test_auto_is_the_cpu_where_there_is_no_gpu(cluster: Cluster) -> None:
    with connect("local", device="auto") as connected:
        assert (connected.workers, cluster.workers) == (2, 2)
    with connect("local") as connected:  # who did not start the cluster did not end it
        assert connected.workers == 2


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object) -> Any:
    """Run a command and return the JSON that it prints."""
    common = ("--set", "turns=16", "--set", "min_gap=2", "--set", "max_gap=4", "--cache", "none", "--json")
    common += ("--dtype", "float64")  # in float32 the last digits of a score depend on the batch it is in
    monkeypatch.setattr(sys, "argv", ["stm-rl", *map(str, (*args, *common))])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return json.loads(out)


def test_label_on_a_cluster_says_what_it_says_alone(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    label = ("label", "--env", "stm_rl/Recall-v0", "--episodes", 4, "--noise-level", 1, "--out")
    alone = printed(capsys, monkeypatch, *label, "alone.sqlite")
    shared = printed(capsys, monkeypatch, *label, "shared.sqlite", "--ray", "local", "--ray-workers", 1)
    again = printed(capsys, monkeypatch, *label, "shared.sqlite", "--ray", "local", "--ray-workers", 1)
    assert again["scored"] == 0
    for name in ("env", "labels", "scored", "prefilter", "statistics"):
        assert shared[name] == alone[name], name


@pytest.mark.parametrize("agent", ["learned", pytest.param("expert", marks=pytest.mark.slow)])
def test_eval_on_a_cluster_says_what_it_says_alone(
    agent: str, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    policy(0, default_encoder().dimension).save("learned")
    play_all = ("eval", "stm_rl/Recall-v0", "--episodes", 10, "--agent", agent)
    traces = [tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"]
    alone = printed(capsys, monkeypatch, *play_all, "--traces", traces[0])
    shared = printed(capsys, monkeypatch, *play_all, "--traces", traces[1], "--ray", "local")
    assert list(shared["agents"]) == list(alone["agents"])
    assert shared == alone
    assert traces[0].read_text() == traces[1].read_text()


@pytest.mark.slow
def test_a_cluster_is_started_and_ended_for_a_command(tmp_path: Path) -> None:
    """In a process of its own, with nothing but JSON on stdout."""
    small = ("--set", "turns=16", "--cache", "none", "--json", "--lm", "none", "--reward", "recall=1")
    command = ("eval", "stm_rl/Recall-v0", "--episodes", "4", "--ray", "local", "--ray-workers", "2", *small)
    run = [sys.executable, "-m", "stm_rl.cli", *command]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    env = {name: value for name, value in env.items() if not name.startswith("RAY_")}
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout)["episodes"] == 4
    assert done.stderr == ""


def test_labels_from_text_need_no_cluster(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stm-rl", "label", "--signal", "text", "--episodes", "2", "--ray", "local"])
    with pytest.raises(SystemExit):
        main()
    assert "there is nothing to divide; leave --ray out" in capsys.readouterr().err


def test_missing_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StmError, match=r"^ray is not installed; run: pip install 'stm-rl\[ray\]'$"), connect("local"):
        pass
