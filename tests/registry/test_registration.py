"""Registration that is killed between any two steps, registered twice, or given a store that alters what it takes."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

from medexp import registry
from medexp.errors import RegistryError
from medexp.registry.definitions import load_definition
from medexp.registry.packages import verify_package
from medexp.registry.registration import register
from medexp.registry.store import Registered
from tests.forked import start
from tests.registry.faults import at_call, wait_until_stopped

Written = Callable[..., Path]
NAME = "phase1_encoder_merged"
STEPS = [  # right before, or right after, the n-th call
    ("before", MlflowClient, "create_logged_model", 1),
    ("before", os, "link", 1),  # the first file of the package, and one in its middle
    ("before", os, "link", 4),
    ("before", MlflowClient, "log_outputs", 1),
    ("before", MlflowClient, "log_model_artifacts", 1),
    ("before", MlflowClient, "finalize_logged_model", 1),
    ("after", MlflowClient, "finalize_logged_model", 1),
    ("before", MlflowClient, "create_registered_model", 1),
    ("before", MlflowClient, "create_model_version", 1),
    ("after", MlflowClient, "create_model_version", 1),
]


@pytest.fixture
def run_id(store: MlflowClient) -> str:
    return str(store.create_run("0").info.run_id)


def put(run_id: str, folder: Path) -> Registered:
    return register(run_id, folder, load_definition(NAME), "PASSED")


def killed_at(step: int, run_id: str, folder: Path) -> None:
    """Register, and be killed at a step: a call of a library."""
    when, owner, name, number = STEPS[step]
    original, calls = getattr(owner, name), iter(range(1, 1000))

    def deadly(*given: Any, **named: Any) -> Any:
        reached = next(calls) == number
        if reached and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = original(*given, **named)
        if reached:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(owner, name, deadly)
    put(run_id, folder)


def statuses(store: MlflowClient) -> list[LoggedModelStatus]:
    return [logged.status for logged in store.search_logged_models(["0"])]


@pytest.mark.parametrize("step", range(len(STEPS)), ids=[f"{when} {name} {number}" for when, _, name, number in STEPS])
def test_a_registration_that_was_killed_completes_when_it_is_run_again(
    store: MlflowClient, run_id: str, written: Written, step: int
) -> None:
    folder = written()
    killed = start(killed_at, step, run_id, folder)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    for version in store.search_model_versions():  # none, or one that loads
        registry.load(f"models:/{NAME}/{version.version}")

    made = put(run_id, folder)
    assert [str(version.version) for version in store.search_model_versions()] == [made.version] == ["1"]
    assert statuses(store) == [LoggedModelStatus.READY]
    assert registry.pull(f"models:/{NAME}/1").digest == verify_package(folder)
    registry.load(f"models:/{NAME}/1")
    mlflow.pyfunc.load_model(f"models:/{NAME}/1")


def test_the_same_package_of_the_same_run_is_one_version(
    store: MlflowClient, run_id: str, package: Callable[..., Any], written: Written
) -> None:
    first = put(run_id, written())
    assert put(run_id, written()) == first
    assert put(run_id, written(seed=1)).version == "2"
    assert put(str(store.create_run("0").info.run_id), written()).version == "3"
    assert put(run_id, written()) == first
    assert len(statuses(store)) == 3


def test_a_version_whose_files_were_damaged_is_registered_anew(store: MlflowClient, run_id: str, written: Written) -> None:
    put(run_id, written())
    shutil.rmtree(mlflow.artifacts.download_artifacts(f"models:/{NAME}/1/artifacts/package"))
    made = put(run_id, written())
    assert made.version == "2"
    registry.load(f"models:/{NAME}/2")


def test_processes_that_register_one_package_at_once_make_one_version(
    store: MlflowClient, run_id: str, written: Written, tmp_path: Path
) -> None:
    folder = written(weights={"w": torch.zeros(8)})
    first = start(at_call, "create_model_version", 1, signal.SIGSTOP, put, run_id, folder)
    wait_until_stopped(first)
    second = start(put, run_id, folder)
    with pytest.raises(Timeout):
        FileLock(tmp_path / "cache" / "medexp" / "locks" / f"run-{run_id}", timeout=0).acquire()
    os.kill(first.pid, signal.SIGCONT)
    for process in (first, second):
        process.join()
    assert first.exitcode == second.exitcode == 0
    assert [str(version.version) for version in store.search_model_versions()] == ["1"]
    assert statuses(store) == [LoggedModelStatus.READY]


def test_what_the_store_altered_becomes_no_version(
    store: MlflowClient, run_id: str, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad_disk(source: str, target: str) -> None:
        content = bytearray(Path(source).read_bytes())
        content[-1] ^= 1
        Path(target).write_bytes(content)

    monkeypatch.setattr(os, "link", bad_disk)
    with pytest.raises(RegistryError, match=r"manifest\.json"):
        put(run_id, written())
    assert store.search_model_versions() == statuses(store) == []


def test_a_store_on_another_disk_gets_copies(
    store: MlflowClient, run_id: str, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_disk(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    folder = written(weights={"w": torch.zeros(8)})
    put(run_id, folder)
    (folder / "README.md").write_text("no longer the store's concern")
    assert registry.pull(f"models:/{NAME}/1").version == "1"


def test_a_logged_model_belongs_to_its_run_and_its_experiment(store: MlflowClient, written: Written) -> None:
    experiment = store.create_experiment("elsewhere")
    run_id = str(store.create_run(experiment).info.run_id)
    store.log_param(run_id, "rank", 8)
    put(run_id, written(weights={"w": torch.zeros(8)}))
    (logged,) = store.search_logged_models([experiment])
    assert (logged.source_run_id, logged.name, logged.params) == (run_id, NAME, {"rank": "8"})
    assert [output.model_id for output in store.get_run(run_id).outputs.model_outputs] == [logged.model_id]
    assert mlflow.models.get_model_info(f"models:/{NAME}/1").run_id == run_id
