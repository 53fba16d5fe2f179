"""Served dialogues are those of episodes: the same answers, word for word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from helpers import load_script, run_main
from serve_helpers import serving

from stm_rl.lm import load_engine
from stm_rl.worlds import DialogueWorld
from stm_rl_agents.serving import load_serving_agent
from stm_rl_agents.serving.local import LocalModel


def test_a_served_dialogue_is_that_of_an_episode(tmp_path: Path) -> None:
    check = load_script("check_serving")
    transcript = DialogueWorld(turns=40).generate(3)
    agent, memory = load_serving_agent("salience")
    (expected,) = check.evaluated(agent, memory, "tiny", [transcript])
    with (
        serving(tmp_path, LocalModel(load_engine("tiny"), memory.max_new_tokens), agent="salience") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        texts, reports = check.served(client, transcript, memory)
    assert texts == expected
    assert check.right([transcript], [texts], memory.window)[1] == 6
    assert reports[-1]["turns"] <= len(transcript)
    assert any(report["reads"] for report in reports)
    assert sum(len(report["operations"]) for report in reports) == reports[-1]["turns"]


@pytest.mark.slow
def test_long_served_dialogues_answer_the_far_past_as_evaluated() -> None:
    script = Path(__file__).parent.parent / "scripts" / "check_serving.py"
    command = [sys.executable, str(script), "--dialogues", "2", "--slots", "16"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bad_options_of_the_command_give_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("STM_RL_POLICY", "similarity")  # every option may be given so
    upstream = ("--upstream", "http://127.0.0.1:9/v1")
    for options, message in (
        ((), "give either --model"),
        (("--model", "tiny", *upstream), "give either --model"),
        (upstream, "go together"),
        (("--model", "openai:gpt"), "--upstream"),
        (("--model", "tiny", "--host", "0.0.0.0"), "there is no token"),
        (("--model", "tiny", "--policy", "oracle"), "oracle"),
        (("--model", "tiny", "--policy", "runs/missing"), "unknown agent"),
        (("--model", "tiny", "--port", "0", "--database", tmp_path), "cannot use"),
        (("--upstream", "http://u:p@127.0.0.1/v1", "--upstream-model", "m"), "not valid"),
    ):
        result = run_main(monkeypatch, capsys, "serve", *options)
        assert result.code == 2, options
        assert message in result.err
        assert result.err.count("\n") == 1
