"""What the cases that a model learned from looked like before anything was done to them, and what of a new case lies outside.

Fields are what of a file's header (`medexp.data.headers`) a network could see, statistics of its intensities, and the brain's
volume. Text that could name somebody, and what differs between files of one scanner, is left out.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

Field = float | str | None
Ranges = Mapping[str, Mapping[str, Any]]
"""By field: `low`, `high` and `cases` of a number, or `values` of text."""

ROOM = 0.5
"""A number is outside when it lies farther from the range than this share of the range's width, or of 5 % of its values where
that is more; by ratio where all that was seen is above 0, as lengths and intensities are.

With the ranges of 54 phantoms 1 of 204 others of the kind is told, and all of 23 real heads for the contrast of their t1n;
with half the room 3, with twice the room none, and 14 of the heads (`python -m benchmarks.outside FOLDER`)."""

MIN_CASES = 5
"""Fewest cases whose statistics are a range."""

_LEFT_OUT = ("file size", "software", "height", "width", "aspect", "slice", "dpi")
_STATISTIC = ("_mean", "_sd", "_p99", "_contrast", "brain_ml")
_LEAST = 0.05


def ranges(cases: Iterable[Mapping[str, Field]]) -> Ranges:
    """The ranges of the fields of cases; of text the values, sorted.

    Args:
        cases: The fields of each.
    """
    values: dict[str, list[Field]] = {}
    for case in cases:
        for name, value in case.items():
            if value is not None and not any(word in name for word in _LEFT_OUT):
                values.setdefault(name, []).append(value)
    found: dict[str, Mapping[str, Any]] = {}
    for name, there in sorted(values.items()):
        if all(isinstance(value, int | float) for value in there):
            found[name] = {"low": min(there), "high": max(there), "cases": len(there)}  # type: ignore[type-var]
        else:
            found[name] = {"values": sorted({str(value) for value in there})}
    return found


def outside(case: Mapping[str, Field], seen: Ranges, room: float = ROOM) -> list[str]:
    """What of a case lies outside, a sentence each; nothing of fields that nobody knows the range of.

    Args:
        case: Its fields.
        seen: `ranges` of the cases that a model learned from.
        room: How much farther a number may lie.
    """
    told = []
    for name, known in seen.items():
        value = case.get(name)
        if value is None:
            continue
        if "values" in known:
            if str(value) not in known["values"]:
                told.append(f"{name} is {value}; it was {' or '.join(known['values'])}")
        elif isinstance(value, int | float) and not (name.endswith(_STATISTIC) and known["cases"] < MIN_CASES):
            low, high = known["low"], known["high"]
            if not _inside(value, low, high, room):
                told.append(f"{name} is {value:.4g}; it was {low:.4g}" + (f" to {high:.4g}" if high > low else ""))
    return told


def _inside(value: float, low: float, high: float, room: float) -> bool:
    """Whether a number lies in a range or within the room beside it."""
    if low > 0 and value > 0:
        low, high, value = math.log(low), math.log(high), math.log(value)
        least = math.log1p(_LEAST)
    elif low > 0:
        return False
    else:
        least = _LEAST * max(abs(low), abs(high))
    beyond = room * max(high - low, least)
    return low - beyond <= value <= high + beyond
