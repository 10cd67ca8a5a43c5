"""A disk that fills up while a model is registered, under the packages or the database; a cache that is another user's."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from medexp.config.shared import cache_root
from medexp.data.kept import keep
from medexp.data.volumes.phantoms.write import ensure_phantoms
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


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user take root to make")
@pytest.mark.parametrize("mode", [0o700, 0o755], ids=["unreadable", "unwritable"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_cache_of_another_user_is_told_with_its_folder(mode: int, inside: bool) -> None:
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to other users
        Path(made).chmod(0o755)
        cache = Path(made, "cache")
        (cache / "phantoms").mkdir(parents=True)
        (cache / "phantoms" if inside else cache).chmod(mode)
        os.seteuid(65534)
        try:
            with pytest.raises(StorageError, match=f"{cache}.*: cannot be (read|written)"):
                ensure_phantoms("meningioma", 1, 0, cache_root(str(cache)))
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user take root to make")
def test_arrays_that_another_users_folder_does_not_take_are_told_with_their_file() -> None:
    with tempfile.TemporaryDirectory() as made:  # safetensors gives no errno
        Path(made).chmod(0o755)
        entry = Path(made, "a.safetensors")
        os.seteuid(65534)
        try:
            with pytest.raises(StorageError, match=f"^{entry}: cannot be written .*Permission denied"):
                keep(entry, {"a": np.zeros(3)})
        finally:
            os.seteuid(0)
