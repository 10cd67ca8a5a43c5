"""Where a new run belongs, in a real store; and the store that several processes are the first to use."""

import os
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from medexp.errors import ConfigError
from medexp.tracking.experiments import experiment_for
from medexp.tracking.stores import check_store
from tests.studies.at_work import all_at_once


def named(store: MlflowClient, experiment: str) -> str:
    return str(store.get_experiment(experiment).name)


def test_an_experiment_is_named_by_the_phase_unless_the_user_names_one(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert named(store, experiment_for("phase1")) == "phase1"
    assert experiment_for("phase1") == experiment_for("phase1")
    other = store.create_experiment("other")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    assert experiment_for("phase1") == other
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert named(store, experiment_for("phase1")) == "mine"


def test_an_experiment_that_cannot_be_used_is_named_with_a_way_out(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.delete_experiment(experiment_for("phase1"))
    with pytest.raises(ConfigError, match=r"'phase1' was deleted.*mlflow experiments restore -x 1;.*MLFLOW_EXPERIMENT_NAME"):
        experiment_for("phase1")
    for unknown in ("77", "phase1"):  # ids are numbers
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", unknown)
        with pytest.raises(ConfigError, match=f"MLFLOW_EXPERIMENT_ID: there is no experiment '{unknown}'"):
            experiment_for("phase1")


def test_files_lie_beside_the_database_whoever_makes_the_experiment(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    location = store.get_experiment(experiment_for("group/phase1")).artifact_location
    assert location == str(tmp_path / "mlruns" / "group_phase1")


@pytest.mark.parametrize("name", ["..", ".", "x" * 300, "ä" * 300, "a#b?c%20d"])
def test_an_experiment_whose_name_is_no_folders_has_a_folder_too(store: MlflowClient, tmp_path: Path, name: str) -> None:
    location = Path(store.get_experiment(experiment_for(name)).artifact_location)
    assert location.resolve().parent == tmp_path / "mlruns"
    location.mkdir(parents=True)


def starts_first(barrier: Any, answers: Any, folder: Path) -> None:
    os.chdir(folder)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    barrier.wait()
    check_store()
    answers.put(experiment_for("phase1"))


def test_processes_that_are_the_first_in_a_store_all_work(tmp_path: Path) -> None:
    assert len(set(all_at_once(3, starts_first, tmp_path))) == 1


def test_a_store_that_is_there_takes_no_lock_that_another_user_may_have_made(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's is a file in the folder for temporary files, which users share and none may write to another's file in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "refused"))
    assert check_store() == os.environ["MLFLOW_TRACKING_URI"]
