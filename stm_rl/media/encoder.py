"""Images and sounds as vectors: any Hugging Face encoder, and one that needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy.io import wavfile  # type: ignore[import-untyped]
from scipy.ndimage import uniform_filter  # type: ignore[import-untyped]
from scipy.signal import resample_poly  # type: ignore[import-untyped]
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel

from stm_rl.errors import StmError
from stm_rl.lm.loading import PROBLEMS, device_of, weights_hash
from stm_rl.transcript import AUDIO, IMAGE, KINDS, Media

BATCH = 64
"""Images a model sees together."""


class Encoder(Protocol):
    """Turns media of one kind into vectors.

    Attributes:
        id: Name that identifies the encoder in saved policies.
        kind: ``image`` or ``audio``.
        dimension: Length of each vector.
    """

    id: str
    kind: str
    dimension: int

    def __call__(self, media: Sequence[Media]) -> NDArray[np.float32]:
        """Return one vector per medium, shape ``(n, dimension)``."""

    def __hash__(self) -> int:
        """Encoders are hashed by identity, so that what is fitted to one is kept with it."""


class MediaEncoder:
    """A vision or audio encoder that transformers runs: the mean of its last hidden states, of unit length.

    Args:
        model: The encoder.
        processor: Makes the model's inputs of images, or of sounds.
        kind: ``image`` or ``audio``.
        id: Name that identifies it in saved policies.
    """

    def __init__(self, model: Any, processor: Any, kind: str, id: str) -> None:
        if kind not in KINDS:
            raise StmError(f"the kind of a media encoder is {kind!r}; expected {' or '.join(KINDS)}")
        self.model, self.processor, self.kind, self.id = model.eval(), processor, kind, id
        self.dimension = int(model.config.hidden_sizes[-1] if hasattr(model.config, "hidden_sizes") else _size(model))

    @classmethod
    def load(cls, name: str | Path, kind: str = IMAGE, device: str = "cpu") -> MediaEncoder:
        """Load an encoder: safetensors weights only, and no code of its repository.

        Args:
            name: A folder or a Hub id, such as ``google/vit-base-patch16-224`` or ``facebook/wav2vec2-base``. Of models
                with several towers (CLIP, CLAP) or with a decoder (Whisper) the encoder of ``kind`` is taken.
            kind: ``image`` or ``audio``.
            device: A torch device, or ``auto`` for a GPU if there is one.

        Raises:
            StmError: The model cannot be found or read, or the kind is unknown.
        """
        if kind not in KINDS:
            raise StmError(f"the kind of a media encoder is {kind!r}; expected {' or '.join(KINDS)}")
        try:
            maker: Any = AutoImageProcessor if kind == IMAGE else AutoFeatureExtractor
            processor = maker.from_pretrained(str(name), trust_remote_code=False)
            model, info = AutoModel.from_pretrained(
                str(name), use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            # Pooling heads are not used here, and checkpoints made for classification come without one.
            if missing := sorted(key for key in info["missing_keys"] if "pooler" not in key):
                raise ValueError(f"it has no weights {missing[0]}")
            model = _tower(model, kind).to(device_of(device))
        except PROBLEMS as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StmError(
                f"cannot load the {kind} encoder {str(name)!r} ({reason}); give a folder with config.json, "
                "preprocessor_config.json and model.safetensors, or a Hugging Face id"
            ) from error
        return cls(model, processor, kind, f"{kind}-{Path(name).name}-{weights_hash(model)}")

    def __call__(self, media: Sequence[Media]) -> NDArray[np.float32]:
        """Return one vector of unit length per medium, shape ``(n, dimension)``.

        Raises:
            StmError: A file cannot be read, a medium is of another kind, or the model cannot read it.
        """
        # Sounds differ in length, and padding would change what a model hears, so they go one by one.
        size = BATCH if self.kind == IMAGE else 1
        parts = [self._encode(media[start : start + size]) for start in range(0, len(media), size)]
        vectors = np.concatenate(parts) if parts else np.zeros((0, self.dimension), np.float32)
        return unit(vectors)

    @torch.inference_mode()
    def _encode(self, media: Sequence[Media]) -> NDArray[np.float32]:
        if self.kind == IMAGE:
            inputs = self.processor([read_image(one) for one in media], return_tensors="pt")
        else:
            rate = int(self.processor.sampling_rate)
            inputs = self.processor(read_sound(media[0], rate), sampling_rate=rate, return_tensors="pt")
        try:
            hidden = self.model(**inputs.to(self.model.device)).last_hidden_state
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise StmError(
                f"the encoder {self.id} cannot read a medium ({reason}); it may be too short, or of a size that the "
                "encoder's preprocessor_config.json does not provide for"
            ) from error
        # Convolutional encoders give (n, d, height, width), transformers (n, tokens, d).
        pooled = hidden.flatten(2).mean(2) if hidden.ndim == 4 else hidden.mean(1)
        return np.asarray(pooled.float().cpu().numpy(), np.float32)


class RandomFilters:
    """Colour and shape of one figure on a plain ground, by fixed random filters: needs no weights and no training.

    What differs from the ground, which is the median of the border, is the figure: its mean colour makes 3 numbers.
    Random filters over the map of how much each pixel differs, a rectifier and the root mean square over all places
    describe its shape, wherever it is (random convolutional features; Saxe et al., On Random Weights and Unsupervised
    Feature Learning, 2011), compared with that of a soft disc. For photographs take a :class:`MediaEncoder`.

    Args:
        filters: Number of filters; a vector has 3 numbers more.
    """

    kind = IMAGE

    def __init__(self, filters: int = 32) -> None:
        self.id, self.dimension = f"random-filters-{filters}", 3 + filters
        weights = np.random.default_rng(0).standard_normal((filters, 1, 9, 9)) / 9
        weights -= weights.mean((1, 2, 3), keepdims=True)
        self._weights = torch.from_numpy(weights.astype(np.float32))
        distance = ((np.indices((24, 24)) - 11.5) ** 2).sum(0)
        self._disc = self._shape(np.exp(-distance / 40).astype(np.float32))

    def __call__(self, media: Sequence[Media]) -> NDArray[np.float32]:
        """Return one vector of unit length per image, shape ``(n, dimension)``."""
        vectors = np.zeros((len(media), self.dimension), np.float32)
        for row, one in enumerate(media):
            pixels = read_image(one).astype(np.float32) / 255
            border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
            apart = pixels - np.median(border, 0)
            figure = uniform_filter(np.sqrt((apart**2).sum(2)), 3)
            figure = np.maximum(figure - np.median(figure), 0)
            colour = (apart * figure[..., None]).mean((0, 1))[None]
            vectors[row] = np.concatenate([unit(colour)[0], 4 * (self._shape(figure) - self._disc)])
        return unit(vectors)

    @torch.inference_mode()
    def _shape(self, figure: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the filters find, of unit length, shape ``(filters,)``."""
        passed = torch.nn.functional.conv2d(torch.from_numpy(figure)[None, None], self._weights, padding=4)[0].relu()
        return np.asarray(unit(passed.square().mean((1, 2)).sqrt()[None].numpy())[0])


