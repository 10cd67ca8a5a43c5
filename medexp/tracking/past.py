"""Runs that have ended: what they were made with, what they measured and what they left behind."""

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID

from medexp.addresses import local_path
from medexp.errors import ConfigError, StorageError
from medexp.files import read_csv
from medexp.tracking.stores import STORE_ERRORS, check_store, reason

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each of many small files


@dataclass(frozen=True)
class Given:
    """A dataset input of a run.

    Attributes:
        name: Name of the data set.
        split: What it was used as, such as train; None: not said.
        digest: Its digest.
        source: Where it came from; None: not said.
    """

    name: str
    split: str | None
    digest: str
    source: str | None


@dataclass(frozen=True)
class PastRun:
    """A run as the store holds it.

    Attributes:
        id: Its id.
        name: What it is called.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: When it began.
        ended: When it ended; None while it goes on.
        tags: All of its tags.
        params: All of its params.
        metrics: The last value of each metric.
        data: What it was given.
    """

    id: str
    name: str
    status: str
    started: datetime
    ended: datetime | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    data: tuple[Given, ...]


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
    return _past(run)


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


def run_in(given: str) -> PastRun:
    """A run by its id or name, or by a file or folder of this machine that it made, such as OUTPUT_DIR/RUN/best.ckpt.

    Raises:
        ConfigError: There is none, or the file lies in no run's folder.
        StorageError: The store does not answer.
    """
    if "/" not in given and not given.endswith(".ckpt"):
        return find_run(given)
    path = local_path(given).absolute()
    for folder in (path, *path.parents):
        if re.fullmatch("[0-9a-f]{32}", folder.name):  # a run's folder is called by its id
            return past_run(folder.name)
    if path.exists():
        raise ConfigError(f"{given}: lies in no run's folder; give OUTPUT_DIR/RUN/encoders/NAME/best.ckpt, or the run's id")
    return find_run(given)


def finished(phase: str) -> list[PastRun]:
    """The runs of a phase that ended well, the latest first."""
    check_store()
    client = MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments()]
    wanted = f"tags.`medexp.phase` = '{phase}' and attributes.status = 'FINISHED'"
    found = client.search_runs(experiments, wanted, max_results=1000, order_by=["attributes.start_time DESC"])
    return [_past(run) for run in found]


def runs_like(near: str, tags: Mapping[str, str]) -> list[PastRun]:
    """The runs in the experiment of a run that carry these tags, the oldest first."""
    client = MlflowClient()
    experiment = client.get_run(near).info.experiment_id
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = client.search_runs([experiment], wanted, max_results=1000, order_by=["attributes.start_time ASC"])
    return [_past(run) for run in found]


def children(run_id: str) -> list[PastRun]:
    """The runs in a run, such as the trials of a sweep or the steps of a pipeline, the oldest first."""
    return runs_like(run_id, {MLFLOW_PARENT_RUN_ID: run_id})


def history(run_id: str, metric: str) -> pd.DataFrame:
    """All values of a metric: columns `step` and `value`, sorted by step; empty where it was never logged."""
    values: list[Metric] = MlflowClient().get_metric_history(run_id, metric)
    rows = [(point.step, point.value) for point in values]
    return pd.DataFrame(rows, columns=["step", "value"]).sort_values("step", ignore_index=True)


def figure(run: PastRun, name: str) -> float | None:
    """A figure that was measured once, from the run's `intervals.csv`; from its metrics, where runs of earlier versions have
    it. None where it was not measured, or is NaN."""
    with tempfile.TemporaryDirectory() as folder:
        file = artifact(run.id, "intervals.csv", Path(folder))
        rows = read_csv(file) if file else pd.DataFrame(columns=["metric", "estimate"])
    found = rows.loc[rows["metric"] == name, "estimate"]
    value = float(found.iloc[0]) if len(found) else run.metrics.get(name, math.nan)
    return value if math.isfinite(value) else None


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


def artifacts(run_id: str, under: Sequence[str] = ()) -> list[str]:
    """Paths of the files that a run logged: those at the top, and all in the folders that are named."""

    def listed(folder: str, deep: bool) -> Iterator[str]:
        for item in MlflowClient().list_artifacts(run_id, folder):
            if not item.is_dir:
                yield item.path
            elif deep or item.path in under:
                yield from listed(item.path, True)

    try:
        return sorted(listed("", False))
    except STORE_ERRORS as error:
        raise StorageError(f"artifacts of run {run_id}: cannot be listed ({reason(error)})") from error


def fetched(run_id: str, paths: Sequence[str], folder: Path) -> dict[str, Path]:
    """Files that a run logged, as `artifacts` lists them, fetched into `folder`, by their paths."""
    found: dict[str, Path] = {}
    if not paths:
        return found
    path = ""
    try:
        root = MlflowClient().get_run(run_id).info.artifact_uri  # asked for once: MLflow asks for it anew for each file
        for path in paths:
            (into := folder / PurePosixPath(path).parent).mkdir(parents=True, exist_ok=True)
            found[path] = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{root}/{path}", dst_path=str(into)))
    except STORE_ERRORS as error:
        raise StorageError(f"artifacts of run {run_id}: {path} cannot be fetched ({reason(error)})") from error
    return found


def add_artifact(run_id: str, file: Path) -> None:
    """Add a file, as it is, to what a run logged that has ended."""
    try:
        MlflowClient().log_artifact(run_id, str(file))
    except STORE_ERRORS as error:
        raise StorageError(f"artifacts of run {run_id}: {file.name} cannot be written ({reason(error)})") from error


def tag_run(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run that has ended; one that was deleted meanwhile gets none."""
    client = MlflowClient()
    try:
        if client.get_run(run_id).info.lifecycle_stage != LifecycleStage.ACTIVE:
            return
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # and removed for good
            raise
        return
    for key, value in tags.items():
        client.set_tag(run_id, key, value)


def _past(run: Run) -> PastRun:
    info, inputs = run.info, run.inputs.dataset_inputs if run.inputs else []

    def moment(milliseconds: int | None) -> datetime | None:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None

    given = [
        Given(
            item.dataset.name,
            next((tag.value for tag in item.tags if tag.key == MLFLOW_DATASET_CONTEXT), None),
            item.dataset.digest,
            _source(item.dataset.source),
        )
        for item in inputs
    ]
    started = moment(info.start_time)
    assert started is not None  # MLflow sets it when a run is made
    data = run.data
    return PastRun(
        info.run_id,
        info.run_name,
        info.status,
        started,
        moment(info.end_time),
        data.tags,
        data.params,
        data.metrics,
        tuple(given),
    )


def _source(told: str) -> str | None:
    """Where a data set came from, as `medexp.tracking.datasets` writes it; another program may write anything."""
    try:
        content = json.loads(told)
    except ValueError:
        return told or None
    return str(content["uri"]) if isinstance(content, dict) and "uri" in content else None
