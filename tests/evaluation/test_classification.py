"""Metrics of weighted cases against scikit-learn's, their intervals, and heads on features whose answers are known."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from medexp.config.shared import Resampling
from medexp.config.training import SearchConfig
from medexp.errors import TrainingDiverged
from medexp.evaluation.classification import (
    CALIBRATION,
    DIAGNOSTIC,
    METRICS,
    Metric,
    Predictions,
    by_source,
    confusion,
    confusion_band,
    cross_entropy,
    gain,
    per_case_and_arm,
    reliability,
    roc_band,
    roc_labels,
    roc_points,
    scores,
)
from medexp.evaluation.classifiers import fit_head, folds_by_patient
from medexp.evaluation.intervals import MIN_OF_A_CLASS, MIN_PATIENTS, UNIT, Interval, band_by_patient, by_patient

SEARCH = SearchConfig(folds=4, c=(1e-4, 1e-2, 1.0), hidden_size=(2, 16), weight_decay=1.0, iterations=500)
RESAMPLING = Resampling(samples=500, confidence=0.95, seed=0)


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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_refused(bad: float) -> None:
    """The most probable class of NaN would be class 0."""
    probabilities = np.tile([0.3, 0.7], (12, 1))
    probabilities[4, 1] = bad
    with pytest.raises(TrainingDiverged, match=r"NaN or infinite probabilities in 1 of 12 cases \(number 5\)"):
        Predictions(np.zeros(12, int), probabilities)


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
    for name, interval in scores(predictions, patients, RESAMPLING).items():
        assert interval.estimate == pytest.approx(expected(predictions)[name])
        assert interval.low <= interval.estimate <= interval.high
    constant = Predictions(predictions.truth, np.tile([0.9, 0.1], (12, 1)))
    found = scores(constant, patients, RESAMPLING)["balanced_accuracy"]
    assert found.estimate == 0.5 and math.isnan(found.low), "the same in every resample, which is no certainty"
    rare = Predictions(np.array([1, 1] + [0] * 10), guesses(0, 10, 2).probabilities)
    area = partial(METRICS["auroc"], rare)
    interval = by_patient(area, patients, RESAMPLING, within=UNIT)  # a tenth of the resamples lack both cases
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    single = Predictions(np.array([1] + [0] * 11), guesses(0, 10, 2).probabilities)
    interval = scores(single, patients, RESAMPLING)["auroc"]
    assert not math.isnan(interval.estimate) and math.isnan(interval.low), "it hangs on one patient"


def test_a_statistic_that_no_resample_defines_has_no_interval() -> None:
    interval = by_patient(lambda weights: np.full(len(weights), np.nan), [str(i) for i in range(8)], RESAMPLING)
    assert math.isnan(interval.low) and math.isnan(interval.high) and interval.patients == 8


def test_a_paired_gain_is_told_where_separate_intervals_overlap() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60)
    right = rng.random(60) < 0.7
    better = right | (rng.random(60) < 0.6)  # right wherever the other is, and sometimes besides
    said = [np.where(mask, truth, 1 - truth) for mask in (right, better)]
    worse, best = (Predictions(truth, np.eye(2)[labels]) for labels in said)
    patients = [str(i) for i in range(60)]
    found = gain(METRICS["balanced_accuracy"], best, worse, patients, RESAMPLING)
    apart = [scores(one, patients, RESAMPLING)["balanced_accuracy"] for one in (worse, best)]
    assert apart[1].low < apart[0].high
    assert 0 < found.low < found.estimate == pytest.approx(apart[1].estimate - apart[0].estimate)
    nothing = gain(METRICS["balanced_accuracy"], best, best, patients, RESAMPLING)
    assert nothing.estimate == 0 and nothing.none and not nothing.above and not nothing.below


def test_scans_of_one_patient_are_drawn_together() -> None:
    one = guesses(5, 12, 2)
    assert MIN_OF_A_CLASS <= one.truth.sum() <= 14 - MIN_OF_A_CLASS
    many = Predictions(one.truth.repeat(5), one.probabilities.repeat(5, axis=0))
    alone = scores(one, [str(i) for i in range(14)], RESAMPLING)
    together = scores(many, [str(i // 5) for i in range(70)], RESAMPLING)
    for name, interval in together.items():
        assert (interval.estimate, interval.error) == pytest.approx((alone[name].estimate, alone[name].error))
        assert interval.low <= alone[name].low and alone[name].high <= interval.high, "how they scatter is to be estimated"


def binary(seed: int, cases: int = 40) -> Predictions:
    """Probabilities of two classes in steps of 1 / 32, with ties, that tell something; both classes are there."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([[0, 1], rng.integers(0, 2, cases - 2)])
    probability = np.clip(np.round(32 * (0.3 + 0.4 * truth + 0.3 * rng.normal(size=cases))) / 32, 0, 1)
    return of(truth, probability)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 40), st.integers(3, 4))
