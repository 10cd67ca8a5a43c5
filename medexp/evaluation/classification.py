"""How well K classes are told apart: metrics of weighted cases, so that a bootstrap of all of them is a few matrix products.

Where there are two, class 1 is the positive one, and what is measured of one class is measured of it. Where there are more,
each class is held against the rest and the figures are averaged, every class counting alike ("macro"), as scikit-learn and
torchmetrics do; the classes are those of the cases, and a metric that lacks one of them in a resample is NaN there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.errors import TrainingDiverged
from medexp.evaluation.intervals import UNIT, Band, Interval, Range, band_by_patient, by_patient

_BINS = 10


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of cases.

    Attributes:
        truth: Class of each case (N,), 0 to K - 1.
        probabilities: Of the classes (N, K); rows sum to 1.

    Raises:
        TrainingDiverged: A probability is NaN or infinite: the largest of NaN would be class 0.
    """

    truth: NDArray[np.int_]
    probabilities: Array

    def __post_init__(self) -> None:
        bad = np.flatnonzero(~np.isfinite(self.probabilities).all(axis=1))
        if len(bad):
            rows = ", ".join(map(str, bad[:10] + 1)) + (", ..." if len(bad) > 10 else "")
            told = f"NaN or infinite probabilities in {len(bad)} of {len(self.truth)} cases (number {rows})"
            advice = "Lower the learning rate, or give weights that are finite"
            raise TrainingDiverged(f"the classifier's output: {told}. {advice}")

    @property
    def binary(self) -> bool:
        """Whether there are two classes, 1 being the positive one."""
        return self.probabilities.shape[1] == 2

    @property
    def predicted(self) -> NDArray[np.int_]:
        """The most probable class of each case (N,); the first of equals."""
        return self.probabilities.argmax(axis=1)

    def of(self, rows: NDArray[np.bool_]) -> "Predictions":
        """Those of some of the cases, marked True (N,)."""
        return Predictions(self.truth[rows], self.probabilities[rows])


def confusion(predictions: Predictions, weights: Array) -> Array:
    """Confusion matrices (S, K, K) of weighted cases: true class along the rows, predicted class along the columns.

    Args:
        predictions: Of N cases and K classes.
        weights: How often each case counts (S, N).
    """
    count = predictions.probabilities.shape[1]
    cells = np.zeros((len(predictions.truth), count * count))
    cells[np.arange(len(cells)), predictions.truth * count + predictions.predicted] = 1
    return (weights @ cells).reshape(-1, count, count)


def accuracy(predictions: Predictions, weights: Array) -> Array:
    """Share of the cases that are right (S,)."""
    return weights @ (predictions.predicted == predictions.truth) / weights.sum(axis=1)


def balanced_accuracy(predictions: Predictions, weights: Array) -> Array:
    """Mean recall (S,) over the cases' classes: a constant answer has 1 / K. NaN where one of them has no weight."""
    matrix = confusion(predictions, weights)
    there = np.unique(predictions.truth)
    return _mean_ratio(_diagonal(matrix)[:, there], matrix.sum(axis=2)[:, there])


def sensitivity(predictions: Predictions, weights: Array) -> Array:
    """Recall (S,) of class 1; NaN where it has no weight. Of more than two classes their mean recall, `balanced_accuracy`."""
    return _recall(predictions, weights, 1) if predictions.binary else balanced_accuracy(predictions, weights)


def specificity(predictions: Predictions, weights: Array) -> Array:
    """Recall (S,) of class 0; NaN where it has no weight.

    Of more than two classes the mean over them of the share of the others' cases that are not taken for it; NaN where all
    cases are of one class.
    """
    if predictions.binary:
        return _recall(predictions, weights, 0)
    matrix, there = confusion(predictions, weights), np.unique(predictions.truth)
    others = matrix.sum(axis=(1, 2))[:, None] - matrix.sum(axis=2)
    taken = matrix.sum(axis=1) - _diagonal(matrix)
    return _mean_ratio((others - taken)[:, there], others[:, there])


def class_f1(predictions: Predictions, weights: Array) -> Array:
    """F1 of each class (S, K); NaN of one that is neither there nor predicted."""
    matrix = confusion(predictions, weights)
    return _ratio(2 * _diagonal(matrix), matrix.sum(axis=2) + matrix.sum(axis=1))


