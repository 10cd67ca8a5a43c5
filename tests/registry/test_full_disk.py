"""A disk that fills up while a model is registered: what the packages or the database are on."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medexp.errors import StorageError
from medexp.registry.definitions import load_definition
from medexp.registry.promotion import Nominated
from medexp.registry.registration import register

NAME = "phase1_encoder_merged"


def test_a_package_that_does_not_fit_is_no_version_and_the_disk_is_named(
    store: MlflowClient, written: Callable[..., Path], small_disk: Path
) -> None:
    run = store.create_run(store.create_experiment("full", str(small_disk))).info.run_id
    with pytest.raises(StorageError, match=rf"^{small_disk}/.*: its disk is full\. Free space there, then run"):
        register(run, written(), load_definition(NAME), "PASSED")
    assert store.search_model_versions(f"name = '{NAME}'") == []
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert register(run, written(), load_definition(NAME), "PASSED").version == "1"


def test_a_database_that_cannot_grow_is_named_so(
    store: MlflowClient, publish: Callable[..., Nominated], small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(seed=0)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    shutil.copy(tmp_path / "mlflow.db", small_disk / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{small_disk / 'mlflow.db'}")
    run = MlflowClient().create_run("0").info.run_id
    with pytest.raises(OSError, match="No space left"), (small_disk / "rest").open("wb") as rest:
        while True:
            rest.write(bytes(1 << 16))
            rest.flush()
    with pytest.raises(StorageError, match="disk is full") as caught:
        register(run, tmp_path / "package_0", load_definition(NAME), "PASSED")
        register(run, tmp_path / "package_0", load_definition(NAME), "FAILED")
    assert "is it up" not in str(caught.value) and "\n" not in str(caught.value)
