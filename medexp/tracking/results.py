"""What a run came to: its figures with their intervals, its checks and its summary."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from medexp.checks import Check, as_markdown, as_records, as_tags, verdict
from medexp.errors import CheckFailed, all_problems
from medexp.evaluation.intervals import Interval
from medexp.files import replacing
from medexp.tracking.runs import TrackedRun
from medexp.tracking.ui import page

_LONGEST_TAG = 8000
_INTERVALS = "intervals.csv"


def log_intervals(run: TrackedRun, intervals: Mapping[str, Interval], confidence: float) -> None:
    """Log each estimate as a metric, and all that the run has in one table: bounds are no metrics of their own.

    `intervals.csv` has a row a metric: `metric`, `estimate`, `low`, `high`, `confidence`, `patients`; bounds are empty where
    there is no interval. What is logged in several calls is in one table.

    Args:
        run: The run.
        intervals: By name of the metric.
        confidence: What the intervals cover, 0.95 for 95 %.
    """
    if run.client is None:
        return
    run.reporter.metrics({name: interval.estimate for name, interval in intervals.items()})
    rows = pd.DataFrame(
        [(name, one.estimate, one.low, one.high, confidence, one.patients) for name, one in intervals.items()],
        columns=["metric", "estimate", "low", "high", "confidence", "patients"],
    )
    file = run.folder / _INTERVALS
    if file.is_file():
        rows = pd.concat([pd.read_csv(file), rows]).drop_duplicates("metric", keep="last")
    with replacing(file) as temporary:
        rows.to_csv(temporary, index=False)
    run.reporter.file(file)


def intervals_of(run: TrackedRun) -> list[dict[str, Any]]:
    """The rows of the run's `intervals.csv`, bounds that there are not being None; none where it has no such file."""
    file = run.folder / _INTERVALS
    rows = pd.read_csv(file).astype(object) if file.is_file() else pd.DataFrame()
    return [{str(key): value for key, value in row.items()} for row in rows.where(rows.notna(), None).to_dict("records")]


def log_checks(run: TrackedRun, checks: Sequence[Check]) -> None:
    """Log `checks.json`, `verification_report.md`, a metric `checks/<id>` of 1 or 0 each, and the tags that tell them."""
    run.reporter.text(json.dumps(as_records(checks), indent=2), "checks.json")
    run.reporter.text(as_markdown(checks), "verification_report.md")
    run.reporter.metrics({f"checks/{check.id}": float(check.passed) for check in checks})
    run.tag(as_tags(checks))


def stop_if_blocked(run: TrackedRun | None, checks: Sequence[Check]) -> None:
    """End the run here if a BLOCKING check failed; log the checks first.

    Args:
        run: The run; None before there is one, in what the trials of a study share.
        checks: All checks.

    Raises:
        CheckFailed: With each such check, its demand, what was measured and its advice.
    """
    if verdict(checks) == "FAILED":
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
