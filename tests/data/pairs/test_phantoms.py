import json
from collections import Counter
from hashlib import sha256

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medexp.data.pairs.phantoms import ensure_pairs
from medexp.data.pairs.phantoms.dysplasia import scan

LESIONS = "derivatives/lesion_masks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ensure_pairs("fcd", 12, 7, tmp_path_factory.mktemp("cache"))


def pairs(folder):
    flair = sorted(folder.glob("sub-*/**/*_FLAIR.nii.gz"))
    masks = sorted((folder / LESIONS).glob("sub-*/**/*_label-lesion_roi.nii.gz"))
    assert [path.name.removesuffix("_FLAIR.nii.gz") for path in flair] == [
        path.name.removesuffix("_label-lesion_roi.nii.gz") for path in masks
    ]
    return [(nib.load(image), nib.load(mask)) for image, mask in zip(flair, masks, strict=True)]


def test_a_bids_data_set_of_pairs_on_one_grid_each(folder):
    listed = pd.read_csv(folder / "participants.tsv", sep="\t")
    assert listed.participant_id[0] == "sub-fcd70001" and len(listed) == 12 and set(listed.group) == {"fcd"}
    assert sorted(listed.participant_id) == sorted(path.name for path in folder.glob("sub-*"))
    assert json.loads((folder / LESIONS / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert len(pairs(folder)) == 14, "two patients with two sessions"
    for image, mask in pairs(folder):
        assert image.shape == mask.shape and np.array_equal(image.affine, mask.affine)
        flair, lesion = np.asanyarray(image.dataobj), np.asanyarray(mask.dataobj)
        assert flair.dtype == np.int16 and set(np.unique(lesion)) == {0, 1}
        assert (flair[lesion > 0] > 0).all(), "a lesion lies in the brain"
        millilitres = (lesion > 0).sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000
        assert 0.5 < millilitres < 40


def test_readers_are_tried(folder):
    axes = {"".join(nib.aff2axcodes(image.affine)) for image, _ in pairs(folder)}
    assert {"LPS", "RAS"} < axes
    voxels = Counter(sha256(image.dataobj.get_unscaled().tobytes()).hexdigest() for image, _ in pairs(folder))
    assert sorted(voxels.values())[-2:] == [1, 2], "one exact duplicate"


def test_a_patient_is_the_same_in_any_number_of_patients_and_healthy_ones_have_no_masks(folder, tmp_path):
    name = "sub-fcd70003/ses-1/anat/sub-fcd70003_ses-1_FLAIR.nii.gz"
    few = ensure_pairs("fcd", 4, 7, tmp_path)
    assert np.array_equal(nib.load(few / name).dataobj, nib.load(folder / name).dataobj)
    healthy = ensure_pairs("healthy", 4, 7, tmp_path)
    assert (healthy / "sub-hc70001/anat/sub-hc70001_FLAIR.nii.gz").is_file() and not (healthy / "derivatives").exists()


def test_a_lesion_is_brighter_than_the_same_tissue_without_it_and_nothing_else_changes():
    axis = np.arange(-90, 90, 4.0, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    for patient in range(4):
        ill, lesion, brain = scan((3, patient), True, points)
        well, none, same = scan((3, patient), False, points)
        assert np.array_equal(brain, same) and lesion.any() and not none.any()
        change = ill - well
        assert 0.05 < change[lesion].mean() < 0.45, "moderate: the range of a brain is about 1"
        assert np.abs(change[brain & (well < 0.2)]).mean() < 0.02, "fluid stays dark"
        far = np.abs(points - points[lesion].mean(axis=0)).max(axis=1) > 60
        assert np.array_equal(ill[far], well[far])
