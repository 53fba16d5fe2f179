"""``scripts/bench_engine.py`` at its smallest: its figures are of the right shape and fit together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stm_rl.errors import StmError

SCRIPTS = Path(__file__).parent.parent / "scripts"
PAGE = "# Page\n\n<!-- bench_engine_cpu:begin -->\nold\n<!-- bench_engine_cpu:end -->\n\nThe rest.\n"


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, SCRIPTS / "bench_engine.py", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Return the figures of a small run with the GPU's kind of model, and the page that they were written to."""
    folder = tmp_path_factory.mktemp("bench")
    page = folder / "page.md"
    page.write_text(PAGE)
    sizes = "--num-envs 2 --turns 12 --window 3 --slots 6 --reads 3 --rounds 2 --seconds 0.1".split()
    done = run("--lm", "qwen3-toy-random", *sizes, "--json", folder / "found.json", "--table", page)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text()), page


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the parts of the script importable."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_every_way_is_measured_in_every_round(small: tuple[dict[str, Any], Path]) -> None:
    found, _ = small
    assert len(found["rounds"]) == 2
    for rows in found["rounds"]:
        assert rows.keys() == found["ways"].keys()
        assert all(row["seconds"] > 0 for row in rows.values())
    bare = {"bare, logits of targets", "bare, all logits"}
    engine = {"engine, all requests at once", "engine, step by step"}
    assert bare | engine <= found["ways"].keys()
    trl = {"trl, fused head", "trl, all logits"}
    assert trl <= found["ways"].keys() | found["not_measured"].keys()


def test_counts_add_up(small: tuple[dict[str, Any], Path]) -> None:
    found, _ = small
    for rows in found["rounds"]:
        first, repeat = rows["first sight"], rows["repeat epoch, scores in memory"]
        disk = rows["repeat epoch, scores on disk"]
        assert first["steps"] == repeat["steps"] == disk["steps"] == 2 * 11
        assert first["tokens"] == first["lm_tokens"] + first["lm_reused"]  # counted here and by the model
        assert first["computed"] == disk["cached"] > 0
        assert repeat["computed"] == disk["computed"] == 0
        assert repeat["requests"] in (0, first["requests"])  # an environment may itself remember what it asked
        every = rows["plain loop, a call every step"]
        kinder = rows["plain loop, a call where something is read"]
        assert every["scores"] == 2 * every["steps"]  # one call with two texts
        assert kinder["scores"] < every["scores"]
        assert kinder["seconds"] < every["seconds"]
        alone = [row for name, row in rows.items() if name.startswith(("engine", "bare", "trl"))]
        assert len({(row["tokens"], row["scores"]) for row in alone}) == 1  # all on the same sequences
        assert first["scoring_seconds"] + first["encoding_seconds"] < first["seconds"]


def test_scores_agree_and_shares_are_shares(small: tuple[dict[str, Any], Path]) -> None:
    found, _ = small
    assert found["largest_difference_nats"] < 1e-4
    for shares in found["shares"].values():
        assert all(0 <= value["low"] <= value["median"] <= value["high"] <= 1 for value in shares.values())
    assert all(value["low"] > 0 for value in found["utilisation"].values())
    assert found["contexts"]["mean_tokens"] <= found["contexts"]["longest_tokens"]
    assert "--lm qwen3-toy-random" in found["command"]


def test_table_is_written_from_the_figures(small: tuple[dict[str, Any], Path], scripts: None) -> None:
    from bench.report import table

    found, page = small
    text = page.read_text()
    assert text == PAGE.replace("\nold\n", f"\n\n{table(found)}\n\n")
    median = found["ratios"]["first sight / plain loop"]["median"]
    assert f"| first sight / plain loop | {median:,.2f} (" in text


def test_page_without_markers_is_an_error(tmp_path: Path, scripts: None) -> None:
    from bench.report import write_block

    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    with pytest.raises(StmError, match="has no lines"):
        write_block(page, "bench_engine_cpu", "table")
    assert page.read_text() == "# Page\n"


def test_different_scores_are_an_error(scripts: None) -> None:
    from bench.models import check_same

    a, b = np.zeros(2), np.array([0.0, 3e-4])
    with pytest.raises(StmError, match=r"differ by 3\.00e-04 nats"):
        check_same(a, b, "scores", exact=True)
    assert check_same(a, b, "scores", exact=False) == pytest.approx(3e-4)


def test_operations_of_a_forward_pass(scripts: None) -> None:
    from bench.models import QWEN3, body_parameters, load_model, model_flops

    model = load_model("qwen3-toy-random", "cpu", "float32").model
    sizes = QWEN3["qwen3-toy-random"]
    assert body_parameters(model) == model.num_parameters() - sizes["vocab_size"] * sizes["hidden_size"]
    width = sizes["num_attention_heads"] * sizes["head_dim"]
    attention = 2 * sizes["num_hidden_layers"] * width * (5**2 + 3**2)
    head = 2 * sizes["hidden_size"] * sizes["vocab_size"] * 2
    assert model_flops(model, [5, 3], [1, 1]) == 2 * body_parameters(model) * 8 + attention + head


@pytest.mark.parametrize("steps", [[3] * 5, [1000] * 50])
def test_some_steps_are_spread_over_the_episode(scripts: None, steps: Sequence[int]) -> None:
    from bench.sides import MOST_SEQUENCES, _some

    asked = [[(str(number), "x")] * count for number, count in enumerate(steps)]
    chosen = _some(asked)
    assert sum(map(len, chosen)) <= max(MOST_SEQUENCES, max(steps))
    assert chosen[0] is asked[0]
    if sum(steps) <= MOST_SEQUENCES:
        assert chosen == asked
    else:
        assert chosen[-1] is asked[-1]


def test_scaling_is_measured_and_drawn(tmp_path: Path, scripts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_engine
    from bench import scaling

    few = tuple(scaling.Series(name, (2, 4), 2, 20, 4) for name in ("environments", "slots"))
    monkeypatch.setattr(scaling, "SERIES", (few[0], scaling.Series("turns", (20, 40), 2, 20, 4), few[1]))
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("cpu", "scaling"))
    words = ["--scaling", "--rounds", "1", "--plot", str(tmp_path / "plot.png"), "--json", str(tmp_path / "found.json")]
    bench_engine.main([*words, "--table", str(page)])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [point["steps"] for point in found["scaling"]["environments"]] == [2 * 19, 4 * 19]
    assert [point["steps"] for point in found["scaling"]["turns"]] == [2 * 19, 2 * 39]
    for series in found["scaling"].values():
        assert all(0 < point["outside"] < point["total"] for point in series)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "(plot.png)" in page.read_text()
    assert "Seconds grow with turns to the power of" in page.read_text()


def test_no_gpu_is_said(scripts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_engine

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(StmError, match="there is no GPU"):
        bench_engine.main(["--device", "cuda"])
