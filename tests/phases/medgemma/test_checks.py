"""Checks of medgemma, each where what it demands is there, and where it is not."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from medexp.checks import Check, Severity
from medexp.evaluation.intervals import Interval
from medexp.evaluation.proportions import proportion
from medexp.phases.medgemma import checks

NO_PAIRS = pd.DataFrame(columns=["case", "other", "how"])
PAIRS = pd.DataFrame({"case": ["a", "b"], "other": ["c", "d"], "how": ["twin", "text"]})
ABOVE, HOLDS_0, NONE = Interval(0.2, 0.1, 0.3, 60), Interval(0.2, -0.1, 0.5, 60), Interval(0.2, np.nan, np.nan, 4)


def losses(*values: float, begun: float = 3.0) -> pd.DataFrame:
    return pd.DataFrame({"train/loss": values, "train/begun": begun})


GOOD: dict[str, list[Check]] = {
    "data": [checks.data(24, 0, NO_PAIRS)],
    "parameters": [checks.parameters(448, 448, [])],
    "images": [
        checks.images({"adapter": (1, 1), "other_image": (1, 1), "blind": (0, 0)}, 48),
        checks.images({"a": (1, 1)}, 1),
    ],
    "frozen": [checks.frozen([], 58)],
    "loss": [checks.loss(losses(2.0, 2.5, 1.9)), checks.loss(losses(2.0))],
    "merge": [
        checks.merge(1e-6, 1e-5, ()),
        checks.merge(1e-6, 0.1, (), half=True),
        checks.merge(0.0, None, (), quantize="8bit"),
    ],
    "modalities": [checks.modalities("shown", Interval(0.01, -0.02, 0.04, 900), ("mri", "xray"), 0.05, 900)],
    "better_than_base": [checks.better_than_base(ABOVE, 0.001, 60)],
    "image_used": [checks.image_used(ABOVE, HOLDS_0)],
}
BAD: dict[str, list[Check]] = {
    "data": [checks.data(24, 1, NO_PAIRS), checks.data(24, 0, PAIRS)],
    "parameters": [checks.parameters(447, 448, []), checks.parameters(448, 448, ["vision_tower.q_proj"])],
    "images": [
        checks.images({}, 0),
        checks.images({"adapter": (0, 1), "blind": (0, 0)}, 48),
        checks.images({"adapter": (1, 2), "blind": (0, 0)}, 48),
        checks.images({"adapter": (1, 1), "blind": (0, 1)}, 48),
    ],
    "frozen": [checks.frozen(["model.vision_tower.weight"], 58), checks.frozen([], 0)],
    "loss": [
        checks.loss(losses(2.0, 2.0)),
        checks.loss(losses(2.0, 1.0, 2.1)),
        checks.loss(losses(2.0, np.nan)),
        checks.loss(losses(9.0, 4.0)),
    ],
    "merge": [
        checks.merge(0.1, 1e-5, ()),
        checks.merge(1e-6, 0.1, ()),
        checks.merge(1e-6, 1e-5, ["lm_head.weight"]),
        checks.merge(1e-6, 0.7, (), half=True),
        checks.merge(0.1, None, (), quantize="4bit"),
        checks.merge(np.nan, 1e-5, ()),
    ],
    "modalities": [checks.modalities(f"cannot be told with n={8}", HOLDS_0, ("mri", "xray"), 0.05, 8)],
    "better_than_base": [checks.better_than_base(one, 0.25, 24) for one in (HOLDS_0, NONE)],
    "image_used": [checks.image_used(HOLDS_0, ABOVE), checks.image_used(NONE, ABOVE)],
}
BLOCKING = {"parameters", "images", "frozen", "loss", "merge"}


@pytest.mark.parametrize("name", GOOD)
def test_it_passes_where_what_it_demands_is_there_and_fails_where_not(name: str) -> None:
    assert all(check.passed for check in GOOD[name]) and not any(check.passed for check in BAD[name])
    for check in GOOD[name] + BAD[name]:
        assert check.severity is (Severity.BLOCKING if name in BLOCKING else Severity.DIAGNOSTIC)
    assert all(check.advice for check in BAD[name])


def test_a_failed_check_names_what_is_wrong() -> None:
    def measured(check: Check) -> dict[str, Any]:
        return dict(check.measured)

    assert measured(BAD["data"][1])["how"] == "text, twin"
    assert measured(BAD["images"][2])["wrong_arms"] == "adapter" and measured(BAD["images"][2])["images_adapter"] == "1 to 2"
    assert measured(BAD["images"][3])["wrong_arms"] == "blind"
    assert measured(BAD["frozen"][0])["such_as"] == "model.vision_tower.weight"
    assert measured(BAD["merge"][2])["wrong_tensors"] == "lm_head.weight"
    assert measured(BAD["parameters"][1])["elsewhere"] == "vision_tower.q_proj"


@pytest.mark.parametrize(
    ("right", "of", "target", "found", "advice"),
    [
        (8, 8, 0.9, "not shown with n=8", "Judge more scenarios: 8 cannot show it."),
        (22, 24, 0.9, "not shown with n=24", "Judge more scenarios: 24 cannot show it."),
        (19, 24, 0.9, "not shown with n=24", "More scenarios to learn from"),
        (36, 36, 0.9, "reached", ""),
        (35, 35, 0.9, "not shown with n=35", "Judge more scenarios"),
        (12, 24, 0.9, "not reached", "More epochs"),
    ],
)
def test_a_target_is_reached_when_the_lower_end_of_the_interval_is_there(
    right: int, of: int, target: float, found: str, advice: str
) -> None:
    """36 of 36 has a lower end of 0.025^(1/36) = 90.3 %, 35 of 35 one of 89.99 %."""
    share = proportion([1] * right + [0] * (of - right), [str(one) for one in range(of)], 0.95)
    check = checks.reached("MEDGEMMA-ACCURACY", "accuracy", share, target, of)
    assert (check.passed, check.measured["found"]) == (found == "reached", found)
    assert check.passed or check.advice.startswith(advice)
    assert check.severity is Severity.DIAGNOSTIC and "90%" in check.title


def test_a_share_of_nothing_is_not_reached() -> None:
    check = checks.reached("MEDGEMMA-POSITIVE", "CORRECT said CORRECT", proportion([], [], 0.95), 0.9, 0)
    assert not check.passed and check.measured["found"] == "not shown with n=0"
