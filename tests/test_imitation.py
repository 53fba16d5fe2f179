from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WordLM
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl import StmError
from stm_rl.evaluation import Bootstrap, difference, play
from stm_rl.labels import Labeller, ModelLabels, PairSettings
from stm_rl.lm import ScoringEngine
from stm_rl.runs import Run
from stm_rl.worlds.dialogue import DialogueWorld
from stm_rl_agents import Informed, heuristics
from stm_rl_agents.demonstrations import Demonstrations, card_of, record
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.imitation.lessons import Lessons, collect
from stm_rl_agents.imitation.losses import COST, cross_entropy, imitation_loss, regret
from stm_rl_agents.imitation.settings import ImitationSettings
from stm_rl_agents.imitation.trainer import ImitationTrainer
from stm_rl_envs import MemorySettings, MemoryVectorEnv

MEMORY = MemorySettings(slots=3, window=2, reads=2)
WORLD = DialogueWorld(turns=20, min_gap=2, max_gap=4)
FIRST = {"train": 0, "validation": 10_000, "test": 20_000}
COUNT = {"train": 80, "validation": 20, "test": 40}
SMALL = ImitationSettings(
    epochs=6, rounds=2, round_epochs=4, transcripts=80, validation_episodes=20, batch_size=64, width=32, num_envs=16
)


class Setting:
    """A small world, its labels and its expert, judged by a model made of words."""

    def __init__(self) -> None:
        self.engine = ScoringEngine(WordLM())
        self.transcripts = {
            split: [WORLD.generate(first + i) for i in range(COUNT[split])] for split, first in FIRST.items()
        }
        prepare = self.make_env(1).episodes.prepare
        self.labels = ModelLabels(Labeller(prepare, PairSettings(prefilter="words")), level=1.0, reads=2)
        self.expert = HindsightExpert(self.labels, 1.0)

    def make_env(
        self, num_envs: int, split: str = "train", autoreset: bool = True, full_context: bool = False, **_: Any
    ) -> MemoryVectorEnv:
        return MemoryVectorEnv(
            num_envs, self.transcripts[split], settings=MEMORY, lm=self.engine, encoder="words", autoreset=autoreset
        )

    def lesson_env(self, num_envs: int) -> MemoryVectorEnv:
        return MemoryVectorEnv(
            num_envs,
            self.transcripts["train"],
            settings=MEMORY,
            lm=None,
            reward={"write_cost": 1.0},
            encoder="words",
            autoreset=False,
        )

    def trainer(self, folder: Path, chosen: ImitationSettings = SMALL, **more: Any) -> ImitationTrainer:
        run = Run.create(folder, {}) if not folder.exists() else Run.open(folder)
        return ImitationTrainer(self.make_env, self.lesson_env, self.expert, chosen, run, **more)


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


# Losses.


def log_probs(seed: int, n: int, parts: int, choices: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn(n, parts, choices, generator=generator).double(), -1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), slots=st.integers(1, 3), reads=st.integers(1, 2))
def test_regret_is_the_expected_worth_of_all_joint_actions(seed: int, slots: int, reads: int) -> None:
    rng = np.random.default_rng(seed)
    chances = log_probs(seed, 1, 1 + reads, slots + 1)
    write, read = (np.concatenate([[0], rng.normal(size=slots)]) for _ in range(2))
    expected = 0.0
    for action in product(range(slots + 1), repeat=1 + reads):
        chance = float(np.exp(sum(chances[0, part, choice].item() for part, choice in enumerate(action))))
        worth = write[action[0]] - COST if action[0] else 0.0
        worth += sum(read[slot] - COST for slot in set(action[1:]) - {0, action[0]})
        expected += chance * worth
    batch = {"write": torch.tensor(write)[None], "read": torch.tensor(read)[None]}
    assert regret(chances, batch).item() == pytest.approx(-expected, abs=1e-9)


def test_cross_entropy_weighs_each_part_by_its_stakes() -> None:
    chances = log_probs(0, 4, 2, 4)
    actions = torch.tensor([[1, 0], [0, 2], [3, 3], [2, 1]])
    stakes = torch.tensor([[0.5, 2.0], [0.0, 1.0], [3.0, 0.1], [1.0, 1.0]]).double()
    by_hand = [-(chances[i, part, actions[i, part]] * stakes[i, part]) for i in range(4) for part in range(2)]
    found = cross_entropy(chances, {"actions": actions, "stakes": stakes})
    assert found.item() == pytest.approx(sum(value.item() for value in by_hand) / 4)


def test_the_order_of_reads_does_not_matter() -> None:
    chances = log_probs(1, 8, 3, 5)
    actions = torch.randint(0, 5, (8, 3), generator=torch.Generator().manual_seed(2))
    stakes = torch.rand(8, 3, generator=torch.Generator().manual_seed(3)).double()
    swap = torch.tensor([0, 2, 1])
    one = cross_entropy(chances, {"actions": actions, "stakes": stakes})
    other = cross_entropy(chances, {"actions": actions[:, swap], "stakes": stakes[:, swap]})
    assert one.item() == pytest.approx(other.item())


def test_regret_needs_the_worth_of_other_actions() -> None:
    with pytest.raises(StmError, match="use the loss cross-entropy"):
        regret(log_probs(0, 1, 2, 3), {"actions": torch.zeros(1, 2, dtype=torch.long)})


# Lessons.


