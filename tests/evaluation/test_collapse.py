"""The spread of features: what has collapsed is told, and what has not is not."""

import numpy as np
import pytest

from medexp.errors import TrainingDiverged
from medexp.evaluation.collapse import spread_of

NOISE = np.random.default_rng(0).normal(size=(200, 16))


def test_constant_features_have_collapsed_also_with_what_rounding_adds() -> None:
    for features in (np.full((20, 8), 3.0), np.zeros((20, 8)), 3 + 1e-7 * NOISE[:20, :8]):
        found = spread_of(features)
        assert found.collapsed and found.relative_sd < 1e-6
        assert found.told.startswith("has collapsed: its features are the same for all cases (relative SD ")


def test_features_on_one_line_have_collapsed_and_others_have_not() -> None:
    line = 5 + NOISE[:, :1] @ NOISE[:1]
    assert "different along one direction alone" in spread_of(line).told
    spread = spread_of(NOISE)
    assert not spread.collapsed and spread.told.startswith("relative SD 1, effective rank 15.")
    assert not spread_of(100 + NOISE).collapsed, "far from 0, and different"
    assert not spread_of(NOISE[:3]).collapsed, "three cases span two directions at most"


def test_the_figures_are_what_they_are_called() -> None:
    found = spread_of(2 + NOISE)
    assert found.relative_sd == pytest.approx(NOISE.std(axis=0).mean() / np.sqrt(((2 + NOISE) ** 2).mean()), rel=0.01)
    unit = (2 + NOISE) / np.linalg.norm(2 + NOISE, axis=1, keepdims=True)
    similarity = unit @ unit.T
    assert found.cosine == pytest.approx(similarity[~np.eye(200, dtype=bool)].mean())
    equal = np.kron([1.0, -1.0], np.eye(8)).T  # eight directions of one length each
    assert spread_of(equal).effective_rank == pytest.approx(8)
    assert spread_of(7 * equal).effective_rank == pytest.approx(8), "whatever the scale"


def test_one_case_and_features_that_are_none() -> None:
    assert np.isnan(spread_of(np.ones((1, 4))).cosine) and not spread_of(np.ones((1, 4))).collapsed
    with pytest.raises(TrainingDiverged, match="NaN or infinite in 1 of 2 cases"):
        spread_of(np.array([[1.0, np.nan], [1.0, 2.0]]))
