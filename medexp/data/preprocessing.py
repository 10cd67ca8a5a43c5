"""What is done to a file before a network sees it, as data: named, versioned steps with their values, in their order.

A package's contract holds them, training is prepared by the same objects, and whoever executes them gets what the network was
trained on. A kind of data has its steps in `medexp/data/<kind>/steps.py`, found by looking (pairs are volumes). A step that
comes to do something else becomes another version beside the old one, which stays: what was registered with it goes on
working.
"""

import hashlib
import importlib
import importlib.util
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

import medexp
from medexp import data
from medexp.config.validate import schema_problems
from medexp.errors import RegistryError, all_problems

S = TypeVar("S")


class Step(Protocol):
    """A step: a frozen dataclass of its values.

    Attributes:
        NAME: Name of what it does.
        VERSION: Of how it does that.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    NAME: ClassVar[str]
    VERSION: ClassVar[int]


@dataclass(frozen=True)
class Preprocessing:
    """All that lies between a file and the network.

    Attributes:
        data: The kind of data, by its folder in `medexp/data/`: volumes, images.
        steps: In the order of execution.
    """

    data: str
    steps: tuple[Step, ...]

    @property
    def as_record(self) -> dict[str, Any]:
        """As a contract holds it, in types that JSON has."""
        steps = [{"step": step.NAME, "version": step.VERSION, **asdict(step)} for step in self.steps]
        record: dict[str, Any] = json.loads(json.dumps({"data": self.data, "steps": steps}))
        return record

    @property
    def in_words(self) -> str:
        """The steps in a line, with their values."""
        told = []
        for step in self.as_record["steps"]:
            values = ", ".join(f"{key} {value}" for key, value in step.items() if key not in ("step", "version"))
            told.append(f"{step['step']} {step['version']}" + (f" ({values})" if values else ""))
        return f"{self.data}: {', '.join(told)}"

    @property
    def key(self) -> str:
        """sha256 of the record: what is cached under it was made by the same steps."""
        return hashlib.sha256(json.dumps(self.as_record, sort_keys=True).encode()).hexdigest()

    def then(self, step: Step) -> "Preprocessing":
        """The same, and a step more."""
        return replace(self, steps=(*self.steps, step))

    def find(self, kind: type[S]) -> S | None:
        """The step of a kind, where there is one."""
        return next((step for step in self.steps if isinstance(step, kind)), None)

    def get(self, kind: type[S]) -> S:
        """The step of a kind, which there is.

        Raises:
            RegistryError: There is none.
        """
        if (found := self.find(kind)) is None:
            raise RegistryError(f"preprocessing of {self.data}: lacks the step {getattr(kind, 'NAME', kind)}")
        return found


def known_steps() -> dict[str, dict[tuple[str, int], type[Step]]]:
    """By kind of data, and by name and version: the steps that this version of medexp executes."""
    found = {}
    for module in pkgutil.iter_modules(data.__path__):
        if module.ispkg and importlib.util.find_spec(f"{data.__name__}.{module.name}.steps"):
            steps = importlib.import_module(f"{data.__name__}.{module.name}.steps").STEPS
            found[module.name] = {(step.NAME, step.VERSION): step for step in steps}
    return found


def read_preprocessing(record: Any, where: str) -> Preprocessing:
    """Preprocessing out of a contract.

    Args:
        record: `Preprocessing.as_record`, from JSON.
        where: What it stands in, for messages.

    Raises:
        RegistryError: It is no such record, or names data, steps or versions that this version of medexp does not know; all
            problems at once.
    """
    advice = f"This is medexp {medexp.__version__}: use the version that registered the model, or a later one."
    kinds = known_steps()
    kind, listed = (record.get("data"), record.get("steps")) if isinstance(record, Mapping) else (None, None)
    if (
        not isinstance(kind, str)
        or kind not in kinds
        or not isinstance(listed, list)
        or not all(isinstance(one, Mapping) for one in listed)
    ):
        told = f"preprocessing of {kind!r}; known are {', '.join(sorted(kinds))}, each with a list of steps"
        raise RegistryError(all_problems(where, [told], advice))
    steps, problems, known = [], [], kinds[kind]
    for one in listed:
        values = dict(one)
        name, version = values.pop("step", None), values.pop("version", None)
        if (made := known.get((str(name), version if isinstance(version, int) else 0))) is None:
            there = ", ".join(f"{step} {number}" for step, number in sorted(known))
            problems.append(f"step {name!r} version {version!r} is unknown; known for {kind} are {there}")
            continue
        try:
            steps.append(TypeAdapter(made).validate_python(values))
        except ValidationError as error:
            problems += [f"step {name} version {version}: {told}" for told in schema_problems(error, made)]
    if problems:
        raise RegistryError(all_problems(where, problems, advice))
    return Preprocessing(kind, tuple(steps))