def test_the_expert_as_actor_is_told_what_it_did(setting: Setting) -> None:
    env = setting.lesson_env(4)
    lessons = collect(setting.expert, setting.expert, env, range(6))
    assert len(lessons) == 6 * (WORLD.turns - 1)
    demonstrations = record(setting.expert, setting.lesson_env(4), range(6))
    told = sorted(map(tuple, lessons.columns["actions"].tolist()))
    assert told == sorted(tuple(action) for one in demonstrations for action in one.actions.tolist())
    assert {"write", "read"} <= set(lessons.columns)
    assert lessons.batch(np.arange(3))["observation/slots"].dtype == torch.float32


def test_noise_throws_the_expert_off_but_not_what_it_says(setting: Setting) -> None:
    def thrown(noise: float, seed: int) -> Lessons:
        rng = np.random.default_rng(seed)
        return collect(setting.expert, setting.expert, setting.lesson_env(6), range(6), noise=noise, rng=rng)

    calm, wild, again = thrown(0.0, 1), thrown(0.9, 1), thrown(0.9, 1)
    assert all(np.array_equal(wild.columns[name], again.columns[name]) for name in wild.columns)
    first = slice(0, 6)  # nothing was written yet
    assert np.array_equal(calm.columns["actions"][first], wild.columns["actions"][first])
    assert not np.array_equal(calm.columns["observation/slots"], wild.columns["observation/slots"])


# Learning.


def test_imitation_learns_more_than_any_heuristic(setting: Setting, tmp_path: Path) -> None:
    trainer = setting.trainer(tmp_path / "run")
    policy = trainer.train()
    rows = trainer.run.metrics()
    returns = [row["validation/return"] for row in rows if "validation/return" in row]
    assert len(returns) == 1 + SMALL.rounds
    assert max(returns) == pytest.approx(trainer.best, abs=1e-4)

    def make(num_envs: int, full_context: bool) -> MemoryVectorEnv:
        return setting.make_env(num_envs, "test", autoreset=False)

    results = {agent.name: play(agent, make, range(40)) for agent in (*heuristics(0), setting.expert, policy)}
    budgeted = [agent.name for agent in heuristics(0)]
    best = max(budgeted, key=lambda name: float(results[name].returns.mean()))
    gap = difference([results["dagger"]], [results[best]], Bootstrap(40))
    assert gap["ci95"][0] > 0
    assert results["dagger"].gains.mean() > 0.5 * results["expert"].gains.mean()


def test_an_interrupted_run_goes_on_where_it_was(setting: Setting, tmp_path: Path) -> None:
    chosen = ImitationSettings(
        epochs=1, rounds=2, round_epochs=1, transcripts=20, validation_episodes=4, width=16, num_envs=10
    )
    whole = setting.trainer(tmp_path / "whole", chosen)
    whole.train()

    def interrupt(row: dict[str, Any]) -> None:
        if row.get("round") == 1 and "epoch" in row:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setting.trainer(tmp_path / "parts", chosen, on_progress=interrupt).train()
    resumed = setting.trainer(tmp_path / "parts", chosen)
    resumed.load_checkpoint()
    assert resumed.done == 1
    resumed.train()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    rows = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in one.run.metrics()]
        for one in (whole, resumed)
    ]
    assert rows[0] == rows[1]


def test_demonstrations_can_be_cloned_but_not_asked(setting: Setting, tmp_path: Path) -> None:
    env = setting.lesson_env(10)
    demonstrations = Demonstrations(record(Informed(), env, range(30)), card_of(env, "informed", "test"))
    chosen = ImitationSettings(method="bc", epochs=6, validation_episodes=10, width=32, batch_size=64)
    run = Run.create(tmp_path / "bc", {})
    trainer = ImitationTrainer(setting.make_env, setting.lesson_env, None, chosen, run, demonstrations=demonstrations)
    trainer.train()
    losses = [row["imitation/held_out_loss"] for row in run.metrics() if "epoch" in row]
    assert losses[-1] < 0.8 * losses[0]
    with pytest.raises(StmError, match="use method bc"):
        ImitationTrainer(setting.make_env, setting.lesson_env, None, SMALL, run, demonstrations=demonstrations)
    single = Demonstrations(demonstrations.episodes[:1], demonstrations.card)
    with pytest.raises(StmError, match="only 1 episode"):
        ImitationTrainer(setting.make_env, setting.lesson_env, None, chosen, run, demonstrations=single).train()


def test_early_stopping_keeps_the_best_weights(setting: Setting, tmp_path: Path) -> None:
    chosen = ImitationSettings(method="bc", epochs=8, patience=1, lr=0.05, transcripts=20, validation_episodes=4)
    trainer = setting.trainer(tmp_path / "run", chosen)
    trainer.train()
    losses = [row["imitation/held_out_loss"] for row in trainer.run.metrics() if "epoch" in row]
    held_out = trainer.parts[0][1].joined([part[1] for part in trainer.parts])
    with torch.inference_mode():
        batch = held_out.batch(np.arange(len(held_out)))
        final = imitation_loss(trainer.network, batch, "cross-entropy", 0.0).item()
    assert final <= min(losses) + 1e-4
    assert len(losses) < 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gail"}, "method is 'gail'; expected one of bc, dagger"),
        ({"loss": "mse"}, "loss is 'mse'"),
        ({"transcripts": 1}, "expected at least 2"),
        ({"expert_noise": (1.5,)}, "expert_noise"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"gamma": 2.0}, "gamma is 2.0"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_settings_that_cannot_be_learned_with_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError, match=message):
        ImitationSettings(**options)
