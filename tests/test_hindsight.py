from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stm_rl import Probe, StmError, Transcript, Turn
from stm_rl.features import HashedWords
from stm_rl.rewards import Reward
from stm_rl.rewards.hindsight import Hindsight, needs_of, uses_of
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.settings import MemorySettings


def talk(*turns: tuple[str, str]) -> Transcript:
    return Transcript(
        tuple(Turn(text, speaker, {"writable": speaker not in ("question", "answer")}) for speaker, text in turns)
    )


TABLE = talk(
    ("user", "A table in Lisbon"),
    ("assistant", "For how many?"),
    ("user", "Seven people"),
    ("assistant", "Is a table for seven people in Lisbon right?"),
    ("user", "Yes"),
    ("assistant", "Done"),
)
BATH = talk(
    ("", "Mary got the apple"),
    ("", "John got the milk"),
    ("", "John moved to the bath"),
    ("", "Mary moved to the bath"),
    ("question", "Where is the apple?"),
    ("answer", "bath"),
)


def play(transcript: Transcript, writes: list[int], **options: Any) -> list[float]:
    env = MemoryEnv(
        [transcript],
        settings=MemorySettings(slots=2, window=1, reads=1),
        lm=None,
        reward={Hindsight(**options): 1.0},
        encoder=HashedWords(16),
    )
    env.reset()
    return [float(env.step([write, 0])[1]) for write in writes]


def test_turns_that_are_taken_up_are_credited() -> None:
    needs = needs_of(TABLE)
    assert needs[3].keys() == {0, 2}  # table and Lisbon, seven and people
    assert [sum(own.values()) > 0 for own in needs] == [False, False, False, True, False, False]


def test_names_count_where_more_than_two_speak() -> None:
    three = talk(("ann", "hello"), ("bob", "morning"), ("cy", "ann: late!"), ("ann", "sorry"))
    assert [list(own) for own in needs_of(three)] == [[], [], [0], [2]]


def test_the_latest_turn_and_the_latest_of_another_speaker_are_credited() -> None:
    again = talk(("ann", "the kiosk"), ("bob", "a kiosk"), ("bob", "that kiosk"), ("", "nothing"))
    kiosk = np.log(4 / 3)
    assert needs_of(again)[2] == pytest.approx({1: kiosk + np.log(4 / 2), 0: kiosk})


def test_a_question_leads_to_turns_that_hang_together() -> None:
    needs = needs_of(BATH)
    assert [set(own) for own in needs] == [set(), set(), set(), set(), set(), {0, 3}]
    other = talk(*((turn.speaker, turn.text) for turn in (BATH.turns[i] for i in (0, 1, 3, 2, 4, 5))))
    assert set(needs_of(other)[5]) == {0, 2}  # not John, who moved there last


def test_needs_do_not_look_at_labels() -> None:
    labelled = Transcript(BATH.turns, (Probe(5, (1,)),))
    assert needs_of(labelled) == needs_of(BATH)


def test_a_memory_that_loses_nothing_earns_one_a_step() -> None:
    uses = uses_of(TABLE, 0.0)
    assert sum(value for found in uses.values() for _, value in found) == pytest.approx(len(TABLE) - 1)


def test_the_end_pays_for_the_share_that_is_held() -> None:
    without, with_end = (uses_of(TABLE, end) for end in (0.0, 10.0))
    extra = {turn: with_end[turn][-1][1] - without[turn][-1][1] for turn in with_end}
    assert sum(extra.values()) == pytest.approx(10)
    assert extra == pytest.approx({0: 5, 2: 5})


def test_it_is_paid_when_taken_up() -> None:
    held, dropped = play(TABLE, [1, 0, 0, 0, 0], shaped=False), play(TABLE, [1, 1, 0, 0, 0], shaped=False)
    assert held[2] > 0
    assert dropped[2] < held[2]
    assert play(TABLE, [0] * 5, shaped=False) == [0] * 5


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("writes", [[1, 2, 1, 0, 2], [1, 0, 1, 1, 0], [2, 2, 2, 2, 2]])
def test_shaping_pays_the_same_in_all(writes: list[int], gamma: float) -> None:
    discounts = gamma ** np.arange(5)
    plain, shaped = (play(TABLE, writes, gamma=gamma, shaped=shaped) for shaped in (False, True))
    assert np.dot(shaped, discounts) == pytest.approx(np.dot(plain, discounts))


def test_never_writing_earns_nothing() -> None:
    assert play(TABLE, [0] * 5) == [0] * 5
    assert play(BATH, [0] * 5) == [0] * 5


def test_text_without_repetition_earns_nothing() -> None:
    assert play(talk(("", "one"), ("", "two"), ("", "three")), [1, 2]) == [0, 0]


def test_it_is_found_by_name() -> None:
    assert Reward({"hindsight[end=3,shaped=false]": 2.0}).weights == {"hindsight": 2.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"end": -1.0}, "end is -1"), ({"longest": -1}, "longest is -1"), ({"gamma": 1.5}, "gamma is 1.5")],
)
def test_options_out_of_range_are_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(StmError, match=message):
        Hindsight(**options)  # type: ignore[arg-type]
