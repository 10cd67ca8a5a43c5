"""What is said of the epoch that a training kept."""

import numpy as np
import pandas as pd
import pytest

from medexp.config.shared import Resampling
from medexp.phases.shared.publishing import SEED, caveat
from medexp.training.loop import FitResult

DRAWS = Resampling(200, 0.95, 0)


def trained(cases: np.ndarray, patients: list[str], *, chosen: bool) -> FitResult:
    """Epochs with these scores of cases, of which the largest mean is the best."""
    means = cases.mean(axis=1)
    best = int(means.argmax())
    kept = best if chosen else len(cases) - 1
    return FitResult(pd.DataFrame(), kept, best, float(means[best]), cases, patients, chosen, "dice", "maximize")


def noise(patients: int = 30) -> tuple[np.ndarray, list[str]]:
    return np.random.default_rng(0).normal(0.5, 0.2, size=(20, patients)), [f"p{index}" for index in range(patients)]


def test_of_the_last_epoch_nothing_is_said_to_be_lost() -> None:
    cases, patients = noise()
    said = caveat(trained(cases, patients, chosen=False), DRAWS)
    assert said == f"No epoch was chosen, the last one is kept; the test split was not read. {SEED}"


def test_an_epoch_that_is_the_best_by_chance_is_said_to_fall_to_what_all_of_them_are() -> None:
    cases, patients = noise()
    said = caveat(trained(cases, patients, chosen=True), DRAWS)
    best = cases.mean(axis=1).max()
    assert f"The chosen epoch has a validation dice of {best:.3f}; chosen for its luck too, it is expected to be 0." in said
    expected = float(said.split("expected to be ")[1].split(" on new")[0])
    assert expected == pytest.approx(0.5, abs=0.03) and best > 0.56


def test_one_that_is_clearly_the_best_is_not() -> None:
    cases, patients = noise()
    cases[7] += 1
    assert "which the choice did not flatter" in caveat(trained(cases, patients, chosen=True), DRAWS)


def test_of_few_patients_nothing_is_expected() -> None:
    cases, patients = noise(5)
    assert "what new patients would say cannot be told from 5" in caveat(trained(cases, patients, chosen=True), DRAWS)
