"""What recovery changes, in what order: `phases/<phase>/profiles/recovery.yaml`, read and applied. Nothing is run here."""

import difflib
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from medexp import phases
from medexp.addresses import local_path
from medexp.config.keys import Role, built, flat, keys, marked, value_of
from medexp.config.validate import Given, key_schema, made, problems_of, schema_problems, typed
from medexp.errors import ConfigError, all_problems
from medexp.files import read_mapping

C = TypeVar("C")
_STRICT = ConfigDict(extra="forbid")

AS_IT_WAS = "as it was"
"""What is run before the first rung where a remedy alone may do."""

Fault = Literal["out_of_memory", "diverged"]
Name = Annotated[str, Field(pattern=r"^\S(.*\S)?$", max_length=60)]


@dataclass(frozen=True, config=_STRICT)
class Times:
    """A number is multiplied; a whole number is rounded away from what it was."""

    times: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=_STRICT)
class Add:
    """A list gets what it does not have yet, sorted."""

    add: Annotated[tuple[int | str, ...], Field(min_length=1)]


def _kind(value: Any) -> str:
    return next(iter(value)) if isinstance(value, dict) and set(value) in ({"times"}, {"add"}) else "value"


Change = dict[
    str,
    Annotated[
        Annotated[Times, Tag("times")] | Annotated[Add, Tag("add")] | Annotated[Any, Tag("value")], Discriminator(_kind)
    ],
]
"""By dotted key: a Times, an Add, or the value."""


@dataclass(frozen=True, config=_STRICT)
class Rung:
    """A step of the ladder.

    Attributes:
        name: Of the rung, in the study and in the runs.
        why: What it is, for the report.
        change: What it changes, by dotted key.
    """

    name: Name
    why: str
    change: Change


@dataclass(frozen=True, config=_STRICT)
class Ladder:
    """All that recovery may change of a phase.

    Attributes:
        goal: The metric by which the best of the rungs is told when none passed; the largest.
        mends: BLOCKING checks that a rung may mend.
        rungs: In the order that they are climbed.
        remedies: What is changed when a run did not come to its checks, by what it failed of.
        at_most: How often remedies are taken in one recovery.
    """

    goal: str
    mends: Annotated[tuple[str, ...], Field(min_length=1)]
    rungs: Annotated[tuple[Rung, ...], Field(min_length=1)]
    remedies: dict[Fault, Annotated[Change, Field(min_length=1)]]
    at_most: Annotated[int, Field(ge=0)]


def read_ladder(phase: str, file: str | None = None) -> Ladder:
    """The ladder of a phase.

    Args:
        phase: Name of the phase.
        file: Another file than `phases/<phase>/profiles/recovery.yaml`.

    Raises:
        ConfigError: It cannot be read, does not hold, or contradicts itself; all problems at once.
    """
    path = local_path(file) if file else phases.phase(phase).profile("recovery")
    content = read_mapping(path, ConfigError, f"a ladder has {', '.join(Ladder.__dataclass_fields__)}")
    try:
        ladder = TypeAdapter(Ladder).validate_python(content)
    except ValidationError as error:
        raise ConfigError(all_problems(str(path), schema_problems(error, Ladder))) from error
    if contradictions := list(_contradictions(ladder, phase)):
        raise ConfigError(all_problems(str(path), contradictions))
    return ladder


def ladder_schema(phase: str) -> dict[str, Any]:
    """A JSON Schema of the files that `read_ladder` takes: editors complete and check by it."""
    schema, record = TypeAdapter(Ladder).json_schema(), phases.phase(phase)
    known, changeable = keys(record.config), marked(record.config, Role.MENDS)
    relative = [{"$ref": f"#/$defs/{name}"} for name in ("Times", "Add")]
    change = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {"anyOf": [key_schema(key), *relative]} for name, key in known.items() if name in changeable},
    }
    schema["$defs"]["Change"] = change
    schema["$defs"]["Rung"]["properties"]["change"] = {"$ref": "#/$defs/Change"}
    schema["properties"]["remedies"]["additionalProperties"] = {"$ref": "#/$defs/Change", "minProperties": 1}
    schema["properties"]["mends"]["items"] = {"enum": list(record.checks)}
    return schema


def phase_config(phase: str, content: Mapping[str, Any], source: str) -> Any:
    """A phase's configuration from plain values in their blocks, as `config.yaml` of a run holds them.

    Raises:
        ConfigError: Keys are missing or unknown, values are of a wrong type or out of range; all problems at once.
    """
    record = phases.phase(phase)
    values, problems = record.layers.dotted(content, "")
    if problems:
        raise ConfigError(all_problems(source, problems))
    return made(record.config, {key: given.value for key, given in values.items()}, source)


def changed(config: C, changes: Sequence[Mapping[str, Any]], source: str) -> C:
    """A configuration with changes on top of each other.

    Args:
        config: The configuration.
        changes: In order; by dotted key a Times, an Add or a value.
        source: What the changes are, for an error.

    Raises:
        ConfigError: The result is no configuration, such as a batch of 1 that is halved.
    """
    return made(type(config), _put(flat(config), changes), source)


def differences(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """What differs between two configurations of a phase, by dotted key: of what matters to its outcome."""
    ours, theirs, where = flat(before), flat(after), marked(type(before), Role.WHERE)
    return {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key] and key not in where}


