import json
import re

import numpy as np
import pytest

from medexp.data.images.prepared import prepare_images
from medexp.data.manifest import seen_cases
from medexp.errors import ConfigError, DataError
from tests.data.images.small_images import PHANTOMS, kaggle_folder, pixels, slices_folder, write_picture, write_slice


def test_the_manifest_has_what_runs_and_packages_need(prepare):
    data = prepare()
    table = data.manifest
    assert list(table.columns) == [
        *("case", "patient", "scan", "source", "label", "tumour_pixels", "height", "width", "split", "sha256", "voxels_sha256")
    ]
    assert list(table["case"]) == sorted(data.cases) and len(table) == 18 + 12
    assert table["tumour_pixels"].isna().sum() == 12 and set(table["label"]) == {0, 1}
    assert set(table[table["source"] == "brats"]["scan"]) == {f"BraTS-MEN-{n:05d}-000" for n in range(6)}
    for split in ("train", "val", "test"):
        rows = table[table["split"] == split]
        assert data.ids(split) == tuple(rows["case"])
        assert set(rows["source"]) == {"brats", "kaggle"}
    assert (table.groupby("patient")["split"].nunique() == 1).all()
    assert sorted(data.digests) == ["test", "train", "val"] and all(len(digest) == 32 for digest in data.digests.values())
    seen = seen_cases(table, data.facts.values())
    assert len(seen) == len(table) and seen.notna().all(axis=None)
    assert data.source.endswith("kaggle") and "slices, " in data.source


def test_the_seed_draws_the_splits_and_not_the_data(prepare):
    drawn = [prepare(split_seed=seed) for seed in (0, 0, 1, 2)]
    assert drawn[0].splits == drawn[1].splits and len({data.splits for data in drawn}) > 1
    assert len({data.digest for data in drawn}) == 1


@pytest.mark.parametrize(("source", "other"), [("brats", "kaggle"), ("kaggle", "brats")])
def test_one_folder_alone_is_used_without_phantoms(prepare, tmp_path, source, other):
    data = prepare(slices=source == "brats", kaggle=source == "kaggle")
    assert set(data.manifest["source"]) == {source}
    assert not (tmp_path / "cache" / "phantoms").exists()
    with pytest.raises(ConfigError, match="found .*_dir=.*; what is wanted here is .*_dir$"):
        prepare(sources=(other,), slices=source == "brats", kaggle=source == "kaggle")
    assert set(prepare(sources=(source,)).manifest["source"]) == {source}


def test_the_metadata_tells_the_patient_better_than_a_pattern(tmp_path, image_config):
    for patient in range(4):
        for index in range(2):
            write_slice(tmp_path / "s", f"scan{patient}{index}-0", index, metadata=None if patient else metadata(index))
    config = image_config()
    data = prepare_images(str(tmp_path / "s"), None, config, PHANTOMS, tmp_path / "cache")
    found = dict(zip(data.manifest["case"], data.manifest["patient"], strict=True))
    assert found["scan00-0_slice_000"] == found["scan01-0_slice_001"] == "Ada"
    assert found["scan10-0_slice_000"] == "scan10-0"


def patients_of_slices(root, count=4, each=3):
    """Pictures of which a name says the patient and the slice, in no way that is known."""
    for label in ("yes", "no"):
        for patient in range(count):
            for index in range(each):
                seed = 100 * (label == "yes") + 10 * patient + index
                write_picture(root / label / f"patient{patient + count * (label == 'yes'):02d}_slice{index}.png", seed)
    return str(root)


def test_names_that_tell_no_patient_are_told_of_with_a_pattern_that_works(tmp_path, image_config):
    folder = patients_of_slices(tmp_path / "k")
    data = prepare_images(None, folder, image_config(), PHANTOMS, tmp_path / "cache")
    (note,) = data.notes
    assert note.startswith(f"{folder}: ") and "finds a patient in none of 24 names, such as patient00_slice0" in note
    assert data.manifest["patient"].nunique() == 24
    (typed,) = re.findall(r"-P 'data\.patient_pattern=(.*?)' makes 8", note)
    data = prepare_images(None, folder, image_config(patient_pattern=typed), PHANTOMS, tmp_path / "cache")
    assert data.notes == () and data.manifest["patient"].nunique() == 8
    assert (data.manifest.groupby("patient")["split"].nunique() == 1).all()


