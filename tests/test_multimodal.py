"""Turns with images and sounds: encoders, tags, and slots that hold what was seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WordLM
from numpy.typing import NDArray
from PIL import Image
from scipy.io import wavfile
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from stm_rl.errors import StmError
from stm_rl.features import HashedWords
from stm_rl.media import MediaEncoder, MediaStore, MediaText, RandomFilters, TaggedTranscripts, read_sound
from stm_rl.readers import read_transcripts
from stm_rl.readers.write import write_messages
from stm_rl.transcript import Media, Transcript, Turn
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.settings import MemorySettings

RATE = 16_000
LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of tiny encoders that were built here."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("encoders")
    size = {"height": 24, "width": 24}
    tower = {"hidden_size": 16, **LAYERS}
    clip = CLIPConfig(
        text_config={"vocab_size": 50, "max_position_embeddings": 8, **tower},
        vision_config={"image_size": 24, "patch_size": 8, **tower},
        projection_dim=8,
    )
    whisper = WhisperConfig(
        vocab_size=60, num_mel_bins=16, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=50, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    wav2vec2 = Wav2Vec2Config(
        hidden_size=16, conv_dim=(16, 16), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, vocab_size=10, **LAYERS,
    )  # fmt: skip
    made: dict[str, tuple[Any, Any]] = {
        "vit": (ViTModel(ViTConfig(image_size=24, patch_size=8, **tower)), ViTImageProcessor(size=size)),
        "clip": (CLIPModel(clip), CLIPImageProcessor(size=size, crop_size=size)),
        "wav2vec2": (Wav2Vec2Model(wav2vec2), Wav2Vec2FeatureExtractor(sampling_rate=RATE)),
        "whisper": (WhisperModel(whisper), WhisperFeatureExtractor(feature_size=16, chunk_length=1)),
    }
    for name, (model, processor) in made.items():
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    return {name: root / name for name in made}


def noise(seed: int, size: int = 24) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def tone(hertz: float, rate: int = RATE, seconds: float = 0.2) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32) / 2


def image(seed: int) -> Media:
    return Media("image", array=noise(seed))


def sound(hertz: float) -> Media:
    return Media("audio", array=tone(hertz), rate=RATE)


# Media of turns.


def test_media_compare_by_what_they_hold() -> None:
    assert image(0) == image(0) != image(1)
    assert hash(image(0)) == hash(image(0))
    assert Media("image", "a.png") == Media("image", "a.png") != Media("image", "b.png")
    assert Media("image", "a.png") != image(0)
    assert image(0) != "a picture"
    assert Turn("Look.", "Anna", media=(image(0),)) != Turn("Look.", "Anna")


def test_media_of_files_go_through_json() -> None:
    for media in (Media("image", "a.png"), Media("audio", "b.wav")):
        assert Media(**json.loads(json.dumps(media.as_json()))) == media
    with pytest.raises(StmError, match="save it to a file"):
        image(0).as_json()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "video", "path": "a"}, "expected image or audio"),
        ({"kind": "image"}, "exactly one"),
        ({"kind": "image", "path": "a", "array": noise(0)}, "exactly one"),
        ({"kind": "image", "array": noise(0)[..., 0]}, "expected uint8, "),
        ({"kind": "image", "array": noise(0) / 255}, "float64"),
        ({"kind": "audio", "array": tone(440)}, "its rate"),
        ({"kind": "audio", "array": tone(440)[None], "rate": RATE}, "expected float32"),
    ],
)
def test_media_that_cannot_be_read_are_an_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError, match=message):
        Media(**values)


# Encoders.


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_any_vision_encoder_gives_unit_vectors(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    encoder = MediaEncoder.load(folders[name])
    pictures = [image(seed) for seed in range(3)]
    vectors = encoder(pictures)
    assert vectors.shape == (3, encoder.dimension) == (3, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert abs(vectors[0] - vectors[1]).max() > 1e-3
    np.testing.assert_allclose(encoder(pictures[1:2]), vectors[1:2], atol=1e-5)  # alone as among others
    Image.fromarray(noise(2)).save(tmp_path / "two.png")
    np.testing.assert_allclose(encoder([Media("image", str(tmp_path / "two.png"))]), vectors[2:], atol=1e-5)
    assert encoder([]).shape == (0, 16)


@pytest.mark.parametrize("name", ["wav2vec2", "whisper"])
def test_any_audio_encoder_gives_unit_vectors(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    encoder = MediaEncoder.load(folders[name], "audio")
    vectors = encoder([sound(440), sound(1760), Media("audio", array=tone(440, seconds=0.3), rate=RATE)])
    assert vectors.shape == (3, encoder.dimension) == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[1]  # the same tone for longer is closer than another
    wavfile.write(tmp_path / "a.wav", RATE, (tone(440) * 32767).astype(np.int16))
    np.testing.assert_allclose(encoder([Media("audio", str(tmp_path / "a.wav"))]), vectors[:1], atol=1e-2)


def test_features_are_the_mean_of_the_last_hidden_states(folders: dict[str, Path]) -> None:
    model = ViTModel.from_pretrained(folders["vit"]).eval()
    processor = ViTImageProcessor.from_pretrained(folders["vit"])
    with torch.inference_mode():
        hidden = model(**processor([noise(0)], return_tensors="pt")).last_hidden_state.mean(1)
    expected = torch.nn.functional.normalize(hidden).numpy()
    np.testing.assert_allclose(MediaEncoder.load(folders["vit"])([image(0)]), expected, atol=1e-5)


def test_sounds_are_brought_to_the_rate_of_the_encoder(tmp_path: Path) -> None:
    slow = Media("audio", array=tone(440, rate=8000), rate=8000)
    np.testing.assert_allclose(read_sound(slow, RATE)[200:-200], tone(440)[200:-200], atol=0.01)
    stereo = np.stack([tone(440), -tone(440)], axis=1)
    wavfile.write(tmp_path / "s.wav", RATE, stereo)
    assert abs(read_sound(Media("audio", str(tmp_path / "s.wav")), RATE)).max() < 1e-6
    wavfile.write(tmp_path / "b.wav", RATE, np.full(50, 128, np.uint8))
    assert not read_sound(Media("audio", str(tmp_path / "b.wav")), RATE).any()


def test_an_id_names_the_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    first = MediaEncoder.load(folders["vit"])
    assert first.id == MediaEncoder.load(folders["vit"]).id
    other = ViTModel(ViTConfig(image_size=24, patch_size=8, hidden_size=16, **LAYERS))
    other.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(tmp_path / "vit")
    assert MediaEncoder.load(tmp_path / "vit").id != first.id


def test_encoders_that_cannot_be_loaded_are_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StmError, match=r"cannot load the image encoder .*preprocessor_config.json"):
        MediaEncoder.load(tmp_path)
    with pytest.raises(StmError, match="expected image or audio"):
        MediaEncoder.load(folders["vit"], "video")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in folders["vit"].glob("*.json"):
        (pickled / file.name).write_bytes(file.read_bytes())
    torch.save(ViTModel.from_pretrained(folders["vit"]).state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(StmError, match="cannot load"):
        MediaEncoder.load(pickled)


def test_weights_that_are_not_there_are_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["vit"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}), encoding="utf-8")
    with pytest.raises(StmError, match=r"it has no weights .*layer"):
        MediaEncoder.load(tmp_path)


def test_media_that_an_encoder_cannot_read_are_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    vision, hearing = MediaEncoder.load(folders["vit"]), MediaEncoder.load(folders["wav2vec2"], "audio")
    with pytest.raises(StmError, match="expected an image"):
        vision([sound(440)])
    with pytest.raises(StmError, match="expected audio"):
        hearing([image(0)])
    with pytest.raises(StmError, match="too short"):
        hearing([Media("audio", array=tone(440)[:4], rate=RATE)])
    (tmp_path / "no.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(StmError, match="cannot read the image"):
        vision([Media("image", str(tmp_path / "no.png"))])
    with pytest.raises(StmError, match="cannot read the sound"):
        hearing([Media("audio", str(tmp_path / "no.png"))])


# Tags.


def album(store: MediaStore) -> TaggedTranscripts:
    talk = Transcript(
        (
            Turn("Look at this.", "Anna", media=(image(0),)),
            Turn("And hear this.", "Ben", media=(sound(440),)),
            Turn("Both are old.", "Anna", media=(image(1), image(2))),
            Turn("They are.", "Ben"),
            Turn("What was it?", "Ben"),
        )
    )
    return TaggedTranscripts([talk], store)


def both(folders: dict[str, Path]) -> MediaStore:
    vision, hearing = MediaEncoder.load(folders["vit"]), MediaEncoder.load(folders["wav2vec2"], "audio")
    return MediaStore({"image": vision, "audio": hearing})


def test_texts_refer_to_media_and_vectors_hold_their_features(folders: dict[str, Path]) -> None:
    store = both(folders)
    talk = album(store)[0]
    assert talk.turns[3].text == "They are."
    assert talk.turns[0].text.startswith("Look at this. <image:")
    assert talk == next(iter(album(store)))  # the same content has the same tag
    encode = MediaText(HashedWords(8), store)
    assert encode.dimension == 8 + 16 + 16
    vectors = encode([turn.text for turn in talk.turns])
    plain = HashedWords(8)(["Look at this.", "And hear this.", "Both are old.", "They are.", "What was it?"])
    np.testing.assert_array_equal(vectors[:, :8], plain)
    heard, seen = vectors[:, 8:24], vectors[:, 24:]
    np.testing.assert_array_equal(heard.any(1), [False, True, False, False, False])
    np.testing.assert_array_equal(seen.any(1), [True, False, True, False, False])
    pictures = store.encoders["image"]([image(seed) for seed in range(3)])
    np.testing.assert_allclose(seen[0], pictures[0], atol=1e-5)
    np.testing.assert_allclose(seen[2], pictures[1:].mean(0), atol=1e-5)


def test_each_medium_is_encoded_once() -> None:
    class Counting(RandomFilters):
        seen = 0

        def __call__(self, media: Any) -> NDArray[np.float32]:
            self.seen += len(media)
            return super().__call__(media)

    encoder = Counting(4)
    store = MediaStore({"image": encoder})
    tags = [store.add(image(seed)) for seed in (0, 1, 0)]
    first = store.features(tags)
    np.testing.assert_array_equal(first[0], first[2])
    store.features([store.add(image(0))])
    assert encoder.seen == 2


def test_tags_without_media_and_media_without_an_encoder_are_errors(tmp_path: Path) -> None:
    store = MediaStore({"image": RandomFilters(4)})
    with pytest.raises(StmError, match="not in the store"):
        MediaText(HashedWords(8), store)(["Look. <image:abcdefghijklmnop>"])
    with pytest.raises(StmError, match="no encoder"):
        store.add(sound(440))
    with pytest.raises(StmError, match="reads image"):
        MediaStore({"audio": RandomFilters(4)})
    with pytest.raises(StmError, match="cannot read"):
        store.add(Media("image", str(tmp_path / "none.png")))


def test_slots_hold_what_was_seen_and_heard(folders: dict[str, Path]) -> None:
    store = both(folders)
    encode = MediaText(HashedWords(8), store)
    settings = MemorySettings(slots=2, window=1, reads=1)
    env = MemoryEnv(album(store), settings=settings, lm=WordLM(), encoder=encode)
    first = env.reset(seed=0)[0]
    second = env.step([1, 0])[0]
    third = env.step([2, 0])[0]
    np.testing.assert_array_equal(third["slots"][0], first["turn"])
    np.testing.assert_array_equal(third["slots"][1], second["turn"])
    np.testing.assert_allclose(third["slots"][0, 24:], store.encoders["image"]([image(0)])[0], atol=1e-5)
    np.testing.assert_allclose(third["slots"][1, 8:24], store.encoders["audio"]([sound(440)])[0], atol=1e-5)


def test_files_of_transcripts_keep_where_media_are(tmp_path: Path) -> None:
    turns = (Turn("Look.", "Anna", media=(Media("image", "kite.png"), Media("audio", "wind.wav"))), Turn("Nice.", "Bo"))
    talk = Transcript(turns)
    write_messages([talk], tmp_path / "talk.jsonl")
    assert next(iter(read_transcripts(tmp_path / "talk.jsonl"))).turns == turns
    drawn = Turn("Look.", media=(Media("image", array=np.zeros((2, 2, 3), np.uint8)),))
    with pytest.raises(StmError, match="is given as an array; save it to a file and give its path"):
        write_messages([Transcript((drawn, *turns))], tmp_path / "other.jsonl")
