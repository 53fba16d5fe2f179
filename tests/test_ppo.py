from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WordLM

from stm_rl import Probe, StmError, Transcript, Turn
from stm_rl.evaluation import Bootstrap, Played, difference, play
from stm_rl.features import HashedWords, content_words
from stm_rl.lm import ScoringEngine
from stm_rl.runs import Run
from stm_rl_agents import Oracle, heuristics
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.ppo import PPOSettings, PPOTrainer, Stage
from stm_rl_agents.presets import PRESETS, preset
from stm_rl_envs.dialogue import DialogueVectorEnv
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

# A world that is easy to learn and hard to guess: a secret has to be held through louder gossip.

SECRETS = "amber birch cedar delta ember fjord grove heath inlet jetty knoll larch".split()
GOSSIP = (
    "Mayor Quimby of Springfield told Bob about vault {}.",
    "Aunt Agatha lost code {} in Lower Paris.",
    "Sir Humphrey and Jim Hacker met {} Dukes.",
)


def vault(seed: int) -> Transcript:
    """Return a transcript in which two secrets are told, talked over, and asked about."""
    rng = np.random.default_rng(seed)
    turns: list[Turn] = []
    probes = []
    for _ in range(2):
        told = len(turns) + int(rng.integers(3))
        asked = told + int(rng.integers(3, 6))
        secret = " ".join(rng.choice(SECRETS, 2, replace=False))
        for number in range(len(turns), asked):
            gossip = GOSSIP[rng.integers(3)].format(rng.integers(10, 99))
            turns.append(Turn(f"remember vault code {secret}" if number == told else gossip, "user"))
        turns += [Turn("which vault code then?", "user"), Turn(secret, "assistant")]
        probes.append(Probe(asked + 1, (told,)))
    return Transcript(tuple(turns), tuple(probes), f"vault-{seed}")


class SecretsLM(WordLM):
    """Can be helped with secrets only, so that nothing but secrets is worth a slot."""

    def _score(self, context: str, target: str) -> float:
        return super()._score(context, target) if content_words(target) <= set(SECRETS) else 0.0


ENGINE = ScoringEngine(SecretsLM())
ENCODER = HashedWords(32)
VAULTS = {
    split: [vault(first + number) for number in range(count)]
    for split, first, count in (("train", 0, 300), ("validation", 1_000, 32), ("test", 2_000, 64))
}


def make_vaults(
    num_envs: int, split: str = "train", autoreset: bool = True, full_context: bool = False, **overrides: Any
) -> MemoryVectorEnv:
    settings = MemorySettings(**({"slots": 2, "window": 1, "reads": 1, "full_context": full_context} | overrides))
    return MemoryVectorEnv(num_envs, VAULTS[split], settings=settings, lm=ENGINE, encoder=ENCODER, autoreset=autoreset)


def held_out(agent: Any) -> Played:
    return play(agent, lambda num_envs, full: make_vaults(num_envs, "test", False, full), range(64))


def small(**others: Any) -> PPOSettings:
    """Return settings for a few seconds of training."""
    chosen: dict[str, Any] = {
        "steps": 1024, "num_envs": 16, "rollout": 16, "batch_size": 128, "epochs": 2, "lr": 3e-3, "leave_bias": 1.0,
        "width": 16, "layers": 1, "validate_every": 2, "validation_episodes": 16,
    }  # fmt: skip
    return PPOSettings(**(chosen | others))


def trainer(folder: Path, settings: PPOSettings | None = None, **others: Any) -> PPOTrainer:
    """Return a trainer on vaults with the run folder ``folder``, which may exist."""
    run = Run.open(folder) if folder.exists() else Run.create(folder, {})
    return PPOTrainer(others.pop("make_env", make_vaults), settings or small(), run, **others)


def weights(of: PPOTrainer | PolicyAgent) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in of.network.state_dict().items()}


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, msg=name)


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.metrics()]


def scored(mean: float) -> Played:
    """Return a validation of one episode with this return."""
    values: dict[str, Any] = {field.name: np.zeros(1) for field in fields(Played) if field.name != "traces"}
    return Played(**(values | {"returns": np.array([mean])}))


# Learning.


