import gzip
import re
import resource
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from medexp.data.oct.readers import read_scan
from medexp.data.volumes.brats import find_cases, read_case, read_label
from medexp.errors import ConfigError, DataError
from tests.data.volumes.small_cases import AFFINE, SHAPE, blob, save, write_case


def only(root, config):
    (case,) = find_cases(root, config)
    return case


def test_cases_are_sorted_and_time_points_share_a_patient(tmp_path, data_config):
    for name in ("BraTS-MEN-00002-000", "BraTS-MEN-00001-001", "BraTS-MEN-00001-000", "elsewhere"):
        write_case(tmp_path, name)
    cases = find_cases(tmp_path, data_config())
    assert [case.id for case in cases] == ["BraTS-MEN-00001-000", "BraTS-MEN-00001-001", "BraTS-MEN-00002-000", "elsewhere"]
    assert [case.patient for case in cases] == ["BraTS-MEN-00001", "BraTS-MEN-00001", "BraTS-MEN-00002", "elsewhere"]


@pytest.mark.parametrize(
    "names",
    [
        ("c-t2f.nii.gz", "c-t1c.nii.gz", "c-t1n.nii.gz", "c-t2w.nii.gz", "c-seg.nii.gz"),
        ("c_flair.nii.gz", "c_t1ce.nii.gz", "c_t1.nii.gz", "c_t2.nii.gz", "c_seg.nii.gz"),
        ("c_flair.nii", "c-t1c.nii", "c_t1.nii.gz", "c-t2w.nii", "c_seg.nii"),
    ],
)
def test_both_generations_of_names_give_the_channel_order(tmp_path, data_config, names):
    for brightness, name in enumerate(names[:4], start=1):
        voxels = np.zeros(SHAPE, np.int16)
        voxels[2:-2] = brightness * 100
        save(tmp_path / "c" / name, voxels)
    save(tmp_path / "c" / names[4], blob())
    (tmp_path / "c" / "._c-t2f.nii.gz").write_bytes(b"a resource fork")
    (tmp_path / "c" / "notes.txt").write_text("no image")
    volume = read_case(only(tmp_path, data_config()), {2: 2, 3: 3})
    assert volume.image.max(axis=(1, 2, 3)).tolist() == [100, 200, 300, 400]
    assert volume.image.dtype == np.float32 and volume.image.shape == (4, *SHAPE)
    assert volume.label.dtype == np.uint8 and volume.affine.dtype == np.float64
    np.testing.assert_allclose(volume.affine, AFFINE)


def test_excluded_cases_are_left_out_whatever_is_wrong_with_them(tmp_path, data_config):
    write_case(tmp_path, "good")
    write_case(tmp_path, "bad", t1c=None)
    assert only(tmp_path, data_config(exclude=("bad",))).id == "good"


def missing_modality(root):
    write_case(root, "bad", t1c=None)
    return ["bad: no t1c", "*-t1c.nii.gz", "*-t1ce.nii.gz", "data.exclude"]


def missing_segmentation(root):
    write_case(root, "bad", seg=None)
    return ["bad: no seg"]


def two_files_for_one_modality(root):
    write_case(root, "bad")
    save(root / "bad" / "bad_t1ce.nii", np.ones(SHAPE, np.int16))
    return ["2 files for t1c", "bad-t1c.nii.gz", "bad_t1ce.nii"]


def folder_without_images(root):
    (root / "bad").mkdir()
    (root / "bad" / "t1c.nrrd").write_bytes(b"NRRD0004")
    return ["bad: no NIfTI file", "it holds t1c.nrrd"]


def cases_one_level_deeper(root):
    write_case(root / "bad", "HGG_1")
    return ["bad: no NIfTI file", f"the folders in it are cases: give {root / 'bad'}"]


def dead_link(root):
    path = write_case(root, "bad") / "bad-t1c.nii.gz"
    path.unlink()
    path.symlink_to(root / "unmounted" / "t1c.nii.gz")
    return [f"bad: bad-t1c.nii.gz is a link to {root / 'unmounted' / 't1c.nii.gz'}, which is not there"]


def everything_at_once(root):
    return ["4 problems", *missing_modality(root), *(found.replace("bad", "worse") for found in missing_worse(root))]


def missing_worse(root):
    write_case(root, "worse", t1n=None, t2w=None)
    (root / "empty").mkdir()
    return ["worse: no t1n", "worse: no t2w", "empty: no NIfTI file"]


