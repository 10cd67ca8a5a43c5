"""A configuration as dotted keys, and what each key is for: said once, on the field, as a marker of its type.

`Annotated[str, Role.WHERE]` on a field marks its key, and on a block all keys in it. Who resumes, searches, compares or names
runs asks for the marked keys and keeps no list of its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar, cast, get_type_hints

from annotated_types import DocInfo
from docstring_parser import parse as parse_docstring

from medexp.config.bounds import bare, metadata

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])


def _once(function: F) -> F:
    """`functools.cache`, which to a type checker forgets what a function takes."""
    return cast(F, functools.cache(function))


class Role(Enum):
    """What a key is for, where that decides what may be done with it."""

    WHERE = auto()
    """Where things lie, what it runs on, how it was started: the outcome is the same. May differ on resume, is no part of what
    a step's outcome depends on, and is never searched."""
    CASES = auto()
    """Which cases are judged. Never searched: the easiest would be best."""
    JUDGING = auto()
    """How they are judged: bars, intervals, pictures. Never searched: no model gets better by it."""
    MENDS = auto()
    """How it is trained: what a recovery ladder may change."""


@dataclass(frozen=True)
class Called:
    """The value stands in the run's name.

    Attributes:
        prefix: What stands before it.
        last: Whether it stands behind the others.
    """

    prefix: str
    last: bool = False


@dataclass(frozen=True)
class Compared:
    """Runs are compared by the value: it is among a run's parameters, also where it is the profile's."""


@dataclass(frozen=True)
class Subject:
    """The value names what is put to the test; the other keys are the test's."""


@dataclass(frozen=True)
class Short:
    """The key has a short name too."""

    name: str


@dataclass(frozen=True)
class Key:
    """A key of a configuration.

    Attributes:
        name: Dotted, as a user writes it.
        kind: Its type with its bounds.
        text: What it is.
        markers: What it is for, those of its blocks included.
    """

    name: str
    kind: Any
    text: str
    markers: tuple[Any, ...]

    @property
    def shorts(self) -> list[str]:
        """Its short names."""
        return [marker.name for marker in self.markers if isinstance(marker, Short)]


@_once
def keys(config_class: type, prefix: str = "", inherited: tuple[Any, ...] = ()) -> Mapping[str, Key]:
    """The keys of a configuration by their dotted names, in order."""
    documented = [parse_docstring(cls.__doc__ or "").params for cls in reversed(config_class.__mro__)]
    texts = {param.arg_name: param.description or "" for params in documented for param in params}
    found: dict[str, Key] = {}
    for name, kind in hints(config_class).items():
        markers = tuple(metadata(kind))
        if dataclasses.is_dataclass(block := bare(kind)):
            found |= keys(cast(type, block), f"{prefix}{name}.", (*inherited, *markers))
        else:
            told = [marker.documentation for marker in markers if isinstance(marker, DocInfo)]
            text = " ".join((texts.get(name) or next(iter(told), "")).split())
            found[f"{prefix}{name}"] = Key(f"{prefix}{name}", kind, text, (*inherited, *markers))
    return found


@_once
def hints(config_class: type) -> Mapping[str, Any]:
    """The fields of a configuration with their types, bounds and markers included."""
    there = get_type_hints(config_class, include_extras=True)
    return {field.name: there[field.name] for field in dataclasses.fields(config_class)}


@_once
def blocks(config_class: type) -> Mapping[str, type]:
    """The fields of a configuration that are configurations themselves, with their classes."""
    bared = {name: bare(kind) for name, kind in hints(config_class).items()}
    return {name: cast(type, kind) for name, kind in bared.items() if dataclasses.is_dataclass(kind)}


@_once
def steps(config_class: type) -> Mapping[str, type]:
    """The blocks of a configuration that are a phase's own, by the name of the phase."""
    return {name: kind for name, kind in blocks(config_class).items() if "profile" in hints(kind)}


def marked(config_class: type, *markers: Any) -> frozenset[str]:
    """The keys that have one of the markers."""
    return frozenset(name for name, key in keys(config_class).items() if set(markers) & set(key.markers))


def compared(config: Any) -> frozenset[str]:
    """The keys that runs are compared by: those of `Compared`, and those that stand in a run's name."""
    inside = tuple(f"{step}." for step in steps(type(config)))  # a pipeline's steps are runs of their own
    return frozenset(
        name
        for name, key in keys(type(config)).items()
        if any(isinstance(marker, Called | Compared) for marker in key.markers) and not name.startswith(inside)
    )


def protocol(config_class: type) -> frozenset[str]:
    """The keys that say what is done to the subject of a test, and how: all but the subject, the seed, where it runs, which
    cases judge it and how they do."""
    apart = marked(config_class, Role.WHERE, Subject())
    judges = marked(config_class, Role.CASES, Role.JUDGING) - marked(config_class, Role.MENDS)
    return frozenset(keys(config_class)) - apart - judges - {"seed"}


def value_of(config: Any, name: str) -> Any:
    """The value of a dotted key."""
    return functools.reduce(getattr, name.split("."), config)


def flat(config: Any) -> dict[str, Any]:
    """The values of a configuration by dotted key, in order."""
    return {name: value_of(config, name) for name in keys(type(config))}


def nested(config: Any) -> dict[str, Any]:
    """The values of a configuration in its blocks, as YAML writes them: lists for tuples."""
    inner = blocks(type(config))
    values = {name: getattr(config, name) for name in hints(type(config))}
    return {
        name: nested(value) if name in inner else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def built(config_class: type[C], values: Mapping[str, Any], prefix: str = "") -> C:
    """A configuration from the values of all of its keys; they are not looked at: `medexp.config.validate` does that."""
    inner = blocks(config_class)
    arguments = {
        name: built(inner[name], values, f"{prefix}{name}.") if name in inner else values[f"{prefix}{name}"]
        for name in hints(config_class)
    }
    return config_class(**arguments)


def run_name(phase: str, config: Any) -> str:
    """What a run is called: the phase, then the settings that a reader looks for, such as `phase1 r8 a16 s0`."""
    return " ".join([phase, *(word for _, word in sorted(_called(config), key=lambda found: found[0]))])


def _called(config: Any) -> Iterator[tuple[bool, str]]:
    inside = tuple(f"{step}." for step in steps(type(config)))  # a pipeline's steps are runs of their own
    for name, key in keys(type(config)).items():
        value = value_of(config, name)
        for marker in key.markers:
            if isinstance(marker, Called) and value is not None and not name.startswith(inside):
                yield marker.last, marker.prefix + _in_a_name(value)


def _in_a_name(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(_in_a_name, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
