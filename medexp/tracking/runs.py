"""A phase's run in MLflow, from its first line to how it ended."""

import json
import logging
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import ActiveRun, MlflowClient
from mlflow.entities import Param, RunTag
from mlflow.exceptions import RestException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from mlflow.utils.name_utils import _GENERATOR_NOUNS as _NOUNS
from mlflow.utils.name_utils import _GENERATOR_PREDICATES as _PREDICATES
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from medexp.addresses import local_path
from medexp.checks import VERDICT
from medexp.config.keys import run_name
from medexp.config.shared import Resumable
from medexp.errors import MedexpError, Pruned, StorageError, TrainingDiverged
from medexp.files import alone, is_denied, is_full_disk
from medexp.reporting import NullReporter, Reporter
from medexp.secrets import masked
from medexp.tracking.experiments import experiment_for, experiment_of, given_run
from medexp.tracking.killed import RESUMED, check_resumable, end_run
from medexp.tracking.printed import LOG, print_error, printed_to
from medexp.tracking.processes import PROCESS, this_process
from medexp.tracking.provenance import config_yaml, environment, flat_params, git_state, installed_packages
from medexp.tracking.reporter import MlflowReporter
from medexp.tracking.signals import Terminated, on_signals, signals_wait, terminate, was_terminated
from medexp.tracking.stores import STORE_ERRORS, chain, check_store, reason, retries, without_secrets

_SAMPLES = 60  # of the system, one each ten seconds

_log = logging.getLogger(__name__)
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of a server; it opens the UI in the wrong mode
_more_tags: ContextVar[Mapping[str, str]] = ContextVar("_more_tags", default={})  # noqa: B039  it is never changed
_more_words: ContextVar[str] = ContextVar("_more_words", default="")
# `mlflow run` names each run and marks nowhere that the name is its own; a name that the user gave is made of other words.
DRAWN_NAME = re.compile("({})-({})-[0-9]+".format(*("|".join(map(str.lower, words)) for words in (_PREDICATES, _NOUNS))))


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
            self.client.log_batch(self.id, tags=[RunTag(key, masked(value).text) for key, value in values.items()])


class _ToldWhatToDo(StorageError):
    """A StorageError that says already where what was done is kept."""


@contextmanager
def runs_tagged(tags: Mapping[str, str], words: str = "") -> Iterator[None]:
    """Runs that are started within the block carry these tags from their first line on.

    Args:
        tags: The tags.
        words: What to say in their names, of a run of this block alone; empty: nothing.
    """
    before, said_before = _more_tags.set({**_more_tags.get(), **tags}), _more_words.set(words)
    try:
        yield
    finally:
        _more_tags.reset(before)
        _more_words.reset(said_before)


def called(phase: str, config: Any, *words: str) -> str:
    """What a run is called: `phase1 r8 a16 s0`, and what is to be said beside its configuration, such as `trial 3`."""
    return ", ".join([run_name(phase, config), *filter(None, words)])


