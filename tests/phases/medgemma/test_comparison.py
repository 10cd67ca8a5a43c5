"""What the comparison says of answers that are given here: planted leaks, whether the image counts, wordings, replies."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medexp.checks import Check
from medexp.config.shared import Resampling
from medexp.data.scenarios.prepared import PreparedScenarios, prepare_scenarios
from medexp.evaluation.classification import Predictions
from medexp.phases.medgemma import PHASE
from medexp.phases.medgemma.arms import arms
from medexp.phases.medgemma.comparison import Compared, compare, shares_of
from medexp.phases.medgemma.report import words_of
from medexp.phases.shared.context import context
from medexp.reporting import NullReporter
from medexp.tracking.runs import TrackedRun
from tests.configured import configured
from tests.data.scenarios.small_scenarios import picture, write_lines
from tests.phases.medgemma.small import SMALL, scenarios

Doctor = Callable[[dict[str, Any], bool], dict[str, Any]]
"""From a line and whether it is CORRECT to what changes; `size` is that of its picture, `dimmed` what its values are times."""


def nothing(line: dict[str, Any], right: bool) -> dict[str, Any]:
    return {}


def in_words(line: dict[str, Any], right: bool) -> dict[str, Any]:
    return {"input": f"{line['input']} {'Suitable' if right else 'Overtreatment'}."}


def in_names(line: dict[str, Any], right: bool) -> dict[str, Any]:
    return {"image_file": f"{line['id']}_{'none' if right else 'overtreatment'}.png"}


def in_sizes(line: dict[str, Any], right: bool) -> dict[str, Any]:
    return {"size": (64, 40) if right else (48, 40)}


def in_brightness(line: dict[str, Any], right: bool) -> dict[str, Any]:
    return {"dimmed": 1.0 if right else 0.6}


@dataclass(frozen=True)
class Found:
    """What a comparison came to."""

    compared: Compared
    words: list[str]

    def check(self, name: str) -> Check:
        (found,) = (check for check in self.compared.checks if check.id == name)
        return found


def found_in(folder: Path, doctor: Doctor, levels: dict[str, float], train: int = 60, val: int = 60) -> Found:
    """The comparison of answers of which an arm has a share right (`levels`; all of them where it is not named)."""
    data = doctored(folder, doctor, train, val)
    config = configured("medgemma", SMALL, cache_dir=folder / "cache")
    rows, told = data.rows("val"), []
    for place, arm in enumerate(arms(config)):
        right = np.zeros(len(rows), bool)
        right[np.random.default_rng(place).permutation(len(rows))[: round(levels.get(arm.name, 1.0) * len(rows))]] = True
        said = np.where(right, rows["label"], 1 - rows["label"])
        sure = 0.6 + 0.3 * np.random.default_rng(place).random(len(rows))
        table = pd.DataFrame({"case": rows["case"], "arm": arm.name, "images": 0 if arm.name == "blind" else 1})
        told.append(table.assign(said=said))
        told[-1][[0, 1]] = np.stack([np.where(said == one, sure, 1 - sure) for one in (0, 1)], axis=1)
    with context(PHASE, config, TrackedRun("", folder, NullReporter())) as ctx:
        compared = compare(ctx, data, {"val": pd.concat(told, ignore_index=True)}, "validation")
    return Found(compared, words_of(compared))


def doctored(folder: Path, doctor: Doctor, train: int, val: int) -> PreparedScenarios:
    (folder / "images").mkdir(parents=True)
    made = scenarios(train + val)
    for number, line in enumerate(made):
        changed = {"size": (48, 40)} | doctor(line, line["output"].startswith("CORRECT"))
        size, dimmed = changed.pop("size"), changed.pop("dimmed", 1.0)
        line.update(changed)
        picture(number, size).point(lambda value, by=dimmed: int(value * by)).save(folder / "images" / line["image_file"])
    write_lines(folder / "train.jsonl", made[:train])
    write_lines(folder / "val.jsonl", made[train:])
    return prepare_scenarios([folder / "train.jsonl", folder / "val.jsonl"], folder / "images", cache=folder / "cache")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """No leak, and an adapter that needs its image."""
    levels = {"base": 0.5, "blind": 0.5, "other_image": 0.5, "paraphrase_1": 0.9, "error_first": 0.8}
    return found_in(tmp_path_factory.mktemp("clean"), nothing, levels)


@pytest.fixture(scope="module")
def told_by_words(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A word of the prompt gives the answer away, and whoever is asked goes by it, whatever the image."""
    return found_in(tmp_path_factory.mktemp("words"), in_words, {})


# ------------------------------------------------------------------------------------------------------------ planted leaks


def test_without_a_leak_shortcut_passes_and_names_nothing(clean: Found) -> None:
    check = clean.check("SHORTCUT")
    assert check.passed and not check.advice
    assert {check.measured[name] for name in ("found", "names_found", "words_found")} == {"the model is better"}
    assert clean.compared.beside.first == [] and clean.check("CONTROLS").passed


def leaks(found: Found, name: str, called: str, fields: set[str]) -> None:
    """SHORTCUT fails by this control alone, and names it and what told most, before any figure."""
    check, others = found.check("SHORTCUT"), {"headers", "names", "words"} - {name}
    prefix = {"headers": ""}
    said = {one: check.measured[f"{prefix.get(one, f'{one}_')}found"] for one in ("headers", "names", "words")}
    assert not check.passed and said[name] == "they are as good", said
    assert {said[other] for other in others} == {"the model is better"}
    named = set(str(check.measured[f"{prefix.get(name, f'{name}_')}fields"]).split(", "))
    assert named and named <= fields, named
    for told in (check.advice, found.compared.beside.first[0]):
        assert told.startswith(f"{called} ({', '.join(found.compared.beside.controls[name].fields)}) are as good: AUROC 1.00")


