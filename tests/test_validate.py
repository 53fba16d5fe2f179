from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import WordLM

from stm_rl import Probe, StmError, Transcript, Turn
from stm_rl.cli import validate_api as api
from stm_rl.cli import validate_play as plays
from stm_rl.cli.task import Task
from stm_rl.cli.validate import report
from stm_rl.cli.validate import validate_transcripts as run_validate_transcripts
from stm_rl.cli.validate_memory import check_memory
from stm_rl.cli.validate_policy import PolicyChecks
from stm_rl.cli.validate_reward import Recorded, RewardChecks, record
from stm_rl.cli.validate_trajectory import Processes
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine, load_engine
from stm_rl.rewards import Reward, Step, Steps, Term, per_step
from stm_rl.validation import Finding, error, ok, run_checks, warning
from stm_rl.validation.transcripts import TranscriptChecks
from stm_rl.worlds import DialogueWorld, GeneratedTranscripts
from stm_rl_agents.constant import constant_agents, idle_agents
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_envs import MemoryEnv, MemoryVectorEnv
from stm_rl_envs.options import TEXT_REWARDS, memory_options

ENGINE = load_engine()
ENCODER = HashedWords(16)
Check = Callable[[], Iterator[Finding]]


def one(findings: Iterator[Finding], level: str, check: str) -> Finding:
    """Return the finding of ``check``, which must be of ``level``; errors and warnings say what to change."""
    found = list(findings)
    assert all(bool(finding.change) == (finding.level != "ok") for finding in found)
    chosen = [finding for finding in found if finding.check == check and finding.level == level]
    assert chosen, found
    return chosen[0]


# Findings.


def test_what_a_check_raises_is_a_finding() -> None:
    def fine() -> Iterator[Finding]:
        yield ok("fine", "all well")

    def refuses() -> Iterator[Finding]:
        raise StmError("slots is 0; expected at least 1")

    def breaks() -> Iterator[Finding]:
        raise KeyError("turn")

    def warns() -> Iterator[Finding]:
        for _ in range(2):
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        yield ok("warns", "done")

    checks: list[tuple[str, Check]] = [("refuses", refuses), ("breaks", breaks), ("warns", warns), ("fine", fine)]
    found = list(run_checks(checks))
    assert [(finding.level, finding.check) for finding in found] == [
        ("error", "refuses"), ("error", "breaks"), ("ok", "warns"), ("warning", "warns"), ("ok", "fine"),
    ]  # fmt: skip
    assert found[0].found == "slots is 0; expected at least 1"
    assert "KeyError at test_validate.py:" in found[1].found
    assert found[3].found == "DeprecationWarning: old"


FOUND = [ok("a", "good"), warning("b", "odd", "look"), error("c", "[bad]", "mend")]


@pytest.mark.parametrize(("findings", "code"), [(FOUND, 1), (FOUND[:2], 0), ([], 0)])
def test_status_says_whether_there_is_an_error(
    findings: Sequence[Finding], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report("env", "x/X-v0", findings, as_json=True) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] == (not code)
    assert [row["level"] for row in printed["findings"]] == [finding.level for finding in findings]
    assert report("env", "x/X-v0", findings, as_json=False) == code
    table = capsys.readouterr().out
    assert all(finding.found in table and finding.change in table for finding in findings)
    assert ("needs work" if code else "is fine") in table


# Environments: faults are planted, and found.


def options_of(split: str = "train", slots: int = 3, **options: Any) -> dict[str, Any]:
    world = GeneratedTranscripts(DialogueWorld(turns=24), split, 20)
    return memory_options(world, TEXT_REWARDS, {"encoder": ENCODER, "slots": slots} | options)


class Good(MemoryEnv):
    """An environment without a fault. Reward: the usual one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options_of(**options))


class GoodVector(MemoryVectorEnv):
    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        super().__init__(num_envs, **options_of(**options))


class Forgetful(Good):
    """Draws transcripts by no seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=None if seed is None else int(np.random.randint(1000)), options=options)  # noqa: NPY002


