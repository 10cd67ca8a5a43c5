"""Runs in a run that nobody ended: their process was killed."""

from collections.abc import Collection

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException


def end_left(parent_id: str, study: str | None = None, ended: Collection[int] = ()) -> list[str]:
    """End KILLED what counts as running in a sweep's run and is not: the runs of trials whose process was killed.

    Args:
        parent_id: The sweep's run.
        study: Name of a study, the tag `medexp.study` of its trials' runs; None: the sweep's process is gone, and so is all
            that it started.
        ended: Numbers of the study's trials that have ended; others may be about to start.

    Returns:
        The ids of the runs that were ended.
    """
    client = MlflowClient()
    experiment = client.get_run(parent_id).info.experiment_id
    wanted = f"tags.`mlflow.parentRunId` = '{parent_id}' and attributes.status = 'RUNNING'"
    wanted += f" and tags.`medexp.study` = '{study}'" if study else ""
    left = [
        run.info.run_id
        for run in client.search_runs([experiment], wanted, max_results=1000)
        if study is None or int(run.data.tags.get("medexp.trial", -1)) in ended
    ]
    for run_id in left:
        client.set_terminated(run_id, "KILLED")
    return left


def end_run(run_id: str) -> None:
    """End a run KILLED that counts as running and whose process is gone; one that was deleted, or is in another store, stays
    what it is."""
    client = MlflowClient()
    try:
        info = client.get_run(run_id).info
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    if info.status == "RUNNING" and info.lifecycle_stage == LifecycleStage.ACTIVE:
        client.set_terminated(run_id, "KILLED")
