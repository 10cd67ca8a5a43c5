"""A classifier beside its controls: what the checks and the first lines say, from figures and from pictures of two sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from medexp import registry
from medexp.checks import Check, Severity
from medexp.config.shared import Resampling
from medexp.evaluation.classification import Predictions
from medexp.evaluation.controls import Control
from medexp.phases import phase
from medexp.phases.shared.controls import Beside, compared
from tests.phases.shared.image_runs import MODELS, Pipeline, brain, run
from tests.runs import artifact, figures, last_run, logged_table

RESAMPLING = Resampling(samples=400, confidence=0.95, seed=0)


def says(signal: float, cases: int, seed: int) -> Predictions:
    """Probabilities of which class 1's lie higher by so many standard deviations."""
    truth = np.arange(cases) % 2
    margin = signal * (truth - 0.5) + np.random.default_rng(seed).normal(size=cases)
    probability = 1 / (1 + np.exp(-margin))
    return Predictions(truth, np.stack([1 - probability, probability], axis=1))


def stand(model: float, *, headers: float = 0, untrained: float = 0, classical: float = 0, cases: int = 200) -> Beside:
    """A classifier and controls of such strengths."""
    given = {"headers": headers, "untrained": untrained, "classical": classical}
    every = [
        Control(name, name, [says(signal, cases, seed)], fields=("width",))
        for seed, (name, signal) in enumerate(given.items(), 1)
    ]
    return compared("the head", says(model, cases, 0), every, [f"p{number}" for number in range(cases)], RESAMPLING)


def shortcut(found: Beside) -> Check:
    return found.checks[0]


def controls(found: Beside) -> Check:
    return found.checks[1]


@pytest.mark.parametrize(("strength", "word"), [(2.4, "as good"), (4.0, "better")])
def test_headers_that_are_as_good_or_better_fail_shortcut_and_are_told_first(strength: float, word: str) -> None:
    found = stand(2.0, headers=strength)
    check = shortcut(found)
    assert not check.passed and check.severity is Severity.DIAGNOSTIC and word in str(check.measured["found"])
    model, headers = (found.scores[name]["auroc"].estimate for name in ("model", "headers"))
    assert (
        found.first[0] == f"The files' headers alone (width) are {word}: AUROC {headers:.2f} against {model:.2f} of the head."
    )
    assert controls(found).passed, "it is better than an untrained network"


def test_headers_that_cannot_be_told_from_the_model_are_not_said_to_be_better() -> None:
    found = stand(1.3, headers=1.2)
    assert not shortcut(found).passed and found.first[0].startswith(
        "No better than the files' headers alone (width), as far as"
    )
    assert "as good" not in str(shortcut(found).measured["found"])


@pytest.mark.parametrize("headers", [0.0, 0.8])
def test_a_model_that_is_better_than_the_headers_passes(headers: float) -> None:
    found = stand(3.0, headers=headers)
    assert shortcut(found).passed and controls(found).passed and found.first == []
    assert "does better than the files' headers alone (width)" in " ".join(found.words)


def test_of_noise_the_headers_are_not_accused_and_the_model_is() -> None:
    """Labels that nothing tells apart, of cases enough to know that."""
    found = stand(0.0, cases=2000)
    assert shortcut(found).passed and "next to nothing" in str(shortcut(found).measured["found"])
    check = controls(found)
    assert not check.passed and check.severity is Severity.DIAGNOSTIC
    assert check.measured["not_beaten"] == "untrained, classical"
    assert [one.split(" in AUROC")[0] for one in found.first] == ["No better than untrained", "No better than classical"]


@pytest.mark.parametrize("cases", [4, 16])
def test_with_few_cases_neither_passes_and_it_is_said_that_they_are_too_few(cases: int) -> None:
    """With four patients there is no interval at all."""
    found = stand(1.0, headers=0.3, untrained=0.3, classical=0.3, cases=cases)
    assert not shortcut(found).passed and not controls(found).passed
    assert "oo few cases to tell" in found.first[0] and "too few" in str(shortcut(found).measured["found"])


