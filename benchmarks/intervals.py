"""How often intervals hold the truth, by kind of figure and number of patients: `python -m benchmarks.intervals`.

Simulated data of known truth; nominal 95 %. "percentile" is the percentile bootstrap by patient, which the platform's interval
replaced; "now" is what the platform prints, with its mean width in brackets, and after a slash the share of data sets that had
no interval. A cell outside 93 to 97 % is marked: `-` holds the truth too seldom, `+` more often than it says. In "clusters"
patients have 1, 1, 2, 3, 5 and 8 rows in turn, half of the variance being the patient's.

`--nothing` measures how often something is seen where there is nothing (nominal 5 %).
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, ndtri

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.evaluation.classification import CALIBRATION, METRICS, Metric, Predictions, gain, scores
from medexp.evaluation.intervals import GAIN, MIN_OF_A_CLASS, UNBOUNDED, UNIT, Interval, Range, by_patient, mean_by_patient
from medexp.evaluation.regression import r2_gains

PATIENTS = (6, 8, 10, 16, 20, 40, 80)
_ROWS = (1, 1, 2, 3, 5, 8)
_MANY = 60_000
_POSITIVE: Range = (0.0, math.inf)


@dataclass(frozen=True)
class Sample:
    """A data set: the statistic of weighted rows, whose they are, and the platform's interval."""

    statistic: Callable[[Array], Array]
    patients: list[str]
    interval: Callable[[Resampling], Interval]


Draw = Callable[[np.random.Generator, int, bool], Sample]
"""From a generator, a number of patients, and whether they have several rows each, to a data set."""


def values_of(shape: Callable[[Array], Array], within: Range) -> Draw:
    """Means of values that `shape` makes of standard normal ones."""

    def draw(rng: np.random.Generator, count: int, clusters: bool) -> Sample:
        patient = patients(rng, count, clusters)
        values = shape(scatter(rng, patient, clusters))
        names = [str(one) for one in patient]
        return Sample(
            lambda weights: weights @ values / weights.sum(axis=1),
            names,
            lambda resampling: mean_by_patient(values, names, resampling, within),
        )

    return draw


