"""Runs that nobody ended: their process was killed."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from medexp.errors import ConfigError
from medexp.tracking.processes import PROCESS, in_words, is_gone, pid_of

_SILENT_FOR = 3600  # seconds without a sign of life after which a process of another machine counts as gone
_SILENT_LATELY = 300  # the same for who wants to go on with its run
RESUMED = "medexp.resumed_from"
"""The tag of a run that goes on from another one."""


@dataclass(frozen=True)
class Left:
    """A run that counts as running and whose process is gone.

    Attributes:
        id: Its id.
        name: Its name.
        why: What tells that the process is gone, in words.
    """

    id: str
    name: str
    why: str


def left_running() -> list[Left]:
    """The runs of medexp in this store that count as running and whose process is gone, the oldest first."""
    client = MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'", order_by=["attributes.start_time ASC"])
    by_id = {run.info.run_id: run for run in running}
    ours = [run for run in running if any(key.startswith("medexp.") for key in run.data.tags)]
    return [Left(run.info.run_id, run.info.run_name, why) for run in ours if (why := why_gone(run, by_id.get))]


def check_resumable(run_id: str) -> None:
    """Whether a run can be gone on with; one that was deleted, or is in another store, is known by its folder alone.

    Raises:
        ConfigError: It came to its end, or a process goes on with it, or another run has gone on from it.
    """
    client = MlflowClient()
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    everywhere = [one.experiment_id for one in client.search_experiments()]
    after = client.search_runs(everywhere, f"tags.`{RESUMED}` = '{run_id}'")
    for one in (run, *after):
        what = f"resume={run_id}: " + ("it" if one is run else f"run {one.info.run_id} went on from it, and")
        if one.info.status == "FINISHED":
            raise ConfigError(f"{what} is FINISHED; there is nothing to go on with. For another run leave resume out")
        if one.info.status == "RUNNING" and PROCESS in one.data.tags and not why_gone(one, silent_for=_SILENT_LATELY):
            process = one.data.tags[PROCESS]
            raise ConfigError(
                f"{what} still runs: {in_words(process)}. Wait for its end, or interrupt it there: kill {pid_of(process)}"
            )


def why_gone(run: Run, running: Callable[[str], Run | None] = lambda _: None, silent_for: float = _SILENT_FOR) -> str:
    """What tells that the process of a run is gone, in words; empty where it is there, or may be.

    One of this machine is looked for. One of another machine, and one that the run does not name, counts as gone when the run
    gave no sign of life for long; a run in another one lives as long as that one does.

    Args:
        run: A run that counts as running.
        running: Another one that does, by its id.
        silent_for: Seconds without a sign of life after which a process counts as gone that cannot be looked for.
    """
    process = run.data.tags.get(PROCESS, "")
    gone = is_gone(process)
    if gone is not None:
        return f"{in_words(process)} is gone" if gone else ""
    silent = time.time() - max(map(_last_sign, _up_from(run, running)))
    who = in_words(process) if process else "its process, which it does not name,"
    return f"{who} gave no sign of life for {silent / 3600:.0f} hours" if silent > silent_for else ""


def _up_from(run: Run, running: Callable[[str], Run | None]) -> Iterator[Run]:
    there: Run | None = run
    while there is not None:
        yield there
        there = running(there.data.tags.get(MLFLOW_PARENT_RUN_ID, ""))


def _last_sign(run: Run) -> float:
    """When a run was last heard of, in seconds since 1970: what its machine does is measured every few seconds."""
    measured = [metric.timestamp for metric in run.data._metric_objs]  # `data.metrics` says no time
    return float(max([run.info.start_time, *measured])) / 1000


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
