"""Heads on fixed features: a standardisation and a classifier, whose hyperparameter is chosen across training patients.

Classes weigh the same, however many cases they have, when a head is fitted and when its hyperparameter is chosen: it is judged
by balanced accuracy, and where the features tell nothing it favours no class.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits

from medexp.arrays import Array
from medexp.config.training import SearchConfig

Head = Literal["logistic", "mlp"]
Folds = Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]


def folds_by_patient(labels: NDArray[np.int_], patients: Sequence[str], count: int, seed: int) -> Folds:
    """Rows to fit and to score, fold by fold; a patient is in one fold alone, and the folds are alike in labels.

    Fewer folds than `count` where a label has fewer patients; none at all where one has a single patient.

    Args:
        labels: Class of each row (N,).
        patients: Patient of each row.
        count: Folds that are wanted.
        seed: Seed of the draw.
    """
    names = np.asarray(patients)
    count = min(count, *(len(set(names[labels == label])) for label in np.unique(labels)))
    if count < 2:
        return ()
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, names)
    return [(fit, score) for fit, score in folds if set(labels[fit]) == set(labels)]


def candidates(head: Head, search: SearchConfig) -> tuple[float, ...]:
    """Values of the hyperparameter of a head: C of the logistic regression, the hidden layer's width of the MLP."""
    return search.c if head == "logistic" else search.hidden_size


def fit_head(
    head: Head, features: Array, labels: NDArray[np.int_], folds: Folds, search: SearchConfig, seed: int
) -> tuple[Pipeline, float]:
    """A head fitted on all rows, with the hyperparameter whose out-of-fold log loss is least, classes weighed alike.

    The log loss is of all rows together, each predicted by the head that did not see its patient; features are standardised by
    the rows that a head is fitted on. On a tie the first candidate stands; without folds, where there is nothing to choose by,
    the middle one.

    Args:
        head: logistic or mlp.
        features: Features (N, D).
        labels: Classes (N,), 0 to K - 1, each at least once.
        folds: `folds_by_patient`.
        search: The candidates.
        seed: Seed of the MLP's initial weights.

    Returns:
        The fitted head, whose `predict_proba` has the classes in order, and the chosen value.
    """
    values = candidates(head, search)
    features = features.astype(np.float64)  # L-BFGS stops late in single precision
    losses = [_out_of_fold(head, value, features, labels, folds, search, seed) for value in values]
    chosen = values[int(np.argmin(losses))] if folds else values[len(values) // 2]
    return _fitted(_pipeline(head, chosen, search, seed), features, labels), chosen


def _out_of_fold(
    head: Head, value: float, features: Array, labels: NDArray[np.int_], folds: Folds, search: SearchConfig, seed: int
) -> float:
    if not folds:
        return 0.0
    predicted = np.concatenate(
        [
            _fitted(_pipeline(head, value, search, seed), features[fit], labels[fit]).predict_proba(features[score])
            for fit, score in folds
        ]
    )
    truth = labels[np.concatenate([score for _, score in folds])]
    weights = compute_sample_weight("balanced", truth)
    return float(log_loss(truth, predicted, sample_weight=weights, labels=np.unique(labels)))


def _pipeline(head: Head, value: float, search: SearchConfig, seed: int) -> Pipeline:
    if head == "logistic":
        classifier: Any = LogisticRegression(C=value, max_iter=search.iterations)
    else:
        classifier = MLPClassifier(
            (int(value),), solver="lbfgs", alpha=search.weight_decay, max_iter=search.iterations, random_state=seed
        )
    return Pipeline([("standardise", StandardScaler()), ("classifier", classifier)])


def _fitted(pipeline: Pipeline, features: Array, labels: NDArray[np.int_]) -> Pipeline:
    # Separable classes have no best weights at a large C: where it stops is as good. Threads only wait on matrices so small.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return pipeline.fit(features, labels, classifier__sample_weight=compute_sample_weight("balanced", labels))
