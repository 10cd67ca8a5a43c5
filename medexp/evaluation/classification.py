"""How well classes are told apart: metrics of weighted cases, so that a bootstrap of all of them is a few matrix products."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from medexp.evaluation.intervals import Interval, by_patient

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of cases.

    Attributes:
        truth: Class of each case (N,), 0 to K - 1.
        probabilities: Of the classes (N, K); rows sum to 1.
    """

    truth: NDArray[np.int_]
    probabilities: Array

    @property
    def predicted(self) -> NDArray[np.int_]:
        """The most probable class of each case (N,); the first of equals."""
        return self.probabilities.argmax(axis=1)


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


def macro_f1(predictions: Predictions, weights: Array) -> Array:
    """Mean F1 (S,) over the classes that are there or are predicted."""
    matrix = confusion(predictions, weights)
    whole = matrix.sum(axis=2) + matrix.sum(axis=1)
    ratios = np.where(whole > 0, 2 * _diagonal(matrix), 0) / np.where(whole > 0, whole, 1)
    return ratios.sum(axis=1) / (whole > 0).sum(axis=1)


def auroc(predictions: Predictions, weights: Array) -> Array:
    """Area under the ROC curve (S,), each class against the rest and averaged over the classes: the usual one for two classes.

    Equal probabilities count one half (Mann-Whitney). NaN where all cases are of one class, or one of theirs has no weight.
    """
    ordered, possible = [], []
    for label in np.unique(predictions.truth):
        scores, there = predictions.probabilities[:, label], predictions.truth == label
        pairs = (np.sign(scores[there][:, None] - scores[~there][None]) + 1) / 2  # 1 in order, 0 not, 1/2 equal
        ordered.append(((weights[:, there] @ pairs) * weights[:, ~there]).sum(axis=1))
        possible.append(weights[:, there].sum(axis=1) * weights[:, ~there].sum(axis=1))
    return _mean_ratio(np.stack(ordered, axis=1), np.stack(possible, axis=1))


METRICS: Mapping[str, Callable[[Predictions, Array], Array]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "auroc": auroc,
}
"""Each takes predictions and the cases' weights (S, N), and gives one number a row of weights (S,)."""


def scores(
    predictions: Predictions, patients: Sequence[str], *, samples: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Every metric of METRICS with its interval by patient.

    Args:
        predictions: Of the cases that are judged on.
        patients: Patient of each case.
        samples: Resamples.
        confidence: Coverage, 0 to 1.
        seed: Seed of the resamples.
    """
    interval = partial(by_patient, patients=patients, samples=samples, confidence=confidence, seed=seed)
    return {name: interval(partial(metric, predictions)) for name, metric in METRICS.items()}


def gain(
    metric: Callable[[Predictions, Array], Array],
    predictions: Predictions,
    reference: Predictions,
    patients: Sequence[str],
    *,
    samples: int,
    confidence: float,
    seed: int,
) -> Interval:
    """How much better a metric is than that of a reference on the same cases, paired: both are resampled together."""
    return by_patient(
        lambda weights: metric(predictions, weights) - metric(reference, weights),
        patients,
        samples=samples,
        confidence=confidence,
        seed=seed,
    )


def roc_points(predictions: Predictions, label: int) -> tuple[Array, Array]:
    """False and true positive rates of a class against the rest; it needs a case of each."""
    false, true, _ = roc_curve(predictions.truth == label, predictions.probabilities[:, label])
    return false, true


def per_case(
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


def _diagonal(matrices: Array) -> Array:
    return matrices.diagonal(axis1=1, axis2=2)


def _mean_ratio(part: Array, whole: Array) -> Array:
    """Mean (S,) of part / whole (S, K) over the classes; NaN where one has no whole."""
    ratios: Array = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratios.mean(axis=1)