def test_headers_that_are_alike_tell_nothing_of_however_few_cases() -> None:
    constant = Predictions(np.arange(4) % 2, np.full((4, 2), 0.5))
    found = compared("the head", says(1, 4, 0), [Control("headers", "x", [constant])], list("abcd"), RESAMPLING)
    assert shortcut(found).passed and "alike" in str(shortcut(found).measured["found"])


@pytest.mark.parametrize(("untrained", "classical", "named"), [(3, 0, "untrained"), (0, 3, "classical"), (0, 0, "none")])
def test_the_control_that_is_as_good_is_named(untrained: float, classical: float, named: str) -> None:
    check = controls(stand(3.0, untrained=untrained, classical=classical))
    assert check.measured["not_beaten"] == named and check.passed is (named == "none")


def test_every_phase_with_a_classifier_lists_both_checks() -> None:
    for name in ("phase2_2", "phase2_3", "probe"):
        assert {"SHORTCUT", "CONTROLS"} <= set(phase(name).checks)


# ------------------------------------------------------------------------------------------------------------------ pictures


def write(folder: Path, count: int, *, size_tells: bool, picture_tells: bool) -> Path:
    """Pictures of both classes; uncompressed, so that a file's size follows from the picture's alone."""
    for label, name in enumerate(("no", "yes")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image, _ = brain(10**6 * (1 + label) + number, bool(label) if picture_tells else number % 2 == 0)
            margin = 3 * label if size_tells else 3 * (number % 2)
            wide = np.pad(image, ((0, 0), (0, margin)))
            Image.fromarray(wide).save(folder / name / f"{number}.png", compress_level=0)
    return folder


SETTINGS = {"data__val_fraction": "0.5", "data__test_fraction": "0.1", "shown": "0", "training__lr_head": "0.02"}


def test_a_label_that_the_pictures_size_gives_away_is_told_in_the_first_line_and_on_the_card(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "k", 30, size_tells=True, picture_tells=False)
    assert run("phase2_2", None, kaggle_dir=str(folder), **SETTINGS) in (0, 3)
    made = last_run(client, "phase2_2")
    told, first = "The files' headers alone (", made.data.tags["mlflow.note.content"].splitlines()[0]
    assert first.startswith(f"**{told}") and "width" in first.partition(")")[0] and "are as good: AUROC 1.00 against" in first
    out = capsys.readouterr().out
    assert out.index(told) < out.index("\u2502 accuracy"), "before any figure"
    alone = "finds a patient in none of 30 names, such as 0"
    assert out.index(alone) < out.index(told) and alone in made.data.tags["mlflow.note.content"]
    (check,) = (one for one in json.loads(artifact(made, "checks.json").read_text()) if one["id"] == "SHORTCUT")
    assert not check["passed"] and check["severity"] == "DIAGNOSTIC"
    card = (registry.pull(f"models:/{MODELS['phase2_2']}/2").folder / "README.md").read_text()
    assert told in card.partition("## Limitations")[2].partition("\n## ")[0]
    rows = logged_table(made, "controls.csv").set_index(["control", "metric"])
    assert rows["estimate"]["headers", "auroc"] == 1
    assert set(rows.index.get_level_values(0)) == {"model", "untrained", "classical", "headers", "majority"}
    assert "figures/controls.png" in {item.path for item in client.list_artifacts(made.info.run_id, "figures")}
    assert figures(made)["controls/headers/auroc"] == 1


def test_a_label_that_the_picture_shows_and_its_size_does_not_passes(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path
) -> None:
    folder = write(tmp_path / "k", 30, size_tells=False, picture_tells=True)
    assert run("phase2_2", None, kaggle_dir=str(folder), **SETTINGS) == 0
    made = last_run(client, "phase2_2")
    assert figures(made)["checks/SHORTCUT"] == 1 and figures(made)["checks/P2_2-MAJORITY"] == 1
    assert "headers" not in made.data.tags["mlflow.note.content"].splitlines()[0]
