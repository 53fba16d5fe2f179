"""Pitch and timbre of a sound as a vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.media.encoder import read_sound, unit
from stm_rl.transcript import AUDIO, Media

LOWEST, RATE = 100.0, 16_000
"""Hertz of the lowest band; samples a second to which sounds are brought."""
FLOOR = 1e-6
"""Share of a sound's power that is added to each band, so that logarithms stay finite."""


class Spectrum:
    """How a sound's power is spread over bands of equal width in octaves: needs no weights and no training.

    Log power of each band, minus the mean over bands, so that loudness does not matter. For speech and sounds that
    change in time take a :class:`~stm_rl.media.MediaEncoder`.

    Args:
        bands: Number of bands, from 100 to 8,000 Hz.
    """

    kind = AUDIO

    def __init__(self, bands: int = 32) -> None:
        self.id, self.dimension = f"spectrum-{bands}", bands
        self._edges = np.geomspace(LOWEST, RATE / 2, bands + 1)

    def __call__(self, media: Sequence[Media]) -> NDArray[np.float32]:
        """Return one vector of unit length per sound, shape ``(n, dimension)``.

        Raises:
            StmError: A file cannot be read, a medium is no sound, or it is silent.
        """
        vectors = np.zeros((len(media), self.dimension), np.float32)
        for row, one in enumerate(media):
            samples = read_sound(one, RATE)
            power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
            hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
            bands = np.histogram(hertz, self._edges, weights=power)[0]
            if not (total := bands.sum()):
                raise StmError(f"a sound of {len(samples)} samples is silent; leave it out")
            levels = np.log(bands / total + FLOOR)
            vectors[row] = levels - levels.mean()
        return unit(vectors)
