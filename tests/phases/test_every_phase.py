"""What holds for every phase that trains on images: versions, trials, going on after a kill, the leak guard, bad input.

Such a phase is a row here: in `MODELS`, in `INTERRUPTED`, and with the `bad_input.py` of its folder.
"""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient

from medexp import phases, registry
from medexp.data.manifest import patient_sha256
from medexp.registry.definitions import load_definition
from medexp.tracking.runs import tracked_run
from tests.configured import configured, run_phase
from tests.phases.shared.image_runs import MODELS, SIZE, Pipeline, run, settings
from tests.phases.shared.interrupting import killed_in
from tests.runs import figures, history, last_run, logged_table, measured, without_course

BAD = {phase: import_module(f"tests.phases.{phase}.bad_input").BAD for phase in MODELS}
COMPARED_BY = {"phase2_1": "dice", "phase2_2": "accuracy", "phase2_3": "balanced_accuracy"}
CHOSEN_BY = {"phase2_1": "dice", "phase2_2": "cross_entropy", "phase2_3": "both"}
INTERRUPTED = [  # after so many epochs, with these keys
    ("phase2_1", 2, {}, ["train/loss", "val/dice"]),
    ("phase2_2", 3, {"training__cache_features": "true"}, ["train/loss"]),
    ("phase2_2", 3, {"training__cache_features": "false"}, ["train/loss"]),
    ("phase2_3", 1, {}, ["train/loss"]),
]


def test_no_phase_that_can_be_searched_is_left_out() -> None:
    """Phase 1, which trains on volumes, is in tests/end_to_end; oct, medgemma and phase7 are in folders of their own here."""
    assert {*MODELS, "phase1", "oct", "medgemma", "phase7"} == set(phases.studied())
    assert {phase for phase, *_ in INTERRUPTED} == CHOSEN_BY.keys() == MODELS.keys()


# ----------------------------------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize("phase", MODELS)
def test_a_version_loads_both_ways_and_both_say_the_same(client: MlflowClient, phase: str) -> None:
    uri = f"models:/{MODELS[phase]}@champion"
    images = np.random.default_rng(0).normal(size=(3, 1, SIZE, SIZE)).astype("float32")
    net, other = registry.load(uri), mlflow.pyfunc.load_model(uri)
    assert not net.training
    with torch.inference_mode():
        output = net(torch.from_numpy(images))
    found = other.predict(images)
    if phase == "phase2_2":
        assert np.array_equal(output.numpy(), found) and found.shape == (3, 2)
        return
    assert set(found) == {"seg", "cls"}
    assert all(np.array_equal(output[task].numpy(), logits) for task, logits in found.items())
    assert found["seg"].shape == (3, 1, SIZE, SIZE)


@pytest.mark.parametrize("phase", MODELS)
def test_a_definition_holds_for_the_version_that_its_phase_made(client: MlflowClient, phase: str) -> None:
    name = MODELS[phase]
    definition, folder = load_definition(name), registry.pull(f"models:/{name}@champion").folder
    assert definition.producing_phase == phase and definition.promotion is not None
    contract = json.loads((folder / "contract.json").read_text())
    assert contract["input"]["example_shape"] == [1, 1, SIZE, SIZE]
    checks = json.loads((folder / "checks.json").read_text())
    assert set(definition.required_checks) <= {check["id"] for check in checks}
    scored = pd.read_csv(folder / "per_case.csv")
    assert {"case", "patient", *definition.promotion.columns} <= set(scored)
    assert len(scored) >= definition.promotion.min_cases, "enough to be judged by"
    cases = pd.read_csv(folder / "cases.csv")
    assert set(scored["patient"].map(patient_sha256)) <= set(cases.loc[cases["split"] == "val", "patient_sha256"])
    assert (folder / "README.md").read_text().startswith(f"# {name}: {definition.title}")
    measured_there = (folder / "README.md").read_text().partition("## Measured")[2].partition("\n## ")[0]
    figures = [line for line in measured_there.splitlines() if line.startswith("| validation ")]
    assert figures and not any("+" in line for line in figures), "no differences"
    version = client.get_model_version_by_alias(name, "champion")
    assert version.tags["medexp.run"] == last_run(client, phase).info.run_id


