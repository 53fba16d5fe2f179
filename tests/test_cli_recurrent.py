"""``stm-rl recurrent``: any memory on any Gymnasium environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import run_main
from safetensors.torch import load_file

from stm_rl.errors import StmError
from stm_rl_agents.recurrent import RecurrentAgent, evaluate, make_envs

SMALL = ("--num-envs", 4, "--rollout", 32, "--minibatches", 2, "--eval-episodes", 3, "--width", 16, "--json")


def test_a_run_is_trained_evaluated_saved_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ("--core", "attention", "--core-option", "history=8", "--steps", 300, "--out", out, *SMALL)
    first = run_main(monkeypatch, capsys, "recurrent", "CartPole-v1", *options)
    assert first.code == 0, first.err
    report = json.loads(first.out)
    assert report["steps"] == report["policy_steps"] == 384
    assert "kept the last policy: fewer than 200 episodes ended" in first.err
    assert report == {key: value for key, value in json.loads((out / "eval.json").read_text()).items() if key != "seed"}
    agent = RecurrentAgent.load(out, make_envs("CartPole-v1", 3))
    assert agent.network.sizes["core_options"] == {"history": 8}
    again = evaluate(agent.network, make_envs("CartPole-v1", 3), 3, 1_000_000)
    assert again.mean() == pytest.approx(report["return"]["mean"], abs=1e-3)

    state = json.loads((out / "checkpoint" / "state.json").read_text())
    (out / "checkpoint" / "state.json").write_text(json.dumps({**state, "done": 128}))
    before = load_file(out / "policy.safetensors")
    resumed = run_main(monkeypatch, capsys, "recurrent", "CartPole-v1", "--out", out, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["steps"] == 384
    assert not all(torch.equal(before[name], value) for name, value in load_file(out / "policy.safetensors").items())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["steps"] for row in rows] == [128, 256, 384]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("Nowhere-v0",), "cannot make 'Nowhere-v0'"),
        (("CartPole-v1", "--core", "elephant"), "core is 'elephant'; expected one of attention"),
        (("CartPole-v1", "--core-option", "history"), "--core-option is 'history'; expected NAME=NUMBER"),
        (("CartPole-v1", "--resume"), "is not a run folder"),
    ],
)
def test_bad_input_gives_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    problem: str,
) -> None:
    result = run_main(monkeypatch, capsys, "recurrent", *arguments, "--out", tmp_path / "none")
    assert result.code == 2
    assert problem in result.err
    assert result.err.count("\n") == 1


def test_a_checkpoint_restores_network_and_optimizer(tmp_path: Path) -> None:
    from test_recurrent_ppo import recall_envs, settings

    from stm_rl_agents.recurrent import RecurrentPPOTrainer

    trainer = RecurrentPPOTrainer(recall_envs(16), settings(steps=400))
    trainer.train()
    trainer.save_checkpoint(tmp_path)
    other = RecurrentPPOTrainer(recall_envs(16), settings(steps=400, seed=9))
    other.load_checkpoint(tmp_path)
    assert other.done == trainer.done
    for mine, theirs in zip(trainer.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for name, value in trainer.optimizer.state[mine].items():
            assert torch.equal(value, other.optimizer.state[theirs][name])
    with pytest.raises(StmError, match="holds no checkpoint"):
        other.load_checkpoint(tmp_path / "none")