def test_the_answers_word_in_the_prompt_is_named(told_by_words: Found) -> None:
    leaks(told_by_words, "words", "The words of the prompts alone", {'"suitable"', '"overtreatment"'})
    assert told_by_words.compared.answered.shares["words"]["all"]["accuracy"].estimate == 1


def test_the_kind_of_error_in_the_name_of_a_file_is_named(tmp_path: Path) -> None:
    found = found_in(tmp_path, in_names, {"base": 0.5})
    leaks(found, "names", "The names of the image files alone", {'"none"', '"overtreatment"'})


def test_images_that_tell_the_class_by_their_size_are_named(tmp_path: Path) -> None:
    found = found_in(tmp_path, in_sizes, {"base": 0.5})
    leaks(found, "headers", "The files' headers alone", {"width", "aspect", "file size"})


def test_images_that_tell_the_class_by_their_brightness_are_named(tmp_path: Path) -> None:
    found = found_in(tmp_path, in_brightness, {"base": 0.5})
    check = found.check("CONTROLS")
    assert not check.passed and check.measured["not_beaten"] == "intensity"
    assert any("statistics of intensities" in told for told in found.compared.beside.first)


# ------------------------------------------------------------------------------------------------- what is said of the arms


def test_an_adapter_that_is_better_and_looks_is_said_to_be_and_to(clean: Found) -> None:
    base, other, blind, constant, rule, wording, swapped, *replies = clean.words
    assert base.startswith("Better than the base without the adapter in accuracy (exact McNemar test: p = ")
    assert clean.compared.chance < 1e-6 and clean.check("MEDGEMMA-BASE").passed
    assert other.startswith("The image counts: with another scenario's image accuracy falls: +0.5")
    assert clean.check("MEDGEMMA-IMAGE-USED").passed
    assert blind.startswith("Without any image accuracy falls: +0.5")
    assert constant.startswith("Better than always giving the same answer in accuracy: +0.4")
    assert rule.startswith("The keyword rule says CORRECT to all")
    assert "accuracy goes from 0.90 to 0.90; up to 10% of the answers change" in wording
    assert swapped == "With ERROR named first 20% of the answers change (accuracy 0.80)."
    assert replies == [
        "The adapter's own replies: 1.00 right; 0% give both answers or neither, and count as wrong.",
        "The base's own replies: 0.50 right; 0% give both answers or neither, and count as wrong.",
    ]
    assert clean.check("MEDGEMMA-ACCURACY").passed and "n=" in str(clean.check("MEDGEMMA-POSITIVE").measured["found"])


def test_one_that_is_no_better_and_goes_by_words_is_said_to(told_by_words: Found) -> None:
    base, other, blind, *_ = told_by_words.words
    assert base.startswith("No better than the base in accuracy, as far as can be measured (exact McNemar test: p = 1)")
    assert other.startswith("Whether the image counts cannot be seen: what another scenario's image changes in accuracy")
    assert blind.startswith("Without any image accuracy is as good, as far as can be measured")
    for name in ("MEDGEMMA-BASE", "MEDGEMMA-IMAGE-USED", "CONTROLS"):
        assert not told_by_words.check(name).passed, name


def test_one_that_is_worse_and_too_few_scenarios_are_said_to_be(tmp_path: Path) -> None:
    worse = found_in(tmp_path / "worse", nothing, {"adapter": 0.5, "other_image": 0.75, "blind": 0.95})
    base, _, blind, *_ = worse.words
    assert base.startswith("Worse than the base without the adapter in accuracy")
    assert blind.startswith("Without any image accuracy rises")
    few = found_in(tmp_path / "few", nothing, {"base": 0.5, "other_image": 0.5, "blind": 0.5}, 20, 5)
    base, other, blind, *_ = few.words
    assert base.startswith("Too few scenarios to tell the adapter from the base in accuracy (exact McNemar test: p = 0.25)")
    assert other.startswith("Too few scenarios to tell whether the image counts")
    assert blind.startswith("Too few scenarios to tell what the text alone gives")
    check = few.check("MEDGEMMA-ACCURACY")
    assert check.measured["estimate"] == 1 and check.measured["found"] == "not shown with n=5" and not check.passed


# -------------------------------------------------------------------------------------------------------------------- shares


def test_shares_are_of_their_own_answers_and_families_count_once() -> None:
    truth = np.array([1] * 6 + [0] * 4)
    said = np.array([1, 1, 1, 1, 1, 0, 0, 0, 1, 1])
    found = shares_of(Predictions(truth, np.eye(2)[said]), [str(one) for one in range(10)], Resampling(100, 0.95, 0))
    assert {name: one.estimate for name, one in found.items()} == pytest.approx(
        {"accuracy": 0.7, "true_positive": 5 / 6, "true_negative": 0.5}
    )
    assert found["true_positive"].low == pytest.approx(0.3588, abs=1e-4)  # Clopper and Pearson, 5 of 6
    alike = shares_of(Predictions(truth, np.eye(2)[truth]), ["a"] * 5 + ["b"] * 5, Resampling(100, 0.95, 0))
    apart = shares_of(Predictions(truth, np.eye(2)[truth]), [str(one) for one in range(10)], Resampling(100, 0.95, 0))
    assert apart["accuracy"].low == pytest.approx(0.025 ** (1 / 10))
    assert alike["accuracy"].low == pytest.approx(0.025 ** (1 / 2))
