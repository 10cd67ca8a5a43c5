"""The project plug-in: a bare `mlflow run .` works with conda on the machine and without.

MLflow takes conda for every project that names a conda_env, and fails where there is none. For the project medexp alone this
plug-in takes conda where it is found, else the environment that `mlflow` runs in; an explicit `--env-manager` stands. A run is
in the experiment named by its phase, where `mlflow run` takes "Default"; one that the user names stands. The exit code of the
entry point is handed on (2 bad input, 3 a failed BLOCKING check), where `mlflow run` knows only 1. A run that ended KILLED, or
FAILED and was recovered, stays as it is, where `mlflow run` knows only FAILED and FINISHED.

MLflow loads the entry-point group `mlflow.run_context_provider` on `import mlflow`, the early door for other packages. Here
it registers a hook for the module that knows the backends. Neither the hook nor that module is public in MLflow: hence the pin
`mlflow>=3.17,<3.18` in pyproject.toml, and the tests of this module.
"""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from mlflow.tracking.context.abstract_context import RunContextProvider
from mlflow.utils.import_hooks import register_post_import_hook

_PROJECT = "medexp"
_log = logging.getLogger("mlflow.projects")


class MedexpContext(RunContextProvider):
    """What MLflow loads; it adds no tags to any run."""

    def in_context(self) -> bool:
        return False

    def tags(self) -> dict[str, str]:
        return {}


def _replace_local_backend(loader: ModuleType) -> None:
    try:  # here and not above: mlflow.projects is still to come when MLflow loads this module
        import click
        from mlflow.exceptions import ExecutionException
        from mlflow.projects.submitted_run import LocalSubmittedRun
        from mlflow.projects.utils import MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG, PROJECT_ENV_MANAGER, load_project
        from mlflow.tracking.default_experiment import DEFAULT_EXPERIMENT_ID
        from mlflow.utils.conda import get_conda_bin_executable
        from mlflow.utils.env_manager import CONDA, LOCAL
    except ImportError as error:  # another MLflow than the pinned one: it works as it is
        _log.warning("medexp's project plug-in does not fit this MLflow: %s", error)
        return

    class MedexpRun(LocalSubmittedRun):
        def wait(self) -> bool:
            from mlflow import MlflowClient  # half imported as yet where the others are imported

            context = click.get_current_context(silent=True)  # None where mlflow.run() is called from Python
            try:
                succeeded = super().wait()
            except KeyboardInterrupt:
                if context is None:
                    raise
                succeeded = False
                self.cancel()
            if succeeded:
                status = MlflowClient().get_run(self.run_id).info.status
                if context and status == "FAILED":  # and recovered in another run; MLflow would go on and make FINISHED of it
                    context.call_on_close(lambda: MlflowClient().set_terminated(self.run_id, status))
                return True
            if context:
                code = self.command_proc.returncode
                context.call_on_close(lambda: sys.exit(code if code > 0 else 128 - code))
            if MlflowClient().get_run(self.run_id).info.status != "RUNNING":
                # The command has ended its run, as KILLED perhaps; MLflow would go on and make FAILED of it.
                raise ExecutionException(f"Run (ID '{self.run_id}') failed")
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
            # A remote project is left to MLflow: it would have to be fetched to learn its name.
            if not (Path(uri).is_dir() and (project := load_project(uri)).name == _PROJECT):
                return super().run(uri, entry_point, params, version, backend_config, store, experiment)
            context = click.get_current_context(silent=True)
            given = context.params if context else {}
            is_named = experiment != DEFAULT_EXPERIMENT_ID or given.get("experiment_name") or given.get("experiment_id")
            if not is_named and MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG not in backend_config:
                experiment = _experiment_for(project.get_entry_point(entry_point).name)
            manager = backend_config[PROJECT_ENV_MANAGER]
            if manager is None:
                manager = CONDA if shutil.which(get_conda_bin_executable("conda")) else LOCAL
                _log.info("=== Environment: %s ===", "conda" if manager == CONDA else f"{sys.prefix} (there is no conda)")
            with _this_python_first() if manager == LOCAL else nullcontext():
                settings = backend_config | {PROJECT_ENV_MANAGER: manager}
                run = super().run(uri, entry_point, params, version, settings, store, experiment)
            return MedexpRun(run.run_id, run.command_proc)

    loader.MLFLOW_BACKENDS["local"] = MedexpBackend


def _experiment_for(phase: str) -> str:
    """The experiment of a phase, which `mlflow run` has to know before the phase's own process starts.

    Raises:
        ClickException: The store does not answer, or the experiment was deleted.
    """
    import click

    from medexp.errors import MedexpError
    from medexp.tracking.experiments import experiment_for
    from medexp.tracking.stores import check_store

    try:
        check_store()
        return experiment_for(phase)
    except MedexpError as error:
        raise type("Refusal", (click.ClickException,), {"exit_code": error.exit_code})(str(error)) from error


@contextmanager
def _this_python_first() -> Iterator[None]:
    """The command's `python` is the one that runs mlflow, also when its environment is called and not activated."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


register_post_import_hook(_replace_local_backend, "mlflow.projects.backend.loader", overwrite=True)
