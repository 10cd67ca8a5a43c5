"""Asking MLflow's registry: every page of an answer, and one line when there is none."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from medexp.errors import RegistryError, StorageError
from medexp.files import is_full_disk
from medexp.registry.definitions import known_models, load_definition

MISSING = "RESOURCE_DOES_NOT_EXIST"


def pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    """All that a search of MLflow's client finds, page by page as it is asked for.

    Args:
        search: A method with `page_token`, such as `MlflowClient.search_experiments`.
        arguments: Its other arguments; `max_results` is the size of a page.
    """
    token = None
    while True:
        page = search(**arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def quoted(name: str) -> str:
    """A name of a model as MLflow's filters take it: other programs give names with an apostrophe.

    Raises:
        RegistryError: No filter can hold it.
    """
    if "'" in name and '"' in name:
        raise RegistryError(f"{name}: holds both kinds of quotation marks, and MLflow cannot search for it; rename the model")
    return f'"{name}"' if "'" in name else f"'{name}'"


def registered_model(name: str, asked: str | None = None) -> RegisteredModel:
    """A registered model, with its aliases and tags.

    Args:
        name: Its name.
        asked: What the user gave, for the message; without it the name.

    Raises:
        RegistryError: There is none; the message lists those that there are, and says how one of medexp's own is made.
    """
    client = MlflowClient()
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        known = ", ".join(sorted(model.name for model in client.search_registered_models(max_results=50))) or "none yet"
        made = f". Train one first: mlflow run . -e {load_definition(name).producing_phase}" if name in known_models() else ""
        raise RegistryError(f"{asked or name}: no model {name} in this registry; registered are: {known}{made}") from None


@contextmanager
def answering() -> Iterator[None]:
    """Says in one line that the registry does not answer, or that a disk is full; the URI is left out, it may hold a password.

    Raises:
        StorageError: It does not, or it is.
    """
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        copied = isinstance(error, shutil.Error)  # of a folder: a list of from, to and why
        place = error.args[0][0][1] if copied else error.filename or "a file that MLflow writes"
        raise StorageError(f"{place}: its disk is full. Free space there, then run the same again") from error
    except MlflowException as error:
        if error.error_code != "TEMPORARILY_UNAVAILABLE" and not error.message.startswith("API request to"):
            raise
        inner: BaseException = error
        while deeper := inner.__cause__ or inner.__context__:
            inner = deeper
        if is_full_disk(error) or is_full_disk(inner):
            raise StorageError("model registry: its disk is full. Free space there, then run the same again") from error
        raise StorageError(
            f"model registry: does not answer ({str(inner).partition(chr(10))[0][:300]}). Is MLFLOW_TRACKING_URI the store "
            "that the model was registered in, and is it up?"
        ) from error
