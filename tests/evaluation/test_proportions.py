"""Intervals of shares cover what they say, in families too, and modalities are told apart only where enough cases do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from medexp.config.shared import Resampling
from medexp.evaluation.proportions import mcnemar, modality_spread, proportion

DRAWN = Resampling(300, 0.95, 0)


def own(count: int) -> list[str]:
    return [f"f{number}" for number in range(count)]


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99]))
def test_of_cases_of_their_own_the_interval_is_clopper_and_pearsons(found: tuple[int, int], confidence: float) -> None:
    hits, count = found
    interval = proportion(np.arange(count) < hits, own(count), confidence)
    exact = binomtest(hits, count).proportion_ci(confidence, "exact")
    np.testing.assert_allclose((interval.low, interval.high), (exact.low, exact.high), atol=1e-9)
    assert interval.estimate == hits / count and interval.patients == count == interval.effective


def test_eight_of_eight_are_no_proof_of_90_percent() -> None:
    interval = proportion([True] * 8, own(8), 0.95)
    assert str(interval) == "1.000 [0.631, 1.000]"
    none = proportion([False] * 8, own(8), 0.95)
    assert (none.low, round(none.high, 3)) == (0, 0.369)


def test_all_right_counts_by_family() -> None:
    """24 cases in 8 families of 3, all right: no more than 8 of 8 say; and one large family says next to nothing."""
    families = [f"f{number // 3}" for number in range(24)]
    assert str(proportion([True] * 24, families, 0.95)) == "1.000 [0.631, 1.000]"
    uneven = proportion([True] * 24, ["large"] * 20 + own(4), 0.95)
    assert uneven.low < 0.1
    one = proportion([True, True, False], ["f"] * 3, 0.95)
    assert one.low < 0.05 and one.high > 0.99 and one.patients == 1


def test_families_that_are_alike_within_widen_the_interval_and_others_do_not_narrow_it() -> None:
    families = [f"f{number // 4}" for number in range(40)]
    alike = proportion(np.repeat([1, 1, 1, 1, 1, 1, 1, 0, 0, 0], 4), families, 0.95)
    mixed = proportion(([1, 1, 1, 0, 1, 1, 0, 1] * 5)[:40], families, 0.95)
    # p (1 - p) of 0.21 over a variance of 10 / 9 x 16 x 2.1 / 40^2 is 9 families, times (t of 39 / t of 9)^2
    assert alike.effective == pytest.approx(9 * (2.0227 / 2.2622) ** 2, rel=1e-4)
    assert alike.low < proportion([True] * 7 + [False] * 3, own(10), 0.95).low + 0.01
    assert mixed.effective == 40


def test_no_case_gives_no_figure() -> None:
    assert math.isnan(proportion([], [], 0.95).estimate)


@pytest.mark.parametrize(("families", "size", "alike"), [(12, 1, 0.0), (12, 3, 0.0), (12, 3, 0.5), (30, 3, 0.5)])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_intervals_cover_the_truth(families: int, size: int, alike: float, share: float) -> None:
    """Of beta-binomial families, whose cases correlate by `alike`; 0.92 is what 300 samples of 95 % exceed."""
    rng = np.random.default_rng(0)
    spread = (1 - alike) / alike if alike else math.inf
    names = [f"f{number // size}" for number in range(families * size)]
    covered = 0
    for _ in range(300):
        shares = np.full(families, share) if math.isinf(spread) else rng.beta(share * spread, (1 - share) * spread, families)
        hits = rng.random(families * size) < np.repeat(shares, size)
        interval = proportion(hits, names, 0.95)
        covered += interval.low <= share <= interval.high
    assert covered / 300 > 0.92


def test_intervals_that_take_cases_of_a_family_as_their_own_would_not_cover() -> None:
    """What is guarded against can be seen by the simulation above."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        hits = np.repeat(rng.random(12) < 0.7, 3)
        covered += proportion(hits, own(36), 0.95).low <= 0.7 <= proportion(hits, own(36), 0.95).high
    assert covered / 300 < 0.85


def test_three_answers_that_change_are_no_difference() -> None:
    """From 19 to 22 of 24, three changed and none back: p = 2 x (1/2)^3."""
    before = np.arange(24) < 19
    after = np.arange(24) < 22
    assert mcnemar(before, after) == mcnemar(after, before) == 0.25
    assert mcnemar(before, before) == 1
    assert mcnemar(np.arange(24) < 10, after) == pytest.approx(2 * 0.5**12)
    assert mcnemar([1, 0, 1, 0], [0, 1, 0, 1]) == 1
    with pytest.raises(ValueError, match="paired"):
        mcnemar([1, 0], [1])


