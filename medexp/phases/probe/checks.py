"""The checks of the probe, from the figures that it measures."""

import math

from medexp.checks import Check, Severity
from medexp.evaluation.intervals import Interval


def better_than_majority(gain: Interval) -> Check:
    """PROBE_MAJORITY: the encoder tells the classes apart better than always saying the most frequent one.

    Args:
        gain: Balanced accuracy on the judged cases, minus the majority class's.
    """
    return Check(
        "PROBE_MAJORITY",
        "Better than the majority class",
        Severity.DIAGNOSTIC,
        passed=gain.above,
        threshold="interval above 0 for balanced accuracy minus that of the majority class",
        measured=_figures(gain),
        advice="Nothing on this table could be read from the features: look at labels and splits, or give more patients.",
    )


def attribution(gain: Interval | None, missing: str) -> Check:
    """PROBE_ATTRIBUTION: what adapting the encoder added.

    Args:
        gain: Balanced accuracy on the judged cases, minus the unadapted encoder's, paired; None where that one is missing.
        missing: Why it is missing.
    """
    return Check(
        "PROBE_ATTRIBUTION",
        "What the adaptation added",
        Severity.DIAGNOSTIC,
        passed=gain is not None and gain.above,
        threshold="interval above 0 for balanced accuracy minus that of the unadapted encoder",
        measured=_figures(gain) if gain else {"gain": math.nan},
        advice=in_words(gain, "the unadapted encoder") if gain else missing,
    )


def in_words(gain: Interval, reference: str) -> str:
    """What a paired difference in balanced accuracy says, plainly.

    Args:
        gain: The encoder's minus the reference's.
        reference: What it is compared with, in words.
    """
    return gain.told(
        few=f"Too few patients to tell what the encoder adds over {reference} in balanced accuracy",
        better=f"The encoder does better than {reference} in balanced accuracy",
        worse=f"The encoder does worse than {reference} in balanced accuracy",
        same=f"The encoder adds nothing that could be measured in balanced accuracy over {reference}",
    )


def _figures(gain: Interval) -> dict[str, float | int | str | bool | None]:
    return {"gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high, "patients": gain.patients}
