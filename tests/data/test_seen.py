"""What training cases looked like, and what of a new case lies outside."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.data.seen import outside, ranges

NUMBERS = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=20)


@given(values=NUMBERS)
def test_what_was_seen_is_never_outside(values: list[float]) -> None:
    known = ranges({"spacing x": value, "orientation": "LPS"} for value in values)
    assert all(outside({"spacing x": value, "orientation": "LPS"}, known) == [] for value in values)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ({"spacing z": 5.0}, ["spacing z is 5; it was 1"]),
        ({"spacing z": 1.01}, []),
        ({"orientation": "LAS"}, ["orientation is LAS; it was LPS or RAS"]),
        ({"t2f_mean": 900.0}, ["t2f_mean is 900; it was 400 to 409"]),
        ({"t2f_mean": None, "another": 3.0}, []),
    ],
)
def test_what_lies_outside_is_told(case: dict[str, float | str | None], told: list[str]) -> None:
    seen = [{"spacing z": 1.0, "orientation": name, "t2f_mean": 400.0 + i} for i, name in enumerate(["LPS", "RAS"] * 5)]
    assert outside(case, ranges(seen)) == told


def test_few_cases_are_no_range_of_intensities_and_text_that_may_name_somebody_is_not_kept() -> None:
    known = ranges([{"t2f_mean": 400.0, "spacing x": 1.0, "t2f descrip": "Mrs Smith", "t2f file size": 9.0}] * 4)
    assert set(known) == {"t2f_mean", "spacing x"}
    assert outside({"t2f_mean": 4000.0, "spacing x": 4.0}, known) == ["spacing x is 4; it was 1"]


def test_of_fifty_normal_values_about_one_new_one_in_ten_thousand_is_outside() -> None:
    rng, found = np.random.default_rng(0), 0
    for _ in range(200):
        known = ranges({"spacing x": value} for value in rng.normal(100, 10, 50))
        found += sum(bool(outside({"spacing x": value}, known)) for value in rng.normal(100, 10, 200))
    assert found / 40_000 < 0.001