def test_metrics_of_more_classes_are_those_of_scikit_learn(seed: int, cases: int, classes: int) -> None:
    """Each class against the rest, averaged; the Brier score over all classes, and calibration of what is predicted."""
    predictions = guesses(seed, cases, classes, steps=12)
    repeated, weights = drawn(predictions, seed, classes)
    labels = range(classes)
    for row, one in enumerate((predictions, repeated)):
        rest = [sklearn_metrics.recall_score(one.truth != label, one.predicted != label) for label in labels]
        right, confidence = one.predicted == one.truth, one.probabilities.max(axis=1)
        share, probability = calibration_curve(right, confidence, n_bins=10, strategy="uniform")
        found = reliability(one, alone(len(one.truth)), Resampling(20, 0.95, seed=0))
        there = found.cases > 0
        assert found.share.estimate[there] == pytest.approx(share)
        assert found.probability[there] == pytest.approx(probability)
        figures = {
            "sensitivity": sklearn_metrics.recall_score(one.truth, one.predicted, average="macro"),
            "specificity": np.mean(rest),
            "brier": sklearn_metrics.brier_score_loss(one.truth, one.probabilities, labels=labels),
            "ece": (np.abs(share - probability) * found.cases[there]).sum() / len(one.truth),
        } | expected(one)
        figures["auroc"] = sklearn_metrics.roc_auc_score(one.truth, one.probabilities, multi_class="ovr", labels=labels)
        for name, metric in {**DIAGNOSTIC, **CALIBRATION}.items():
            assert metric(predictions, weights)[row] == pytest.approx(figures[name]), name


def test_a_class_that_no_case_has_is_left_out_of_the_means() -> None:
    predictions = Predictions(np.array([0, 1, 1, 0]), np.array([[6, 3, 1], [1, 2, 7], [2, 7, 1], [7, 2, 1]]) / 10)
    found = {name: metric(predictions, np.ones((1, 4)))[0] for name, metric in DIAGNOSTIC.items()}
    assert found["sensitivity"] == found["balanced_accuracy"] == 0.75
    assert found["specificity"] == 1, "no case was taken for another class of those that are there"
    assert found["auroc"] == (1 + 0.625) / 2
    assert np.isnan(specificity_without(predictions, 1)), "all cases are of one class"
    assert roc_labels(predictions) == [0, 1] and roc_labels(predictions.of(np.array([True, False, False, True]))) == []


def specificity_without(predictions: Predictions, label: int) -> float:
    return float(DIAGNOSTIC["specificity"](predictions.of(predictions.truth != label), np.ones((1, 2)))[0])


def test_of_three_classes_a_mean_of_shares_is_told_by_fewer_patients_and_a_distance_of_0_by_none() -> None:
    truth = np.arange(24) % 3
    found = scores(Predictions(truth, np.eye(3)[truth]), alone(24), RESAMPLING, {**DIAGNOSTIC, **CALIBRATION})
    assert found["accuracy"].low == pytest.approx(0.025 ** (1 / 24)) and found["accuracy"].high == 1
    assert found["balanced_accuracy"].low == found["sensitivity"].low == pytest.approx(0.025 ** (1 / 24))
    assert math.isnan(found["brier"].high) and math.isnan(found["ece"].high)
    rare = np.array([0] * 11 + [1] * 8 + [2] * 5)
    found = scores(Predictions(rare, np.eye(3)[rare]), alone(24), RESAMPLING, DIAGNOSTIC)
    assert found["balanced_accuracy"].low == pytest.approx(0.025 ** ((1 / 11 + 1 / 8 + 1 / 5) / 9))


def test_every_class_that_is_there_has_a_roc_curve_and_of_two_class_1_alone() -> None:
    assert roc_labels(guesses(0, 20, 4)) == [0, 1, 2, 3]
    assert roc_labels(binary(0)) == [1] and roc_labels(of([1, 1], [0.5, 0.4])) == []
    predictions = guesses(1, 30, 3)
    for label in roc_labels(predictions):
        false, true = roc_points(predictions, label)
        area = sklearn_metrics.roc_auc_score(predictions.truth == label, predictions.probabilities[:, label])
        assert np.trapezoid(true, false) == pytest.approx(area)
        _, band = roc_band(predictions, label, alone(33), RESAMPLING)
        assert (band.low <= band.estimate).all() and (band.estimate <= band.high).all()


