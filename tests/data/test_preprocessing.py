"""Contracts as data: what is written is read back, what is unknown is named, and training is prepared by it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medexp.data.images import transforms as images
from medexp.data.images.steps import Fit
from medexp.data.oct import transforms as oct_volumes
from medexp.data.oct.steps import Resize
from medexp.data.prepared import Prepared
from medexp.data.preprocessing import Preprocessing, known_steps, read_preprocessing
from medexp.data.splits import Splits
from medexp.data.volumes import transforms as volumes
from medexp.data.volumes.brats import find_cases, read_case
from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.prepared import manifest, semantic
from medexp.data.volumes.steps import PadToMultiple, ReadChannels, Resample, SlidingWindow
from medexp.errors import RegistryError
from tests.data.volumes.small_cases import write_case
from tests.small import data_config

EDGE = st.floats(0.1, 20, allow_nan=False)
SIZE = st.tuples(*[st.integers(1, 256)] * 3)


@given(spacing=st.tuples(EDGE, EDGE, EDGE), size=SIZE, overlap=st.floats(0, 0.9), multiple=st.integers(1, 64))
def test_what_is_written_is_read_back(
    spacing: tuple[float, float, float], size: tuple[int, int, int], overlap: float, multiple: int
) -> None:
    made = volumes.preprocessing(spacing, size)
    for last in (SlidingWindow(size, overlap, "gaussian"), PadToMultiple(multiple)):
        whole = made.then(last)
        read = read_preprocessing(json.loads(json.dumps(whole.as_record)), "here")
        assert read == whole and read.key == whole.key != made.key
        assert read.get(Resample).spacing_mm == spacing


@pytest.mark.parametrize(
    "record", [None, [], {}, {"data": "volumes"}, {"data": "sounds", "steps": []}, {"data": "images", "steps": [1]}]
)
def test_what_is_no_record_is_refused(record: Any) -> None:
    with pytest.raises(RegistryError, match=r"here: .*known are images, oct, scenarios, volumes"):
        read_preprocessing(record, "here")


def test_all_that_is_wrong_is_told_at_once() -> None:
    record = images.preprocessing((32, 48)).as_record
    record["steps"][1]["version"] = 9
    record["steps"][2]["size"] = [0, 48]
    record["steps"][3]["below"] = 1
    with pytest.raises(RegistryError) as error:
        read_preprocessing(record, "contract.json of it")
    told = str(error.value)
    assert "'zero_darkest' version 9 is unknown; known for images are fit 1" in told
    assert "step fit version 1: size" in told and "unknown key below" in told and "use the version that registered" in told


def test_each_step_has_one_name_and_version() -> None:
    for kind, steps in known_steps().items():
        assert len(steps) == len({(step.NAME, step.VERSION) for step in steps.values()}), kind
        assert all(step.__doc__ for step in steps.values())


def test_training_is_prepared_by_what_the_contract_says(tmp_path: Path) -> None:
    data = data_config(spacing=(2.0, 2.0, 3.0), input_size=(64, 32, 32))
    write_case(tmp_path / "data", "a")
    cases = find_cases(tmp_path / "data", data)
    facts, splits = describe_cases(cases, data, tmp_path), Splits((), ("a",), ())
    prepared = Prepared({"a": cases[0]}, {"a": facts[0]}, splits, manifest(cases, facts, splits, semantic), "here")
    trained = evaluation_dataset(prepared, "val", data, tmp_path)[0]
    contract = json.loads(json.dumps(volumes.preprocessing(data.spacing, data.input_size).as_record))
    done = volumes.execute(read_preprocessing(contract, "here").steps, read_case(cases[0], data.classes), labelled=True)
    assert torch.equal(trained["image"], done["image"].as_tensor())
    assert torch.equal(trained["label"], done["label"].as_tensor()[0].long())
    assert torch.equal(trained["affine"], done["image"].affine.double())


@given(size=SIZE, normalisation=st.sampled_from(["zscore", "unit"]))
def test_what_is_written_of_oct_is_read_back(size: tuple[int, int, int], normalisation: Any) -> None:
    made = oct_volumes.preprocessing(size, normalisation)
    read = read_preprocessing(json.loads(json.dumps(made.as_record)), "here")
    assert read == made and read.key == made.key and read.get(Resize).size == size
    other = oct_volumes.preprocessing(size, "unit" if normalisation == "zscore" else "zscore")
    assert other.key != made.key


def test_a_step_is_found_by_its_kind() -> None:
    made = Preprocessing("images", (Fit((8, 8)),))
    assert made.find(ReadChannels) is None
    with pytest.raises(RegistryError, match="lacks the step read_channels"):
        made.get(ReadChannels)
