"""Ridge regressions and R2 on data whose answers are known."""

import math

import numpy as np
import pytest

from medexp.evaluation.regression import mean_r2, r2, r2_gains, ridge


def alone(cases: int) -> list[str]:
    """Every case of a patient of its own."""
    return [f"p{number}" for number in range(cases)]


def test_a_regression_reads_what_is_linear_in_the_features_and_not_noise() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 10))
    targets = np.stack([features @ rng.normal(size=10), rng.normal(size=200)], axis=1)
    predicted = ridge(features[:150], targets[:150], alone(150), features[150:])
    readable, noise = r2(targets[150:], predicted)
    assert readable > 0.99
    assert noise < 0.2


def test_features_are_standardised_so_tiny_variation_counts() -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(100, 3))
    targets = signal @ np.ones((3, 1))
    features = 5 + 1e-4 * signal
    assert mean_r2(targets[80:], ridge(features[:80], targets[:80], alone(80), features[80:])) > 0.95


def test_r2_where_it_is_not_defined_is_nan_and_is_left_out_of_the_mean() -> None:
    targets = np.array([[1.0, 2.0], [1.0, 4.0]])
    assert math.isnan(r2(targets, targets)[0])
    assert mean_r2(targets, targets) == 1
    assert math.isnan(mean_r2(targets[:1], targets[:1]))


def test_a_regression_without_cases_to_choose_a_penalty_on_predicts_nothing() -> None:
    assert np.isnan(ridge(np.ones((2, 4)), np.ones((2, 2)), ["p", "p"], np.ones((3, 4)))).all()


def test_scans_of_one_patient_do_not_vouch_for_each_other() -> None:
    """Two scans of each of 30 patients, alike in 100 features that tell nothing of others: held against its twin each target
    looks read, and a regression so chosen is worse on new patients than their mean."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(60, 100)), rng.normal(size=(60, 1))
    scans, patients = np.repeat(np.arange(30), 2), [f"p{number}" for number in np.repeat(np.arange(30), 2)]
    twins = features[scans] + 0.01 * rng.normal(size=(60, 100))
    assert mean_r2(targets[30:], ridge(twins, targets[scans], alone(60), features[30:])) < -0.5
    assert mean_r2(targets[30:], ridge(twins, targets[scans], patients, features[30:])) > -0.1


def test_a_case_unlike_all_others_is_given_no_value_that_none_of_them_has() -> None:
    """Of one case in 60 all features are a thousand deviations off: its prediction stays in the range of what was seen."""
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(160, 10)), rng.normal(size=(10, 2))
    targets = features @ weights + rng.normal(size=(160, 2))
    new = features[100:].copy()
    new[0] = 1000
    predicted = ridge(features[:100], targets[:100], alone(100), new)
    low, high = targets[:100].min(axis=0), targets[:100].max(axis=0)
    assert ((predicted >= low) & (predicted <= high)).all()
    assert ((predicted[0] == low) | (predicted[0] == high)).all()
    assert mean_r2(targets[100:], predicted) > 0.5


def test_the_mean_of_the_targets_has_an_r2_of_zero() -> None:
    targets = np.random.default_rng(0).normal(size=(20, 3))
    assert r2(targets, np.tile(targets.mean(axis=0), (20, 1))) == pytest.approx(np.zeros(3))


def test_rows_gains_average_to_the_difference_in_mean_r2() -> None:
    rng = np.random.default_rng(0)
    targets, one, other = rng.normal(size=(3, 20, 4))
    targets[:, 2] = 7  # no R2 here
    gains = r2_gains(targets, one, other)
    assert gains.mean() == pytest.approx(mean_r2(targets, one) - mean_r2(targets, other))
    assert np.isnan(r2_gains(targets[:1], one[:1], other[:1])).all()
