"""The checks of predict, and what a failed one makes of the scores."""

from dataclasses import replace

import pandas as pd

from medexp.checks import Check, Severity
from medexp.phases.predict.work import Done, Work
from medexp.registry.leaks import leak_check


def all_predicted(work: Work, done: Done) -> Check:
    """PREDICT_CASES: every case was predicted."""
    return Check(
        "PREDICT_CASES",
        "Every case was predicted",
        Severity.BLOCKING,
        not done.problems,
        "none failed",
        {"predicted": len(done.records), "failed": len(done.problems), "before": done.before},
        f"{work.folder / 'errors.csv'} says why each failed; mend them, and the same command again predicts these alone.",
    )


def leaks(work: Work, done: Done, evaluate: bool) -> list[Check]:
    """LEAK, where cases are scored: the model has not seen them. It blocks what would be written to the version."""
    if not done.scored or work.predictor.pulled is None:
        return []
    check = leak_check(work.predictor.pulled, pd.DataFrame([record["identity"] for record in done.scored]))
    return [check if evaluate else replace(check, severity=Severity.DIAGNOSTIC)]


def in_words(leak: Check) -> str:
    """What a failed LEAK makes of the scores."""
    patients = f"{leak.measured['leaked_patients']} of {leak.measured['patients']} patients"
    return f"{patients} are not new to the model, or to what it was made from: the scores are no external validation."
