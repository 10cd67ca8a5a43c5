import json
import os

import numpy as np
import pytest

from medexp.data.images.facts import VERSION, describe_images, read_image
from medexp.data.images.kaggle import find_kaggle
from medexp.data.images.slices import find_slices
from medexp.data.kept import keep_record, known_record
from medexp.errors import DataError
from tests.data.images.small_images import kaggle_folder, mask_of, pixels, write_picture, write_slice


def describe(folder, config, cache):
    find = find_kaggle if (folder / "yes").exists() else find_slices
    return describe_images(find(folder, config.patient_pattern), config, cache)


def test_facts_of_slices(tmp_path, image_config):
    write_slice(tmp_path / "s", "P1-000", 1, seed=1, tumour=9)
    write_slice(tmp_path / "s", "P1-000", 2, seed=2, tumour=10)
    write_slice(tmp_path / "s", "P2-000", 1, seed=1, tumour=10)
    one, two, three = describe(tmp_path / "s", image_config(), tmp_path / "cache")
    assert (one.case, two.case, three.case) == ("P1-000_slice_001", "P1-000_slice_002", "P2-000_slice_001")
    assert one.shape == (40, 32) and (one.tumour_pixels, two.tumour_pixels) == (9, 10)
    assert (one.label, two.label) == (0, 1), "a tumour from 10 mask pixels on"
    assert (one.patient, three.patient) == ("P1", "P2"), "as the metadata says"
    assert one.voxels_sha256 == three.voxels_sha256 and one.sha256 != three.sha256
    assert len({one.voxels_sha256, two.voxels_sha256}) == 2 and len(one.sha256) == 64
    write_slice(tmp_path / "s", "P2-000", 1, seed=1, mask=mask_of(10)[::-1])
    assert describe(tmp_path / "s", image_config(), tmp_path / "cache")[2].sha256 != three.sha256, "of another mask too"
    again = describe(tmp_path / "s", image_config(min_tumour_pixels=9), tmp_path / "cache")
    assert [fact.label for fact in again] == [1, 1, 1] and again[0].sha256 != one.sha256 and again[1] == two


def test_shape_is_part_of_the_digest(tmp_path, image_config):
    for name, shape in (("A-0", (1, 40, 32)), ("B-0", (1, 32, 40))):
        image = pixels(1).astype(np.float32).reshape(shape)
        write_slice(tmp_path / "s", name, 1, image=image, mask=np.zeros(shape[1:], np.uint8))
    one, two = describe(tmp_path / "s", image_config(), tmp_path / "cache")
    assert one.voxels_sha256 != two.voxels_sha256


@pytest.mark.parametrize("jobs", [1, 2])
def test_only_what_changed_is_read_again(tmp_path, image_config, jobs, capsys):
    config, cache = image_config(jobs=jobs), tmp_path / "cache"
    folder = kaggle_folder(tmp_path / "k", yes=40, no=3)
    path = folder / "yes" / "same-size.npz"
    np.savez(path, image=pixels(55))
    before = describe(folder, config, cache)
    yes, no = sorted(capsys.readouterr().err.splitlines(), reverse=True)
    assert yes.startswith("Reading yes") and " 41/41 " in yes and " 3/3 " in no, "pictures, however many go at a time"
    entries = sorted((cache / "images").iterdir())
    assert len(entries) == 2, "one file for each folder"
    for entry in entries:
        content = known_record(entry)
        for record in content["files"].values():
            record["pixels_sha256"] = "f" * 64
        keep_record(entry, content)
    state = path.stat()
    np.savez(path, image=pixels(56))
    assert path.stat().st_size == state.st_size
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    write_picture(folder / "yes" / "new.png")
    after = {fact.case: fact.voxels_sha256 for fact in describe(folder, config, cache)}
    assert len(after) == len(before) + 1
    assert {case for case, digest in after.items() if digest != "f" * 64} == {"yes-same-size.npz", "yes-new.png"}


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", f'{{"version": {VERSION}}}', f'{{"version": {VERSION}, "files": [1]}}', '{"version": 1, "files": {}}'],
)
def test_a_damaged_cache_is_computed_anew(tmp_path, image_config, damage):
    folder = kaggle_folder(tmp_path / "k", 2, 2)
    before = describe(folder, image_config(), tmp_path / "cache")
    for entry in (tmp_path / "cache" / "images").iterdir():
        entry.write_text(damage)
    assert describe(folder, image_config(), tmp_path / "cache") == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_bad_images_come_in_one_error_and_the_good_ones_are_kept(tmp_path, image_config, jobs):
    folder = kaggle_folder(tmp_path / "k", 40, 3)
    for name in ("yes/bad.png", "no/worse.jpg"):
        (folder / name).write_text("no picture")
    with pytest.raises(DataError) as error:
        describe(folder, image_config(jobs=jobs), tmp_path / "cache")
    for words in ("2 of 45 images cannot be used", "yes/bad.png: unreadable", "no/worse.jpg: unreadable"):
        assert words in str(error.value)
    known = [len(json.loads(entry.read_text())["files"]) for entry in (tmp_path / "cache" / "images").iterdir()]
    assert sorted(known) == [3, 40]
    for number in range(30):
        (folder / "no" / f"{number}.png").write_text("no picture")
    with pytest.raises(DataError, match="32 of 75 images.*\n(.*\n)+  - and 12 more"):
        describe(folder, image_config(), tmp_path / "cache")


def test_read_image_is_as_stored(tmp_path):
    write_slice(tmp_path / "s", "P-0", 1, seed=4, tumour=12)
    (image,) = find_slices(tmp_path / "s", "(.*)")
    stored, mask = read_image(image)
    np.testing.assert_array_equal(stored, pixels(4))
    np.testing.assert_array_equal(mask, mask_of(12))
    picture = find_kaggle(kaggle_folder(tmp_path / "k", 1, 1), "(.*)")[0]
    stored, mask = read_image(picture)
    assert stored.shape == (40, 32) and mask is None