@pytest.mark.parametrize(
    "spoil",
    [
        missing_modality,
        missing_segmentation,
        two_files_for_one_modality,
        folder_without_images,
        cases_one_level_deeper,
        dead_link,
        everything_at_once,
    ],
)
def test_an_incomplete_folder_is_one_error_that_names_case_and_files(tmp_path, data_config, spoil):
    write_case(tmp_path, "good")
    expected = spoil(tmp_path)
    with pytest.raises(DataError) as error:
        find_cases(tmp_path, data_config())
    for words in (str(tmp_path), *expected):
        assert words in str(error.value)
    assert "good" not in str(error.value)


def test_axes_of_one_behind_the_third_are_no_dimension(tmp_path, data_config):
    case = write_case(tmp_path, "c", t1n=NOISE)
    save(case / "c-t1n.nii.gz", NOISE[..., None])
    save(case / "c-seg.nii.gz", blob()[..., None, None])
    volume = read_case(only(tmp_path, data_config()), {2: 2, 3: 3})
    np.testing.assert_array_equal(volume.image[2], NOISE)
    np.testing.assert_array_equal(volume.label, blob())


def test_no_such_folder(tmp_path, data_config):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'nowhere'}: no such folder")):
        find_cases(tmp_path / "nowhere", data_config())


def test_a_folder_without_cases(tmp_path, data_config):
    with pytest.raises(DataError, match="no case in it"):
        find_cases(tmp_path, data_config())


def test_the_folder_of_one_case_points_to_the_folder_above(tmp_path, data_config):
    with pytest.raises(DataError, match="It holds NIfTI files: give "):
        find_cases(write_case(tmp_path, "good"), data_config())


@pytest.mark.parametrize("exclude", [("nobody",), ("good", "nobody")])
def test_an_excluded_case_that_is_not_there(tmp_path, data_config, exclude):
    write_case(tmp_path, "good")
    with pytest.raises(DataError, match="data.exclude: no case nobody"):
        find_cases(tmp_path, data_config(exclude=exclude))


def test_excluding_every_case(tmp_path, data_config):
    write_case(tmp_path, "good")
    with pytest.raises(DataError, match="leaves out all 1"):
        find_cases(tmp_path, data_config(exclude=("good",)))


@pytest.mark.parametrize("pattern", ["(", "BraTS"])
def test_a_patient_pattern_that_cannot_be_used(tmp_path, data_config, pattern):
    write_case(tmp_path, "good")
    with pytest.raises(ConfigError, match="data.patient_pattern"):
        find_cases(tmp_path, data_config(patient_pattern=pattern))


def truncated(folder):
    path = folder / "c-t1c.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])


def truncated_without_compression(folder):
    path = folder / "c-t1c.nii"
    path.write_bytes(gzip.decompress((folder / "c-t1c.nii.gz").read_bytes())[:-500])
    (folder / "c-t1c.nii.gz").unlink()


def without_checksum(folder):
    path = folder / "c-t1c.nii.gz"
    path.write_bytes(path.read_bytes()[:-1])


def voxels(**values):
    """Spoils one modality: its first voxels of the brain become the values given."""

    def spoil(folder):
        ((name, value),) = values.items()
        array = np.random.default_rng(1).normal(100, 10, SHAPE).astype(np.float32)
        array[5, 5, 5] = value
        save(folder / f"c-{name}.nii.gz", array)

    return spoil


def replaced(name, array, affine=AFFINE):
    return lambda folder: save(folder / f"c-{name}.nii.gz", array, affine)


def packed_otherwise(folder):
    """A name that says gzip and a file that is none, and the other way round."""
    path = folder / "c-t1c.nii.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))
    (folder / "c-t1n.nii.gz").rename(folder / "c-t1n.nii")


def singular_affine(folder):
    path = folder / "c-t1c.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    path.write_bytes(gzip.compress(content))


def bomb(folder):
    """A header of a head, and thousands of times as many bytes as it says."""
    path = folder / "c-t1c.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**25), compresslevel=1))


def claims(*shape):
    """A header of a size that no head has."""

    def spoil(folder):
        path = folder / "c-t1c.nii.gz"
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[40:56] = np.array([3, *shape, 1, 1, 1, 1], "<i2").tobytes()
        path.write_bytes(gzip.compress(content))

    return spoil


