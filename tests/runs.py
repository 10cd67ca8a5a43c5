"""What a run left in the tracking store."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run


def last_run(client: MlflowClient, phase: str) -> Run:
    experiment = client.get_experiment_by_name(phase)
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0]


def artifact(made: Run, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=made.info.run_id, artifact_path=path))


def measured(made: Run) -> dict[str, str]:
    """All metrics but what the machine did meanwhile; as text, in which NaN equals itself."""
    return {name: repr(value) for name, value in made.data.metrics.items() if not name.startswith("system/")}


def history(client: MlflowClient, made: Run, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(made.info.run_id, name))


def logged_table(made: Run, path: str, **how: Any) -> pd.DataFrame:
    return pd.read_csv(artifact(made, path), **how)
