"""Bootstrap intervals on data whose answers are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.config.shared import Resampling
from medexp.evaluation.intervals import MIN_PATIENTS, Interval, mean_by_patient


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
@given(st.lists(st.floats(-1, 1), min_size=MIN_PATIENTS, max_size=12), st.integers(0, 2**16))
def test_bounds_lie_within_the_values_and_follow_from_the_seed(values: list[float], seed: int) -> None:
    array = np.array(values)
    first, second = (mean_by_patient(array, [str(i) for i in range(len(values))], drawn(seed, 100)) for _ in range(2))
    assert first == second
    assert array.min() - 1e-9 <= first.low <= first.high <= array.max() + 1e-9


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
