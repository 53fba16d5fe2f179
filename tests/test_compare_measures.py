from __future__ import annotations

import math
from pathlib import Path

import pytest
from helpers import WordLM, transcript

from stm_rl.comparison import MEASURES, Continuation, Measures, compare, read_continuations, write_continuations
from stm_rl.comparison.measures import answer_recall, distinct, grounded_names, names_in, rouge_l
from stm_rl.errors import StmError
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine
from stm_rl.transcript import Probe
from stm_rl.worlds import DialogueWorld, GeneratedTranscripts


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("It's with Rosa.", "Rosa", 1.0),
        ("It's with rosa!", "Rosa", 1.0),
        ("It's with Rosalind.", "Rosa", 0.0),
        ("They found Zoe near the mill.", "Zoe harbor", 0.5),
        ("Nobody knows.", "the cupboard", 0.0),
        ("anything", "", 0.0),
    ],
)
def test_answer_recall_is_the_share_of_the_answers_words(text: str, answer: str, expected: float) -> None:
    assert answer_recall(text, answer) == expected


@pytest.mark.parametrize(
    ("text", "truth", "expected"),
    [
        ("police kill the gunman", "police killed the gunman", 0.75),  # Lin (2004): 3 of 4 words in order
        ("the gunman kill police", "police killed the gunman", 0.5),  # "the gunman" only
        ("a b c", "a b c", 1.0),
        ("a", "b", 0.0),
        ("!", "b", 0.0),
        ("b", "a b c d", 2 * 1 / 5),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(text: str, truth: str, expected: float) -> None:
    assert rouge_l(text, truth) == pytest.approx(expected)


def test_distinct_counts_repeated_pairs_of_words() -> None:
    assert distinct("go on go on go on") == pytest.approx(2 / 5)
    assert distinct("all of these differ") == 1.0
    assert distinct("one") is None
    assert distinct("a a a", 1) == pytest.approx(1 / 3)


def test_names_are_capitalised_words_within_sentences_and_numbers() -> None:
    assert names_in("Then Rosa said: I'm in room 96. Sure. It is Rosa's dog, I think.") == {"rosa", "96"}
    assert names_in("Nothing here. Or there!") == set()


def test_grounded_names_are_those_that_the_history_has() -> None:
    history = ["user: I lent the manual to Leo.", "assistant: Rosa's bicycle is in room 96."]
    assert grounded_names("Then Leo met Rosa.", history) == 1.0
    assert grounded_names("Then Leo met Zoe in room 9.", history) == pytest.approx(1 / 3)
    assert grounded_names("Nothing was said.", history) is None


def measures(lm: WordLM) -> Measures:
    return Measures(ScoringEngine(lm), HashedWords(64))


def test_stale_answers_and_contradictions_are_told_by_the_world(lm: WordLM) -> None:
    worlds = GeneratedTranscripts(DialogueWorld(), "test", 40)
    found, probe = next(
        (one, probe)
        for one in (worlds[i] for i in range(40))
        for probe in one.probes
        if probe.stale and len(one.turns[probe.turn].meta["facts"]) == 1
    )
    true = found.turns[probe.turn].text
    old = found.turns[probe.stale[-1]].meta["facts"][0][1]
    right = measures(lm).of_text(found, probe.turn, true)
    wrong = measures(lm).of_text(found, probe.turn, f"It was {old}.")
    assert (right["answer_recall"], right["contradiction"], right["stale"], right["rouge_l"]) == (1, 0, 0, 1)
    assert (wrong["answer_recall"], wrong["contradiction"], wrong["stale"]) == (0, 1, 1)


def test_text_without_a_world_has_no_measure_of_the_world(lm: WordLM) -> None:
    told = transcript("a: The key is in Rome.", "b: Yes.", "a: Where?", "b: In Rome.", probes=[Probe(3, (0,), "Rome")])
    assert set(measures(lm).of_text(told, 3, "In Rome, I think.")) == {
        "answer_recall", "grounded_names", "rouge_l", "distinct_2",
    }  # fmt: skip
    assert "answer_recall" not in measures(lm).of_text(told, 1, "Yes.")
    assert "distinct_2" not in measures(lm).of_text(told, 1, "Yes.")


def test_fit_is_the_likelihood_per_token_and_relevance_a_cosine(lm: WordLM) -> None:
    found = measures(lm)
    lm.noise = 0.0
    assert found.fit(["kite harbor"], ["kite harbor"]) == pytest.approx([(-0.1 - 2 * 0.25) / 2])
    same, other = found.relevance(["kite in the harbor", "kite"], ["kite in the harbor", "harbor"])
    assert same == pytest.approx(1.0, abs=1e-6)
    assert abs(other) < 0.5
    assert found.relevance(["..."], ["kite"]) == [0.0]


def continuation(
    turn: int = 3, name: str = "t", with_: float = 1.0, without: float = 0.0, **more: object
) -> Continuation:
    values: dict[str, object] = {
        "kind": "dialogue",
        "env": "e",
        "transcript": name,
        "turn": turn,
        "speaker": "b",
        "before": ["a: one", "b: two", "a: three"],
        "window": ["b: two", "a: three"],
        "reads": ["a: one"],
        "truth": "four",
        "with_memory": "four",
        "without_memory": "five",
        "agent": "fifo",
        "lm": "words",
        "seed": 0,
        "measures": {"with": {"rouge_l": with_}, "without": {"rouge_l": without}},
    }
    return Continuation(**values | more)  # type: ignore[arg-type]


def test_differences_are_paired_and_episodes_resampled_whole() -> None:
    # Episode x has 3 turns with +1 each, episode y one turn with -1: mean (3 - 1) / 4.
    found = [continuation(turn, "x") for turn in (3, 5, 7)] + [continuation(3, "y", 0.0, 1.0)]
    entry = compare(found)["dialogue"]
    assert entry["episodes"] == 2
    assert entry["turns"] == entry["different"] == 4
    values = entry["measures"]["rouge_l"]
    assert (values["turns"], values["with"], values["without"]) == (4, 0.75, 0.25)
    assert values["difference"] == {"mean": 0.5, "ci95": [-1.0, 1.0]}  # both of a draw may be x, or y


def test_measures_that_do_not_apply_are_left_out_and_kinds_are_told_apart() -> None:
    story = continuation(kind="story", measures={"with": {"fit": -1.0}, "without": {"fit": -2.0}})
    entries = compare([continuation(), story])
    assert list(entries) == ["dialogue", "story", "all"]
    assert list(entries["story"]["measures"]) == ["fit"]
    assert entries["all"]["measures"]["rouge_l"]["turns"] == 1
    assert all(name in MEASURES for name in entries["all"]["measures"])


def test_a_measure_that_fits_one_side_only_is_not_compared() -> None:
    one_side = continuation(measures={"with": {"distinct_2": 1.0}, "without": {}})
    assert compare([one_side])["dialogue"]["measures"] == {}


def test_ids_last_and_tell_texts_apart() -> None:
    assert continuation().id == continuation(seed=1, measures={}).id
    assert continuation().id != continuation(with_memory="six").id
    assert not continuation(with_memory="five").differs


def test_continuations_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = [continuation(decision={"write": 1, "reads": [2]}, state="{}"), continuation(turn=5)]
    write_continuations(tmp_path / "continuations.jsonl", found)
    assert read_continuations(tmp_path) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "continuations.jsonl:1"),
        ("{", "continuations.jsonl:1"),
        ('{"kind": "story"}', "continuations.jsonl:1"),
        ("\n", "holds no continuation"),
    ],
)
def test_damaged_files_are_told_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "continuations.jsonl").write_text(text)
    with pytest.raises(StmError, match=message):
        read_continuations(tmp_path)


def test_a_folder_without_continuations_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(StmError, match="stm-rl compare"):
        read_continuations(tmp_path)


def test_wrong_types_are_told(tmp_path: Path) -> None:
    import json

    values = continuation().as_json()
    for name, wrong in (("turn", "3"), ("before", "text"), ("true", 4)):
        (tmp_path / "continuations.jsonl").write_text(json.dumps(values | {name: wrong}))
        with pytest.raises(StmError, match=name):
            read_continuations(tmp_path)


def test_means_are_finite_for_all_measures(lm: WordLM) -> None:
    found = measures(lm).of_text(transcript("a: x", "b: y", "a: z"), 2, "Then Zoe said 7.")
    assert all(math.isfinite(value) for value in found.values())