NOISE = np.random.default_rng(0).integers(1, 99, SHAPE).astype(np.int16)
TURNED = AFFINE @ np.diag([1, 1, 1.1, 1])
COLOURS = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, ["c-t1c.nii.gz: unreadable or truncated"]),
        (truncated_without_compression, ["c-t1c.nii: unreadable or truncated"]),
        (bomb, ["c-t1c.nii.gz: unreadable or truncated (ImageFileError: it unpacks to more than ", "than its header claims)"]),
        (
            claims(32767, 32767, 32767),
            ["c-t1c.nii.gz: its header says (32767, 32767, 32767) voxels; at most 1073741824 are read"],
        ),
        (claims(1700, 1700, 1700), ["c-t1c.nii.gz: its header says (1700, 1700, 1700) voxels; at most 1073741824 are read"]),
        (
            packed_otherwise,
            ["it is no gzip; if it is", "rename it to c-t1c.nii", "it is gzip; if it is", "rename it to c-t1n.nii.gz"],
        ),
        (without_checksum, ["c-t1c.nii.gz: unreadable or truncated"]),
        (lambda folder: (folder / "c-t1c.nii.gz").write_bytes(b""), ["c-t1c.nii.gz: unreadable or truncated"]),
        (lambda folder: (folder / "c-seg.nii.gz").write_text("no image"), ["c-seg.nii.gz: unreadable or truncated"]),
        (replaced("t1n", NOISE[:-1]), ["c-t1n.nii.gz: shape (13, 12, 10) differs from (14, 12, 10)", "c-t2f.nii.gz"]),
        (replaced("seg", blob(), TURNED), ["c-seg.nii.gz: affine differs by up to 0.3"]),
        (replaced("t1n", np.stack([NOISE] * 2, -1)), ["c-t1n.nii.gz: not 3D, its shape is (14, 12, 10, 2)"]),
        (
            replaced("t1n", NOISE, np.diag([1e-3, 1e-3, 1e-3, 1])),
            ["c-t1n.nii.gz: voxels of 0.001 x 0.001 x 0.001 mm", "in mm"],
        ),
        (replaced("t1n", NOISE, np.diag([1e3, 1e3, 1e3, 1])), ["c-t1n.nii.gz: voxels of 1e+03 x 1e+03 x 1e+03 mm", "in mm"]),
        (replaced("t1n", COLOURS), ["c-t1n.nii.gz: voxels of type", "allowed are integers and floats"]),
        (singular_affine, ["c-t1c.nii.gz: its affine has no inverse"]),
        (voxels(t2w=np.nan), ["c-t2w.nii.gz: 1 NaN or infinite voxels; where they are the background, write 0"]),
        (voxels(t2w=np.inf), ["c-t2w.nii.gz: 1 NaN or infinite voxels"]),
        (replaced("t2f", np.full(SHAPE, 7, np.int16)), ["c-t2f.nii.gz: a constant channel", "7"]),
        (
            replaced("seg", blob(9)),
            ["c-seg.nii.gz: labels that data.labels does not have: 9 (27 voxels)", "it has [0, 1, 2, 3]"],
        ),
        (replaced("seg", blob() * np.float32(0.5)), ["c-seg.nii.gz: labels that are no integers, such as 1.5"]),
        (replaced("seg", blob() * np.float32(np.nan)), ["c-seg.nii.gz: NaN or infinite labels"]),
        (replaced("seg", -blob().astype(np.int16)), ["labels that data.labels does not have: -3"]),
        (replaced("seg", blob(4)), ["c-seg.nii.gz: labels that data.labels does not have: 4 (27 voxels)"]),
        (replaced("seg", np.zeros(SHAPE, np.uint8)), ["c-seg.nii.gz: an empty mask"]),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_and_what_to_do(tmp_path, data_config, spoil, words):
    spoil(write_case(tmp_path, "c"))
    config = data_config()
    with pytest.raises(DataError) as error:
        read_case(only(tmp_path, config), config.classes)
    for expected in ("case c", "data.exclude=[c]", *words):
        assert expected in str(error.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_damaged_byte_of_a_compressed_image_goes_unseen(tmp_path, data_config, where, flip):
    path = write_case(tmp_path, "c") / "c-t1c.nii.gz"
    content = bytearray(path.read_bytes())
    payload = 10 + len(path.name.removesuffix(".gz")) + 1  # gzip's own header holds a time and a name, which do not matter
    content[payload + int(where * (len(content) - payload))] ^= flip
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(content)
    config = data_config()
    try:
        read_case(only(tmp_path, config), config.classes)
    except DataError as error:
        assert "c-t1c.nii.gz: " in str(error)
    else:  # there are two ways to write the same bytes
        assert gzip.decompress(content) == whole


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), name=st.sampled_from(["c-t1c.nii.gz", "c-t1c.nii"]))
def test_no_truncated_image_goes_unseen(tmp_path, data_config, where, name):
    content = (write_case(tmp_path, "c") / "c-t1c.nii.gz").read_bytes()
    (tmp_path / "c" / "c-t1c.nii.gz").unlink()
    (tmp_path / "c" / "c-t1c.nii").unlink(missing_ok=True)
    content = content if name.endswith(".gz") else gzip.decompress(content)
    (tmp_path / "c" / name).write_bytes(content[: int(where * len(content))])
    config = data_config()
    try:
        with pytest.raises(DataError, match=re.escape(f"{name}: unreadable or truncated")):
            read_case(only(tmp_path, config), config.classes)
    finally:
        (tmp_path / "c" / name).unlink()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edge=st.floats(0.2, 5), unit=st.sampled_from([("meter", 1e-3), ("micron", 1e3), ("mm", 1), ("unknown", 1)]))