def test_ppo_learns_what_no_heuristic_does(tmp_path: Path) -> None:
    settings = small(
        steps=16_384, num_envs=32, rollout=32, batch_size=256, epochs=6, width=32, validate_every=4,
        validation_episodes=32,
    )  # fmt: skip
    policy = held_out(trainer(tmp_path / "run", settings).train())
    oracle = held_out(Oracle())
    assert policy.returns.mean() > 0.9 * oracle.returns.mean()  # 0.97 to 1.00 with seeds 0 to 2
    assert policy.recalled.sum() > 0.9 * policy.asked.sum()
    assert policy.writes.sum() < 0.5 * policy.turns.sum()
    for heuristic in heuristics():
        baseline = held_out(heuristic)
        assert policy.returns.mean() > 2 * baseline.returns.mean()
        assert difference([policy], [baseline], Bootstrap(64))["ci95"][0] > 0


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"num_envs": 0}, "num_envs is 0; expected at least 1"),
        ({"epochs": -1}, "epochs is -1; expected at least 1"),
        ({"validate_every": 0}, "validate_every is 0; expected at least 1"),
        ({"validation_episodes": 0}, "validation_episodes is 0; expected at least 1"),
        (
            {"num_envs": 32, "rollout": 128, "batch_size": 500},
            "batch_size 500 does not divide a rollout of 32 x 128 = 4096 steps; use a divisor of that",
        ),
        ({"curriculum": (Stage(0.5), Stage(0.4))}, "stages are 0.5, 0.4; expected them to add up to 1"),
        ({"curriculum": ()}, "stages are none; expected them to add up to 1"),
    ],
)
def test_settings_that_cannot_work_name_value_and_advice(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError) as caught:
        PPOSettings(**settings)
    assert message in str(caught.value)


def test_settings_survive_yaml(tmp_path: Path) -> None:
    settings = small(curriculum=(Stage(0.25, {"max_gap": 5}), Stage(0.75)))
    stored = Run.create(tmp_path, {"ppo": settings.as_dict()}).config["ppo"]
    assert PPOSettings(**stored | {"curriculum": tuple(Stage(**stage) for stage in stored["curriculum"])}) == settings


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_have_a_curriculum_on_dialogues_only(name: str) -> None:
    dialogue, other = preset(name, "stm_rl/Dialogue-v0"), preset(name, "")
    assert len(dialogue.curriculum) > 1
    assert dialogue.curriculum[-1].overrides == {}  # it ends on the world as it is
    assert other.curriculum == (Stage(1.0),)
    assert dialogue.steps == other.steps


def test_unknown_preset_is_an_error() -> None:
    with pytest.raises(StmError, match="unknown preset 'huge'; expected one of demo, full, smoke"):
        preset("huge", "")


# What training leaves behind.


def test_the_same_seed_gives_the_same_metrics_and_weights(tmp_path: Path) -> None:
    runs, policies = [], []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        runs.append(trainer(tmp_path / name, small(seed=seed)))
        policies.append(runs[-1].train())
    assert timeless(runs[0].run) == timeless(runs[1].run)
    assert_same_weights(weights(policies[0]), weights(policies[1]))
    assert_same_weights(weights(runs[0]), weights(runs[1]))
    assert timeless(runs[0].run) != timeless(runs[2].run)


def test_metrics_count_every_step_and_say_how_training_goes(tmp_path: Path) -> None:
    seen: list[int] = []
    run = trainer(tmp_path / "run", on_progress=lambda steps, row: seen.append(steps))
    run.train()
    rows = run.run.metrics()
    assert [row["steps"] for row in rows] == seen == [256, 512, 768, 1024]
    assert ["validation/return" in row for row in rows] == [False, True, False, True]
    assert {"train/return", "train/coherence_gain", "train/writes_per_turn", "ppo/loss", "seconds"} <= rows[-1].keys()
    rates = [row["ppo/learning_rate"] for row in rows]
    assert rates == sorted(rates, reverse=True)  # it falls
    json.dumps(rows, allow_nan=False)


def test_training_leaves_nothing_among_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    trainer(tmp_path / "run", small(steps=256)).train()
    assert list(temporary.iterdir()) == []


def test_the_best_policy_is_kept_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path / "run")
    scores = iter([2.0, 1.0])
    validated: list[dict[str, torch.Tensor]] = []

    def validate() -> Played:
        validated.append(weights(run))
        return scored(next(scores))

    monkeypatch.setattr(run, "validate", validate)
    policy = run.train()
    assert run.best == 2.0
    assert_same_weights(weights(policy), validated[0])
    with pytest.raises(AssertionError):
        assert_same_weights(validated[0], validated[1])


