"""The probe's checks, from figures."""

import math

import pytest

from medexp.checks import Severity
from medexp.evaluation.intervals import Interval
from medexp.phases import phase
from medexp.phases.probe.checks import attribution, better_than_majority, in_words

NAN = math.nan


@pytest.mark.parametrize(
    ("low", "high", "passed", "words"),
    [
        (0.1, 0.3, True, "does better than the unadapted encoder"),
        (-0.1, 0.3, False, "adds nothing that could be measured in balanced accuracy over the unadapted encoder"),
        (0.0, 0.3, False, "adds nothing that could be measured"),
        (-0.3, -0.1, False, "does worse than the unadapted encoder"),
        (NAN, NAN, False, "Too few patients"),
    ],
)
def test_what_the_interval_says_is_said_plainly(low: float, high: float, passed: bool, words: str) -> None:
    gain = Interval(0.2, low, high, 20)
    check = attribution(gain, "")
    assert check.passed is passed and check.severity is Severity.DIAGNOSTIC
    assert "+0.200" in check.advice, "a difference, with its sign"
    assert words in check.advice == in_words(gain, "the unadapted encoder")
    assert better_than_majority(gain).passed is passed
    assert better_than_majority(gain).severity is Severity.DIAGNOSTIC
    assert {check.id, better_than_majority(gain).id} <= set(phase("probe").checks)


def test_a_missing_unadapted_encoder_is_named() -> None:
    check = attribution(None, "No row for the unadapted encoder, x.pt, which is not registered.")
    assert not check.passed and not check.blocks and "x.pt" in check.advice