def macro_f1(predictions: Predictions, weights: Array) -> Array:
    """Mean F1 (S,) over the classes that are there or are predicted."""
    return np.nanmean(class_f1(predictions, weights), axis=1)


def auroc(predictions: Predictions, weights: Array) -> Array:
    """Area under the ROC curve (S,), each class against the rest and averaged over the classes: the usual one for two classes.

    Equal probabilities count one half (Mann-Whitney). NaN where all cases are of one class, or one of theirs has no weight.
    """
    ordered, possible = [], []
    for label in np.unique(predictions.truth):
        true, false = _at_thresholds(predictions, weights, label)
        ordered.append((np.diff(false, axis=1) * (true[:, 1:] + true[:, :-1]) / 2).sum(axis=1))
        possible.append(true[:, -1] * false[:, -1])
    return _mean_ratio(np.stack(ordered, axis=1), np.stack(possible, axis=1))


def brier(predictions: Predictions, weights: Array) -> Array:
    """Mean squared distance (S,) of the probabilities from the truth, 0 or 1 (Brier 1950): 0 is best.

    Of class 1 where there are two, at most 1; of more, summed over the classes, at most 2: scikit-learn's `brier_score_loss`.
    """
    if predictions.binary:
        distance = (predictions.probabilities[:, 1] - predictions.truth) ** 2
    else:
        classes = np.eye(predictions.probabilities.shape[1])
        distance = ((predictions.probabilities - classes[predictions.truth]) ** 2).sum(axis=1)
    return weights @ distance / weights.sum(axis=1)


def expected_calibration_error(predictions: Predictions, weights: Array) -> Array:
    """ECE (S,): the mean over cases of |observed share - mean probability| in the case's bin; 0 is best.

    Ten bins of equal width, as in Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning", AAAI 2015; of the probability of class 1 where there are two, and else, as Guo et al. (ICML 2017) have it, of the
    predicted class, whose share is the accuracy. It is never negative, so chance alone makes it positive, and a resample, with
    fewer different cases, has more of it: in small sets the interval lies too high, and may lie above the estimate.
    """
    probability, happened = _foretold(predictions)
    members = _bins(probability)
    distance = np.abs(weights @ (members * (probability - happened)[:, None]))
    return distance.sum(axis=1) / weights.sum(axis=1)


def cross_entropy(predictions: Predictions) -> Array:
    """Of each case (N,), in nats: minus the logarithm of the probability of its class, which counts as at least 1e-38."""
    of_truth = predictions.probabilities[np.arange(len(predictions.truth)), predictions.truth]
    return -np.log(np.maximum(of_truth, np.finfo(np.float32).tiny))


Metric = Callable[[Predictions, Array], Array]
"""From predictions and the cases' weights (S, N) to one number a row of weights (S,)."""

METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "auroc": auroc,
}
"""What says how well classes are told apart, none of them being the positive one."""

DIAGNOSTIC: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "macro_f1": macro_f1,
    "auroc": auroc,
}
"""Those, and what a diagnostic test is judged by."""

CALIBRATION: Mapping[str, Metric] = {"brier": brier, "ece": expected_calibration_error}
"""How far the probabilities can be taken at their word: less is better."""


def scores(
    predictions: Predictions,
    patients: Sequence[str],
    resampling: Resampling,
    metrics: Mapping[str, Metric] = METRICS,
) -> dict[str, Interval]:
    """Metrics with their intervals by patient; those of METRICS and DIAGNOSTIC as shares of the cases of their classes.

    Args:
        predictions: Of the cases that are judged on.
        patients: Patient of each case.
        resampling: How resamples are drawn, and the coverage.
        metrics: By name: METRICS, DIAGNOSTIC or CALIBRATION.
    """

    def interval(metric: Metric) -> Interval:
        statistic = partial(metric, predictions)
        groups, share = groups_of(metric, predictions), metric not in CALIBRATION.values()
        return by_patient(statistic, patients, resampling, within=_within(metric, predictions), groups=groups, share=share)

    return {name: interval(metric) for name, metric in metrics.items()}


