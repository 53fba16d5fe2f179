"""Terms that need no text: gains, costs, evidence."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from stm_rl.errors import StmError
from stm_rl.rewards.base import FloatArray, Step, Steps
from stm_rl.transcript import Transcript


class Coherence:
    """Coherence gain in nats: how much better the model predicted what really came next."""

    needs_gain: ClassVar[bool] = True
    needs_arrays_only: ClassVar[bool] = True

    def __call__(self, steps: Steps) -> FloatArray:
        """Return the gains."""
        return steps.gain


class AnswerGain:
    """The coherence gain at turns that are known to depend on earlier ones, 0 elsewhere, in nats."""

    needs_gain: ClassVar[bool] = True

    def __call__(self, steps: Steps) -> FloatArray:
        """Return the gains at dependent turns."""
        return np.array([step.gain if step.probe else 0.0 for step in steps], np.float64)


class WriteCost:
    """Minus 1 for each write."""

    needs_arrays_only: ClassVar[bool] = True

    def __call__(self, steps: Steps) -> FloatArray:
        """Return the costs."""
        return -steps.wrote.astype(np.float64)


class ReadCost:
    """Minus 1 for each turn put in front of the model."""

    needs_arrays_only: ClassVar[bool] = True

    def __call__(self, steps: Steps) -> FloatArray:
        """Return the costs."""
        return -steps.reads.astype(np.float64)


class Recall:
    """Evidence held when it is needed: a label, where transcripts carry it.

    Args:
        joint: Pay 1 if the memory holds the whole evidence of the next turn; else pay the share it holds.
    """

    def __init__(self, joint: bool = True) -> None:
        self.joint = joint

    def __call__(self, steps: Steps) -> FloatArray:
        """Return what is held of the evidence of each next turn, 0 to 1; 0 where it has none."""
        return np.array([self._of(step) for step in steps], np.float64)

    def _of(self, step: Step) -> float:
        if step.probe is None:
            return 0.0
        share = sum(turn in step.held for turn in step.probe.evidence) / len(step.probe.evidence)
        return float(share == 1) if self.joint else share


class EvidenceShaping:
    """Potential-based shaping: the evidence of later turns that the memory keeps.

    Pays ``gamma * potential(after) - potential(before)``, where the potential of a memory is the sum over later
    dependent turns of the share of their evidence it holds. With the agent's own discount such a term leaves the best
    policy what it is (Ng, Harada and Russell, 1999); it only pays earlier.

    Args:
        gamma: Discount of the agent, 0 to 1.
    """

    def __init__(self, gamma: float = 0.98) -> None:
        if not 0 <= gamma <= 1:
            raise StmError(f"gamma is {gamma}; expected 0 to 1, the discount of the agent")
        self.gamma = gamma

    def __call__(self, steps: Steps) -> FloatArray:
        """Return the change of potential in each step."""
        return np.array([self._of(step) for step in steps], np.float64)

    def _of(self, step: Step) -> float:
        before = potential(step.transcript, step.turn + 1, step.before)
        after = 0.0 if step.last else potential(step.transcript, step.turn + 2, step.held)
        return self.gamma * after - before


def potential(transcript: Transcript, first: int, held: tuple[int, ...]) -> float:
    """Return the evidence of the dependent turns from ``first`` on that is ``held``, each turn counting up to 1."""
    if not held:
        return 0.0
    kept = set(held)
    later = (probe.evidence for probe in transcript.probes if probe.turn >= first)
    return float(sum(len(kept.intersection(evidence)) / len(evidence) for evidence in later))
