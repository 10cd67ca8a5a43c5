"""Bootstrap intervals whose unit is the patient: scans of one patient are not independent."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medexp.arrays import Array
from medexp.config.shared import Resampling

# With n patients a percentile interval of 95 % is narrower than it says, and with a few it is hardly more than their range.
MIN_PATIENTS = 6
_WEIGHTS = 10_000_000  # at a time: what a statistic makes of them takes some hundred megabytes


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
        return self._in("{:.3f}")

    @property
    def as_gain(self) -> str:
        """The same of a difference: each figure with its sign."""
        return self._in("{:+.3f}")

    def in_a_cell(self, digits: int, *, bounds: bool = True) -> str:
        """The same for a table: `-` where there is no figure, and no word where there is no interval."""
        if math.isnan(self.estimate):
            return "-"
        interval = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]" if bounds and not math.isnan(self.low) else ""
        return f"{self.estimate:.{digits}f}{interval}"

    def told(self, *, few: str, better: str, worse: str, same: str) -> str:
        """Which of four sentences about a paired difference holds, with its figures.

        Args:
            few: There is no interval.
            better: The interval is above 0.
            worse: The interval is below 0.
            same: The interval holds 0.
        """
        if math.isnan(self.low) or math.isnan(self.estimate):
            return f"{few} ({self.as_gain})."
        if self.low > 0:
            return f"{better}: {self.as_gain}."
        if self.high < 0:
            return f"{worse}: {self.as_gain}."
        return f"{same}: {self.as_gain}, an interval that holds 0."

    def _in(self, digits: str) -> str:
        estimate, low, high = map(digits.format, (self.estimate, self.low, self.high))
        return f"{estimate}, no interval" if math.isnan(self.low) else f"{estimate} [{low}, {high}]"


@dataclass(frozen=True)
class Band:
    """Several estimates with an interval each (pointwise: it holds for each alone, not for all at once).

    Attributes:
        estimate: The statistics on the data as they are, an array of any shape.
        low: Lower bounds, of the same shape; NaN where there are fewer than MIN_PATIENTS, or no resample defines it.
        high: Upper bounds, likewise.
        patients: Patients resampled.
    """

    estimate: Array
    low: Array
    high: Array
    patients: int

    def single(self) -> Interval:
        """The interval of the one estimate that there is."""
        return Interval(self.estimate.item(), self.low.item(), self.high.item(), self.patients)


def band_by_patient(statistic: Callable[[Array], Array], patients: Sequence[str], resampling: Resampling) -> Band:
    """Percentile bootstrap of any array of statistics of weighted rows, resampling patients with all their rows.

    Args:
        statistic: From weights (S, rows), how often each row was drawn in each of S resamples, to the statistics of each,
            (S, ...). NaN where a resample does not define it, such as an AUROC without a case of one class: left out.
        patients: Patient of each row.
        resampling: How resamples are drawn, and the coverage.
    """
    names, patient = np.unique(np.asarray(patients), return_inverse=True)
    estimate = np.asarray(statistic(np.ones((1, len(patients))))[0])
    if len(names) < MIN_PATIENTS:
        return Band(estimate, np.full(estimate.shape, math.nan), np.full(estimate.shape, math.nan), len(names))
    drawn = np.random.default_rng(resampling.seed).integers(0, len(names), (resampling.samples, len(names)))
    times = np.stack([np.bincount(sample, minlength=len(names)) for sample in drawn]).astype(float)
    blocks = np.array_split(times, math.ceil(resampling.samples * len(patients) / _WEIGHTS))
    values = np.concatenate([statistic(block[:, patient]) for block in blocks])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what no resample defines, whose bounds are NaN
        levels = (1 - resampling.confidence) / 2, (1 + resampling.confidence) / 2
        low, high = np.nanquantile(values, levels, axis=0)
    return Band(estimate, np.asarray(low), np.asarray(high), len(names))


def by_patient(statistic: Callable[[Array], Array], patients: Sequence[str], resampling: Resampling) -> Interval:
    """`band_by_patient` of a single statistic, from weights (S, rows) to (S,)."""
    return band_by_patient(statistic, patients, resampling).single()


def as_shares(band: Band, counted: NDArray[np.bool_], patients: Sequence[str], *, confidence: float) -> Band:
    """The bounds of shares of some of the rows, which may be of fewer patients than there are.

    A share of 0 or 1 is the same in every resample, which is not certainty: it gets the exact bound (Clopper and Pearson,
    1934) of as many trials as patients, 63 % for 8 of 8 right. A share of fewer than MIN_PATIENTS has no bounds.

    Args:
        band: `band_by_patient` of shares, a single one or (M,).
        counted: The rows that each is a share of (rows,) or (rows, M).
        patients: Patient of each row.
        confidence: Coverage, 0 to 1.
    """
    names = np.asarray(patients)
    sizes = np.array([len(np.unique(names[rows])) for rows in np.atleast_2d(counted.T)]).reshape(band.estimate.shape)
    exact = ((1 - confidence) / 2) ** (1 / np.maximum(sizes, 1))
    low, high = np.where(band.estimate == 1, exact, band.low), np.where(band.estimate == 0, 1 - exact, band.high)
    low, high = (np.where(sizes < MIN_PATIENTS, math.nan, bounds) for bounds in (low, high))
    return Band(band.estimate, low, high, band.patients)


def mean_by_patient(values: Array, patients: Sequence[str], resampling: Resampling) -> Interval:
    """`by_patient` of the mean over rows. For a paired comparison the values are differences, row by row.

    Args:
        values: One number a row (rows,).
        patients: Patient of each row.
        resampling: How resamples are drawn, and the coverage of the two-sided interval.
    """

    def mean(weights: Array) -> Array:
        return weights @ values / weights.sum(axis=1)

    return by_patient(mean, patients, resampling)
