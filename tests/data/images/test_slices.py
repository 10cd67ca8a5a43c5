import json
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from medexp.config.data import SliceConfig
from medexp.data.images.kaggle import read_kaggle
from medexp.data.images.slices import FORMAT, cut_slices, find_slices, read_slice
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.facts import describe_cases
from medexp.errors import ConfigError, DataError, StorageError
from tests.data.images.small_images import LEGACY, Bomb, mask_of, pixels, write_slice
from tests.data.volumes.small_cases import AFFINE, SHAPE, blob, save, write_case

PATTERN = r"^(P\d+)-\d+$"


def settings(channel="t2f", every=1, min_foreground=0.1):
    return SliceConfig(channel, every, min_foreground)


@pytest.fixture
def cut(tmp_path, data_config):
    def run(slices=settings(), folder=tmp_path / "slices", jobs=1, pattern=PATTERN):  # noqa: B008
        config = data_config(patient_pattern=pattern)
        cases = find_cases(tmp_path / "data", config)
        digests = {fact.case: fact.sha256 for fact in describe_cases(cases, config, tmp_path / "cache")}
        return cut_slices(cases, digests, config.classes, slices, folder, jobs)

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".npz")


def test_a_slice_holds_image_mask_and_metadata(tmp_path, cut):
    folder = write_case(tmp_path / "data", "P1-000")
    assert cut() == 8  # the first and the last slice of a case hold no brain
    path = tmp_path / "slices" / "P1-000_slice_004.npz"
    content = read_slice(path)
    assert content.image.dtype == np.float32 and content.image.shape == (1, SHAPE[1], SHAPE[0])
    assert content.mask.dtype == np.uint8 and content.mask.shape == (SHAPE[1], SHAPE[0])
    # AFFINE points to the left and to the back, which is how radiologists see it: a slice is the transposed voxels
    voxels = np.asanyarray(nib.load(folder / "P1-000-t2f.nii.gz").dataobj)
    np.testing.assert_array_equal(content.image[0], voxels[:, :, 4].T)
    np.testing.assert_array_equal(content.mask, blob()[:, :, 4].T)
    digest = content.metadata["volume_sha256"]
    assert len(digest) == 64 and content.metadata == {
        "format": FORMAT,
        "case": "P1-000",
        "patient": "P1",
        "slice": 4,
        "channel": "t2f",
        "spacing": [2.0, 2.0],
        "volume_sha256": digest,
    }
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["image", "mask", "metadata"] and arrays["metadata"].dtype.kind == "U"


@pytest.mark.parametrize("axes", ["LPS", "RAS", "ASL", "SPR"])
def test_rows_run_from_front_to_back_and_columns_from_right_to_left(tmp_path, cut, axes):
    """Whatever the orientation of the file: a bright corner at the patient's right front top is where it belongs."""
    voxels = np.random.default_rng(0).integers(90, 110, (14, 12, 10)).astype(np.int16)  # along R, A, S
    voxels[10:, 9:, 7:] = 900
    affine = np.diag([2.0, 2, 3, 1])
    label = np.zeros(voxels.shape, np.uint8)
    label[11:, 10:, 8:] = 3
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    for name in ("t2f", "t1c", "t1n", "t2w", "seg"):
        turned = nib.Nifti1Image(label if name == "seg" else voxels, affine).as_reoriented(turn)
        save(tmp_path / "data" / "P1-000" / f"P1-000-{name}.nii.gz", np.asanyarray(turned.dataobj), turned.affine)
    cut()
    content = read_slice(tmp_path / "slices" / "P1-000_slice_009.npz")
    bright = np.argwhere(content.image[0] == 900)
    assert content.image.shape == (1, 12, 14)
    assert bright.min(axis=0).tolist() == [0, 0] and bright.max(axis=0).tolist() == [2, 3]
    assert np.argwhere(content.mask).max(axis=0).tolist() == [1, 2]
    assert read_slice(tmp_path / "slices" / "P1-000_slice_007.npz").image.max() == 900
    assert not read_slice(tmp_path / "slices" / "P1-000_slice_007.npz").mask.any(), "the tumour begins a slice above"


