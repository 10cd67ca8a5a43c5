"""Intervals of Dice where cases lack a region."""

import math

import numpy as np
import pandas as pd
import pytest

from medexp.config.shared import Resampling
from medexp.phases.phase1.segmentation import dice_by_patient, intervals, with_mean_dice

DRAWS = Resampling(300, 0.95, 0)


def test_each_region_goes_by_the_cases_that_hold_it_and_their_mean_is_that_of_the_figures() -> None:
    drawn = np.random.default_rng(0).uniform(0.3, 0.9, size=(12, 3))
    drawn[:4, 2] = math.nan
    table = pd.DataFrame(drawn, columns=["dice_TC", "dice_WT", "dice_ET"])
    table = table.assign(case=[f"c{index}" for index in range(12)], patient=[f"p{index // 2}" for index in range(12)])
    found = intervals(table.assign(patient=table["case"]), DRAWS)
    assert {name: one.estimate for name, one in found.items()} == pytest.approx(with_mean_dice(table))
    chosen_by = dice_by_patient(table)
    assert chosen_by.mean() == pytest.approx(found["dice"].estimate) and set(chosen_by.index) == set(table["patient"])
    assert all(one.low < one.estimate < one.high for one in found.values())
    assert found["dice_ET"].patients == 8 and found["dice"].patients == 12
    none = intervals(table.assign(dice_ET=math.nan), DRAWS)
    assert "dice_ET" not in none and none["dice"].estimate == pytest.approx(np.nanmean(drawn[:, :2], axis=0).mean())
