"""Bootstrap intervals whose unit is the patient: scans of one patient are not independent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from medexp.config import ValidationConfig


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval; the bounds are NaN when there are fewer than two patients.

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
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def by_patient(
    statistic: Callable[[NDArray[np.intp]], float], patients: Sequence[str], validation: ValidationConfig, seed: int
) -> Interval:
    """Percentile bootstrap of a statistic of rows, resampling patients with all their rows.

    Args:
        statistic: From row numbers, a resample in which rows occur repeatedly, to a number.
        patients: Patient of each row.
        validation: Number of resamples and confidence.
        seed: Seed of the resamples.
    """
    rows = [np.flatnonzero(np.asarray(patients) == patient) for patient in sorted(set(patients))]
    estimate = statistic(np.concatenate(rows))
    if len(rows) < 2:
        return Interval(estimate, float("nan"), float("nan"), len(rows))

    def resampled(drawn: NDArray[np.intp]) -> Any:
        return statistic(np.concatenate([rows[index] for index in drawn]))

    result = bootstrap(
        (np.arange(len(rows)),),
        resampled,
        n_resamples=validation.bootstrap_samples,
        confidence_level=validation.confidence,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(seed),
    )
    return Interval(estimate, float(result.confidence_interval.low), float(result.confidence_interval.high), len(rows))
