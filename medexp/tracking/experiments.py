"""Which experiment a run belongs to: the one that the user names, else its phase's own."""

import functools
import os
import re
from pathlib import Path

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException

from medexp.errors import ConfigError

_NAME, _ID = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"


def experiment_for(phase: str) -> str:
    """Id of the experiment of a new run: of MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, else of the name of its phase.

    One that is not there yet is made; of several processes that make it at once, all get it.

    Raises:
        ConfigError: The id is no experiment's, or the experiment was deleted.
    """
    client = MlflowClient()
    found: Experiment | None
    if given := not os.environ.get(_NAME) and os.environ.get(_ID):
        try:
            found = client.get_experiment(given)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the second: it is no number
                raise
            raise ConfigError(f"{_ID}: there is no experiment {given!r}; give another, or {_NAME}=NAME makes one") from error
    else:
        name = os.environ.get(_NAME) or phase
        if (found := client.get_experiment_by_name(name)) is None:
            try:
                return str(client.create_experiment(name, _beside_the_database(name)))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)
    assert found is not None
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise ConfigError(
            f"experiment {found.name!r} was deleted; bring it back: mlflow experiments restore -x {found.experiment_id}; or "
            f"name another: {_NAME}=NAME"
        )
    return str(found.experiment_id)


@functools.cache
def experiment_of(run_id: str, tracking_uri: str) -> str:
    """The experiment of a run: a sweep's many trials ask for it, and a run with its parameters and metrics is long to read."""
    return str(MlflowClient(tracking_uri).get_run(run_id).info.experiment_id)


def _beside_the_database(name: str) -> str | None:
    """Where the files of an experiment go; None: the store decides.

    MLflow fixes it when the experiment is made, relative to the folder of the process that happens to make it: for a database
    in a file, which is in no such folder, that may be anywhere. Of a name that is no folder's, what can be is kept: runs have
    folders of their own in there.
    """
    uri = mlflow.get_tracking_uri()
    file = sqlalchemy.make_url(uri).database if uri.startswith("sqlite:") else None
    return str(Path(file).absolute().parent / "mlruns" / re.sub(r"[^\w-]", "_", name)[:60]) if file else None
