"""``stm-rl finetune``: language models that decide, from the command line to an agent like any other."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import run_main
from safetensors.torch import load_file

from stm_rl import extras
from stm_rl.errors import StmError
from stm_rl.runs import Run
from stm_rl_agents import loading
from stm_rl_agents.language.settings import METHODS, FinetuneSettings, config_class, make_settings

pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")
Cli = Callable[..., Any]
CONFIGS = Path(__file__).parent.parent / "configs"
WORLD = (
    "--env",
    "stm_rl/Recall-v0",
    "--set",
    "turns=10",
    "--set",
    "min_gap=2",
    "--set",
    "max_gap=4",
    "--cache",
    "none",
)
FEW = (*WORLD, "--episodes", 4, "--noise-level", 1, "--config", "small.yaml")
SMALL = {
    "num_envs": 4,
    "horizons": [2],
    "validation_episodes": 2,
    "trl": {"warmup_steps": 0, "logging_steps": 1},
    "sft": {"noise": [0.2], "rows": 8, "rounds": 1, "validation_every": 0, "trl": {"per_device_train_batch_size": 4}},
    "grpo": {
        "rows": 4,
        "trl": {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 8},
    },
    "ppo": {"trl": {"per_device_train_batch_size": 4, "steps_per_generation": 2, "max_completion_length": 8}},
    "dpo": {"rows": 2, "trl": {"per_device_train_batch_size": 2}},
}


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return lambda *args: run_main(monkeypatch, capsys, *args)


def test_imitation_then_reinforcement_then_evaluation(cli: Cli, tmp_path: Path) -> None:
    done = cli("finetune", *FEW, "--steps", 2, "--validate-every", 2, "--eval-episodes", 1, "--out", "sft", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report == json.loads((tmp_path / "sft" / "eval.json").read_text())
    assert 0 <= report["agents"]["sft"]["malformed"] <= 1
    assert "expert" in report["agents"]
    assert "malformed" not in report["agents"]["expert"]
    assert {path.name for path in (tmp_path / "sft").iterdir()} == {
        *("config.yaml", "metrics.jsonl", "language.json", "model", "eval.json", "episodes.json"),
        *("traces.jsonl", "learning_curve.png", "labels.sqlite", "checkpoint"),
    }
    rows = Run.open(tmp_path / "sft").metrics()
    assert [(row["round"], row["steps"]) for row in rows if "validation/return" in row] == [(0, 0), (0, 2), (1, 4)]
    best = json.loads((tmp_path / "sft" / "checkpoint" / "best.json").read_text())
    assert best["return"] == pytest.approx(max(row["validation/return"] for row in rows if "validation/return" in row))
    kept = load_file(tmp_path / "sft" / "checkpoint" / "best.safetensors")
    model = load_file(tmp_path / "sft" / "model" / "model.safetensors")
    assert all(torch.equal(kept[name], model[name]) for name in kept)
    card = (tmp_path / "sft" / "model" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["tags"] == ["stm-rl", "sft"]
    assert "stm-rl finetune --env stm_rl/Recall-v0" in card
    mean = report["agents"]["sft"]["return"]["mean"]
    assert f"| sft | {mean:.2f} [" in card
    for number in range(2):  # each round has half of the transcripts
        demonstrated = (tmp_path / "sft" / "checkpoint" / f"demonstrations-{number}.jsonl").read_text()
        given = Counter(one["given"] for one in map(json.loads, demonstrated.splitlines()))
        assert given[0] == 2 * 9
        assert given[1] == given.total() - 2 * 9 <= 2 * 9

    again = cli("finetune", *FEW, "--out", "sft")
    assert again.code == 2
    assert "exists already" in again.err

    decided = cli(
        "finetune", *FEW, "--method", "grpo", "--init", "sft", "--steps", 2, "--eval-episodes", 0, "--out", "g"
    )
    assert decided.code == 0, decided.err
    assert decided.out == ""
    assert re.search(r"grpo · round 0, step 1 of 2 · return -?[\d.]+ · malformed [01]\.\d+\n", decided.err)
    assert json.loads((tmp_path / "g" / "language.json").read_text())["init"] == str(tmp_path / "sft")
    assert "Not evaluated." in (tmp_path / "g" / "model" / "README.md").read_text()

    seen = cli("eval", *WORLD[1:], "--agent", "two=sft,sft", "--agent", "g", "--episodes", 1, "--json")
    assert seen.code == 0, seen.err
    agents = json.loads(seen.out)["agents"]
    assert agents["two"]["return"]["mean"] == pytest.approx(mean)
    assert agents["two"]["malformed"] == report["agents"]["sft"]["malformed"]
    assert "malformed" in agents["grpo"]


def test_an_interrupted_run_goes_on(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stm_rl_agents.language.callbacks import RunLog

    command = ("finetune", *FEW, "--steps", 3, "--eval-episodes", 0, "--rounds", 1)
    often = {**SMALL, "trl": {"warmup_steps": 0, "save_steps": 1, "logging_steps": 1}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(often))
    whole = cli(*command, "--out", "whole")
    assert whole.code == 0, whole.err

    end = RunLog.on_step_end

    def stop(self: RunLog, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.number == 1 and state.global_step == 2:
            raise KeyboardInterrupt
        end(self, args, state, control, **more)

    monkeypatch.setattr(RunLog, "on_step_end", stop)
    stopped = cli(*command, "--out", "half")
    assert stopped.code == 130
    assert "go on with: stm-rl finetune --resume --out half" in stopped.err
    monkeypatch.setattr(RunLog, "on_step_end", end)
    resumed = cli("finetune", "--resume", "--out", "half")
    assert resumed.code == 0, resumed.err

    one, other = (Run.open(tmp_path / name).metrics() for name in ("whole", "half"))
    assert [row["steps"] for row in one] == [1, 2, 3, 4, 5, 6] == [row["steps"] for row in other]
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in other], abs=1e-4)
    for rows in (one, other):  # time goes on, over rounds and over interruptions
        seconds = [row["seconds"] for row in rows]
        assert seconds == sorted(seconds)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "half")]
    assert weights[0] == weights[1]


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """Return the folder of a language policy that has learned nothing yet."""
    from stm_rl_agents.language.agent import LanguageAgent
    from stm_rl_agents.language.chat import load_policy_model

    LanguageAgent(*load_policy_model("tiny")).save(tmp_path / "start")
    return tmp_path / "start"


@pytest.mark.parametrize("model", ["tiny", "tiny-tools"])  # with tokens that are new, and without
def test_low_rank_additions_are_merged_and_kept(model: str, cli: Cli, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stm_rl_agents.language.chat import load_policy_model

    lora = ("--method", "sft", "--model", model, "--peft", "lora", "--rounds", 1, "--lr", 0.05, "--steps", 1)
    done = cli("finetune", *FEW, *lora, "--eval-episodes", 0, "--out", "lora")
    assert done.code == 0, done.err
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "lora" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lora" / "model")
    base, _ = load_policy_model(model)
    ids = tokenizer("<|user|>1\n\nHello", return_tensors="pt")
    with torch.inference_mode():
        plain = base(**ids).logits
        whole = merged(**ids).logits
        added = PeftModel.from_pretrained(base, tmp_path / "lora" / "adapter")(**ids).logits
    assert (whole - plain).abs().max() > 0.01
    torch.testing.assert_close(whole, added, atol=1e-3, rtol=1e-3)
    assert type(loading.load_agent(tmp_path / "lora").model).__name__ == type(merged).__name__


@pytest.mark.parametrize("method", ["ppo", "dpo"])
def test_other_methods(method: str, cli: Cli, tmp_path: Path, start: Path) -> None:
    few = ("finetune", *FEW, "--method", method, "--init", start, "--episodes", 2, "--steps", 1, "--eval-episodes", 0)
    done = cli(*few, "--out", "run")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "language.json").read_text())["method"] == method
    if method == "dpo":
        pairs = tmp_path / "run" / "checkpoint" / "pairs.jsonl"
        again = cli(*few, "--pairs", pairs, "--out", "given")
        assert again.code == 0, again.err
        assert not (tmp_path / "given" / "checkpoint" / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--method", "rl"), "--method is 'rl'; expected one of sft, grpo, ppo, dpo"),
        (("--method", "grpo", "--model", "tiny"), "give the folder of that run as --init"),
        (("--method", "grpo", "--init", "nowhere"), "holds no language.json"),
        (("--method", "sft", "--pairs", "pairs.jsonl"), "--pairs is for --method dpo"),
        (("--peft", "prefix"), "peft is 'prefix'; expected one of none, lora"),
        (("--reference", "nobody"), "--reference is 'nobody'; expected a run folder, or one of expert,"),
        (("--config", "nowhere.yaml"), "nowhere.yaml: No such file"),
        (("--model", "no/such"), "cannot load the language model 'no/such'"),
        (("--resume",), "is not a run folder"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], problem: str, cli: Cli, tmp_path: Path) -> None:
    result = cli("finetune", *WORLD, "--noise-level", 1, *args, "--out", "new")
    assert result.code == 2
    assert problem in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_missing_packages(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "trl" else name)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "language.json").write_text("{}")
    for args in (("finetune", "--out", "new"), ("eval", "--agent", "run")):
        result = cli(*args)
        assert result.code == 2
        assert "need trl; pip install 'stm-rl[trl]'" in result.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rowz: 3", "small.yaml has 'rowz', which is no setting; did you mean rows?"),
        ("sft: {rowz: 3}", "sft in small.yaml has 'rowz'"),
        ("trl: {learning_rat: 1}", "is no option of SFTConfig; did you mean learning_rate?"),
        ("trl: {output_dir: x}", "give the run folder with --out"),
        ("seed: 1", "give it with --seed"),
        ("trl: {learning_rate: fast}", "learning_rate is 'fast'; expected a number"),
        ("rows: many", "rows is 'many'; expected a value of type int"),
        ("rows: 0", "rows is 0; expected at least 1"),
        ("noise: [2]", "noise is (2.0,)"),
        ("trl: 3", "expected NAME: VALUE lines, under trl too"),
        ("[1]", "expected NAME: VALUE lines"),
        ("a: b: c", "is not valid YAML"),
        ("value: {clip: 1}", "value in small.yaml has 'clip'"),
    ],
)
def test_bad_settings(text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(text)
    with pytest.raises(StmError) as raised:
        make_settings("sft", Path("small.yaml"))
    assert problem in str(raised.value)


def test_what_is_given_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("rows: 5\ntrl: {learning_rate: 1e-3, max_steps: 4}\ngrpo: {rows: 7, trl: {max_steps: 5}}\n")
    given = {"model": None, "transcripts": 9, "trl": {"max_steps": 6}}
    sft, grpo, more = make_settings("sft", path), make_settings("grpo", path), make_settings("grpo", path, given)
    assert (sft.rows, grpo.rows, more.rows) == (5, 7, 7)
    assert (sft.trl["max_steps"], grpo.trl["max_steps"], more.trl["max_steps"]) == (4, 5, 6)
    assert grpo.trl["learning_rate"] == 0.001
    assert (more.model, more.transcripts) == ("tiny-tools", 9)
    assert FinetuneSettings(**yaml.safe_load(yaml.safe_dump(more.as_dict()))) == more


def test_reinforcement_learns_from_other_transcripts_than_imitation() -> None:
    sft, grpo = (make_settings(method).chosen(4000) for method in ("sft", "grpo"))
    assert not set(sft) & set(grpo)
    for method in ("sft", "grpo"):  # of a few, all
        assert make_settings(method).chosen(7) == range(7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_that_come_with_the_project(path: Path, method: str, tmp_path: Path) -> None:
    settings = make_settings(method, path)
    options = {**settings.options(tmp_path), "use_cpu": True, "bf16": False}
    config = config_class(method)(**options)
    assert config.max_steps == settings.trl.get("max_steps", -1)
    if path.stem == "finetune-cpu":
        often = {"validation_every": settings.validation_every}
        assert settings == dataclasses.replace(make_settings(method), **often)
