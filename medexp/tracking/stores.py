"""The stores that MLflow writes to: whether they answer, and what to say when they do not."""

import getpass
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import (
    _all_tables_exist,
    _get_latest_schema_revision,
    _get_schema_version,
    _initialize_tables,
    _is_empty_database,
)
from sqlalchemy.exc import SQLAlchemyError

from medexp.errors import StorageError
from medexp.files import alone
from medexp.secrets import masked

STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)  # those of requests are OSErrors
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
# A tracking server that went away holds a run up for some 15 seconds: its restart is survived. What the user set stands.
for _name, _value in {_RETRIES: "4", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}.items():
    os.environ.setdefault(_name, _value)
# A database that went away is an error that MLflow raises, and a page of tracebacks beside it for each call.
logging.getLogger("mlflow.store.db.utils").addFilter(lambda record: record.levelno != logging.ERROR)


class NoStoreYet(StorageError):
    """No run was ever started here: a store is made by the first.

    Attributes:
        file: The database that is not there.
    """

    def __init__(self, uri: str, file: Path) -> None:
        super().__init__(
            f"tracking store {uri}: there is none yet. Go to the folder where runs were started, name another store with "
            "MLFLOW_TRACKING_URI, or start a run: mlflow run . -e main"
        )
        self.file = file


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
            _make(uri)
        with retries(1):
            MlflowClient().search_experiments(max_results=1)
    except (*STORE_ERRORS, ImportError, ValueError) as error:
        raise StorageError(
            f"tracking store {shown}: does not answer ({reason(error)}). Start it, or name another one with "
            "MLFLOW_TRACKING_URI (unset, it is mlflow.db in this folder)"
        ) from error
    return shown


def database_file(uri: str) -> Path | None:
    """The file of a store that is a database in one; None for others."""
    file = sqlalchemy.make_url(uri).database if uri.startswith("sqlite") else None
    return Path(file).absolute() if file else None


def _make(uri: str) -> None:
    """Make a store in a database that holds none: one process does, and others wait, which MLflow's own first use does not do.

    Raises:
        StorageError: Whoever made it was ended before it was done.
    """
    file, engine = database_file(uri), sqlalchemy.create_engine(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    engine.connect().close()
    if _get_schema_version(engine) == _get_latest_schema_revision() and _holds_experiments(engine):
        return
    # Of a database that is in no file, the lock is this user's on this machine.
    name = f"medexp-{getpass.getuser()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    with alone(file.with_name(f".{file.name}.lock") if file else Path(tempfile.gettempdir()) / f"{name}.lock"):
        if _is_empty_database(engine) or (_holds_experiments(engine) and not _all_tables_exist(engine)):
            _initialize_tables(engine)
        if _get_schema_version(engine) != _get_latest_schema_revision():
            if _holds_experiments(engine):
                return  # an older one: MLflow says what to do
            way = f"Delete {file}" if file else "Drop its tables"
            raise StorageError(
                f"tracking store {without_secrets(uri)}: is half made, and holds nothing yet: the process that made it was "
                f"ended before it was done. {way}, and start again"
            )
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # a store that is there needs it not

        # The files of the experiment "Default" go where MLflow's own first use would have it: in the folder of whoever asks.
        SqlAlchemyStore(uri, str((file.parent if file else Path.cwd()) / "mlruns"))


def _holds_experiments(engine: sqlalchemy.Engine) -> bool:
    if not sqlalchemy.inspect(engine).has_table("experiments"):
        return False
    with engine.connect() as connection:
        return connection.execute(sqlalchemy.text("SELECT 1 FROM experiments")).first() is not None


def find_store() -> str:
    """`check_store` for those who only look: a database that is not there is not made.

    Raises:
        NoStoreYet: There is none.
        StorageError: It does not answer.
    """
    uri = mlflow.get_tracking_uri()
    file = database_file(uri)
    if file is not None and not file.is_file():
        raise NoStoreYet(uri, file)
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
            artifacts = MlflowClient().get_experiment("0").artifact_location.removesuffix("/0")
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


def chain(error: BaseException, beside: BaseException | None = None) -> Iterator[BaseException]:
    """An error, and what it came of, the innermost last.

    Args:
        error: The error.
        beside: One that was being handled when it came, and is no cause of it: there the chain ends.
    """
    link: BaseException | None = error
    while link is not None and link is not beside:
        yield link
        link = link.__cause__ or link.__context__


def reason(error: BaseException, beside: BaseException | None = None) -> str:
    """The innermost error of a chain that says something: the refused connection, and not all that was tried on top of it.

    Args:
        error: The error.
        beside: As of `chain`.
    """
    *_, innermost = links = list(chain(error, beside))
    told = next((text for text in map(str, reversed(links)) if any(map(str.isalpha, text))), type(innermost).__name__)
    return without_secrets(told).partition("\n")[0][:300]


def without_secrets(text: str) -> str:
    """A text of a store or an error, in which no URI shows its user and password, and nothing else that is secret stands."""
    bare = re.sub(r"://\S+@", "://***@", text)  # up to the last @: a password may hold one, and a slash
    return masked(bare, home=False).text
