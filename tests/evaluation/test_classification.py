"""Metrics of weighted cases against scikit-learn's, their intervals, and heads on features whose answers are known."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from medexp.config import SearchConfig
from medexp.evaluation.classification import METRICS, Predictions, confusion, gain, per_case, roc_points, scores
from medexp.evaluation.classifiers import fit_head, folds_by_patient, majority
from medexp.evaluation.intervals import by_patient

SEARCH = SearchConfig(folds=4, c=(1e-4, 1e-2, 1.0), hidden_size=(2, 16), weight_decay=1.0, iterations=500)
RESAMPLING = {"samples": 500, "confidence": 0.95, "seed": 0}


def guesses(seed: int, cases: int, classes: int, steps: int = 4) -> Predictions:
    """Random predictions with ties, of every class."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, cases)])
    probabilities = rng.integers(1, steps, (len(truth), classes)).astype(float)
    return Predictions(truth, probabilities / probabilities.sum(axis=1, keepdims=True))


def expected(predictions: Predictions) -> dict[str, float]:
    """scikit-learn's figures."""
    truth, probabilities, predicted = predictions.truth, predictions.probabilities, predictions.predicted
    areas = [
        sklearn_metrics.roc_auc_score(truth == label, probabilities[:, label])
        for label in range(probabilities.shape[1])
        if 0 < (truth == label).sum() < len(truth)
    ]
    return {
        "accuracy": sklearn_metrics.accuracy_score(truth, predicted),
        "balanced_accuracy": sklearn_metrics.recall_score(truth, predicted, average="macro", labels=np.unique(truth)),
        "macro_f1": sklearn_metrics.f1_score(truth, predicted, average="macro"),
        "auroc": float(np.mean(areas)),
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(3, 20), st.integers(2, 4))
def test_metrics_are_those_of_scikit_learn_also_of_cases_that_count_several_times(seed: int, cases: int, classes: int) -> None:
    predictions = guesses(seed, cases, classes)
    size = len(predictions.truth)
    times = np.random.default_rng(seed).integers(0, 3, size)
    times[:classes] = 1  # one of each class
    repeated = Predictions(predictions.truth.repeat(times), predictions.probabilities.repeat(times, axis=0))
    weights = np.stack([np.ones(size), times])
    for name, metric in METRICS.items():
        assert metric(predictions, weights) == pytest.approx([expected(predictions)[name], expected(repeated)[name]])
    matrix = sklearn_metrics.confusion_matrix(repeated.truth, repeated.predicted, labels=range(classes))
    assert np.array_equal(confusion(predictions, weights)[1], matrix)


def test_of_two_classes_the_auroc_is_the_usual_one() -> None:
    predictions = guesses(3, 30, 2)
    usual = sklearn_metrics.roc_auc_score(predictions.truth, predictions.probabilities[:, 1])
    assert METRICS["auroc"](predictions, np.ones((1, 32))) == pytest.approx(usual)
    false, true = roc_points(predictions, 1)
    assert np.trapezoid(true, false) == pytest.approx(usual)


def test_one_class_has_no_auroc_and_the_recall_of_that_class() -> None:
    predictions = Predictions(np.array([1, 1, 1]), np.array([[0.2, 0.8], [0.7, 0.3], [0.1, 0.9]]))
    measured = {name: metric(predictions, np.ones((1, 3)))[0] for name, metric in METRICS.items()}
    assert math.isnan(measured["auroc"])
    assert measured["balanced_accuracy"] == measured["accuracy"] == pytest.approx(2 / 3)


def test_intervals_hold_the_estimate_and_leave_out_resamples_of_one_class() -> None:
    predictions = guesses(0, 10, 2)
    patients = [str(i) for i in range(12)]
    for name, interval in scores(predictions, patients, **RESAMPLING).items():
        assert interval.estimate == pytest.approx(expected(predictions)[name])
        assert interval.low <= interval.estimate <= interval.high
    constant = Predictions(predictions.truth, np.tile([0.9, 0.1], (12, 1)))
    found = scores(constant, patients, **RESAMPLING)["balanced_accuracy"]
    assert (found.low, found.estimate, found.high) == (0.5, 0.5, 0.5)
    rare = Predictions(np.array([1] + [0] * 11), guesses(0, 10, 2).probabilities)
    interval = scores(rare, patients, **RESAMPLING)["auroc"]  # a third of the resamples lack the one case
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


def test_a_statistic_that_no_resample_defines_has_no_interval() -> None:
    interval = by_patient(lambda weights: np.full(len(weights), np.nan), [str(i) for i in range(8)], **RESAMPLING)
    assert math.isnan(interval.low) and math.isnan(interval.high) and interval.patients == 8