def read_image(media: Media) -> NDArray[np.uint8]:
    """Return an image, shape ``(height, width, 3)``.

    Raises:
        StmError: The file cannot be read, or the medium is no image.
    """
    if media.kind != IMAGE:
        raise StmError(f"a medium of kind {media.kind} was given; expected an image")
    if media.array is not None:
        return media.array
    try:
        with Image.open(media.path) as image:
            return np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise StmError(f"cannot read the image {media.path} ({error}); give a PNG, JPEG or other image") from error


def read_sound(media: Media, rate: int) -> NDArray[np.float32]:
    """Return a sound of one channel at ``rate`` samples a second, shape ``(samples,)``.

    Raises:
        StmError: The file cannot be read, or the medium is no sound.
    """
    if media.kind != AUDIO:
        raise StmError(f"a medium of kind {media.kind} was given; expected audio")
    own, samples = media.rate, media.array
    if samples is None:
        try:
            own, samples = wavfile.read(media.path)
        except (OSError, ValueError) as error:
            raise StmError(f"cannot read the sound {media.path} ({error}); give a WAV file") from error
        if samples.dtype.kind == "u":  # 8 bits are without a sign
            samples = (samples.astype(np.float32) - 128) / 128
        elif samples.dtype.kind == "i":
            samples = samples.astype(np.float32) / np.iinfo(samples.dtype).max
        samples = samples if samples.ndim == 1 else samples.mean(1)
    if own != rate:
        shared = gcd(own, rate)
        samples = resample_poly(samples, rate // shared, own // shared)
    return np.asarray(samples, np.float32)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows scaled to unit length."""
    return np.asarray(vectors / np.sqrt((vectors**2).sum(1, keepdims=True) + 1e-12), np.float32)


def _tower(model: Any, kind: str) -> Any:
    """Return the part of a model that encodes media of ``kind``."""
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    return getattr(model, "vision_model" if kind == IMAGE else "audio_model", model)


def _size(model: Any) -> int:
    size = getattr(model.config, "hidden_size", None) or getattr(model.config, "d_model", None)
    if size is None:
        raise StmError(f"the model {type(model).__name__} does not say its hidden size; take another encoder")
    return int(size)
