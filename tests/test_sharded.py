"""Scoring workers: several processes on this machine, started as ``accelerate launch`` starts them on several GPUs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import WordLM
from hypothesis import given
from hypothesis import strategies as st

from stm_rl.cli import main
from stm_rl.errors import StmError
from stm_rl.lm import sharded
from stm_rl.lm.sharded import shares

DRIVER = Path(__file__).with_name("sharded_driver.py")
TEXT = st.text("ab \n", max_size=30)


def launch(*command: str, folder: Path | None = None, processes: int = 2) -> SimpleNamespace:
    """Run a command on several processes; return its exit code, what it printed, and which processes are left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(DRIVER.parent), *filter(None, sys.path)])
    env = os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--main_process_port", port]
    start = time.monotonic()
    done = subprocess.run(
        [*launcher, *command], env=env, capture_output=True, text=True, timeout=120, cwd=folder, check=False
    )
    pids = [int(pid) for pid in re.findall(r"^pid (\d+)$", done.stderr, re.MULTILINE)]
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    return SimpleNamespace(
        code=done.returncode, out=done.stdout, err=done.stderr, left=left, seconds=time.monotonic() - start
    )


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1), st.integers(1, 5))
def test_shares_hold_every_request_once_and_are_about_as_long(pairs: list[tuple[str, str]], count: int) -> None:
    found = shares([[pair[0] for pair in pairs], [pair[1] for pair in pairs]], count)
    assert len(found) == count
    assert sorted(row for share in found for row in share) == list(range(len(pairs)))
    lengths = [1 + len(context) + len(target) for context, target in pairs]
    for share in found:
        assert abs(sum(lengths[row] for row in share) - sum(lengths) / count) <= max(lengths)


def test_requests_that_begin_alike_stay_together() -> None:
    contexts = ["b" * 9 + str(i) if i % 2 else "a" * 9 + str(i) for i in range(8)]
    assert shares([contexts], 2) == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_one_process_has_the_model_itself() -> None:
    def load(name: str, device: str) -> WordLM:
        assert (name, device) == ("words", "cuda:1")
        return WordLM()

    assert type(sharded.load_shared(load, "words", device="cuda:1")) is WordLM


def test_missing_accelerate_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(StmError, match=r"^accelerate is not installed; run: pip install 'stm-rl\[multi-gpu\]'$"):
        sharded.run(lambda: None)


@pytest.fixture(scope="module")
def equal() -> SimpleNamespace:
    return launch(str(DRIVER), "equal")


def test_two_processes_score_as_one_does(equal: SimpleNamespace) -> None:
    found = json.loads(equal.out)
    assert found["kind"] == ["ShardedLM"] * 2
    assert found["protocol"]
    assert found["scores"] < 1e-6
    assert found["vectors"] < 1e-6
    assert found["few"] < 1e-6
    assert found["texts"]
    assert found["count"]
    assert found["fingerprint"]
    assert found["none"] == [0]


def test_each_process_does_about_half_of_the_work(equal: SimpleNamespace) -> None:
    found = json.loads(equal.out)
    together, alone, driver = found["tokens"]
    assert together == alone
    assert 0.4 < driver / together < 0.6
    assert found["own"] == [11, 3 + 4]  # three requests are too few to share, of eight the driver scores half


def test_errors_of_workers_are_raised_on_the_driver_and_all_goes_on(equal: SimpleNamespace) -> None:
    found = json.loads(equal.out)
    assert found["errors"] == [
        "scoring worker 1 of 1: the score is nan",
        "scoring worker 1 of 1: ZeroDivisionError('by nothing')",
        "the driver's own share",
        "",
        "scoring worker 1 of 1: no such model here",
        "the device is 'cuda:1', which every one of the 2 processes would use; give 'cuda' or 'auto', so that each "
        "takes its own",
    ]
    assert found["after"] == ["", ""]


def test_workers_end_with_the_driver(equal: SimpleNamespace) -> None:
    assert equal.code == 0, equal.err
    assert re.search(r"^pid", equal.err, re.MULTILINE)
    assert not equal.left
    assert "Traceback" not in equal.err


def test_the_command_gives_the_same_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("eval", "stm_rl/Recall-v0", "--episodes", "6", "--set", "turns=16", "--cache", "none", "--json")
    common += ("--dtype", "float64")  # in float32 the last digits of a score depend on the batch it is in
    ran = launch("-m", "stm_rl.cli", *common, folder=tmp_path)
    assert ran.code == 0, ran.err
    monkeypatch.setattr(sys, "argv", ["stm-rl", *common])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert json.loads(ran.out) == json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_bad_input_is_said_once(tmp_path: Path) -> None:
    ran = launch("-m", "stm_rl.cli", "eval", "--agent", "nobody", folder=tmp_path)
    assert ran.code
    assert ran.err.count("unknown agent 'nobody'") == 1
    assert ran.seconds < 60


def lost(order: str) -> tuple[SimpleNamespace, list[Any]]:
    ran = launch(str(DRIVER), order)
    return ran, [json.loads(line) for line in ran.out.splitlines()]


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_command() -> None:
    ran, found = lost("!die")
    assert ran.code
    assert not ran.left
    assert ran.seconds < 60
    if found:  # unless the launcher was quicker to end all processes
        first, second = found[0]["errors"]
        assert first.startswith("a scoring worker was lost (")
        assert second == "the scoring workers were lost or interrupted earlier; start the command again"


@pytest.mark.slow
def test_a_worker_that_hangs_is_given_up_after_the_timeout() -> None:
    ran, found = lost("!hang")
    assert ran.code
    assert not ran.left
    assert ran.seconds < 60
    assert 3 <= found[0]["seconds"] < 30
    assert re.match(r"a scoring worker was lost \(Timed out", found[0]["errors"][0])


@pytest.mark.slow
@pytest.mark.parametrize(("what", "said"), [("broken", "RuntimeError: the driver fails"), ("interrupted", "Interrupt")])
def test_workers_end_with_a_driver_that_fails(what: str, said: str) -> None:
    ran, found = lost(what)
    assert ran.code
    assert said in ran.err
    assert not found
    assert not ran.left
    assert ran.seconds < 60


@pytest.mark.slow
def test_three_processes() -> None:
    ran = launch(str(DRIVER), "equal", processes=3)
    found = json.loads(ran.out)
    assert found["scores"] < 1e-6
    assert found["tokens"][0] == found["tokens"][1]
    assert not ran.left
