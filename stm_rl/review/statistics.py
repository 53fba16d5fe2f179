"""What ratings say: who won, by how much, and whether raters agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np

from stm_rl.comparison.continuation import WITH, WITHOUT, Continuation
from stm_rl.errors import StmError
from stm_rl.evaluation.statistics import Bootstrap
from stm_rl.review.store import ASPECTS, SKIP, Rating

Z = 1.959963984540054
"""The normal quantile of a 95% interval."""
Level = Literal["nominal", "ordinal"]
"""Levels of measurement."""


def results(items: Mapping[str, Continuation], ratings: Sequence[Rating], seed: int = 0) -> dict[str, Any]:
    """Return what raters said.

    Args:
        items: The pairs that can be rated, by id; ratings of others are left out and counted.
        ratings: What raters said.
        seed: Seeds the bootstrap.

    Returns:
        Numbers of ``pairs``, ``raters``, ``ratings``, ``wins``, ``losses``, ``ties`` and ``skipped``;
        ``win_rate`` of memory among the decided (``{"mean", "ci95", "interval"}``; None if nothing was decided),
        ``aspects`` (means ``with`` and ``without``, paired ``difference``), ``agreement`` (``alpha`` of the choice and
        of each aspect, each ``{"alpha", "note", "level", "same"}``) and ``kinds`` (win rates by kind of transcript).

    Raises:
        StmError: Nothing was rated.
    """
    known = [rating for rating in ratings if rating.item in items]
    given = [rating for rating in known if rating.choice != SKIP]
    if not given:
        raise StmError("nothing was rated yet; `stm-rl review` shows the pairs")
    raters = list(dict.fromkeys(rating.rater for rating in given))
    kinds = dict.fromkeys(items[rating.item].kind for rating in given)
    won = Counter(rating.memory_won for rating in given)
    return {
        "pairs": len({rating.item for rating in given}),
        "raters": len(raters),
        "ratings": len(given),
        "wins": won[True],
        "losses": won[False],
        "ties": won[None],
        "skipped": len(known) - len(given),
        "unknown": len(ratings) - len(known),
        "win_rate": win_rate(given, seed),
        "aspects": {name: entry for name in ASPECTS if (entry := _aspect(given, name, seed))},
        "agreement": {
            "choice": _agreement({(one.rater, one.item): _preferred(one) for one in given}, "nominal"),
            **{name: _agreement(_marks(given, name), "ordinal") for name in ASPECTS},
        },
        "kinds": {
            kind: win_rate([rating for rating in given if items[rating.item].kind == kind], seed) for kind in kinds
        },
    }


def win_rate(ratings: Sequence[Rating], seed: int = 0) -> dict[str, Any] | None:
    """Return how often memory won among the decided ratings, with a 95% interval; None: nothing was decided.

    Ties are reported beside it. The interval is Wilson's (1927) for one rater. Several raters of one pair are not
    independent: then whole pairs are resampled (cluster bootstrap).
    """
    decided = [rating for rating in ratings if rating.memory_won is not None]
    if not decided:
        return None
    wins = sum(rating.memory_won is True for rating in decided)
    if len({rating.rater for rating in ratings}) == 1:
        low, high = wilson(wins, len(decided))
        return {"mean": round(wins / len(decided), 4), "ci95": [round(low, 4), round(high, 4)], "interval": "wilson"}
    number = {item: index for index, item in enumerate(dict.fromkeys(rating.item for rating in ratings))}
    won, counted = np.zeros((1, len(number))), np.zeros((1, len(number)))
    for rating in decided:
        won[0, number[rating.item]] += rating.memory_won is True
        counted[0, number[rating.item]] += 1
    return {**Bootstrap(len(number), seed).interval(won, counted), "interval": "bootstrap over pairs"}


def wilson(wins: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share of ``count``, at least 1."""
    share = wins / count
    middle = share + Z**2 / (2 * count)
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    below = 1 + Z**2 / count
    return max(0.0, (middle - half) / below), min(1.0, (middle + half) / below)


