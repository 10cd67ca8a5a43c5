"""Power against simulation, and the two ways of asking for it against each other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.config.shared import Resampling
from medexp.evaluation.intervals import mean_by_patient
from medexp.evaluation.power import MOST, patients_needed, power_of, smallest_difference, spread_bounds


@pytest.mark.parametrize("patients", [6, 16, 40])
def test_the_smallest_difference_is_seen_in_eight_of_ten_data_sets(patients: int) -> None:
    """By the intervals that the platform prints, within four standard errors."""
    rng, names, sets = np.random.default_rng(patients), [str(i) for i in range(patients)], 300
    difference = smallest_difference(patients, 0.05)
    seen = [
        mean_by_patient(rng.normal(difference, 0.05, patients), names, Resampling(200, 0.95, number)).above
        for number in range(sets)
    ]
    assert abs(np.mean(seen) - 0.8) < 4 * math.sqrt(0.16 / sets)


def test_right_answers_too_by_what_the_cases_say_of_their_spread() -> None:
    """Two classifiers that disagree on 3 of 10 cases, one right in 2.5 of them: the spread is that of -1, 0 and 1."""
    rng, gain, patients, sets = np.random.default_rng(0), 0.2, 60, 200
    drawn = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.7, 0.25], size=(sets, patients))
    names = [str(i) for i in range(patients)]
    seen = [mean_by_patient(values, names, Resampling(200, 0.95, 0)).above for values in drawn]
    assert np.mean(seen) == pytest.approx(power_of(gain, patients, math.sqrt(0.3 - gain**2)), abs=0.07)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 0.5), st.floats(0.001, 1.0))
def test_as_many_patients_as_it_takes_see_the_difference_and_one_fewer_do_not(difference: float, spread: float) -> None:
    needed = patients_needed(-difference, spread)
    if needed is None:
        assert smallest_difference(MOST, spread) > difference
    else:
        assert smallest_difference(needed, spread) <= difference * (1 + 1e-6)
        assert needed == 2 or smallest_difference(needed - 1, spread) > difference * (1 - 1e-6)


def test_what_nothing_is_known_of_has_no_answer() -> None:
    assert patients_needed(0.0, 0.1) is None and patients_needed(0.1, math.nan) is None
    assert math.isnan(smallest_difference(1, 0.1)) and math.isnan(smallest_difference(10, 0.0))
    assert patients_needed(0.1, 0.0) == 2


def test_a_spread_that_was_measured_on_few_patients_is_hardly_known() -> None:
    rng = np.random.default_rng(0)
    for patients in (6, 40):
        measured = rng.normal(0, 1, (2000, patients)).std(axis=1, ddof=1)
        low, high = zip(*(spread_bounds(float(one), patients) for one in measured), strict=True)
        assert np.mean((np.array(low) <= 1) & (np.array(high) >= 1)) == pytest.approx(0.95, abs=0.02)
    assert spread_bounds(1.0, 6)[1] > 2 > spread_bounds(1.0, 40)[1]
