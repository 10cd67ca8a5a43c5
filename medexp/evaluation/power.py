"""What a paired comparison can show: the difference that n patients would let be seen, and the patients it takes to see one.

Of the two-sided t-test of a mean difference by patient, whose power is that of a noncentral t distribution (Cohen,
"Statistical Power Analysis for the Behavioral Sciences", 1988, chapter 2). `Interval.spread` is the spread that both ask for.
"""

import math

from scipy.optimize import brentq
from scipy.special import chdtri, nctdtr, stdtrit

MOST = 10_000
"""Patients that nobody has: `patients_needed` counts no further."""


def power_of(difference: float, patients: float, spread: float, *, confidence: float = 0.95) -> float:
    """Probability, 0 to 1, that the interval of a mean difference excludes 0 on the right side.

    Args:
        difference: The true one, in the metric's unit.
        patients: How many, at least 2; of unequal numbers of rows as many as tell as much (`Interval.effective`).
        spread: SD of the patients' differences, above 0.
        confidence: Coverage of the interval, 0 to 1.
    """
    freedom = patients - 1
    shift = abs(difference) * math.sqrt(patients) / spread
    missed = float(nctdtr(freedom, shift, stdtrit(freedom, (1 + confidence) / 2)))
    return 1.0 if math.isnan(missed) else 1 - missed  # so far out that the distribution underflows


def smallest_difference(patients: float, spread: float, *, power: float = 0.8, confidence: float = 0.95) -> float:
    """The smallest mean difference that is seen with a probability of `power`; NaN with fewer than 2 patients or no spread.

    Args:
        patients: How many.
        spread: SD of the patients' differences.
        power: Probability, 0 to 1.
        confidence: Coverage of the interval that has to exclude 0.
    """
    if patients < 2 or not spread > 0:
        return math.nan
    # In units of the spread, which bounds the search: with two patients it takes about 18 of them.
    unit = brentq(lambda size: power_of(size, patients, 1.0, confidence=confidence) - power, 1e-9, 1000.0)
    return float(unit) * spread


def spread_bounds(spread: float, patients: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Between what the true spread lies, as it was measured on so many patients (chi-squared interval of a normal's SD).

    Args:
        spread: The measured SD.
        patients: On which it was measured, at least 2.
        confidence: Coverage.
    """
    freedom = patients - 1
    low, high = (math.sqrt(freedom / float(chdtri(freedom, tail))) for tail in ((1 - confidence) / 2, (1 + confidence) / 2))
    return spread * low, spread * high


def patients_needed(difference: float, spread: float, *, power: float = 0.8, confidence: float = 0.95) -> int | None:
    """Patients that it takes to see a mean difference with a probability of `power`; None where they are more than MOST.

    Args:
        difference: The true one, in the metric's unit, of either sign.
        spread: SD of the patients' differences.
        power: Probability, 0 to 1.
        confidence: Coverage of the interval that has to exclude 0.
    """
    if not abs(difference) > 0 or math.isnan(spread):
        return None
    if spread == 0:
        return 2
    low, high = 2, MOST  # the power rises with the patients: halve what is left
    if power_of(difference, high, spread, confidence=confidence) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        enough = power_of(difference, middle, spread, confidence=confidence) >= power
        low, high = (low, middle) if enough else (middle + 1, high)
    return low