@contextmanager
def store_failures(folder: Path, advice: str) -> Iterator[None]:
    """Makes a StorageError of a full disk, of a file that is another user's, and of a tracking store that went away; every
    other error passes as it is.

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
        links = list(chain(error))
        if any(map(is_full_disk, links)):
            raise _ToldWhatToDo(f"{_place(links) or folder}: the disk is full. {advice}") from error
        if denied := [link for link in links if is_denied(link)]:
            told = getattr(denied[-1], "strerror", None) or reason(error)
            raise _ToldWhatToDo(f"{_place(denied) or folder}: cannot be read or written ({told}). {advice}") from error
        if any(map(_is_no_answer, links)):
            raise _ToldWhatToDo(f"{_store()}: does not answer ({reason(error)}). {advice}") from error
        raise


@contextmanager
def tracked_run(
    phase: str,
    config: Any,
    *,
    params: Collection[str] | None = None,
    resumed_from: str | None = None,
    is_main: bool = True,
    run_id: str | None = None,
) -> Iterator[TrackedRun]:
    """One run of a phase: starts it, logs what it is made with, and ends it as what it came to.

    The run ends FINISHED; FAILED after an error, whose message becomes the tag `medexp.error` and whose class
    `medexp.error_type`; KILLED after Ctrl-C, SIGTERM or SIGHUP. Its verdict is then FAILED where a training diverged, and none
    where it was cut short otherwise.
    What the reporter still holds is written in each case, and what was printed (`medexp.tracking.printed`). Inside `mlflow
    run` it is the run that MLflow created; outside, a new one in the experiment that the user names, else in the one named by
    `phase`. While another tracked run is going on, it is a new run nested in that one, in the same experiment; what ends it
    early ends the outer one as well. It is called what it is (`medexp.config.keys.run_name`), unless the user gave `mlflow
    run` a name.

    Args:
        phase: Name of the phase, such as `phase1`.
        config: Its configuration, a frozen dataclass with at least `profile`, `seed` and `output_dir`.
        params: The keys that are logged as its parameters; None: all. All of them are in its config.yaml in any case.
        resumed_from: Id of the interrupted run that this one goes on from; that one ends KILLED if it still counts as running.
        is_main: False in the processes of a launch other than the first: nothing is written to MLflow there.
        run_id: The first process's run id, where `is_main` is False.

    Raises:
        ConfigError: MLFLOW_RUN_ID names no run that can be written to, the experiment cannot be used, or the run that is to
            be resumed has ended well or still runs.
        StorageError: The output folder cannot be written or the tracking store does not answer: before anything else is done,
            or later, when the disk is full or the store went away.
    """
    if not is_main:
        if run_id is None:
            raise ValueError("a process other than the first needs the first one's run id")
        yield TrackedRun(run_id, local_path(config.output_dir) / run_id, NullReporter())
        return
    output_dir = local_path(config.output_dir)
    _check_writable(output_dir)
    check_store()
    outer = mlflow.active_run()
    with signals_wait(then_raise=outer is not None) as waiting:
        with store_failures(output_dir, "Nothing was trained yet: start again when the cause is gone."):
            name = called(phase, config, _more_words.get(), "resumed" if resumed_from else "")
            experiment = outer.info.experiment_id if outer else None
            if resumed_from is None:
                started = _start(phase, name, experiment)
            else:
                with alone(output_dir / resumed_from / ".resume.lock"):  # of two processes the second sees the first's run
                    check_resumable(resumed_from)
                    started = _start(phase, name, experiment, {RESUMED: resumed_from})
        client, run_id = MlflowClient(), started.info.run_id
        run = TrackedRun(run_id, output_dir / run_id, MlflowReporter(client, run_id), client)
        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # its warnings show the URI with its password
        # A mean each ten minutes: pages and comparisons show them before all that was measured, and of a shorter run they tell
        # nothing. MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING=6 makes it one a minute.
        monitor = SystemMetricsMonitor(run.id, resume_logging=True, samples_before_logging=_SAMPLES)
        go_on = f"go on from there with -P resume={run.id}" if isinstance(config, Resumable) else "run it again"
        kept = f"What was done is kept in {run.folder}: when the cause is gone, {go_on}"
        try:
            with on_signals(terminate), store_failures(run.folder, kept):
                if waiting:
                    terminate(waiting[0], None)
                monitor.start()
                _log_provenance(run, client, config, params)
                if resumed_from is not None:
                    end_run(resumed_from)
                with printed_to(run.folder / LOG):
                    yield run
                run.reporter.flush()
                run.reporter.file(run.folder / LOG)
        except BaseException as error:
            stopped = was_terminated(error)
            killed = stopped is not None or isinstance(error, KeyboardInterrupt)
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
                    run.tag({VERDICT: "FAILED"} if isinstance(error, TrainingDiverged) else {})
                    if (log := run.folder / LOG).is_file():
                        print_error(log, error)
                        run.reporter.file(log)
                except STORE_ERRORS as second:
                    _log.warning("What run %s measured last could not be written: %s", run.id, reason(second, beside=error))
                try:
                    mlflow.end_run("KILLED" if killed else "FAILED")
                except STORE_ERRORS as second:
                    _log.warning("Run %s still counts as running: %s", run.id, reason(second, beside=error))
            if stopped is not None and stopped is not error:
                raise stopped from None
            raise
        with store_failures(run.folder, kept):
            monitor.finish()
            mlflow.end_run("FINISHED")


def _start(phase: str, name: str, outer_experiment: str | None, more: Mapping[str, str] = {}) -> ActiveRun:
    # MLflow's own monitor is left running when the store is gone at the end: ours is started by the caller.
    tags = {"medexp.phase": phase, PROCESS: this_process(), **more}
    if outer_experiment is not None:
        return mlflow.start_run(None, outer_experiment, name, nested=True, tags=tags, log_system_metrics=False)
    if "MLFLOW_RUN_ID" not in os.environ:
        return mlflow.start_run(None, experiment_for(phase), name, tags=tags, log_system_metrics=False)
    made = given_run(os.environ["MLFLOW_RUN_ID"]).info  # by `mlflow run`, in the right experiment
    if DRAWN_NAME.fullmatch(made.run_name):
        tags[MLFLOW_RUN_NAME] = name
    if mlflow.get_experiment(made.experiment_id).name == phase:  # not named by the user
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # or it counted for what the process runs next, of another phase perhaps
    # last: a run that goes on and is nobody's counts as FINISHED when the process ends
    return mlflow.start_run(tags=tags, log_system_metrics=False)


@contextmanager
def child_run(
    parent_id: str, name: str, output_dir: Path, params: Mapping[str, str], tags: Mapping[str, str]
) -> Iterator[TrackedRun]:
    """A run in another one, of any process, for one of many trials: what all of them are made with is in the parent.

    The run ends as its block does: FINISHED, also when the block is left with `Pruned`; KILLED after a signal; else FAILED,
    with the tag `medexp.error`.

    Args:
        parent_id: The run that it is shown in.
        name: Its name.
        output_dir: Its folder is in there, named by its id.
        params: What is particular to it.
        tags: Its tags.
    """
    client = MlflowClient()
    experiment = experiment_of(parent_id, client.tracking_uri)
    known = {MLFLOW_PARENT_RUN_ID: parent_id, PROCESS: this_process()}
    made = client.create_run(experiment, tags={**known, **_more_tags.get(), **tags}, run_name=name)
    run_id = made.info.run_id
    client.log_batch(run_id, params=[Param(key, masked(value, home=False).text) for key, value in params.items()])
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


def _log_provenance(run: TrackedRun, client: MlflowClient, config: Any, shown: Collection[str] | None) -> None:
    run.folder.mkdir(exist_ok=True)
    resolved = config_yaml(config)
    (run.folder / "config.yaml").write_text(resolved)
    run.reporter.text(resolved, "config.yaml")
    run.reporter.text(json.dumps(environment(config), indent=2), "environment/environment.json")
    run.reporter.text(installed_packages(), "environment/requirements.txt")
    tags = {"medexp.profile": str(config.profile), "medexp.seed": str(config.seed)}
    tags |= _more_tags.get()
    if state := git_state():
        commit, uncommitted = state
        tags |= {"medexp.git_commit": commit, "medexp.git_dirty": str(bool(uncommitted)).lower()}
        if uncommitted:
            run.reporter.text(uncommitted, "environment/uncommitted.diff")
    # `mlflow run` has logged its -P parameters, quoted for the shell, and a param is written once.
    present = client.get_run(run.id).data.params
    values = {key: value for key, value in flat_params(config).items() if shown is None or key in shown}
    params = [Param(key, masked(value, home=False).text) for key, value in values.items() if key not in present]
    client.log_batch(run.id, params=params)
    run.tag(tags)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"output_dir {folder}: cannot be written ({error.strerror}). Give a folder that can: -P output_dir=FOLDER"
        ) from error


def _place(links: Sequence[BaseException]) -> str | None:
    """What an error with its causes is about: a file, or the tracking store."""
    for link in links:
        if isinstance(link, OSError) and (file := link.filename2 or link.filename):  # of a copy the second is what was written
            return str(file)
    of_store = any(isinstance(link, SQLAlchemyError | RestException) for link in links)
    return _store() if of_store else None


def _store() -> str:
    return f"tracking store {without_secrets(mlflow.get_tracking_uri())}"


def _is_no_answer(error: BaseException) -> bool:
    if isinstance(error, RestException):
        return error.get_http_status_code() >= 500
    package = type(error).__module__.partition(".")[0]
    return package in ("requests", "urllib3", "botocore", "boto3") or isinstance(error, OperationalError)
