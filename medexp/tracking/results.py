"""What a run came to: its figures with their intervals, its checks and its summary.

What is measured once is no metric: MLflow makes a chart of one bar of it, and many of them bury the curves. It stands in
`intervals.csv`; the one figure that runs are compared by is a metric and a tag too.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medexp.checks import CHECKS, DIAGNOSTICS, VERDICT, Check, as_markdown, as_records, failed_diagnostics, listed, verdict
from medexp.errors import CheckFailed, all_problems
from medexp.evaluation.intervals import Interval
from medexp.files import replacing
from medexp.tracking.runs import TrackedRun
from medexp.tracking.ui import page

_LONGEST_TAG = 8000
_INTERVALS = "intervals.csv"
HEADLINE = "medexp.headline"
"""Tag of runs: the figure that they are compared by, with its bounds."""


def log_intervals(run: TrackedRun, intervals: Mapping[str, Interval], confidence: float) -> None:
    """Log figures that were measured once, all that the run has in one table.

    `intervals.csv` has a row a figure: `metric`, `estimate`, `low`, `high`, `confidence`, `patients`; bounds are empty where
    there is no interval, and patients where the figure, such as a count, is of none. What is logged in several calls is in one
    table.

    Args:
        run: The run.
        intervals: By name of the figure.
        confidence: What the intervals cover, 0.95 for 95 %.
    """
    if run.client is None:
        return
    rows = pd.DataFrame(
        [(name, one.estimate, one.low, one.high, confidence, one.patients or None) for name, one in intervals.items()],
        columns=["metric", "estimate", "low", "high", "confidence", "patients"],
    ).astype({"patients": "Int64"})
    file = run.folder / _INTERVALS
    if file.is_file():
        rows = pd.concat([_read(file), rows]).drop_duplicates("metric", keep="last")
    with replacing(file) as temporary:
        rows.to_csv(temporary, index=False)
    run.reporter.file(file)


def log_figures(run: TrackedRun, figures: Mapping[str, float]) -> None:
    """Log figures that have no interval, such as counts, into the same table."""
    log_intervals(run, {name: Interval(float(value), math.nan, math.nan, 0) for name, value in figures.items()}, math.nan)


def log_headline(run: TrackedRun, name: str, words: str, *, sorted_by: bool = True) -> None:
    """Name the figure that runs of the phase are compared by: a metric, by which the runs' table is sorted, and a tag.

    A figure `val/final/NAME` whose measure has a course ends that course: the last value of the metric `val/NAME` is that of
    the network which is kept, also where an epoch was chosen or folds were trained. Only one without a course is a metric of
    its own.

    Args:
        run: The run, which has logged the figure; one that came to none has no headline.
        name: Of the figure in `intervals.csv`.
        words: What the tag calls it.
        sorted_by: False: the tag alone, where runs have no order.
    """
    found = next((row for row in intervals_of(run) if row["metric"] == name), None)
    if run.client is None or found is None or found["estimate"] is None:
        return
    value = found["estimate"]
    bounds = f" [{found['low']:.3f}, {found['high']:.3f}]" if found["low"] is not None else ""
    run.tag({HEADLINE: f"{words} {value:.3f}{bounds}"})
    if not sorted_by:
        return
    run.reporter.flush()
    course = name.replace("/final/", "/", 1)
    points = run.client.get_metric_history(run.id, course) if course != name else []
    if not points:
        run.reporter.metrics({name: value}, 0)
    elif not math.isclose((last := max(points, key=lambda point: point.step)).value, value, rel_tol=1e-6):
        run.reporter.metrics({course: value}, last.step + 1)


def intervals_of(run: TrackedRun) -> list[dict[str, Any]]:
    """The rows of the run's `intervals.csv`, bounds that there are not being None; none where it has no such file."""
    file = run.folder / _INTERVALS
    rows = _read(file).astype(object) if file.is_file() else pd.DataFrame()
    return [{str(key): value for key, value in row.items()} for row in rows.where(rows.notna(), None).to_dict("records")]


def log_checks(run: TrackedRun, checks: Sequence[Check], *, so_far: bool = False) -> None:
    """Log `checks.json`, `verification_report.md`, and the tags that tell them; no verdict of those `so_far`."""
    run.reporter.text(json.dumps(as_records(checks), indent=2), "checks.json")
    run.reporter.text(as_markdown(checks, so_far=so_far), "verification_report.md")
    judged = {} if so_far else {VERDICT: verdict(checks)}
    run.tag({DIAGNOSTICS: failed_diagnostics(checks), CHECKS: listed(checks), **judged})


def stop_if_blocked(run: TrackedRun | None, checks: Sequence[Check]) -> None:
    """End the run here, with its verdict, if a BLOCKING check failed.

    Args:
        run: The run; None before there is one, in what the trials of a study share.
        checks: All checks.

    Raises:
        CheckFailed: With each such check, its demand, what was measured and its advice.
    """
    if verdict(checks) == "FAILED":
        if run is not None:
            log_checks(run, checks)
        failed = [
            f"{check.id} ({check.title}): {check.threshold}; found {check.found}. {check.advice}"
            for check in checks
            if check.blocks
        ]
        advice = f"Nothing is promoted; the report is in run {run.id}." if run else "No trial was begun."
        raise CheckFailed(all_problems("BLOCKING check failed", failed, advice))


def log_summary(run: TrackedRun, markdown: str) -> None:
    """Log `summary.md` and show it as the run's description, which MLflow cuts at 8000 characters.

    With a link to the intervals, where the run has some.
    """
    run.reporter.text(markdown, "summary.md")
    if (run.folder / _INTERVALS).is_file():
        markdown += f"\nAll figures with their intervals: [{_INTERVALS}]({page(run.id, _INTERVALS)})\n"
    run.tag({"mlflow.note.content": markdown[:_LONGEST_TAG]})


def _read(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype={"patients": "Int64"})
