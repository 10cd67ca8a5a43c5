"""What a registered model is for, what it takes, and what it must show to become the champion: `registry/<model>.yaml`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from medexp.config.keys import hints
from medexp.config.validate import schema_problems
from medexp.errors import RegistryError, all_problems
from medexp.files import read_mapping, shipped

_STRICT = ConfigDict(extra="forbid")
_ONE, _NAMED = "one input", "inputs by name"


@dataclass(frozen=True, config=_STRICT)
class InputContract:
    """What goes in, or one of several inputs.

    Attributes:
        shape: Axes in order, such as B, 4, X, Y, Z; a number is a fixed size.
        sizes: What the free axes may measure.
        dtype: Type of the elements.
        channels: Channels in order; none of what is no image, such as token ids.
        orientation: Anatomical directions of the axes.
        units: Of the elements, after normalisation.
        normalisation: How voxels are normalised.
    """

    shape: tuple[int | str, ...]
    sizes: str
    dtype: str
    channels: tuple[str, ...]
    orientation: str
    units: str
    normalisation: str


@dataclass(frozen=True, config=_STRICT)
class PromotionPolicy:
    """When a version takes the champion's place: a paired comparison, case by case, resampling patients.

    The gain is the mean over the regions of the metric's difference, in the direction that is better. A version is promoted
    when the interval's lower bound is above `-margin` (it is not worse by more than that) and the gain is above 0: margins
    alone would let a model decay step by step.

    Attributes:
        metric: Metric of `per_case.csv`, of which there is a column `<metric>_<region>`, or `<metric>` without regions.
        direction: Which way is better.
        regions: Regions that the metric is averaged over.
        margin: Largest loss that counts as none, in units of the metric; at least 0.
        confidence: Coverage of the two-sided interval, 0 to 1.
        min_cases: Fewest cases that a comparison may rest on.
        no_champion: promote: where there is no champion, a version becomes it when its checks passed; refuse: it needs
            `first=true`.
        unit: What the column `patient` of `per_case.csv` holds, in words: patients, families of scenarios, or samples that a
            model drew, each from noise of its own.
    """

    metric: str
    direction: Literal["maximise", "minimise"]
    regions: tuple[str, ...]
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    min_cases: Annotated[int, Field(ge=1)]
    no_champion: Literal["promote", "refuse"]
    unit: Literal["patients", "families", "samples"] = "patients"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `per_case.csv` that the comparison reads."""
        return tuple(f"{self.metric}_{region}" for region in self.regions) or (self.metric,)


def _inputs(value: Any) -> str:
    several = isinstance(value, dict) and value and all(isinstance(one, dict | InputContract) for one in value.values())
    return _NAMED if several else _ONE


@dataclass(frozen=True, config=_STRICT)
class Definition:
    """A registered model as its file describes it.

    Attributes:
        name: Name that it is registered under; the file's.
        title: What it is, in a few words.
        task: What it does.
        intended_use: What it is for, and what it is not for.
        limitations: What it lacks by what it is, whatever it was made on; the first of its card's limitations.
        producing_phase: The phase that registers it.
        consumers: The phases that use it.
        required_checks: Checks that a version must have been judged by.
        input: What goes in; of a network with several inputs each by the name that it is called with.
        output: What comes out, in words.
        promotion: When it becomes the champion; None for a model that is not compared, such as an embedded base.
    """

    name: str
    title: str
    task: str
    intended_use: str
    producing_phase: str
    consumers: tuple[str, ...]
    required_checks: tuple[str, ...]
    input: Annotated[
        Annotated[InputContract, Tag(_ONE)] | Annotated[dict[str, InputContract], Tag(_NAMED)], Discriminator(_inputs)
    ]
    output: str
    promotion: PromotionPolicy | None
    limitations: str | None = None

    @property
    def input_as_records(self) -> dict[str, Any]:
        """`input` as a package's contract has it."""
        if isinstance(self.input, InputContract):
            return asdict(self.input)
        return {name: asdict(one) for name, one in self.input.items()}


def known_models() -> list[str]:
    """Names of all models that have a definition."""
    return sorted(path.stem for path in shipped("registry").glob("*.yaml"))


def load_definition(name: str, checks: Mapping[str, Sequence[str]] | None = None) -> Definition:
    """The definition of a model.

    Args:
        name: Name of the model.
        checks: As for `read_definition`.

    Raises:
        RegistryError: There is none, or its file does not hold.
    """
    path = shipped("registry") / f"{name}.yaml"
    if name not in known_models():
        raise RegistryError(
            f"model {name!r}: has no definition; known are {', '.join(known_models())}. A new one needs {path}"
        )
    return read_definition(path, checks)


def read_definition(path: Path, checks: Mapping[str, Sequence[str]] | None = None) -> Definition:
    """A definition from its file.

    Args:
        path: The file.
        checks: The ids of each phase's checks, by its name: what the file names is held against them. Without it nobody asks.

    Raises:
        RegistryError: The file is no YAML mapping, has keys that are unknown, missing or of the wrong type, or names phases or
            checks that there are not. All problems at once, with the known names.
    """
    known = ", ".join(name for name in hints(Definition) if name != "name")
    content = read_mapping(path, RegistryError, f"known are {known}")
    problems = [] if checks is None else _unknown_names(content, checks)
    if "name" in content:
        problems.append("unknown key name; the file's name is the model's")
    try:
        definition = TypeAdapter(Definition).validate_python(content | {"name": path.stem})
    except ValidationError as error:
        problems += schema_problems(error, Definition, hidden=("name",))
    if problems:
        raise RegistryError(all_problems(str(path), problems))
    return definition


def _unknown_names(content: dict[Any, Any], checks: Mapping[str, Sequence[str]]) -> list[str]:
    """Phases and checks that the definition names and that there are not."""
    problems = [
        f"unknown phase {phase!r}; known are {', '.join(checks)}"
        for phase in (content.get("producing_phase"), *_list(content.get("consumers")))
        if isinstance(phase, str) and phase not in checks
    ]
    known = checks.get(str(content.get("producing_phase")))
    if known is not None:
        problems += [
            f"required_checks: unknown check {check!r}; {content['producing_phase']} has {', '.join(known) or 'none'}"
            for check in _list(content.get("required_checks"))
            if isinstance(check, str) and check not in known
        ]
    return problems


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
