"""The data that a run used, as dataset inputs of MLflow."""

import json
from collections.abc import Mapping
from urllib.parse import urlparse

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from medexp.data.manifest import data_digest
from medexp.tracking.runs import TrackedRun


def log_datasets(run: TrackedRun, manifest: pd.DataFrame, digests: Mapping[str, str], source: str, name: str) -> None:
    """Log one dataset input a split, `manifest.csv`, and tags: `medexp.data_digest` of all cases together, and
    `medexp.data_digest.<split>` of those that were trained, validated or tested on.

    MLflow's own digests cover names and a first few values, and were the same for two different volumes: these are the data
    floor's, of all voxels. Nothing is hashed here again.

    Args:
        run: The run.
        manifest: The manifest of `medexp.data.prepared.Prepared`; its `split` says which input a case belongs to.
        digests: Digest of each split that is an input, at most 36 characters, keyed train, val, test.
        source: Where the data came from: a folder, a URI, or words.
        name: Name of the data set; an input is called `<name>_<split>`.
    """
    if run.client is None:
        return
    inputs = []
    for split, digest in digests.items():
        rows = manifest[manifest["split"] == split]
        profile = {"num_rows": len(rows), "patients": int(rows["patient"].nunique())}
        dataset = Dataset(
            name=f"{name}_{split}",
            digest=digest,
            source_type=urlparse(source).scheme or "local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(profile),
        )
        inputs.append(DatasetInput(dataset, tags=[InputTag(MLFLOW_DATASET_CONTEXT, split)]))
    try:
        run.client.log_inputs(run.id, datasets=inputs)
    except MlflowException as error:
        if not _was_made_meanwhile(error):
            raise
        run.client.log_inputs(run.id, datasets=inputs)  # the other's is there now
    run.reporter.table(manifest, "manifest.csv")
    run.tag({"medexp.data_digest": data_digest(manifest)} | {f"medexp.data_digest.{k}": v for k, v in digests.items()})


def _was_made_meanwhile(error: MlflowException) -> bool:
    """Whether another process had just made the same data set: MLflow looks first and writes then."""
    told = str(error).lower()
    return "unique constraint" in told or "duplicate" in told
