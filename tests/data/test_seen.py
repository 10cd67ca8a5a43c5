"""What of a case is told to lie outside what a model saw, and what is not."""

import nibabel as nib
import numpy as np
import pytest

from medexp.data import seen
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.facts import describe_cases
from tests.data.volumes.small_cases import write_case

CASES = 24


@pytest.fixture
def fields(tmp_path, data_config):
    """Of every case in a folder, by its name; those of a model's training are called t00 to t23."""

    def read():
        cases = find_cases(tmp_path / "cases", data_config())
        return {fact.case: fact.fields for fact in describe_cases(cases, data_config(), tmp_path / "cache")}

    for number in range(CASES):
        write_case(tmp_path / "cases", f"t{number:02d}", seed=number)
    return read


def told(fields):
    found = fields()
    known = seen.ranges(case for name, case in found.items() if name.startswith("t"))
    return {name: seen.outside(case, known) for name, case in found.items() if not name.startswith("t")}


def rewrite(folder, change):
    for path in folder.iterdir():
        image = nib.load(path)
        nib.save(change(path, np.asarray(image.dataobj), image.affine), path)


def test_a_case_of_the_same_kind_is_not_told_however_it_is_stored(tmp_path, fields):
    def permuted(path, voxels, affine):
        turn = np.eye(4)[[1, 2, 0, 3]].T
        moved = nib.Nifti1Image(np.ascontiguousarray(voxels.transpose(1, 2, 0)).astype(np.float64), affine @ turn)
        moved.set_qform(moved.affine, 1)
        return moved

    for number in range(6):
        write_case(tmp_path / "cases", f"new{number}", seed=100 + number)
    rewrite(write_case(tmp_path / "cases", "new6", seed=106), permuted)
    found = told(fields)
    assert found.pop("new6") == ["orientation is PSL; it was LPS"], "its spacing along right, front and top is the same"
    assert all(sentences == [] for sentences in found.values())


def test_what_a_reader_wants_to_know_is_told(tmp_path, fields):
    def spaced(path, voxels, affine):
        return nib.Nifti1Image(voxels, affine @ np.diag([1, 1, 2, 1]))

    def scaled(path, voxels, affine):
        return nib.Nifti1Image(voxels if "seg" in path.name else (voxels / 1000).astype(np.float32), affine)

    def centred(path, voxels, affine):
        inside = voxels > 0
        return nib.Nifti1Image(
            voxels if "seg" in path.name else np.where(inside, (voxels - voxels[inside].mean()) / 250, 0).astype(np.float32),
            affine,
        )

    def flatter(path, voxels, affine):
        return nib.Nifti1Image(voxels if "t1c" not in path.name else np.where(voxels > 0, 400 + voxels // 10, 0), affine)

    def unsaid(path, voxels, affine):
        image = nib.Nifti1Image(voxels, np.diag([2.0, 2, 3, 1]))
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        return image

    for change in (spaced, scaled, centred, flatter, unsaid):
        rewrite(write_case(tmp_path / "cases", change.__name__, seed=200), change)
    named = {case: {sentence.split(" is ")[0] for sentence in sentences} for case, sentences in told(fields).items()}
    assert named["spaced"] == {"spacing S", "brain_ml"}
    assert (
        named["scaled"]
        == named["centred"]
        == {f"{channel}_{what}" for channel in ("t2f", "t1c", "t1n", "t2w") for what in ("mean", "sd", "p99")}
    )
    assert named["flatter"] == {"t1c_contrast", "t1c_sd", "t1c_p99"}
    assert "orientation" in named["unsaid"]


def test_statistics_of_few_cases_are_no_range():
    one = {"t2f_mean": 300.0, "brain_ml": 1300.0, "spacing R": 1.0}
    other = {"t2f_mean": 3.0, "brain_ml": 200.0, "spacing R": 3.0}
    assert seen.outside(other, seen.ranges([one])) == ["spacing R is 3; it was 1"]
    assert len(seen.outside(other, seen.ranges([one] * seen.MIN_CASES))) == 3
