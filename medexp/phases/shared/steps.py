"""A phase as a step of a pipeline: what it is given, and what it reads.

A pipeline is described in the folder of its phase, in `steps.py`: `steps(config)` are its steps in order, `last_lines(config,
made)` is what is said at the end. Each step's phase has an `inputs.py`: `inputs(config)` are the digests of what it reads.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medexp.config.shared import Configuration
from medexp.registry.store import resolve
from medexp.tracking.steps import StepRun

Made = Mapping[str, StepRun]
"""The runs of the steps before, by phase."""


@dataclass(frozen=True)
class Step:
    """A phase that is run, or found to have run before with the same inputs.

    Attributes:
        phase: Its name.
        given: Its configuration, from what the steps before made.
        holds: Whether what it did before still stands.
    """

    phase: str
    given: Callable[[Made], Configuration]
    holds: Callable[[Made], bool] = lambda made: True


def digest_of_model(uri: str) -> dict[str, str]:
    """Version and digest of a registered model, models:/NAME/VERSION or models:/NAME@alias, by its name."""
    found = resolve(uri)
    return {found.name: f"{found.version} {found.tags.get('medexp.digest')}"}


def digest_of_file(path: Path) -> str:
    """sha256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
