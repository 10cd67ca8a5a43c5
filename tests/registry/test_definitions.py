from pathlib import Path

import pytest
import yaml

from medexp.checks import Check, Severity
from medexp.errors import RegistryError
from medexp.registry.card import model_card
from medexp.registry.definitions import known_models, load_definition, read_definition

GOOD = {
    "title": "a title",
    "task": "a task",
    "intended_use": "research",
    "producing_phase": "phase1",
    "consumers": [],
    "required_checks": ["TEST_2.1"],
    "input": "volumes",
    "output": "features",
}


@pytest.mark.parametrize("name", known_models())
def test_shipped_definitions_are_whole(name: str) -> None:
    definition = load_definition(name)
    assert definition.name == name
    assert definition.title


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RegistryError, match=r"'phase9'.*bsf_base, phase1_encoder_merged, phase1_lora_adapter"):
        load_definition("phase9")


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"titel": "x"}, ["unknown key titel", "Known keys are title, task"]),
        ({"title": None}, ["title: found None; a text"]),
        (
            {"required_checks": "TEST_2.1", "consumers": [1]},
            ["required_checks: found 'TEST_2.1'; a list", "consumers: found [1]; a list"],
        ),
    ],
)
def test_all_that_is_wrong_with_a_definition_is_named(tmp_path: Path, change: dict[str, object], problems: list[str]) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(RegistryError) as caught:
        read_definition(path)
    assert all(problem in str(caught.value) for problem in [*problems, str(path)])


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "title: [", "title: a\n"])
def test_a_file_that_is_no_definition_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(RegistryError, match=r"model\.yaml"):
        read_definition(path)


def test_a_card_says_what_is_known_and_what_is_not() -> None:
    card = model_card(
        load_definition("phase1_encoder_merged"),
        {"kind": "swin_encoder", "feature_size": 12},
        {"channels": ["t2f", "t1c"], "spacing_mm": [1.0, 1.0, 1.5]},
        {"base": {"name": "bsf_base", "version": None, "digest": "abc"}},
        [Check("TEST_2.5", "quality", Severity.BLOCKING, False, "Dice WT > 0.80", {"dice_WT": 0.5}, "train longer")],
        {"val/dice_WT": 0.512345},
        {"data": "phantoms", "license": None},
    )
    for line in (
        "# phase1_encoder_merged: SwinUNETR encoder adapted to meningioma",
        "| channels | t2f, t1c |",
        "| version | unknown |",
        "| license | unknown |",
        "| val/dice_WT | 0.5123 |",
        "Verdict: **FAILED**",
        "- **TEST_2.5** (BLOCKING): train longer",
    ):
        assert line in card.splitlines(), line


def test_a_card_of_a_model_of_which_nothing_is_known_says_so() -> None:
    card = model_card(load_definition("bsf_base"), {}, {}, {}, [], {}, {})
    assert card.count("\nunknown\n") == 4
