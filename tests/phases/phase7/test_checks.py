"""Each check passes where it should, and fails where it should."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medexp.checks import Severity
from medexp.evaluation.intervals import Interval
from medexp.evaluation.proportions import proportion
from medexp.models.meanflow.lora import Counts
from medexp.phases.phase7 import PHASE, checks
from medexp.registry.definitions import load_definition

COUNTS = Counts(lora=800, slices=50, convolutions=90, total=100_000)
DEMANDS = {"filled": 0.95, "contrast": 0.1, "coupling_low": 0.0}
GOOD = {"filled": 1.0, "contrast": 0.12, "coupling_low": 0.06}


@pytest.mark.parametrize(
    ("dice", "used", "asked", "passed"),
    [
        ({"vae": 0.9, "downsample": 0.5}, "vae", "auto", True),
        ({"vae": 0.8, "downsample": 0.5}, "downsample", "auto", True),
        ({"vae": 0.8, "downsample": 0.5}, "vae", "vae", False),
        ({"vae": 0.9, "downsample": 0.95}, "downsample", "downsample", False),
        ({"vae": float("nan"), "downsample": float("nan")}, "downsample", "auto", False),
    ],
)
def test_the_strategy_is_the_one_that_follows_from_the_masks(dice, used, asked, passed):
    assert checks.round_trip(dice, used, asked, 0.85).passed is passed


@pytest.mark.parametrize(
    ("difference", "finite", "layers", "passed"), [(0.0, True, 21, True), (1e-7, True, 21, False), (0.0, False, 21, False)]
)
def test_injection_changes_nothing_to_the_bit(difference, finite, layers, passed):
    assert checks.injects(difference, finite, layers).passed is passed
    assert not checks.injects(0.0, True, 0).passed


@pytest.mark.parametrize(
    ("counts", "expected", "boundary", "changed", "passed"),
    [
        (COUNTS, 800, "slices", [], True),
        (COUNTS, 800, "convolutions", [], True),
        (replace(COUNTS, lora=960), 960, "slices", [], False),
        (COUNTS, 900, "slices", [], False),
        (COUNTS, 800, "slices", ["unet.conv_in.conv.weight"], False),
        (replace(COUNTS, convolutions=300), 800, "convolutions", [], False),
    ],
)
def test_what_trains_is_counted_and_the_base_is_as_it_was(counts, expected, boundary, changed, passed):
    check = checks.trains(counts, expected, boundary, changed, 0.01)
    assert check.passed is passed
    assert ("not frozen" in check.threshold) is (boundary == "convolutions")
    assert {"lora", "lora_and_slices", "lora_and_convolutions"} <= check.measured.keys()


@pytest.mark.parametrize(("last", "passed"), [(0.9, True), (1.0, False), (float("nan"), False)])
def test_the_loss_falls(last, passed):
    history = pd.DataFrame({"train/loss": [1.0, last], "val/loss": [1.0, 1.0]})
    assert checks.falls(history).passed is passed


@pytest.mark.parametrize("name", DEMANDS)
@pytest.mark.parametrize("value", [-0.04, float("nan")])
def test_each_set_of_samples_has_to_show_lesions(name, value):
    sets = {"one step, seed 0": GOOD, "4 steps, seed 1": GOOD}
    assert checks.lesions(sets, DEMANDS).passed
    worse = checks.lesions(sets | {"4 steps, seed 1": GOOD | {name: value}}, DEMANDS)
    assert not worse.passed and worse.measured["missed"] == f"4 steps, seed 1: {name}"
    assert worse.severity is Severity.BLOCKING


@pytest.mark.parametrize(("value", "passed"), [(0.1, True), (0.09, False), (float("nan"), False)])
def test_masks_belong_to_their_images_as_far_as_real_ones_do(value, passed):
    check = checks.coupling({"one step": value, "4 steps": 0.2}, 0.08, Interval(0.2, 0.1, 0.3, 30), 0.5)
    assert check.passed is passed and check.severity is Severity.DIAGNOSTIC and check.measured["real_through_vae"] == 0.08


@pytest.mark.parametrize("low", [-0.02, float("nan")])
def test_where_real_masks_fit_no_image_nothing_is_told(low):
    check = checks.coupling({"one step": 0.3}, 0.0, Interval(0.01, low, 0.04, 30), 0.5)
    assert not check.passed and "whether masks and images belong together" in check.advice


@pytest.mark.parametrize(
    ("drawn", "real", "passed"),
    [(0.31, 0.6, True), (0.29, 0.6, False), (0.26, 0.3, True), (0.24, 0.3, False), (0.025, 0.04, True), (0.0, 0.04, False)],
)
def test_overlap_is_held_against_what_real_masks_have(drawn, real, passed):
    assert checks.overlap({"one step": drawn, "4 steps": 0.5}, real, 0.3, 0.05).passed is passed


@pytest.mark.parametrize(
    ("low", "high", "outcome", "passed"),
    [(0.01, 0.03, "better", True), (-0.02, 0.03, "no difference can be told", True), (-0.03, -0.01, "worse", False)],
)
def test_powers_are_compared_and_a_null_is_told_as_one(low, high, outcome, passed):
    check = checks.powers(Interval((low + high) / 2, low, high, 8), 8)
    assert (check.passed, check.measured["outcome"]) == (passed, outcome)
    nan = float("nan")
    few = checks.powers(Interval(0.01, nan, nan, 2), 2)
    assert few.passed and few.measured["outcome"] == "no difference can be told"
    none = checks.powers(None, 0)
    assert not none.passed and none.measured["outcome"] == "not run" and none.severity is Severity.DIAGNOSTIC


def test_what_is_saved_draws_what_was_judged():
    assert checks.pull(1e-6, 0).passed and not checks.pull(1e-3, 2).passed


def test_a_base_draws_neither_one_head_nor_noise():
    assert checks.variety({1: 0.55, 4: 0.5}, 0.5).passed
    assert not checks.variety({1: 0.95, 4: 0.5}, 0.5).passed and not checks.variety({1: 0.1}, 0.5).passed


def test_samples_without_masks_are_no_pairs():
    def filled(share: float, samples: int) -> Interval:
        return proportion(np.arange(samples) < share * samples, [str(number) for number in range(samples)], 0.95)

    few, many, half = filled(15 / 16, 16), filled(15 / 16, 640), filled(0.5, 64)
    assert checks.drawn({"one step": few}, 0.95).passed, "one empty mask of 16 is no sign of 5 % of them"
    assert checks.drawn({"one step": many}, 0.9).passed
    assert not checks.drawn({"one step": few, "4 steps": half}, 0.95).passed


def test_what_may_be_promoted_passed_checks_that_the_phase_makes():
    assert set(load_definition("phase7_fcd_adapter").required_checks) <= set(PHASE.checks)
