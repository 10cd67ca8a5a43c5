"""Checks of a phase and the verdict that follows from them. Pure: nothing here reads, writes or logs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from rich.text import Text

from medexp.markdown import as_markdown as table

VERDICT, DIAGNOSTICS = "medexp.verdict", "medexp.failed_diagnostics"
"""Tags of runs and versions: PASSED or FAILED, which programs read; and the diagnostics that failed, or `none`."""
CHECKS = "medexp.checks"
"""Tag of runs: each check by what it came to (`listed`)."""


class Severity(StrEnum):
    """BLOCKING: its failure stops promotion and fails the run. DIAGNOSTIC: it informs.

    Where a phase's requirements say CRITICAL and INFORMATIONAL, they are these two.
    """

    BLOCKING = "BLOCKING"
    DIAGNOSTIC = "DIAGNOSTIC"


@dataclass(frozen=True)
class Check:
    """One verification with what it demanded and what was measured.

    Attributes:
        id: Its id in docs/requirements/, such as `TEST_2.5`, or one of medexp's own.
        title: What is checked, in a few words.
        severity: What a failure does.
        passed: Whether every demand held. A demand on NaN does not hold.
        threshold: The demand in words, such as `Dice WT > 0.80`.
        measured: Each figure that the demand was held against.
        advice: What to do when it failed.
    """

    id: str
    title: str
    severity: Severity
    passed: bool
    threshold: str
    measured: Mapping[str, float | int | str | bool | None] = field(default_factory=dict)
    advice: str = ""

    @property
    def blocks(self) -> bool:
        return self.severity is Severity.BLOCKING and not self.passed

    @property
    def outcome(self) -> str:
        return "PASSED" if self.passed else "FAILED"

    @property
    def found(self) -> str:
        """What was measured, in one line."""
        return ", ".join(f"{key} = {_in_digits(value, 4)}" for key, value in self.measured.items())


def verdict(checks: Sequence[Check]) -> str:
    """`PASSED` when no BLOCKING check failed, else `FAILED`. No check at all is a failure."""
    return "FAILED" if not checks or any(check.blocks for check in checks) else "PASSED"


def failed_diagnostics(checks: Sequence[Check]) -> str:
    """The DIAGNOSTIC checks that failed, by id; `none` where none did."""
    return ", ".join(check.id for check in checks if not check.passed and not check.blocks) or "none"


def listed(checks: Sequence[Check]) -> str:
    """Each check by what it came to, such as `failed TEST_2.5; passed TEST_2.1, TEST_2.2`."""
    by_outcome = {"failed": [one.id for one in checks if not one.passed], "passed": [one.id for one in checks if one.passed]}
    return "; ".join(f"{outcome} {', '.join(ids)}" for outcome, ids in by_outcome.items() if ids)


def from_list(text: str) -> dict[str, bool]:
    """Whether each check passed, from what `listed` made of them."""
    parts = [part.partition(" ") for part in text.split("; ") if part]
    return {check: outcome == "passed" for outcome, _, ids in parts for check in ids.split(", ")}


def told(outcome: str | None, failed: str | None) -> str | None:
    """A verdict for a reader: never alone where a diagnostic failed. None: nobody judged it.

    Args:
        outcome: As of `verdict`.
        failed: As of `failed_diagnostics`; None: not known.
    """
    if outcome is None or failed == "none":
        return outcome
    return f"{outcome} ({f'diagnostics that failed: {failed}' if failed else 'of its diagnostics nothing is known'})"


def as_records(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks as `checks.json` holds them; NaN and infinities become strings, which JSON can carry."""
    return [asdict(check) | {"measured": {k: _plain(v) for k, v in check.measured.items()}} for check in checks]


def from_records(records: Iterable[Mapping[str, Any]]) -> list[Check]:
    """Checks as `checks.json` holds them."""
    return [Check(**{**record, "severity": Severity(record["severity"])}) for record in records]


def as_markdown(checks: Sequence[Check], *, so_far: bool = False) -> str:
    """The verification report: a table of all checks, then what to do about those that failed; without a verdict where others
    are still to be made."""
    rows = [(one.id, one.title, one.severity, one.outcome, one.threshold, one.found) for one in checks]
    failed = [check for check in checks if not check.passed]
    advice = "\n".join(f"- **{check.id}** ({check.severity}): {check.advice}" for check in failed if check.advice)
    judged = "none yet, these are the checks so far" if so_far else f"**{told(verdict(checks), failed_diagnostics(checks))}**"
    report = f"# Verification report\n\nVerdict: {judged}\n\n"
    report += table(("check", "what", "severity", "outcome", "demand", "measured"), rows) + "\n"
    return report + (f"\n## What to do\n\n{advice}\n" if advice else "")


def as_lines(checks: Sequence[Check]) -> list[Text]:
    """A line a check for the terminal, the outcome coloured."""
    colours = {(True, False): "green", (False, False): "yellow", (False, True): "red"}
    return [Text.assemble((one.outcome, colours[one.passed, one.blocks]), f" {in_a_line(one)}") for one in checks]


def in_a_line(check: Check) -> str:
    """What a check measured, without its outcome."""
    measured = ", ".join(f"{name} {_in_digits(value, 3)}" for name, value in check.measured.items())
    return f"{check.id} {check.title} ({check.severity.lower()}): {measured}"


def _in_digits(value: float | int | str | bool | None, digits: int) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _plain(value: float | int | str | bool | None) -> float | int | str | bool | None:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
