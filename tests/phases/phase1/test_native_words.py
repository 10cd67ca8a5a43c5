"""What is said of masks on the cases' own grids beside those on the network's."""

import math

import pytest

from medexp.phases.phase1.segmentation import native_in_words


def means(native: float, grid: float, core: float = 0.5) -> dict[str, float]:
    on_grid = {"dice_TC": core, "dice_WT": grid, "dice_ET": math.nan}
    return on_grid | {"native_dice_TC": core, "native_dice_WT": native, "native_dice_ET": math.nan}


def test_both_stand_beside_each_other_and_what_no_case_holds_has_none() -> None:
    said = native_in_words(means(0.76, 0.8), (3.0, 3.0, 4.5))
    on_grids = "on each case's own grid: Dice TC 0.500, WT 0.760, ET -; on the network's grid TC 0.500, WT 0.800, ET -."
    assert said == f"Masks as they are written, {on_grids}"


@pytest.mark.parametrize(("native", "told"), [(0.74, "-0.060"), (0.86, "+0.060")])
def test_of_a_difference_it_is_said_what_it_can_come_from(native: float, told: str) -> None:
    said = native_in_words(means(native, 0.8), (3.0, 3.0, 4.5))
    assert f"WT differs by {told}: a mask that is written has all of a tumour's regions within WT" in said
    assert "comes from a grid of 3 x 3 x 4.5 mm" in said


@pytest.mark.parametrize(("native", "grid"), [(0.76, 0.8), (math.nan, 0.8), (math.nan, math.nan)])
def test_a_small_one_or_none_is_not(native: float, grid: float) -> None:
    assert "differs" not in native_in_words(means(native, grid), (3.0, 3.0, 4.5))
