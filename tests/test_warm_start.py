from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import WordLM
from test_ppo import assert_same_weights, make_vaults, scored, small, timeless, trainer, weights

from stm_rl import StmError
from stm_rl.cli import main
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine
from stm_rl.runs import Run
from stm_rl_agents.anchor import AnchoredPolicy
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.ppo import PPOSettings, PPOTrainer, Stage
from stm_rl_agents.presets import KL_ANCHOR, PRESETS, WARM_SHARE, preset
from stm_rl_envs.vector import MemoryVectorEnv


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> PolicyAgent:
    """Return a policy with preferences, none of them learned; its width is not that of ``small()``."""
    torch.manual_seed(7)
    policy = trainer(tmp_path_factory.mktemp("clone") / "run", small(width=24)).agent()
    with torch.no_grad():
        for head in (policy.network.pick, policy.network.leave):
            list(head.parameters())[-2].mul_(60)
    return policy


def warm(folder: Path, clone: PolicyAgent, **settings: Any) -> PPOTrainer:
    return trainer(folder, small(**settings), init=clone)


def acting(of: PPOTrainer | PolicyAgent) -> dict[str, torch.Tensor]:
    """Return the weights that actions depend on: all but the value head's."""
    return {name: value for name, value in weights(of).items() if not name.startswith("value.")}


def value_head(of: PPOTrainer | PolicyAgent) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights(of).items() if name.startswith("value.")}


def last(run: PPOTrainer, name: str) -> float:
    return float(run.run.metrics()[-1][name])


# Starting.


def test_training_starts_with_the_policy_as_it_is_and_its_width(tmp_path: Path, clone: PolicyAgent) -> None:
    before = weights(clone)
    run = warm(tmp_path / "run", clone)
    assert run.settings.width != run.network.shape["width"] == 24
    assert_same_weights(weights(run), before)
    run.train()
    assert_same_weights(weights(clone), before)  # and leaves it alone
    with pytest.raises(AssertionError):
        assert_same_weights(acting(run), acting(clone))


def test_the_policy_at_the_start_is_validated_first_and_kept_if_none_is_better(
    tmp_path: Path, clone: PolicyAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = warm(tmp_path / "run", clone, curriculum=(Stage(0.5, {"window": 2}), Stage(0.5)), validate_every=100)
    scores = iter([2.0, 9.0, 1.0])  # at the start, after a stage that is not the last, at the end
    monkeypatch.setattr(run, "validate", lambda: scored(next(scores)))
    policy = run.train()
    rows = run.run.metrics()
    assert [row["steps"] for row in rows] == [0, 256, 512, 768, 1024]
    assert [row.get("validation/return") for row in rows] == [2.0, None, 9.0, None, 1.0]
    assert run.best == 2.0
    assert_same_weights(weights(policy), weights(clone))


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "reads": ({"reads": 2}, r"trained with 2 reads a step but the environment has 1; make it with reads=2"),
    "text size": ({"text_size": 48}, r"reads texts of 48 numbers but the environment gives 32; use the encoder"),
    "slot features": ({"slot_features": 3}, r"reads 3 features of a slot and \d+ of the episode but .* gives \d+ and"),
    "global features": ({"global_features": 2}, r"and 2 of the episode but the environment gives \d+ and \d+; use"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_policy_that_does_not_fit_is_an_error(case: str, tmp_path: Path, clone: PolicyAgent) -> None:
    other, message = OTHERS[case]
    misfit = PolicyAgent(PointerNetwork(**(clone.network.shape | other)))
    with pytest.raises(StmError, match=message):
        warm(tmp_path / "run", misfit)


def test_policy_of_another_encoder_is_an_error(tmp_path: Path, clone: PolicyAgent) -> None:
    def make_env(num_envs: int, split: str = "train", **_: Any) -> MemoryVectorEnv:
        transcripts = make_vaults(1, split).episodes.prepare.transcripts
        settings = make_vaults(1).episodes.settings
        engine = ScoringEngine(WordLM())
        return MemoryVectorEnv(num_envs, transcripts, settings=settings, lm=engine, encoder=HashedWords(64))

    with pytest.raises(StmError, match=r"encoded by hashed-words-32 but the environment uses hashed-words-64"):
        trainer(tmp_path / "run", init=clone, make_env=make_env)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_warmup": -1}, "value_warmup is -1 of 1024 steps; expected at least 0 and fewer than all"),
        ({"value_warmup": 1024}, "value_warmup is 1024 of 1024 steps"),
        ({"kl_anchor": -0.1}, "kl_anchor is -0.1; expected a weight of at least 0"),
        ({"kl_anchor": float("nan")}, "kl_anchor is nan"),
        ({"kl_anchor_share": 0.0}, "kl_anchor_share is 0.0; expected more than 0 and at most 1"),
        ({"kl_anchor_share": 1.5}, "kl_anchor_share is 1.5"),
    ],
)
def test_settings_that_cannot_work_name_value_and_advice(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError) as caught:
        small(**settings)
    assert message in str(caught.value)