# ------------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("phase", MODELS)
def test_what_has_no_course_is_no_metric_and_the_figure_that_runs_are_compared_by_ends_its_course(
    client: MlflowClient, phase: str
) -> None:
    made, compared_by = last_run(client, phase), COMPARED_BY[phase]
    assert without_course(client, made) == []
    once = logged_table(made, "intervals.csv", index_col="metric")
    kept = once.loc[f"val/final/{compared_by}"]
    assert made.data.metrics[f"val/{compared_by}"] == pytest.approx(kept["estimate"], abs=1e-6)
    name, figure = made.data.tags["medexp.headline"].split(" 0." if kept["estimate"] < 1 else " 1.", 1)
    assert name.lower() == compared_by.replace("_", " ") and figure.endswith(f"[{kept['low']:.3f}, {kept['high']:.3f}]")


# ------------------------------------------------------------------------------------------------------ epochs that are kept


@pytest.mark.parametrize(("phase", "criterion"), CHOSEN_BY.items())
def test_what_the_choice_of_an_epoch_made_of_its_score_is_said_and_nothing_where_none_was_chosen(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str], phase: str, criterion: str
) -> None:
    """That of phase 1 is in tests/end_to_end."""
    kept = pipeline.told[phase]
    assert "No epoch was chosen, the last one is kept" in kept and "new patients" not in kept
    assert run(phase, pipeline.folder, training__patience="1", training__epochs="2", shown="0") in (0, 3)
    said = f"The best epoch was chosen on .* The chosen epoch has a validation {criterion} of ([\\d.]+)[,;] .*new patients"
    (score,) = re.findall(said, capsys.readouterr().out)
    values = [value for _, value in history(client, last_run(client, phase), f"val/{criterion}")]
    assert float(score) == pytest.approx(min(values) if phase == "phase2_2" else max(values), abs=6e-4)


# ------------------------------------------------------------------------------------------------------------------- trials


@pytest.mark.parametrize("phase", MODELS)
def test_a_trial_logs_what_a_study_searches_for_and_registers_nothing(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path, phase: str
) -> None:
    module, config = import_module(f"medexp.phases.{phase}"), configured(phase, settings(phase, pipeline.folder))
    module.warm_up(config, tmp_path, test=True)
    with tracked_run(phase, config) as tracked:
        module.objective(config, tracked, test=True)
    metrics = figures(client.get_run(tracked.id))
    goals = yaml.safe_load(phases.phase(phase).profile("sweep").read_text())["goals"]
    assert goals and all(goal["metric"].startswith("val/final/") for goal in goals)
    prefixes = ("val/final/", "val/", "test/")  # what is searched for, what pruning goes by, and the test split
    assert {goal["metric"].replace("val/final/", prefix) for goal in goals for prefix in prefixes} <= metrics.keys()
    assert len(client.search_model_versions(f"name = '{MODELS[phase]}'")) == 1


# ---------------------------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize(("phase", "epochs", "keys", "course"), INTERRUPTED)
def test_an_interrupted_run_goes_on_and_ends_the_same(
    client: MlflowClient,
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    epochs: int,
    keys: dict[str, str],
    course: list[str],
) -> None:
    first = last_run(client, phase)
    interrupted = killed_in(phase, epochs, pipeline, client, monkeypatch, **keys)
    assert run(phase, None, resume=interrupted) == 0
    made = last_run(client, phase)
    assert made.data.tags["medexp.resumed_from"] == interrupted
    assert measured(made) == measured(first)
    for name in course:
        assert history(client, made, name) == history(client, first, name)
    weights = [client.get_model_version(MODELS[phase], number).tags["medexp.weights_digest"] for number in ("1", "2")]
    assert weights[0] == weights[1]


