"""Intervals whose unit is the patient: scans of one patient are not independent.

One rule for every statistic. The bootstrap of patients gives its standard error, and the interval holds the values from which
the estimate lies no more than t standard errors away, where the error shrinks towards the ends of the statistic's range as
that of a share does (Wilson, 1927); without a range that is the t interval. `python -m benchmarks.intervals` measures how
often it holds the truth; a percentile interval of few patients holds it far less often than it says.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.evaluation.power import patients_needed, smallest_difference

MIN_PATIENTS = 6
MIN_OF_A_CLASS = 5
"""Patients of each class that a figure of several classes rests on: of fewer an interval excludes chance too often."""
NOISE = 1e-6
"""What figures of the size of 1 (Dice, shares, nats, R2) differ by when only the order of additions differs: no difference."""
WITHIN_REACH = 20
"""As many times the patients at hand somebody may still collect."""
Range = tuple[float, float]
UNIT: Range = (0.0, 1.0)
GAIN: Range = (-1.0, 1.0)
UNBOUNDED: Range = (-math.inf, math.inf)
_WEIGHTS = 10_000_000  # at a time: what a statistic makes of them takes some hundred megabytes


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; the bounds are NaN where there is none.

    There is none of fewer than MIN_PATIENTS, or MIN_OF_A_CLASS of a class that it rests on, of a statistic that is not defined
    without one of them, and of what is the same in every resample: an interval of no width is no certainty. Of shares, which
    are 0 or 1 then, there is an exact one.

    Attributes:
        estimate: The statistic on the data as they are.
        low: Lower bound.
        high: Upper bound.
        patients: Patients resampled.
        error: Standard error; NaN where it is not known.
        effective: As many patients with as many rows each would tell as much; without it all of them.
        most: The largest size that the statistic can have, such as 1 of a difference in Dice.
    """

    estimate: float
    low: float
    high: float
    patients: int
    error: float = math.nan
    effective: float = math.nan
    most: float = math.inf

    def __str__(self) -> str:
        return self._in("{:.3f}")

    @property
    def as_gain(self) -> str:
        """The same of a difference: each figure with its sign."""
        return self._in("{:+.3f}")

    @property
    def spread(self) -> float:
        """SD of the patients' contributions, as `medexp.evaluation.power` asks for it; NaN where it is not known."""
        return self.error * math.sqrt(self.patients)

    @property
    def above(self) -> bool:
        """Whether a difference is above 0: its interval is, and it is more than NOISE."""
        return self.low > 0 and abs(self.estimate) >= NOISE

    @property
    def below(self) -> bool:
        """Whether a difference is below 0: its interval is, and it is more than NOISE."""
        return self.high < 0 and abs(self.estimate) >= NOISE

    @property
    def none(self) -> bool:
        """Whether a difference is below numerical noise, in the mean and from patient to patient."""
        narrow = self.error < NOISE or self.high - self.low < NOISE
        return abs(self.estimate) < NOISE and narrow

    @property
    def needed(self) -> int | None:
        """How many patients it would take to see a difference of this size; None where nothing says it or too many."""
        if not self.error >= NOISE or math.isnan(self.estimate) or abs(self.estimate) < NOISE:
            return None
        count = patients_needed(self.estimate, self.error * math.sqrt(self._effective))
        return count and max(math.ceil(count * self.patients / self._effective), MIN_PATIENTS)

    def seen_at(self, confidence: float) -> float:
        """The difference that would have been seen with 80 %; NaN where nothing says it.

        Args:
            confidence: Coverage of its interval; more where it is one of several that hold at once.
        """
        return smallest_difference(self._effective, self.error * math.sqrt(self._effective), confidence=confidence)

    def seen_in_words(self, confidence: float = 0.95, unit: str = "patients") -> str:
        """The same as the end of a sentence about a null; empty where nothing says it."""
        seen = self.seen_at(confidence)
        if math.isnan(seen):
            return ""
        if seen >= self.most:
            return f"; of so few {unit} none at all would have been seen with 80 %"
        return f"; one of about {seen:.2g} would have been seen with 80 %"

    @property
    def _effective(self) -> float:
        return self.patients if math.isnan(self.effective) else self.effective

    def in_a_cell(self, digits: int, *, bounds: bool = True) -> str:
        """The same for a table: `-` where there is no figure, and no word where there is no interval."""
        if math.isnan(self.estimate):
            return "-"
        interval = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]" if bounds and not math.isnan(self.low) else ""
        return f"{self.estimate:.{digits}f}{interval}"

    def told(self, *, few: str, better: str, worse: str, same: str, unit: str = "patients") -> str:
        """Which of four sentences about a paired difference holds, with its figures.

        Args:
            few: There is no interval.
            better: The interval is above 0.
            worse: The interval is below 0.
            same: The interval holds 0, or the difference is below NOISE.
            unit: What was resampled, such as samples.
        """
        if self.none:
            return f"{same}: the figures are the same."
        if self.above:
            return f"{better}: {self.as_gain}."
        if self.below:
            return f"{worse}: {self.as_gain}."
        count = self.needed
        missing = count is not None and count > self.patients
        needed = missing and f"about {count:,} {unit} would be needed for a difference of {abs(self.estimate):.2g}"
        if self.patients >= MIN_PATIENTS and self.error < NOISE and math.isnan(self.low):
            return f"{better if self.estimate > 0 else worse}: {self.as_gain}, in all {unit} alike."
        if math.isnan(self.low):
            figures = "" if math.isnan(self.estimate) else f" ({self.as_gain}){f'; {needed}' if needed else ''}"
            return f"{few}{figures}."
        if count and missing and count <= WITHIN_REACH * self.patients:
            shown = f"; too few to tell: {needed}"
        else:  # next to nothing: what would have been seen says more than how many it takes to see that
            shown = self.seen_in_words(unit=unit)
        return f"{same}: {self.as_gain}, an interval that holds 0{shown}."

    def _in(self, digits: str) -> str:
        estimate, low, high = map(digits.format, (self.estimate, self.low, self.high))
        return f"{estimate}, no interval" if math.isnan(self.low) else f"{estimate} [{low}, {high}]"


