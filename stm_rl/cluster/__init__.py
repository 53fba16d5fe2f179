"""Labelling and evaluation on several machines, with plain Ray actors."""

from stm_rl.cluster.actors import LOCAL, Cluster, connect
from stm_rl.cluster.evaluation import Stage, play_on
from stm_rl.cluster.labels import LabelWork, label_on

__all__ = ["LOCAL", "Cluster", "LabelWork", "Stage", "connect", "label_on", "play_on"]
