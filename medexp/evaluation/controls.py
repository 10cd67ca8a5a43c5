"""The control room: what stands beside a trained classifier, fitted and scored on the same cases with the same splits.

What needs no features (the majority class), no training of a network (an untrained one of the same shape), no network at all
(a classical baseline), and no pixel (the files' headers). Each is fitted once for its cases and splits and then read from the
cache.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import sklearn
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.config.training import SearchConfig
from medexp.data.headers import Header
from medexp.data.kept import kept_arrays
from medexp.evaluation.classification import METRICS, Metric, Predictions, auroc, balanced_accuracy, groups_of, scores
from medexp.evaluation.classifiers import Folds, Head, fit_head, folds_by_patient
from medexp.evaluation.intervals import GAIN, UNIT, Interval, by_patient
from medexp.terminal import followed

VERSION = 1
"""Part of the cache's key: raise it when what is computed here changes."""

UNTRAINED_SEEDS = (0, 1, 2)
"""Seeds of the untrained networks' weights: the same in every run, whatever its own seed."""

SEED = 0
"""Seed of forests, and of the folds by which a control's hyperparameter is chosen."""

SEARCH = SearchConfig(folds=3, c=(1e-3, 1e-2, 1e-1, 1.0), hidden_size=(16,), weight_decay=1.0, iterations=1000)
"""How the hyperparameter of a control's head is chosen where a phase has no settings for that."""

Learner = Literal[Head, "svm", "forest"]
_TREES = 100
_TELLING, _NAMED = 0.15, 3  # share of a forest's importance from which on a field is named, and how many are


@dataclass(frozen=True)
class Task:
    """Cases to be told apart, and which of them are learned from to predict which.

    Attributes:
        labels: Class of each case (N,), 0 to K - 1.
        patients: Patient of each case (N,).
        classes: K.
        pairs: Rows to fit and rows to score, one pair a fold; a single split is one pair. No row is scored twice.
    """

    labels: NDArray[np.int_]
    patients: Sequence[str]
    classes: int
    pairs: Folds

    @property
    def scored(self) -> NDArray[np.intp]:
        """The rows that are scored, ascending: the order of all predictions."""
        return np.sort(np.concatenate([score for _, score in self.pairs]))

    @property
    def owners(self) -> list[str]:
        """Patient of each row that is scored."""
        return [self.patients[row] for row in self.scored]


@dataclass(frozen=True)
class Source:
    """What a control knows of the cases, and what learns from it.

    Attributes:
        name: In tables and metrics.
        called: In words.
        learner: logistic or mlp (`fit_head`), svm (an RBF kernel on standardised features), or forest (fields of headers).
        key: All that the features follow from, as JSON can write it; None: what comes of them is not kept.
        features: Makes the features (N, D) of all cases, one array a seed.
    """

    name: str
    called: str
    learner: Learner
    key: Any
    features: Callable[[], Sequence[Array]]


@dataclass(frozen=True)
class Control:
    """What stands beside a classifier.

    Attributes:
        name: In tables and metrics.
        called: In words.
        predictions: Of the scored cases, one a seed: a figure of the control is the mean of the seeds' figures.
        chosen: Hyperparameters, by seed and pair; empty where none is chosen.
        fields: Of headers: those that told most, first the most telling; empty where no field differs between cases.
    """

    name: str
    called: str
    predictions: Sequence[Predictions]
    chosen: Sequence[float] = ()
    fields: Sequence[str] = ()

    def measure(self, metric: Metric, weights: Array) -> Array:
        """A metric (S,) of weighted cases (S, N), the mean over seeds."""
        return np.mean([metric(one, weights) for one in self.predictions], axis=0)

    def scores(
        self, patients: Sequence[str], resampling: Resampling, metrics: Mapping[str, Metric] = METRICS
    ) -> dict[str, Interval]:
        """Metrics with their intervals by patient; at an end of its range a figure is every seed's, a share."""
        every, first = np.ones((1, len(patients))), self.predictions[0]

        def interval(metric: Metric) -> Interval:
            if len(self.predictions) == 1 or self.measure(metric, every)[0] in UNIT:
                return scores(first, patients, resampling, {"": metric})[""]
            groups = groups_of(metric, first)
            return by_patient(partial(self.measure, metric), patients, resampling, within=UNIT, groups=groups)

        return {name: interval(metric) for name, metric in metrics.items()}


def gain_over(
    control: Control, metric: Metric, predictions: Predictions, patients: Sequence[str], resampling: Resampling
) -> Interval:
    """How much larger a metric of a classifier is than a control's on the same cases, paired, with its interval by patient.

    Of two metrics a constant answer has the same figure whichever cases are drawn, 1 / K of balanced accuracy and 0.5 of
    AUROC: the classifier's own interval is held against that, and it has one also where all its answers are right.
    """
    if metric in (balanced_accuracy, auroc) and all(
        np.ptp(one.probabilities, axis=0).max() == 0 for one in control.predictions
    ):
        own = scores(predictions, patients, resampling, {"": metric})[""]
        chance = float(control.measure(metric, np.ones((1, len(predictions.truth))))[0])
        return replace(own, estimate=own.estimate - chance, low=own.low - chance, high=own.high - chance)

    def difference(weights: Array) -> Array:
        return metric(predictions, weights) - control.measure(metric, weights)

    return by_patient(difference, patients, resampling, within=GAIN, groups=groups_of(metric, predictions))


