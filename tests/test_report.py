from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import run_main
from report_runs import EPISODES, LEVELS, SETTINGS, make_run, returns_of, write_lines

from stm_rl.comparison import Continuation, write_continuations
from stm_rl.report.curves import Curve, band
from stm_rl.report.episodes import replay

Cli = Callable[..., Any]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stm_rl.report.figure.Figure.svg", lambda self: "<svg></svg>")  # the slow part
    return lambda *args: run_main(monkeypatch, capsys, "report", *args)


@pytest.fixture
def drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command with figures."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: run_main(monkeypatch, capsys, "report", *args)


def summary(cli: Cli, *args: object) -> Any:
    done = cli(*args, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def text(path: Path) -> str:
    """Return what a page says, without its tags and figures."""
    page = re.sub(r"<(svg|style|script).*?</\1>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


# What it says.


def test_best_agent_is_told_first_with_its_interval_against_heuristics_and_no_memory(cli: Cli, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run-{seed}", seed=seed) for seed in (0, 1)]
    result = summary(cli, *runs)
    (one,) = result["environments"]
    mine = np.stack([returns_of("ppo", 5.0, seed) for seed in (0, 1)])
    assert one["best_learned"] == "ppo"
    assert one["agents"]["ppo"]["seeds"] == [0, 1]
    assert one["agents"]["ppo"]["return"]["mean"] == pytest.approx(mine.mean(), abs=1e-4)
    against = one["against"]["best_heuristic"]
    assert against["agent"] == "longest"
    assert against["difference"]["mean"] == pytest.approx((mine - returns_of("longest", 1.5, 0)).mean(), abs=1e-4)
    low, high = against["difference"]["ci95"]
    assert 0 < low < against["difference"]["mean"] < high
    assert one["against"]["no_memory"]["difference"]["mean"] == pytest.approx(mine.mean(), abs=1e-4)
    wins = (mine > returns_of("longest", 1.5, 0)).mean()
    assert against["probability_of_improvement"]["mean"] == pytest.approx(wins)
    assert one["probability_of_improvement"]["ppo"]["longest"] == pytest.approx(wins)
    said = text(tmp_path / "report.html")
    assert "ppo is the best learned agent (2 seeds)" in said
    assert f"return {mine.mean():.2f} [" in said
    assert "better" in said


def test_page_needs_nothing_else_and_is_made_again_the_same(drawing: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert drawing(run).code == 0
    page = (run / "report.html").read_text()
    outside = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert not re.search(r"""(src|href)=["'](?!\\#)(?!#)|url\((?!#)|@import|https?://""", outside)
    assert drawing(run, "--out", "again.html").code == 0
    assert (tmp_path / "again.html").read_text() == page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(set(ids)) == len(ids)


def test_every_figure_is_in_the_page_and_can_be_had_as_png(drawing: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    done = drawing(run, "--png", "figures")
    page = (run / "report.html").read_text()
    figures = sorted(path.stem for path in (tmp_path / "figures").iterdir())
    assert figures == sorted(re.findall(r'<figure id="([^"]*)"', page))
    expected = {"improvement-1", "learning-1", "memory-1", "returns-1", "terms-1", "timeline-1", "timeline-4"}
    assert expected <= set(figures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "figures").iterdir())
    assert f"{len(figures)} figures in figures" in done.out


def test_settings_versions_and_commands_are_there(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert cli(run).code == 0
    said = text(run / "report.html")
    assert "stm-rl train stm_rl/Dialogue-v0 --seed 0 --out run" in said
    assert "torch 2.13.0" in said
    assert "lr: 0.001" in said


# Seeds, agents and environments.


def test_runs_of_other_settings_are_other_agents(cli: Cli, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "plain"), make_run(tmp_path / "shaped", request={"rewards": ["coherence=2"]}, level=3)]
    (one,) = summary(cli, *runs)["environments"]
    assert {"ppo (plain)", "ppo (shaped)"} <= set(one["agents"])
    assert one["best_learned"] == "ppo (plain)"


def test_the_same_run_is_counted_once(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    again = make_run(tmp_path / "again")
    result = summary(cli, run, run, again)
    assert result["environments"][0]["agents"]["ppo"]["seeds"] == [0]
    assert [note["where"] for note in result["notes"] if "repeats" in note["what"]] == [str(again)]


def test_environments_have_columns_and_an_overall_mean_in_which_the_oracle_is_one(cli: Cli, tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", level=3.0),
        make_run(tmp_path / "b", env="stm_rl/Story-v0", level=5.0),
    ]
    result = summary(cli, *runs)
    assert [one["title"] for one in result["environments"]] == ["stm_rl/Dialogue-v0", "stm_rl/Story-v0"]
    overall = result["overall_iqm"]
    assert overall["none"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    assert overall["oracle"]["mean"] == pytest.approx(1.0, abs=0.1)
    low, high = overall["ppo"]["ci95"]
    assert 0.3 < low < overall["ppo"]["mean"] < high < 1.0
    assert "Agents in all environments" in text(tmp_path / "report.html")


def test_evaluations_of_other_episodes_are_not_mixed(cli: Cli, tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", seed=1)
    report, details = (json.loads((other / name).read_text()) for name in ("eval.json", "episodes.json"))
    details["agents"]["longest"][0]["return"] = [1.0] * EPISODES
    (other / "episodes.json").write_text(json.dumps(details))
    result = summary(cli, run, other)
    assert len(result["environments"]) == 2
    assert all(one["agents"]["ppo"]["seeds"] in ([0], [1]) for one in result["environments"])
    report["settings"] = {**SETTINGS, "slots": 8}
    (other / "eval.json").write_text(json.dumps(report))
    titles = [one["title"] for one in summary(cli, run, other)["environments"]]
    assert titles == ["stm_rl/Dialogue-v0, slots=4", "stm_rl/Dialogue-v0, slots=8"]


def test_curve_of_seeds_is_their_mean_where_all_were() -> None:
    panel = ("env", "steps", "return")
    runs = [
        Curve(panel, "a", np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 2.0])),
        Curve(panel, "a", np.array([5.0, 15.0, 40.0]), np.array([2.0, 2.0, 2.0])),
    ]
    steps, mean, low, high = band(runs)
    assert steps.tolist() == [5, 10, 15, 20]
    assert mean.tolist() == [1.25, 1.5, 1.75, 2.0]
    assert low.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert high.tolist() == [2.0] * 4


# Episodes.


def test_memory_is_told_from_writes_and_reads() -> None:
    steps = [
        {"step": 0, "turn": "a", "write": 2, "reads": []},
        {"step": 1, "turn": "b", "write": 1, "reads": [0]},
        {"step": 2, "turn": "c", "write": 2, "reads": [0, 1]},
        {"step": 3, "turn": "d", "write": 0, "reads": [2]},
    ]
    told = [(one.slot, one.turn, one.text, one.until, one.read) for one in replay(steps)]
    # turn 0 was superseded before step 2 read: it cannot be read any more
    assert told == [(2, 0, "a", 2, [1]), (1, 1, "b", None, [2]), (2, 2, "c", None, [3])]


def test_best_and_worst_episodes_are_beside_those_without_memory(drawing: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    done = drawing(run)
    said = text(run / "report.html")
    assert re.findall(r"ppo, (\w+) episode: (\w+)", said) == [
        ("best", "t4"), ("best", "t3"), ("worst", "t1"), ("worst", "t0"),
    ]  # fmt: skip
    assert "return 4.00 nats; without memory 0.00 · 5 turns · 3 writes · 1 reads" in said
    assert "has 1 more episodes of ppo" in done.err
    titles = re.findall(r"<title>(.*?)</title>", (run / "report.html").read_text())
    assert "slot 1, written at turn 0, superseded at turn 2, never read: user: one" in titles
    assert "slot 2, written at turn 1, to the end, read at 4: user: two" in titles


EVIL = "user: <script>alert('x')</script> $\\frac{1}{2}$ \"<b>&amp; ]]> {{ 7*7 }}"


def test_texts_of_models_and_transcripts_are_escaped(drawing: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "<img src=x>", name="p<i>po", turns=[EVIL] * 6)
    one = Continuation(
        kind="dialogue", env="e", transcript=EVIL, turn=3, speaker="user", before=[EVIL], window=[EVIL], reads=[EVIL],
        truth=EVIL, with_memory=EVIL, without_memory=f"{EVIL}!", agent=EVIL, lm=EVIL, seed=0,
        measures={side: {"rouge_l": 0.5} for side in ("with", "without")},
    )  # fmt: skip
    write_continuations(run / "continuations.jsonl", [one])
    assert drawing(run, "--png", "figures").code == 0
    page = (run / "report.html").read_text()
    assert page.count("<script>") == 1
    for tag in ("<img", "<b>", "<i>"):
        assert tag not in page
    assert text(run / "report.html").count(EVIL) >= 20
    assert "49" not in re.findall(r"\{\{.*?\}\}", unescape(page))


def test_texts_with_and_without_memory_and_what_people_said(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    pairs = [
        Continuation(
            kind="story", env="e", transcript=f"s{i}", turn=9, speaker="", before=["Once."], window=["Then."],
            reads=["The kite is red."], truth="It was red.", with_memory=f"Red {i}.", without_memory=f"Blue {i}.",
            agent="ppo", lm="tiny", seed=0,
            measures={"with": {"answer_recall": 1.0}, "without": {"answer_recall": 0.25 * (i % 2)}},
        )
        for i in range(8)
    ]  # fmt: skip
    write_continuations(run / "continuations.jsonl", pairs)
    interval = {"mean": 0.75, "ci95": [0.5, 0.9]}
    review = {
        "pairs": 8, "raters": 2, "ratings": 16, "wins": 9, "losses": 3, "ties": 4, "skipped": 0, "unknown": 0,
        "win_rate": {**interval, "interval": "wilson"}, "kinds": {"story": interval},
        "aspects": {"coherence": {"ratings": 16, "with": 4.0, "without": 3.25, "difference": interval}},
        "agreement": {"choice": {"alpha": 0.61, "note": "", "level": "nominal"},
                      "coherence": {"alpha": None, "note": "there is one rater", "level": "ordinal"}},
    }  # fmt: skip
    (run / "review.json").write_text(json.dumps(review))
    assert cli(run).code == 0
    said = text(run / "report.html")
    assert "story: 8 turns of 8 episodes; memory changed 8" in said
    assert "answer_recall 8 0.125 1.000 0.875 [" in said
    assert "with memory Red 0. read: The kite is red. without Blue 0. what really came It was red." in said
    assert "4 more are in" in said
    assert "2 raters, 8 pairs, 16 ratings: memory won 9, lost 3, tied 4" in said
    assert "choice – – – 0.61 coherence 3.25 4.00 0.75 [0.50, 0.90] – (there is one rater)" in said


# What is missing, and what is damaged.

MISSING = {
    "eval.json": ["it was not evaluated", "stm-rl train --resume --out"],
    "episodes.json": ["no interquartile means", "stm-rl train --resume --out"],
    "traces.jsonl": ["no episodes can be shown", "stm-rl train --resume --out"],
    "metrics.jsonl": ["training has not come to its first row", "stm-rl train --resume --out"],
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_said_with_the_command_that_makes_it(name: str, cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / name).unlink()
    done = cli(run)
    assert done.code == 0, done.err
    for words in MISSING[name]:
        assert words in done.err
        assert words in text(run / "report.html")


def test_nothing_but_a_config_is_still_a_report(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for path in run.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    result = summary(cli, run)
    assert result["environments"] == []
    assert len(result["notes"]) == 3
    assert "Nothing was evaluated yet" in text(run / "report.html")


def test_interrupted_run_is_said(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    rows = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*rows[:2], rows[2][:20]]))
    done = cli(run)
    assert done.code == 0
    assert f"{run}/metrics.jsonl:3 is damaged (not valid JSON" in done.err
    assert "was interrupted after 2,000 of 3,000 steps: stm-rl train --resume --out" in done.err


DAMAGED = {
    "config.yaml": ("command: x\nppo: [1,\n", "config.yaml:3 is damaged"),
    "metrics.jsonl": ('{"steps": 1}\nnull\n', "metrics.jsonl:2 is damaged (expected an object, got None)"),
    "eval.json": ('{"env":\n "e",\n "episodes" 3}', "eval.json:3 is damaged (not valid JSON"),
    "episodes.json": ('{"agents": {"ppo": [{"seed": 0, "return": [1]}]}}', "episodes.json:1 is damaged (KeyError"),
    "traces.jsonl": ('{"agent": "ppo", "steps": []}\nNaN\n', "traces.jsonl:2 is damaged"),
    "continuations.jsonl": ('{"kind": "story"}\n', "continuations.jsonl:1"),
    "review.json": ('{"pairs": 3}', "review.json:1 is damaged (KeyError: 'raters')"),
    "policy.json": ("[1]", "policy.json:1 holds [1]; expected an object"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_is_named_with_its_line_and_the_rest_is_shown(name: str, cli: Cli, tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", name="dagger", seed=1)
    content, words = DAMAGED[name]
    (run / name).write_text(content)
    done = cli(run, other)
    assert done.code == 0, done.err
    assert f"{run}/{words}" in done.err
    assert words in text(tmp_path / "report.html")
    assert "dagger" in text(tmp_path / "report.html")


def test_bytes_that_are_no_text_are_named_with_their_line(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").write_bytes(b'{"steps": 1}\n\xff\xfe')
    assert f"{run}/metrics.jsonl:2 is damaged (not UTF-8)" in cli(run).err


TRIED = int(os.environ.get("STM_RL_ODD_VALUES", "5"))
"""Odd values tried in each file."""
ODD = [None, True, -1, 0, 1e308, "text", [], ["x"], {}, {"a": None}]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where values are inside a JSON value; of lists the first entries are enough."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*at, key))
    return found


@pytest.mark.parametrize("name", ["config.yaml", "eval.json", "episodes.json", "traces.jsonl", "policy.json"])
def test_whatever_is_in_a_file_a_report_is_written(name: str, cli: Cli, tmp_path: Path) -> None:
    """Values in a file are replaced by something odd."""
    run = make_run(tmp_path / "run")
    content = (run / name).read_text()
    value = yaml.safe_load(content.splitlines()[-1] if name.endswith("l") and name != "config.yaml" else content)
    rng = np.random.default_rng(0)
    chosen = [(place, odd) for place in places(value) for odd in ODD]
    for number in rng.permutation(len(chosen))[:TRIED]:
        place, odd = chosen[number]
        changed = yaml.safe_load(json.dumps(value))
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = odd
        (run / name).write_text(json.dumps(changed))
        done = cli(run)
        assert done.code == 0, (place, odd, done.err)


# Bad input.


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nowhere",), "there is no folder nowhere; expected a run folder"),
        (("empty",), "empty is not a run folder (it has no config.yaml, and no eval.json)"),
        (("run", "--out", "empty"), "empty is a folder; expected the name of a file, such as empty/report.html"),
        (("run", "--png", "run/eval.json"), "run/eval.json is a file; expected a folder"),
    ],
    ids=["no folder", "no run", "folder for a file", "file for a folder"],
)
def test_bad_input_is_one_line(args: tuple[str, ...], words: str, cli: Cli, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    done = cli(*args)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run" / "report.html").exists()


# Many runs.


def test_report_of_many_runs_and_long_texts_stays_small(drawing: Cli, tmp_path: Path) -> None:
    long = [f"user: {'word ' * 2000}{i}" for i in range(400)]
    runs = [make_run(tmp_path / f"r{i}", f"agent{i}", i, turns=long[: 400 if i == 0 else 6]) for i in range(8)]
    done = drawing(*runs)
    assert done.code == 0, done.err
    page = tmp_path / "report.html"
    assert page.stat().st_size < 3_000_000
    assert "has no learning curve here: there are too many in one figure" in done.err
    assert "are left out: 12 are enough" in done.err or "more episodes" in done.err
    assert set(LEVELS) < set(re.findall(r"<th>([^<]*)</th>", page.read_text()))


def test_recurrent_runs_have_curves_and_returns(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "rec"
    run.mkdir()
    (run / "config.yaml").write_text("request: {env: CartPole-v1, seed: 0}\nrecurrent_ppo: {steps: 2000}\n")
    (run / "policy.json").write_text(json.dumps({"network": {"core": "linear"}, "seed": 0}))
    write_lines(run / "metrics.jsonl", [{"steps": 1000, "return": 20.0}, {"steps": 2000, "return": 30.5}])
    (run / "eval.json").write_text(
        json.dumps({"env": "CartPole-v1", "core": "linear", "episodes": 5, "return": {"mean": 31.0, "ci95": [29, 33]}})
    )
    done = cli(run)
    assert done.code == 0, done.err
    said = text(run / "report.html")
    assert "return 31.000 [29.000, 33.000] an episode" in said
    assert "Mean return of recent episodes over environment steps, CartPole-v1." in said
