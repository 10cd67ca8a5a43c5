import json
from dataclasses import replace

import pytest

from medexp.data.volumes.prepared import prepare_volumes
from medexp.errors import DataError
from tests.data.volumes.small_cases import write_case
from tests.small import prepare_config


def test_without_a_folder_the_phantoms_are_prepared(tmp_path):
    prepared = prepare_volumes(prepare_config(tmp_path))
    assert prepared.source == "meningioma phantoms"
    assert set(prepared.cases) == set(prepared.facts) == set(prepared.manifest["case"])
    for split in ("train", "val", "test"):
        assert prepared.ids(split) == tuple(prepared.manifest.query("split == @split")["case"])
    (row,) = prepared.manifest[prepared.manifest["duplicate_of"] != ""].itertuples()
    assert prepared.splits.of(row.case) == prepared.splits.of(row.duplicate_of)
    again = prepare_volumes(prepare_config(tmp_path))
    assert again.digest == prepared.digest and again.splits == prepared.splits


def test_the_seed_draws_the_split_and_not_the_data(tmp_path):
    for number in range(12):
        write_case(tmp_path / "data", f"BraTS-MEN-{number:05d}-000", seed=number)
    config = prepare_config(tmp_path / "cache", data_dir=str(tmp_path / "data"))
    drawn = [prepare_volumes(replace(config, seed=seed)) for seed in range(4)]
    assert len({prepared.splits for prepared in drawn}) > 1
    assert len({prepared.digest for prepared in drawn}) == 1
    assert drawn[0].source == str(tmp_path / "data")


def test_a_split_file_is_used_as_it_stands(tmp_path):
    for number, name in enumerate(("a", "b", "c")):
        write_case(tmp_path / "data", name, seed=number)
    file = tmp_path / "data_splits.json"
    file.write_text(json.dumps({"train": ["c"], "val": ["a"], "test": ["b"]}))
    prepared = prepare_volumes(prepare_config(tmp_path / "cache", data_dir=str(tmp_path / "data"), splits=str(file)))
    assert (prepared.ids("train"), prepared.ids("val"), prepared.ids("test")) == (("c",), ("a",), ("b",))


def test_a_single_patient_is_refused(tmp_path):
    write_case(tmp_path / "data", "BraTS-MEN-00001-000")
    write_case(tmp_path / "data", "BraTS-MEN-00001-001", seed=1)
    with pytest.raises(DataError, match="a single patient"):
        prepare_volumes(prepare_config(tmp_path / "cache", data_dir=str(tmp_path / "data")))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["anna_a", "anna_b", "bert_a", "carl_a"], "^(.+)_' makes 3"),
        (["a1", "a2", "a3", "a4"], "=REGEX'"),
        (["BraTS-MEN-00001-000", "b", "c", "d"], ""),
    ],
)
def test_names_that_tell_no_patient_are_told_of(tmp_path, names, told):
    for number, name in enumerate(names):
        write_case(tmp_path / "data", name, number)
    prepared = prepare_volumes(prepare_config(tmp_path / "cache", data_dir=str(tmp_path / "data")))
    assert bool(prepared.notes) == bool(told)
    if told:
        assert "none of 4 names, such as a" in prepared.notes[0] and told in prepared.notes[0]