def test_a_pattern_is_named_where_none_is_seen_to_fit(tmp_path, image_config):
    data = prepare_images(None, str(kaggle_folder(tmp_path / "k")), image_config(), PHANTOMS, tmp_path / "cache")
    assert "-P 'data.patient_pattern=REGEX', whose first group is the patient" in data.notes[0]


def test_nothing_is_told_where_a_name_or_metadata_say_whose_it_is_or_of_phantoms(tmp_path, image_config):
    slices = slices_folder(tmp_path / "s")
    assert prepare_images(str(slices), None, image_config(), PHANTOMS, tmp_path / "cache").notes == ()
    assert prepare_images(None, None, image_config(), PHANTOMS, tmp_path / "cache").notes == ()
    mixed = kaggle_folder(tmp_path / "k")
    write_picture(mixed / "yes" / "BraTS-MEN-00001-000.png", 5)
    assert prepare_images(None, str(mixed), image_config(), PHANTOMS, tmp_path / "cache").notes == ()


def test_patients_with_as_many_pictures_of_either_class_are_split(tmp_path, image_config):
    """A tie goes to the class that has fewer patients so far: all of one class would leave none for the other."""
    for label, seed in (("yes", 0), ("no", 50)):
        for number in range(8):
            write_picture(tmp_path / "k" / label / f"p{number // 2}_{number % 2}.png", seed + number)
    config = image_config(patient_pattern="^(.+)_")
    data = prepare_images(None, str(tmp_path / "k"), config, PHANTOMS, tmp_path / "cache")
    assert data.manifest["patient"].nunique() == 4 and set(data.manifest["split"]) >= {"train", "val"}


def test_whoever_nobody_names_is_called_after_the_pixels(tmp_path, image_config):
    """Y1.png of one collection and of another are two patients; a picture is the same one under any name."""
    found = []
    for folder, seed in (("one", 1), ("other", 2)):
        kaggle = kaggle_folder(tmp_path / folder, 3 + seed, 3)
        write_picture(kaggle / "yes" / "Y1.png", seed=seed)
        write_picture(kaggle / "yes" / f"known{seed}.png", seed=99)
        write_picture(kaggle / "yes" / "P7_slice_001.png", seed=50 + seed)
        np.savez(kaggle / "no" / "named.npz", image=pixels(60 + seed), metadata=json.dumps({"patient": "Ada"}))
        data = prepare_images(None, str(kaggle), image_config(), PHANTOMS, tmp_path / "cache")
        found.append({case: image.patient for case, image in data.cases.items()})
        assert data.facts["yes-Y1.png"].voxels_sha256.startswith(data.cases["yes-Y1.png"].patient.removeprefix("picture-"))
        assert dict(zip(data.manifest["case"], data.manifest["patient"], strict=True)) == found[-1]
        assert len(set(found[-1].values())) == len(found[-1])
    one, other = found
    assert one["yes-Y1.png"] != other["yes-Y1.png"] and one["yes-known1.png"] == other["yes-known2.png"]
    for known in found:
        assert (known["yes-P7_slice_001.png"], known["no-named.npz"]) == ("P7", "Ada")


def metadata(index):
    content = {"format": "medexp-slice-1", "case": f"scan0{index}-0", "patient": "Ada", "slice": index}
    return np.array(json.dumps(content))