class Stubborn(Good):
    """Always plays the same transcript."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed, options={"transcript": 0} | (options or {}))


class Counting(Good):
    """Pays by a counter that no snapshot holds."""

    count = 0

    def step(self, action: Any) -> Any:
        self.count += 1
        observation, reward, *rest = super().step(action)
        return observation, reward + self.count / 100, *rest


class Prophet(Good):
    """Shows the next turn."""

    def _observation(self) -> Any:
        observation = super()._observation()
        item, step = self.episodes.current[0], int(self.episodes.step_index[0])
        return observation | {"window": item.vectors[min(step + 1, len(item) - 1)]}


class TooLarge(Good):
    """Shows what is not in its space."""

    def _observation(self) -> Any:
        observation = super()._observation()
        return observation | {"turn": observation["turn"] + 100}


class OtherVector(GoodVector):
    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        super().__init__(num_envs, **options, max_steps=9)


class OneSplitVector(GoodVector):
    def __init__(self, num_envs: int = 1, split: str = "train", **options: Any) -> None:
        super().__init__(num_envs, **options)


def task_of(scalar: type[Good] = Good, vector: type[GoodVector] = GoodVector, **overrides: Any) -> Task:
    name = f"faulty/{scalar.__name__}{vector.__name__}-v0"
    if name not in gym.registry:
        gym.register(name, entry_point=scalar, vector_entry_point=vector)
    reward = overrides.pop("reward", None)
    return Task(name, name, ENGINE, overrides, reward=Reward(reward) if reward else None)


class Ready:
    """Stands for processes that have ended with these digests."""

    def __init__(self, *digests: str) -> None:
        self.found = list(digests)

    def digests(self) -> list[str]:
        return self.found


SAME: Any = Ready("a", "a")


def test_good_environment_passes_every_check() -> None:
    task = task_of()
    played = plays.Plays(task, 12, 0)
    for findings in (
        api.check_checkers(task), api.check_vector(task, 0), api.check_determinism(task, 0, SAME),
        api.check_snapshot(task, 0), api.check_reward_finite(task, 0), api.check_future(task, 0),
        plays.check_splits(task), plays.check_need(played), plays.check_oracle(played),
        plays.check_no_memory(played), plays.check_constant(played), api.check_speed(task, 0),
    ):  # fmt: skip
        for finding in findings:
            assert finding.level == "ok", finding


def test_fault_of_the_spaces_is_found() -> None:
    one(api.check_checkers(task_of(TooLarge)), "error", "gymnasium checker")


def test_other_vector_form_is_found() -> None:
    assert (
        "differs from the scalar form at step 8"
        in one(api.check_vector(task_of(vector=OtherVector), 0), "error", "vector form").found
    )


def test_play_without_a_seed_is_found() -> None:
    assert "played twice" in one(api.check_determinism(task_of(Forgetful), 0, SAME), "error", "determinism").found
    other: Any = Ready("a", "b")
    assert "between processes" in one(api.check_determinism(task_of(), 0, other), "error", "determinism").found
    one(api.check_determinism(task_of(Stubborn), 0, SAME), "error", "seeds")


def test_incomplete_snapshot_is_found() -> None:
    one(api.check_snapshot(task_of(Counting), 0), "error", "snapshots")


def test_look_ahead_is_found() -> None:
    found = one(api.check_future(task_of(Prophet), 0), "error", "no look ahead")
    assert "observation at turn 5 changes with turns from 6 on" in found.found


def test_shared_splits_are_found() -> None:
    assert "share 20 of" in one(plays.check_splits(task_of(vector=OneSplitVector)), "error", "splits").found


@per_step
def presence(step: Step) -> float:
    """Pay for being there."""
    return 0.5


@per_step
def hoarding(step: Step) -> float:
    """Pay for holding anything."""
    return float(len(step.held))


def test_pay_without_memory_is_found() -> None:
    played = plays.Plays(task_of(reward={presence: 1.0}), 4, 0)
    assert (
        "earns 11.5 in an episode; expected exactly 0" in one(plays.check_no_memory(played), "error", "no memory").found
    )
    one(plays.check_oracle(played), "error", "oracle")


def test_pay_for_fixed_rules_is_found() -> None:
    played = plays.Plays(task_of(reward={"coherence": 0.1, hoarding: 1.0}), 4, 0)
    assert "looks at no text and earns" in one(plays.check_constant(played), "error", "constant policies").found


def test_useless_memory_is_found() -> None:
    task = Task("x", task_of().env, ENGINE, {"window": 16})
    one(plays.check_need(plays.Plays(task, 4, 0)), "warning", "need of memory")


def test_constant_agents_act_legally_and_idle_ones_keep_nothing() -> None:
    env = task_of().make(4)
    observation, _ = env.reset(seed=0)
    agents = [*idle_agents(), *constant_agents()]
    assert len({agent.name for agent in agents}) == len(agents)
    for step in range(30):
        masks = env.action_masks()
        parts = masks.reshape(4, -1, 4)
        for agent in agents:
            agent.start(env)
            actions = agent.act(observation, masks)
            assert np.take_along_axis(parts, actions[..., None], -1).all()
            assert agent.name not in ("abstain", "only-read") or not actions[:, 0].any()
        observation, *_ = env.step(agents[2 + step % (len(agents) - 2)].act(observation, masks))


HASHING = """
import gymnasium as gym
from stm_rl.worlds import DialogueWorld, GeneratedTranscripts
from stm_rl_envs import MemoryEnv