def _put(values: dict[str, Any], changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    for change in changes:
        for key, value in change.items():
            values[key] = _applied(values.get(key), value)
    return values


def _applied(there: Any, value: Any) -> Any:
    if isinstance(value, Times):
        if isinstance(there, int):
            exact = there * Fraction(str(value.times))  # 20 times 1.1 is 22, and not rounded up from 22.000000000000004
            return math.ceil(exact) if value.times > 1 else math.floor(exact)
        return there * value.times
    if isinstance(value, Add):
        return sorted({*there, *value.add})
    return value


def _contradictions(ladder: Ladder, phase: str) -> Iterator[str]:
    """What each value's own type does not tell."""
    full, known = _full(phase), phases.phase(phase).checks
    for check in ladder.mends:
        if check not in known:
            yield f"mends: unknown check {check!r}; {phase} has {', '.join(known)}"
    names = [rung.name for rung in ladder.rungs]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield f"rungs: two are named {name!r}; each has a name of its own"
    for name in names:
        if name == AS_IT_WAS or re.fullmatch(r"search \d+", name):
            yield f"rung {name!r}: is what recovery itself calls some of its runs; choose another name"
        if set(name) & set("'\\"):
            yield f"rung {name!r}: has ' or \\ in its name, by which MLflow cannot find its run; leave them out"
    for where, change in [
        *((f"rung {rung.name!r}", rung.change) for rung in ladder.rungs),
        *((f"remedies.{fault}", change) for fault, change in ladder.remedies.items()),
    ]:
        sound = True
        for key, value in change.items():
            problems = list(_misuse(key, value, full))
            sound = sound and not problems
            yield from (f"{where}: {problem}" for problem in problems)
        if sound:
            yield from (f"{where}: {problem}" for problem in _unfit(full, change))
    set_to: dict[str, Any] = {}
    for rung in ladder.rungs:
        if all(key in set_to and set_to[key] == value for key, value in rung.change.items()):
            same = f"; the rungs before it set {', '.join(rung.change)} to the same" if rung.change else ""
            yield f"rung {rung.name!r}: changes nothing{same}"
        set_to |= {key: value for key, value in rung.change.items() if not isinstance(value, Times | Add)}
        for key in [key for key, value in rung.change.items() if isinstance(value, Times | Add)]:
            set_to.pop(key, None)
    yield from _worse_remedies(ladder)


def _worse_remedies(ladder: Ladder) -> Iterator[str]:
    """Remedies that do what they are against."""
    for fault, prefix in (("out_of_memory", "training.batch_size"), ("diverged", "training.lr_")):
        for key, value in ladder.remedies.get(fault, {}).items():  # type: ignore[call-overload]
            if key.startswith(prefix) and isinstance(value, Times) and value.times > 1:
                yield f"remedies.{fault}: {key} times {value.times:g} makes it worse; below 1"


def _misuse(key: str, value: Any, full: Any) -> Iterator[str]:
    config_class = type(full)
    changeable = marked(config_class, Role.MENDS)
    there: Any = value_of(full, key) if key in keys(config_class) else None
    if key not in keys(config_class):
        near = difflib.get_close_matches(key, changeable, n=1)
        yield f"unknown key {key}; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(changeable))}")
    elif key not in changeable:
        named = [_block_or_key(name, config_class, changeable) for name in keys(config_class) if name in changeable]
        may = ", ".join(dict.fromkeys(named))
        yield f"{key}: is not for a ladder to change; it may change {may}: data, base, seed and bars stay"
    elif isinstance(value, Times) and (isinstance(there, bool) or not isinstance(there, int | float)):
        yield f"{key}: times needs a number; the key holds {there!r}"
    elif isinstance(value, Times) and value.times == 1:
        yield f"{key}: times 1 changes nothing"
    elif isinstance(value, Add) and not isinstance(there, tuple):
        yield f"{key}: add needs a list; the key holds {there!r}"
    elif isinstance(value, Add):
        try:
            mixed = sorted({*there, *value.add})
        except TypeError:
            mixed = []
        if len({type(item) for item in mixed}) != 1:
            yield f"{key}: found {list(value.add)} to add; the list holds such as {next(iter(there), None)!r}"
    elif isinstance(value, dict):
        yield f"{key}: found {value}; a value, {{times: NUMBER}} or {{add: [VALUES]}}"


def _block_or_key(name: str, config_class: type, changeable: Collection[str]) -> str:
    """The block of a key where all of it may be changed, else the key."""
    block = name.partition(".")[0]
    whole = all(other in changeable for other in keys(config_class) if other.startswith(f"{block}."))
    return block if whole else name


def _unfit(full: Any, change: Mapping[str, Any]) -> list[str]:
    """Values of a wrong type or out of range, on top of the full profile; what that lacks itself is given by the user."""
    fit, problems = typed(type(full), {key: Given(value) for key, value in _put(flat(full), [change]).items()})
    if problems:
        return problems
    lacks = problems_of(full)
    return [problem for problem in problems_of(built(type(full), fit)) if problem not in lacks]


def _full(phase: str) -> Any:
    """The full profile, without what a user has to give."""
    record = phases.phase(phase)
    fit, _ = typed(record.config, record.layers.of_profile("full"))
    return built(record.config, fit)
