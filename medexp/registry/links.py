"""Links in markdown to pages of MLflow's UI, for what is read there."""

from mlflow import MlflowClient

from medexp.addresses import run_page, version_page


def to_version(name: str, version: str) -> str:
    """A link to a registered version."""
    return f"[{name} version {version}]({version_page(name, version)})"


def to_run(client: MlflowClient, run_id: str) -> str:
    """A link to a run, called as it is."""
    info = client.get_run(run_id).info
    return f"[{info.run_name}]({run_page(info.experiment_id, run_id)})"