def test_anchor_without_a_policy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StmError, match=r"kl_anchor is 0.1 but there is no policy to stay close to"):
        trainer(tmp_path / "run", small(kl_anchor=0.1))


# The value head.


def test_only_the_value_head_learns_during_its_warm_up(tmp_path: Path, clone: PolicyAgent) -> None:
    states: dict[int, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}
    run = warm(tmp_path / "run", clone, value_warmup=512, curriculum=(Stage(0.25, {"window": 2}), Stage(0.75)))
    run.on_progress = lambda steps, row: states.update({steps: (acting(run), value_head(run))})
    run.train()
    assert list(states) == [0, 256, 512, 768, 1024]
    for steps in (256, 512):  # in two stages
        assert_same_weights(states[steps][0], acting(clone))
        with pytest.raises(AssertionError):
            assert_same_weights(states[steps][1], value_head(clone))
    for before, after in ((512, 768), (768, 1024)):
        for part in (0, 1):
            with pytest.raises(AssertionError):
                assert_same_weights(states[before][part], states[after][part])
    assert [row.get("ppo/anchor_kl") for row in run.run.metrics()][:3] == [None, 0.0, 0.0]


def test_warm_up_needs_a_policy_to_start_from(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", small(steps=256, value_warmup=255))
    before = acting(run)
    run.train()
    with pytest.raises(AssertionError):
        assert_same_weights(acting(run), before)


# The anchor.


def masked_log_softmax(logits: np.ndarray[Any, Any], masks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    weights = np.where(masks, np.exp(logits - logits.max(-1, keepdims=True)), 0)
    with np.errstate(divide="ignore"):
        return np.log(weights / weights.sum(-1, keepdims=True))


def test_penalty_is_the_exact_divergence_of_masked_distributions(tmp_path: Path, clone: PolicyAgent) -> None:
    run = warm(tmp_path / "run", clone, entropy=0.3)
    policy = run.anchored
    assert isinstance(policy, AnchoredPolicy)
    policy.beta = 0.7
    with torch.no_grad():
        for value in run.network.parameters():
            value += 0.2 * torch.randn_like(value)
    env = make_vaults(8)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    tensors = {name: torch.as_tensor(value) for name, value in observation.items()}
    masks = rng.random((8, 2, 3)) < 0.6
    masks[..., 0] = True
    masks[0, :, 1:] = False  # nothing but none is legal: no divergence, no entropy
    actions = torch.zeros(8, 2)
    values, log_prob, bonus = policy.evaluate_actions(tensors, actions, torch.as_tensor(masks.reshape(8, -1)))

    with torch.no_grad():
        here, there = (
            masked_log_softmax(network(tensors)[0].numpy().astype(np.float64).reshape(8, 2, 3), masks)
            for network in (run.network, clone.network)
        )
    p = np.exp(here)
    kl = np.where(masks, p * (np.where(masks, here, 0) - np.where(masks, there, 0)), 0).sum((1, 2))
    entropy = -np.where(masks, p * np.where(masks, here, 0), 0).sum((1, 2))
    assert kl[0] == entropy[0] == 0
    assert kl[1:].max() > 0.1
    assert bonus is not None
    np.testing.assert_allclose(bonus.detach().numpy(), 0.3 * entropy - 0.7 * kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(log_prob.detach().numpy(), here[..., 0].sum(1), rtol=1e-4, atol=1e-5)
    assert values.shape == (8, 1)
    assert policy.take_log() == pytest.approx(
        {"entropy_loss": -entropy.mean(), "anchor_kl": kl.mean(), "anchor_beta": 0.7}, rel=1e-4
    )
    assert policy.take_log() == {}
    bonus.sum().backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.isfinite().all() for value in run.network.pick.parameters())
    assert all(value.grad is None for value in policy.anchor.parameters())


def test_a_strong_anchor_holds_the_policy_and_none_lets_it_go(tmp_path: Path, clone: PolicyAgent) -> None:
    moved = {}
    for beta in (0.0, 1000.0):
        run = warm(tmp_path / str(beta), clone, kl_anchor=beta, kl_anchor_share=1.0, lr=1e-3, entropy=0.0)
        run.train()
        moved[beta] = last(run, "ppo/anchor_kl")
    assert moved[1000.0] < 0.2 * moved[0.0]
    assert moved[0.0] > 0.02


def test_the_anchor_fades_over_its_share_of_the_steps(tmp_path: Path, clone: PolicyAgent) -> None:
    run = warm(tmp_path / "run", clone, kl_anchor=0.2, kl_anchor_share=0.5)
    run.train()
    rows = run.run.metrics()
    assert [row["ppo/anchor_beta"] for row in rows[1:]] == pytest.approx([0.2, 0.1, 0.0, 0.0])
    assert all(row["ppo/entropy_loss"] < 0 for row in rows[1:])
    assert rows[-1]["ppo/anchor_kl"] > 0


# Going on.


def test_interrupted_warm_start_goes_on_with_its_anchor(tmp_path: Path, clone: PolicyAgent) -> None:
    def interrupt(steps: int, row: dict[str, Any]) -> None:
        if steps >= 512:
            raise KeyboardInterrupt

    settings = {"value_warmup": 768, "kl_anchor": 0.2, "kl_anchor_share": 1.0}
    first = warm(tmp_path / "run", clone, **settings)
    first.on_progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        first.train()
    rows = first.run.metrics()
    assert [row["steps"] for row in rows] == [0, 256, 512]

    kept = PolicyAgent.load(tmp_path / "run" / "checkpoint" / "init")
    assert_same_weights(weights(kept), weights(clone))
    second = warm(tmp_path / "run", kept, **settings)
    second.load_checkpoint()
    assert second.best == first.best
    assert second.anchored is not None
    assert_same_weights(dict(second.anchored.anchor.state_dict()), weights(clone))
    assert_same_weights(weights(first), weights(second))
    acted: dict[int, dict[str, torch.Tensor]] = {}
    second.on_progress = lambda steps, row: acted.update({steps: acting(second)})
    second.train()
    went_on = second.run.metrics()
    assert went_on[:3] == rows
    assert [row["steps"] for row in went_on] == [0, 256, 512, 768, 1024]  # the start is not validated again
    assert [row["ppo/anchor_beta"] for row in went_on[1:]] == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert_same_weights(acted[768], acting(clone))  # the warm-up goes on too
    with pytest.raises(AssertionError):
        assert_same_weights(acted[1024], acting(clone))


def test_resume_takes_the_anchor_of_the_run_whatever_is_given(tmp_path: Path, clone: PolicyAgent) -> None:
    warm(tmp_path / "run", clone).save_checkpoint()
    other = PolicyAgent(PointerNetwork(**clone.network.shape))
    after = warm(tmp_path / "run", other)
    after.load_checkpoint()
    assert after.anchored is not None
    assert_same_weights(dict(after.anchored.anchor.state_dict()), weights(clone))


def test_warm_start_cannot_be_resumed_without_a_policy(tmp_path: Path, clone: PolicyAgent) -> None:
    warm(tmp_path / "run", clone).save_checkpoint()
    with pytest.raises(StmError, match=r"started from a policy; give init, as in .*checkpoint/init"):
        trainer(tmp_path / "run", small(width=24)).load_checkpoint()


def test_the_same_seed_gives_the_same_warm_start(tmp_path: Path, clone: PolicyAgent) -> None:
    runs = []
    for name in "ab":
        runs.append(warm(tmp_path / name, clone, value_warmup=256, kl_anchor=0.1))
        runs[-1].train()
    assert timeless(runs[0].run) == timeless(runs[1].run)
    assert_same_weights(weights(runs[0]), weights(runs[1]))


# Presets and the command line.


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("steps", [None, 1_000])
def test_warm_presets_have_one_stage_and_warm_up_the_value_head(name: str, steps: int | None) -> None:
    settings = preset(name, "stm_rl/Dialogue-v0", steps=steps, warm=True)
    assert settings.curriculum == (Stage(1.0),)
    assert settings.steps == (steps or round(WARM_SHARE * PRESETS[name].steps))
    assert settings.lr == 3e-4
    assert settings.kl_anchor == KL_ANCHOR
    expected = {"demo": 8_192, "full": 8_192, "smoke": 153}[name]
    assert settings.value_warmup == (250 if steps else expected)


def stm_rl(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, sys.path))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", "from stm_rl.cli import main; main()", *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


SMOKE = ("--preset", "smoke", "--eval-episodes", "0", "--set", "turns=12")


@pytest.fixture(scope="module")
def warm_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the run ``bc``, and the run ``warm`` that started from it."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["stm-rl", "train", *SMOKE, "--steps", "512", "--out", "bc"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    card = folder / "bc" / "policy.json"
    card.write_text(card.read_text().replace('"env"', '"method": "dagger",\n "env"'))
    done = stm_rl(folder, "train", *SMOKE, "--steps", "1024", "--init", "bc", "--kl-anchor", "0.3", "--out", "warm")
    assert done.returncode == 0, done.stderr
    assert "0 of 1,024 steps" in done.stderr
    return folder


def test_command_line_starts_from_a_run(warm_run: Path) -> None:
    config = Run.open(warm_run / "warm").config
    assert config["request"]["init"] == "bc"
    assert config["request"]["kl_anchor"] == config["ppo"]["kl_anchor"] == 0.3
    assert len(config["ppo"]["curriculum"]) == 1
    rows = Run.open(warm_run / "warm").metrics()
    assert [row["steps"] for row in rows] == [0, 512, 1024]
    assert [row.get("ppo/anchor_beta") for row in rows] == [None, 0.3, 0.0]
    card = PolicyAgent.load(warm_run / "warm").card
    assert card["init"] == {"folder": "bc", "method": "dagger"}
    assert "method" not in card


def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["stm-rl", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_run_is_resumed_from_its_own_folder_alone(
    warm_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(warm_run)
    (warm_run / "bc").rename(warm_run / "moved")
    path = warm_run / "warm" / "config.yaml"
    text = path.read_text()
    before = Run.open(warm_run / "warm").metrics()
    config = yaml.safe_load(text)
    config["ppo"]["steps"] = 1536
    path.write_text(yaml.safe_dump(config))
    code, error = cli(capsys, monkeypatch, "train", "--resume", "--out", "warm")
    path.write_text(text)
    (warm_run / "moved").rename(warm_run / "bc")
    assert code == 0, error
    rows = Run.open(warm_run / "warm").metrics()
    assert rows[: len(before)] == before
    assert [row["steps"] for row in rows] == [0, 512, 1024, 1536]
    assert rows[-1]["ppo/anchor_kl"] > 0
    assert PolicyAgent.load(warm_run / "warm").card["init"]["folder"] == "bc"


def test_runs_from_before_warm_starts_can_be_resumed(
    warm_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(warm_run)
    path = warm_run / "bc" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    assert config["request"].pop("init") is config["request"].pop("kl_anchor") is None
    for name in ("value_warmup", "kl_anchor", "kl_anchor_share"):
        del config["ppo"][name]
    path.write_text(yaml.safe_dump(config))
    code, error = cli(capsys, monkeypatch, "train", "--resume", "--out", "bc")
    assert code == 0, error


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no init": (("--kl-anchor", "0.1"), "--kl-anchor needs --init, and was given as 0.1 without it; name the folder"),
    "no policy": (("--init", "nowhere"), "nowhere holds no policy"),
    "reads": (("--init", "bc", "--set", "reads=1"), "trained with 2 reads a step but the environment has 1; make it"),
    "encoder": (("--init", "bc", "--set", "encoder=words"), "but the environment uses hashed-words-128; make it with"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    case: str, warm_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args, message = BAD[case]
    monkeypatch.chdir(warm_run)
    code, error = cli(capsys, monkeypatch, "train", *SMOKE, "--out", "new", *args)
    assert code == 2
    assert error.startswith("stm-rl: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (warm_run / "new").exists()


def test_negative_weight_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = cli(capsys, monkeypatch, "train", "--init", "bc", "--kl-anchor", "-1")
    assert code == 2
    assert "--kl-anchor" in error


def test_settings_survive_yaml_with_a_warm_start(tmp_path: Path) -> None:
    settings = preset("demo", "stm_rl/Dialogue-v0", warm=True)
    stored = Run.create(tmp_path / "run", {"ppo": settings.as_dict()}).config["ppo"]
    assert PPOSettings(**stored | {"curriculum": tuple(Stage(**stage) for stage in stored["curriculum"])}) == settings