def test_what_is_dropped_is_told(prepare, tmp_path):
    slices_folder(tmp_path / "slices")
    blank = np.zeros((1, 40, 32), np.float32)
    for patient in (0, 1):
        write_slice(tmp_path / "slices", f"BraTS-MEN-{patient:05d}-000", 9, image=blank)
    kaggle_folder(tmp_path / "kaggle")
    write_picture(tmp_path / "kaggle" / "yes" / "Z.png", seed=5)
    write_picture(tmp_path / "kaggle" / "yes" / "Zz.png", seed=5, mode="RGB")
    data = prepare()
    assert data.dropped.to_dict("records") == [
        {
            "case": f"BraTS-MEN-0000{n}-000_slice_009",
            "source": "brats",
            "label": 0,
            "reason": "a blank slice, all pixels are equal",
        }
        for n in (0, 1)
    ] + [{"case": "yes-Zz.png", "source": "kaggle", "label": 1, "reason": "exact duplicate of yes-Z.png"}]
    assert not set(data.dropped["case"]) & (set(data.cases) | set(data.facts) | set(data.manifest["case"]))
    assert prepare(slices=False).manifest["case"].nunique() == 13
    assert len(prepare(kaggle=False, slices=True).dropped) == 2


def test_files_that_are_not_read_are_told(prepare, tmp_path):
    kaggle = kaggle_folder(tmp_path / "kaggle")
    for name in ("yes/a.tif", "yes/b.TIF", "no/c.webp", "no/README", "no/.hidden", "yes/._Y1.png"):
        (kaggle / name).write_text("")
    (kaggle / "no" / "more.png").mkdir()
    write_picture(kaggle / "no" / "more.png" / "Z.png")
    data = prepare()
    assert len(data.cases) == 18 + 12
    assert data.dropped.to_dict("records") == [
        {"case": case, "source": "kaggle", "label": label, "reason": f"not read ({kind}; JPEG, PNG and npz are)"}
        for case, label, kind in (
            ("no-README", 0, "no ending"),
            ("no-c.webp", 0, ".webp"),
            ("no-more.png", 0, "a folder, pictures in it: 1"),
            ("yes-a.tif", 1, ".tif"),
            ("yes-b.TIF", 1, ".tif"),
        )
    ]
    assert prepare(kaggle=False).dropped.empty


def test_slices_that_two_patients_share_bring_them_into_one_split(prepare, tmp_path):
    slices_folder(tmp_path / "slices", 9)
    for patient in (1, 4, 7):
        write_slice(tmp_path / "slices", f"BraTS-MEN-{patient:05d}-000", 5, seed=99)
    for seed in range(6):
        table = prepare(split_seed=seed).manifest
        assert table[table["patient"].isin([f"BraTS-MEN-{n:05d}" for n in (1, 4, 7)])]["split"].nunique() == 1


def test_a_patient_in_two_sources(prepare, tmp_path):
    kaggle_folder(tmp_path / "kaggle")
    write_picture(tmp_path / "kaggle" / "yes" / "BraTS-MEN-00002-001.png")
    content = json.dumps({"patient": "BraTS-MEN-00004"})
    np.savez(tmp_path / "kaggle" / "no" / "a.npz", image=pixels(88), metadata=np.array(content))
    with pytest.raises(DataError) as error:
        prepare()
    for words in (
        "patients in two sources: BraTS-MEN-00002 (BraTS-MEN-00002-000_slice_000, yes-BraTS-MEN-00002-001.png)",
        "BraTS-MEN-00004 (BraTS-MEN-00004-000_slice_000, no-a.npz)",
        "Take them out of one of the two folders",
    ):
        assert words in str(error.value)
    assert len(prepare(kaggle=False).cases) == 18 and len(prepare(slices=False).cases) == 14


def test_the_same_pixels_in_two_sources(prepare, tmp_path):
    write_slice(slices_folder(tmp_path / "slices"), "BraTS-MEN-00003-000", 8, seed=123)
    write_picture(kaggle_folder(tmp_path / "kaggle") / "no" / "copy.png", seed=123)
    with pytest.raises(DataError, match=r"the same pixels in two sources: BraTS-MEN-00003-000_slice_008 and no-copy.png"):
        prepare()


def test_a_single_patient_of_slices(tmp_path, image_config):
    write_slice(tmp_path / "s", "P-0", 1)
    with pytest.raises(DataError, match=r"a single patient \(P\)"):
        prepare_images(str(tmp_path / "s"), None, image_config(), PHANTOMS, tmp_path / "cache")
