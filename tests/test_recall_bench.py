"""``stm-rl bench recall``, and agents as keepers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from stm_rl.cli.bench import RecallRequest, run_recall
from stm_rl.cli.many import ManyValues, spread
from stm_rl.errors import StmError
from stm_rl.evaluation.recall import Keeper, Stream, streams_of
from stm_rl.evaluation.recall_keepers import keepers
from stm_rl.features import HashedWords
from stm_rl.readers import read_transcripts
from stm_rl.transcript import Probe, Transcript, Turn
from stm_rl_agents.heuristics import heuristics
from stm_rl_agents.keepers import AgentKeeper
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES

BABI = """1 Mary went to the garden.
2 John took the milk.
3 Where is Mary?\tgarden\t1
4 John went to the hall.
5 Where is the milk?\thall\t2 4
1 Sandra went to the hall.
2 Daniel went to the park.
3 Where is Sandra?\thall\t1
"""


@pytest.fixture
def babi(tmp_path: Path) -> Path:
    """Return a folder with two tasks of bAbI."""
    for task in (2, 3):
        (tmp_path / f"qa{task}_some-task_train.txt").write_text(BABI)
    return tmp_path


def policy(reads: int = 2, **card: Any) -> PolicyAgent:
    """Return a policy with random weights that writes often."""
    torch.manual_seed(3)
    network = PointerNetwork(16, len(SLOT_FEATURES), len(GLOBAL_FEATURES), reads, width=16)
    with torch.no_grad():
        for head in (network.pick, network.leave):
            for weight in head.parameters():
                weight.normal_(0, 0.5)
    network.prefer_leaving(-3.0)
    return PolicyAgent(network, card)


def random_streams(count: int = 70) -> list[Stream]:
    """Return streams of different lengths in which some turns may not be written."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        size = int(rng.integers(4, 30))
        turns = tuple(Turn(f"word{i} {i}", "", {"writable": bool(rng.random() < 0.8)}) for i in range(size))
        dependent = sorted({int(turn) for turn in rng.integers(1, size, 3)})
        probes = tuple(Probe(turn, tuple({int(t) for t in rng.integers(turn, size=2)})) for turn in dependent)
        made.append(Stream.of(Transcript(turns, probes)))
    made[5] = Stream.of(Transcript(made[5].transcript.turns))  # without checks
    return made


# Agents.


@pytest.mark.parametrize("slots", [1, 3])
def test_an_agent_that_keeps_the_newest_holds_what_fifo_holds(slots: int) -> None:
    agent = next(agent for agent in heuristics() if agent.name == "fifo")
    seen = random_streams()
    fifo = keepers()["fifo"][0]
    assert isinstance(fifo, Keeper)
    played = AgentKeeper(agent, encoder=HashedWords(4)).play(seen, slots)
    assert [list(held) for held in played] == [list(held) for held in fifo.play(seen, slots)]


def test_a_policy_holds_only_what_it_may() -> None:
    seen = random_streams()
    keeper = AgentKeeper(policy(), reads=2, encoder=HashedWords(16))
    held = keeper.play(seen, 3)
    assert any(content for contents in held for content in contents)
    for stream, contents in zip(seen, held, strict=True):
        assert len(contents) == len(stream.checks)
        for check, content in zip(stream.checks, contents, strict=True):
            assert len(content) <= 3
            assert all(stream.writable[turn] and turn <= check.step for turn in content)
    best = keepers()["oracle"][0].recall(seen, 3)
    assert (keeper.recall(seen, 3).joint <= best.joint).all()


def test_a_policy_is_played_with_the_reads_window_and_encoder_of_its_training() -> None:
    keeper = AgentKeeper.of_policy(policy(3, settings={"window": 4, "encoder": "words"}))
    assert (keeper.name, keeper.reads, keeper.window, keeper.encoder) == ("ppo", 3, 4, "words")
    assert AgentKeeper.of_policy(policy()).window == 1


# The command.


