"""A phase's run in MLflow, from its first line to how it ended."""

import errno
import functools
import json
import logging
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag
from mlflow.exceptions import RestException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import OperationalError

from medexp.errors import MedexpError, Pruned, StorageError
from medexp.reporting import NullReporter, Reporter
from medexp.tracking.children import end_run
from medexp.tracking.provenance import config_yaml, environment, flat_params, git_state, installed_packages
from medexp.tracking.reporter import MlflowReporter
from medexp.tracking.signals import Terminated, on_sigterm, sigterm_waits, terminate
from medexp.tracking.stores import STORE_ERRORS, check_store, reason, retries, without_secrets

_log = logging.getLogger(__name__)
_more_tags: ContextVar[Mapping[str, str]] = ContextVar("_more_tags", default={})  # noqa: B039  it is never changed


@dataclass(frozen=True)
class TrackedRun:
    """A run that is going on.

    Attributes:
        id: MLflow's run id.
        folder: The run's folder on this machine, `output_dir/<id>`; it exists.
        reporter: Where training and evaluation report to.
        client: Writes to the run; None in processes other than the first, which write nothing.
    """

    id: str
    folder: Path
    reporter: Reporter
    client: MlflowClient | None = None

    def tag(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        if self.client:
            self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in values.items()])


class _ToldWhatToDo(StorageError):
    """A StorageError that says already where what was done is kept."""


@contextmanager
def runs_tagged(tags: Mapping[str, str]) -> Iterator[None]:
    """Runs that are started within the block carry these tags from their first line on."""
    before = _more_tags.set({**_more_tags.get(), **tags})
    try:
        yield
    finally:
        _more_tags.reset(before)


@contextmanager
def store_failures(folder: Path, advice: str) -> Iterator[None]:
    """Makes a StorageError of a full disk and of a tracking store that went away; every other error passes as it is.

    Args:
        folder: What is written to, where the error does not say.
        advice: What was kept, and what to do.
    """
    try:
        yield
    except _ToldWhatToDo:
        raise
    except StorageError as error:
        raise _ToldWhatToDo(f"{error}. {advice}") from error
    except MedexpError:
        raise
    except Exception as error:
        link: BaseException | None = error
        while link is not None:
            if _is_full_disk(link):
                raise _ToldWhatToDo(f"{getattr(link, 'filename', None) or folder}: the disk is full. {advice}") from error
            if _is_no_answer(link):
                store = without_secrets(mlflow.get_tracking_uri())
                raise _ToldWhatToDo(f"tracking store {store}: does not answer ({reason(error)}). {advice}") from error
            link = link.__cause__ or link.__context__
        raise


@contextmanager
def tracked_run(
    phase: str, config: Any, *, resumed_from: str | None = None, is_main: bool = True, run_id: str | None = None
) -> Iterator[TrackedRun]:
    """One run of a phase: starts it, logs what it is made with, and ends it as what it came to.

    The run ends FINISHED; FAILED after an error, whose message becomes the tag `medexp.error` and whose class
    `medexp.error_type`; KILLED after Ctrl-C or SIGTERM.
    What the reporter still holds is written in each case. Inside `mlflow run` it is the run that MLflow created; outside, a
    new one in the experiment named by `phase`. While another tracked run is going on, it is a new run nested in that one, in
    the same experiment and named by `phase`; what ends it early ends the outer one as well.

    Args:
        phase: Name of the phase, such as `phase1`.
        config: Its configuration, a frozen dataclass with at least `profile`, `seed` and `output_dir`.
        resumed_from: Id of the interrupted run that this one goes on from; that one ends KILLED if it still counts as running.
        is_main: False in the processes of a launch other than the first: nothing is written to MLflow there.
        run_id: The first process's run id, where `is_main` is False.

    Raises:
        StorageError: The output folder cannot be written or the tracking store does not answer: before anything else is done,
            or later, when the disk is full or the store went away.
    """
    if not is_main:
        if run_id is None:
            raise ValueError("a process other than the first needs the first one's run id")
        yield TrackedRun(run_id, Path(config.output_dir).expanduser() / run_id, NullReporter())
        return
    output_dir = Path(config.output_dir).expanduser()
    _check_writable(output_dir)
    check_store()
    outer = mlflow.active_run()
    with sigterm_waits(then_raise=outer is not None) as waiting:
        with store_failures(output_dir, "Nothing was trained yet: start again when the cause is gone."):
            if outer is not None:
                started = mlflow.start_run(None, outer.info.experiment_id, phase, nested=True, log_system_metrics=False)
            else:
                chosen = None
                if "MLFLOW_RUN_ID" not in os.environ:  # inside `mlflow run` it is chosen, and choosing another one raises
                    # of two processes that make the experiment at once, one is told of it and not set to it
                    chosen = mlflow.set_experiment(phase).experiment_id
                # MLflow's own monitor is left running when the store is gone at the end, so ours is started below.
                started = mlflow.start_run(experiment_id=chosen, log_system_metrics=False)
        client, run_id = MlflowClient(), started.info.run_id
        run = TrackedRun(run_id, output_dir / run_id, MlflowReporter(client, run_id), client)
        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # its warnings show the URI with its password
        monitor = SystemMetricsMonitor(run.id, resume_logging=True)
        go_on = f"go on from there with -P resume={run.id}" if hasattr(config, "resume") else "run it again"
        kept = f"What was done is kept in {run.folder}: when the cause is gone, {go_on}"
        try:
            with on_sigterm(terminate), store_failures(run.folder, kept):
                if waiting:
                    terminate(signal.SIGTERM, None)
                monitor.start()
                _log_provenance(run, client, phase, config)
                if resumed_from is not None:
                    run.tag({"medexp.resumed_from": resumed_from})
                    end_run(resumed_from)
                yield run
                run.reporter.flush()
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt | Terminated)
            told = str(error) if isinstance(error, MedexpError) else f"{type(error).__name__}: {error}"
            if isinstance(error, MedexpError) and error.run is None:
                error.run = run.id
            # The store may be what failed: it gets one try each, and the error that ended the run goes on.
            with retries(0):
                try:
                    monitor.finish()
                    run.reporter.flush()
                    kind = {"medexp.error_type": type(error).__name__, "medexp.error": without_secrets(told)[:5000]}
                    run.tag({} if killed else kind)
                except STORE_ERRORS as second:
                    _log.warning("What run %s measured last could not be written: %s", run.id, reason(second))
                try:
                    mlflow.end_run("KILLED" if killed else "FAILED")
                except STORE_ERRORS as second:
                    _log.warning("Run %s still counts as running: %s", run.id, reason(second))
            raise
        with store_failures(run.folder, kept):
            monitor.finish()
            mlflow.end_run("FINISHED")


