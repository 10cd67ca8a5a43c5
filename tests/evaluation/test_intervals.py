"""Bootstrap intervals on data whose answers are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.folds import AUROC, FOLDS, out_of_fold
from benchmarks.intervals import CELLS, covered, truth_of
from medexp.config.shared import Resampling
from medexp.evaluation.classification import METRICS, Predictions, gain, scores
from medexp.evaluation.intervals import (
    GAIN,
    MIN_OF_A_CLASS,
    MIN_PATIENTS,
    NOISE,
    UNBOUNDED,
    UNIT,
    Interval,
    Range,
    mean_by_patient,
)


def drawn(seed: int, samples: int = 500) -> Resampling:
    return Resampling(samples, 0.95, seed)


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
@given(
    st.sampled_from([UNIT, GAIN, UNBOUNDED, (0.0, math.inf), (-math.inf, 1.0)]),
    st.lists(st.floats(-1, 1), min_size=MIN_PATIENTS, max_size=12),
    st.integers(0, 2**16),
)
def test_bounds_lie_within_the_range_about_the_estimate_and_follow_from_the_seed(
    within: Range, values: list[float], seed: int
) -> None:
    low, high = within
    array = np.clip(np.array(values), max(low, -1), min(high, 1))
    patients = [str(i) for i in range(len(values))]
    first, second = (mean_by_patient(array, patients, drawn(seed, 100), within) for _ in range(2))
    assert str(first) == str(second)
    if math.isnan(first.low):
        assert math.isnan(first.high) and (first.error < NOISE or abs(first.estimate - low) < NOISE)
    else:
        assert low - 1e-9 <= first.low <= first.estimate <= first.high <= high + 1e-9 and first.low < first.high


@pytest.mark.parametrize(
    ("interval", "digits", "bounds", "cell"),
    [
        (Interval(0.5, 0.25, 0.75, 9), 2, True, "0.50 [0.25, 0.75]"),
        (Interval(0.5, 0.25, 0.75, 9), 3, False, "0.500"),
        (Interval(0.5, math.nan, math.nan, 2), 2, True, "0.50"),
        (Interval(math.nan, math.nan, math.nan, 9), 2, True, "-"),
    ],
)
def test_a_cell_of_a_table_has_a_figure_with_its_interval_where_there_is_one(
    interval: Interval, digits: int, bounds: bool, cell: str
) -> None:
    assert interval.in_a_cell(digits, bounds=bounds) == cell


def test_what_a_difference_is_told_as() -> None:
    words = {"few": "too few", "better": "better", "worse": "worse", "same": "no difference"}
    nan = math.nan
    for interval, told in [
        (Interval(0.1, 0.05, 0.15, 8, 0.02), "better: +0.100"),
        (Interval(-0.1, -0.15, -0.05, 8, 0.02), "worse: -0.100"),
        (Interval(1e-9, 9e-10, 2e-9, 8, 2e-10), "no difference: the figures are the same."),
        (Interval(1e-17, nan, nan, 6, 0.0), "no difference: the figures are the same."),
        (Interval(0.0, nan, nan, 3), "too few (+0.000, no interval)."),
        (
            Interval(0.03, -0.05, 0.11, 8, 0.035),
            "too few to tell: about 88 patients would be needed for a difference of",
        ),
        (Interval(0.03, nan, nan, 4, 0.05), "too few (+0.030, no interval); about 90 patients would be needed"),
        (Interval(0.02, nan, nan, 24, 0.0), "better: +0.020, no interval, in all patients alike."),
        (Interval(nan, nan, nan, 1), "too few."),
        (Interval(0.5, nan, nan, 4, 0.02), "too few (+0.500, no interval); about 6 patients would be needed"),
        (Interval(0.3, nan, nan, 40, 0.05), "too few (+0.300, no interval)."),
        (Interval(1e-4, -0.1, 0.1, 8, 0.05), "an interval that holds 0; one of about 0.16 would have been seen with 80 %"),
        (
            mean_by_patient(np.array([-1, 1] * 4), [*"abcdefgh"], drawn(0), GAIN),
            "of so few patients none at all would have been",
        ),
        (mean_by_patient(np.array([-1, 1] * 4), [*"abcdefgh"], drawn(0)), "one of about 1.2 would have been seen"),
    ]:
        assert told in interval.told(**words)


def test_what_would_have_been_seen_is_seen_in_eight_of_ten_also_where_patients_have_unequal_numbers_of_scans() -> None:
    rng, rows, seen = np.random.default_rng(0), [1, 1, 1, 1, 2, 3, 5, 16], []
    patient = np.repeat(np.arange(len(rows)), rows)
    error = math.sqrt(sum(size**2 for size in rows)) / sum(rows)  # rows of one patient being alike, with an SD of 1
    effective = sum(rows) ** 2 / sum(size**2 for size in rows)
    known = Interval(0.0, -1.0, 1.0, len(rows), error, effective)
    for number in range(300):
        values = (rng.normal(size=len(rows)) + known.seen_at(0.95))[patient]
        found = mean_by_patient(values, [str(one) for one in patient], drawn(number, 200))
        assert found.effective == pytest.approx(effective)
        seen.append(found.above)
    assert np.mean(seen) > 0.8 - 3 * math.sqrt(0.16 / 300) > 0.7


@pytest.mark.parametrize("shift", [0.0, 1e-17, 1e-9, -1e-9])
def test_a_difference_below_noise_is_the_same_and_one_above_it_is_not(shift: float) -> None:
    names = [str(i) for i in range(6)]
    jitter = np.random.default_rng(0).normal(1, 0.1, 6)
    found = mean_by_patient(shift * jitter, names, drawn(0), GAIN)
    assert found.none and not found.above and not found.below and math.isnan(found.low)
    real = mean_by_patient((shift + 1e-3) * jitter, names, drawn(0), GAIN)
    assert real.above and not real.none


@pytest.mark.parametrize(
    ("kind", "patients", "clusters"),
    [
        ("mean, normal", 6, False),
        ("mean, normal", 10, True),
        ("Dice", 8, False),
        ("proportion 0.8", 10, False),
        ("AUROC 0.8", 10, False),
        ("balanced, AUROC 0.8", 20, False),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(kind: str, patients: int, clusters: bool) -> None:
    """Of 250 data sets within four standard errors of 95 %; the percentile interval fails it in these cells."""
    draw = CELLS[kind]
    found = covered(draw, patients, clusters, sets=250, samples=200, truth=truth_of(draw, clusters))
    assert found.absent == 0
    assert abs(found.now - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 250)
    assert found.percentile < 0.92


def test_intervals_of_cases_out_of_fold_hold_the_truth_though_folds_share_their_training_cases() -> None:
    names, draws = [str(case) for case in range(50)], [out_of_fold(50, 2, 0.0, seed) for seed in range(80)]
    held = {}
    for folds in (0, FOLDS):
        bounds = [scores(one, names, Resampling(150, 0.95, seed, folds), AUROC)["auroc"] for seed, one in enumerate(draws)]
        held[folds] = np.mean([one.low <= 0.5 <= one.high for one in bounds])
    assert held[FOLDS] > 0.92 > held[0] + 0.02


def guess(rng: np.random.Generator, rare: int, cases: int) -> Predictions:
    """What has nothing to do with the truth, of which so many cases are of class 1."""
    probability = rng.random(cases)
    return Predictions((np.arange(cases) < rare).astype(int), np.stack([1 - probability, probability], axis=1))


@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "macro_f1"])
def test_patients_are_counted_in_each_class(metric: str) -> None:
    """Of scores and of gains; two scans of one patient are not two of its class."""
    rng, names = np.random.default_rng(0), [str(case) for case in range(40)]
    for rare, owners in [(MIN_OF_A_CLASS, names), (MIN_OF_A_CLASS - 1, names), (MIN_OF_A_CLASS, [names[1], *names[1:]])]:
        one, other = guess(rng, rare, 40), guess(rng, rare, 40)
        found = [
            scores(one, owners, drawn(0, 100), {metric: METRICS[metric]})[metric],
            gain(METRICS[metric], one, other, owners, drawn(0, 100)),
        ]
        told = len({*owners[:rare]}) >= MIN_OF_A_CLASS
        assert [not math.isnan(interval.low) for interval in found] == [told, told]
        assert not math.isnan(gain(METRICS["accuracy"], one, other, owners, drawn(0, 100)).low)


def test_of_a_class_of_so_few_a_guess_is_seldom_told_from_another() -> None:
    rng, names = np.random.default_rng(1), [str(case) for case in range(24)]
    guesses = [[guess(rng, MIN_OF_A_CLASS, 24) for _ in range(2)] for _ in range(200)]
    found = [gain(METRICS["auroc"], *pair, names, drawn(0, 100)) for pair in guesses]
    assert np.mean([one.above or one.below for one in found]) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
