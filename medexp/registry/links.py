"""Links within MLflow's UI, for what is read there; they mean its mode for training models, which it does not open in."""

from mlflow import MlflowClient

_MODE = "?workflowType=machine_learning"


def to_version(name: str, version: str) -> str:
    """A link to a registered version, in markdown."""
    return f"[{name} version {version}](#/models/{name}/versions/{version}{_MODE})"


def to_run(client: MlflowClient, run_id: str) -> str:
    """A link to a run, in markdown, called as it is."""
    info = client.get_run(run_id).info
    return f"[{info.run_name}](#/experiments/{info.experiment_id}/runs/{run_id}{_MODE})"
