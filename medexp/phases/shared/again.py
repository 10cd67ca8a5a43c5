"""Settings of a run as a command takes them again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medexp.config.keys import Role, compared, flat, marked
from medexp.config.validate import typed
from medexp.files import dump_yaml
from medexp.phases import Phase


def changed(phase: Phase, config: Any) -> dict[str, str]:
    """What a configuration has otherwise than its profile, by key, as a flag takes it."""
    return {key: after for key, (_, after) in differences(phase, config).items()}


def differences(phase: Phase, config: Any) -> dict[str, tuple[str, str]]:
    """The same with what the profile has before it."""
    layers = replace(phase.layers, config=type(config))  # of a study: with the block of the phase that it runs
    values, _ = typed(type(config), layers.of_profile(config.profile, whole=False))
    told = {key: value for key, value in flat(config).items() if key in values and value != values[key]}
    return {key: (_in_a_line(values[key]), _in_a_line(value)) for key, value in told.items()}


def params(phase: Phase, config: Any) -> set[str]:
    """The keys that stand among a run's parameters: what it has otherwise than its profile, but for where things lie, and what
    runs are compared by."""
    return {"profile", *(changed(phase, config).keys() - marked(type(config), Role.WHERE)), *compared(config)}


def _in_a_line(value: object) -> str:
    return value if isinstance(value, str) else dump_yaml(_in_lists(value), in_a_line=True)


def _in_lists(value: object) -> object:
    """A value with lists for tuples, of which YAML has none."""
    if isinstance(value, Mapping):
        return {key: _in_lists(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
