"""What is asked, and what is learned from: images of other scenarios, the order of answers, examples that are made once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medexp.data.scenarios.cases import ANSWERS, MODALITIES, Scenario
from medexp.data.scenarios.prompts import load_processor
from medexp.data.scenarios.read import read_scenarios
from medexp.errors import DataError
from medexp.phases.medgemma.arms import BLIND, OTHER, SWAPPED, arms, strangers
from medexp.phases.medgemma.asking import Asking
from medexp.training.adapters import IGNORED
from tests.configured import configured
from tests.data.scenarios.small_scenarios import write_images, write_lines
from tests.gemma import tiny_gemma
from tests.phases.medgemma.small import SMALL, scenarios

# ------------------------------------------------------------------------------------------------ images of other scenarios


@given(st.lists(st.tuples(st.sampled_from(MODALITIES), st.integers(0, 12)), min_size=2, max_size=30), st.integers(0, 5))
def test_a_strangers_image_is_of_another_family_and_of_the_same_modality_where_there_is_one(
    drawn: list[tuple[str, int]], seed: int
) -> None:
    cases = [
        Scenario(f"s{number}", "", "", None, Path(f"{number}.png"), modality, family=f"f{family}")
        for number, (modality, family) in enumerate(drawn)
    ]
    by_image = {case.image: case for case in cases}
    if len({case.family for case in cases}) == 1:
        with pytest.raises(DataError, match="all that are judged are of one family"):
            strangers(cases, seed)
        return
    found = strangers(cases, seed)
    assert found == strangers(cases, seed) and found.keys() == {case.id for case in cases}
    for case in cases:
        other = by_image[found[case.id]]
        assert other.family != case.family
        there = any(one.modality == case.modality and one.family != case.family for one in cases)
        assert (other.modality == case.modality) is there


@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.integers(0, 5))
def test_of_families_of_one_images_change_places_within_each_modality(sizes: list[int], seed: int) -> None:
    each = [modality for modality, size in zip(MODALITIES, sizes, strict=False) for _ in range(size)]
    cases = [Scenario(f"s{number}", "", "", None, Path(f"{number}.png"), modality) for number, modality in enumerate(each)]
    assert Counter(strangers(cases, seed).values()) == Counter(case.image for case in cases)


# -------------------------------------------------------------------------------------------------- prompts and examples


def counting(processor: Any) -> Any:
    """The processor, which counts from now on what it is asked to process."""
    kind = type(processor)

    class Counting(kind):  # type: ignore[misc,valid-type]
        calls = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            type(self).calls += 1
            return super().__call__(*args, **kwargs)

    processor.__class__ = Counting
    return processor


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[Asking, tuple[Scenario, ...]]:
    """What makes prompts, its processor counting; and twelve scenarios."""
    folder = tmp_path_factory.mktemp("asking")
    lines = scenarios(12)
    write_images(folder / "images", lines)
    write_lines(folder / "a.jsonl", lines)
    processor = load_processor(tiny_gemma(folder / "base"))
    config = configured("medgemma", SMALL)
    cases = read_scenarios([folder / "a.jsonl"], folder / "images")
    return Asking(counting(processor), 512, config, folder / "cache"), cases


def asked(asking: Asking, ids: torch.Tensor) -> str:
    return str(asking.processor.tokenizer.decode(ids.flatten(), skip_special_tokens=True))


def first(text: str) -> str:
    """The answer that a question names first."""
    return min(ANSWERS, key=text.rindex)


def test_arms_ask_what_they_say(read: tuple[Asking, tuple[Scenario, ...]]) -> None:
    asking, (one, other, *_) = read
    every = {arm.name: asking.prompt(one, arm, other.image) for arm in arms(asking.config)}
    texts = {name: asked(asking, prompt.inputs["input_ids"]) for name, prompt in every.items()}
    assert {name: prompt.images for name, prompt in every.items()} == {name: int(name != BLIND) for name in every}
    assert {name for name, text in texts.items() if first(text) == "ERROR"} == {SWAPPED}
    assert {name for name, text in texts.items() if "Is it right?" in text} == {"paraphrase_1"}
    assert one.instruction in texts["adapter"] and one.instruction not in texts["paraphrase_1"]
    assert all(one.input in text for text in texts.values())
    pixels = {name: prompt.inputs["pixel_values"] for name, prompt in every.items() if prompt.images}
    same = {name for name, value in pixels.items() if torch.equal(value, pixels["adapter"])}
    assert same == every.keys() - {BLIND, OTHER}


def test_examples_are_made_once_and_read_as_often_as_they_are_asked_for(read: tuple[Asking, tuple[Scenario, ...]]) -> None:
    asking, cases = read
    digests = {case.id: f"digest of {case.id}" for case in cases}
    examples = asking.examples(cases, digests)
    calls = asking.processor.calls
    assert len(examples) == len(cases) and calls >= len(cases)
    epochs = [[*examples], [*examples], [examples[place] for place in range(len(examples))], [*examples[:]]]
    assert asking.processor.calls == calls, "nothing is processed anew, whatever the number of epochs"
    for same in zip(*epochs, strict=True):
        assert all(torch.equal(same[0].inputs[name], one.inputs[name]) for one in same[1:] for name in same[0].inputs)
    assert len(examples[2:5]) == 3 and torch.equal(examples[2:5][0].labels, examples[2].labels)
    for case, example in zip(cases, examples, strict=True):
        prompt = asking.prompt(case)
        assert torch.equal(example.inputs["pixel_values"], prompt.inputs["pixel_values"]), "the image of its own scenario"
        assert example.inputs["input_ids"].shape == example.labels.shape == example.inputs["token_type_ids"].shape
        learned = example.labels[example.labels != IGNORED]
        assert asked(asking, learned).strip() == case.output


@pytest.mark.parametrize("either", ["true", "false"])
def test_half_of_the_training_prompts_name_error_first_where_that_is_asked_for(
    read: tuple[Asking, tuple[Scenario, ...]], either: str
) -> None:
    asking, cases = read
    config = configured("medgemma", SMALL, data__either_order=either)
    again = Asking(asking.processor, asking.context, config, asking.cache)
    digests = {case.id: f"digest of {case.id}" for case in cases}
    orders: Counter[str] = Counter()
    for example in again.examples(cases, digests):
        orders[first(asked(asking, example.inputs["input_ids"][example.labels == IGNORED]))] += 1
    assert orders["CORRECT"] + orders["ERROR"] == len(cases)
    assert orders["ERROR"] in (range(2, 11) if either == "true" else [0])
