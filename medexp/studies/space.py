"""What a study searches: goals, parameters, sampler and pruner, from `medexp/phases/<phase>/profiles/sweep.yaml`."""

import difflib
import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from pydantic import ConfigDict, Discriminator, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from medexp.config.bounds import Told
from medexp.config.keys import Key, Role, keys, marked
from medexp.config.validate import Given, key_schema, misfit, read, schema_problems
from medexp.errors import ConfigError, all_problems
from medexp.files import read_mapping


class _Grid(optuna.samplers.GridSampler):
    """Optuna's grid, without its request to stop `study.optimize` once all is tried: nothing here runs that, and it raises."""

    def after_trial(self, *_: Any) -> None:
        """Nothing is left to do."""


_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_SAMPLERS: dict[str, tuple[Callable[..., optuna.samplers.BaseSampler], dict[str, type]]] = {
    "tpe": (
        optuna.samplers.TPESampler,
        {"n_startup_trials": int, "n_ei_candidates": int, "multivariate": bool, "group": bool, "constant_liar": bool},
    ),
    "random": (optuna.samplers.RandomSampler, {}),
    "grid": (_Grid, {}),
    "nsga2": (
        optuna.samplers.NSGAIISampler,
        {"population_size": int, "mutation_prob": float, "crossover_prob": float, "swapping_prob": float},
    ),
}
_PRUNERS: dict[str, tuple[Callable[..., optuna.pruners.BasePruner], dict[str, type]]] = {
    "median": (
        optuna.pruners.MedianPruner,
        {"n_startup_trials": int, "n_warmup_steps": int, "interval_steps": int, "n_min_trials": int},
    ),
    "hyperband": (
        optuna.pruners.HyperbandPruner,
        {"min_resource": int, "max_resource": int, "reduction_factor": int, "bootstrap_count": int},
    ),
    "none": (optuna.pruners.NopPruner, {}),
}

Scalar = bool | int | float | str | None
Choice = Annotated[Scalar | tuple[Scalar, ...], Told("a number, a text, true, false, null or a list of these")]
_Int = Annotated[int, Strict()]


@dataclass(frozen=True, config=_STRICT)
class Goal:
    """What a study is after.

    Attributes:
        metric: A metric that every trial logs.
        direction: Which way is better.
    """

    metric: str
    direction: Literal["maximize", "minimize"]

    @property
    def watched(self) -> str:
        """What pruning goes by: the same figure after each validated epoch."""
        return self.metric.replace("val/final/", "val/", 1)


@dataclass(frozen=True, config=_STRICT)
class Named:
    """A sampler or a pruner.

    Attributes:
        name: Its name.
        arguments: Its settings, by the names that Optuna gives them.
    """

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class FloatParameter:
    """A real number from `low` to `high`, both included.

    Attributes:
        type: float.
        low: The least.
        high: The greatest.
        step: Distance of neighbouring values; None for all of them.
        log: Whether its logarithm is drawn evenly.
        when: Values of other parameters, by key, with which it is searched at all.
    """

    type: Literal["float"]
    low: float
    high: float
    step: float | None = None
    log: bool = False
    when: dict[str, Choice] = Field(default_factory=dict)

    def can_be(self, value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True, config=_STRICT)
class IntParameter:
    """A whole number from `low` to `high`, both included; attributes as of `FloatParameter`."""

    type: Literal["int"]
    low: _Int
    high: _Int
    step: _Int = 1
    log: bool = False
    when: dict[str, Choice] = Field(default_factory=dict)

    def can_be(self, value: Any) -> bool:
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and value in range(self.low, self.high + 1, max(self.step, 1))
        )


@dataclass(frozen=True, config=_STRICT)
class CategoricalParameter:
    """One of several values; a list is a value too.

    Attributes:
        type: categorical.
        choices: The values.
        when: As of `FloatParameter`.
    """

    type: Literal["categorical"]
    choices: tuple[Choice, ...]
    when: dict[str, Choice] = Field(default_factory=dict)

    def can_be(self, value: Any) -> bool:
        return _stored(value) in map(_stored, self.choices)


Parameter = FloatParameter | IntParameter | CategoricalParameter


