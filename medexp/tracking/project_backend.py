"""The project plug-in: a bare `mlflow run .` works with conda on the machine and without.

MLflow takes conda for every project that names a conda_env, and fails where there is none. For the project medexp alone this
plug-in takes conda where it is found, else the environment that `mlflow` runs in; an explicit `--env-manager` stands. One
process makes the store, others wait. A run is in the experiment named by its phase, where `mlflow run` takes "Default"; one
that the user names stands. The exit code of the entry point is handed on (2 bad input, 3 a failed BLOCKING check), where
`mlflow run` knows only 1. A run that ended KILLED, or FAILED and was recovered, stays as it is, where `mlflow run` knows only
FAILED and FINISHED. Signals that end a process go on to the entry point, whose end is waited for, where `mlflow run` would
leave it behind; and it ends when `mlflow run` was killed.

MLflow loads the entry-point group `mlflow.run_context_provider` on `import mlflow`, the early door for other packages. Here
it registers a hook for the module that runs projects. Neither the hook nor what is replaced there is public in MLflow: hence
the pin `mlflow>=3.17,<3.18` in pyproject.toml, and the tests of this module.
"""

import functools
import inspect
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from subprocess import Popen
from types import ModuleType
from typing import Any

import psutil
from mlflow.tracking.context.abstract_context import RunContextProvider
from mlflow.utils.import_hooks import register_post_import_hook

from medexp.tracking.processes import PARENT, PROCESS, this_process
from medexp.tracking.signals import on_signals

_PROJECT = "medexp"
_log = logging.getLogger("mlflow.projects")


class MedexpContext(RunContextProvider):
    """What MLflow loads; it adds no tags to any run."""

    def in_context(self) -> bool:
        return False

    def tags(self) -> dict[str, str]:
        return {}


def _replace_local_backend(projects: ModuleType) -> None:
    try:  # here and not above: mlflow.projects is still to come when MLflow loads this module
        import click
        from mlflow.exceptions import ExecutionException
        from mlflow.projects import utils
        from mlflow.projects.backend import loader
        from mlflow.projects.submitted_run import LocalSubmittedRun
        from mlflow.projects.utils import (
            MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG,
            PROJECT_ENV_MANAGER,
            fetch_and_validate_project,
            get_or_create_run,
            load_project,
        )
        from mlflow.utils.conda import get_conda_bin_executable
        from mlflow.utils.env_manager import CONDA, LOCAL
    except ImportError as error:  # another MLflow than the pinned one: it works as it is
        _log.warning("medexp's project plug-in does not fit this MLflow: %s", error)
        return

    came: list[int] = []  # signals that this process was sent
    commands: list[Popen[Any]] = []

    def pass_on(signum: int, _frame: Any) -> None:
        came.append(signum)
        for command in commands:
            _send(command, signum)

    def project_at(uri: str) -> Any:
        """The project in a folder, if it is medexp; a remote one is MLflow's: it would have to be fetched for its name."""
        return project if Path(uri).is_dir() and (project := load_project(uri)).name == _PROJECT else None

    class MedexpRun(LocalSubmittedRun):
        def wait(self) -> bool:
            context = click.get_current_context(silent=True)  # None where mlflow.run() is called from Python
            succeeded = super().wait()
            code = self.command_proc.returncode
            status = _status(self.run_id)
            if succeeded:
                if context and status == "FAILED":  # and recovered in another run; MLflow would go on and make FINISHED of it
                    context.call_on_close(lambda: _end(self.run_id, "FAILED"))
                return True
            if context:
                context.call_on_close(lambda: sys.exit(128 + came[0] if came else code if code > 0 else 128 - code))
            if status == "RUNNING" and (came or code < 0 or code > 128):  # it could not say itself that it was ended
                _end(self.run_id, "KILLED")
                status = "KILLED"
            if status != "RUNNING":
                # The command has ended its run, as KILLED perhaps; MLflow would go on and make FAILED of it.
                raise ExecutionException(f"Run (ID '{self.run_id}') {'was interrupted' if came else 'failed'}")
            return False

    local_backend: Any = loader.MLFLOW_BACKENDS["local"]

    class MedexpBackend(local_backend):
        def run(
            self,
            uri: str,
            entry_point: str,
            params: Any,
            version: str | None,
            backend_config: dict[str, Any],
            store: str,
            experiment: str,
        ) -> LocalSubmittedRun:
            if not project_at(uri):
                return super().run(uri, entry_point, params, version, backend_config, store, experiment)
            manager = backend_config[PROJECT_ENV_MANAGER]
            if manager is None:
                manager = CONDA if shutil.which(get_conda_bin_executable("conda")) else LOCAL
                _log.info("=== Environment: %s ===", "conda" if manager == CONDA else f"{sys.prefix} (there is no conda)")
            # The run is made here, so that it says whose it is before there is a command that could.
            given = backend_config.get(MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG)
            folder = fetch_and_validate_project(uri, version, entry_point, params)
            made = get_or_create_run(given, uri, experiment, folder, version, entry_point, params).info.run_id
            _tag(made, this_process())
            with _this_python_first() if manager == LOCAL else nullcontext(), _told({PARENT: this_process()}):
                settings = backend_config | {PROJECT_ENV_MANAGER: manager, MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG: made}
                run = super().run(uri, entry_point, params, version, settings, store, experiment)
            commands.append(run.command_proc)
            for signum in came:  # while the command was started
                _send(run.command_proc, signum)
            return MedexpRun(run.run_id, run.command_proc)

    run_project = projects.run
    signature = inspect.signature(run_project)

    @functools.wraps(run_project)
    def run(*args: Any, **named: Any) -> Any:
        given = signature.bind(*args, **named)
        given.apply_defaults()
        if project := project_at(given.arguments["uri"]):
            if context := click.get_current_context(silent=True):
                came.clear()
                context.with_resource(on_signals(pass_on))
            _demand_no_secrets(given.arguments["parameters"] or {})
            phase = project.get_entry_point(given.arguments["entry_point"]).name
            experiment = _experiment_of(phase, **{key: given.arguments[key] for key in _WHERE})
            given.arguments |= {"experiment_name": None, "experiment_id": experiment}
        return run_project(*given.args, **given.kwargs)

    remote_of = utils.get_git_repo_url

    def remote(path: str) -> str | None:
        from medexp.tracking.stores import without_secrets

        return without_secrets(url) if (url := remote_of(path)) else None

    utils.get_git_repo_url = remote  # it becomes a tag, and may hold a token
    loader.MLFLOW_BACKENDS["local"] = MedexpBackend
    projects.run = run  # type: ignore[attr-defined]