def of(truth: list[int] | np.ndarray, probability: list[float] | np.ndarray) -> Predictions:
    """Predictions from the probability of class 1."""
    return Predictions(np.array(truth), np.stack([1 - np.array(probability), np.array(probability)], axis=1))


def drawn(predictions: Predictions, seed: int, classes: int = 2) -> tuple[Predictions, np.ndarray]:
    """The cases as often as a draw takes them, each class at least once, and those weights beside weights of 1."""
    times = np.random.default_rng(seed).integers(0, 4, len(predictions.truth))
    times[:classes] = 1
    repeated = Predictions(predictions.truth.repeat(times), predictions.probabilities.repeat(times, axis=0))
    return repeated, np.stack([np.ones(len(times)), times])


def alone(count: int) -> list[str]:
    """A patient a case."""
    return [f"p{index}" for index in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 30))
def test_metrics_of_two_classes_are_those_of_scikit_learn(seed: int, cases: int) -> None:
    predictions = binary(seed, cases)
    repeated, weights = drawn(predictions, seed)
    for row, one in enumerate((predictions, repeated)):
        figures = {
            "sensitivity": sklearn_metrics.recall_score(one.truth, one.predicted),
            "specificity": sklearn_metrics.recall_score(one.truth, one.predicted, pos_label=0),
            "brier": sklearn_metrics.brier_score_loss(one.truth, one.probabilities[:, 1]),
        } | expected(one)
        for name, metric in {**DIAGNOSTIC, "brier": CALIBRATION["brier"]}.items():
            assert metric(predictions, weights)[row] == pytest.approx(figures[name]), name


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 60))
def test_bins_and_calibration_error_are_those_of_scikit_learn(seed: int, cases: int) -> None:
    predictions = binary(seed, cases)
    repeated, weights = drawn(predictions, seed)
    for row, one in enumerate((predictions, repeated)):
        found = reliability(one, alone(len(one.truth)), Resampling(20, 0.95, seed=0))
        share, probability = calibration_curve(one.truth, one.probabilities[:, 1], n_bins=10, strategy="uniform")
        there = found.cases > 0
        assert found.share.estimate[there] == pytest.approx(share)
        assert found.probability[there] == pytest.approx(probability)
        assert found.cases.sum() == len(one.truth)
        assert np.isnan(found.probability[~there]).all() and np.isnan(found.share.estimate[~there]).all()
        error = (np.abs(share - probability) * found.cases[there]).sum() / len(one.truth)
        assert CALIBRATION["ece"](predictions, weights)[row] == pytest.approx(error)


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.3, 0.7, 0.9, 0.0, 1.0])
def test_the_edge_of_a_bin_belongs_to_the_bin_below(probability: float) -> None:
    found = reliability(of([0, 1], [probability] * 2), alone(2), RESAMPLING)
    assert np.flatnonzero(found.cases) == max(round(10 * probability) - 1, 0)
    assert found.share.estimate[found.cases > 0] == 0.5


def test_probabilities_at_their_word_have_no_calibration_error() -> None:
    good = of([1, 0, 0, 0, 1, 1, 1, 0], [0.25] * 4 + [0.75] * 4)
    assert CALIBRATION["ece"](good, np.ones((1, 8))) == 0
    assert CALIBRATION["ece"](of([1, 1], [0.0, 0.0]), np.ones((1, 2))) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 40), st.integers(2, 23))
def test_the_roc_band_is_the_curve_of_scikit_learn_at_each_rate(seed: int, cases: int, points: int) -> None:
    predictions = binary(seed, cases)
    grid, band = roc_band(predictions, 1, alone(cases), Resampling(20, 0.95, seed=0), points=points)
    false, true, _ = sklearn_metrics.roc_curve(predictions.truth, predictions.probabilities[:, 1], drop_intermediate=False)
    assert (grid[0], grid[-1], len(grid)) == (0, 1, points)
    assert band.estimate == pytest.approx(np.interp(grid.round(9), false.round(9), true))
    assert (np.diff(band.estimate) >= 0).all() and band.estimate[-1] == 1


