"""A tracking store, and what a run left in it."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from medexp.config.keys import Called

T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """As little as a run is made with."""

    output_dir: str = "outputs"
    profile: str = "demo"
    seed: Annotated[int, Called("s")] = 0


def store_in(folder: Path, database: Path, patch: pytest.MonkeyPatch) -> MlflowClient:
    """A copy of a database in a folder, which is a user's from now on (`at_home`); a client of it."""
    shutil.copy(database, folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as copied, copied:  # an experiment's place is fixed when it is made
        copied.execute("UPDATE experiments SET artifact_location = ?", (str(folder / "mlruns" / "0"),))
    return at_home(folder, patch)


def at_home(folder: Path, patch: pytest.MonkeyPatch) -> MlflowClient:
    """From now on the working directory and the cache's home are this folder, as a user's; a client of the store in it."""
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):  # MLflow sets the first for subprocesses
        patch.setenv(name, "")
        patch.delenv(name)
    patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    return MlflowClient()


def until(process: subprocess.Popen[Any], there: Callable[[], T]) -> T:
    """What `there` finds, once it finds something, while a process goes on, from which no core is taken meanwhile."""
    while not (found := there()):
        with suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"it ended with {process.wait(0.05)} before that")
    return found


def last_run(client: MlflowClient, phase: str) -> Run:
    experiment = client.get_experiment_by_name(phase)
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0]


def artifact(made: Run, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=made.info.run_id, artifact_path=path))


def measured(made: Run, client: MlflowClient | None = None) -> dict[str, str]:
    """All figures but what the machine did meanwhile; as text, in which NaN equals itself."""
    return {name: repr(value) for name, value in figures(made, client).items() if not name.startswith("system/")}


def figures(made: Run, client: MlflowClient | None = None) -> dict[str, float]:
    """All that a run measured: its metrics, what stands in its `intervals.csv`, and `checks/<id>` as 1 or 0."""
    store = client or MlflowClient()
    files = {file.path for file in store.list_artifacts(made.info.run_id)}

    def kept(path: str) -> Path:
        return Path(store.download_artifacts(made.info.run_id, path))

    once = pd.read_csv(kept("intervals.csv")) if "intervals.csv" in files else pd.DataFrame()
    checks = json.loads(kept("checks.json").read_text()) if "checks.json" in files else []
    passed = {f"checks/{check['id']}": float(check["passed"]) for check in checks}
    return {**made.data.metrics, **(dict(zip(once["metric"], once["estimate"], strict=True)) if len(once) else {}), **passed}


def without_course(client: MlflowClient, made: Run) -> list[str]:
    """The metrics of a run that have one value: MLflow makes a chart of one bar of each."""
    names = [name for name in made.data.metrics if not name.startswith("system/")]
    return sorted(name for name in names if len(client.get_metric_history(made.info.run_id, name)) == 1)


def history(client: MlflowClient, made: Run, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(made.info.run_id, name))


def logged_table(made: Run, path: str, **how: Any) -> pd.DataFrame:
    return pd.read_csv(artifact(made, path), **how)
