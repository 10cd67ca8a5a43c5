"""Synthetic pairs on disk: `prepare` takes them, knows what they are, and nothing is left of a set that cannot be written."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from medexp.data.pairs.prepared import load_pair, prepare_pairs
from medexp.data.pairs.written import unfit, write_pairs
from medexp.errors import DataError
from tests.data.pairs.small_pairs import SHAPE, flair, lesion, pair_data, reads, write_bids

DRAWN = {"model": "phase7_fcd_adapter", "version": "3", "digest": "sha256:0a1b2c3d", "seed": 7, "steps": 4}
GRID = np.diag([6.0, 6, 6, 1])


def drawn(count: int) -> dict[str, object]:
    images = np.stack([flair(50 + number) for number in range(count)]).astype(np.float32) / 900
    masks = np.stack([lesion() > 0] * count)
    names = [f"seed7-sample{number:03d}" for number in range(count)]
    return {"images": images, "masks": masks, "affines": [GRID] * count, "names": names}


def test_what_is_written_is_prepared_and_known_as_synthetic_by_each_mark_alone(tmp_path):
    real, folder = write_bids(tmp_path / "real", 4), write_pairs(tmp_path / "drawn", **drawn(2), synthetic=DRAWN)
    described = json.loads((folder / "dataset_description.json").read_text())
    assert DRAWN.items() <= described["GeneratedBy"][0].items()
    header = nib.load(next(folder.rglob("*_roi.nii.gz"))).header
    assert header["descrip"].item() == b"medexp synthetic phase7_fcd_adapter 3"
    for mark in ("all", "participants.tsv", "dataset_description.json", "headers"):
        one = shutil.copytree(folder, tmp_path / mark)
        for path in one.rglob("*"):
            if path.name in ("participants.tsv", "dataset_description.json") and mark not in ("all", path.name):
                path.unlink()
            elif path.name.endswith(".gz") and mark not in ("all", "headers"):
                image = nib.load(path)
                image.header["descrip"] = b""
                nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)
        prepared = prepare_pairs(reads(tmp_path / "cache", real, one))
        known = prepared.manifest.query("synthetic == 1")
        assert known["case"].tolist() == ["sub-synthetic0a1b2cseed7sample000", "sub-synthetic0a1b2cseed7sample001"]
        assert set(known["split"]) == {"train"}
    pair = load_pair(prepared.cases[known["case"].iloc[0]], pair_data())
    assert pair.mask.sum() == lesion().sum()
    raw, back = np.sort(flair(50)[lesion() > 0]), np.sort(pair.image[pair.mask > 0])
    assert np.corrcoef(raw, back)[0, 1] > 0.99


def test_what_cannot_be_prepared_is_not_written(tmp_path):
    parts = drawn(5)
    parts["masks"][1] = False
    parts["images"][2, 3] = np.nan
    parts["masks"][3] = False
    parts["masks"][3, 0, 0, 0] = True
    parts["names"][4] = "seed7_sample000"
    with pytest.raises(DataError) as error:
        write_pairs(tmp_path / "drawn", **parts, synthetic=DRAWN)
    told = str(error.value)
    for words in (
        f"augment_dir {tmp_path / 'drawn'}: 4 problems",
        "seed7-sample001: an empty mask",
        "seed7-sample002: an image that is constant or holds NaN",
        "seed7-sample003: 100% of its lesion lies on background",
        "several pairs of one name: sub-synthetic0a1b2cseed7sample000",
    ):
        assert words in told
    assert not list(tmp_path.iterdir())
    small = flair(0).astype(np.float32)
    small[:, :, :8] = 0
    small[:, :, 15:] = 0
    assert unfit(small, lesion() > 0) == f"a head of 20 x 22 x 7 voxels, of {16} along each axis" and SHAPE[2] == 22
    head = flair(0).astype(np.float32)
    assert unfit(head, head > 0) == "a lesion that fills 100% of the head" and not unfit(head, lesion() > 0)
    folder = write_pairs(tmp_path / "drawn", **drawn(1), synthetic={})
    with pytest.raises(DataError, match="is there and holds something; give another folder"):
        write_pairs(folder, **drawn(2), synthetic=DRAWN)
    assert len(list(folder.rglob("*.nii.gz"))) == 2
    with pytest.raises(DataError, match="found 1 images, 1 masks, 1 affines, 0 names"):
        write_pairs(tmp_path / "x", **{**drawn(1), "names": []}, synthetic=DRAWN)