def by_source(
    predictions: Predictions,
    patients: Sequence[str],
    sources: Sequence[str],
    resampling: Resampling,
    metrics: Mapping[str, Metric] = DIAGNOSTIC,
) -> dict[str, dict[str, Interval]]:
    """`scores` of all cases together, under "all", and then of each source's alone.

    What the cases of a source do not define, such as an AUROC where all are of one class, is NaN there.

    Args:
        predictions: Of the cases that are judged on.
        patients: Patient of each case.
        sources: Source of each case.
        resampling: How resamples are drawn, and the coverage.
        metrics: By name.
    """
    named, owners = np.asarray(sources), np.asarray(patients)
    parts = {"all": np.full(len(named), True)} | {str(source): named == source for source in np.unique(named)}
    return {name: scores(predictions.of(rows), owners[rows].tolist(), resampling, metrics) for name, rows in parts.items()}


def confusion_band(predictions: Predictions, patients: Sequence[str], resampling: Resampling) -> Band:
    """Each cell of the confusion matrix (K, K), a count of cases, with its interval; arguments as those of `scores`."""
    cases = len(predictions.truth)
    whole = np.ones((1, 1, 1, cases), bool)
    return band_by_patient(
        partial(confusion, predictions), patients, resampling, within=(0.0, float(cases)), groups=whole, share=True
    )


def gain(
    metric: Metric, predictions: Predictions, reference: Predictions, patients: Sequence[str], resampling: Resampling
) -> Interval:
    """How much larger a metric is than that of a reference on the same cases, paired: both are resampled together.

    Args:
        metric: Of METRICS, DIAGNOSTIC or CALIBRATION.
        predictions: Of N cases.
        reference: Other predictions of the same cases.
        patients: Patient of each case (N,).
        resampling: How resamples are drawn, and the coverage.
    """

    def difference(weights: Array) -> Array:
        return metric(predictions, weights) - metric(reference, weights)

    most = _within(metric, predictions)[1]
    return by_patient(difference, patients, resampling, within=(-most, most), groups=groups_of(metric, predictions))


def groups_of(metric: Metric, predictions: Predictions) -> NDArray[np.bool_]:
    """The groups of cases (K, N) that a metric rests on: the classes whose shares it is the mean of, else all in one."""
    if metric is accuracy or metric in CALIBRATION.values():
        return np.full((1, len(predictions.truth)), True)
    if predictions.binary and metric in (sensitivity, specificity):
        return predictions.truth[None] == int(metric is sensitivity)
    return predictions.truth[None] == np.unique(predictions.truth)[:, None]


def roc_labels(predictions: Predictions) -> list[int]:
    """Classes that have a ROC curve, some cases being of them and some not; of two class 1 alone, whose curve 0's mirrors."""
    there = [int(label) for label in np.unique(predictions.truth)]
    if len(there) == 1:
        return []
    return [1] if predictions.binary else there


def roc_points(predictions: Predictions, label: int) -> tuple[Array, Array]:
    """The ROC curve of a class against the rest; `roc_labels` says of which there is one.

    Returns:
        False and true positive rates (points,), both rising from 0 to 1; scikit-learn leaves out what lies on a line.
    """
    false, true, _ = roc_curve(predictions.truth == label, predictions.probabilities[:, label])
    return false, true


def roc_band(
    predictions: Predictions,
    label: int,
    patients: Sequence[str],
    resampling: Resampling,
    points: int = 101,
) -> tuple[Array, Band]:
    """True positive rates of a class against the rest, with pointwise intervals, at evenly spaced false positive rates.

    Vertical averaging (Fawcett, "An introduction to ROC analysis", 2006): the false positive rate is held, the true varies.

    Args:
        predictions: Of the cases that are judged on.
        label: The class.
        patients: Patient of each case.
        resampling: How resamples are drawn, and the coverage at each rate.
        points: How many rates, from 0 to 1.

    Returns:
        The false positive rates (points,) and the band of the true ones; NaN where the cases are all of the class, or none is.
    """
    grid = np.linspace(0, 1, points)
    rates = partial(_true_positive_rates, predictions, label=label, grid=grid)
    classes = np.stack([predictions.truth == label, predictions.truth != label])
    band = band_by_patient(rates, patients, resampling, within=UNIT, groups=classes, share=True)
    return grid, replace(band, low=np.where(grid == 1, band.estimate, band.low))  # whoever takes all for it misses none


@dataclass(frozen=True)
class Reliability:
    """Probabilities of class 1 beside how often it was class 1, in bins of equal width from 0 to 1.

    Of more than two classes: probabilities of the predicted class beside how often that was right.

    Attributes:
        probability: Mean probability of each bin's cases (bins,); NaN where there are none.
        share: Share of each bin's cases that are of that class, with its interval; NaN where there are none.
        cases: Number of each bin's cases (bins,).
    """

    probability: Array
    share: Band
    cases: NDArray[np.int_]


