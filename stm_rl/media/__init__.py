"""Images and sounds in turns: encoders, and how texts refer to them."""

from stm_rl.media.encoder import Encoder, MediaEncoder, RandomFilters, read_image, read_sound
from stm_rl.media.spectrum import Spectrum
from stm_rl.media.standard import Standardized
from stm_rl.media.tags import MediaStore, MediaText, TaggedTranscripts

__all__ = [
    "Encoder",
    "MediaEncoder",
    "MediaStore",
    "MediaText",
    "RandomFilters",
    "Spectrum",
    "Standardized",
    "TaggedTranscripts",
    "read_image",
    "read_sound",
]
