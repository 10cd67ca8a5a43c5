"""Where a run is to be seen: its address in MLflow's UI, and the UI on the store that runs are written to."""

import os
import socket
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from medexp.addresses import EXPERIMENTS, run_page
from medexp.tracking.experiments import experiment_of
from medexp.tracking.stores import find_store, without_secrets

if TYPE_CHECKING:
    from medexp.tracking.runs import TrackedRun  # brings torch along

_HOST, _PORT = "127.0.0.1", 5000


def next_line(run: "TrackedRun") -> str:
    """How to look at a run, for the last lines of a phase."""
    start = "" if _is_served() else "make ui   (or: medexp ui), then open "
    return f"{start}{address(run.id)}"


def address(run_id: str) -> str:
    """The page of a run, in the UI of the tracking server or in the one that `serve` starts."""
    return f"{_server()}/{page(run_id)}"


def page(run_id: str, artifact: str = "") -> str:
    """The same for links within the UI, also to one of the run's artifacts."""
    return run_page(experiment_of(run_id, mlflow.get_tracking_uri()), run_id, artifact)


def serve() -> int:
    """Print the address of the last run, or of all experiments where there is none, and serve the UI until it is stopped.

    It is on port 5000, or on another where that is taken. The runs of a tracking server are in its own UI: nothing is started
    for them.

    Raises:
        StorageError: There is no store, or it does not answer.
    """
    find_store()
    last = _last_run()
    port = _PORT if _is_served() else _free_port()
    where = page(last.info.run_id) if last else EXPERIMENTS
    told = f"The last run, {last.info.run_name}:" if last else "No run yet:"
    print(f"{told}  {_server(port)}/{where}", flush=True)
    if not _is_served():
        print(f"Store: {without_secrets(mlflow.get_tracking_uri())}", flush=True)
        # Not as options: the address of a database may hold a password, and options are shown to all users of the machine.
        os.environ["MLFLOW_BACKEND_STORE_URI"] = mlflow.get_tracking_uri()
        os.environ["MLFLOW_REGISTRY_STORE_URI"] = mlflow.get_registry_uri()
        os.environ.setdefault(
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"
        )  # jobs of traces: it starts in a third of the time
        command = ["mlflow", "ui", "--app-name", "medexp", "--host", _HOST, "--port", str(port), "--workers", "1"]
        os.execv(sys.executable, [sys.executable, "-m", *command])  # noqa: S606
    return 0


def _free_port() -> int:
    """Port 5000, or one that nobody listens on."""
    for wanted in (_PORT, 0):
        with socket.socket() as asked:
            asked.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as the server will: one that was stopped is no reason
            try:
                asked.bind((_HOST, wanted))
            except OSError:
                continue
            return int(asked.getsockname()[1])
    return _PORT


def _last_run() -> Run | None:
    """The run that was started last; of a pipeline or a study the outer one."""
    client = MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments(ViewType.ACTIVE_ONLY)]
    found = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
    if not found:
        return None
    last = found[0]
    while parent := last.data.tags.get(MLFLOW_PARENT_RUN_ID):
        last = client.get_run(parent)
    return last


def _is_served() -> bool:
    return mlflow.get_tracking_uri().startswith("http")


def _server(port: int = _PORT) -> str:
    if not _is_served():
        return f"http://{_HOST}:{port}"
    parts = urlsplit(mlflow.get_tracking_uri())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")  # without user and password
