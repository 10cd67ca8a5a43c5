"""Bootstrap intervals whose unit is the patient: scans of one patient are not independent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

# With n patients a percentile interval of 95 % is narrower than it says, and with a few it is hardly more than their range.
MIN_PATIENTS = 6


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval; the bounds are NaN when there are fewer than MIN_PATIENTS.

    Attributes:
        estimate: The statistic on the data as they are.
        low: Lower bound.
        high: Upper bound.
        patients: Patients resampled.
    """

    estimate: float
    low: float
    high: float
    patients: int

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.estimate:+.3f}, no interval"
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def mean_by_patient(
    values: NDArray[np.floating[Any]], patients: Sequence[str], *, samples: int, confidence: float, seed: int
) -> Interval:
    """Percentile bootstrap of the mean over rows, resampling patients with all their rows.

    For a paired comparison the values are differences, row by row.

    Args:
        values: One number a row.
        patients: Patient of each row.
        samples: Number of resamples.
        confidence: Coverage, 0 to 1.
        seed: Seed of the resamples.
    """
    groups = [values[np.asarray(patients) == patient] for patient in sorted(set(patients))]
    sums, sizes = np.array([group.sum() for group in groups]), np.array([len(group) for group in groups])
    if len(groups) < MIN_PATIENTS:
        return Interval(float(values.mean()), float("nan"), float("nan"), len(groups))
    bounds = bootstrap(
        (sums, sizes),
        lambda total, rows, axis: total.sum(axis=axis) / rows.sum(axis=axis),
        paired=True,
        n_resamples=samples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(values.mean()), float(bounds.low), float(bounds.high), len(groups))
