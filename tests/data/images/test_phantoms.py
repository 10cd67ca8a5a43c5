import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from medexp.config.data import ImagePhantomConfig
from medexp.data.images.kaggle import find_kaggle, read_kaggle
from medexp.data.images.phantoms import SLICES, ensure_kaggle, ensure_slices, scan_picture
from medexp.data.images.prepared import prepare_images
from medexp.data.images.slices import find_slices, read_slice
from medexp.data.volumes.phantoms import PATIENT_PATTERN
from medexp.data.volumes.phantoms.head import Head
from medexp.errors import StorageError

YES, NO = 30, 20


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(cache):
    return ensure_kaggle(YES, NO, 3, cache)


def digest(path):
    pixels = read_kaggle(path)[0]
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def test_pictures_come_in_the_sizes_modes_and_formats_of_many_hands(folder):
    kinds, shapes = set(), set()
    for path in folder.glob("*/*"):
        with Image.open(path) as image:
            kinds.add((image.format, image.mode))
            shapes.add(image.size)
    assert {("JPEG", "L"), ("JPEG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "I;16")} <= kinds
    assert len(shapes) > 30 and min(map(min, shapes)) > 100
    assert len(list((folder / "yes").iterdir())) == YES and len(list((folder / "no").iterdir())) == NO


def test_some_are_exact_duplicates_under_other_names(folder):
    for name, duplicates in (("yes", 3), ("no", 2)):
        files = sorted((folder / name).iterdir())
        counts = Counter(map(digest, files))
        assert len(files) - len(counts) == duplicates and max(counts.values()) == 2
    both = [{digest(path) for path in (folder / name).iterdir()} for name in ("yes", "no")]
    assert not both[0] & both[1]


def test_what_a_picture_is_does_not_tell_its_class(folder):
    """Endings and sizes are drawn alike for both."""
    endings = [Counter(path.suffix for path in (folder / name).iterdir()) for name in ("yes", "no")]
    assert len(set(endings[0]) & set(endings[1])) >= 3


def test_a_picture_shows_the_tumour_that_it_is_filed_under():
    shown = {
        tumour: [np.count_nonzero(scan_picture((n,), tumour, np.random.default_rng(n))[1]) for n in range(12)]
        for tumour in (True, False)
    }
    assert not any(shown[False]) and all(shown[True])
    assert np.median(shown[True]) > 100


def test_a_head_without_a_tumour_is_its_twin_but_for_it():
    points = np.random.default_rng(0).uniform(-70, 70, (20_000, 3)).astype(np.float32)
    for domain in ("glioma", "meningioma"):
        image, label, brain = Head(domain, (9, 9)).scan(points, 0)
        healthy, nothing, same = Head(None, (9, 9)).scan(points, 0)
        assert label.any() and not nothing.any()
        np.testing.assert_array_equal(brain, same)
        differs = np.abs(image - healthy).max(axis=0) > 0.05
        assert differs.mean() < 0.25 and (differs & (label > 0)).sum() > 0.5 * np.count_nonzero(label)
        assert (healthy.max(axis=0)[brain] > 0).all()


@pytest.mark.parametrize(
    ("domain", "labels", "means"),
    [
        ("glioma", [3985, 1, 13, 1], (0.52886543, 0.47895528, 0.42994576, 0.57759719)),
        ("meningioma", [3984, 0, 10, 6], (0.52896795, 0.47966494, 0.43016127, 0.57748533)),
    ],
)
def test_heads_with_a_tumour_are_what_they_were(domain, labels, means):
    """Figures of an earlier version's: registered models were judged on these volumes."""
    points = np.random.default_rng(0).uniform(-80, 80, (4000, 3)).astype(np.float32)
    image, label, _ = Head(domain, (0, 1, 5, 0)).scan(points, 1)
    assert np.bincount(label, minlength=4).tolist() == labels
    assert image.astype(np.float64).mean(axis=1) == pytest.approx(means, abs=1e-6)


def test_pictures_follow_from_seed_number_and_class_whatever_their_number(folder, tmp_path):
    few = ensure_kaggle(9, 8, 3, tmp_path)
    originals = {digest(path): path.name for path in folder.glob("*/*")}
    for name, count in (("yes", 8), ("no", 7)):
        for number in range(1, count + 1):
            (path,) = (few / name).glob(f"{name[0].upper()}{number}.*")
            assert path.read_bytes() == (folder / name / path.name).read_bytes()
    other = ensure_kaggle(9, 8, 4, tmp_path)
    assert not {digest(path) for path in other.glob("*/*")} & set(originals)


def test_slices_show_the_tumours_of_the_volumes(cache):
    folder = ensure_slices(5, 3, cache, 1)
    slices = find_slices(folder, PATIENT_PATTERN)
    assert {image.patient for image in slices} == {f"BraTS-MEN-30000{n}" for n in range(1, 6)}
    shown = Counter(bool(read_slice(image.path).mask.any()) for image in slices)
    assert shown[True] > 10 and shown[False] > 10
    for image in slices[::9]:
        content = read_slice(image.path)
        assert content.metadata["channel"] == SLICES.channel and content.metadata["slice"] % 2 == 0
        assert content.image[content.mask[None] > 0].size == 0 or content.image[content.mask[None] > 0].min() > 0


def test_both_are_prepared_and_no_patient_is_in_two(cache, image_config):
    data = prepare_images(None, None, image_config(split_seed=42), ImagePhantomConfig(5, 12, 10, 3), cache)
    assert data.source == "slices of meningioma phantoms and Kaggle-like phantoms"
    assert Counter(data.dropped["reason"].str.partition(" of ")[0]) == {"exact duplicate": 2}
    counts = data.manifest.groupby(["source", "split"]).size()
    assert counts["kaggle", "train"] == 7 + 6 and counts["kaggle", "val"] == 2
    assert (data.manifest.groupby("patient")["split"].nunique() == 1).all()
    for source in ("brats", "kaggle"):
        only = prepare_images(None, None, image_config(split_seed=42), ImagePhantomConfig(5, 12, 10, 3), cache, (source,))
        assert set(only.manifest["source"]) == {source}
        assert {case for case in data.ids("train") if case in only.cases} == set(only.ids("train"))


def test_written_once_and_whole(tmp_path):
    for ensure in (lambda: ensure_kaggle(8, 8, 0, tmp_path), lambda: ensure_slices(4, 0, tmp_path, 1)):
        folder = ensure()
        written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        assert ensure() == folder
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    assert not [path.name for path in (tmp_path / "phantoms").iterdir() if path.name.startswith(".")]


def test_processes_that_write_at_once_agree(tmp_path):
    code = (
        "import sys, pathlib, joblib; from medexp.data.images.phantoms import ensure_slices, ensure_kaggle\n"
        "joblib.parallel_config(backend='threading')\n"
        "print(ensure_slices(4, 0, pathlib.Path(sys.argv[1]), 1)); print(ensure_kaggle(8, 8, 0, pathlib.Path(sys.argv[1])))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0] and told[0] == told[1]
    assert not [path.name for path in (tmp_path / "phantoms").iterdir() if path.name.startswith(".")]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "phantoms").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="kaggle-8-8.*cannot be written"):
        ensure_kaggle(8, 8, 0, tmp_path)


def test_images_of_a_class_are_found(folder):
    assert Counter(image.label for image in find_kaggle(folder, PATIENT_PATTERN)) == {1: YES, 0: NO}
