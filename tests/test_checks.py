"""Checks: verdict, records and report."""

import json
import math

import pytest

from medexp.checks import (
    Check,
    Severity,
    as_markdown,
    as_records,
    failed_diagnostics,
    from_records,
    told,
    verdict,
)


def check(severity: Severity = Severity.BLOCKING, passed: bool = True, **rest) -> Check:
    return Check(
        id="TEST_2.5", title="Segmentation quality", severity=severity, passed=passed, threshold="Dice WT > 0.80", **rest
    )


BLOCKING, DIAGNOSTIC = Severity.BLOCKING, Severity.DIAGNOSTIC


@pytest.mark.parametrize(
    ("checks", "expected", "failed"),
    [
        ([], "FAILED", 0),  # what nobody checked did not pass
        ([check()], "PASSED", 0),
        ([check(BLOCKING, passed=False)], "FAILED", 0),
        ([check(DIAGNOSTIC, passed=False)], "PASSED", 1),
        ([check(), check(DIAGNOSTIC, passed=False), check(DIAGNOSTIC, passed=False)], "PASSED", 2),
        ([check(), check(DIAGNOSTIC), check(BLOCKING, passed=False), check(DIAGNOSTIC, passed=False)], "FAILED", 1),
    ],
)
def test_the_verdict_hangs_on_blocking_checks_and_is_never_told_without_the_diagnostics_that_failed(checks, expected, failed):
    """As a value it is one word, which programs compare."""
    assert verdict(checks) == expected
    named = f" (diagnostics that failed: {', '.join(['TEST_2.5'] * failed)})" if failed else ""
    assert told(verdict(checks), failed_diagnostics(checks)) == expected + named
    assert f"Verdict: **{expected}{named}**" in as_markdown(checks)
    kept = from_records(json.loads(json.dumps(as_records(checks))))
    assert (verdict(kept), failed_diagnostics(kept)) == (verdict(checks), failed_diagnostics(checks)), (
        "as a package keeps them"
    )


def test_of_a_verdict_whose_diagnostics_nobody_noted_that_is_told():
    assert told("PASSED", None) == "PASSED (of its diagnostics nothing is known)"
    assert told(None, None) is None, "it was not judged"


def test_records_are_json_with_nan_and_infinities_as_words():
    measured = {
        "dice": 0.5,
        "hd95": math.nan,
        "loss": math.inf,
        "gain": -math.inf,
        "cases": 3,
        "base": "x",
        "ran": True,
        "none": None,
    }
    records = as_records([check(measured=measured, advice="Train longer.")])
    (record,) = json.loads(json.dumps(records, allow_nan=False))
    assert record["measured"] == measured | {"hd95": "nan", "loss": "inf", "gain": "-inf"}
    assert (record["id"], record["severity"], record["passed"], record["advice"]) == (
        "TEST_2.5",
        "BLOCKING",
        True,
        "Train longer.",
    )
    assert as_records([]) == []


def test_the_report_has_a_row_a_check_and_advice_for_failed_ones_alone():
    report = as_markdown(
        [
            check(measured={"Dice WT": 0.87654321, "cases": 12}, advice="Not needed."),
            Check("TEST_2.6", "Heads", DIAGNOSTIC, False, "R2 > 0", {"R2": math.nan}, "Look at the features."),
            Check("TEST_2.1", "Injection", BLOCKING, False, "36,864", {}, ""),
        ]
    )
    assert "| TEST_2.5 | Segmentation quality | BLOCKING | PASSED | Dice WT > 0.80 | Dice WT = 0.8765, cases = 12 |" in report
    assert "| TEST_2.6 | Heads | DIAGNOSTIC | FAILED | R2 > 0 | R2 = nan |" in report
    assert report.partition("## What to do")[2].split("\n\n")[1] == "- **TEST_2.6** (DIAGNOSTIC): Look at the features.\n"


def test_a_report_without_failures_advises_nothing():
    assert "What to do" not in as_markdown([check(advice="Not needed.")])