def reliability(predictions: Predictions, patients: Sequence[str], resampling: Resampling) -> Reliability:
    """What a reliability diagram shows, in the bins of `expected_calibration_error`; arguments as those of `scores`.

    A bin of fewer than MIN_PATIENTS has no bounds.
    """
    probability, happened = _foretold(predictions)
    members = _bins(probability)

    def share(weights: Array) -> Array:
        return _ratio(weights @ (members * happened[:, None]), weights @ members)

    band = band_by_patient(share, patients, resampling, within=UNIT, groups=members.T[:, None] > 0, share=True)
    cases = members.sum(axis=0)
    return Reliability(_ratio((members * probability[:, None]).sum(axis=0), cases), band, cases.astype(int))


def per_case_and_arm(
    arms: Mapping[str, Predictions], cases: Sequence[str], patients: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """One row a case and arm: case, patient, label, predicted, a column `probability_<class>` each, and arm."""
    names = np.asarray(classes)
    tables = []
    for arm, predictions in arms.items():
        labels = {"label": names[predictions.truth], "predicted": names[predictions.predicted]}
        columns = dict(zip((f"probability_{name}" for name in classes), predictions.probabilities.T, strict=True))
        tables.append(pd.DataFrame({"case": cases, "patient": patients, **labels, **columns, "arm": arm}))
    return pd.concat(tables, ignore_index=True)


def _at_thresholds(predictions: Predictions, weights: Array, label: int) -> tuple[Array, Array]:
    """Weight of the cases of a class, and of the others, that are taken for it as the threshold falls: (S, thresholds + 1)."""
    order = np.argsort(-predictions.probabilities[:, label])
    ordered, positive = predictions.probabilities[order, label], predictions.truth[order] == label
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # equal probabilities fall together
    taken = weights[:, order]
    true, false = (np.cumsum(taken * mask, axis=1)[:, ends] for mask in (positive, ~positive))
    start = ((0, 0), (1, 0))
    return np.pad(true, start), np.pad(false, start)


def _true_positive_rates(predictions: Predictions, weights: Array, label: int, grid: Array) -> Array:
    """Of weighted cases, at false positive rates (M,): (S, M). A step counts as its upper end; equal scores make a slope."""
    counts = _at_thresholds(predictions, weights, label)
    wholes = [count[:, -1:] for count in counts]
    true, false = (count / np.where(whole > 0, whole, 1) for count, whole in zip(counts, wholes, strict=True))
    # All curves at once, side by side on one axis; rounded, so that a rate of the grid meets its equal.
    shift = 2.0 * np.arange(len(weights))[:, None]
    rates = np.interp(grid.round(9) + shift, (false.round(9) + shift).ravel(), true.ravel())
    return np.where((wholes[0] > 0) & (wholes[1] > 0), rates, np.nan)


def _within(metric: Metric, predictions: Predictions) -> Range:
    """The range of a metric; that of a gain is as far on either side."""
    return (0.0, 2.0) if metric is brier and not predictions.binary else UNIT


def _foretold(predictions: Predictions) -> tuple[Array, NDArray[np.int_]]:
    """A probability of each case (N,) and whether it came true (N,), 0 or 1: of class 1, or of the class that is predicted."""
    if predictions.binary:
        return predictions.probabilities[:, 1], predictions.truth
    return predictions.probabilities.max(axis=1), (predictions.predicted == predictions.truth).astype(int)


def _bins(probability: Array) -> Array:
    """Which bin each case's probability is in (N, bins), one 1 a row; an edge belongs to the bin below."""
    inner = np.linspace(0, 1, _BINS + 1)[1:-1]
    return np.eye(_BINS)[np.searchsorted(inner, probability)]


def _recall(predictions: Predictions, weights: Array, label: int) -> Array:
    matrix = confusion(predictions, weights)
    return _ratio(matrix[:, label, label], matrix[:, label].sum(axis=1))


def _diagonal(matrices: Array) -> Array:
    return matrices.diagonal(axis1=1, axis2=2)


def _mean_ratio(part: Array, whole: Array) -> Array:
    """Mean (S,) of part / whole (S, K) over the classes; NaN where one has no whole."""
    return _ratio(part, whole).mean(axis=1)


def _ratio(part: Array, whole: Array) -> Array:
    """Part / whole, NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