@dataclass(frozen=True)
class Band:
    """Several estimates with an interval each. It holds for each alone, unless they were asked for at once.

    Attributes:
        estimate: The statistics on the data as they are, an array of any shape.
        low: Lower bounds, of the same shape; NaN where there is none, as `Interval` says.
        high: Upper bounds, likewise.
        patients: Patients resampled.
        error: Standard errors, likewise.
        effective: As many patients as `Interval` says, likewise.
        confidence: Coverage of each interval alone: more than was asked for where all were to hold at once.
        most: The largest size that the statistics can have, as `Interval` says.
    """

    estimate: Array
    low: Array
    high: Array
    patients: int
    error: Array
    effective: Array
    confidence: float = math.nan
    most: float = math.inf

    def at(self, *place: int) -> Interval:
        """The interval of one estimate; without a place of the only one that there is."""
        arrays = (self.estimate, self.low, self.high, self.error, self.effective)
        estimate, low, high, error, effective = (float(one[place]) for one in arrays)
        return Interval(estimate, low, high, self.patients, error, effective, self.most)


@dataclass(frozen=True)
class Scatter:
    """What estimates scatter by whoever the patients are, such as by the seeds of a training.

    Attributes:
        error: Standard error of each estimate, of their shape; 0 where there is none or nothing is known of it.
        freedom: Degrees of freedom that it was measured with, likewise, at least 1.
    """

    error: Array
    freedom: Array


