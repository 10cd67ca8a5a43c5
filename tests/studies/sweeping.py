"""Sweeps as processes of their own, and what they left in the tracking store."""

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from medexp.studies.space import read_space
from medexp.studies.study import open_study
from tests.forked import CONTEXT
from tests.studies.cheap import Cheap, objective, search_apart

OBJECTIVE = f"{objective.__module__}:objective"
SCORE = "val/final/score"


def runs(store: MlflowClient, name: str = "") -> list[Run]:
    """Runs whose name says so beside phase and settings, the newest first."""
    experiment = store.get_experiment_by_name("sweep")
    found = store.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"]) if experiment else []
    return [run for run in found if run.info.run_name.rpartition(", ")[2].startswith(name)]


def parents(store: MlflowClient) -> list[Run]:
    return [run for run in runs(store) if "mlflow.parentRunId" not in run.data.tags]


def statuses(store: MlflowClient, name: str = "trial") -> Counter[str]:
    return Counter(run.info.status for run in runs(store, name))


def study_of(config: Any, name: str = "cheap") -> Any:
    space = read_space(Path(config.space), Cheap)
    return open_study(name, config.storage, config.phase, space, 0, Path(config.output_dir))


def in_a_process(config: Any, told: str = "err.txt") -> Any:
    """The sweep as a process of its own; what it says of its end is in the file `told`."""
    process = CONTEXT.Process(target=search_apart, args=(dict(os.environ), str(Path.cwd()), config, told))
    process.start()
    return process


def until(process: Any, there: Callable[[], Any], told: str = "err.txt") -> None:
    while not there():
        process.join(0.05)  # it ends or it does not: the test goes on with what is there
        assert process.is_alive(), Path(told).read_text()


@contextlib.contextmanager
def gate(outputs: Path) -> Iterator[Callable[[], None]]:
    """Trials wait until the function that this gives is called."""
    outputs.mkdir(exist_ok=True)
    os.mkfifo(outputs / "gate")
    holds = os.open(outputs / "gate", os.O_RDWR)  # what is written stays there for those who come later

    def open_it() -> None:
        (outputs / "go").touch()
        os.write(holds, b"." * 100)

    try:
        yield open_it
    finally:
        open_it()  # where the test failed, nobody is to wait for ever
        os.close(holds)


@contextlib.contextmanager
def waiting(config: Any) -> Iterator[tuple[Any, Callable[[], None]]]:
    """The sweep as a process of its own whose trial is at work, and waits until the function that this gives is called."""
    outputs = Path(config.output_dir)
    with gate(outputs) as go:
        process = in_a_process(config)
        until(process, lambda: list(outputs.glob("waits-*")))
        yield process, go


def wait_for(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=600)
    assert not left


def stop(server: subprocess.Popen[str]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextlib.contextmanager
def restarted(server: subprocess.Popen[str]) -> Iterator[None]:
    again = subprocess.Popen(
        server.args,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert any("Uvicorn running" in line for line in again.stdout or ())
        yield
    finally:
        os.killpg(again.pid, signal.SIGKILL)
        again.communicate()
