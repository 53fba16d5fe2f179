"""Hindsight labels: what each turn of a transcript turned out to be worth remembering."""

from stm_rl.labels.labeller import Labeller
from stm_rl.labels.noise import Noise, measure_noise
from stm_rl.labels.pairs import PairSettings
from stm_rl.labels.sources import LabelSource, ModelLabels, TextLabels
from stm_rl.labels.store import LabelStore
from stm_rl.labels.table import GainTable
from stm_rl.labels.values import Values

__all__ = [
    "GainTable",
    "LabelSource",
    "LabelStore",
    "Labeller",
    "ModelLabels",
    "Noise",
    "PairSettings",
    "TextLabels",
    "Values",
    "measure_noise",
]
