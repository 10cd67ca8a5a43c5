"""The stores that MLflow writes to: whether they answer, and what to say when they do not."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _safe_initialize_tables, _verify_schema
from sqlalchemy.exc import SQLAlchemyError

from medexp.errors import StorageError

STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)  # those of requests are OSErrors
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
# A tracking server that went away holds a run up for some 15 seconds: its restart is survived. What the user set stands.
for _name, _value in {_RETRIES: "4", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}.items():
    os.environ.setdefault(_name, _value)


@dataclass(frozen=True)
class Stores:
    """Where runs and models are kept, without credentials.

    Attributes:
        tracking: Of runs.
        registry: Of registered models.
        artifacts: Where the files of new experiments go.
        one: Whether runs and models are in one store, which the journal of promotions needs.
    """

    tracking: str
    registry: str
    artifacts: str
    one: bool


def check_store() -> str:
    """The tracking URI without its credentials, once the store behind it has answered.

    Raises:
        StorageError: It does not answer.
    """
    uri = mlflow.get_tracking_uri()
    shown = without_secrets(uri)
    try:
        if not uri.startswith(("http", "file:", "databricks", "/", ".")):  # MLflow would try a database for two minutes
            url = sqlalchemy.make_url(uri)
            if url.get_backend_name() == "sqlite" and url.database:
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            engine = sqlalchemy.create_engine(url)
            engine.connect().close()
            try:
                _verify_schema(engine)
            except MlflowException:
                # One process makes the tables and others wait, which MLflow's own first use of a store does not do. The lock
                # lies in the folder for temporary files and is its maker's: it is for stores that are not there yet.
                _safe_initialize_tables(engine)
        with retries(1):
            MlflowClient().search_experiments(max_results=1)
    except (*STORE_ERRORS, ImportError) as error:
        raise StorageError(
            f"tracking store {shown}: does not answer ({reason(error)}). Start it, or name another one with "
            "MLFLOW_TRACKING_URI (unset, it is mlflow.db in this folder)"
        ) from error
    return shown


def find_store() -> str:
    """`check_store` for those who only look: a database that is not there is not made.

    Raises:
        StorageError: There is none, or it does not answer.
    """
    uri = mlflow.get_tracking_uri()
    file = Path(sqlalchemy.make_url(uri).database or "") if uri.startswith("sqlite:") else None
    if file is not None and not file.is_file():
        raise StorageError(
            f"tracking store {uri}: there is none yet. Go to the folder where runs were started, name another store with "
            "MLFLOW_TRACKING_URI, or start a run: mlflow run . -e main"
        )
    return check_store()


def find_stores() -> Stores:
    """Both stores, once both have answered.

    Raises:
        StorageError: As `find_store`.
    """
    tracking, registry = find_store(), mlflow.get_registry_uri()
    try:
        with retries(1):
            MlflowClient().search_registered_models(max_results=1)
            artifacts = MlflowClient().get_experiment("0").artifact_location
    except (*STORE_ERRORS, ImportError) as error:
        raise StorageError(
            f"model registry {without_secrets(registry)}: does not answer ({reason(error)}). Start it, or name another one "
            "with MLFLOW_REGISTRY_URI (unset, it is the tracking store)"
        ) from error
    return Stores(tracking, without_secrets(registry), without_secrets(artifacts), registry == mlflow.get_tracking_uri())


@contextmanager
def retries(count: int) -> Iterator[None]:
    """A store that does not answer is asked again so many times within the block."""
    before = os.environ[_RETRIES]
    os.environ[_RETRIES] = str(count)
    try:
        yield
    finally:
        os.environ[_RETRIES] = before


def reason(error: BaseException) -> str:
    """The innermost error of a chain: the refused connection, and not all that was tried on top of it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return without_secrets(str(error) or type(error).__name__).partition("\n")[0][:300]


def without_secrets(text: str) -> str:
    """A text in which no URI shows its user and password."""
    return re.sub(r"://\S+@", "://***@", text)  # up to the last @: a password may hold one, and a slash
