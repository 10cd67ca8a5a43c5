"""What the cases that a model learned from looked like before anything was done to them, and what of a new case lies outside.

Fields are those of a file's header (`medexp.data.headers`) and statistics of its intensities. Text that could name somebody,
and what differs between files of one scanner, is left out.
"""

from collections.abc import Iterable, Mapping
from typing import Any

Field = float | str | None
Ranges = Mapping[str, Mapping[str, Any]]
"""By field: `low`, `high` and `cases` of a number, or `values` of text."""

ROOM = 0.5
"""A number is outside when it lies farther from the range than this share of the range's width, or of 5 % of its values where
that is more: of 50 normal values the range is 4.5 standard deviations wide, so one new value in 10,000 or so is outside."""

MIN_CASES = 5
"""Fewest cases whose statistics of intensities are a range."""

_LEFT_OUT = (
    "file size",
    "descrip",
    "aux_file",
    "intent_name",
    "software",
    "voxels",
    "height",
    "width",
    "aspect",
    "slice",
    "dpi",
)
_STATISTIC = ("_mean", "_sd", "_p99")


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


def outside(case: Mapping[str, Field], seen: Ranges) -> list[str]:
    """What of a case lies outside, a sentence each; nothing of fields that nobody knows the range of.

    Args:
        case: Its fields.
        seen: `ranges` of the cases that a model learned from.
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
            room = ROOM * max(high - low, 0.05 * max(abs(low), abs(high)))
            if not low - room <= value <= high + room:
                told.append(f"{name} is {value:.4g}; it was {low:.4g}" + (f" to {high:.4g}" if high > low else ""))
    return told
