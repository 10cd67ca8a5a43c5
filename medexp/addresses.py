"""Where things are: paths as users type them, versions as MLflow refers to them, and pages of its UI.

Addresses of pages mean the UI's mode for training models. It opens in the one for generative models, in which an experiment
shows no run.
"""

import os
from pathlib import Path

from medexp.errors import DataError

_MODE = "?workflowType=machine_learning"
EXPERIMENTS = f"#/experiments{_MODE}"  # the page of all of them


def local_path(given: str | os.PathLike[str]) -> Path:
    """A path on this machine as a user types it: `~` is their home, `~name` another's.

    Raises:
        DataError: This machine has no such user.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:
        user = Path(given).parts[0][1:]
        told = f"this machine has no user {user}" if user else "this machine knows no home of yours"
        raise DataError(f"found {given}; {told}: write the whole path, or ~/ for your own home") from None


def model_uri(given: str) -> str:
    """A version as MLflow refers to it: `name@champion` and `name/3` may do without `models:/`."""
    return given if given.startswith("models:/") else f"models:/{given}"


def version_page(name: str, version: str) -> str:
    """The page of a registered version."""
    return f"#/models/{name}/versions/{version}{_MODE}"


def run_page(experiment: str, run_id: str, artifact: str = "") -> str:
    """The page of a run, or of one of its artifacts; the experiment by its id."""
    return f"#/experiments/{experiment}/runs/{run_id}{artifact and f'/artifacts/{artifact}'}{_MODE}"


def runs_page(experiment: str, view: str) -> str:
    """The page of an experiment's runs, in a view that a tag of the experiment keeps."""
    return f"#/experiments/{experiment}/runs{_MODE}&viewStateShareKey={view.rpartition('.')[2]}"
