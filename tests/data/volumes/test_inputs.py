"""Volumes that somebody wants predicted: none is left out without a word."""

import gzip
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medexp.config.data import SUFFIXES
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.inputs import find_inputs
from medexp.data.volumes.regions import paint, values_in_masks
from medexp.data.volumes.steps import ReadChannels
from medexp.errors import DataError
from tests.data.volumes.small_cases import SHAPE, save, write_case

READ = ReadChannels(CHANNELS, SUFFIXES)


def test_loose_files_beside_folders_of_cases_and_two_cases_of_a_name_are_told(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    loose = shutil.copytree(write_case(tmp_path / "others", "b"), tmp_path / "both")
    shutil.copytree(tmp_path / "a", loose / "a")
    with pytest.raises(DataError, match="files of a case \\(b\\) and folders of cases \\(a\\)"):
        find_inputs(loose, READ)
    shutil.rmtree(tmp_path / "both")
    shutil.rmtree(tmp_path / "others")
    save(tmp_path / "a.nii.gz", np.zeros((*SHAPE, 4), np.float32))
    with pytest.raises(DataError, match="a, a.nii.gz would be one case"):
        find_inputs(tmp_path, READ)
    (tmp_path / "a.nii.gz").rename(tmp_path / "c.nii.gz")
    (tmp_path / "a" / "notes").mkdir()
    assert [case.id for case in find_inputs(tmp_path, READ).cases] == ["a", "c"]
    assert [case.id for case in find_inputs(tmp_path / "a", READ).cases] == ["a"]


@pytest.mark.parametrize("channels", [("t1c", "t2w"), ("t1n",), ("t2w", "t1n", "t1c", "t2f")])
def test_a_case_is_read_by_the_channels_of_a_contract(tmp_path: Path, channels: tuple[str, ...]) -> None:
    read = ReadChannels(channels, {channel: SUFFIXES[channel] for channel in channels})
    (case,) = find_inputs(write_case(tmp_path, "a"), read).cases
    whole = read_case(find_inputs(tmp_path / "a", READ).cases[0], {2: 2, 3: 3})
    found = read_case(replace(case, label=None), {}, channels=channels)
    np.testing.assert_array_equal(found.image, whole.image[[CHANNELS.index(channel) for channel in channels]])
    if len(channels) > 1:
        stacked = save(tmp_path / "stacked.nii.gz", np.moveaxis(found.image, 0, -1))
        (one,) = find_inputs(stacked, read).cases
        np.testing.assert_array_equal(read_case(one, {}, channels=channels).image, found.image)


@pytest.mark.parametrize("sizes", [(15, 12, 10), (32767, 32767, 32767), (-14, 12, 10)])
def test_a_header_that_claims_more_than_there_is_takes_no_memory(tmp_path: Path, sizes: tuple[int, int, int]) -> None:
    (case,) = find_inputs(write_case(tmp_path, "a"), READ).cases
    content = bytearray(gzip.decompress(case.images[0].read_bytes()))
    struct.pack_into("<3h", content, 42, *sizes)
    case.images[0].write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError, match="its header (claims .* bytes, it holds|says .* voxels; at most)"):
        read_case(case, {2: 2, 3: 3})


def test_masks_have_values_that_are_none_of_the_background_and_fit() -> None:
    """A map may name 0, which is background whatever it says; labels of other tools go beyond 255."""
    values = values_in_masks({0: 2, 251: 1, 1000: 2, 2035: 3})
    assert values == {"WT": 1000, "TC": 251, "ET": 2035}
    mask = paint(torch.eye(3, dtype=torch.bool)[:, :, None, None], values)
    assert mask.ravel().tolist() == [251, 1000, 2035]
