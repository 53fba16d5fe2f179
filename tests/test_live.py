"""A chat that is under way is an episode whose turns arrive one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers import assert_same, numbered, random_actions, transcript
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl import StmError, Transcript, Turn
from stm_rl.features import HashedWords
from stm_rl.transcript import Media
from stm_rl.worlds import DialogueWorld, RecallWorld, ScreenplayWorld, StoryWorld, World
from stm_rl_envs.episodes import Episodes
from stm_rl_envs.live import LiveEpisode
from stm_rl_envs.settings import MemorySettings

ENCODER = HashedWords(16)
WORLDS: list[World] = [DialogueWorld(turns=40), StoryWorld(turns=40), ScreenplayWorld(turns=40), RecallWorld(turns=40)]
ROW = np.zeros(1, np.int64)

names = st.sampled_from(["user", "assistant", "Ana", "Zoë", "", "李", "the", "Ana Maria", "ana"])
many_names = st.integers(0, 200).map("speaker{}".format)
words = st.sampled_from(
    ["Ana", "harbor", "Friday?", "ok", "…", "日本", "7", "the\n kite", "kites", "É", "🙂", "a\u00a0b"]
)
odd_text = st.one_of(
    words,
    st.lists(words, min_size=1, max_size=30).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip),
)
odd_turn = st.builds(Turn, odd_text, st.one_of(names, many_names), st.sampled_from([{}, {}, {}, {"writable": False}]))
odd_chats = st.lists(odd_turn, min_size=2, max_size=40).map(lambda turns: Transcript(tuple(turns)))
of_worlds = st.builds(lambda world, seed: world.generate(seed), st.sampled_from(WORLDS), st.integers(0, 10_000))
sizes = st.builds(MemorySettings, slots=st.integers(1, 6), window=st.integers(1, 4), reads=st.integers(1, 3))


def episode(chat: Transcript, size: MemorySettings) -> Episodes:
    """Return the same chat as an episode over a transcript that is known."""
    whole = Episodes([chat], None, 1, size, {"write_cost": 1.0}, ENCODER)
    whole.start(ROW, [0])
    return whole


def restored(live: LiveEpisode) -> LiveEpisode:
    state = json.loads(json.dumps(live.get_state()))
    other = LiveEpisode(live.settings, ENCODER)
    other.set_state(state)
    assert other.get_state() == live.get_state()
    return other


def assert_same_memory(live: Episodes, whole: Episodes) -> None:
    ours, theirs = live.memory.get_state(), whole.memory.get_state()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert live.held(0) == whole.held(0)


@settings(max_examples=60)
@given(st.one_of(of_worlds, odd_chats), sizes, st.integers(0, 2**32 - 1))
def test_observations_masks_memory_and_reads_are_those_of_an_episode(
    chat: Transcript, size: MemorySettings, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    whole, live = episode(chat, size), LiveEpisode(size, ENCODER)
    for turn in chat.turns[:-1]:
        live.arrive(turn)
        assert_same(live.observe(), whole.observe())
        np.testing.assert_array_equal(live.action_masks(), whole.action_masks())
        if rng.random() < 0.1:  # the agent forgets before it writes
            slot = int(rng.integers(size.slots)) + 1
            live.forget(0, slot)
            whole.forget(0, slot)
        if rng.random() < 0.2:
            note = f"note {rng.integers(100)}"
            live.note(0, note)
            whole.note(0, note)
        action = random_actions(rng, whole.action_masks(), size.slots)[0]
        action[0] = rng.integers(size.slots + 1)  # also where the turn may not be written
        ours, theirs = live.act(action), whole.step(ROW, action[None])
        assert (ours.writes.tolist(), ours.reads) == (theirs.writes.tolist(), theirs.reads)
        assert_same_memory(live, whole)
        if rng.random() < 0.1:  # somebody deletes it in between
            slot = int(rng.integers(size.slots)) + 1
            live.forget(0, slot)
            whole.forget(0, slot)
        if rng.random() < 0.3:
            live = restored(live)
    live.arrive(chat.turns[-1])
    assert_same(live.observe(), whole.observe())


def play(live: LiveEpisode, turns: Sequence[Turn], seed: int = 0) -> LiveEpisode:
    rng = np.random.default_rng(seed)
    for turn in turns:
        live.arrive(turn)
        live.act(random_actions(rng, live.action_masks(), live.settings.slots)[0])
    return live


def test_what_is_kept_is_bounded() -> None:
    """Whatever the number of turns and of speakers, only numbers in the state have more digits."""
    size = MemorySettings(slots=4, window=3)

    def shape(turns: int) -> tuple[Any, int]:
        chat = [Turn("word and word", f"s{number % 90:02}") for number in range(turns)]
        live = play(LiveEpisode(size, ENCODER), chat)
        assert len(live.item.turns) <= 4 + 3
        assert all(number <= 4 + 3 + 1 for number in live.item.speakers.values())
        return _shape(live.get_state()), len(json.dumps(live.get_state()))

    (short, few), (long, many) = shape(50), shape(1000)
    assert short == long
    assert abs(few - many) < 150


def _shape(value: Any) -> Any:
    """Return a JSON value without its numbers and texts, of the slots and the turns in them only that there are."""
    if isinstance(value, dict):
        return {name: "turns" if name == "held" else _shape(one) for name, one in value.items()}
    return [_shape(one) for one in value] if isinstance(value, list) else type(value).__name__.replace("int", "float")


def test_speakers_have_the_number_of_an_episode_where_it_counts() -> None:
    """The first speaker is known for ever, and no two at once have the same number."""
    live = LiveEpisode(MemorySettings(slots=1, window=1), ENCODER)
    numbers = []
    for name in ["Ana", "Ben", "Cyd", "Dan", "Eve", "Ana", "Ben", "Ben"]:
        live.arrive(Turn("Hello", name))
        numbers.append(live.item.speakers[live.turns])
        live.act(np.array([0, 0, 0]))
    assert numbers == [0, 1, 2, 3, 1, 0, 2, 2]  # the last two turns are still there


def test_order_of_arriving_and_acting() -> None:
    live = LiveEpisode(MemorySettings(), ENCODER)
    with pytest.raises(StmError, match="turn 0 has not arrived yet"):
        live.act(np.zeros(3, np.int64))
    live.arrive(Turn("Hello"))
    with pytest.raises(StmError, match="turn 0 has arrived but was not acted on"):
        live.arrive(Turn("Hello"))
    with pytest.raises(StmError, match="turn 0 has not been acted on"):
        live.get_state()
    with pytest.raises(StmError, match=r"an action is outside 0\.\.4"):
        live.act(np.array([5, 0, 0]))
    assert live.turns == 0
    live.act(np.array([1, 0, 0]))
    assert live.turns == 1


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Turn("a picture", "Ana", media=(Media("image", "a.png"),)), "carries image; a chat keeps text only"),
        (Turn("broken \ud800", "Ana"), "no valid Unicode text .* remove lone surrogates"),
    ],
)
def test_turns_that_cannot_be_kept_change_nothing(turn: Turn, message: str) -> None:
    live = play(LiveEpisode(MemorySettings(), ENCODER), numbered(5).turns)
    before = live.get_state()
    with pytest.raises(StmError, match=message):
        live.arrive(turn)
    assert live.get_state() == before


def test_nothing_of_the_future_can_be_asked_for() -> None:
    live = LiveEpisode(MemorySettings(), ENCODER)
    with pytest.raises(StmError, match="has no transcript yet"):
        live.start(ROW, [0])
    play(live, numbered(5).turns)
    assert live.needed_turns(0, live.turns) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "has format 'other'; expected 'stm-rl/live-1'"),
        ({"slots": 9}, "'slots': 9.* but the memory has"),
        ({"window": 1}, "give it the same slots, window and reads"),
        ({"held": []}, "the state of a chat"),
        ({"memory": {}}, "the state of a chat"),
        ({"overlap_since": ["x"]}, "the state of a chat"),
        ({"turns": None}, "the state of a chat"),
    ],
)
def test_damaged_states_are_told(change: dict[str, Any], message: str) -> None:
    chat = transcript("Ana: I live in Oslo.", "Ben: Fine.", "Ana: It rains.", "Ben: Again.")
    state = play(LiveEpisode(MemorySettings(), ENCODER), chat.turns).get_state()
    with pytest.raises(StmError, match=message):
        LiveEpisode(MemorySettings(), ENCODER).set_state(state | change)


def test_a_chat_without_turns_has_a_state() -> None:
    live = restored(LiveEpisode(MemorySettings(), ENCODER))
    assert (live.turns, live.window(), live.held(0)) == (0, [], [None] * 4)
    play(live, numbered(3).turns)
