"""Runs that have ended: what they were made with, what they measured and what they left behind."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from medexp.errors import ConfigError, StorageError
from medexp.tracking.stores import STORE_ERRORS, check_store, reason

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each of many small files


@dataclass(frozen=True)
class PastRun:
    """A run as the store holds it.

    Attributes:
        id: Its id.
        status: RUNNING, FINISHED, FAILED or KILLED.
        tags: All of its tags.
        metrics: The last value of each metric.
    """

    id: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


def past_run(run_id: str) -> PastRun:
    """A run by its id.

    Raises:
        ConfigError: There is none in this store.
        StorageError: The store does not answer.
    """
    store = check_store()
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise StorageError(f"tracking store {store}: does not answer ({reason(error)})") from error
        raise ConfigError(
            f"run: there is no run {run_id!r} in {store}. Its id is in the last lines that it printed and in the UI; another "
            "store is named with MLFLOW_TRACKING_URI"
        ) from error
    return PastRun(run_id, run.info.status, run.data.tags, run.data.metrics)


def find_run(called: str) -> PastRun:
    """A run by its id or by its name.

    Raises:
        ConfigError: There is none in this store, or several have the name.
        StorageError: The store does not answer.
    """
    if re.fullmatch("[0-9a-f]{32}", called):
        return past_run(called)
    store, client = check_store(), MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments()]
    quoted = called.replace("\\", "\\\\").replace("'", "\\'")
    found = client.search_runs(experiments, f"attributes.run_name = '{quoted}'", max_results=20)
    if len(found) != 1:
        ids = ", ".join(run.info.run_id for run in found)
        which = (
            f"{len(found)} runs are called so: give the id of one, {ids}" if found else "give a run's id, which the UI shows"
        )
        raise ConfigError(f"run: {'no one' if found else 'no'} run is {called!r} in {store}; {which}")
    return past_run(found[0].info.run_id)


def finished(phase: str) -> list[PastRun]:
    """The runs of a phase that ended well, the latest first."""
    check_store()
    client = MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments()]
    wanted = f"tags.`medexp.phase` = '{phase}' and attributes.status = 'FINISHED'"
    found = client.search_runs(experiments, wanted, max_results=1000, order_by=["attributes.start_time DESC"])
    return [PastRun(run.info.run_id, run.info.status, run.data.tags, run.data.metrics) for run in found]


def runs_like(near: str, tags: Mapping[str, str]) -> list[PastRun]:
    """The runs in the experiment of a run that carry these tags, the oldest first."""
    client = MlflowClient()
    experiment = client.get_run(near).info.experiment_id
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = client.search_runs([experiment], wanted, max_results=1000, order_by=["attributes.start_time ASC"])
    return [PastRun(run.info.run_id, run.info.status, run.data.tags, run.data.metrics) for run in found]


def history(run_id: str, metric: str) -> pd.DataFrame:
    """All values of a metric: columns `step` and `value`, sorted by step; empty where it was never logged."""
    values: list[Metric] = MlflowClient().get_metric_history(run_id, metric)
    rows = [(point.step, point.value) for point in values]
    return pd.DataFrame(rows, columns=["step", "value"]).sort_values("step", ignore_index=True)


def artifact(run_id: str, path: str, folder: Path) -> Path | None:
    """A file or folder that a run logged, fetched into `folder`; None where the run has no such artifact."""
    name = Path(path)
    parent = "" if name.parent == Path() else str(name.parent)
    try:
        if path not in {item.path for item in MlflowClient().list_artifacts(run_id, parent)}:
            return None
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=str(folder)))
    except STORE_ERRORS as error:
        raise StorageError(f"artifacts of run {run_id}: {path} cannot be fetched ({reason(error)})") from error


def tag_run(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run that has ended."""
    for key, value in tags.items():
        MlflowClient().set_tag(run_id, key, value)
