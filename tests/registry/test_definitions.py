"""Definitions of registered models: those that are shipped hold, and of one that does not all problems are named at once."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp import phases
from medexp.errors import RegistryError
from medexp.registry.definitions import known_models, load_definition, read_definition

GOOD: dict[str, Any] = {
    "title": "a title",
    "task": "a task",
    "intended_use": "research",
    "producing_phase": "phase1",
    "consumers": ["probe"],
    "required_checks": ["TEST_2.1"],
    "input": {
        "shape": ["B", 4, "X", "Y", "Z"],
        "sizes": "multiples of 32",
        "dtype": "float32",
        "channels": ["t2f"],
        "orientation": "RAS",
        "units": "HU",
        "normalisation": "none",
    },
    "output": "features",
    "promotion": {
        "metric": "dice",
        "direction": "maximise",
        "regions": ["WT"],
        "margin": 0.01,
        "confidence": 0.95,
        "min_cases": 10,
        "no_champion": "promote",
    },
}
ABSENT = object()


def changed(**changes: Any) -> dict[str, Any]:
    """GOOD with changes by dotted key, `input__units` for `input.units`; ABSENT takes a key away."""
    content = copy.deepcopy(GOOD)
    for key, value in changes.items():
        block, name = (content[key.partition("__")[0]], key.partition("__")[2]) if "__" in key else (content, key)
        if value is ABSENT:
            del block[name]
        else:
            block[name] = value
    return content


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my_model.yaml"


def refused(path: Path, content: Any) -> str:
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RegistryError) as caught:
        read_definition(path, phases.checks())
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", known_models())
def test_shipped_definitions_hold(name: str) -> None:
    definition = load_definition(name, phases.checks())
    assert definition.name == name
    assert definition.producing_phase in phases.names()
    assert "Not a medical device" in definition.intended_use


def test_a_definition_is_what_its_file_says(path: Path) -> None:
    path.write_text(yaml.safe_dump(GOOD))
    definition = read_definition(path)
    assert (definition.name, definition.consumers, definition.input.shape) == ("my_model", ("probe",), ("B", 4, "X", "Y", "Z"))
    assert definition.promotion is not None
    assert definition.promotion.columns == ("dice_WT",)


def test_a_metric_without_regions_is_a_column_of_its_own(path: Path) -> None:
    path.write_text(yaml.safe_dump(changed(promotion__regions=[], promotion__metric="accuracy")))
    definition = read_definition(path)
    assert definition.promotion is not None
    assert definition.promotion.columns == ("accuracy",)


def test_a_model_that_is_not_compared_has_no_policy(path: Path) -> None:
    path.write_text(yaml.safe_dump(changed(promotion=None)))
    assert read_definition(path).promotion is None


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        RegistryError,
        match=r"'phase9'.*bsf_base, meanflow_base, medgemma_base, medgemma_lora_adapter, oct_classifier, phase1_encoder",
    ):
        load_definition("phase9")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"titel": "x"}, "unknown key titel; known are title, task, intended_use"),
        ({"name": "other"}, "unknown key name; the file's name is the model's"),
        ({"input__unit": "HU"}, "unknown key input.unit; known are shape, sizes, dtype"),
        ({"promotion__margins": 0}, "unknown key promotion.margins; known are metric, direction, regions, margin"),
        ({"promotion__columns": ["a"]}, "unknown key promotion.columns; known are metric"),
        ({7: "x"}, "7: found 7; keys should be strings"),
        *(({key: ABSENT}, f"{key} is missing") for key in GOOD),
        *(({f"input__{key}": ABSENT}, f"input.{key} is missing") for key in GOOD["input"]),
        *(({f"promotion__{key}": ABSENT}, f"promotion.{key} is missing") for key in GOOD["promotion"]),
        ({"title": None}, "title: found None"),
        ({"title": 3}, "title: found 3"),
        ({"consumers": "probe"}, "consumers: found 'probe'"),
        ({"consumers": [1]}, "consumers.0: found 1"),
        ({"required_checks": {"TEST_2.1": True}}, "required_checks: found {'TEST_2.1': True}"),
        ({"input": "volumes"}, "input: found 'volumes'"),
        ({"input": None}, "input: found None"),
        ({"input__shape": "B4XYZ"}, "input.shape: found 'B4XYZ'"),
        ({"input__shape": ["B", 1.5]}, "input.shape.1"),
        ({"input__channels": [1]}, "input.channels.0: found 1"),
        ({"promotion": ["dice"]}, "promotion: found ['dice']"),
        ({"producing_phase": "phase9"}, f"unknown phase 'phase9'; known are {', '.join(phases.names())}"),
        ({"producing_phase": None}, "producing_phase: found None"),
        ({"consumers": ["probe", "phase9"]}, "unknown phase 'phase9'; known are"),
        ({"required_checks": ["TEST_9"]}, "unknown check 'TEST_9'; phase1 has TWINS, REACH, TEST_2.1"),
        ({"required_checks": ["LEAK"]}, "unknown check 'LEAK'; phase1 has"),
        ({"producing_phase": "prepare"}, "unknown check 'TEST_2.1'; prepare has none"),
        ({"promotion__direction": "up"}, "promotion.direction: found 'up'; input should be 'maximise' or 'minimise'"),
        ({"promotion__no_champion": "ask"}, "promotion.no_champion: found 'ask'; input should be 'promote' or 'refuse'"),
        ({"promotion__margin": -0.01}, "promotion.margin: found -0.01; input should be greater than or equal to 0"),
        ({"promotion__margin": float("nan")}, "promotion.margin: found nan"),
        ({"promotion__margin": float("inf")}, "promotion.margin: found inf"),
        ({"promotion__margin": "small"}, "promotion.margin: found 'small'"),
        ({"promotion__confidence": 0}, "promotion.confidence: found 0; input should be greater than 0"),
        ({"promotion__confidence": 1}, "promotion.confidence: found 1; input should be less than 1"),
        ({"promotion__confidence": 95}, "promotion.confidence: found 95; input should be less than 1"),
        ({"promotion__confidence": float("nan")}, "promotion.confidence: found nan"),
        ({"promotion__min_cases": 0}, "promotion.min_cases: found 0; input should be greater than or equal to 1"),
        ({"promotion__min_cases": 2.5}, "promotion.min_cases: found 2.5"),
        ({"promotion__regions": "WT"}, "promotion.regions: found 'WT'"),
        ({"promotion__regions": [["WT"]]}, "promotion.regions.0: found ['WT']"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(path: Path, changes: dict[str, Any], told: str) -> None:
    content = changed(**{key: value for key, value in changes.items() if isinstance(key, str)})
    assert told in refused(path, content | {key: value for key, value in changes.items() if not isinstance(key, str)})


def test_all_that_is_wrong_is_named_at_once(path: Path) -> None:
    content = changed(
        titel="x",
        output=ABSENT,
        consumers=["phase9"],
        required_checks=["TEST_9"],
        input__units=7,
        input__colour="x",
        promotion__margin=-1,
    )
    message = refused(path, content)
    assert "7 problems" in message
    for told in (
        "unknown key titel",
        "output is missing",
        "unknown phase 'phase9'",
        "unknown check 'TEST_9'",
        "input.units: found 7",
        "unknown key input.colour",
        "promotion.margin: found -1",
    ):
        assert told in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no keys; known are title, task"),
        (b"- a\n- b\n", "holds no keys"),
        (b"just words\n", "holds no keys"),
        (b"title: [", "cannot be read"),
        (b"title: a\n\ttask: b\n", "cannot be read"),
        (b"title: \xff\xfe\n", "cannot be read"),
        (b"title: !!python/object/apply:os.system [true]\n", "cannot be read"),
        (b"title: a\x00b\n", "cannot be read"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(path: Path, content: bytes, told: str) -> None:
    path.write_bytes(content)
    with pytest.raises(RegistryError, match=told) as caught:
        read_definition(path)
    assert str(path) in str(caught.value)


def test_a_file_that_there_is_not_is_named(path: Path) -> None:
    with pytest.raises(RegistryError, match=r"my_model\.yaml: cannot be read"):
        read_definition(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(
    key=st.sampled_from([*GOOD, *(f"{block}__{key}" for block in ("input", "promotion") for key in GOOD[block])]), value=JSON
)
def test_any_value_is_taken_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, key: str, value: Any) -> None:
    path = tmp_path_factory.mktemp("definition") / "my_model.yaml"
    path.write_text(yaml.safe_dump(changed(**{key: value})), encoding="utf-8")
    try:
        assert read_definition(path, phases.checks()).name == "my_model"
    except RegistryError as error:
        assert str(path) in str(error)
