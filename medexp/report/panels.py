"""Which estimates stand on one axis: a panel a measure with every arm in it, gains apart from scores."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from medexp.report.facts import Facts
from medexp.report.plots import Dots, dots

Row = tuple[str, float, float, float, bool]
"""Of a panel: label, estimate, bounds, and whether it is what the run registers."""
_OVER = "gain_over_"
_SPLITS = ("val", "test")
_NO_ARM = (*_SPLITS, "final", "controls", "external")
_MEASURES = ("metric", "measure")  # what a table calls its column of measures
_BOUNDS = ["estimate", "low", "high"]
_WRITTEN = {
    "auroc": "AUROC",
    "ce": "cross-entropy",
    "ece": "ECE",
    "f1": "F1",
    "hd95": "HD95",
    "lora": "LoRA",
    "native": "on the cases' own grids",
    "r2": "R2",
}
_MOST_ROWS = 60  # of a table that is drawn


def panels(facts: Facts) -> list[Dots]:
    """A panel a measure of `intervals.csv` that has an interval, and those of other tables that hold such figures."""
    main = in_words(facts.arm or "this run")
    names = [str(name).split("/") for name in facts.intervals["metric"]]
    splits = {measure: {name[0] for name in names if name[-1] == measure and name[0] in _SPLITS} for *_, measure in names}
    groups: dict[str, list[Row]] = {}
    for parts, *values in zip(names, *(facts.intervals[column] for column in _BOUNDS), strict=True):
        *prefix, measure = parts
        title = in_words(measure) + (" (test)" if prefix[:1] == ["test"] and len(splits[measure]) > 1 else "")
        words = [word for word in prefix if word not in _NO_ARM]
        if words and words[-1].startswith(_OVER):
            title, words[-1] = f"gain in {title} over", words[-1].removeprefix(_OVER)
        groups.setdefault(title, []).append((in_words(" ".join(words)) or main, *_bounds(values), not words))
    there = {_as_key(row) for rows in groups.values() for row in rows}
    groups = _together({title: rows for title, rows in groups.items() if any(math.isfinite(row[2]) for row in rows)}, main)
    for path, table in facts.tables.items():
        if set(_BOUNDS) <= set(table) and 0 < len(table) <= _MOST_ROWS:
            groups |= _of_table(in_words(path.removesuffix(".csv")), table, there)
    return [_panel(title, rows) for title, rows in groups.items() if all(math.isfinite(row[1]) for row in rows)]


def in_words(name: str) -> str:
    """A name of a figure, an arm or a file as a reader has it."""
    return re.sub(r"\w+", lambda word: _WRITTEN.get(word[0], word[0]), name.replace("_", " "))


def _together(groups: Mapping[str, list[Row]], main: str) -> dict[str, list[Row]]:
    """Shares that stand beside no other arm's are one panel."""
    alone = {title: rows[0] for title, rows in groups.items() if len(rows) == 1 and rows[0][4] and abs(rows[0][1]) <= 1}
    if len(alone) < 2:
        return dict(groups)
    return {main: [(title, *row[1:]) for title, row in alone.items()]} | {
        title: rows for title, rows in groups.items() if title not in alone
    }


def _as_key(row: Row) -> str:
    """The figures of a row, such that equal ones have equal keys, also where there is no interval."""
    return " ".join(f"{value:.9g}" for value in row[1:4])


def _of_table(title: str, table: pd.DataFrame, there: Collection[str]) -> dict[str, list[Row]]:
    """The panels of a table, one a measure; rows that `intervals.csv` has too are left out."""
    words = [str(name) for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    by = next((name for name in _MEASURES if name in words), words[0] if len(words) > 1 else None)
    groups: dict[str, list[Row]] = {}
    for _, row in table.iterrows():
        label = " ".join(str(row[name]) for name in words if name != by)
        drawn = in_words(label) or title, *_bounds(row[_BOUNDS].tolist()), False
        if _as_key(drawn) not in there:
            groups.setdefault(title if by is None else f"{title}: {in_words(str(row[by]))}", []).append(drawn)
    return groups


def _panel(title: str, rows: Sequence[Row]) -> Dots:
    words = " ".join([title, *(label for label, *_ in rows)])
    return dots(title, rows, bool(re.search(r"\b(gain|effects?|added|over|difference|interaction)\b", words)))


def _bounds(values: Sequence[Any]) -> tuple[float, float, float]:
    estimate, low, high = (math.nan if value is None else float(value) for value in values)
    return estimate, low, high