_WHERE = ("experiment_name", "experiment_id", "run_id")


def _demand_no_secrets(parameters: Mapping[str, Any]) -> None:
    """MLflow logs all parameters of a project, before the entry point could refuse any.

    Raises:
        ClickException: A parameter holds a password or a key.
    """
    from medexp.config.validate import secret_in
    from medexp.errors import all_problems

    told = [f"{key}: {why}" for key, value in parameters.items() if (why := secret_in(str(value)))]
    if told:
        raise _refusal(all_problems("-P", told), 2)


def _refusal(told: str, code: int) -> Exception:
    import click

    return type("Refusal", (click.ClickException,), {"exit_code": code})(told)


def _experiment_of(phase: str, experiment_name: str | None, experiment_id: str | None, run_id: str | None) -> str:
    """The experiment of a run of a phase, which `mlflow run` has to know before the phase's own process starts.

    Raises:
        ClickException: The store does not answer, or the experiment, or the run that is given, cannot be used.
    """
    from medexp.errors import MedexpError
    from medexp.tracking.experiments import experiment_for, given_run
    from medexp.tracking.stores import check_store

    try:
        check_store()
        return str(given_run(run_id).info.experiment_id) if run_id else experiment_for(phase, experiment_name, experiment_id)
    except MedexpError as error:
        raise _refusal(str(error), error.exit_code) from error


def _status(run_id: str) -> str:
    """Of a run whose command has ended; UNKNOWN where the store does not answer, which the command has said by then."""
    from mlflow import MlflowClient  # half imported as yet where this module is

    from medexp.tracking.stores import STORE_ERRORS, reason, retries

    try:
        with retries(0):
            return str(MlflowClient().get_run(run_id).info.status)
    except STORE_ERRORS as error:
        _log.warning("How run %s ended cannot be told: %s", run_id, reason(error))
        return "UNKNOWN"


def _end(run_id: str, status: str) -> None:
    """End a run, and as KILLED those in it that its command left."""
    from mlflow import MlflowClient

    from medexp.tracking.killed import end_left
    from medexp.tracking.stores import STORE_ERRORS, reason, retries

    try:
        with retries(0):
            if status == "KILLED":
                end_left(run_id)
            MlflowClient().set_terminated(run_id, status)
    except STORE_ERRORS as error:
        _log.warning("Run %s still counts as running: %s", run_id, reason(error))


def _tag(run_id: str, process: str) -> None:
    from mlflow import MlflowClient

    MlflowClient().set_tag(run_id, PROCESS, process)


def _send(command: Popen[Any], signum: int) -> None:
    """Send a signal to an entry point: a shell that waits for it would end and leave it behind."""
    try:
        process = psutil.Process(command.pid)
        for one in (process.name() == "bash" and process.children()) or [process]:
            one.send_signal(signum)
    except psutil.NoSuchProcess:
        pass


@contextmanager
def _told(values: Mapping[str, str]) -> Iterator[None]:
    """What the command finds in its environment."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _this_python_first() -> Any:
    """The command's `python` is the one that runs mlflow, also when its environment is called and not activated."""
    return _told({"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"})


register_post_import_hook(_replace_local_backend, "mlflow.projects", overwrite=True)
