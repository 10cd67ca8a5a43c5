"""External validation: what a version came to on cases that it has not seen, told on the page of the version."""

import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric

from medexp.evaluation.intervals import Interval
from medexp.registry.client import answering
from medexp.registry.predictors import Predictor

EXTERNAL = "medexp.external."
"""Tags of a version; the rest is the run's id. Words: the figures are the run's, and metrics of the model."""


def log_external(predictor: Predictor, run_id: str, source: str, digest: str, scores: Mapping[str, Interval]) -> str:
    """Write scores to the version that was predicted with: a tag that names the run, and metrics of the model.

    Args:
        predictor: Of the version, pulled from the registry.
        run_id: The run that has the scores, with all that they rest on.
        source: What the cases are, in words.
        digest: Of the cases, at most 36 characters.
        scores: With their intervals.

    Returns:
        Where they stand, in words.

    Raises:
        StorageError: The registry does not answer.
    """
    client, pulled = MlflowClient(), predictor.pulled
    assert pulled is not None
    figures = "; ".join(f"{name} {interval}" for name, interval in scores.items())
    told = f"{figures}. Cases: {source}, digest {digest}"
    with answering():
        version = client.get_model_version(pulled.name, pulled.version)
        client.set_model_version_tag(pulled.name, pulled.version, f"{EXTERNAL}{run_id}", told)
        if version.model_id:
            now = int(time.time() * 1000)
            place = {"model_id": version.model_id, "dataset_name": source[:250], "dataset_digest": digest, "run_id": run_id}
            metrics = [Metric(f"external/{name}", one.estimate, now, 0, **place) for name, one in scores.items()]
            client.log_batch(run_id, metrics=metrics)
    return f"External validation: written to {predictor.called}, as its tag {EXTERNAL}{run_id}"
