"""Where a new run belongs, in a real store; and the store that several processes are the first to use."""

import json
import os
import platform
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from mlflow import MlflowClient

from medexp.errors import ConfigError, StorageError
from medexp.tracking.experiments import experiment_for, given_run
from medexp.tracking.processes import PROCESS, this_process
from medexp.tracking.stores import check_store
from tests.forked import all_at_once


def named(store: MlflowClient, experiment: str) -> str:
    return str(store.get_experiment(experiment).name)


def test_an_experiment_is_named_by_the_phase_unless_the_user_names_one(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert named(store, experiment_for("phase1")) == "phase1"
    assert experiment_for("phase1") == experiment_for("phase1")
    about = store.get_experiment(experiment_for("phase1")).tags["mlflow.note.content"]
    assert "mlflow run . -e phase1" in about and "medexp.headline" in about
    link = f"#/experiments/{experiment_for('phase1')}/runs?workflowType=machine_learning&viewStateShareKey=medexp"
    view = json.loads(store.get_experiment(experiment_for("phase1")).tags["mlflow.sharedViewState.medexp"])
    assert f"({link})" in about and "tags.`medexp.verdict`" in view["selectedColumns"]
    other = store.create_experiment("other")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    assert experiment_for("phase1") == other
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    mine = experiment_for("phase1")
    assert named(store, mine) == "mine"
    assert "mlflow.note.content" not in store.get_experiment(mine).tags, "it is the user's to describe"


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


def starts_first(barrier: Any, answers: Any, folder: Path, uri: str) -> None:
    os.chdir(folder)
    mlflow.set_tracking_uri(uri)
    barrier.wait()
    check_store()
    answers.put((experiment_for("phase1"), MlflowClient().get_experiment("0").artifact_location))


def test_processes_that_are_the_first_in_a_store_all_work(tmp_path: Path) -> None:
    (folder := tmp_path / "elsewhere").mkdir()
    uri = f"sqlite:///{tmp_path / 'stores' / 'mlflow.db'}"
    assert set(all_at_once([(starts_first, folder, uri)] * 3)) == {("1", str(tmp_path / "stores" / "mlruns" / "0"))}


@pytest.mark.parametrize(
    "half", ["CREATE TABLE experiments (experiment_id INTEGER)", "CREATE TABLE _alembic_tmp_latest_metrics (key VARCHAR)"]
)
def test_a_store_that_was_left_half_made_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as made:
        made.execute(half)
        made.execute("CREATE TABLE runs (run_uuid VARCHAR)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(
        StorageError, match=rf"half made, and holds nothing yet: .*Delete {tmp_path}/mlflow.db, and start again"
    ):
        check_store()


def test_a_run_that_is_given_can_be_written_to(store: MlflowClient) -> None:
    parent = " ".join([platform.node(), str(os.getppid()), f"{psutil.Process(os.getppid()).create_time():.0f}"])
    for tags in ({}, {PROCESS: this_process()}, {PROCESS: parent}, {PROCESS: "elsewhere 1 1"}):
        run = store.create_run("0", tags=tags)
        assert given_run(run.info.run_id).info.run_id == run.info.run_id


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("FINISHED", "is FINISHED; a run that has ended is not written to"),
        ("KILLED", "is KILLED; a run that has ended is not written to"),
        ("unknown", "there is no run '0{32}' in sqlite"),
        ("deleted", "was deleted"),
        ("of another", r"is process \d+ on .*'s, which goes on"),
        ("in a deleted experiment", "experiment 'gone' was deleted; bring it back: mlflow experiments restore"),
    ],
)
def test_a_run_that_was_left_over_is_named_with_a_way_out(store: MlflowClient, kind: str, told: str) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        own = f"{platform.node()} {other.pid} {psutil.Process(other.pid).create_time():.0f}"
        experiment = store.create_experiment("gone")
        run = store.create_run(experiment, tags={PROCESS: own} if kind == "of another" else {}).info.run_id
        if kind in ("FINISHED", "KILLED"):
            store.set_terminated(run, kind)
        if kind == "deleted":
            store.delete_run(run)
        if kind == "in a deleted experiment":
            store.delete_experiment(experiment)
            store.restore_run(run)
        with pytest.raises(ConfigError, match=told):
            given_run("0" * 32 if kind == "unknown" else run)
        other.kill()


def test_a_store_that_is_there_takes_no_lock_that_another_user_may_have_made(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's is a file in the folder for temporary files, which users share and none may write to another's file in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "refused"))
    assert check_store() == os.environ["MLFLOW_TRACKING_URI"]
