"""Checks: verdict, records and report."""

import json
import math

import pytest

from medexp.checks import Check, Severity, as_markdown, as_records, verdict


def check(severity: Severity = Severity.BLOCKING, passed: bool = True, **rest) -> Check:
    return Check(
        id="TEST_2.5", title="Segmentation quality", severity=severity, passed=passed, threshold="Dice WT > 0.80", **rest
    )


BLOCKING, DIAGNOSTIC = Severity.BLOCKING, Severity.DIAGNOSTIC


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], "FAILED"),  # what nobody checked did not pass
        ([check()], "PASSED"),
        ([check(BLOCKING, passed=False)], "FAILED"),
        ([check(DIAGNOSTIC, passed=False)], "PASSED"),
        ([check(), check(DIAGNOSTIC, passed=False)], "PASSED"),
        ([check(), check(DIAGNOSTIC), check(BLOCKING, passed=False)], "FAILED"),
    ],
)
def test_the_verdict_hangs_on_blocking_checks(checks, expected):
    assert verdict(checks) == expected
    assert f"Verdict: **{expected}**" in as_markdown(checks)


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