def test_kept_policy_scores_what_its_validation_said(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    policy = run.train()
    played = play(policy, lambda count, full: make_vaults(count, "validation", False, full), range(16))
    assert played.returns.mean() == pytest.approx(run.best, abs=1e-6)
    assert max(row.get("validation/return", -np.inf) for row in run.run.metrics()) == pytest.approx(run.best, abs=1e-5)


# The curriculum.


def gaps(env: MemoryVectorEnv) -> set[int]:
    """Return the distances, in exchanges, between plans and questions in some of the transcripts."""
    transcripts = [env.episodes.prepare.transcripts[index] for index in range(20)]
    return {probe.turn // 2 - max(probe.evidence) // 2 for transcript in transcripts for probe in transcript.probes}


def recorded(made: list[tuple[str, set[int]]], reports: list[int]) -> Callable[..., MemoryVectorEnv]:
    def make(num_envs: int, split: str = "train", **options: Any) -> MemoryVectorEnv:
        env = DialogueVectorEnv(num_envs, split=split, turns=20, lm=ENGINE, encoder=ENCODER, **options)
        made.append((f"{split} at {reports[-1] if reports else 0}", gaps(env)))
        return env

    return make


def test_stages_are_trained_on_their_overrides_and_validated_on_none(tmp_path: Path) -> None:
    stages = (Stage(0.5, {"min_gap": 1, "max_gap": 1}), Stage(0.5, {"min_gap": 6, "max_gap": 7}))
    made: list[tuple[str, set[int]]] = []
    reports: list[int] = []
    run = trainer(
        tmp_path / "run",
        small(curriculum=stages, validate_every=100, validation_episodes=2),
        make_env=recorded(made, reports),
        on_progress=lambda steps, row: reports.append(steps),
    )
    run.train()
    near = [found for name, found in made if name == "train at 0"]
    far = [found for name, found in made if name == "train at 512"]
    assert near
    assert max(set().union(*near)) <= 2  # a question waits while another is asked
    assert len(far) == 1
    assert min(far[0]) >= 6
    validated = [found for name, found in made if name.startswith("validation")]
    assert validated
    assert all(4 in found for found in validated)  # the least gap of the world as it is


def test_only_the_last_stage_chooses_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path / "run", small(curriculum=(Stage(0.5, {"window": 2}), Stage(0.5)), validate_every=100))
    scores = iter([9.0, 1.0])  # easy at first, then as it is
    monkeypatch.setattr(run, "validate", lambda: scored(next(scores)))
    policy = run.train()
    assert run.best == 1.0
    assert_same_weights(weights(policy), weights(run))


# Checkpoints.


def test_checkpoint_restores_network_and_optimizer_exactly(tmp_path: Path) -> None:
    before = trainer(tmp_path / "run")
    before.train()
    after = trainer(tmp_path / "run")
    with pytest.raises(AssertionError):
        assert_same_weights(weights(before), weights(after))
    after.load_checkpoint()
    assert_same_weights(weights(before), weights(after))
    old, new = (each.model.policy.optimizer.state_dict()["state"] for each in (before, after))
    assert len(new) == len(list(after.network.parameters()))
    assert old.keys() == new.keys()
    for index in old:
        assert_same_weights(old[index], new[index])
    assert (after.done, after.best, after.seconds) == (before.done, before.best, before.seconds)


def test_checkpoint_before_any_validation_has_no_best(tmp_path: Path) -> None:
    trainer(tmp_path / "run").save_checkpoint()
    after = trainer(tmp_path / "run")
    after.load_checkpoint()
    assert after.best == -np.inf
    assert after.done == 0


@pytest.mark.parametrize("missing", ["state.json", "state.safetensors"])
def test_no_checkpoint_to_resume_from_is_an_error(missing: str, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    run.save_checkpoint()
    (tmp_path / "run" / "checkpoint" / missing).unlink()
    with pytest.raises(StmError, match=r"checkpoint holds no checkpoint \(.*--force"):
        run.load_checkpoint()


def test_interrupted_training_can_go_on(tmp_path: Path) -> None:
    def interrupt(steps: int, row: dict[str, Any]) -> None:
        if steps >= 256:
            raise KeyboardInterrupt

    first = trainer(tmp_path / "run", on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    rows = first.run.metrics()
    assert [row["steps"] for row in rows] == [256]
    assert_same_weights(weights(PolicyAgent.load(tmp_path / "run")), weights(first))  # usable as it is

    second = trainer(tmp_path / "run")
    second.load_checkpoint()
    assert_same_weights(weights(first), weights(second))
    second.train()
    went_on = second.run.metrics()
    assert went_on[:1] == rows
    assert [row["steps"] for row in went_on] == [256, 512, 768, 1024]
    assert went_on[1]["seconds"] >= rows[0]["seconds"]
    assert went_on[1]["ppo/learning_rate"] < rows[0]["ppo/learning_rate"]


def test_resuming_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    first = trainer(tmp_path / "run")
    policy = first.train()
    rows = first.run.metrics()
    second = trainer(tmp_path / "run")
    second.load_checkpoint()
    assert_same_weights(weights(second.train()), weights(policy))
    assert second.run.metrics() == rows