def test_pixels_that_are_not_square_are_resampled(tmp_path, cut):
    """The same disc on pixels of 1 x 2 mm comes out round and where it was."""
    r, a = np.meshgrid(np.arange(40) * 1.0 - 19.5, np.arange(20) * 2.0 - 19, indexing="ij")
    disc = np.broadcast_to((np.hypot(r - 4, a - 6) < 8)[:, :, None], (40, 20, 6))
    images = {name: np.where(disc, 900, 100).astype(np.int16) for name in ("t2f", "t1c", "t1n", "t2w")}
    for name, voxels in {**images, "seg": np.where(disc, 3, 0).astype(np.uint8)}.items():
        save(tmp_path / "data" / "P1-000" / f"P1-000-{name}.nii.gz", voxels, np.diag([1.0, 2, 3, 1]))
    cut()
    content = read_slice(tmp_path / "slices" / "P1-000_slice_003.npz")
    assert content.mask.shape == (40, 40) and content.metadata["spacing"] == [1.0, 1.0]
    rows, columns = np.nonzero(content.mask)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=2)
    assert (rows.mean(), columns.mean()) == (pytest.approx(19.5 - 6, abs=1), pytest.approx(19.5 - 4, abs=1))
    assert set(np.unique(content.mask)) == {0, 3}


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    padding=st.sampled_from([999, 32767]) | st.integers(-32768, -2000),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    corner=st.booleans(),
)
def test_padding_and_the_order_of_axes_change_no_pixel(tmp_path_factory, data_config, padding, order, flips, corner):
    """A volume that lies along any axes of its file, around the brain any value, or air and in two corners any value."""
    voxels = np.random.default_rng(0).integers(100, 900, SHAPE).astype(np.int16)
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    filled = ~brain
    if corner:
        filled = np.indices(SHAPE).sum(0) < 6
        filled |= filled[::-1, ::-1]
    cut = {}
    for name, value in (("plain", 0), ("padded", padding)):
        root = tmp_path_factory.mktemp("slices")
        stored = np.where(filled, value, np.where(brain, voxels, 0)).astype(np.int16)
        turn = np.array([*zip(order, flips, strict=True)] if name == "padded" else [(axis, 1) for axis in range(3)], float)
        for channel in ("t2f", "t1c", "t1n", "t2w", "seg"):
            content = blob() if channel == "seg" else stored
            turned = nib.Nifti1Image(content, AFFINE).as_reoriented(turn)
            save(root / "data" / "P1-000" / f"P1-000-{channel}.nii.gz", np.asanyarray(turned.dataobj), turned.affine)
        config = data_config(patient_pattern=PATTERN)
        cases = find_cases(root / "data", config)
        assert cut_slices(cases, {"P1-000": "x"}, config.classes, settings(), root / "slices", 1) == 6
        cut[name] = [read_slice(path) for path in sorted((root / "slices").glob("*.npz"))]
    for plain, padded in zip(cut["plain"], cut["padded"], strict=True):
        tissue = plain.image != 0
        np.testing.assert_array_equal(padded.image[tissue], plain.image[tissue])
        np.testing.assert_array_equal(padded.mask, plain.mask)
        assert len(np.unique(padded.image[~tissue])) == 1 and padded.image[~tissue].max() <= plain.image[tissue].min()


def test_a_volume_whose_axes_lean_is_not_sheared(tmp_path, cut):
    leaning = AFFINE @ np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    folder = write_case(tmp_path / "data", "P1-000")
    for path in folder.iterdir():
        save(path, np.asanyarray(nib.load(path).dataobj), leaning)
    with pytest.raises(DataError, match="case P1-000: its axes lean by 17 degrees, and slices along them would be sheared"):
        cut()


def test_which_slices_are_kept(tmp_path, cut):
    brain = np.zeros(SHAPE, np.int16)
    brain[3:11, 3:9, 1:4] = 500  # 48 of 168 pixels
    brain[3:5, 3:5, 4:9] = 500  # 4 of 168
    write_case(tmp_path / "data", "P1-000", t1c=brain)
    assert cut(settings("t1c", 1, 0.2)) == 3
    assert cut(settings("t1c", 1, 0.02), tmp_path / "more") == 8
    assert cut(settings("t1c", 1, 0.0), tmp_path / "blank") == 8, "blank slices are never kept"
    assert cut(settings("t1c", 3, 0.0), tmp_path / "third") == 2
    assert names(tmp_path / "third") == ["P1-000_slice_003.npz", "P1-000_slice_006.npz"]