def test_mcnemar_keeps_its_level_and_sees_a_difference() -> None:
    rng = np.random.default_rng(0)
    null = [mcnemar(rng.random(60) < 0.7, rng.random(60) < 0.7) < 0.05 for _ in range(200)]
    real = [mcnemar(rng.random(60) < 0.5, rng.random(60) < 0.9) < 0.05 for _ in range(50)]
    assert np.mean(null) < 0.08 and np.mean(real) > 0.9


def cases(shares: dict[str, float], each: int, size: int = 1) -> tuple[np.ndarray, list[str], list[str]]:
    """Hits, modalities and families of so many cases of each modality, hits spread evenly."""
    hits = np.concatenate(
        [np.floor(np.arange(1, each + 1) * share) > np.floor(np.arange(each) * share) for share in shares.values()]
    )
    return hits, [name for name in shares for _ in range(each)], [f"{name}{n // size}" for name in shares for n in range(each)]


def test_modalities_that_are_the_same_are_shown_to_be_where_cases_suffice() -> None:
    shares = dict.fromkeys(("mri", "ultrasound", "xray"), 0.9)
    few, many = (modality_spread(*cases(shares, each), DRAWN, 0.05) for each in (20, 700))
    assert few.found == "cannot be told with n=60" and many.found == "shown"
    assert len(many.pairs) == 3 and all(abs(one.estimate) < 1e-9 for one in many.pairs.values())


def test_intervals_of_all_pairs_hold_at_once() -> None:
    shares = {"mri": 0.8, "xray": 0.9}
    alone = modality_spread(*cases(shares, 60), DRAWN, 0.05).largest
    among = modality_spread(*cases(shares | {"a": 0.7, "b": 0.6, "c": 0.5}, 60), DRAWN, 0.05).pairs["mri", "xray"]
    assert among.estimate == pytest.approx(-alone.estimate)
    assert among.high - among.low > 1.2 * (alone.high - alone.low)
    sure = modality_spread(*cases(dict.fromkeys(shares, 1.0), 50), DRAWN, 0.05).largest
    assert (-sure.low, sure.high) == pytest.approx([1 - 0.0125 ** (1 / 50)] * 2)  # 97.5 % of each holds for both


def test_all_right_everywhere_shows_it_from_enough_cases_on() -> None:
    shares = dict.fromkeys(("mri", "xray"), 1.0)
    for each, size, found in ((2, 1, "cannot be told with n=4"), (50, 1, "cannot be told with n=100"), (200, 1, "shown")):
        assert modality_spread(*cases(shares, each, size), DRAWN, 0.05).found == found
    assert modality_spread(*cases(shares, 200, 10), DRAWN, 0.05).found == "cannot be told with n=400"


def test_a_modality_that_is_behind_is_found_and_named() -> None:
    apart = modality_spread(*cases({"mri": 0.95, "ultrasound": 0.5, "xray": 0.9}, 60), DRAWN, 0.05)
    assert apart.found == "not" and apart.pair == ("mri", "ultrasound")
    assert apart.largest.estimate == pytest.approx(0.45) and apart.largest.low > 0.05
    assert apart.pairs["ultrasound", "xray"].estimate == pytest.approx(-0.4)
    turned = modality_spread(*cases({"mri": 0.5, "xray": 0.9}, 60), DRAWN, 0.05)
    assert turned.pair == ("xray", "mri") and 0.05 < turned.largest.low < turned.largest.estimate < turned.largest.high
    certain = modality_spread(*cases({"mri": 1.0, "xray": 0.5}, 60), DRAWN, 0.05)
    assert certain.found == "not" and certain.pair == ("mri", "xray") and certain.largest.low > 0.05


def test_two_cases_of_a_modality_tell_nothing() -> None:
    hits = [True, True, True, False, True, True, False, False]
    modalities = [name for name in ("histopathology", "mri", "ultrasound", "xray") for _ in range(2)]
    apart = modality_spread(hits, modalities, own(8), DRAWN, 0.05)
    assert apart.found == "cannot be told with n=8" and apart.largest.estimate == 1
    single = modality_spread([True, False], ["mri", "mri"], own(2), DRAWN, 0.05)
    assert single.found == "cannot be told with n=2" and single.pair == () and math.isnan(single.largest.estimate)
