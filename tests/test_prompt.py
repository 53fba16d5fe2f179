from __future__ import annotations

from stm_rl import Turn
from stm_rl.lm import PromptFormat
from stm_rl.lm.prompt import line, target

WINDOW = ["user: Where?", "assistant: Here."]


def test_reads_come_first_and_are_marked() -> None:
    context = PromptFormat().context(["user: The kite is here."], WINDOW, "user")
    assert context == "> user: The kite is here.\nuser: Where?\nassistant: Here.\nuser:"


def test_prose_has_no_speaker_at_the_end() -> None:
    assert PromptFormat().context([], ["It rained."], "") == "It rained.\n"


def test_headers_are_there_only_with_a_read() -> None:
    prompt = PromptFormat("- ", "Notes:\n", "Now:\n")
    assert prompt.context(["a", "b"], ["c"], "user") == "Notes:\n- a\n- b\nNow:\nc\nuser:"
    assert prompt.context([], ["c"], "user") == "c\nuser:"


def test_turn_with_line_breaks_is_one_line() -> None:
    turn = Turn(" first\n\n second\tthird ", "user")
    assert line(turn) == "user: first second third"
    assert target(turn) == " first second third"
    assert line(Turn("It\nrained.")) == target(Turn("It\nrained.")) == "It rained."


def test_context_and_target_make_up_the_line() -> None:
    for turn in (Turn("Here.", "assistant"), Turn("It rained.")):
        assert PromptFormat().context([], [], turn.speaker) + target(turn) == line(turn)
