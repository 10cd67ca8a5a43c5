"""Shares of right answers among few: exact intervals, the exact paired test, and how far modalities lie apart.

The unit is the family of cases, as everywhere (`medexp.evaluation.intervals`). Of a paired difference of two shares, row by
row, `medexp.evaluation.intervals.mean_by_patient` gives the interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binomtest, t

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.evaluation.intervals import GAIN, Interval, band_by_patient


def proportion(hits: ArrayLike, families: Sequence[str], confidence: float) -> Interval:
    """The share of hits, with an exact interval, however few there are.

    Where each family has one case it is that of Clopper and Pearson (1934). Where families have several, these tell less than
    as many cases of their own would: the effective number of cases, by which families scatter and with the degrees of freedom
    that they leave, takes the place of the number in it (Korn and Graubard, "Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data", 1998). Where all are hits or none is, families do not
    scatter; then as many count as there are families, fewer where their sizes differ (Kish, 1965).

    Args:
        hits: Of each case (N,), true or false.
        families: Of each case (N,).
        confidence: Coverage.

    Returns:
        NaN of no cases.
    """
    right = np.asarray(hits, float)
    count, share = len(right), float(right.mean()) if len(right) else math.nan
    if not count:
        return Interval(math.nan, math.nan, math.nan, 0)
    names, family = np.unique(np.asarray(families), return_inverse=True)
    sizes, groups, tail = np.bincount(family), len(names), (1 - confidence) / 2
    error = math.sqrt(share * (1 - share) / count)
    effective = float(count)
    if groups < count:
        effective = float(count**2 / (sizes**2).sum())
        if 0 < share < 1 and groups > 1:
            apart = np.bincount(family, right) - share * sizes
            error = math.sqrt(groups / (groups - 1) * float((apart**2).sum())) / count
            fewer = float(t.ppf(tail, count - 1) / t.ppf(tail, groups - 1)) ** 2
            effective = min(share * (1 - share) / error**2 * fewer, count) if error else float(count)
    there = share * effective
    low = 0.0 if share == 0 else float(beta.ppf(tail, there, effective - there + 1))
    high = 1.0 if share == 1 else float(beta.ppf(1 - tail, there + 1, effective - there))
    return Interval(share, low, high, groups, error, effective)


def mcnemar(one: ArrayLike, other: ArrayLike) -> float:
    """How probable such a difference of two shares would be if both were equal: the exact two-sided test of McNemar (1947).

    Cases in which both are right, or both wrong, tell nothing; of the others each is either's by chance. Each case counts as
    one of its own: where families have several, an interval by family of the paired difference is what tells.

    Args:
        one: Whether it is right in each case (N,).
        other: Likewise, of the same cases.
    """
    first, second = np.asarray(one, bool), np.asarray(other, bool)
    if first.shape != second.shape:
        raise ValueError(f"paired cases are needed, found {len(first)} and {len(second)}")
    alone = int((first & ~second).sum()), int((~first & second).sum())
    return float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0


@dataclass(frozen=True)
class Apart:
    """How far the accuracies of modalities lie apart.

    Attributes:
        found: "shown" that they are no farther apart than they may be, "not" where some are, or that it cannot be told.
        largest: The largest difference, above 0, with its interval.
        pair: The better and the worse of those two.
        pairs: All differences, the first's accuracy minus the second's, with intervals that hold at once.
    """

    found: str
    largest: Interval
    pair: tuple[str, ...]
    pairs: dict[tuple[str, str], Interval]


def modality_spread(
    hits: ArrayLike, modalities: Sequence[str], families: Sequence[str], resampling: Resampling, limit: float
) -> Apart:
    """Whether accuracy is the same in all modalities, as far as so many cases can tell.

    Intervals of all differences hold at once (`medexp.evaluation.intervals.band_by_patient`). In a modality in which all or
    none are right resamples do not scatter: differences from it have the bounds that exact intervals of both leave.

    Args:
        hits: Of each case (N,).
        modalities: Of each case (N,).
        families: Of each case (N,).
        resampling: How resamples are drawn, and the coverage.
        limit: How far accuracies may lie apart.
    """
    right, modality = np.asarray(hits, float), np.asarray(modalities)
    names = [str(name) for name in np.unique(modality)]
    rows = np.stack([modality == name for name in names]) if names else np.zeros((0, 0), bool)
    places = list(combinations(range(len(names)), 2))
    unknown = f"cannot be told with n={len(right)}"
    if not places:
        return Apart(unknown, Interval(math.nan, math.nan, math.nan, len({*families})), (), {})
    first, second = np.array(places).T

    def differences(weights: Array) -> Array:
        with np.errstate(invalid="ignore"):
            shares = (weights @ (rows * right).T) / (weights @ rows.T.astype(float))
        return shares[:, first] - shares[:, second]

    band = band_by_patient(differences, families, resampling, within=GAIN, groups=rows[np.array(places)], at_once=True)
    each = 1 - (1 - resampling.confidence) / len(names)  # Bonferroni
    alone = [proportion(right[mine], _of(families, mine), each) for mine in rows]
    pairs = {}
    for number, (one, other) in enumerate(places):
        pairs[names[one], names[other]] = found = band.at(number)
        if {alone[one].estimate, alone[other].estimate} & {0.0, 1.0}:
            low, high = alone[one].low - alone[other].high, alone[one].high - alone[other].low
            error = math.hypot(alone[one].error, alone[other].error)
            pairs[names[one], names[other]] = replace(found, low=low, high=high, error=error, effective=math.nan)
    largest, pair = max(
        ((one, pair) if one.estimate >= 0 else (_turned(one), pair[::-1]) for pair, one in pairs.items()),
        key=lambda item: item[0].estimate,
    )
    if all(-limit <= one.low and one.high <= limit for one in pairs.values()):
        return Apart("shown", largest, pair, pairs)
    if any(one.low > limit or one.high < -limit for one in pairs.values()):
        return Apart("not", largest, pair, pairs)
    return Apart(unknown, largest, pair, pairs)


def _of(families: Sequence[str], mine: NDArray[np.bool_]) -> list[Any]:
    return [family for family, is_mine in zip(families, mine, strict=True) if is_mine]


def _turned(one: Interval) -> Interval:
    """Of the other minus the first."""
    return replace(one, estimate=-one.estimate, low=-one.high, high=-one.low)