@dataclass(frozen=True, config=_STRICT)
class Space:
    """What a study searches, and how.

    Attributes:
        goals: One or two.
        parameters: What is searched, by dotted key of the phase's configuration.
        sampler: Who proposes values.
        pruner: Who ends trials early.
    """

    goals: tuple[Goal, ...]
    parameters: dict[str, Annotated[Parameter, Discriminator("type")]]
    sampler: Named
    pruner: Named

    @property
    def digest(self) -> str:
        """sha256 of all that decides what trials are tried: equal for two files that say the same in another order."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def combinations(self) -> int | None:
        """How many there are to try; None: a sampler that draws has no end."""
        return math.prod(map(len, self._grid.values())) if self._grid else None

    @property
    def _grid(self) -> dict[str, Sequence[Any]]:
        return (
            {key: _values_of(parameter) for key, parameter in self.parameters.items()} if self.sampler.name == "grid" else {}
        )

    def make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """The sampler as Optuna has it."""
        make, _ = _SAMPLERS[self.sampler.name]
        if self._grid:
            return make(self._grid, seed=0)  # it shuffles, and all processes have to number the combinations alike
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return make(**self.sampler.arguments, seed=seed)

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """The pruner as Optuna has it."""
        make, _ = _PRUNERS[self.pruner.name]
        return make(**self.pruner.arguments)


def read_space(path: Path, config_class: type) -> Space:
    """A space from its file.

    Args:
        path: The file.
        config_class: The class of the configuration whose keys are searched.

    Raises:
        ConfigError: The file is no YAML mapping, has keys that are unknown, missing or of the wrong type, names parameters,
            samplers or pruners that there are not, or contradicts itself. All problems at once, with what is known.
    """
    content = read_mapping(path, ConfigError, f"known are {', '.join(Space.__dataclass_fields__)}")
    try:
        space = TypeAdapter(Space).validate_python(content)
    except ValidationError as error:
        parameters = content.get("parameters")
        unsearchable = _unsearchable(parameters if isinstance(parameters, dict) else (), config_class)
        raise ConfigError(all_problems(str(path), [*schema_problems(error, Space), *unsearchable])) from error
    problems = [*_unsearchable(space.parameters, config_class), *_contradictions(space), *_misfits(space, config_class)]
    if problems:
        raise ConfigError(all_problems(str(path), problems))
    return space


def space_schema(config_class: type) -> dict[str, Any]:
    """A JSON Schema of the files that `read_space` takes: editors complete and check by it.

    Args:
        config_class: The class of the configuration whose keys are searched.
    """
    schema = TypeAdapter(Space).json_schema()
    never = marked(config_class, Role.CASES, Role.WHERE, Role.JUDGING)
    searched = {name: key for name, key in keys(config_class).items() if name not in never}
    schema["$defs"]["Parameter"] = schema["properties"]["parameters"].pop("additionalProperties")
    schema["$defs"] |= {name: key_schema(key) for name, key in searched.items()}
    schema["properties"]["parameters"] |= {
        "additionalProperties": False,
        "properties": {
            name: {"$ref": "#/$defs/Parameter", "properties": {"low": value, "high": value, "choices": {"items": value}}}
            for name in searched
            for value in ({"$ref": f"#/$defs/{name}"},)
        },
    }
    for name, known in (("sampler", _SAMPLERS), ("pruner", _PRUNERS)):
        schema["properties"][name]["properties"] = {"name": {"enum": [*known]}}
    return schema


def suggest(trial: optuna.trial.BaseTrial, space: Space) -> dict[str, Any]:
    """The values of a trial by dotted key; a parameter whose condition does not hold has none. A list comes as a tuple."""
    order = TopologicalSorter({key: sorted(parameter.when) for key, parameter in space.parameters.items()}).static_order()
    values: dict[str, Any] = {}
    for key in order:
        parameter = space.parameters[key]
        if all(other in values and _stored(values[other]) == _stored(value) for other, value in parameter.when.items()):
            values[key] = _suggested(trial, key, parameter)
    return {key: values[key] for key in space.parameters if key in values}


def _suggested(trial: optuna.trial.BaseTrial, key: str, parameter: Parameter) -> Any:
    match parameter:
        case FloatParameter():
            return trial.suggest_float(key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case IntParameter():
            return trial.suggest_int(key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case CategoricalParameter():
            choices = {_stored(choice): choice for choice in parameter.choices}
            return choices[trial.suggest_categorical(key, list(choices))]


def _stored(value: Any) -> Scalar:
    """A value as Optuna stores it: it knows no lists, so that they become their JSON."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def _values_of(parameter: Parameter) -> Sequence[Any]:
    """All values of a parameter that has finitely many, as Optuna stores them."""
    match parameter:
        case CategoricalParameter():
            return [_stored(choice) for choice in parameter.choices]
        case IntParameter():
            return range(parameter.low, parameter.high + 1, parameter.step)
        case FloatParameter():
            low, high, step = (Fraction(str(value)) for value in (parameter.low, parameter.high, parameter.step))
            return [float(low + index * step) for index in range(int((high - low) / step) + 1)]


def _unsearchable(parameters: Collection[Any], config_class: type) -> Iterator[str]:
    """Keys that there are not, and those that make no model better."""
    known, cases = keys(config_class), marked(config_class, Role.CASES)
    others = marked(config_class, Role.WHERE, Role.JUDGING)
    for key in parameters:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0) or ["none"]
            yield f"unknown parameter {key}; the nearest known is {near[0]}"
        elif key in cases:
            yield f"parameters.{key}: decides which cases trials are judged on, and the easiest would be best; set it instead"
        elif key in others:
            yield f"parameters.{key}: no model gets better by it; set it instead"


