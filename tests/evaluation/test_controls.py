"""The control room on constructed cases: what is there to be read is read, and what is not is not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medexp.config.shared import Resampling
from medexp.data.headers import Header
from medexp.evaluation.classification import Predictions, auroc, balanced_accuracy
from medexp.evaluation.classifiers import folds_by_patient
from medexp.evaluation.controls import Source, Task, control, gain_over, majority, of_headers

RESAMPLING = Resampling(samples=300, confidence=0.95, seed=0)
CASES = 60
LABELS = np.arange(CASES) % 2
PATIENTS = [f"p{number}" for number in range(CASES)]
SPLIT = [(np.arange(30), np.arange(30, CASES))]
FOLDS = folds_by_patient(LABELS, PATIENTS, 3, 0)


def task(pairs: Any = SPLIT, labels: np.ndarray = LABELS, classes: int = 2) -> Task:
    return Task(labels, PATIENTS, classes, pairs)


def headers(**fields: Sequence[Any]) -> list[Header]:
    return [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=CASES)


def area(found: Any, pairs: Any = SPLIT) -> float:
    return float(found.measure(auroc, np.ones((1, len(task(pairs).scored))))[0])


@pytest.mark.parametrize("pairs", [SPLIT, FOLDS])
def test_headers_that_give_the_label_away_are_found_and_named(tmp_path: Path, pairs: Any) -> None:
    of_size = headers(width=512.0 + 64 * LABELS, noise=noise(), mode=["L"] * CASES)
    found = of_headers(of_size, task(pairs), tmp_path)
    assert area(found, pairs) == 1 and found.fields[0] == "width" and "mode" not in found.fields
    of_device = headers(device=[("Acme", None)[label] for label in LABELS], size=[7] * CASES)
    found = of_headers(of_device, task(pairs), tmp_path)
    assert area(found, pairs) == 1 and found.fields == ["device"], "text, and what only some files say"


@pytest.mark.parametrize("pairs", [SPLIT, FOLDS])
def test_headers_that_say_nothing_tell_nothing(tmp_path: Path, pairs: Any) -> None:
    found = of_headers(headers(width=noise(1), height=noise(2)), task(pairs), tmp_path)
    assert gain_over(majority(task(pairs)), auroc, found.predictions[0], task(pairs).owners, RESAMPLING).low < 0
    alike = of_headers(headers(width=[5.0] * CASES, software=[None] * CASES), task(pairs), tmp_path)
    assert area(alike, pairs) == 0.5 and alike.fields == (), "nothing differs"


def test_text_and_numbers_of_one_field_and_fields_that_few_files_have(tmp_path: Path) -> None:
    mixed: list[Header] = [{"dpi": 72.0} if index % 3 else {"dpi": "inch"} for index in range(CASES)]
    mixed[5] = {"only here": 1.0}
    found = of_headers(mixed, task(), tmp_path)
    assert np.isfinite(found.predictions[0].probabilities).all()


@pytest.mark.parametrize("learner", ["logistic", "svm"])
@pytest.mark.parametrize("pairs", [SPLIT, FOLDS])
def test_features_that_tell_the_classes_apart_do_and_others_do_not(tmp_path: Path, learner: Any, pairs: Any) -> None:
    telling, idle = np.stack([noise(1), noise(2) + 6 * LABELS], axis=1), np.stack([noise(1), noise(2)], axis=1)
    made = [
        control(Source(name, name, learner, name, lambda rows=rows: [rows]), task(pairs), tmp_path)
        for name, rows in (("telling", telling), ("idle", idle))
    ]
    assert area(made[0], pairs) > 0.95 and 0.2 < area(made[1], pairs) < 0.8
    gain = gain_over(made[1], balanced_accuracy, made[0].predictions[0], task(pairs).owners, RESAMPLING)
    assert gain.low > 0 and gain.patients == len(set(task(pairs).owners))


@pytest.mark.parametrize("learner", ["logistic", "svm", "forest"])
def test_three_classes(tmp_path: Path, learner: Any) -> None:
    labels = np.arange(CASES) % 3
    rows = np.stack([noise(1), noise(2)], axis=1) + 8 * np.eye(3)[labels][:, :2]
    found = control(Source("x", "x", learner, None, lambda: [rows]), task(labels=labels, classes=3), tmp_path).predictions[0]
    assert (found.predicted == found.truth).mean() > 0.9 and np.allclose(found.probabilities.sum(axis=1), 1)


def test_a_case_is_predicted_by_what_was_fitted_on_the_other_side_of_its_pair(tmp_path: Path) -> None:
    """Every feature vector names its case, so whoever saw a case knows its label."""
    labels = np.random.default_rng(0).integers(0, 2, CASES)
    found = control(Source("x", "x", "svm", None, lambda: [10 * np.eye(CASES)]), task(FOLDS, labels), tmp_path)
    assert 0.2 < (found.predictions[0].predicted == labels).mean() < 0.8
    assert list(found.predictions[0].truth) == list(labels), "in the order of the rows"


def test_a_figure_of_several_seeds_is_their_mean(tmp_path: Path) -> None:
    several = [np.stack([noise(seed), noise(seed + 9) + LABELS], axis=1) for seed in range(3)]
    found = control(Source("x", "x", "logistic", None, lambda: several), task(), tmp_path)
    each = [control(Source("x", "x", "logistic", None, lambda one=one: [one]), task(), tmp_path) for one in several]
    assert area(found) == pytest.approx(np.mean([area(one) for one in each]))
    assert found.scores(task().owners, RESAMPLING)["auroc"].estimate == pytest.approx(area(found))
    over = gain_over(found, auroc, each[0].predictions[0], task().owners, RESAMPLING)
    assert over.estimate == pytest.approx(area(each[0]) - area(found))


def test_the_majority_is_that_of_the_scored_cases_and_one_for_all_folds() -> None:
    labels = np.array([0] * 30 + [1] * 20 + [0] * 10)
    found = majority(task(labels=labels))
    assert set(found.predictions[0].predicted) == {1} and area(found) == 0.5
    assert area(majority(task(FOLDS)), FOLDS) == 0.5, "a constant of each fold's own would rank the cases"


def test_a_classifier_that_is_always_right_is_above_a_constant_answer() -> None:
    perfect = Predictions(LABELS[30:], np.eye(2)[LABELS[30:]])
    for metric in (auroc, balanced_accuracy):
        assert gain_over(majority(task()), metric, perfect, task().owners, RESAMPLING).above


def test_what_was_computed_is_read_again_and_follows_from_cases_splits_and_features(tmp_path: Path) -> None:
    asked = []

    def features() -> list[np.ndarray]:
        asked.append(1)
        return [np.stack([noise(1), noise(2) + LABELS], axis=1)]

    source = Source("x", "x", "logistic", ["digest"], features)
    first = control(source, task(), tmp_path)
    again = control(source, task(), tmp_path)
    assert len(asked) == 1 and np.array_equal(first.predictions[0].probabilities, again.predictions[0].probabilities)
    assert first.chosen == again.chosen
    flipped = LABELS.copy()
    flipped[:2] = 1 - flipped[:2]
    for other in (task(FOLDS), task(labels=flipped)):
        control(source, other, tmp_path)
    control(Source("x", "x", "logistic", ["other"], features), task(), tmp_path)
    assert len(asked) == 4
    for entry in (tmp_path / "controls").iterdir():
        entry.write_bytes(b"damaged")
    for _ in range(2):
        assert control(source, task(), tmp_path).chosen == first.chosen
    assert len(asked) == 5, "a damaged file is made anew, once"
