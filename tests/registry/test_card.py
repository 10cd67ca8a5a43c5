"""The card: what is known in its place, what is not said to be unknown, and short enough for every store."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medexp.checks import Check, Severity
from medexp.registry.card import ITEMS, NOT_APPLICABLE, as_description, model_card
from medexp.registry.definitions import load_definition
from medexp.registry.package import Learned, Package, Parent
from tests.packages import EVALUATION, scores

NAME = "phase1_encoder_merged"
EMPTY = Package("bsf_base", {}, {}, {})


def card_of(package: Package) -> str:
    return model_card(load_definition(package.name), package)


def item(card: str, number: int) -> str:
    """What the table says of an item."""
    (row,) = (line for line in card.splitlines() if line.startswith(f"| {number} | "))
    return row.split(" | ", 2)[2].removesuffix(" |")


def cases(**splits: str) -> pd.DataFrame:
    rows = [(split, name, f"v{place}") for split, names in splits.items() for place, name in enumerate(names.split())]
    return pd.DataFrame(rows, columns=["split", "patient_sha256", "voxels_sha256"]).assign(
        voxels_sha256=[f"v{place}" for place in range(len(rows))]
    )


@pytest.fixture
def full(package: Callable[..., Package]) -> Callable[..., Package]:
    """A package of which everything is known that phase 1 knows; any attribute can be given."""

    def make(**changed: Any) -> Package:
        content: dict[str, Any] = {
            "parents": {"base": Parent("bsf_base", "3", "d", "w"), "adapter": Parent("phase1_lora_adapter", "2", "e", "x")},
            "cases": cases(train="a a b", val="c", test="d"),
            "learned": Learned("slices of a hospital", "dd"),
            "facts": {"run": "r1", "license": None, "Training": "2 epochs"},
            "figures": {"validation Dice WT": 0.512345},
        }
        return package(**{**content, **changed})

    return make


def test_every_item_of_the_checklist_has_its_place_once() -> None:
    assert sorted([*ITEMS, *NOT_APPLICABLE]) == list(range(1, 45))
    card = card_of(EMPTY)
    rows = [line.split(" | ")[0] for line in card.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert rows == [f"| {number}" for number in ITEMS]
    assert f"34 ({NOT_APPLICABLE[34]})" in card
    assert "Tejani" in card


def test_what_is_known_stands_in_its_item(full: Callable[..., Package]) -> None:
    card = card_of(full())
    for number, told in {
        1: "deep learning: swin_encoder",
        3: "see Intended use",
        7: "slices of a hospital, digest of all splits dd",
        9: "resampled to 1, 1, 1 mm; zero mean and unit variance",
        20: "patient: no patient and no scan is in two partitions",
        22: "see Architecture; 2",
        24: "of bsf_base version 3",
        25: "2 epochs",
        28: "dice_TC, dice_WT, dice_ET",
        29: "95% interval",
        32: "12 cases of 12 patients, split val, digest d1",
        35: "train: 3 cases of 2 patients; val: 1 cases of 1 patients; test: 1 cases of 1 patients; excluded: unknown",
        37: "mean dice_TC 0.8",
        38: "95% intervals of the means, bootstrap by patient: dice_TC 0.7",
        39: "worst mean of dice_TC, dice_WT, dice_ET: p",
        40: "see Limitations",
        42: "config.yaml and verification_report.md of run r1",
        43: "license: unknown",
    }.items():
        assert told in item(card, number), (number, item(card, number))
    for number in (10, 11, 13, 14, 15, 16, 17, 18, 21, 30, 31, 33, 36, 44):
        assert item(card, number) == "unknown"


def test_sections_hold_the_rest(full: Callable[..., Package]) -> None:
    failed = Check("TEST_2.5", "quality", Severity.BLOCKING, False, "Dice WT > 0.80", {"dice_WT": 0.5}, "train longer")
    lines = card_of(full(checks=[failed])).splitlines()
    for line in (
        f"# {NAME}: SwinUNETR encoder adapted to meningioma",
        "| channels | t2f, t1c, t1n, t2w |",
        "| license | unknown |",
        "| run | r1 |",
        "| validation Dice WT | 0.5123 |",
        "## Verification report",
        "Verdict: **FAILED**",
        "- **TEST_2.5** (BLOCKING): train longer",
        "- Checks that it did not pass: TEST_2.5 (quality).",
    ):
        assert line in lines, line
    assert "| Training | 2 epochs |" not in lines  # that is item 25


def test_numbers_are_those_of_the_cases(full: Callable[..., Package]) -> None:
    per_case = scores().assign(dice_TC=np.linspace(0.1, 0.9, 12), dice_WT=0.5, dice_ET=0.5)
    card = card_of(full(per_case=per_case))
    assert "mean dice_TC 0.500" in item(card, 37)
    assert item(card, 39).startswith("worst mean of dice_TC, dice_WT, dice_ET: p0-0 (0.367), p1-0")
    low, high = map(float, item(card, 38).partition("dice_TC ")[2].split(";")[0].split(" to "))
    assert 0.1 < low < 0.5 < high < 0.9
    assert "dice_TC no interval, 3 patients are too few" in item(card_of(full(per_case=per_case.head(3))), 38)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "It was judged on cases of the data that it was made on, and on none from elsewhere."),
        ({"evaluation": EVALUATION | {"selected": True}}, "Its epoch was chosen on the val split, on which it was judged"),
        ({"name": "phase1_lora_adapter"}, "\n\n- It lacks the decoder that was trained with it."),
        ({"cases": None}, "What it was trained on is not known"),
        ({"parents": {"base": Parent("w.pt", None, None, "w")}}, "It was made from w.pt, which is not registered"),
        ({"facts": {"Limitations": "Made on phantoms."}}, "- Made on phantoms."),
    ],
)
def test_limitations_are_told_in_plain_words(full: Callable[..., Package], changed: dict[str, Any], told: str) -> None:
    section = card_of(full(**changed)).partition("## Limitations")[2].partition("## ")[0]
    assert told in section


def test_nothing_is_said_of_a_choice_that_was_not_made(full: Callable[..., Package]) -> None:
    assert "chosen on" not in card_of(full(evaluation=EVALUATION | {"selected": False}))


def test_partitions_that_are_not_apart_are_not_said_to_be(full: Callable[..., Package]) -> None:
    assert item(card_of(full(cases=cases(train="a b", test="a"))), 20).startswith("not apart: 1 patients and 0 scans")


def test_a_model_of_which_nothing_is_known_says_so() -> None:
    card = card_of(EMPTY)
    for title in ("Architecture", "Made from", "Measured", "Input and output"):
        assert f"## {title}\n\nunknown" in card
    assert item(card, 35) == item(card, 38) == item(card, 42) == "unknown"


def test_what_would_break_the_table_does_not(full: Callable[..., Package]) -> None:
    card = card_of(full(learned=Learned("a|b\nc", "d")))
    assert item(card, 7) == r"a\|b c, digest of all splits d"


@pytest.mark.parametrize("phantoms", [True, False])
def test_a_card_says_whether_a_model_was_made_on_phantoms(full: Callable[..., Package], phantoms: bool) -> None:
    card = card_of(full(learned=Learned("slices", "d", phantoms)))
    told = "Made on phantoms: it says nothing about patients."
    assert card.count(told) == 2 * phantoms
    assert (f"## Measured\n\n{told}\n\n" in card) == phantoms, "before the figures, and among the limitations"
    assert (item(card, 11) == "unknown") != phantoms


@pytest.mark.parametrize("checks", [6, 40])
def test_a_description_fits_every_store_and_has_what_a_user_needs_first(full: Callable[..., Package], checks: int) -> None:
    one = Check("TEST_2.5", "quality", Severity.BLOCKING, True, "Dice WT > 0.80 " * 10, {}, "")
    card = card_of(full(checks=[one] * checks))
    short = as_description(card)
    assert len(card) > 5000 >= len(short)
    assert short.startswith(f"# {NAME}: ")
    titles = re.findall("^## (.*)$", short, flags=re.MULTILINE)
    assert titles[:4] == ["Made from", "Measured", "Limitations", "Intended use"] and "Input and output" in titles
    assert "| validation Dice WT | 0.5123 |" in short and "95% intervals of the means" in short and "Verdict: **" in short
    assert "CLAIM" not in titles and short.endswith("The whole card, with CLAIM's checklist, is README.md in the package.\n")
    linked = as_description(card, "Made by run [phase1](#/experiments/1/runs/r1).")
    assert "\n\nMade by run [phase1](#/experiments/1/runs/r1).\n\n## Measured" in linked and "## Made from" not in linked


def test_a_sentence_stands_below_the_figures_and_takes_no_width_from_their_names(full: Callable[..., Package]) -> None:
    sentence = "Nothing that could be measured over <the base>. " * 3
    measured = (
        card_of(full(figures={"what it added": sentence, "Dice": 0.5})).partition("## Measured\n\n")[2].partition("\n## ")[0]
    )
    assert "| Dice | 0.5 |\n\n**What it added**: Nothing that could be measured over &lt;the base>. " in measured
    assert "| what it added" not in measured
    alone = card_of(full(figures={"what it added": sentence})).partition("## Measured\n\n")[2]
    assert alone.startswith("**What it added**")


def test_a_card_of_one_long_text_is_cut() -> None:
    assert as_description("# short\n").startswith("# short\n")
    assert len(as_description("word\n" * 3000)) <= 5000
