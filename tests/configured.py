"""Phases from the command line: the configuration that one would run with, and a run of it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from medexp.cli import configuration, main
from medexp.phases import phases


def flags(given: Mapping[str, object] | None = None, /, **more: object) -> list[str]:
    """Keys with their values as words of a command line; `__` is the dot of a key, and None or "" leaves a key out."""
    keys = {**(given or {}), **{key.replace("__", "."): value for key, value in more.items()}}
    return [f"--{key}={value}" for key, value in keys.items() if value not in (None, "")]


def configured(phase: str, given: Mapping[str, object] | None = None, /, **more: object) -> Any:
    """A phase's configuration: its demo profile with some keys, as of `flags`."""
    return configuration(phase, flags(given, **more))


def run_phase(phase: str, given: Mapping[str, object] | None = None, /, **more: object) -> int:
    """Run a phase's demo with some keys, as of `flags`; the exit code.

    On one thread where no key says otherwise: two workers of pytest with two threads each, on two cores, take twice as long.
    """
    one = {"threads": "1"} if "threads" in {key.name for key in fields(phases()[phase].config)} else {}
    return main(phase, flags({**one, **(given or {})}, **more))