def test_the_error_of_the_roc_is_that_of_resampled_curves() -> None:
    predictions, patients = binary(4), alone(20) * 2
    grid, band = roc_band(predictions, 1, patients, Resampling(150, 0.9, seed=3), points=7)
    rng, curves = np.random.default_rng(3), []
    order = sorted(set(patients))
    for sample in rng.integers(0, 20, (150, 20)):
        rows = np.concatenate([np.flatnonzero(np.array(patients) == order[patient]) for patient in sample])
        one = predictions.of(rows)
        false, true, _ = sklearn_metrics.roc_curve(one.truth, one.probabilities[:, 1], drop_intermediate=False)
        curves.append(np.interp(grid.round(9), false.round(9), true))
    assert band.patients == 20
    assert band.error == pytest.approx(np.std(curves, axis=0) * np.sqrt(20 / 19))
    assert (band.low[1:-1] < band.high[1:-1]).all() and band.low[0] >= 0 and band.low[-1] == band.high[-1] == 1
    assert (band.low <= band.estimate).all() and (band.estimate <= band.high).all()


def test_a_constant_probability_has_the_diagonal_and_a_perfect_one_the_corner() -> None:
    grid, band = roc_band(of([0, 1] * 6, [0.4] * 12), 1, alone(12), RESAMPLING)
    assert band.estimate == pytest.approx(grid) and np.isnan(band.low[1:-1]).all()
    _, band = roc_band(of([0, 1] * 6, [0.1, 0.8] * 6), 1, alone(12), RESAMPLING)
    assert (band.estimate == 1).all() and (band.high == 1).all()
    assert band.low[:-1] == pytest.approx(0.025 ** (1 / 12)), "six of each class, all right"


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_nan_where_the_other_is_needed(label: int) -> None:
    predictions = of([label] * 8, np.linspace(0.1, 0.95, 8))
    found = scores(predictions, alone(8), RESAMPLING, {**DIAGNOSTIC, **CALIBRATION})
    missing = {"auroc", "specificity" if label else "sensitivity"}
    assert {name for name, interval in found.items() if math.isnan(interval.estimate)} == missing
    assert all(math.isnan(found[name].low) and math.isnan(found[name].high) for name in missing)
    _, band = roc_band(predictions, 1, alone(8), RESAMPLING)
    assert np.isnan(band.estimate).all() and np.isnan(band.low).all()


def test_one_case_has_figures_and_no_intervals() -> None:
    found = scores(of([1], [0.75]), ["p"], RESAMPLING, {**DIAGNOSTIC, **CALIBRATION})
    assert found["sensitivity"].estimate == found["accuracy"].estimate == 1
    assert found["brier"].estimate == 0.0625 and found["ece"].estimate == 0.25
    assert all(math.isnan(interval.low) for interval in found.values())


def test_each_source_has_its_own_figures() -> None:
    predictions = binary(2, 60)
    sources, patients = ["kaggle"] * 25 + ["brats"] * 35, alone(30) * 2
    found = by_source(predictions, patients, sources, RESAMPLING)
    assert list(found) == ["all", "brats", "kaggle"]
    assert found["all"] == scores(predictions, patients, RESAMPLING, DIAGNOSTIC)
    second = np.arange(60) >= 25
    assert found["brats"] == scores(predictions.of(second), patients[25:], RESAMPLING, DIAGNOSTIC)
    assert found["kaggle"]["auroc"].patients == 25


def test_a_source_of_one_class_has_no_auroc_and_stops_nothing() -> None:
    predictions = of([0, 1] * 10 + [1] * 10, np.linspace(0.05, 0.95, 30))
    found = by_source(predictions, alone(30), ["brats"] * 20 + ["kaggle"] * 10, RESAMPLING, {**DIAGNOSTIC, **CALIBRATION})
    assert math.isnan(found["kaggle"]["auroc"].estimate) and math.isnan(found["kaggle"]["specificity"].low)
    assert not math.isnan(found["kaggle"]["sensitivity"].low)
    assert not math.isnan(found["all"]["auroc"].low)


def test_many_rows_are_resampled_a_block_at_a_time() -> None:
    patients, values, sizes = [str(i % 50) for i in range(60_000)], np.arange(60_000.0) % 50, []

    def mean(weights: np.ndarray) -> np.ndarray:
        sizes.append(weights.size)
        return weights @ values / weights.sum(axis=1)

    band = band_by_patient(mean, patients, RESAMPLING)
    assert max(sizes) <= 11_000_000 and sum(sizes) == 60_000 * (RESAMPLING.samples + 51)
    few = band_by_patient(lambda weights: weights @ values[:50] / weights.sum(axis=1), patients[:50], RESAMPLING)
    assert (band.low, band.high) == (pytest.approx(few.low), pytest.approx(few.high)), "the same patients, drawn alike"