class Env(MemoryEnv):
    def __init__(self, **options):
        count = 10 + hash("order") % 1000
        super().__init__(GeneratedTranscripts(DialogueWorld(), count=count), encoder="words", **options)


gym.register("hashing/Env-v0", entry_point=Env)
"""


def test_other_processes_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hashing_env.py").write_text(HASHING, encoding="utf-8")
    env = "hashing_env:hashing/Env-v0"
    processes = Processes(Task(env, env, None, reward=Reward({"recall": 1.0})), None, 0)
    try:
        one, other = processes.digests()
        assert one != other
    finally:
        processes.stop()


def test_process_that_fails_is_told_of_and_ended() -> None:
    processes = Processes(Task("nowhere:a/B-v0", "nowhere:a/B-v0", None), None, 0)
    processes.stop()
    with pytest.raises(StmError, match="cannot be played in a process of its own"):
        processes.digests()


# Rewards.


@pytest.fixture(scope="module")
def played() -> list[Recorded]:
    return [record(task_of(), 6, 0)]


def check(weights: dict[str | Term, float], played: list[Recorded]) -> Iterator[Finding]:
    return RewardChecks(weights, copy.deepcopy(played)).run()  # a bad term may change what it is given


def test_usual_reward_passes_every_check(played: list[Recorded]) -> None:
    for finding in check({"coherence": 1.0, "write_cost": 0.01, "read_cost": 0.02}, played):
        assert finding.level == "ok", finding


def test_cost_is_no_fault(played: list[Recorded]) -> None:
    found = list(check({"read_cost": 0.02}, played))
    assert "it never pays" in one(iter(found), "ok", "alone").found
    assert {finding.level for finding in found} == {"ok"}


class Moody:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, steps: Steps) -> Any:
        self.calls += 1
        return steps.gain * self.calls


def relative(steps: Steps) -> Any:
    return steps.gain - steps.gain.mean()


def greedy(steps: Steps) -> Any:
    steps.wrote[:] = True
    return steps.gain


def total(steps: Steps) -> Any:
    return steps.gain.sum()


def undefined(steps: Steps) -> Any:
    return np.full(len(steps), np.nan)


@per_step
def broken(step: Step) -> float:
    return float(step.probe.answer)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("term", "level", "check_name", "text"),
    [
        (Moody(), "error", "pure", "the second time"),
        (relative, "error", "pure", "one by one"),
        (greedy, "error", "pure", "changes the steps"),
        (total, "error", "values", "gave an array of shape ()"),
        (undefined, "error", "values", "gave nan"),
        (broken, "error", "values", "AttributeError at test_validate.py"),
        (presence, "error", "no memory", "earns 0.5 in a step"),
        (hoarding, "error", "beside coherence", "looks at no text and earns"),
        (hoarding, "warning", "alone", "looks at no text and earns"),
        (per_step(lambda step: 0.0), "warning", "pays", "0 in every step"),
        (per_step(lambda step: 100 * step.gain), "warning", "scale", "nats"),
        (per_step(lambda step: 1e-5 * step.gain), "warning", "scale", "nats"),
    ],
)
def test_fault_of_a_reward_is_found(term: Term, level: str, check_name: str, text: str, played: list[Recorded]) -> None:
    assert text in one(check({term: 1.0}, played), level, check_name).found


def test_reward_is_not_blamed_for_its_environment() -> None:
    transcripts = [
        Transcript(
            (
                Turn(f"The kite is in the {place}."),
                *(Turn(f"Word{i} and so on{i}.") for i in range(8)),
                Turn(f"{place}!"),
            ),
            (Probe(9, (0,), place),),
            place,
        )
        for place in ("harbor", "cellar", "garden", "kitchen")
    ]

    class FirstVector(GoodVector):
        def __init__(self, num_envs: int = 1, split: str = "", **options: Any) -> None:
            MemoryVectorEnv.__init__(self, num_envs, **memory_options(transcripts, TEXT_REWARDS, options))

    task = replace(task_of(vector=FirstVector, encoder=ENCODER), engine=ScoringEngine(WordLM()))
    recorded = record(task, 4, 0)
    found = one(check({"read_cost": 0.01}, [recorded]), "warning", "beside coherence")
    assert "under coherence alone, first-turns" in found.found
    assert "stm-rl validate env" in found.change


# Policies.


def policy_for(task: Task, network: type[PointerNetwork] = PointerNetwork, **card: Any) -> PolicyAgent:
    env = task.make(1)
    spaces: Any = env.single_observation_space
    torch.manual_seed(0)
    made = network(
        ENCODER.dimension,
        spaces["slots"].shape[0] and spaces["slot_features"].shape[1],
        spaces["globals"].shape[0],
        2,
        16,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return PolicyAgent(made, {"encoder": ENCODER.id} | card)


def check_policy(policy: PolicyAgent) -> Iterator[Finding]:
    return PolicyChecks(policy, task_of(), 4, 0).run()


def test_policy_is_sound_even_if_it_learned_nothing() -> None:
    found = list(check_policy(policy_for(task_of())))
    sound = ("weights", "fits", "legal", "deterministic", "order of slots", "slot counts")
    assert [finding.check for finding in found if finding.level == "ok"][: len(sound)] == list(sound)
    assert [finding for finding in found if finding.check == "worth"]


class Ordered(PointerNetwork):
    """Tells slots apart by their place."""

    def forward(self, observation: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        logits, values = super().forward(observation)
        return logits + torch.arange(logits.shape[1]) * 0.1, values


class Mixing(PointerNetwork):
    """Lets observations of a batch see each other."""

    def forward(self, observation: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        logits, values = super().forward(observation)
        return logits - logits.mean(0), values


class Wavering(PolicyAgent):
    """Acts at random whatever is asked."""

    def act_batch(self, observation: Any, action_masks: Any, deterministic: bool) -> Any:
        return super().act_batch(observation, action_masks, False)


class Lawless(PolicyAgent):
    """Reads slots that are free."""

    def act_batch(self, observation: Any, action_masks: Any, deterministic: bool) -> Any:
        return np.ones_like(super().act_batch(observation, action_masks, True))


def test_faults_of_a_policy_are_found() -> None:
    task = task_of()
    one(check_policy(policy_for(task, Ordered)), "error", "order of slots")
    assert "one by one" in one(check_policy(policy_for(task, Mixing)), "error", "deterministic").found
    good = policy_for(task)
    assert "another action" in one(check_policy(Wavering(good.network, good.card)), "error", "deterministic").found
    assert "which masks forbid" in one(check_policy(Lawless(good.network, good.card)), "error", "legal").found
    assert (
        "trained on texts encoded by words"
        in one(check_policy(policy_for(task, encoder="words")), "error", "fits").found
    )
    with torch.no_grad():
        next(good.network.parameters())[0] = torch.nan
    one(check_policy(good), "error", "weights")


# Transcripts.


def lines(*texts: str) -> str:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return json.dumps({"messages": turns}) + "\n"


def words(prefix: str, count: int = 10) -> list[str]:
    return [f"{prefix} says something new about thing{i}" for i in range(count)]


def check_file(folder: Path, text: str, **options: Any) -> list[Finding]:
    path = folder / "chats.jsonl"
    path.write_text(text, encoding="utf-8")
    lm = WordLM()
    lm.max_tokens = 60
    return list(TranscriptChecks(path, "auto", lm, **options).run())


def test_good_transcripts_pass_every_check(tmp_path: Path) -> None:
    found = check_file(tmp_path, "".join(lines(*words(f"person{i}")) for i in range(120)))
    assert {finding.level for finding in found} == {"ok"}
    assert "120 transcripts: about 96 train, 12 validation, 12 test" in one(iter(found), "ok", "amount").found
    assert "10 to 10" in one(iter(found), "ok", "turns").found


def test_faults_of_transcripts_are_found(tmp_path: Path) -> None:
    text = (
        "".join([lines(*words(f"p{i}")) for i in range(6)][n] for n in (0, 1, 2, 2, 3))
        + "{broken\n"
        + lines(*words("q"), "very " * 70)
        + lines("a", "b", "c", "d") * 1
    )
    found = check_file(tmp_path, text)
    bad = one(iter(found), "error", "records")
    assert "1 bad record(s)" in bad.found
    assert "chats.jsonl:6:" in bad.found
    assert "7 transcripts" in one(iter(found), "warning", "amount").found
    assert "chats.jsonl:3" in one(iter(found), "warning", "duplicates").found
    too_long = one(iter(found), "error", "length of turns")
    assert "1 turn(s) have more than the 60 tokens words reads" in too_long.found
    assert "chats.jsonl:7 (turn 10)" in too_long.found


def test_more_faults_of_transcripts_are_found(tmp_path: Path) -> None:
    found = check_file(tmp_path, lines("yes", "no", "maybe", "please call me when you are there") * 2)
    assert "fewer than 8" in one(iter(found), "warning", "turns").found
    assert one(iter(found), "error", "amount")
    assert "75% of turns" in one(iter(found), "warning", "near-empty turns").found
    assert "please call me" in one(iter(found), "warning", "repetition").found
    long = check_file(
        tmp_path, "".join(lines(*(f"{text} {'word ' * 10}" for text in words(f"p{i}"))) for i in range(12))
    )
    assert "of 60" in one(iter(long), "warning", "context").found


def test_labels_are_counted(tmp_path: Path) -> None:
    from stm_rl.readers.write import write_messages

    world = DialogueWorld(turns=20, min_gap=2, max_gap=4)
    items = [world.generate(seed) for seed in range(12)]
    write_messages(items, tmp_path / "labelled.jsonl")
    found = list(TranscriptChecks(tmp_path / "labelled.jsonl", "auto", WordLM()).run())
    count = sum(len(item.probes) for item in items)
    assert f"{count} probes, 0 questions" in one(iter(found), "ok", "labels").found
    near = [replace(item, turns=item.turns[:3], probes=(Probe(2, (1,)),)) for item in items]
    write_messages(near, tmp_path / "near.jsonl")
    found = list(TranscriptChecks(tmp_path / "near.jsonl", "auto", WordLM()).run())
    assert "all inside the window" in one(iter(found), "warning", "labels").found


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    assert [finding.level for finding in check_file(tmp_path, "{broken\n")] == ["error"]
    with pytest.raises(StmError, match="no such file"):
        TranscriptChecks(tmp_path / "nowhere.jsonl", "auto", WordLM())
    with pytest.raises(StmError, match="unknown format 'nonsense'"):
        TranscriptChecks(tmp_path / "chats.jsonl", "nonsense", WordLM())


def test_need_of_memory_is_estimated() -> None:
    engine = ScoringEngine(WordLM())
    needy = DialogueWorld(turns=16, min_gap=2, max_gap=3).generate(0)
    assert "reading at" in one(check_memory([needy], engine), "ok", "need of memory").found
    new = Transcript(tuple(Turn(f"word{i} other{i} third{i}") for i in range(12)))
    one(check_memory([new], engine), "warning", "need of memory")


def test_validation_of_transcripts_with_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(lines(*words(f"person{i}")) for i in range(12)), encoding="utf-8")
    code = run_validate_transcripts(path, format="auto", limit=10, lm="tiny", memory=False, as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert result["kind"] == "transcripts"
    assert "the first; more may follow" in result["findings"][0]["found"]
