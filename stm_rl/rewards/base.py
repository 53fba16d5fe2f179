"""Rewards are sums of small named terms; each is logged by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.transcript import Probe, Transcript

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Step:
    """What happened in one step of one episode.

    Attributes:
        transcript: The transcript as it was played so far; its turns after ``turn + 1`` are the future.
        turn: Index of the turn that had arrived; ``turn + 1`` is the one that was predicted.
        gain: log p(next turn | reads, window) - log p(next turn | window) in nats; 0 without a language model.
        wrote: Whether the turn was written.
        reads: Indices of the turns put in front of the model, ascending.
        before: Indices of the turns the memory held before the write.
        held: Indices of the turns it holds after it.
        probe: What the next turn depends on, if that is known.
        last: Whether the episode ends with this step.
        truth: The text that really comes next.
        text: What the model wrote in its place; empty if it wrote nothing (always in teacher-forced mode).
        plain: What the model would have written without any read; empty where ``text`` is.
    """

    transcript: Transcript
    turn: int
    gain: float
    wrote: bool
    reads: tuple[int, ...]
    before: tuple[int, ...]
    held: tuple[int, ...]
    probe: Probe | None
    last: bool
    truth: str
    text: str
    plain: str


@dataclass(frozen=True, slots=True)
class Steps:
    """One step of each of ``n`` episodes; iterating over it yields each :class:`Step`.

    Attributes:
        gain: log p(next turn | reads, window) - log p(next turn | window) in nats, shape ``(n,)``.
        wrote: Whether a turn was written, shape ``(n,)``.
        reads: Number of turns put in front of the model, shape ``(n,)``.
        each: The steps one by one; empty if no term asks for them.
    """

    gain: FloatArray
    wrote: BoolArray
    reads: IntArray
    each: Sequence[Step] = field(default=())

    def __len__(self) -> int:
        return len(self.gain)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.each)


class Term(Protocol):
    """A reward term: a function or an object that says what each step earns, before its weight."""

    def __call__(self, steps: Steps) -> FloatArray:
        """Return the earnings of each step, shape ``(n,)``, finite."""


def per_step(function: Callable[[Step], float]) -> Term:
    """Make a term of a function of a single step.

    ``@per_step`` in front of ``def politeness(step: Step) -> float`` is all a term needs.
    """

    def term(steps: Steps) -> FloatArray:
        return np.array([function(step) for step in steps], np.float64).reshape(len(steps))

    term.__name__ = term.__qualname__ = getattr(function, "__name__", type(function).__name__)
    term.__doc__ = function.__doc__
    return term


class Judged:
    """A term that judges text the model wrote: how much better it is than the text written without memory.

    Only in ``generate`` mode does a model write. Where it read nothing, both texts are the same and the term is
    exactly 0, so that an agent without memory earns exactly 0.
    """

    needs_text: ClassVar[bool] = True

    def judge(self, texts: Sequence[str], steps: Sequence[Step]) -> FloatArray:
        """Return the worth of each text in its step, shape ``(len(texts),)``."""
        raise NotImplementedError

    def __call__(self, steps: Steps) -> FloatArray:
        """Return the worth of what was written minus that of what would have been written, shape ``(n,)``."""
        result = np.zeros(len(steps))
        rows = [row for row, step in enumerate(steps) if step.text != step.plain]
        if rows:
            chosen = [steps.each[row] for row in rows]
            texts = [step.text for step in chosen] + [step.plain for step in chosen]
            worth = np.asarray(self.judge(texts, chosen * 2), np.float64)
            result[rows] = worth[: len(rows)] - worth[len(rows) :]
        return result


class Reward:
    """A weighted sum of terms.

    Args:
        weights: Weight of each term: by the name of a built-in term, the name of an entry point of the group
            ``stm_rl.rewards``, a dotted path such as ``my_package.rewards:Politeness``, each with options in
            brackets if it takes any (``nli[model=PATH]``), or a callable (see :class:`Term`, :func:`per_step`).

    Attributes:
        weights: Weight of each term by its name.
        specs: The same by what was asked for, such as ``nli[model=PATH]``.

    Raises:
        StmError: A term is unknown, cannot be made, or is given twice.
    """

    def __init__(self, weights: Mapping[str | Term, float] | None = None) -> None:
        from stm_rl.rewards.registry import DEFAULT_WEIGHTS, make_term

        self.weights: dict[str, float] = {}
        self.specs: dict[str, float] = {}
        self._terms: dict[str, Term] = {}
        for spec, weight in (DEFAULT_WEIGHTS if weights is None else weights).items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not np.isfinite(weight):
                raise StmError(f"the weight of reward term {spec!r} is {weight!r}; expected a finite number")
            name, term = make_term(spec)
            if name in self._terms:
                raise StmError(f"reward term {name!r} is given twice; give it once, with the sum of the weights")
            self._terms[name], self.weights[name] = term, float(weight)
            self.specs[spec if isinstance(spec, str) else name] = float(weight)

    @property
    def needs_text(self) -> bool:
        """Whether a term judges text, which only ``generate`` mode produces."""
        return any(getattr(term, "needs_text", False) for term in self._terms.values())

    @property
    def needs_gain(self) -> bool:
        """Whether a term is made of coherence gains, which only a language model gives."""
        return any(getattr(term, "needs_gain", False) for term in self._terms.values())

    @property
    def needs_steps(self) -> bool:
        """Whether a term may look at single steps, and not just at gains, writes and numbers of reads."""
        return not all(getattr(term, "needs_arrays_only", False) for term in self._terms.values())

    def __call__(self, steps: Steps) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the reward of each step, shape ``(n,)``, and the weighted terms it is the sum of.

        Raises:
            StmError: A term gives something else than ``n`` finite numbers.
        """
        parts = {
            name: self.weights[name] * _checked(name, term(steps), len(steps)) for name, term in self._terms.items()
        }
        return np.asarray(sum(parts.values(), np.zeros(len(steps)))), parts


def _checked(name: str, values: object, count: int) -> FloatArray:
    array = np.asarray(values, np.float64)
    if array.shape != (count,):
        raise StmError(
            f"reward term {name!r} gave an array of shape {array.shape} for {count} steps; expected ({count},): "
            "one number for each step, or decorate a function of one step with stm_rl.rewards.per_step"
        )
    if not np.isfinite(array).all():
        raise StmError(f"reward term {name!r} gave {array[~np.isfinite(array)][0]}; expected finite numbers")
    return array