def band_by_patient(
    statistic: Callable[[Array], Array],
    patients: Sequence[str],
    resampling: Resampling,
    *,
    within: Range = UNBOUNDED,
    groups: NDArray[np.bool_] | None = None,
    share: bool = False,
    at_once: bool = False,
    beyond: Scatter | None = None,
) -> Band:
    """Intervals of any array of statistics of weighted rows, by a bootstrap that resamples patients with all their rows.

    Args:
        statistic: From weights (S, rows), how often each row was drawn in each of S resamples, to the statistics of each,
            (S, ...). NaN where a resample does not define it, such as an AUROC without a case of one class: left out.
        patients: Patient of each row.
        resampling: How resamples are drawn, and the coverage.
        within: Range of the statistics; the bounds stay in it.
        groups: On which rows (..., K, rows) each statistic rests, in K groups: as the two classes of a balanced accuracy, of
            an AUROC, and of a gain in either. None: on all, in one.
        share: Whether it is a share of its group, or the mean of K shares, as those two are and a gain is not. A share tells
            by itself how much it scatters: that is the least that its error is, and of 0 or 1, which is the same in every
            resample, there is the exact bound.
        at_once: Whether all intervals are to hold at once with the coverage of `resampling`. Each is then as wide as the
            largest of all studentised deviations in the same resamples demands (single-step max-T: Westfall and Young,
            "Resampling-Based Multiple Testing", 1993): estimates that go together, as differences of a few models from one
            another do, cost less than as many independent ones, and never more than Bonferroni has it.
        beyond: What the estimates scatter by besides: variances add up, and so do their degrees of freedom by the rule of
            Welch and Satterthwaite.
    """
    names, patient = np.unique(np.asarray(patients), return_inverse=True)
    count = len(names)
    estimate = np.asarray(statistic(np.ones((1, len(patients))))[0])
    unknown = np.full(estimate.shape, math.nan)
    if count < 2:
        return Band(estimate, unknown, unknown, count, unknown, unknown)
    drawn = np.random.default_rng(resampling.seed).integers(0, count, (resampling.samples, count))
    times = np.stack([np.bincount(sample, minlength=count) for sample in drawn]).astype(float)
    times = np.concatenate([times, 1 - np.eye(count)])  # and without each of the patients: is it defined?
    blocks = np.array_split(times, math.ceil(len(times) * len(patients) / _WEIGHTS))
    values = np.concatenate([statistic(block[:, patient]) for block in blocks])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what no resample defines, whose error is NaN
        # A resample of n patients scatters by (n - 1) / n of what n new ones would.
        error: Array = np.asarray(np.nanstd(values[:-count], axis=0)) * math.sqrt(resampling.excess * count / (count - 1))
    error = np.where(np.isnan(values[-count:]).any(axis=0), math.nan, error)
    given = np.ones((1, len(patients)), bool) if groups is None else groups
    designs = [_Design.of(rows, patient, resampling.excess) for rows in given.reshape(-1, *given.shape[-2:])]
    effective = np.array([design.effective for design in designs]).reshape(given.shape[:-2])
    effective = np.broadcast_to(effective, estimate.shape)
    confidence = _each(values[:-count], resampling.confidence) if at_once else resampling.confidence
    if beyond is not None:
        error, effective = _with(beyond, error, effective)
    low, high = _bounds(estimate, error, effective, designs, given.shape[:-2], confidence, within, share=share)
    return Band(estimate, low, high, count, error, effective, confidence, max(map(abs, within)))


def by_patient(
    statistic: Callable[[Array], Array],
    patients: Sequence[str],
    resampling: Resampling,
    *,
    within: Range = UNBOUNDED,
    groups: NDArray[np.bool_] | None = None,
    share: bool = False,
) -> Interval:
    """`band_by_patient` of a single statistic, from weights (S, rows) to (S,), and of groups (K, rows)."""
    return band_by_patient(statistic, patients, resampling, within=within, groups=groups, share=share).at()


def mean_by_patient(values: Array, patients: Sequence[str], resampling: Resampling, within: Range = UNBOUNDED) -> Interval:
    """`by_patient` of the mean over rows. For a paired comparison the values are differences, row by row.

    Args:
        values: One number a row (rows,).
        patients: Patient of each row.
        resampling: How resamples are drawn, and the coverage of the two-sided interval.
        within: Range of the values: UNIT of Dice, GAIN of its differences, (0, inf) of a cross-entropy or a distance.
    """

    def mean(weights: Array) -> Array:
        return weights @ values / weights.sum(axis=1)

    return by_patient(mean, patients, resampling, within=within)


def _each(values: Array, confidence: float) -> float:
    """Coverage of each interval with which all hold at once, from the statistics of the resamples (S, ...)."""
    flat = values.reshape(len(values), -1)
    flat = flat[:, ~np.isnan(flat).all(axis=0)]
    spread = np.nanstd(flat, axis=0)
    flat, spread = flat[:, spread >= NOISE], spread[spread >= NOISE]
    flat = flat[~np.isnan(flat).all(axis=1)]  # a resample without a case of a class defines none of them
    if flat.shape[1] < 2 or not len(flat):
        return confidence
    largest = np.nanmax(np.abs(flat - np.nanmean(flat, axis=0)) / spread, axis=1)
    found = 2 * ndtr(np.quantile(largest, confidence)) - 1
    return float(np.clip(found, confidence, 1 - (1 - confidence) / flat.shape[1]))


def _with(beyond: Scatter, error: Array, effective: Array) -> tuple[Array, Array]:
    """Standard errors of both origins together, and as many patients as have their degrees of freedom."""
    both = np.hypot(error, beyond.error)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = both**4 / (error**4 / np.maximum(effective - 1, 0.5) + beyond.error**4 / beyond.freedom)
    return both, np.where(beyond.error > 0, freedom + 1, effective)