# --------------------------------------------------------------------------------------------------- trainings that diverge


@pytest.mark.parametrize(("phase", "key"), [("phase2_1", "lr_network"), ("phase2_2", "lr_head"), ("phase2_3", "lr_decoder")])
def test_a_training_that_diverged_has_failed_whatever_the_checks_before_it_said(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str], phase: str, key: str
) -> None:
    """That of medgemma, oct and phase7 is in folders of their own here."""
    assert run(phase, pipeline.folder, **{f"training__{key}": "1e30"}) == 3
    told = capsys.readouterr().err
    assert "not finite in epoch 1; lower training.lr_" in told and f"training.{key}" in told
    made = last_run(client, phase)
    assert (made.info.status, made.data.tags["medexp.verdict"]) == ("FAILED", "FAILED")
    assert len(client.search_model_versions(f"name = '{MODELS[phase]}'")) == 1


# --------------------------------------------------------------------------------------------------------------- leak guard


@pytest.mark.parametrize(("phase", "earlier"), [("phase2_2", ["phase2_1"]), ("phase2_3", ["phase2_1", "phase2_2"])])
def test_validation_patients_that_its_network_was_trained_on_stop_it_before_anything_is_trained(
    client: MlflowClient,
    pipeline: Pipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    phase: str,
    earlier: list[str],
) -> None:
    trained = pd.concat([logged_table(last_run(client, one), "manifest.csv").query("split == 'train'") for one in earlier])
    assert run(phase, pipeline.folder, data__split_seed="1") == 3
    told = capsys.readouterr().err
    made = last_run(client, phase)
    validated = logged_table(made, "manifest.csv").query("split == 'val'")
    leaked = set(validated["patient"]) & set(trained["patient"])
    assert any("BraTS-MEN-" in patient for patient in leaked)
    assert all(patient in told for patient in leaked) or re.search(r"; and \d+ more", told)
    assert not any(patient in told for patient in set(validated["patient"]) - leaked)
    for words in ("BLOCKING check failed: LEAK", f"{MODELS['phase2_1']} version 1", f"leaked_patients = {len(leaked)}"):
        assert words in told
    assert (made.info.status, made.data.tags["medexp.verdict"]) == ("FAILED", "FAILED")
    assert not (tmp_path / "outputs" / made.info.run_id / "state").exists()
    assert len(client.search_model_versions(f"name = '{MODELS[phase]}'")) == 1


# ---------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("phase", phases.names())
def test_an_unknown_key_is_refused_before_anything_is_written(
    store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str], phase: str
) -> None:
    before = sorted(tmp_path.iterdir())
    assert run_phase(phase, no_such_key=1) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"medexp {phase}: error: --no_such_key: no such flag") and "Traceback" not in told
    assert sorted(tmp_path.iterdir()) == before
    assert [experiment.name for experiment in store.search_experiments()] == ["Default"]


@pytest.mark.parametrize(
    ("phase", "given", "words"),
    [pytest.param(phase, *row, id=f"{phase}, {name}") for phase, rows in BAD.items() for name, row in rows.items()],
)
def test_input_that_cannot_be_used(
    client: MlflowClient,
    pipeline: Pipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    phase: str,
    given: dict[str, str] | Callable[[Path], dict[str, str]],
    words: list[str],
) -> None:
    assert run(phase, pipeline.folder, **(given(tmp_path) if callable(given) else given)) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in [f"medexp {phase}: error: ", *words]), told
    assert "Traceback" not in told
    assert len(client.search_model_versions(f"name = '{MODELS[phase]}'")) == 1
    assert client.get_registered_model(MODELS[phase]).aliases == {"champion": 1, "candidate": 1}
    assert not [*tmp_path.glob("outputs/*/state"), *tmp_path.glob("outputs/*/final_model.pt")]