def test_time_points_of_a_patient_do_not_collide(tmp_path, cut):
    for name in ("P1-000", "P1-001", "P2-000"):
        write_case(tmp_path / "data", name, seed=int(name[1]))
    assert cut(jobs=2) == 24
    found = find_slices(tmp_path / "slices", PATTERN)
    assert {(image.scan, image.patient) for image in found} == {("P1-000", "P1"), ("P1-001", "P1"), ("P2-000", "P2")}
    assert [image.id for image in found] == sorted(path.removesuffix(".npz") for path in names(tmp_path / "slices"))
    assert {(image.source, image.label) for image in found} == {("brats", None)}


def test_cutting_again_is_nothing_and_other_data_or_settings_an_error(tmp_path, cut):
    write_case(tmp_path / "data", "P1-000")
    assert cut() == 8
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "slices").iterdir()}
    assert cut() == 8
    with pytest.raises(
        DataError, match=r"slices_dir .*slices: 2 problems[^$]*cut with channel t2f, not t1c[^$]*every 1, not 2"
    ):
        cut(settings("t1c", 2))
    with pytest.raises(DataError, match="of cases of other patients"):  # which a slice names: splits would follow the old ones
        cut(pattern=r"^(P)\d+-\d+$")
    write_case(tmp_path / "data", "P2-000", seed=1)
    with pytest.raises(DataError, match="it holds slices of other cases or of cases of other patients. Give another folder"):
        cut()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "slices").iterdir()} == written
    shutil.rmtree(tmp_path / "data" / "P2-000")
    next(iter((tmp_path / "slices").glob("*.npz"))).unlink()
    with pytest.raises(DataError, match="it holds 7 slices where 8 were cut"):
        cut()


@pytest.mark.parametrize(
    "fill",
    [
        lambda folder: (folder.mkdir(), (folder / "thesis.tex").write_text("")),
        lambda folder: folder.write_text("a file"),
        lambda folder: (folder.mkdir(), (folder / "slices.json").write_text("[]")),
        lambda folder: (folder.mkdir(), (folder / "slices.json").write_text("{}")),
    ],
)
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, cut, fill):
    write_case(tmp_path / "data", "P1-000")
    fill(tmp_path / "slices")
    with pytest.raises(DataError, match="slices: holds other things; give a folder that is new or empty"):
        cut()
    assert not list(tmp_path.glob("**/*.npz"))


def test_an_empty_folder_is_filled(tmp_path, cut):
    write_case(tmp_path / "data", "P1-000")
    (tmp_path / "slices").mkdir()
    assert cut() == len(names(tmp_path / "slices")) == 8