@dataclass(frozen=True)
class _Design:
    """How many rows and patients a statistic rests on.

    Attributes:
        enough: Whether so many patients have a row of those, and of each group, that there is an interval.
        effective: As many patients with as many rows each would tell as much (Kish, "Survey Sampling", 1965): n, or fewer.
        alone: Whether no patient has two rows.
        end: Variance of a share, over p (1 - p), if a patient's rows were all alike.
        least: The same if all rows were independent: it is never less.
    """

    enough: bool
    effective: float
    alone: bool
    end: float
    least: float

    @classmethod
    def of(cls, groups: NDArray[np.bool_], patient: NDArray[np.int_], excess: float) -> "_Design":
        """Of K groups of rows (K, rows), the number of each row's patient (rows,), and `Resampling.excess`."""
        sizes = [np.bincount(patient[rows]) for rows in groups]
        whole = np.bincount(patient[groups.any(axis=0)])
        end, least = (
            excess * sum(1 / n if n else math.inf for n in ns) / len(sizes) ** 2
            for ns in zip(*map(_told_by, sizes), strict=True)
        )
        effective = _told_by(whole)[0]
        enough = (whole > 0).sum() >= MIN_PATIENTS and effective >= 2
        enough = enough and (len(sizes) == 1 or all((size > 0).sum() >= MIN_OF_A_CLASS for size in sizes))
        return cls(bool(enough), effective, bool(whole.max(initial=0) <= 1), end, least)


def _told_by(rows: NDArray[np.int_]) -> tuple[float, float]:
    """Effective number of patients, and number of rows, by the rows of each patient."""
    total = float(rows.sum())
    return (total**2 / float((rows**2).sum()) if total else 0.0), total


def _bounds(
    estimate: Array,
    error: Array,
    effective: Array,
    designs: Sequence[_Design],
    shape: tuple[int, ...],
    confidence: float,
    within: Range,
    *,
    share: bool,
) -> tuple[Array, Array]:
    """Bounds of estimates with their standard errors; `designs` fill `shape`, which broadcasts to that of the estimates."""

    def by_design(read: Callable[[_Design], float]) -> Array:
        return np.broadcast_to(np.array([read(design) for design in designs]).reshape(shape), estimate.shape)

    tail = (1 + confidence) / 2
    # How patients with several rows scatter is estimated, from the patients; how a share of patients does follows from it.
    by_normal = by_design(lambda one: share and one.alone).astype(bool)
    quantile = np.where(by_normal, ndtri(tail), stdtrit(np.maximum(effective - 1, 0.5), tail))
    start, stop = within
    with np.errstate(invalid="ignore", divide="ignore"):
        if math.isfinite(start) and math.isfinite(stop):
            place = np.clip((estimate - start) / (stop - start), 0, 1)
            variance = place * (1 - place)
            at_end = variance < NOISE**2
            ratio = (error / (stop - start)) ** 2 / np.where(at_end, 1, variance)
            ratio = np.maximum(ratio, by_design(lambda one: one.least)) if share else ratio
            reach = quantile**2 * ratio
            middle, half = place + reach / 2, np.sqrt(reach**2 / 4 + reach * variance)
            low, high = (middle - half) / (1 + reach), (middle + half) / (1 + reach)
            exact = (1 - tail) ** by_design(lambda one: one.end)  # Clopper and Pearson, 1934: 63 % for 8 of 8 right
            low, high = np.where(at_end, place * exact, low), np.where(at_end, 1 - (1 - place) * exact, high)
            low, high = start + low * (stop - start), start + high * (stop - start)
            known = np.where(at_end, share, error >= NOISE)
        elif math.isfinite(start) or math.isfinite(stop):
            end, sign = (start, 1) if math.isfinite(start) else (stop, -1)
            place = sign * (estimate - end)
            reach = (quantile * error) ** 2 / place
            half = np.sqrt(reach**2 / 4 + reach * place)
            near, far = (end + sign * (place + reach / 2 + side * half) for side in (-1, 1))
            low, high = (near, far) if sign > 0 else (far, near)
            known = (place > NOISE) & (error >= NOISE)
        else:
            low, high = estimate - quantile * error, estimate + quantile * error
            known = error >= NOISE
    known = known & by_design(lambda one: one.enough).astype(bool) & ~np.isnan(error)
    return np.where(known, low, math.nan), np.where(known, high, math.nan)
