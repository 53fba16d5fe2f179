"""Finds reward terms: built-in ones by name, others by entry point, dotted path or as callables."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from stm_rl.errors import StmError
from stm_rl.rewards import judges, terms
from stm_rl.rewards.base import Reward, Term
from stm_rl.rewards.hindsight import Hindsight
from stm_rl.values import parse_value

GROUP = "stm_rl.rewards"
"""Entry-point group in which packages announce terms."""

TERMS: dict[str, Callable[..., Term]] = {
    "coherence": terms.Coherence,
    "answer_gain": terms.AnswerGain,
    "write_cost": terms.WriteCost,
    "read_cost": terms.ReadCost,
    "recall": terms.Recall,
    "hindsight": Hindsight,
    "evidence_shaping": terms.EvidenceShaping,
    "consistency": judges.Consistency,
    "contradiction": judges.Contradiction,
    "similarity": judges.Similarity,
    "nli": judges.NLI,
    "answer_f1": judges.AnswerF1,
}
"""The built-in terms by name."""

COSTS: Mapping[str, float] = {"write_cost": 0.01, "read_cost": 0.02}
DEFAULT_WEIGHTS: Mapping[str, float] = {"coherence": 1.0, **COSTS}
_SPEC = re.compile(r"(?P<name>[^\[\]=\s]+)(?:\[(?P<options>.*)\])?")


def make_term(spec: str | Term) -> tuple[str, Term]:
    """Return the name and the term that ``spec`` stands for; see :class:`~stm_rl.rewards.base.Reward`.

    Raises:
        StmError: There is no such term, or it cannot be made.
    """
    if not isinstance(spec, str):
        if not callable(spec):
            raise StmError(f"reward term {spec!r} is no callable; expected a function or object: steps -> numbers")
        maker: Any = spec
        made = maker() if isinstance(spec, type) else spec
        return _name_of(spec), made
    match = _SPEC.fullmatch(spec)
    if not match:
        raise StmError(f"reward term {spec!r} is malformed; expected NAME or NAME[option=value,option=value]")
    name, options = match["name"], _options(spec, match["options"])
    found = _find(name)
    takes_options = name in TERMS or isinstance(found, type)
    if options and not takes_options:
        raise StmError(f"reward term {name!r} is a function and takes no options; got {spec!r}")
    if not callable(found):
        raise StmError(f"reward term {name!r} is {found!r}; expected a class or function: steps -> numbers")
    try:
        term = found(**options) if takes_options else found
    except TypeError as error:
        raise StmError(f"reward term {spec!r} cannot be made ({error}); check its options") from error
    if not callable(term):
        raise StmError(f"reward term {name!r} makes {term!r}, which is no callable; give its class a __call__(steps)")
    return name.rpartition(":")[2], term


def _name_of(term: Any) -> str:
    return str(getattr(term, "__name__", type(term).__name__))


def _options(spec: str, text: str | None) -> dict[str, Any]:
    options = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise StmError(f"option {part!r} of reward term {spec!r} is malformed; expected option=value")
        options[name.strip()] = parse_value(value, f"option {part!r} of reward term {spec!r}")
    return options


def _find(name: str) -> Any:
    if name in TERMS:
        return TERMS[name]
    if ":" in name:
        return load_dotted(name, "reward term")
    announced = {point.name: point for point in entry_points(group=GROUP)}
    if name in announced:
        try:
            return announced[name].load()
        except (ImportError, AttributeError) as error:
            raise StmError(
                f"reward term {name!r} cannot be loaded ({error}); reinstall the package it is in"
            ) from error
    known = sorted({*TERMS, *announced})
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)},"
    raise StmError(f"unknown reward term {name!r}; {hint} or a dotted path such as my_package.rewards:Politeness")


def load_dotted(path: str, what: str) -> Any:
    """Return the object at a dotted path such as ``my_package.module:Name``.

    Args:
        path: Module and, after a colon, the name in it.
        what: What it should be, for errors.

    Raises:
        StmError: It cannot be imported.
    """
    module, _, attribute = path.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise StmError(
            f"{what} {path!r} cannot be imported ({error}); expected module:Name of an installed package, "
            "or of a file in a folder on PYTHONPATH"
        ) from error
    return value


def parse_weights(specs: Iterable[str]) -> dict[str | Term, float]:
    """Return the weights that ``NAME=WEIGHT`` texts give.

    Raises:
        StmError: A text is malformed or a term is given twice.
    """
    weights: dict[str | Term, float] = {}
    for text in specs:
        name, equals, value = text.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            equals = ""
        if not equals or not name or name.count("[") != name.count("]"):
            raise StmError(f"--reward {text!r} is malformed; expected NAME=WEIGHT such as coherence=1.0")
        if name in weights:
            raise StmError(f"--reward names {name!r} twice; give each term once")
        weights[name] = weight
    return weights


def as_reward(reward: Reward | Mapping[str | Term, float] | Iterable[str] | None) -> Reward | None:
    """Return a reward for a reward, its weights, or texts such as ``coherence=1.0``; ``None`` for ``None``."""
    if reward is None or isinstance(reward, Reward):
        return reward
    return Reward(reward if isinstance(reward, Mapping) else parse_weights(reward))
