from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stm_rl.encoders import Joined, LMEmbedding, default_encoder
from stm_rl.features import HashedWords
from stm_rl.lm import CausalLM
from stm_rl_envs.dialogue import DialogueEnv

TEXTS = ["user: the kite", "assistant: Noted.", "user: the kite", "x " * 30]


@pytest.fixture(scope="module")
def lm(rotary_folder: Path) -> CausalLM:
    return CausalLM.load(rotary_folder)


@pytest.mark.parametrize("dimension", [8, 32, 64])
def test_embedding_has_unit_length_and_at_most_so_many_numbers(lm: CausalLM, dimension: int) -> None:
    encoder = LMEmbedding(lm, dimension)
    vectors = encoder(TEXTS)
    assert vectors.shape == (4, encoder.dimension) == (4, min(dimension, 32))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert np.linalg.norm(vectors[0] - vectors[1]) > 0.1


def test_text_is_embedded_once_and_only_so_many_are_kept(lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    embed = lm.embed
    encoder = LMEmbedding(lm, keep=2)
    monkeypatch.setattr(lm, "embed", lambda texts: (asked.extend(texts), embed(texts))[1])
    encoder(["a", "b", "a"])
    encoder(["b", "a"])
    assert asked == ["a", "b"]
    encoder(["c"])
    encoder(["b", "c"])
    assert asked == ["a", "b", "c"]
    encoder(["a"])
    assert asked[-1] == "a"
    assert len(encoder._known) <= 2


def test_projection_is_the_same_every_time(lm: CausalLM) -> None:
    one, two = LMEmbedding(lm, 8), LMEmbedding(lm, 8)
    np.testing.assert_array_equal(one(TEXTS), two(TEXTS))
    assert one.id == two.id != LMEmbedding(lm, 16).id


def test_neighbours_change_a_vector_by_rounding_only(lm: CausalLM) -> None:
    together = LMEmbedding(lm)(TEXTS)
    alone = np.concatenate([LMEmbedding(lm)([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_joined_encoders_stand_side_by_side(lm: CausalLM) -> None:
    words, meaning = HashedWords(16), LMEmbedding(lm, 8)
    both = Joined(words, meaning)
    vectors = both(TEXTS)
    assert vectors.shape == (4, both.dimension) == (4, 24)
    np.testing.assert_array_equal(vectors[:, :16], words(TEXTS))
    np.testing.assert_array_equal(vectors[:, 16:], meaning(TEXTS))
    assert both.id == f"{words.id}+{meaning.id}"
    assert both.seconds == meaning.seconds > 0


def test_environments_use_the_default_encoder_and_their_vectors_fit_their_space() -> None:
    env = DialogueEnv(turns=8)
    observation, _ = env.reset(seed=0)
    assert env.episodes.encoder is default_encoder()
    assert observation["turn"].shape == (default_encoder().dimension,)
    expected = default_encoder()([env.episodes.current[0].lines[0]])[0]
    np.testing.assert_array_equal(observation["turn"], expected)  # nothing was clipped


def test_no_texts_give_no_vectors(lm: CausalLM) -> None:
    assert LMEmbedding(lm)([]).shape == (0, 32)
