"""Which experiment a run belongs to: the one that the user names, else its phase's own."""

import functools
import json
import os
import re

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from medexp.addresses import runs_page
from medexp.errors import ConfigError
from medexp.tracking.processes import PROCESS, in_words, is_above, is_gone
from medexp.tracking.stores import database_file, without_secrets

_COLUMNS = {
    "tags.`medexp.verdict`": 100,
    "tags.`medexp.headline`": 230,
    "tags.`medexp.failed_diagnostics`": 180,
    "tags.`medexp.best`": 120,
    "tags.`medexp.champion`": 150,
    "params.`lora.rank`": 80,
    "attributes.`Models`": 200,
    "attributes.`Dataset`": 300,
}
_NARROWER = {"attributes.`Run Name`": 190, "runDateAndNestInfo": 118}  # always there: verdict and headline fit beside them
_WIDTHS = _NARROWER | _COLUMNS
TABLE = {"selectedColumns": list(_COLUMNS), "columnOrder": list(_WIDTHS), "columnWidths": _WIDTHS}
"""How MLflow's UI begins to show a table of runs: which columns stand beside the runs' names, and how wide, in pixels."""
_VIEW = "mlflow.sharedViewState.medexp"  # by which a UI that is not medexp's own shows it too, for who asks for it
_ABOUT = """Runs of `mlflow run . -e {phase}`; trials of a sweep, rungs of a recovery and steps of a pipeline stand under the run that began them.

[Columns to compare by]({table}): the tags `medexp.headline` (the figure, with its interval), `medexp.verdict` and `medexp.failed_diagnostics` (what its checks said), `medexp.best`, and the parameters, which are what was set and what runs are compared by.

A run's page says what it came to; `report.html` among its artifacts is all of it on one page.
"""  # noqa: E501  a line of Markdown is a paragraph
_NAME, _ID, _RUN = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"


def experiment_for(phase: str, name: str | None = None, given: str | None = None) -> str:
    """Id of the experiment of a new run: of a name or an id that the user gave, else of the name of its phase.

    One that is not there yet is made; of several processes that make it at once, all get it.

    Args:
        phase: The phase.
        name: The name that the user gave; without it MLFLOW_EXPERIMENT_NAME.
        given: The id; without it, and without a name, MLFLOW_EXPERIMENT_ID.

    Raises:
        ConfigError: The id is no experiment's, or the experiment was deleted.
    """
    client = MlflowClient()
    if not (name or given):
        name, given = os.environ.get(_NAME), os.environ.get(_ID)
    found: Experiment | None
    if given and not name:
        try:
            found = client.get_experiment(given)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the second: it is no number
                raise
            raise ConfigError(f"{_ID}: there is no experiment {given!r}; give another, or {_NAME}=NAME makes one") from error
    else:
        called = name or phase
        if (found := client.get_experiment_by_name(called)) is None:
            try:
                made = str(client.create_experiment(called, _beside_the_database(called), {_VIEW: json.dumps(TABLE)}))
                if not name:
                    about = _ABOUT.format(phase=phase, table=runs_page(made, _VIEW))
                    client.set_experiment_tag(made, MLFLOW_RUN_NOTE, about)
                return made
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(called)
    assert found is not None
    _check_active(found)
    return str(found.experiment_id)


def given_run(run_id: str) -> Run:
    """The run of MLFLOW_RUN_ID, which the process is to write to: `mlflow run` made it, or the user did.

    A scheduler, a notebook or a terminal may have left the variable over.

    Raises:
        ConfigError: There is no such run, it has ended, or another process writes to it.
    """
    way_out = f"Unset it for a run of its own: unset {_RUN}"
    try:
        found = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        store = without_secrets(mlflow.get_tracking_uri())
        raise ConfigError(f"{_RUN}: there is no run {run_id!r} in {store}. {way_out}") from error
    if found.info.lifecycle_stage != LifecycleStage.ACTIVE:
        raise ConfigError(f"{_RUN}: run {run_id} was deleted. {way_out}")
    if found.info.status not in ("RUNNING", "SCHEDULED"):
        raise ConfigError(f"{_RUN}: run {run_id} is {found.info.status}; a run that has ended is not written to. {way_out}")
    holder = found.data.tags.get(PROCESS, "")
    if is_gone(holder) is False and not is_above(holder):
        raise ConfigError(f"{_RUN}: run {run_id} is {in_words(holder)}'s, which goes on. {way_out}")
    _check_active(MlflowClient().get_experiment(found.info.experiment_id))
    return found


def _check_active(found: Experiment) -> None:
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise ConfigError(
            f"experiment {found.name!r} was deleted; bring it back: mlflow experiments restore -x {found.experiment_id}; or "
            f"name another: {_NAME}=NAME"
        )


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
    file = database_file(mlflow.get_tracking_uri())
    return str(file.parent.resolve() / "mlruns" / re.sub(r"[^\w-]", "_", name)[:60]) if file else None
