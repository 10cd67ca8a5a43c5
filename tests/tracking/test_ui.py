"""The address of a run, and what `medexp ui` says and starts."""

import os
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medexp.errors import StorageError
from medexp.tracking import ui
from medexp.tracking.runs import TrackedRun, tracked_run
from tests.runs import Config

PAGE = "#/experiments/{}/runs/{}?workflowType=machine_learning"


def run_a_phase() -> TrackedRun:
    with tracked_run("main", Config()) as run, tracked_run("prepare", Config()):
        pass
    return run


def page(store: MlflowClient, run: TrackedRun) -> str:
    return PAGE.format(store.get_run(run.id).info.experiment_id, run.id)


def test_the_last_line_names_the_page_of_the_run_and_how_to_open_it(store: MlflowClient) -> None:
    run = run_a_phase()
    assert ui.next_line(run) == f"make ui   (or: medexp ui), then open http://127.0.0.1:5000/{page(store, run)}"


def test_runs_of_a_server_are_in_its_own_ui(
    store: MlflowClient, server: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, uri = run_a_phase(), os.environ["MLFLOW_TRACKING_URI"]
    assert ui.next_line(run) == f"{uri}/{page(store, run)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("http://", "http://me:secret@"))
    assert ui.serve() == 0  # there is nothing to start
    assert capsys.readouterr().out == f"The last run, main s0:  {uri}/{page(store, run)}\n"


@pytest.mark.parametrize("is_empty", [True, False])
@pytest.mark.parametrize("is_taken", [True, False])
def test_the_ui_opens_on_the_last_run_of_the_store_that_runs_are_written_to(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_empty: bool, is_taken: bool
) -> None:
    where = "No run yet:  http://127.0.0.1:{}/#/experiments?workflowType=machine_learning"
    if not is_empty:
        where = f"The last run, main s0:  http://127.0.0.1:{{}}/{page(store, run_a_phase())}"
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: started.append(arguments))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        if is_taken:
            other.listen()
        else:
            other.close()
        monkeypatch.setattr(ui, "_PORT", port)
        assert ui.serve() == 0
    ((_, *command, workers, one),) = started
    assert command[:-1] == ["-m", "mlflow", "ui", "--app-name", "medexp", "--host", "127.0.0.1", "--port"]
    assert (command[-1] == str(port)) is not is_taken
    assert (workers, one) == ("--workers", "1")
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == os.environ["MLFLOW_TRACKING_URI"]
    assert capsys.readouterr().out.splitlines() == [where.format(command[-1]), f"Store: {os.environ['MLFLOW_TRACKING_URI']}"]


def test_without_a_store_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(StorageError, match="there is none yet"):
        ui.serve()
    assert not list(tmp_path.iterdir())
