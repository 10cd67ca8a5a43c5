"""The project plug-in: a bare `mlflow run .` works with conda on the machine and without.

MLflow takes conda for every project that names a conda_env, and fails where there is none. For the project medexp alone this
plug-in takes conda where it is found, else the environment that `mlflow` runs in; an explicit `--env-manager` stands. It also
hands the exit code of the entry point on (2 bad input, 3 a failed BLOCKING check), where `mlflow run` knows only 1, and leaves
a run that ended KILLED, or FAILED and was recovered, as it is, where `mlflow run` knows only FAILED and FINISHED.

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
        from mlflow.projects.utils import PROJECT_ENV_MANAGER, load_project
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
            self, uri: str, entry_point: str, params: Any, version: str | None, backend_config: dict[str, Any], *rest: Any
        ) -> LocalSubmittedRun:
            # A remote project is left to MLflow: it would have to be fetched to learn its name.
            if not (Path(uri).is_dir() and load_project(uri).name == _PROJECT):
                return super().run(uri, entry_point, params, version, backend_config, *rest)
            manager = backend_config[PROJECT_ENV_MANAGER]
            if manager is None:
                manager = CONDA if shutil.which(get_conda_bin_executable("conda")) else LOCAL
                _log.info("=== Environment: %s ===", "conda" if manager == CONDA else f"{sys.prefix} (there is no conda)")
            with _this_python_first() if manager == LOCAL else nullcontext():
                run = super().run(uri, entry_point, params, version, backend_config | {PROJECT_ENV_MANAGER: manager}, *rest)
            return MedexpRun(run.run_id, run.command_proc)

    loader.MLFLOW_BACKENDS["local"] = MedexpBackend


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