def krippendorff_alpha(values: Mapping[tuple[str, Hashable], float], level: Level) -> tuple[float | None, str]:
    """Return Krippendorff's alpha (2011) and, where it is not defined, why.

    Args:
        values: What each rater said of each unit, as a number; units that a rater left out are missing.
        level: ``nominal`` or ``ordinal``.
    """
    try:
        import krippendorff
    except ImportError as error:
        raise StmError("krippendorff is not installed; run: pip install 'stm-rl[review]'") from error
    raters = {rater: row for row, rater in enumerate(dict.fromkeys(rater for rater, _ in values))}
    counts = Counter(unit for _, unit in values)
    units = {unit: column for column, unit in enumerate(counts)}
    if len(raters) < 2:
        return None, "there is one rater; alpha needs at least two"
    if max(counts.values()) < 2:
        return None, "no pair was rated by two raters"
    if len({value for (_, unit), value in values.items() if counts[unit] > 1}) < 2:
        return (
            None,
            "several raters always said the same, so agreement cannot be told from chance",
        )
    table = np.full((len(raters), len(units)), np.nan)
    for (rater, unit), value in values.items():
        table[raters[rater], units[unit]] = value
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement=level)), ""


def _agreement(values: Mapping[tuple[str, Hashable], float], level: Level) -> dict[str, Any]:
    if not values:
        return {"alpha": None, "note": "nothing was rated", "level": level, "same": None}
    alpha, note = krippendorff_alpha(values, level)
    same = same_share(values)
    return {
        "alpha": None if alpha is None else round(alpha, 4),
        "note": note,
        "level": level,
        "same": None if same is None else round(same, 4),
    }


def same_share(values: Mapping[tuple[str, Hashable], float]) -> float | None:
    """Return how often two raters of one unit said the same, over all pairs of raters; None: no unit has two.

    Where nearly all ratings are the same, alpha is near 0 though raters agree: nothing tells that from chance.
    """
    units: dict[Hashable, list[float]] = {}
    for (_, unit), value in values.items():
        units.setdefault(unit, []).append(value)
    found = [one == other for given in units.values() for one, other in combinations(given, 2)]
    return sum(found) / len(found) if found else None


def _preferred(rating: Rating) -> float:
    return {True: 1.0, False: -1.0, None: 0.0}[rating.memory_won]


def _marks(ratings: Sequence[Rating], aspect: str) -> dict[tuple[str, Hashable], float]:
    """Return the marks of each rater for each text: a pair has two."""
    found: dict[tuple[str, Hashable], float] = {}
    for rating in ratings:
        if marks := rating.marks(aspect):
            found |= {
                (rating.rater, (rating.item, side)): mark for side, mark in zip((WITH, WITHOUT), marks, strict=True)
            }
    return found


def _aspect(ratings: Sequence[Rating], aspect: str, seed: int) -> dict[str, Any] | None:
    """Return the mean marks of both sides and their paired difference, whole pairs resampled."""
    given = [(rating.item, marks) for rating in ratings if (marks := rating.marks(aspect))]
    if not given:
        return None
    number = {item: index for index, item in enumerate(dict.fromkeys(item for item, _ in given))}
    sums, counts = np.zeros((1, len(number))), np.zeros((1, len(number)))
    for item, (one, other) in given:
        sums[0, number[item]] += one - other
        counts[0, number[item]] += 1
    return {
        "ratings": len(given),
        WITH: round(float(np.mean([one for _, (one, _) in given])), 4),
        WITHOUT: round(float(np.mean([other for _, (_, other) in given])), 4),
        "difference": Bootstrap(len(number), seed).interval(sums, counts),
    }


def majority(items: Mapping[str, Continuation], ratings: Sequence[Rating]) -> dict[str, bool]:
    """Return the pairs that a majority decided: whether memory won, by id of the pair.

    Ties count for neither side, and pairs with as many votes for one side as for the other are left out.

    Args:
        items: The pairs, by id; ratings of others are left out.
        ratings: What raters said.
    """
    votes: dict[str, int] = {}
    for rating in ratings:
        if rating.memory_won is not None and rating.item in items:
            votes[rating.item] = votes.get(rating.item, 0) + (1 if rating.memory_won else -1)
    return {item: vote > 0 for item, vote in votes.items() if vote}
