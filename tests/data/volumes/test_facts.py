import json
import os
import shutil

import joblib
import numpy as np
import pytest

from medexp.data.kept import keep_record, known_record
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.facts import describe_cases
from medexp.errors import DataError, StorageError
from tests.data.volumes.small_cases import AFFINE, SHAPE, blob, save, write_case

NOISE = np.random.default_rng(5).integers(1, 99, SHAPE).astype(np.int16)


@pytest.fixture
def describe(tmp_path, data_config):
    def run(**changed):
        config = data_config(**changed)
        return describe_cases(find_cases(tmp_path / "data", config), config, tmp_path / "cache")

    return run


def entries(tmp_path):
    return sorted((tmp_path / "cache" / "cases").iterdir())


def test_facts_come_in_the_order_of_the_cases(tmp_path, describe):
    for name in ("b", "a", "c"):
        write_case(tmp_path / "data", name)
    first, second, third = describe()
    assert (first.case, second.case, third.case) == ("a", "b", "c")
    assert first.shape == SHAPE and first.spacing == (2.0, 2.0, 3.0)
    assert len(first.semantic) == 10 and len(first.intensity) == 12 and len(first.form) == 10
    assert first.sha256 == second.sha256 and len(first.sha256) == 64  # the same seed: an exact duplicate


@pytest.mark.parametrize(
    ("spoil", "duplicate"),
    [
        (lambda folder: save(folder / "b-t1n.nii.gz", NOISE), False),
        (lambda folder: save(folder / "b-seg.nii.gz", blob(1)), True),  # the same images, annotated anew
        (
            lambda folder: [save(folder / f"b-{n}.nii.gz", np.asarray(v), AFFINE + np.eye(4, k=3)) for n, v in loaded(folder)],
            True,
        ),
    ],
)
def test_the_digest_changes_with_voxels_labels_and_affine(tmp_path, describe, spoil, duplicate):
    write_case(tmp_path / "data", "a")
    spoil(write_case(tmp_path / "data", "b"))
    first, second = describe()
    assert first.sha256 != second.sha256
    assert (first.voxels_sha256 == second.voxels_sha256) is duplicate


def loaded(folder):
    import nibabel as nib

    return [(p.name.removeprefix("b-").removesuffix(".nii.gz"), nib.load(p).get_fdata()) for p in sorted(folder.iterdir())]


def test_neither_the_file_type_nor_compression_is_part_of_the_digest(tmp_path, describe):
    write_case(tmp_path / "data", "a")
    folder = write_case(tmp_path / "data", "b")
    for name, voxels in loaded(folder):
        (folder / f"b-{name}.nii.gz").unlink()
        save(folder / f"b_{name}.nii", voxels.astype(np.float32))
    first, second = describe()
    assert first.sha256 == second.sha256


def test_labels_that_are_mapped_alike_are_alike(tmp_path, describe):
    write_case(tmp_path / "data", "a")
    write_case(tmp_path / "data", "b", seg=blob(4))
    first, second = describe(labels="map", label_map={2: 2, 3: 3, 4: 3})
    assert first.sha256 == second.sha256
    assert (first.values, second.values) == ((2, 3), (2, 4))


def test_known_cases_come_from_the_cache(tmp_path, describe):
    write_case(tmp_path / "data", "a")
    (before,) = describe()
    (entry,) = entries(tmp_path)
    keep_record(entry, known_record(entry) | {"sha256": "f" * 64})
    (after,) = describe()
    assert after.sha256 == "f" * 64 and after.semantic == before.semantic


def test_a_changed_file_label_map_or_grid_is_described_anew(tmp_path, describe):
    folder = write_case(tmp_path / "data", "a")
    (folder / "a-t1c.nii.gz").unlink()
    path = save(folder / "a-t1c.nii", NOISE)
    (before,) = describe()
    (mapped,) = describe(labels="map", label_map={2: 2, 3: 1})
    assert mapped.sha256 != before.sha256
    (coarse,) = describe(spacing=(20, 20, 30))
    assert coarse.sha256 == before.sha256 and coarse.lost and not before.lost
    state = path.stat()
    save(path, NOISE[::-1])  # of the same size
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    (after,) = describe()
    assert after.sha256 != before.sha256
    assert len(entries(tmp_path)) == 4


DAMAGES = {
    **{given or "nothing": lambda _, given=given: given for given in ("", "{", "[]", "null", "{}", '{"case": "a"}')},
    "half": lambda text: text[: len(text) // 2],
    "a field that is none": lambda text: json.dumps(json.loads(text) | {"semantic": None}),
    "the name of another case": lambda text: json.dumps(json.loads(text) | {"case": "b"}),
    "a digit": lambda text: text.replace('"shape": [1', '"shape": [2'),
    "a hundred thousand brackets": lambda _: 100_000 * "[",
}


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_computed_anew(tmp_path, describe, damaged):
    write_case(tmp_path / "data", "a")
    before = describe()
    (entry,) = entries(tmp_path)
    entry.write_text(damaged(entry.read_text()))
    assert describe() == before
    assert json.loads(entry.read_text())["case"] == "a"


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_bad_cases_come_in_one_error_and_the_good_ones_are_kept(tmp_path, describe, jobs):
    write_case(tmp_path / "data", "good")
    write_case(tmp_path / "data", "empty", seg=np.zeros(SHAPE, np.uint8))
    write_case(tmp_path / "data", "flat", t2w=np.ones(SHAPE, np.int16))
    with pytest.raises(DataError) as error:
        describe(jobs=jobs)
    for words in ("2 of 3 cases", "case empty", "data.exclude=[empty]", "case flat", "data.exclude=[flat]"):
        assert words in str(error.value)
    assert len(entries(tmp_path)) == 1
    assert [fact.case for fact in describe(exclude=("empty", "flat"))] == ["good"]


def test_the_backend_is_chosen_from_outside(tmp_path, describe):
    for name in "abc":
        write_case(tmp_path / "data", name)
    alone = describe()
    shutil.rmtree(tmp_path / "cache")
    with joblib.parallel_config(backend="threading"):
        assert describe(jobs=3) == alone


def test_a_cache_that_cannot_be_written_is_named(tmp_path, describe):
    write_case(tmp_path / "data", "a")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot be written"):
        describe()


def test_a_file_of_the_same_size_and_time_is_another_one(tmp_path, describe):
    """MONAI 999: of what is unpacked or copied with its times over what was there, a cache says what was there before."""
    folder = write_case(tmp_path / "data", "a", t1c=None)
    image, rng = folder / "a-t1c.nii", np.random.default_rng(3)
    save(image, (NOISE * 2).astype(np.int16))
    (first,), before = describe(), image.stat()
    save(image, rng.permutation(NOISE * 2).astype(np.int16))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert describe()[0].voxels_sha256 != first.voxels_sha256
