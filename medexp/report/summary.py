"""What a phase comes to, in words and figures: as a recipe says it, and as `summary.json` of a run keeps it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medexp.reporting import Reporter
from medexp.words import PATIENTS

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Summary:
    """What a phase comes to, for the run's page and for the terminal.

    Attributes:
        headline: The phase and its most telling settings.
        title: What the table shows.
        head: The table's columns.
        rows: Its rows.
        words: What the figures say, plainly, a sentence or two each.
        narrow: Columns and rows for the terminal, where those are too wide for it.
        following: What can be done next, besides what the registered versions are for.
        first: What a reader must know before any figure, such as a control that is as good: sentences, before all else.
        beside: A second table: title, columns, rows.
        compared_by: The figure that runs of the phase are compared by, as `intervals.csv` names it, and its name for a reader.
        units: The phase's (`medexp.phases.Phase`).
    """

    headline: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str]
    narrow: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    following: Sequence[str] = ()
    first: Sequence[str] = ()
    beside: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = None
    compared_by: tuple[str, str] = ("", "")
    units: tuple[str, str] = PATIENTS


def as_record(summary: Summary, following: Sequence[str]) -> dict[str, Any]:
    """The summary as `summary.json` holds it.

    Args:
        summary: The summary.
        following: All that can be done next, a line each.
    """
    kept = {key: value for key, value in asdict(summary).items() if key != "narrow"}
    return kept | {"following": list(following)}


def log_record(reporter: Reporter, summary: Summary, following: Sequence[str]) -> None:
    """Keep the summary in a run, as `summary.json`; arguments as of `as_record`."""
    reporter.text(json.dumps(as_record(summary, following), indent=2), SUMMARY)


def from_record(record: Mapping[str, Any]) -> Summary:
    """The summary that `summary.json` holds; what a later medexp says besides is left out.

    Raises:
        KeyError: It lacks a part that each has.
        TypeError: A part is of another kind.
    """
    beside, units = record.get("beside"), record.get("units", Summary.units)
    return Summary(
        headline=str(record["headline"]),
        title=str(record["title"]),
        head=_words(record["head"]),
        rows=[_words(row) for row in record["rows"]],
        words=_words(record["words"]),
        following=_words(record.get("following", ())),
        first=_words(record.get("first", ())),
        beside=(str(beside[0]), _words(beside[1]), [_words(row) for row in beside[2]]) if beside else None,
        units=(str(units[0]), str(units[1])),
    )


def _words(told: Sequence[Any]) -> list[str]:
    if isinstance(told, str):
        raise TypeError(f"found {told!r}, expected a list")
    return [str(word) for word in told]