def test_a_header_in_another_unit_is_refused_and_one_that_only_names_another_is_read(tmp_path, data_config, edge, unit):
    name, factor = unit
    folder, config = write_case(tmp_path, "c"), data_config()
    for file in folder.iterdir():
        for scale in (factor, 1):
            image = nib.Nifti1Image(np.asarray(nib.load(file).dataobj), np.diag([edge * scale] * 3 + [1]))
            image.header.set_xyzt_units(name)
            nib.save(image, file)
            if scale != 1:
                with pytest.raises(
                    DataError, match=f"{file.name}: voxels of .* mm, allowed .* the unit {name}, an affine is in mm"
                ):
                    read_case(only(tmp_path, config), config.classes)
    assert nib.affines.voxel_sizes(read_case(only(tmp_path, config), config.classes).affine) == pytest.approx([edge] * 3)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, 545), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    packed=st.booleans(),
)
@example([(76, bytes(32)), (500, b"\0\0\0\1")], nib.Nifti2Image, False)  # no size, and a unit that there is none of
@example([(42, b"\xff\x1f\xff\x1f\x08\0")], nib.Nifti1Image, False)  # half a gigabyte, of a file of 600 bytes
def test_any_header_is_read_or_refused_in_a_line_and_takes_no_memory(tmp_path, edits, kind, packed):
    content = bytearray(kind(blob(), AFFINE).to_bytes())
    for place, put in edits:
        content[place : place + len(put)] = put
    path = tmp_path / ("c.nii.gz" if packed else "c.nii")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (lambda: read_label(path, {2: 2, 3: 3}), lambda: read_scan(path)):
        try:
            read()
        except DataError as error:
            assert path.name in str(error) and "\n" not in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "kB: what it claims is not taken"


def test_all_problems_of_a_case_come_at_once(tmp_path, data_config):
    folder = write_case(tmp_path, "c", t1n=NOISE[:-1], t2w=np.full(SHAPE, 7, np.int16), seg=blob(9))
    truncated(folder)
    config = data_config()
    with pytest.raises(DataError) as error:
        read_case(only(tmp_path, config), config.classes)
    for words in (
        "4 problems",
        "c-t1c.nii.gz: unreadable",
        "c-t1n.nii.gz: shape",
        "c-t2w.nii.gz: a constant",
        "does not have: 9",
    ):
        assert words in str(error.value)


def test_a_map_may_drop_labels_but_not_the_whole_mask(tmp_path, data_config):
    write_case(tmp_path, "c")
    case = only(tmp_path, data_config())
    assert np.unique(read_case(case, {2: 0, 3: 3}).label).tolist() == [0, 3]
    with pytest.raises(DataError, match="an empty mask"):
        read_case(case, {2: 0, 3: 0})


def test_background_stays_background_whatever_the_map_says(tmp_path, data_config):
    write_case(tmp_path, "c")
    np.testing.assert_array_equal(read_case(only(tmp_path, data_config()), {0: 1, 2: 2, 3: 3}).label, blob())


def test_older_labels_are_mapped(tmp_path, data_config):
    write_case(tmp_path, "c", seg=blob(4))
    config = data_config(labels="brats2021")
    np.testing.assert_array_equal(read_case(only(tmp_path, config), config.classes).label, blob(3))


def test_small_differences_between_affines_are_rounding(tmp_path, data_config):
    save(write_case(tmp_path, "c") / "c-seg.nii.gz", blob(), AFFINE + 1e-5)
    config = data_config()
    assert read_case(only(tmp_path, config), config.classes).label.any()


def test_reading_imports_neither_torch_nor_mlflow():
    code = "import sys, medexp.data.volumes.prepared; sys.exit(bool({'torch', 'mlflow', 'monai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