def majority(task: Task) -> Control:
    """The constant answer that suits the scored cases best, whatever was learned from: their most frequent class, with the
    classes' shares as probabilities. Where there are folds it is one for all: a constant of each fold would rank the cases."""
    truth = task.labels[task.scored]
    shares = np.bincount(truth, minlength=task.classes) / len(truth)
    return Control("majority", "the majority class", [Predictions(truth, np.tile(shares, (len(truth), 1)))])


def of_headers(
    headers: Sequence[Header], task: Task, cache: Path, name: str = "headers", called: str = "the files' headers alone"
) -> Control:
    """What a random forest tells from the fields of the files' headers alone, or of anything else that comes in fields.

    Args:
        headers: Of all cases (N,), whatever fields they have.
        task: The cases.
        cache: Root of the cache.
        name: In tables and metrics.
        called: In words.
    """
    table = _varying(headers)
    if table.empty:
        return replace(majority(task), name=name, called=called)
    source = Source(name, called, "forest", [dict(header) for header in headers], lambda: [table.to_numpy()])
    kept = _kept(source, task, cache, SEARCH, SEED)
    importances = kept["importances"][0]
    most = np.argsort(-importances)[:_NAMED]
    fields = [table.columns[index] for index in most if importances[index] >= _TELLING] or [table.columns[most[0]]]
    return Control(name, called, _predictions(kept, task), fields=fields)


def control(source: Source, task: Task, cache: Path, search: SearchConfig = SEARCH, seed: int = SEED) -> Control:
    """A source's predictions of the scored cases, each by what was fitted on the other side of its pair.

    Args:
        source: What is known of the cases.
        task: The cases.
        cache: Root of the cache; a small file a control goes under `controls/`.
        search: How a head's hyperparameter is chosen, across the patients that it is fitted on.
        seed: Of the MLP, and of the folds of that search.
    """
    kept = _kept(source, task, cache, search, seed)
    return Control(source.name, source.called, _predictions(kept, task), kept["chosen"].ravel().tolist())


def _kept(source: Source, task: Task, cache: Path, search: SearchConfig, seed: int) -> Mapping[str, Array]:
    """By name, a first axis of seeds: `probabilities` of the scored cases (S, M, K), hyperparameters `chosen` (S, pairs), and
    `importances` (S, fields) of a forest."""

    def compute() -> Mapping[str, Array]:
        made = [_out_of_fold(source, features, task, search, seed) for features in source.features()]
        return {name: np.stack([one[name] for one in made]) for name in made[0]}

    if source.key is None:
        return compute()
    pairs = [[fit.tolist(), score.tolist()] for fit, score in task.pairs]
    cases = [task.labels.tolist(), list(task.patients), task.classes, pairs]
    key = [VERSION, sklearn.__version__, source.learner, source.key, cases, asdict(search), seed]
    return kept_arrays(cache / "controls", key, compute)[0]


def _predictions(kept: Mapping[str, Array], task: Task) -> list[Predictions]:
    truth = task.labels[task.scored]
    return [Predictions(truth, probabilities) for probabilities in kept["probabilities"]]


def _out_of_fold(source: Source, features: Array, task: Task, search: SearchConfig, seed: int) -> dict[str, Array]:
    learner, probabilities = source.learner, np.zeros((len(task.labels), task.classes))
    chosen, importances = [], []
    for fit, score in followed(task.pairs, len(task.pairs), f"fitting a classifier: {source.called}"):
        labels = task.labels[fit]
        if learner == "svm":
            model: Any = make_pipeline(StandardScaler(), SVC(class_weight="balanced", break_ties=True))
        elif learner == "forest":
            model = RandomForestClassifier(_TREES, class_weight="balanced", random_state=seed)
        else:
            folds = folds_by_patient(labels, [task.patients[row] for row in fit], search.folds, seed)
            model, value = fit_head(learner, features[fit], labels, folds, search, seed)
            chosen.append(value)
        with threadpool_limits(1):  # threads only wait on matrices so small
            if learner in ("svm", "forest"):
                model.fit(features[fit], labels)
            found = (
                model.predict_proba(features[score]) if learner != "svm" else _soft(model.decision_function(features[score]))
            )
        probabilities[np.ix_(score, model.classes_)] = found
        importances.append(model.feature_importances_ if learner == "forest" else [])
    kept = {"probabilities": probabilities[task.scored], "chosen": chosen, "importances": np.mean(importances, axis=0)}
    return {name: np.asarray(array, np.float64) for name, array in kept.items()}


def _soft(margins: Array) -> Array:
    """Signed distances from a support vector machine's boundaries as numbers (N, K) that sum to 1, in the same order."""
    found: Array = softmax(np.stack([0 * margins, margins], axis=1) if margins.ndim == 1 else margins, axis=1)
    return found


def _varying(headers: Sequence[Header]) -> pd.DataFrame:
    """The fields that differ between cases, as float64: a number for each text, NaN or -1 where a file does not say."""
    table = pd.DataFrame([dict(header) for header in headers])
    fields = {}
    for name in table:
        values = table[name]
        if len(values.value_counts(dropna=False)) > 1:
            numbers = all(isinstance(value, int | float) for value in values.dropna())
            fields[str(name)] = values.astype(float) if numbers else values.astype("category").cat.codes.astype(float)
    return pd.DataFrame(fields)
