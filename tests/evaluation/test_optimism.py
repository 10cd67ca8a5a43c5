"""Optimism of a choice, where the truth is known: candidates that differ by noise alone, one that is best, no choice."""

import math
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from medexp.config.shared import Resampling
from medexp.evaluation.classification import Predictions
from medexp.evaluation.optimism import as_one_mean, balanced_by_case, optimism

DRAWS = Resampling(200, 0.95, 0)


def simulated(true: np.ndarray, patients: int, scans: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Scores of candidates on the scans of patients: a true mean each, patients that differ, their scans less so."""
    rng = np.random.default_rng(seed)
    of_patients = np.repeat(rng.normal(size=(len(true), patients)), scans, axis=1)
    scores = true[:, None] + of_patients + 0.3 * rng.normal(size=of_patients.shape)
    return scores, [f"p{index // scans}" for index in range(patients * scans)]


def gaps(
    true: np.ndarray, direction: Literal["maximize", "minimize"], scans: int = 1, rounds: int = 100
) -> tuple[float, float]:
    """What a choice was worth on new patients, minus what it scored, and what was said of it: means over simulations."""
    told, real = [], []
    for seed in range(rounds):
        found = optimism(*simulated(true, 30, scans, seed), direction, DRAWS)
        told.append(found.change)
        real.append(true[found.chosen] - found.score)
    return float(np.mean(real)), float(np.mean(told))


@pytest.mark.parametrize(("direction", "sign"), [("maximize", -1), ("minimize", 1)])
@pytest.mark.parametrize("scans", [1, 3])
def test_of_candidates_that_differ_by_noise_alone_the_whole_gap_is_told(
    direction: Literal["maximize", "minimize"], sign: int, scans: int
) -> None:
    real, told = gaps(np.zeros(20), direction, scans)
    assert sign * real > 0.25, "the simulation has no optimism to find"
    assert told == pytest.approx(real, rel=0.15)


def test_of_one_that_is_clearly_the_best_nothing_is_said_to_be_lost() -> None:
    real, told = gaps(np.array([0.0] * 19 + [5.0]), "maximize")
    assert abs(real) < 0.05 and told == pytest.approx(0, abs=1e-9)


def test_of_candidates_that_truly_differ_a_part_is_told_and_rather_too_much() -> None:
    real, told = gaps(np.linspace(0, 0.6, 20), "maximize")
    assert -0.35 < real < -0.05 and told - 0.02 < real and told > 2 * real


def two_tasks(true: float, patients: int, seed: int) -> pd.Series:
    """As of phase 2.3: a score of the scans of some patients, and the mean recall of two unlike classes of all of them."""
    rng = np.random.default_rng(seed)
    names = np.array([f"p{index}" for index in range(patients)])
    tumour = np.arange(patients) % 4 > 0
    dice = pd.Series(0.7 + true + rng.normal(0, 0.1, patients), names)[tumour]
    right = pd.Series((rng.uniform(size=patients) < np.where(tumour, 0.9, 0.6) + true).astype(float), names)
    return as_one_mean(dice, as_one_mean(right[tumour], right[~tumour]))


def test_a_choice_by_the_mean_of_two_tasks_is_judged_too() -> None:
    plain = two_tasks(0.0, 4000, 0)
    assert plain.mean() == pytest.approx((0.7 + (0.9 + 0.6) / 2) / 2, abs=0.02)
    told, real = [], []
    for seed in range(100):
        scores = [two_tasks(0.0, 40, 1000 * seed + epoch) for epoch in range(10)]
        found = optimism(np.stack(scores), list(scores[0].index), "maximize", DRAWS)
        told.append(found.change)
        real.append(0.725 - found.score)
    assert np.mean(real) < -0.04, "the simulation has no optimism to find"
    assert np.mean(told) == pytest.approx(np.mean(real), rel=0.2)


def test_the_values_of_a_balanced_accuracy_have_it_as_their_mean() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [20, 5, 9])
    found = Predictions(truth, rng.dirichlet(np.ones(3), len(truth)))
    values = balanced_by_case(found, [f"p{index // 2}" for index in range(len(truth))])
    assert values.mean() == pytest.approx(balanced_accuracy_score(truth, found.predicted), abs=1e-12)
    assert len(values) == len(truth) and values.index.value_counts().max() == 2


def test_groups_of_one_kind_are_the_values_themselves() -> None:
    values = pd.Series([0.1, 0.5, 0.9], ["a", "b", "b"])
    pd.testing.assert_series_equal(as_one_mean(values, values[:0]), values)


def test_where_there_is_nothing_to_choose_nothing_is_lost() -> None:
    scores, patients = simulated(np.zeros(1), 30, 2, 0)
    assert optimism(scores, patients, "maximize", DRAWS).change == pytest.approx(0, abs=1e-12)


def test_a_candidate_with_a_nan_is_never_chosen_and_the_first_of_equals_is() -> None:
    scores = np.ones((4, 10))
    scores[0, 3] = math.nan
    assert optimism(scores, [str(i) for i in range(10)], "maximize", DRAWS).chosen == 1
    with pytest.raises(ValueError, match="no candidate"):
        optimism(scores * math.nan, [str(i) for i in range(10)], "maximize", DRAWS)


def test_of_too_few_patients_nothing_is_expected() -> None:
    scores, patients = simulated(np.zeros(3), 5, 4, 0)
    found = optimism(scores, patients, "maximize", DRAWS)
    assert math.isnan(found.expected) and found.patients == 5 and found.score == scores.mean(axis=1).max()
