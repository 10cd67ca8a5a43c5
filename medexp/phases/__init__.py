"""Phases: a folder each, found by looking. Importing this imports neither torch nor mlflow.

A phase's folder holds its record (`__init__.py`), `config.py`, `recipe.py`, `checks.py`, `report.py` and
`profiles/{demo,full}.yaml`; one whose settings can be searched has `profiles/sweep.yaml`, one that recovers from a failed
check `profiles/recovery.yaml`. A step of a pipeline has `inputs.py`, the pipeline itself `steps.py`. What phases have in
common is in `shared/`.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medexp.config.layers import Layers
from medexp.words import PATIENTS

_FOLDER = Path(__file__).parent
_SHARED = "shared"
_NO_PROFILES = {"sweep", "recovery"}
_FROM_RECIPE = {"run", "objective", "warm_up"}


@dataclass(frozen=True)
class Diagnosis:
    """What a recovery that failed shows of a phase's runs.

    Attributes:
        curves: Metrics with a course over steps.
        scores: What the scores of a case in `per_case.csv` begin with; more is better. Empty: no cases are shown.
        arm: The rows of `per_case.csv` that are meant, where its column `arm` says of which network they are.
        picture: Artifact of a case's picture, with `{case}` in it; empty where cases are not drawn.
        drawn_by: The key that says how many cases are drawn.
    """

    curves: tuple[str, ...] = ("train/loss", "train/grad_norm")
    scores: str = ""
    arm: str = ""
    picture: str = ""
    drawn_by: str = ""


@dataclass(frozen=True)
class Phase:
    """What is known of a phase before it runs.

    Attributes:
        name: Of its folder, of its entry point and of its stanza in MLproject.
        config: The frozen dataclass of its configuration.
        recipe: The module whose `run` is called with it; imported when the phase runs.
        checks: Ids of its checks: what a registered model's definition may demand.
        revision: Of the checks; raised when one comes to demand something else: what older code judged is then stale.
        next: By registered model: the command that uses it, with what it does.
        studies: Whether it runs another phase again and again: the key `phase` names that one, whose configuration is then a
            block beside its own keys.
        goes_on: Whether the same command again goes on with what was interrupted.
        diagnosis: What a recovery that failed shows of its runs.
        units: What intervals draw, one and several of them; what the tables call a patient.
    """

    name: str
    config: type
    recipe: str
    checks: tuple[str, ...] = ()
    revision: int = 1
    next: Mapping[str, str] = field(default_factory=dict)
    studies: bool = False
    goes_on: bool = False
    diagnosis: Diagnosis = Diagnosis()
    units: tuple[str, str] = PATIENTS

    @property
    def folder(self) -> Path:
        return _FOLDER / self.name

    @property
    def profiles(self) -> list[str]:
        """Names of the configurations that it comes with."""
        return sorted({path.stem for path in self.folder.glob("profiles/*.yaml")} - _NO_PROFILES)

    def profile(self, name: str) -> Path:
        """The file of a profile, of the space that a sweep searches (sweep) or of the ladder (recovery)."""
        return self.folder / "profiles" / f"{name}.yaml"

    @property
    def layers(self) -> Layers:
        """What its configuration is made of."""
        return Layers(self, self.config, phase)

    @property
    def is_studied(self) -> bool:
        """Whether its settings can be searched."""
        return self.profile("sweep").is_file()

    @property
    def is_recovered(self) -> bool:
        """Whether it recovers from a failed check."""
        return self.profile("recovery").is_file()


def names() -> list[str]:
    """Names of all phases."""
    return sorted(file.parent.name for file in _FOLDER.glob("*/__init__.py") if file.parent.name != _SHARED)


@functools.cache
def phase(name: str) -> Phase:
    """A phase's record.

    Raises:
        KeyError: There is no such phase.
    """
    if name not in names():
        raise KeyError(name)
    record: Phase = importlib.import_module(f"{__name__}.{name}").PHASE
    return record


def phases() -> dict[str, Phase]:
    """All phases by name."""
    return {name: phase(name) for name in names()}


def checks() -> dict[str, tuple[str, ...]]:
    """The checks of each phase, by its name: what a registered model's definition may name."""
    return {name: one.checks for name, one in phases().items()}


def studied() -> list[str]:
    """Names of the phases whose settings can be searched."""
    return [name for name, one in phases().items() if one.is_studied]


def recovered() -> list[str]:
    """Names of the phases that recover from a failed check."""
    return [name for name, one in phases().items() if one.is_recovered]


def from_recipe(record: Phase) -> Callable[[str], Any]:
    """The `__getattr__` of a phase's folder: `run`, `objective` and `warm_up` come from its recipe when they are asked for."""

    def lazily(name: str) -> Any:
        if name not in _FROM_RECIPE:
            raise AttributeError(f"module {f'{__name__}.{record.name}'!r} has no attribute {name!r}")
        return getattr(importlib.import_module(record.recipe), name)

    return lazily
