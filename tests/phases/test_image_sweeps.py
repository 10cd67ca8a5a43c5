"""Sweeps over phase 2.2, which hangs on a registered model: the encoder's version is fixed, whatever its alias does."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from medexp.errors import RegistryError
from medexp.registry.store import Registered
from medexp.studies.sweep import pinned
from tests.configured import configured, run_phase
from tests.phases.shared.image_runs import MODELS, Pipeline, settings
from tests.runs import figures, logged_table

ENCODER = MODELS["phase2_1"]


def test_the_settings_of_a_head_can_be_searched(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    searched = {"phase": "phase2_2", "trials": 2, "workers": 1, "confirm": 1, "test": "true"}
    assert run_phase("sweep", settings("phase2_2", pipeline.folder), **searched, bootstrap_samples=None, shown=None) == 0
    experiment = client.get_experiment_by_name("sweep")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (sweep,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == sweep.info.run_id]
    assert {run.info.status for run in nested} == {"FINISHED"}
    names = {run.info.run_name.partition(", ")[2] for run in nested if run.info.run_name.startswith("phase2_2 ")}
    assert names == {"trial 0", "trial 1", "confirm", "test"}
    digest = client.get_model_version(ENCODER, "1").tags["medexp.digest"]
    assert all(run.data.tags[f"medexp.upstream.{ENCODER}"] == f"1 {digest}" for run in nested if "trial" in run.info.run_name)
    assert {"best/val/final/cross_entropy", "test/accuracy"} <= figures(sweep).keys()
    best = yaml.safe_load(next((tmp_path / "outputs").glob("*/best.yaml")).read_text())
    assert best["encoder"] == f"models:/{ENCODER}/1" and "training.lr_head" in best
    printed = capfd.readouterr().out
    assert "features of test: " in printed  # before the first trial
    tested = next(run for run in nested if run.info.run_name.endswith("test"))
    rows = logged_table(tested, "intervals.csv", index_col="metric")
    low, value, high = rows.loc["test/auroc", ["low", "estimate", "high"]]
    assert low <= value <= high and value == figures(tested)["test/auroc"]
    told = next(line for line in printed.splitlines() if line.startswith("The test split, scored once after the search"))
    assert f"test/auroc {value:.4f} [{low:.4f}, {high:.4f}]" in told and "intervals by patient" in told
    assert "Chosen by validation cases, trial" in printed
    trials = "".join(log.read_text() for log in (tmp_path / "outputs").glob("*/workers/*.log"))
    assert "images, from the cache" in trials and "images, computed" not in trials


def test_a_sweep_does_not_stop_trainings_early(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    """Its trials would be compared at epochs that the same cases had chosen."""
    searched = {"phase": "phase2_2", "training.patience": 3}
    assert run_phase("sweep", settings("phase2_2", pipeline.folder), **searched, bootstrap_samples=None, shown=None) == 2
    assert "training.patience: found 3; give training.patience=0: trials are compared" in capsys.readouterr().err


def test_so_can_those_of_a_head_on_volumes(
    store: MlflowClient,
    registered: Callable[..., Registered],
    table: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    registered()
    given = {"phase": "phase2_2", "trials": "1", "workers": "1", "confirm": "0", "training.epochs": "2", "threads": "1"}
    given |= {"encoder": "models:/phase1_encoder_merged@champion", "output_dir": str(tmp_path / "outputs")}
    given |= {"table": str(table)}
    assert run_phase("sweep", given) == 0, capfd.readouterr()
    experiment = store.get_experiment_by_name("sweep")
    assert experiment is not None
    (trial,) = store.search_runs([experiment.experiment_id], "tags.`medexp.trial` = '0'")
    assert trial.info.status == "FINISHED" and "val/final/cross_entropy" in figures(trial)


def test_an_alias_is_the_version_that_it_stands_for_when_the_sweep_begins(client: MlflowClient, pipeline: Pipeline) -> None:
    config = configured("phase2_2", settings("phase2_2", pipeline.folder))
    assert config.encoder == f"models:/{ENCODER}@champion"
    assert pinned(config).encoder == f"models:/{ENCODER}/1"
    client.delete_registered_model_alias(ENCODER, "champion")
    with pytest.raises(RegistryError, match="has no alias champion"):
        pinned(config)
