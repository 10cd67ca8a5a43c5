"""Registered models: packages that are verified on every pull and unpickle nothing.

`load` and `pull` are all that a user of a model needs; importing this package loads neither torch nor mlflow.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from medexp.registry.store import Pulled

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before mlflow is imported, which reads it
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def pull(uri: str) -> "Pulled":
    """Fetch a registered model's package and verify it, file by file.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.

    Returns:
        The folder of the verified package, with the name, version and digest that it is registered under.

    Raises:
        RegistryError: There is no such model, alias or version, it holds no package, or a file in it was altered.
        StorageError: The registry does not answer.
    """
    from medexp.registry.store import pull

    return pull(uri)


def load(uri: str, base: "nn.Module | Path | str | None" = None) -> "nn.Module":
    """Load a registered model as the module that was trained, in eval mode, on the CPU.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.
        base: For an adapter whose base is not registered: the base network or its checkpoint file. A network is adapted in
            place.

    Returns:
        The network; for an adapter peft's view of the adapted base.

    Raises:
        RegistryError: As `pull`, or the base is missing or not the one that the adapter was trained on.
        CheckpointError: The base's checkpoint file cannot be used.
        StorageError: The registry does not answer.
    """
    from medexp.registry.loading import load_package

    return load_package(pull(uri).folder, base)