def test_when_no_slice_is_kept_nothing_is_left(tmp_path, cut):
    write_case(tmp_path / "data", "P1-000")
    with pytest.raises(DataError, match="none of the 1 cases has a slice of which 99% is brain. Lower slices.min_foreground"):
        cut(settings(min_foreground=0.99))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, cut):
    write_case(tmp_path / "data", "P1-000")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="slices_dir .*file/slices: cannot be written"):
        cut(folder=tmp_path / "file" / "slices")


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    write_case(tmp_path / "data", "P1-000")
    code = (
        "import resource, sys, pathlib\n"
        "from medexp.config.data import SliceConfig\n"
        "from medexp.data.volumes.brats import find_cases\n"
        "from medexp.data.images.slices import cut_slices\n"
        "from medexp.errors import StorageError\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "from tests.small import data_config\n"
        "data = data_config(patient_pattern='(.*)')\n"
        "cases = find_cases(root / 'data', data)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: cut_slices(cases, {'P1-000': 'd'}, data.classes, SliceConfig('t2f', 1, 0.1), root / 'slices', 1)\n"
        "except StorageError as error: print(error)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True)
    assert "slices: cannot be written (File too large); free space" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_without_slices(tmp_path):
    with pytest.raises(DataError, match="slices_dir .*nowhere: no such folder. Cut some: mlflow run . -e prepare"):
        find_slices(tmp_path / "nowhere", PATTERN)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden_slice_001.npz").write_text("")
    with pytest.raises(DataError, match="holds no file of the name SCAN_slice_NNN.npz. Cut some: mlflow run . -e prepare"):
        find_slices(tmp_path, PATTERN)
    for name in ("train", "val"):
        write_slice(tmp_path / name, "P1-000", 1)
    with pytest.raises(DataError, match="SCAN_slice_NNN.npz; train, val in it do: put their files into one folder"):
        find_slices(tmp_path, PATTERN)
    for name in ("a.npz", "b_slice_x.npz", "P1-000_slice_001.npz"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"2 problems\n  - a.npz: is not named SCAN_slice_NNN.npz\n  - b_slice_x.npz"):
        find_slices(tmp_path, PATTERN)


@pytest.mark.parametrize("pattern", ["(", "P1"])
def test_a_pattern_that_names_no_patient(tmp_path, pattern):
    with pytest.raises(ConfigError, match="data.patient_pattern"):
        find_slices(tmp_path, pattern)


@pytest.mark.parametrize(
    "metadata", [np.array(LEGACY, object), np.array([LEGACY], object), None], ids=["a pickle", "a list of pickles", "none"]
)
def test_older_files_are_read_without_unpickling(tmp_path, metadata):
    path = write_slice(tmp_path, "BraTS-GLI-00005-000", 77, seed=3, tumour=20, metadata=metadata)
    content = read_slice(path)
    np.testing.assert_array_equal(content.image[0], pixels(3))
    assert np.count_nonzero(content.mask == 3) == 20
    assert content.metadata == {"case": "BraTS-GLI-00005-000", "slice": 77}


@pytest.mark.parametrize("name", ["image", "mask", "metadata"])
def test_a_pickle_bomb_never_goes_off(tmp_path, name):
    mark = tmp_path / "boom"
    bomb = np.array([Bomb(mark)], object)
    path = write_slice(tmp_path, "P1-000", 1, **{name: bomb})
    if name == "metadata":
        assert read_slice(path).metadata["case"] == "P1-000"
    else:
        with pytest.raises(DataError, match=f"{path.name}: '{name}' is a pickle, which is not opened"):
            read_slice(path)
    assert not mark.exists()
    with np.load(path, allow_pickle=True) as arrays:
        arrays[name]  # the bomb is a real one
    assert mark.exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"image": None}, ["no array 'image'"]),
        ({"mask": None}, ["no array 'mask'"]),
        ({"image": None, "mask": None}, ["2 problems", "no array 'image'", "no array 'mask'"]),
        ({"image": np.ones((4, 40, 32))}, ["'image' has the shape (4, 40, 32)", "(1, H, W)"]),
        ({"image": np.ones((40, 0))}, ["'image' has the shape (40, 0)"]),
        ({"image": np.array("text")}, ["'image' is of type <U4"]),
        ({"image": np.ones((40, 32), complex)}, ["'image' is of type complex128"]),
        ({"image": np.full((40, 32), np.nan)}, ["'image' has values that are NaN"]),
        ({"image": np.full((40, 32), np.inf)}, ["'image' has values that are NaN, infinite"]),
        ({"image": np.full((40, 32), 1e200)}, ["beyond 1e+30"]),
        ({"mask": np.zeros((9, 9), np.uint8)}, ["image (1, 40, 32) and mask (9, 9) differ in shape"]),
        ({"mask": np.full((40, 32), 2.5)}, ["mask holds 2.5; allowed are 0, 1, 2, 3 and 4"]),
        ({"mask": np.full((40, 32), 7, np.uint8)}, ["mask holds 7; allowed are 0, 1, 2, 3 and 4"]),
        ({"mask": np.full((40, 32), -1)}, ["mask holds -1"]),
        ({"mask": np.full((40, 32), 0.5)}, ["mask holds 0.5"]),
        ({"metadata": np.array("{")}, ["its metadata is no JSON object"]),
        ({"metadata": np.array("[" * 100_000)}, ["its metadata is no JSON object"]),
        ({"metadata": np.array("[]")}, ["its metadata is no JSON object"]),
        ({"metadata": np.array(["{}", "{}"])}, ["its metadata is no JSON object"]),
        ({"metadata": np.zeros(3)}, ["its metadata is no JSON object"]),
        ({"metadata": np.array("{}")}, ["format None; this version reads 'medexp-slice-1'"]),
        ({"metadata": np.array(json.dumps({"format": FORMAT}))}, ["names no patient"]),
        (
            {"metadata": np.array(json.dumps({"format": FORMAT, "patient": "P9", "case": "P9-000", "slice": 1}))},
            ["its metadata says {'case': 'P9-000', 'slice': 1}", "was it renamed?"],
        ),
    ],
)
def test_a_bad_file_is_one_error_with_all_its_problems(tmp_path, changed, words):
    path = write_slice(tmp_path, "P1-000", 1, **changed)
    with pytest.raises(DataError) as error:
        read_slice(path)
    for expected in (path.name, *words):
        assert expected in str(error.value)


