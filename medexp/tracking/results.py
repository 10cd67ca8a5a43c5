"""What a run came to: its checks and its summary."""

import json
from collections.abc import Sequence

from medexp.checks import Check, as_markdown, as_records, verdict
from medexp.errors import CheckFailed, all_problems
from medexp.tracking.runs import TrackedRun

_LONGEST_TAG = 8000


def log_checks(run: TrackedRun, checks: Sequence[Check]) -> None:
    """Log `checks.json`, `verification_report.md`, a metric `checks/<id>` of 1 or 0 each, and the tag `medexp.verdict`."""
    run.reporter.text(json.dumps(as_records(checks), indent=2), "checks.json")
    run.reporter.text(as_markdown(checks), "verification_report.md")
    run.reporter.metrics({f"checks/{check.id}": float(check.passed) for check in checks})
    run.tag({"medexp.verdict": verdict(checks)})


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
    """Log `summary.md` and show it as the run's description, which MLflow cuts at 8000 characters."""
    run.reporter.text(markdown, "summary.md")
    run.tag({"mlflow.note.content": markdown[:_LONGEST_TAG]})
