"""Memory-augmented language models: a Hugging Face model with a neural memory that goes on from segment to segment."""

from stm_rl.augmented.model import MemoryLM, MemoryOutput
from stm_rl.augmented.recurrence import SegmentLM
from stm_rl.augmented.segments import Segments, TranscriptSet, collate, segments
from stm_rl.augmented.settings import MemorySettings
from stm_rl.augmented.start import start_from_attention
from stm_rl.augmented.training import SegmentTrainer, transcript_loss

__all__ = [
    "MemoryLM",
    "MemoryOutput",
    "MemorySettings",
    "SegmentLM",
    "SegmentTrainer",
    "Segments",
    "TranscriptSet",
    "collate",
    "segments",
    "start_from_attention",
    "transcript_loss",
]