def test_masks_of_other_kinds_are_taken(tmp_path):
    four = np.where(mask_of(12) > 0, 4, 0)
    for mask in (four, four.astype(np.float64), four[None]):
        content = read_slice(write_slice(tmp_path, "P1-000", 1, mask=mask))
        np.testing.assert_array_equal(content.mask, mask_of(12))
    yes_or_no = read_slice(write_slice(tmp_path, "P1-000", 1, mask=four > 0))
    assert yes_or_no.mask.dtype == np.uint8 and yes_or_no.mask.max() == 1


def npz_with_header(path: Path, shape: str, descr: str = "<f4", body: bytes = b"") -> Path:
    """An .npz whose image claims a shape."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", member)
    return path


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("(200000, 200000)", "image claims the shape (200000, 200000); allowed are 256 MiB"),
        ("(9999999999999, 9999999999999)", "image claims the shape"),
        ("(-5, 5)", "image claims the shape (-5, 5)"),
        ("(40, 32)", "unreadable or truncated"),
        ("(40, 'x')", "unreadable or truncated"),
        ("(((", "unreadable or truncated"),
    ],
)
def test_absurd_shapes_are_refused_before_memory_is_taken(tmp_path, shape, words):
    path = npz_with_header(tmp_path / "P1-000_slice_001.npz", shape)
    with pytest.raises(DataError) as error:
        read_slice(path)
    assert words in str(error.value) and path.name in str(error.value)


def test_a_zip_bomb_is_refused(tmp_path):
    path = npz_with_header(tmp_path / "P1-000_slice_001.npz", "(1, 8500, 8500)", body=bytes(4 * 8500 * 8500))
    assert path.stat().st_size < 400_000
    with pytest.raises(DataError, match="allowed are 256 MiB"):
        read_slice(path)


@pytest.mark.parametrize("content", [b"", b"this is no archive", b"PK\x03\x04 nor this"])
def test_what_is_no_archive(tmp_path, content):
    path = tmp_path / "P1-000_slice_001.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="P1-000_slice_001.npz: unreadable or truncated"):
        read_slice(path)


@given(place=st.floats(0, 1), value=st.integers(0, 255), keep=st.floats(0.2, 1))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, place, value, keep):
    path = write_slice(tmp_path_factory.mktemp("damaged"), "P1-000", 1)
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] = value
    path.write_bytes(content[: int(keep * len(content))])
    try:
        read_slice(path)
    except DataError as error:
        assert path.name in str(error)


EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=4)


@examples(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["image", "mask", "metadata", "label"]), edits=EDITS, keep=st.floats(0.5, 1))
@example("image", [(0.53, b"9999999,")], 1.0)  # in the shape
@example("metadata", [(0.1, b"<U99999 ")], 1.0)
def test_any_array_of_a_file_is_read_or_refused_in_a_line_and_takes_no_memory(tmp_path, name, edits, keep):
    """Inside the archive, whose checksums would stop every change outside."""
    whole, path = write_slice(tmp_path, "P1-000", 1, label=np.array(1)), tmp_path / "P1-000_slice_002.npz"
    with zipfile.ZipFile(whole) as good, zipfile.ZipFile(path, "w") as made:
        for member in good.namelist():
            content = bytearray(good.read(member))
            for place, put in edits if member == f"{name}.npy" else ():
                begin = int(place * min(len(content), 256))
                content[begin : begin + len(put)] = put
            made.writestr(member, bytes(content[: int(keep * len(content))] if member == f"{name}.npy" else content))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_slice, read_kaggle):
        try:
            read(path)
        except DataError as error:
            assert path.name in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "kB: what it claims is not taken"


def test_labels_that_are_integers_but_for_a_rounding_are_these(tmp_path: Path) -> None:
    """nibabel 1344: a mask saved by its header's scale factor holds 2.9999999993."""
    path = write_slice(tmp_path, "P1", 3, mask=mask_of(12).astype(np.float64) * 0.9999999)
    assert np.array_equal(read_slice(path).mask, mask_of(12))