@contextmanager
def child_run(
    parent_id: str, name: str, output_dir: Path, params: Mapping[str, str], tags: Mapping[str, str]
) -> Iterator[TrackedRun]:
    """A run in another one, of any process, for one of many trials: what all of them are made with is in the parent.

    The run ends as its block does: FINISHED, also when the block is left with `Pruned`; KILLED after Ctrl-C or SIGTERM; else
    FAILED, with the tag `medexp.error`.

    Args:
        parent_id: The run that it is shown in.
        name: Its name.
        output_dir: Its folder is in there, named by its id.
        params: What is particular to it.
        tags: Its tags.
    """
    client = MlflowClient()
    experiment = _experiment_of(parent_id, client.tracking_uri)
    made = client.create_run(experiment, tags={MLFLOW_PARENT_RUN_ID: parent_id, **_more_tags.get(), **tags}, run_name=name)
    run_id = made.info.run_id
    client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])
    run = TrackedRun(run_id, output_dir / run_id, MlflowReporter(client, run_id), client)
    status = "FAILED"
    try:
        run.folder.mkdir(parents=True)
        yield run
        status = "FINISHED"
    except Pruned:
        status = "FINISHED"
        raise
    except (KeyboardInterrupt, Terminated):
        status = "KILLED"
        raise
    except Exception as error:
        told = str(error) if isinstance(error, MedexpError) else f"{type(error).__name__}: {error}"
        run.tag({"medexp.error": without_secrets(told)[:5000]})
        raise
    finally:
        run.reporter.flush()
        client.set_terminated(run_id, status)


@functools.cache
def _experiment_of(run_id: str, tracking_uri: str) -> str:
    """The experiment of a run: a sweep's many trials ask for it, and a run with its parameters and metrics is long to read."""
    return str(MlflowClient(tracking_uri).get_run(run_id).info.experiment_id)


def _log_provenance(run: TrackedRun, client: MlflowClient, phase: str, config: Any) -> None:
    run.folder.mkdir(exist_ok=True)
    resolved = config_yaml(config)
    (run.folder / "config.yaml").write_text(resolved)
    run.reporter.text(resolved, "config.yaml")
    run.reporter.text(json.dumps(environment(config), indent=2), "environment/environment.json")
    run.reporter.text(installed_packages(), "environment/requirements.txt")
    tags = {"medexp.phase": phase, "medexp.profile": str(config.profile), "medexp.seed": str(config.seed)}
    tags |= _more_tags.get()
    if state := git_state():
        commit, uncommitted = state
        tags |= {"medexp.git_commit": commit, "medexp.git_dirty": str(bool(uncommitted)).lower()}
        if uncommitted:
            run.reporter.text(uncommitted, "environment/uncommitted.diff")
    # `mlflow run` has logged its -P parameters, quoted for the shell, and a param is written once.
    present = client.get_run(run.id).data.params
    params = [Param(key, value) for key, value in flat_params(config).items() if key not in present]
    client.log_batch(run.id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"output_dir {folder}: cannot be written ({error.strerror}). Give a folder that can: -P output_dir=FOLDER"
        ) from error


def _is_no_answer(error: BaseException) -> bool:
    if isinstance(error, RestException):
        return error.get_http_status_code() >= 500
    package = type(error).__module__.partition(".")[0]
    return package in ("requests", "urllib3", "botocore", "boto3") or isinstance(error, OperationalError)


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors and torch write from Rust and C++, which report the same without an errno
    return "No space left on device" in str(error) or "StorageFull" in str(error)
