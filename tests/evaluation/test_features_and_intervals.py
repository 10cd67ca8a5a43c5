"""Probes, R2 and bootstrap intervals on data whose answers are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.config.shared import Resampling
from medexp.evaluation.features import mean_r2, probe, r2, r2_gains
from medexp.evaluation.intervals import MIN_PATIENTS, Interval, mean_by_patient


def drawn(seed: int, samples: int = 500) -> Resampling:
    return Resampling(samples, 0.95, seed)


def test_a_probe_reads_what_is_linear_in_the_features_and_not_noise() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 10))
    targets = np.stack([features @ rng.normal(size=10), rng.normal(size=200)], axis=1)
    predicted = probe(features[:150], targets[:150], features[150:])
    readable, noise = r2(targets[150:], predicted)
    assert readable > 0.99
    assert noise < 0.2


def test_features_are_standardised_so_tiny_variation_counts() -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(100, 3))
    targets = signal @ np.ones((3, 1))
    features = 5 + 1e-4 * signal
    assert mean_r2(targets[80:], probe(features[:80], targets[:80], features[80:])) > 0.95


def test_r2_where_it_is_not_defined_is_nan_and_is_left_out_of_the_mean() -> None:
    targets = np.array([[1.0, 2.0], [1.0, 4.0]])
    assert math.isnan(r2(targets, targets)[0])
    assert mean_r2(targets, targets) == 1
    assert math.isnan(mean_r2(targets[:1], targets[:1]))


def test_a_probe_without_cases_to_choose_a_penalty_on_predicts_nothing() -> None:
    assert np.isnan(probe(np.ones((1, 4)), np.ones((1, 2)), np.ones((3, 4)))).all()


def test_the_mean_of_the_targets_has_an_r2_of_zero() -> None:
    targets = np.random.default_rng(0).normal(size=(20, 3))
    assert r2(targets, np.tile(targets.mean(axis=0), (20, 1))) == pytest.approx(np.zeros(3))


def test_the_interval_holds_the_estimate_and_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        values = rng.normal(loc=0.3, size=40)
        found = mean_by_patient(values, [f"p{i}" for i in range(40)], drawn(1))
        assert found.low <= found.estimate <= found.high
        covered += found.low <= 0.3 <= found.high
    assert covered >= 34  # of 40 at 95 %


def test_scans_of_one_patient_do_not_count_as_patients() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=6), 10)
    apart = mean_by_patient(values, [str(i) for i in range(60)], drawn(0))
    together = mean_by_patient(values, [str(i // 10) for i in range(60)], drawn(0))
    assert together.patients == 6
    assert together.high - together.low > 2 * (apart.high - apart.low)


@pytest.mark.parametrize("patients", [1, MIN_PATIENTS - 1])
def test_too_few_patients_give_no_interval(patients: int) -> None:
    found = mean_by_patient(np.arange(10.0), [str(i % patients) for i in range(10)], drawn(0))
    assert found.estimate == 4.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert str(found) == "4.500, no interval" and found.as_gain == "+4.500, no interval"


def test_differences_alone_have_a_sign() -> None:
    """A Dice of 0.506 is no gain."""
    assert str(Interval(0.506, 0.403, 0.591, 8)) == "0.506 [0.403, 0.591]"
    assert Interval(0.506, -0.403, 0.591, 8).as_gain == "+0.506 [-0.403, +0.591]"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=MIN_PATIENTS, max_size=12), st.integers(0, 2**16))
def test_bounds_lie_within_the_values_and_follow_from_the_seed(values: list[float], seed: int) -> None:
    array = np.array(values)
    first, second = (mean_by_patient(array, [str(i) for i in range(len(values))], drawn(seed, 100)) for _ in range(2))
    assert first == second
    assert array.min() - 1e-9 <= first.low <= first.high <= array.max() + 1e-9


def test_rows_gains_average_to_the_difference_in_mean_r2() -> None:
    rng = np.random.default_rng(0)
    targets, one, other = rng.normal(size=(3, 20, 4))
    targets[:, 2] = 7  # no R2 here
    gains = r2_gains(targets, one, other)
    assert gains.mean() == pytest.approx(mean_r2(targets, one) - mean_r2(targets, other))
    assert np.isnan(r2_gains(targets[:1], one[:1], other[:1])).all()
