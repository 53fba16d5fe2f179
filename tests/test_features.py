from __future__ import annotations

import numpy as np
import pytest
from helpers import run_python
from hypothesis import given
from hypothesis import strategies as st

from stm_rl import Turn
from stm_rl.features import (
    MAX_WORDS,
    TURN_FEATURES,
    HashedWords,
    content_words,
    overlap,
    turn_features,
    word_ids,
)

WORDS = ["harbor", "Anna", "kite", "the", "Where", "put", "puts", "it's", "42", "lamp"]
texts = st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join) | st.text(max_size=40)


def feature(text: str, name: str) -> float:
    return float(turn_features(Turn(text))[TURN_FEATURES.index(name)])


@given(texts, texts)
def test_overlap_is_symmetric_and_a_share(a: str, b: str) -> None:
    ids = word_ids([a, b])
    value = overlap(ids[0], ids[1])
    assert value == overlap(ids[1], ids[0])
    assert 0 <= value <= 1 + 1e-6


@given(texts)
def test_overlap_with_itself_is_one(text: str) -> None:
    ids = word_ids([text])[0]
    assert overlap(ids, ids) == pytest.approx(1.0 if content_words(text) else 0.0)


@given(st.lists(texts, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=3))
def test_overlap_of_many_is_that_of_each_pair(a: list[str], b: list[str]) -> None:
    ids_a, ids_b = word_ids(a), word_ids(b)
    table = overlap(ids_a[:, None], ids_b[None])
    assert table.shape == (len(a), len(b))
    for i, j in np.ndindex(table.shape):
        assert table[i, j] == overlap(ids_a[i], ids_b[j])


def test_overlap_is_the_cosine_of_content_words() -> None:
    ids = word_ids(["Anna is at the harbor", "Where is Anna's kite?", "and so on", "the lamp"])
    assert overlap(ids[0], ids[1]) == pytest.approx(1 / 2)  # Anna, of 2 words and 2
    assert overlap(ids[0], ids[3]) == 0
    assert overlap(ids[2], ids[2]) == 0  # stop words only


def test_only_so_many_words_count() -> None:
    ids = word_ids([" ".join(f"word{i}" for i in range(3 * MAX_WORDS))])
    assert ids.shape == (1, MAX_WORDS)
    assert (ids >= 0).all()
    assert len(set(ids[0].tolist())) == MAX_WORDS


def test_endings_do_not_hide_a_shared_word() -> None:
    assert content_words("Anna's drums") == content_words("ANNA drum's") == {"anna", "drum"}


@given(st.lists(texts, min_size=1, max_size=5))
def test_vector_of_a_text_does_not_depend_on_its_neighbours(batch: list[str]) -> None:
    encode = HashedWords(16)
    together = encode(batch)
    assert together.shape == (len(batch), 16)
    assert together.dtype == np.float32
    for row, text in enumerate(batch):
        np.testing.assert_array_equal(HashedWords(16)([text])[0], together[row])


def test_vector_is_that_of_the_distinct_words() -> None:
    vectors = HashedWords(64)(["lamp kite", "Kite, lamp! LAMP", "harbor", "?!"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert not vectors[3].any()


def test_vectors_are_about_as_long_for_few_words_as_for_many() -> None:
    few, many = HashedWords(4096)(["lamp", "lamp kite harbor drum zoo bank farm park"])
    assert np.linalg.norm(many) == pytest.approx(np.linalg.norm(few), rel=0.1)


def test_shared_words_show_in_the_angle_of_vectors() -> None:
    vectors = HashedWords(4096)(["lamp kite harbor drum", "lamp kite museum soup", "zoo bank farm park"])
    a, b, c = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert a @ b == pytest.approx(0.5, abs=0.1)
    assert a @ c == pytest.approx(0, abs=0.1)


def test_vectors_and_word_ids_are_the_same_in_every_process() -> None:
    code = (
        "from stm_rl.features import *\n"
        "from hashlib import sha256\n"
        "t = ['Anna met Ben at the harbor.', 'Where is the kite, in room 42?', 'Übung macht den Meister']\n"
        "print(sha256(HashedWords(32)(t).tobytes() + word_ids(t).tobytes()).hexdigest())"
    )
    assert run_python(code, 1) == run_python(code, 2)


@given(st.text(min_size=1).filter(str.strip) | texts.filter(str.strip))
def test_turn_features_are_shares(text: str) -> None:
    values = turn_features(Turn(text))
    assert values.shape == (len(TURN_FEATURES),)
    assert (values >= 0).all()
    assert (values <= 1).all()


def test_turn_features_say_what_is_in_a_turn() -> None:
    assert feature("Is it there? ", "question") == 1
    assert feature("It is there.", "question") == 0
    assert feature("We gave it to Anna and Ben.", "names") == pytest.approx(2 / 4)
    assert feature("Room 42 or 43", "numbers") == pytest.approx(2 / 4)
    assert feature("I'm late", "first_person") == 1
    assert feature("one two three four", "length") == pytest.approx(4 / 32)


def test_a_fact_is_more_salient_than_a_question_or_small_talk() -> None:
    fact = feature("I'm meeting Anna at the harbor at 10.", "salience")
    assert fact > feature("Where am I meeting Anna?", "salience")
    assert fact > feature("It got cold last night.", "salience") >= 0
