"""Features that all vary alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.media.encoder import Encoder
from stm_rl.transcript import Media


class Standardized:
    """An encoder whose every feature is shifted and scaled to mean 0 and deviation 1 over some media.

    Vectors of pretrained encoders have much in common, and what tells media apart is a small part of them: of
    the features of drawn pictures, those of colour deviate by 0.5 and those of shape by 0.02. A policy that learns from
    rewards alone finds what varies most, and hardly the rest.

    Args:
        encoder: The encoder.
        media: Media of the kind it will read, at least 2.
    """

    def __init__(self, encoder: Encoder, media: Sequence[Media]) -> None:
        if len(media) < 2:
            raise StmError(f"{len(media)} media were given to standardize features over; give at least 2")
        self.encoder, self.kind, self.dimension = encoder, encoder.kind, encoder.dimension
        self.id = f"standardized-{encoder.id}"
        vectors = encoder(media)
        self.mean = vectors.mean(0)
        self.deviation = vectors.std(0) + 1e-6

    def __call__(self, media: Sequence[Media]) -> NDArray[np.float32]:
        """Return one vector per medium, shape ``(n, dimension)``, of length about the root of the dimension."""
        return np.asarray((self.encoder(media) - self.mean) / self.deviation, np.float32)