def test_the_command_reports_every_keeper(babi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = RecallRequest(data=babi, format="babi", slots=(1, 2), agents=("fifo",))
    run_recall(request, out=babi / "new" / "recall.json", as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((babi / "new" / "recall.json").read_text())
    assert (printed["transcripts"], printed["probes"]) == (4, 6)
    assert list(printed["slots"]) == ["1", "2"]
    assert list(printed["slots"]["1"]) == list(keepers())
    fifo, oracle = printed["slots"]["2"]["fifo"], printed["slots"]["2"]["oracle"]
    assert (fifo["joint"]["mean"], fifo["mean"]["mean"]) == (1.0, 1.0)
    assert oracle["joint"]["mean"] == 1.0
    assert printed["slots"]["1"]["fifo"]["joint"]["mean"] == 0.0
    assert printed["slots"]["1"]["oracle"]["joint"]["mean"] == 0.6667


def test_tasks_limit_and_metric(babi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_recall(RecallRequest(data=babi, format="babi", slots=(1,), tasks=(3,), limit=1, metric="joint"), as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["tasks"], printed["transcripts"], printed["probes"]) == ([3], 1, 2)
    assert list(printed["slots"]["1"]["fifo"]) == ["joint"]


def test_the_table(babi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_recall(RecallRequest(data=babi, format="babi", slots=(1, 16)))
    lines = capsys.readouterr().out.splitlines()
    assert "4 transcripts, 6 probes" in lines[0]
    assert sum("joint [95% CI]" in line for line in lines) == 2
    assert any(line.split() == ["oracle", "100.0", "[100.0,", "100.0]", "100.0", "[100.0,", "100.0]"] for line in lines)


def test_broken_records_are_left_out_if_asked(babi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = babi / "qa4_broken_train.txt"
    broken.write_text("1 Mary slept.\n2 Where is Mary?\tbed\t9\n")
    with pytest.raises(StmError, match=r"qa4_broken_train\.txt:2"):
        run_recall(RecallRequest(data=babi, format="babi", slots=(1,)))
    run_recall(RecallRequest(data=babi, format="babi", slots=(1,), skip_bad=True), as_json=True)
    captured = capsys.readouterr()
    assert "skipped 1 bad record(s)" in captured.err
    assert json.loads(captured.out)["transcripts"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f1"}, "--metric is 'f1'; expected joint, mean or both"),
        ({"slots": (4, 0)}, "--slots is 0; expected at least 1"),
        ({"agents": ("fibo",)}, "unknown agent 'fibo': it is neither a run folder nor one of fifo"),
        ({"tasks": (19,)}, "holds no transcript of task 19"),
    ],
)
def test_bad_requests(babi: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError, match=message):
        run_recall(RecallRequest(**({"data": babi, "format": "babi", "slots": (1,)} | options)))
    with pytest.raises(StmError, match="is a folder"):
        run_recall(RecallRequest(data=babi, format="babi"), out=babi)


def test_a_run_folder_is_measured_beside_the_keepers(babi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stm_rl.encoders import named_encoder

    torch.manual_seed(0)
    encoder = named_encoder("words")
    network = PointerNetwork(encoder.dimension, len(SLOT_FEATURES), len(GLOBAL_FEATURES), 1, width=16)
    card = {"encoder": encoder.id, "settings": {"encoder": "words"}, "seed": 0}
    for seed in (0, 1):
        PolicyAgent(network, card).save(babi / f"run{seed}")
    agents = (str(babi / "run0"), f"mine={babi / 'run0'},{babi / 'run1'}")
    run_recall(RecallRequest(data=babi, format="babi", slots=(2,), agents=agents), as_json=True)
    found = json.loads(capsys.readouterr().out)["slots"]["2"]
    assert list(found) == [*(name for name in keepers() if name != "oracle"), "ppo", "mine", "oracle"]
    assert found["ppo"]["joint"]["mean"] == found["mine"]["joint"]["mean"] <= 1
    with pytest.raises(StmError, match="an agent is named 'first'"):
        run_recall(RecallRequest(data=babi, format="babi", slots=(2,), agents=(f"first={babi / 'run0'}",)))


# Lists of values.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--slots 4 8 16", "--slots 4 --slots 8 --slots 16"),
        ("--slots 4,8 --json", "--slots 4 --slots 8 --json"),
        ("--slots=4 8 --tasks 2 3 --agent 7", "--slots 4 --slots 8 --tasks 2 --tasks 3 --agent 7"),
        ("--slots 4 --slots 8", "--slots 4 --slots 8"),
        ("--slots --json", "--slots --json"),
        ("--slots four", "--slots four"),
        ("--slots 4 x --slots", "--slots 4 x --slots"),
        ("--slots= --json", "--slots  --json"),
        ("--data 5 6", "--data 5 6"),
    ],
)
def test_spread(given: str, expected: str) -> None:
    assert spread(given.split(" "), ("--slots", "--tasks")) == expected.split(" ")


def test_a_command_takes_several_values_of_an_option() -> None:
    app = typer.Typer()

    @app.command(cls=ManyValues)
    def show(slots: Annotated[list[int] | None, typer.Option()] = None, limit: int = 0) -> None:
        print(slots, limit)

    assert CliRunner().invoke(app, ["--slots", "4", "8", "--limit", "3"]).output == "[4, 8] 3\n"
    assert CliRunner().invoke(app, ["--slots", "4", "x"]).exit_code == 2
    assert CliRunner().invoke(app, ["--slots"]).exit_code == 2


# Real data.


def joint(shared_data: Path, path: str, format: str, slots: int, limit: int | None = None) -> dict[str, float]:
    """Return the joint recall of every keeper on real data, %."""
    streams = streams_of(read_transcripts(shared_data / path, format, limit=limit, skip_bad=True))
    total = sum(len(stream.checks) for stream in streams)
    return {
        name: 100 * float(np.mean([member.recall(streams, slots).joint.sum() for member in members])) / total
        for name, members in keepers().items()
    }


# What the tables of test parts say, with room for the other split.
REAL: list[tuple[str, str, int, int | None, dict[str, tuple[float, float]]]] = [
    ("babi/qa2_two-supporting-facts_train.txt", "babi", 4, None, {"newest-per-subject": (0, 0), "oracle": (95, 100)}),
    ("irc/dev", "irc", 4, None, {"fifo": (66, 72), "reservoir": (0, 2), "salience": (0, 2), "oracle": (93, 95)}),
    ("irc/dev", "irc", 16, 4, {"fifo": (91, 96), "longest": (0, 6.7), "tf-idf": (0, 6.7)}),
    ("sgd/dev", "sgd", 8, None, {"fifo": (11, 18), "reservoir": (12, 26), "tf-idf": (32, 46), "oracle": (91, 100)}),
    ("multiwoz/val.json.zip", "multiwoz", 8, 400, {"fifo": (9, 16), "first": (26, 34), "oracle": (94, 98)}),
]


@pytest.mark.parametrize(("path", "format", "slots", "limit", "bands"), REAL)
def test_real_data_gives_the_known_figures(
    shared_data: Path, path: str, format: str, slots: int, limit: int | None, bands: dict[str, tuple[float, float]]
) -> None:
    found = joint(shared_data, path, format, slots, limit)
    for name, (low, high) in bands.items():
        assert low <= found[name] <= high, name
    assert max(found, key=found.__getitem__) == "oracle"


def test_no_fixed_rule_is_good_on_all_real_data(shared_data: Path) -> None:
    babi = joint(shared_data, "babi/qa3_three-supporting-facts_train.txt", "babi", 8, 60)
    sgd = joint(shared_data, "sgd/dev", "sgd", 8)
    assert babi["fifo"] > babi["tf-idf"] > babi["newest-per-subject"] == 0
    assert sgd["salience"] > sgd["tf-idf"] > sgd["first"] > sgd["reservoir"] > sgd["newest-per-subject"]
    assert sgd["salience"] > 2 * sgd["fifo"]