def of_classes(metric: Metric, auroc: float, share: float, reference: float | None = None) -> Draw:
    """A metric of a classifier with this AUROC where `share` of the patients are positive, or its gain over a reference's."""

    def draw(rng: np.random.Generator, count: int, clusters: bool) -> Sample:
        patient = patients(rng, count, clusters)
        positive, fewest = np.zeros(count, bool), min(MIN_OF_A_CLASS, count // 2)  # fewer in a class have no interval
        while not fewest <= positive.sum() <= count - fewest:
            positive = rng.random(count) < share
        truth, names = positive[patient].astype(int), [str(one) for one in patient]
        common = scatter(rng, patient, clusters)
        made = [said(rng, truth, patient, clusters, common, area) for area in (auroc, reference) if area is not None]
        if reference is None:
            named = {"metric": metric}
            return Sample(
                partial(metric, made[0]), names, lambda resampling: scores(made[0], names, resampling, named)["metric"]
            )
        return Sample(
            lambda weights: metric(made[0], weights) - metric(made[1], weights),
            names,
            lambda resampling: gain(metric, made[0], made[1], names, resampling),
        )

    return draw


def of_share(share: float) -> Draw:
    """The accuracy of a classifier that is right in `share` of the cases, whatever their class."""

    def draw(rng: np.random.Generator, count: int, clusters: bool) -> Sample:
        patient = patients(rng, count, clusters)
        names, right = [str(one) for one in patient], ndtr(scatter(rng, patient, clusters)) < share
        predictions = Predictions(np.zeros(len(right), int), np.eye(2)[1 - right.astype(int)])
        named = {"accuracy": METRICS["accuracy"]}
        return Sample(
            partial(METRICS["accuracy"], predictions),
            names,
            lambda resampling: scores(predictions, names, resampling, named)["accuracy"],
        )

    return draw


def said(
    rng: np.random.Generator, truth: NDArray[np.int_], patient: NDArray[np.int_], clusters: bool, common: Array, area: float
) -> Predictions:
    """Probabilities with this AUROC, half of whose noise is shared with other classifiers of the same cases."""
    noise = math.sqrt(0.5) * (common + scatter(rng, patient, clusters))
    logits = math.sqrt(2) * float(ndtri(area)) * (2 * truth - 1) / 2 + noise
    probability = 1 / (1 + np.exp(-logits))
    return Predictions(truth, np.stack([1 - probability, probability], axis=1))


def of_targets(rng: np.random.Generator, count: int, clusters: bool) -> Sample:
    """The gain in R2 of what explains half of a target over what explains a third."""
    patient = patients(rng, count, clusters)
    parts = [scatter(rng, patient, clusters) for _ in range(6)]
    target, better, worse = (sum(parts[:size]) for size in (6, 3, 2))
    names = [str(one) for one in patient]
    values = r2_gains(np.reshape(target, (-1, 1)), np.reshape(better, (-1, 1)), np.reshape(worse, (-1, 1)))
    return Sample(
        lambda weights: weights @ values / weights.sum(axis=1),
        names,
        lambda resampling: mean_by_patient(values, names, resampling),
    )


def patients(rng: np.random.Generator, count: int, clusters: bool) -> NDArray[np.int_]:
    """Patient of each row."""
    return np.repeat(np.arange(count), rng.permutation(np.resize(_ROWS, count)) if clusters else 1)


def scatter(rng: np.random.Generator, patient: NDArray[np.int_], clusters: bool) -> Array:
    """Standard normal values of rows; in clusters half of their variance is the patient's."""
    own = rng.normal(size=len(patient))
    return math.sqrt(0.5) * (rng.normal(size=int(patient.max()) + 1)[patient] + own) if clusters else own


CELLS: Mapping[str, Draw] = {
    "mean, normal": values_of(lambda values: values, UNBOUNDED),
    "mean, skewed": values_of(lambda values: -np.log(ndtr(values)), UNBOUNDED),
    "mean, discrete": values_of(lambda values: np.round(1.5 * values), UNBOUNDED),
    "cross-entropy": values_of(lambda values: -np.log(ndtr(values)), _POSITIVE),
    "Dice": values_of(lambda values: betaincinv(4, 1, ndtr(values)), UNIT),
    "Dice, paired": values_of(lambda values: np.tanh(0.05 * (values + 0.3 * values**2)), GAIN),
    "R2 gain": of_targets,
    **{f"proportion {share}": of_share(share) for share in (0.5, 0.8, 0.95)},
    **{f"AUROC {area}": of_classes(METRICS["auroc"], area, 0.5) for area in (0.6, 0.8, 0.95)},
    "AUROC 0.8, rare": of_classes(METRICS["auroc"], 0.8, 0.25),
    **{f"balanced, AUROC {area}": of_classes(METRICS["balanced_accuracy"], area, 0.25) for area in (0.6, 0.8, 0.95)},
    "macro F1": of_classes(METRICS["macro_f1"], 0.8, 0.5),
    "Brier": of_classes(CALIBRATION["brier"], 0.8, 0.5),
    "accuracy, paired": of_classes(METRICS["accuracy"], 0.9, 0.5, 0.7),
    "balanced, paired": of_classes(METRICS["balanced_accuracy"], 0.9, 0.25, 0.7),
    "AUROC, paired": of_classes(METRICS["auroc"], 0.9, 0.5, 0.7),
}


@dataclass(frozen=True)
class Coverage:
    """Of one kind of figure and number of patients; shares from 0 to 1, NaN where there was no interval at all."""

    percentile: float
    now: float
    width: float
    absent: float
    seconds: tuple[float, float]


def truth_of(draw: Draw, clusters: bool) -> float:
    """The statistic on many patients, which have their rows as in the clusters."""
    sample = draw(np.random.default_rng(12345), _MANY, clusters)
    return float(sample.statistic(np.ones((1, len(sample.patients))))[0])


def covered(draw: Draw, count: int, clusters: bool, *, sets: int, samples: int, truth: float, seed: int = 0) -> Coverage:
    """Coverage over data sets.

    Args:
        draw: What makes one.
        count: Patients of each.
        clusters: Whether they have several rows each.
        sets: Data sets.
        samples: Resamples of each interval.
        truth: What the intervals should hold.
        seed: Of the data sets.
    """
    rng = np.random.default_rng(seed)
    held: tuple[list[bool], list[bool]] = ([], [])
    widths, seconds = [], np.zeros(2)
    for number in range(sets):
        sample = draw(rng, count, clusters)
        resampling = Resampling(samples, 0.95, number)
        started = time.perf_counter()
        before = percentile(sample, resampling)
        between = time.perf_counter()
        now = sample.interval(resampling)
        seconds += between - started, time.perf_counter() - between
        held[0].append(before[0] - 1e-9 <= truth <= before[1] + 1e-9)
        if not math.isnan(now.low):
            held[1].append(now.low - 1e-9 <= truth <= now.high + 1e-9)
            widths.append(now.high - now.low)
    now_share, width = (float(np.mean(values)) if values else math.nan for values in (held[1], widths))
    each = seconds / sets
    return Coverage(float(np.mean(held[0])), now_share, width, 1 - len(held[1]) / sets, (float(each[0]), float(each[1])))


def percentile(sample: Sample, resampling: Resampling) -> tuple[float, float]:
    """The percentile bootstrap by patient, without any correction (Efron, 1979)."""
    names, patient = np.unique(np.asarray(sample.patients), return_inverse=True)
    drawn = np.random.default_rng(resampling.seed).integers(0, len(names), (resampling.samples, len(names)))
    times = np.stack([np.bincount(one, minlength=len(names)) for one in drawn]).astype(float)
    low, high = np.nanquantile(sample.statistic(times[:, patient]), [0.025, 0.975])
    return float(low), float(high)


SKEWED: Mapping[str, Callable[[np.random.Generator, int], Array]] = {
    "normal, SD 0.04": lambda rng, count: rng.normal(0, 0.04, count),
    "exponential, SD 0.04": lambda rng, count: 0.04 * (rng.exponential(size=count) - 1),
    "a loss of 0.044 (SD 0.01), and in one of ten a gain of 0.4": lambda rng, count: np.where(
        rng.random(count) < 0.1, 0.4, -0.4 / 9 + rng.normal(0, 0.01, count)
    ),
}
"""Differences of a mean of 0, from a generator and a number of patients."""


def guesses(metric: Metric, rare: int, count: int, reference: bool) -> Callable[[np.random.Generator, Resampling], bool]:
    """Whether what says chance numbers is told from another such, or from a constant answer, whose figure is 0.5.

    From another by an interval of all patients, whatever their classes: it is what the rule for the rarer class is chosen by.
    """
    truth, names = (np.arange(count) < rare).astype(int), [str(one) for one in range(count)]

    def seen(rng: np.random.Generator, resampling: Resampling) -> bool:
        made = [Predictions(truth, np.stack([1 - one, one], axis=1)) for one in rng.random((2, count))]
        if reference:
            found = by_patient(
                lambda weights: metric(made[0], weights) - metric(made[1], weights), names, resampling, within=GAIN
            )
            return found.above or found.below
        own = scores(made[0], names, resampling, {"metric": metric})["metric"]
        return own.low > 0.5 or own.high < 0.5

    return seen


def nothing(sets: int, samples: int) -> None:
    """Print the share of data sets in which a difference is told where there is none."""

    def share(seen: Callable[[np.random.Generator, Resampling], bool], seed: int) -> str:
        rng = np.random.default_rng(seed)
        return f"{np.mean([seen(rng, Resampling(samples, 0.95, number)) for number in range(sets)]):.1%}"

    print("chance numbers, by the patients of the rarer class: gains without the rule about it, own figures with it")
    for name, reference in [(name, reference) for name in ("auroc", "balanced_accuracy") for reference in (False, True)]:
        for count in (16, 40):
            cells = {rare: share(guesses(METRICS[name], rare, count, reference), rare) for rare in (2, 3, 4, 5, 6, 8)}
            print(f"{name}, {'a gain' if reference else 'its own'}, of {count} patients: {cells}", flush=True)
    print("\nmean differences whose true mean is 0, by the number of patients")
    for name, shape in SKEWED.items():
        draws = {count: share(partial(differing, shape, count), count) for count in (6, 8, 10, 16, 20, 40)}
        print(f"{name}: {draws}", flush=True)


def differing(
    shape: Callable[[np.random.Generator, int], Array], count: int, rng: np.random.Generator, resampling: Resampling
) -> bool:
    """Whether the mean of so many patients' differences, which `shape` draws with a mean of 0, is told from 0."""
    found = mean_by_patient(shape(rng, count), [str(one) for one in range(count)], resampling, GAIN)
    return found.above or found.below


def mark(share: float) -> str:
    return " " if math.isnan(share) or 0.93 <= share <= 0.97 else "-" if share < 0.93 else "+"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="data sets a cell (1000: a standard error of 0.7 %%)")
    parser.add_argument("--samples", type=int, default=500, help="resamples of an interval")
    parser.add_argument("--only", nargs="+", default=[""], help="kinds of figures whose name holds one of these")
    parser.add_argument("--rows", choices=("one", "several"), help="of a patient, several in clusters; without it both")
    parser.add_argument("--nothing", action="store_true", help="how often something is told where there is nothing")
    options = parser.parse_args()
    if options.nothing:
        nothing(options.sets, options.samples)
        return
    seconds = []
    for clusters in {"one": (False,), "several": (True,), None: (False, True)}[options.rows]:
        print(f"\n{'clusters' if clusters else 'a row a patient'}: percentile -> now (mean width / share without an interval)")
        print(f"{'':<22}" + "".join(f"{f'{count} patients':<26}" for count in PATIENTS))
        for name, draw in CELLS.items():
            if not any(part in name for part in options.only):
                continue
            truth = truth_of(draw, clusters)
            cells = []
            for count in PATIENTS:
                found = covered(draw, count, clusters, sets=options.sets, samples=options.samples, truth=truth)
                seconds.append(found.seconds)
                absent = f"/{found.absent:.0%}" if found.absent >= 0.005 else ""
                cells.append(f"{found.percentile:.1%} -> {found.now:.1%}{mark(found.now)} ({found.width:.2f}{absent})")
            print(f"{name:<22}" + "".join(f"{cell:<26}" for cell in cells), flush=True)
    before, after = np.mean(seconds, axis=0) * 1000
    print(f"\nmilliseconds an interval, on average: percentile {before:.2f}, now {after:.2f}")


if __name__ == "__main__":
    main()