def test_each_cell_of_the_matrix_has_the_interval_that_it_has_alone() -> None:
    predictions, patients = binary(1), alone(20) * 2
    band = confusion_band(predictions, patients, RESAMPLING)
    assert np.array_equal(band.estimate, sklearn_metrics.confusion_matrix(predictions.truth, predictions.predicted))
    for row, column in np.ndindex(2, 2):
        cell = by_patient(lambda weights: confusion(predictions, weights)[:, row, column], patients, RESAMPLING)  # noqa: B023
        assert cell.error == pytest.approx(band.error[row, column])
        cell = Interval(cell.estimate, band.low[row, column], band.high[row, column], cell.patients)
        assert cell.low < cell.estimate < cell.high


@pytest.mark.parametrize("right", [True, False])
def test_a_share_of_all_or_none_is_not_certain(right: bool) -> None:
    truth = np.array([1] * 8 + [0] * 16)
    found = scores(of(truth, truth if right else 1 - truth), alone(24), RESAMPLING, DIAGNOSTIC)
    for name, patients in {"sensitivity": 8, "specificity": 16, "accuracy": 24}.items():
        right_of_all = (patients if right else 0, patients)
        exact = binomtest(*right_of_all).proportion_ci(confidence_level=0.95, method="exact")
        assert (found[name].low, found[name].high) == pytest.approx((exact.low, exact.high))
    assert found["sensitivity"].low == pytest.approx(0.6306 if right else 0, abs=1e-4), "8 of 8: 63 %"


def test_a_share_of_few_patients_has_no_interval_however_many_patients_there_are() -> None:
    truth = np.array([1] * (MIN_PATIENTS - 1) + [0] * 20)
    found = scores(of(truth, np.tile([0.3, 0.6], 13)[: len(truth)]), alone(len(truth)), RESAMPLING, DIAGNOSTIC)
    assert math.isnan(found["sensitivity"].low) and not math.isnan(found["sensitivity"].estimate)
    assert not math.isnan(found["specificity"].low)
    bins = reliability(of([0, 1] * 10 + [1] * 3, [0.5] * 20 + [0.95] * 3), alone(23), RESAMPLING)
    assert list(np.flatnonzero(~np.isnan(bins.share.low))) == [4]
    assert bins.share.estimate[9] == 1


def test_many_slices_of_a_patient_are_one_trial() -> None:
    truth = np.ones(60, int)
    apart = scores(of(truth, truth), alone(60), RESAMPLING, DIAGNOSTIC)["accuracy"]
    together = scores(of(truth, truth), alone(6) * 10, RESAMPLING, DIAGNOSTIC)["accuracy"]
    assert together.low == pytest.approx(0.025 ** (1 / 6)) and apart.low == pytest.approx(0.025 ** (1 / 60))
    few = np.arange(60)[None] % 6 == 0  # ten rows, all of one patient
    share = by_patient(lambda weights: np.ones(len(weights)), alone(6) * 10, RESAMPLING, within=UNIT, groups=few, share=True)
    assert share.estimate == 1 and math.isnan(share.low)


@pytest.mark.parametrize("metric", [*DIAGNOSTIC.values(), *CALIBRATION.values()])
@pytest.mark.parametrize("predictions", [binary(7), guesses(7, 37, 3)], ids=["two", "three"])
def test_weights_are_resamples_and_rows_do_not_mix(metric: Metric, predictions: Predictions) -> None:
    weights = np.random.default_rng(0).integers(0, 3, (5, 40)).astype(float)
    each = [metric(predictions, row[None])[0] for row in weights]
    assert metric(predictions, weights) == pytest.approx(each)


def test_cross_entropy_is_that_of_each_cases_class_and_finite_where_it_was_called_impossible() -> None:
    found = cross_entropy(Predictions(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [1.0, 0.0]])))
    assert found == pytest.approx([-np.log(0.9), -np.log(0.4), -np.log(np.finfo(np.float32).tiny)])


def test_the_table_has_a_row_a_case_and_arm() -> None:
    predictions = Predictions(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]))
    table = per_case_and_arm(
        {"encoder": predictions, "random": predictions}, ["c1", "c2"], ["p1", "p2"], ["glioma", "meningioma"]
    )
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
def test_heads_tell_three_classes_apart(head: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) // 2 % 3
    features = rng.normal(size=(120, 10)) + 4 * np.eye(10)[labels]
    fitted, _ = fit_head(
        head, features[:90], labels[:90], folds_by_patient(labels[:90], [str(i // 2) for i in range(90)], 4, 0), SEARCH, seed=0
    )
    found = Predictions(labels[90:], fitted.predict_proba(features[90:]))
    assert found.probabilities.sum(axis=1) == pytest.approx(1)
    assert METRICS["balanced_accuracy"](found, np.ones((1, 30)))[0] > 0.9


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
