"""``scripts/bench_grpo.py`` at its smallest: both ways are timed, and every part of a step has its share."""

import json
from pathlib import Path

import pytest
from helpers import load_script

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TRANSCRIPTS = 24


@pytest.mark.parametrize("model", [(), ("--random", "qwen3-tiny", "--peft", "lora")], ids=["tiny-tools", "lora"])
def test_steps_are_timed_in_both_ways(model: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    few = ("--transcripts", "2", "--steps", "1", "--rounds", "1", "--batch", "8", "--tokens", "6")
    load_script("bench_grpo").main([*few, *model, "--json", str(out)])
    report = json.loads(out.read_text())
    assert report["command"]["batch"] == "8"
    seconds = report["seconds_a_step"]
    assert set(seconds) == set(report["completions_per_second"]) == {"prompts run once", "every completion by itself"}
    for way, parts in seconds.items():
        assert set(parts) == {"draw", "play", "learn"}
        assert min(parts.values()) > 0
        assert report["completions_per_second"][way] == pytest.approx(8 / sum(parts.values()), rel=0.05)
    assert len(report["ratio"]["step"]) == 3