def test_a_paired_gain_is_told_where_separate_intervals_overlap() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60)
    right = rng.random(60) < 0.7
    better = right | (rng.random(60) < 0.3)  # right wherever the other is, and sometimes besides
    said = [np.where(mask, truth, 1 - truth) for mask in (right, better)]
    worse, best = (Predictions(truth, np.eye(2)[labels]) for labels in said)
    patients = [str(i) for i in range(60)]
    found = gain(METRICS["balanced_accuracy"], best, worse, patients, **RESAMPLING)
    apart = [scores(one, patients, **RESAMPLING)["balanced_accuracy"] for one in (worse, best)]
    assert apart[1].low < apart[0].high
    assert 0 < found.low < found.estimate == pytest.approx(apart[1].estimate - apart[0].estimate)
    nothing = gain(METRICS["balanced_accuracy"], best, best, patients, **RESAMPLING)
    assert nothing.low == nothing.estimate == nothing.high == 0


def test_scans_of_one_patient_are_drawn_together() -> None:
    one = guesses(5, 8, 2)
    many = Predictions(one.truth.repeat(5), one.probabilities.repeat(5, axis=0))
    alone = scores(one, [str(i) for i in range(10)], **RESAMPLING)
    assert scores(many, [str(i // 5) for i in range(50)], **RESAMPLING) == alone


def test_the_table_has_a_row_a_case_and_arm() -> None:
    predictions = Predictions(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]))
    table = per_case({"encoder": predictions, "random": predictions}, ["c1", "c2"], ["p1", "p2"], ["glioma", "meningioma"])
    assert table.to_dict("records")[1] == {
        "case": "c2",
        "patient": "p2",
        "label": "meningioma",
        "predicted": "glioma",
        "probability_glioma": 0.6,
        "probability_meningioma": 0.4,
        "arm": "encoder",
    }
    assert list(table["arm"]) == ["encoder", "encoder", "random", "random"]


def cloud(seed: int = 0, cases: int = 80, shift: float = 2.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features whose first column tells the class, hardly varying about a large mean; two cases a patient."""
    rng = np.random.default_rng(seed)
    labels = np.arange(cases) // 2 % 2
    features = rng.normal(size=(cases, 20))
    features[:, 0] += shift * labels
    return 5 + 1e-4 * features, labels, [str(i // 2) for i in range(cases)]


@pytest.mark.parametrize("head", ["logistic", "mlp"])
def test_heads_learn_what_is_there_and_standardise(head: str) -> None:
    features, labels, patients = cloud()
    folds = folds_by_patient(labels[:60], patients[:60], 4, 0)
    fitted, chosen = fit_head(head, features[:60], labels[:60], folds, SEARCH, seed=0)
    probabilities = fitted.predict_proba(features[60:])
    assert METRICS["auroc"](Predictions(labels[60:], probabilities), np.ones((1, 20)))[0] > 0.8
    assert chosen in (SEARCH.c if head == "logistic" else SEARCH.hidden_size)
    again, _ = fit_head(head, features[:60], labels[:60], folds, SEARCH, seed=0)
    assert np.array_equal(again.predict_proba(features[60:]), probabilities)


def test_the_hyperparameter_is_chosen_across_patients() -> None:
    noise, labels, patients = cloud(shift=0.0)
    choose = partial(
        fit_head, "logistic", labels=labels, folds=folds_by_patient(labels, patients, 4, 0), search=SEARCH, seed=0
    )
    assert choose(noise)[1] < max(SEARCH.c), "noise is best not trusted"
    assert choose(cloud(shift=8.0)[0])[1] == max(SEARCH.c), "a clear signal is"


def test_no_patient_is_fitted_on_and_scored() -> None:
    _, labels, patients = cloud(cases=40)
    folds = folds_by_patient(labels, patients, 5, 0)
    names = np.array(patients)
    assert len(folds) == 5
    for fit, score in folds:
        assert not set(names[fit]) & set(names[score])
    assert sorted(np.concatenate([score for _, score in folds])) == list(range(40))


@pytest.mark.parametrize(("patients", "folds"), [(["a", "b", "c", "c", "c"], 0), (["a", "b", "c", "d", "d"], 2)])
def test_a_rare_class_has_fewer_folds(patients: list[str], folds: int) -> None:
    labels = np.array([0, 0, 1, 1, 1])
    found = folds_by_patient(labels, patients, 5, 0)
    assert len(found) == folds
    features = np.random.default_rng(0).normal(size=(5, 3))
    head, chosen = fit_head("logistic", features, labels, found, SEARCH, seed=0)
    assert head.predict_proba(features).shape == (5, 2)
    assert folds or chosen == SEARCH.c[1], "nothing to choose by"


def test_the_majority_says_the_most_frequent_class() -> None:
    labels = np.array([0, 1, 1])
    assert majority(np.zeros((3, 1)), labels).predict_proba(np.zeros((2, 1))) == pytest.approx(np.array([[1, 2], [1, 2]]) / 3)
