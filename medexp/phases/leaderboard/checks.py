"""The check of leaderboard."""

from collections.abc import Sequence

from medexp.checks import Check, Severity
from medexp.phases.leaderboard.runs import Given


def same_data(given: Sequence[Given]) -> Check:
    """LEADERBOARD-DATA: all runs say on what data they were judged, and that is one; others were refused."""
    digests = {one.digest for one in given}
    return Check(
        "LEADERBOARD-DATA",
        "Judged on the same data",
        Severity.BLOCKING,
        passed=len(digests) == 1 and "" not in digests,
        threshold="one data digest, which every run has",
        measured={"runs": len(given), "digests": ", ".join(sorted(digest or "none" for digest in digests))},
        advice="Give runs of phases that log their data.",
    )
