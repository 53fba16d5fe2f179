"""Contexts longer than a model reads: whole lines go, reads first, oldest first, and every step says how many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from helpers import WordLM, numbered, random_actions, transcript
from hypothesis import given
from hypothesis import strategies as st

from stm_rl.contexts import SPECIAL_TOKENS, Contexts
from stm_rl.lm import CausalLM, PromptFormat, ScoringEngine
from stm_rl_envs import MemoryEnv, MemorySettings, MemoryVectorEnv


class Counting(WordLM):
    """Reads few tokens; every word is one, and so is every line break."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.max_tokens = room + SPECIAL_TOKENS
        self.counted: list[str] = []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        self.counted += texts
        return [len(text.split()) + text.count("\n") for text in texts]


READS, WINDOW = ["one two", "three four", "five six"], ["seven", "eight nine"]


@pytest.mark.parametrize(
    ("room", "reads", "window"),
    [
        (100, 3, 2),
        (21, 3, 2),  # 4 tokens a read, its mark and line break among them; 2 and 3 for the window; 3 for the rest
        (19, 2, 2),
        (15, 1, 2),
        (9, 0, 2),
        (8, 0, 2),
        (7, 0, 1),
        (5, 0, 0),
    ],
)
def test_reads_go_first_and_the_oldest_of_them_first(room: int, reads: int, window: int) -> None:
    text, left_out = Contexts(PromptFormat(), Counting(room))(READS, WINDOW, "ann", " ten eleven")
    kept = READS[3 - reads :], WINDOW[2 - window :]
    assert text == PromptFormat().context(*kept, "ann")
    assert left_out == 5 - reads - window


@given(
    st.lists(st.text("ab ", max_size=9), max_size=5),
    st.lists(st.text("ab ", max_size=9), max_size=5),
    st.integers(4, 60),
    st.integers(0, 3),
)
def test_what_is_kept_fits_and_is_the_newest(reads: list[str], window: list[str], room: int, spare: int) -> None:
    lm, prompt = Counting(room), PromptFormat(read_header="memory\n", window_header="now\n")
    text, left_out = Contexts(prompt, lm)(reads, window, "", "x y", spare)
    kept = len(reads) + len(window) - left_out
    kept_window = window[max(0, len(window) - kept) :]
    kept_reads = reads[len(reads) - max(0, kept - len(window)) :] if kept > len(window) else []
    assert text == prompt.context(kept_reads, kept_window, "")
    if kept:
        assert lm.count_tokens([text + "x y"])[0] <= room - spare
    if not left_out:
        assert text == prompt.context(reads, window, "")


def test_short_contexts_are_not_counted_and_lines_are_counted_once() -> None:
    lm = Counting(100)
    contexts = Contexts(PromptFormat(), lm)
    contexts(["short"], ["lines"], "ann", " fit")
    assert lm.counted == []
    lines = [f"{number} word" for number in range(100)]
    for last in range(50, 100):
        contexts((), lines[:last], "ann", " fit")
    assert len(lm.counted) == len(set(lm.counted))


def env(lm: WordLM | CausalLM, full_context: bool = False, count: int = 1, turns: int = 30) -> MemoryVectorEnv:
    long = transcript(*(f"a: the kite {i} is in the cupboard by the harbor, Anna" for i in range(turns)))
    return MemoryVectorEnv(
        count,
        [numbered(turns) if isinstance(lm, WordLM) else long],
        settings=MemorySettings(slots=4, window=2, reads=3, full_context=full_context),
        lm=ScoringEngine(lm),
        encoder="words",
    )


def test_every_step_says_how_many_turns_were_left_out() -> None:
    lm = Counting(14)  # window 8, speaker and target 2; a read takes 4
    found = env(lm)
    found.reset(seed=0)
    seen = []
    for action in ([1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0], [0, 1, 2, 3], [0, 3, 0, 0], [0, 1, 2, 3]):
        infos = found.step(np.array([action]))[-1]
        seen.append(infos["left_out"].tolist())
    assert seen == [[0], [0], [0], [0], [2], [0], [2]]
    with_reads = [context for context, _ in lm.asked if ">" in context]
    assert all(context.startswith("> a: word2\n") for context in with_reads)


def test_the_scalar_form_says_it_too() -> None:
    settings = MemorySettings(slots=4, window=2, reads=3)
    scalar = MemoryEnv([numbered(30)], settings=settings, lm=ScoringEngine(Counting(14)), encoder="words")
    scalar.reset(seed=0)
    for action in ([1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]):
        assert scalar.step(action)[-1]["left_out"] == 0
    assert scalar.step([0, 1, 2, 3])[-1]["left_out"] == 2


@pytest.mark.parametrize("full_context", [False, True])
def test_no_model_has_to_cut_a_context_itself(rotary_folder: Path, full_context: bool) -> None:
    lm = CausalLM.load(rotary_folder)  # 96 tokens
    found = env(lm, full_context, count=3, turns=40)
    rng = np.random.default_rng(0)
    found.reset(seed=0)
    left_out = []
    for _ in range(39):
        infos = found.step(random_actions(rng, found.action_masks(), 4))[-1]
        left_out.append(infos["left_out"].max())
    assert lm.truncated == 0
    assert max(left_out) > 0
    if full_context:
        assert left_out == sorted(left_out)


def test_histories_of_a_transcript_are_scored_together(rotary_folder: Path) -> None:
    lm = CausalLM.load(rotary_folder)
    found = env(lm, full_context=True, turns=9)
    alone = env(CausalLM.load(rotary_folder), full_context=True, turns=9)
    alone.episodes.prepare.ask = lambda asked, whole, ahead: type(alone.episodes.prepare).ask(  # type: ignore[method-assign]
        alone.episodes.prepare, asked, whole
    )
    for each in (found, alone):
        each.reset(seed=0)
    computed = []
    for _ in range(7):
        ours, theirs = (each.step(np.zeros((1, 4), np.int64)) for each in (found, alone))
        np.testing.assert_allclose(ours[1], theirs[1], atol=1e-4)
        computed.append(found.episodes.engine.computed)
    assert len(set(computed)) == 1  # all at the first step
    assert lm.reused > 0


def test_registered_environments_say_it() -> None:
    one = gym.make("stm_rl/Dialogue-v0", lm=ScoringEngine(WordLM()), encoder="words")
    one.reset(seed=0)
    assert one.step([0, 0, 0])[-1]["left_out"] == 0


def test_without_a_model_everything_fits() -> None:
    assert Contexts(PromptFormat(), None)(READS, WINDOW, "ann", "x") == (
        PromptFormat().context(READS, WINDOW, "ann"),
        0,
    )
