"""The objects of picture and sound stories: small drawings, and short tones of instruments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal  # type: ignore[import-untyped]

from stm_rl.transcript import AUDIO, IMAGE, Media

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 230), "yellow": (230, 210, 50)}
SHAPES = ("cross", "square", "triangle", "circle")
SIZE = 24
"""Pixels along each side of a picture."""
PITCHES = {"low": 220.0, "middle": 440.0, "high": 880.0, "shrill": 1760.0}
"""Hertz."""
INSTRUMENTS = ("whistle", "buzzer", "fiddle", "flute")
"""Heard as a sine, a square, a sawtooth and a triangle wave."""
RATE, SAMPLES = 16_000, 3200
"""Samples a second, and in each sound."""


def picture(colour: int, shape: int, noise: float, rng: np.random.Generator) -> Media:
    """Return a picture of an object, ``SIZE`` pixels wide and high: somewhere, of some size, noisy.

    Args:
        colour: Number of a colour.
        shape: Number of a shape.
        noise: Standard deviation of the noise on each channel of a pixel, in steps of 255.
        rng: Where chance comes from.
    """
    centre, radius = SIZE / 2 + rng.uniform(-4, 4, 2), rng.uniform(5, 7)
    y, x = (np.indices((SIZE, SIZE)) + 0.5 - centre[:, None, None]) / radius
    inside: dict[str, Any] = {
        "square": np.maximum(abs(x), abs(y)) < 0.9,
        "circle": x**2 + y**2 < 1,
        "triangle": (y < 0.9) & (2 * abs(x) < y + 1.1),
        "cross": (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    }
    tint = np.array(list(COLOURS.values())[colour]) + rng.normal(0, 12, 3)
    pixels = np.where(inside[SHAPES[shape]][..., None], tint, rng.uniform(90, 130))
    pixels = np.clip(pixels + rng.normal(0, noise, pixels.shape), 0, 255)
    return Media(IMAGE, array=pixels.astype(np.uint8))


def sound(pitch: int, instrument: int, noise: float, rng: np.random.Generator) -> Media:
    """Return a tone of an instrument, a fifth of a second: a little out of tune, some loudness, begin and end, noisy.

    Args:
        pitch: Number of a pitch.
        instrument: Number of an instrument.
        noise: Standard deviation of the noise on each sample, in steps of 255 to full scale, as of a picture.
        rng: Where chance comes from.
    """
    hertz = list(PITCHES.values())[pitch] * rng.uniform(0.97, 1.03)
    seconds = np.arange(SAMPLES) / RATE
    phase = 2 * np.pi * (hertz * seconds + rng.uniform())
    waves: tuple[Callable[[], NDArray[Any]], ...] = (
        lambda: np.sin(phase),
        lambda: signal.square(phase),
        lambda: signal.sawtooth(phase),
        lambda: signal.sawtooth(phase, 0.5),
    )
    begin, end = rng.uniform(0, 0.2, 2) * seconds[-1]
    heard = (seconds >= begin) & (seconds <= seconds[-1] - end)
    samples = rng.uniform(0.4, 0.8) * waves[instrument]() * heard + rng.normal(0, noise / 255, SAMPLES)
    return Media(AUDIO, array=np.clip(samples, -1, 1).astype(np.float32), rate=RATE)


@dataclass(frozen=True, slots=True)
class Medium:
    """How objects are shown in one kind of media.

    Attributes:
        qualities: First words of the objects' names.
        things: Second words.
        make: Makes a medium of a quality's number, a thing's number, the noise and a generator.
        own: What people say with what they bought.
        catalogue: What people say with what they did not.
    """

    qualities: tuple[str, ...]
    things: tuple[str, ...]
    make: Callable[[int, int, float, np.random.Generator], Media]
    own: tuple[str, ...]
    catalogue: tuple[str, ...]


MEDIA: Mapping[str, Medium] = {
    IMAGE: Medium(
        tuple(COLOURS),
        SHAPES,
        picture,
        ("Look, I bought this.", "This is what I bought.", "See what I bought today."),
        ("This is only in the catalogue.", "I saw this in a catalogue.", "The catalogue shows this."),
    ),
    AUDIO: Medium(
        tuple(PITCHES),
        INSTRUMENTS,
        sound,
        ("Listen, I bought this.", "This is what I bought.", "Hear what I bought today."),
        ("This is only on the radio.", "I heard this on the radio.", "The radio plays this."),
    ),
}
"""The kinds of media that stories show objects in."""