def _misfits(space: Space, config_class: type) -> Iterator[str]:
    """Values that their key cannot have, in the words of the command line."""
    for name, parameter in space.parameters.items():
        if (key := keys(config_class).get(name)) is None:
            continue
        match parameter:
            case CategoricalParameter():
                tried: dict[str, Any] = {"choices": parameter.choices}
            case _:
                tried = {"low": (parameter.low,), "high": (parameter.high,)}
        for word, values in tried.items():
            told = [problem for value in values if (problem := _misfit(key, value))]
            yield from (f"parameters.{name}.{word}: {problem}" for problem in dict.fromkeys(told))


def _misfit(key: Key, value: Any) -> str | None:
    try:
        return misfit(key.kind, read(key, Given(value)))
    except ValueError as error:
        return str(error).removeprefix(f"{key.name}: ")


def _contradictions(space: Space) -> Iterator[str]:
    if not 1 <= len(space.goals) <= 2:
        yield f"goals: found {len(space.goals)}; one or two"
    if len({goal.metric for goal in space.goals}) < len(space.goals):
        yield f"goals: {space.goals[0].metric} is named twice"
    if not space.parameters:
        yield "parameters: none; name at least one to search"
    for key, parameter in space.parameters.items():
        yield from _impossible(key, parameter)
        yield from _conditions(key, parameter, space.parameters)
    yield from _circles(space.parameters)
    yield from _of_named("sampler", space.sampler, _SAMPLERS)
    yield from _of_named("pruner", space.pruner, _PRUNERS)
    if len(space.goals) > 1 and space.pruner.name in _PRUNERS and space.pruner.name != "none":
        yield f"pruner: found {space.pruner.name} with {len(space.goals)} goals; pruning goes by one, give none"
    if space.sampler.name == "grid":
        for key, parameter in space.parameters.items():
            if isinstance(parameter, FloatParameter) and parameter.step is None:
                yield f"parameters.{key}: the sampler grid needs finitely many values; give step or choices"
            if parameter.when:
                yield f"parameters.{key}.when: the sampler grid tries all combinations and knows no conditions"


def _impossible(key: str, parameter: Parameter) -> Iterator[str]:
    where = f"parameters.{key}"
    if isinstance(parameter, CategoricalParameter):
        stored = [_stored(choice) for choice in parameter.choices]
        if len(stored) < 2:
            yield f"{where}.choices: found {len(stored)}; at least 2"
        if twice := [one for one, other in itertools.combinations(stored, 2) if one == other]:
            yield f"{where}.choices: {twice[0]!r} is named twice"  # 1, 1.0 and true are one value to Optuna
        return
    if parameter.low >= parameter.high:
        yield f"{where}: low is {parameter.low} and high {parameter.high}; low has to be below high"
    if parameter.log and parameter.low <= 0:
        yield f"{where}: low is {parameter.low}; with log it has to be above 0"
    if parameter.step is not None and parameter.step <= 0:
        yield f"{where}.step: found {parameter.step}; above 0"
    if parameter.log and parameter.step not in (None, 1 if isinstance(parameter, IntParameter) else None):
        yield f"{where}: has log and step; give one of them"
    elif parameter.low < parameter.high and parameter.step is not None and parameter.step > 0:
        low, high, step = (Fraction(str(value)) for value in (parameter.low, parameter.high, parameter.step))
        if rest := (high - low) % step:
            yield (
                f"{where}: steps of {parameter.step} from {parameter.low} do not meet high, {parameter.high}; the nearest "
                f"below is {float(high - rest):g}"
            )


def _conditions(key: str, parameter: Parameter, parameters: Mapping[str, Parameter]) -> Iterator[str]:
    for other, value in parameter.when.items():
        if other not in parameters:
            yield f"parameters.{key}.when: {other} is not in the space, which has {', '.join(parameters)}"
        elif not parameters[other].can_be(value):
            yield f"parameters.{key}.when: {other} is never {_stored(value)!r}"


def _circles(parameters: Mapping[str, Parameter]) -> Iterator[str]:
    try:
        TopologicalSorter({key: list(parameter.when) for key, parameter in parameters.items()}).prepare()
    except CycleError as error:
        yield f"parameters: a circle of conditions, {' -> '.join(reversed(error.args[1]))}"


def _of_named(kind: str, named: Named, known: Mapping[str, tuple[Callable[..., Any], dict[str, type]]]) -> Iterator[str]:
    if named.name not in known:
        yield f"{kind}: unknown name {named.name!r}; known are {', '.join(known)}"
        return
    make, types = known[named.name]
    problems = [
        f"{kind} {named.name}: unknown argument {name}; known are {', '.join(types) or 'none'}"
        for name in named.arguments
        if name not in types
    ]
    problems += [
        f"{kind} {named.name}.{name}: found {named.arguments[name]!r}; a {types[name].__name__} is needed"
        for name in types.keys() & named.arguments.keys()
        if not _is_a(named.arguments[name], types[name])
    ]
    if not problems and named.name != "grid":
        try:
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                make(**named.arguments)
        except ValueError as error:
            problems.append(f"{kind} {named.name}: {str(error).partition(chr(10))[0]}")
    yield from problems


def _is_a(value: Any, wanted: type) -> bool:
    return type(value) is wanted or (wanted is float and type(value) is int)
