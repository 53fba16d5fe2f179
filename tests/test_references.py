from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import WordLM, assert_legal, numbered, transcript

from stm_rl import Probe, StmError, Transcript, Turn
from stm_rl.evaluation import Played, play
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine
from stm_rl_agents import FullContext, Informed, Oracle, heuristics
from stm_rl_envs.dialogue import DialogueVectorEnv
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

FAST: dict[str, Any] = {"lm": ScoringEngine(WordLM()), "encoder": HashedWords(8)}
EPISODES = 60


def environment(*transcripts: Transcript, **options: Any) -> MemoryVectorEnv:
    settings = MemorySettings(**options)
    return MemoryVectorEnv(len(transcripts), transcripts, settings=settings, **FAST, autoreset=False)


def run(who: Any, *transcripts: Transcript, **options: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Play transcripts side by side; return the actions and infos of each step."""
    env = environment(*transcripts, **options)
    observation, _ = env.reset(options={"transcripts": range(len(transcripts))})
    who.start(env)
    steps = []
    while not env.resting.all():
        masks = env.action_masks()
        actions = who.act(observation, masks)
        assert_legal(actions, masks, env.episodes.settings.slots)
        observation, *_, infos = env.step(actions)
        steps.append((actions, infos))
    return steps


def recall(played: Played) -> float:
    return float(played.recalled.sum() / played.asked.sum())


@pytest.fixture(scope="module")
def played() -> dict[str, Played]:
    def make(count: int, full_context: bool) -> DialogueVectorEnv:
        return DialogueVectorEnv(count, split="test", **FAST, autoreset=False, full_context=full_context)

    agents = [*heuristics(), FullContext(), Informed(), Oracle()]
    return {agent.name: play(agent, make, range(EPISODES)) for agent in agents}


@pytest.mark.parametrize("name", [agent.name for agent in heuristics()])
def test_oracle_recalls_and_gains_more_than_any_heuristic(played: dict[str, Played], name: str) -> None:
    assert recall(played["oracle"]) > 0.9
    assert recall(played["oracle"]) > recall(played[name])
    assert played["oracle"].returns.mean() > played[name].returns.mean()


def test_informed_agent_recalls_most_of_what_the_oracle_does(played: dict[str, Played]) -> None:
    assert recall(played["informed"]) >= 0.85 * recall(played["oracle"])
    assert recall(played["informed"]) <= recall(played["oracle"])


def test_references_read_only_when_it_pays(played: dict[str, Played]) -> None:
    for name in ("oracle", "informed"):
        assert played[name].reads.sum() < 2 * played[name].asked.sum()
        assert played[name].gains.mean() > 3
    assert (played["oracle"].writes <= played["informed"].writes).mean() > 0.9


def test_recall_counts_only_what_the_memory_held(played: dict[str, Played]) -> None:
    assert played["none"].recalled.sum() == played["full-context"].recalled.sum() == 0
    assert played["none"].gains.any() == played["none"].returns.any() == False  # noqa: E712
    assert played["full-context"].gains.mean() > played["oracle"].gains.mean() * 0.8


def needing(*needs: tuple[int, tuple[int, ...]], turns: int = 12, name: str = "t") -> Transcript:
    probes = [Probe(turn, evidence) for turn, evidence in needs]
    return Transcript(numbered(turns).turns, tuple(probes), name)


def test_oracle_writes_what_is_needed_and_reads_it_when_needed() -> None:
    steps = run(Oracle(), needing((5, (1,)), (9, (1, 3))))
    writes = [step for step, (actions, _) in enumerate(steps) if actions[0, 0]]
    assert writes == [1, 3]
    assert [infos["read_turns"][0] for _, infos in steps] == [[]] * 4 + [[1]] + [[]] * 3 + [[1, 3]] + [[]] * 2


def test_oracle_keeps_what_is_needed_sooner() -> None:
    steps = run(Oracle(), needing((6, (1,)), (8, (0,))), slots=1)
    assert [infos["read_turns"][0] for _, infos in steps if infos["reads"][0]] == [[1]]
    steps = run(Oracle(), needing((6, (0,)), (8, (1,))), slots=1)
    assert [infos["read_turns"][0] for _, infos in steps if infos["reads"][0]] == [[0]]
    steps = run(Oracle(), needing((4, (0,)), (9, (4,))), slots=1)  # one after the other
    assert [infos["read_turns"][0] for _, infos in steps if infos["reads"][0]] == [[0], [4]]


def test_oracle_reads_no_more_than_it_may() -> None:
    many = needing((11, (0, 1, 2, 3, 4)))
    for reads in (1, 2, 3):
        steps = run(Oracle(), many, slots=5, reads=reads)
        assert max(infos["reads"][0] for _, infos in steps) == reads
        assert (steps[10][1]["evidence_needed"], steps[10][1]["evidence_held"]) == (5, 5)


def test_oracle_leaves_alone_what_the_window_still_holds() -> None:
    steps = run(Oracle(), needing((5, (3, 4))), window=2)
    assert not any(actions.any() for actions, _ in steps)
    assert any(actions.any() for actions, _ in run(Oracle(), needing((5, (3, 4))), window=1))


def test_oracle_plays_episodes_side_by_side() -> None:
    first, second = needing((5, (0,)), name="x"), needing((7, (2,)), turns=9, name="y")
    together = run(Oracle(), first, second)
    for row, each in enumerate((first, second)):
        alone = run(Oracle(), each)
        assert [actions[row].tolist() for actions, _ in together][: len(alone)] == [a[0].tolist() for a, _ in alone]


STORY = (
    "user: The xylophone lies in the attic.",
    "assistant: Noted.",
    "user: It rains.",
    "assistant: Nice for plants.",
    "user: So where?",
    "assistant: Xylophone? Attic!",
    "user: Thanks.",
)


def test_without_probes_the_oracle_asks_the_language_model() -> None:
    steps = run(Oracle(), transcript(*STORY))
    assert [step for step, (actions, _) in enumerate(steps) if actions[0, 0]] == [0]
    assert [infos["read_turns"][0] for _, infos in steps] == [[]] * 4 + [[0], []]
    assert steps[4][1]["coherence_gain"][0] > 2


def test_of_several_helpful_turns_the_oracle_takes_the_best() -> None:
    story = (STORY[0], "assistant: A xylophone!", "user: My attic.", *STORY[3:])
    steps = run(Oracle(), transcript(*story))
    assert [infos["read_turns"][0] for _, infos in steps] == [[]] * 4 + [[0], []]


def test_threshold_and_lookback_bound_what_the_scores_count_for() -> None:
    def acts(oracle: Oracle) -> bool:
        return any(actions.any() for actions, _ in run(oracle, transcript(*STORY)))

    assert acts(Oracle(threshold=5.0))
    assert not acts(Oracle(threshold=6.0))  # two words, 2.75 nats each
    assert acts(Oracle(lookback=3))
    assert not acts(Oracle(lookback=2))


def test_reference_must_be_started() -> None:
    env = environment(numbered(4))
    observation, _ = env.reset()
    for who in (Oracle(), Informed()):
        with pytest.raises(StmError, match=f"{who.name} was not started"):
            who.act(observation, env.action_masks())


def test_informed_agent_needs_a_procedural_world() -> None:
    with pytest.raises(StmError, match="procedural world"):
        run(Informed(), numbered(4))


def test_informed_agent_does_not_look_ahead() -> None:
    env = DialogueVectorEnv(1, **FAST, autoreset=False)
    whole = env.episodes.prepare.transcripts[5]
    cut = 20
    other = Transcript((*whole.turns[:cut], *numbered(20).turns), (), "other")
    known, unknown = (run_until(Informed(), each, cut) for each in (whole, other))
    assert known == unknown
    assert np.any(known)


def run_until(who: Any, each: Transcript, steps: int) -> list[Any]:
    env = environment(each)
    observation, _ = env.reset()
    who.start(env)
    actions = []
    for _ in range(steps):
        actions.append(who.act(observation, env.action_masks()).tolist())
        observation, *_ = env.step(np.array(actions[-1]))
    return actions


def of_kinds(*kinds: str) -> Transcript:
    """Return a transcript of turns such as ``fact a``: the kind of turn and what it is about."""
    turns = []
    for number, kind in enumerate((*kinds, "chat")):
        name, *keys = kind.split()
        turns.append(Turn(f"word{number}", "ab"[number % 2], {"kind": name, "keys": tuple(keys)}))
    return Transcript(tuple(turns))


@pytest.mark.parametrize(
    ("kinds", "writes"),
    [
        (("fact a", "hedge b", "chat", "message c"), [1, 0, 0, 0]),  # likelier first, then the one due sooner
        (("hedge a", "fact b", "distractor", "reply"), [1, 1, 0, 0]),
        (("fact a", "cancel a", "hedge b"), [1, 0, 1]),  # what was called off makes room
        (("fact a", "ask a", "answer", "hedge b"), [1, 0, 0, 1]),  # and what was asked
        (("fact a", "update a", "fact b"), [1, 1, 0]),  # what changed is replaced
        (("hedge a", "update a", "hedge b", "fact c"), [1, 1, 0, 0]),  # and no mere possibility then
    ],
)
def test_informed_agent_keeps_what_can_still_be_asked(kinds: tuple[str, ...], writes: list[int]) -> None:
    steps = run(Informed(), of_kinds(*kinds), slots=1)
    assert [int(actions[0, 0]) for actions, _ in steps] == writes


def test_informed_agent_replaces_what_changed_where_it_lies() -> None:
    steps = run(Informed(), of_kinds("fact a", "fact b", "cancel a", "update b", "fact c", "ask b", "answer"), slots=2)
    assert [int(actions[0, 0]) for actions, _ in steps] == [1, 2, 0, 2, 1, 0, 0]
    assert [infos["read_turns"][0] for _, infos in steps] == [[]] * 5 + [[3], []]
