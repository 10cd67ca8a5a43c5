import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from medexp.config.data import ImagePhantomConfig
from medexp.data.images.datasets import MultiSourceDataset
from medexp.data.images.facts import VERSION, describe_images, read_image
from medexp.data.images.kaggle import find_kaggle
from medexp.data.images.prepared import prepare_images
from medexp.data.images.sampling import expected_draws, sampling_order
from medexp.data.images.slices import find_slices
from medexp.data.images.transforms import preprocess
from medexp.data.manifest import seen_cases
from medexp.errors import ConfigError, DataError
from tests.data.images.small_images import kaggle_folder, mask_of, pixels, write_picture, write_slice

PHANTOMS = ImagePhantomConfig(4, 10, 8, 0)


def slices_folder(root: Path, patients: int = 6, count: int = 3) -> Path:
    """Slices of several patients; the last of each shows a tumour of 20 pixels."""
    for patient in range(patients):
        for index in range(count):
            write_slice(root, f"BraTS-MEN-{patient:05d}-000", index, tumour=20 if index == count - 1 else 0)
    return root


@pytest.fixture
def prepare(tmp_path, image_config):
    """Both sources, but for those given."""

    def run(sources=("brats", "kaggle"), slices=True, kaggle=True, **changed):
        slices_dir, kaggle_dir = tmp_path / "slices", tmp_path / "kaggle"
        if not slices_dir.exists():
            slices_folder(slices_dir)
        if not kaggle_dir.exists():
            kaggle_folder(kaggle_dir)
        dirs = (str(slices_dir) if slices else None, str(kaggle_dir) if kaggle else None)
        return prepare_images(*dirs, image_config(**changed), PHANTOMS, tmp_path / "cache", sources)

    return run


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
def test_only_what_changed_is_read_again(tmp_path, image_config, jobs):
    config, cache = image_config(jobs=jobs), tmp_path / "cache"
    folder = kaggle_folder(tmp_path / "k", yes=40, no=3)
    path = folder / "yes" / "same-size.npz"
    np.savez(path, image=pixels(55))
    before = describe(folder, config, cache)
    entries = sorted((cache / "images").iterdir())
    assert len(entries) == 2, "one file for each folder"
    for entry in entries:
        content = json.loads(entry.read_text())
        for record in content["files"].values():
            record["pixels_sha256"] = "f" * 64
        entry.write_text(json.dumps(content))
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
            ("no-more.png", 0, "no file"),
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


def test_items_have_the_contract_of_the_network(prepare, image_config):
    prepared = prepare()
    data = MultiSourceDataset(prepared, "train", image_config(), 0, augment=True)
    assert len(data) == len(prepared.ids("train")) and data.cases == list(prepared.ids("train"))
    assert Counter(data.sources) == {"brats": 12, "kaggle": 8}
    for index, case in enumerate(prepared.ids("train")):
        image = prepared.cases[case]
        for item in (data[index], data[0, index]):
            assert type(item["image"]) is type(item["mask"]) is torch.Tensor
            assert item["image"].shape == item["mask"].shape == (1, 32, 32)
            assert item["image"].dtype == item["mask"].dtype == torch.float32
            assert set(item["mask"].unique().tolist()) <= {0.0, 1.0}
            assert (item["case"], item["source"], item["has_mask"]) == (case, image.source, image.source == "brats")
            assert item["label"] == prepared.facts[case].label == data.labels[index]
            if item["has_mask"]:
                assert item["mask"].any() == (item["label"] == 1)
    batch = next(iter(DataLoader(data, batch_size=4, sampler=[(0, 1), (0, 2), (0, 13), (0, 14)])))
    assert batch["label"].dtype == torch.int64 and batch["has_mask"].dtype == torch.bool


def test_images_without_a_mask_are_left_out_where_masks_are_needed(prepare, image_config):
    data = MultiSourceDataset(prepare(), "train", image_config(), 0, augment=False, masked=True)
    assert set(data.sources) == {"brats"} and all(data[i]["has_mask"] for i in range(len(data)))


def test_randomness_follows_from_seed_epoch_index_and_repeat_alone(prepare, image_config):
    prepared = prepare()

    def dataset(seed=0, augment=True):
        return MultiSourceDataset(prepared, "train", image_config(), seed, augment)

    def same(one, other):
        return torch.equal(one["image"], other["image"]) and torch.equal(one["mask"], other["mask"])

    data = dataset()
    wanted = data[3, 1]
    for key in ((0, 0), (3, 0), (1, 1)):
        data[key]
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the state that a transform must not read
    assert same(data[3, 1], wanted) and same(dataset()[3, 1], wanted)
    assert not all(same(data[epoch, 1], wanted) for epoch in range(4, 9))
    assert not all(same(dataset(seed)[3, 1], wanted) for seed in range(1, 6))
    assert same(data[3, 1, 0], wanted)
    assert not all(same(data[3, 1, repeat], wanted) for repeat in range(1, 6)), "each time that an epoch has it"
    assert same(data[1], data[1]) and same(dataset(augment=False)[5, 1], data[1]), "never random without both"
    keys = [(epoch, index, repeat) for epoch in range(2) for index in range(len(data)) for repeat in range(2)]
    alone, shared = (list(DataLoader(data, batch_size=4, sampler=keys, num_workers=workers)) for workers in (0, 2))
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(alone, shared, strict=True))


def test_left_and_right_are_exchanged_in_image_and_mask_together(tmp_path, image_config):
    image = np.full((1, 40, 40), 50, np.float32)
    mask = np.zeros((40, 40), np.uint8)
    mask[5:15, 4:12] = 3
    image[0][mask > 0] = 250
    image[0, 30:, 30:] = 100
    for patient in range(3):
        write_slice(tmp_path / "s", f"P{patient}-0", 1, image=image + patient, mask=mask)
    prepared = prepare_images(str(tmp_path / "s"), None, image_config(), PHANTOMS, tmp_path / "cache")
    data = MultiSourceDataset(prepared, "train", image_config(), 0, augment=True)
    sides = set()
    for epoch in range(12):
        item = data[epoch, 0]
        tumour = item["mask"][0] > 0
        assert item["image"][0][tumour].mean() > item["image"][0][~tumour].mean() + 1
        rows, columns = np.nonzero(tumour.numpy())
        sides.add((bool(rows.mean() < 16), bool(columns.mean() < 16)))
    assert sides == {(True, True), (True, False)}, "never upside down"


def test_nothing_is_stretched_and_the_foreground_is_normalised(tmp_path, image_config):
    """A wide picture of a disc: round, centred, mean 0 and deviation 1 in it, 0 around it."""
    from PIL import Image

    rows, columns = np.meshgrid(np.arange(40), np.arange(80), indexing="ij")
    disc = np.hypot(rows - 19.5, columns - 39.5) < 18
    grey = np.where(disc, 60 + columns, 0).astype(np.uint8)
    kaggle = kaggle_folder(tmp_path / "k", 3, 3)
    Image.fromarray(grey).save(kaggle / "yes" / "disc.png")
    for size in ((32, 32), (48, 24)):
        config = image_config(input_size=size)
        prepared = prepare_images(None, str(kaggle), config, PHANTOMS, tmp_path / "cache")
        split = prepared.splits.of("yes-disc.png")
        data = MultiSourceDataset(prepared, split, config, 0, augment=False)
        image = data[data.cases.index("yes-disc.png")]["image"][0]
        assert image.shape == size
        inside = image != 0
        where = torch.nonzero(inside).float()
        extent = where.amax(dim=0) - where.amin(dim=0) + 1
        assert abs(extent[0] - extent[1]) <= 1
        assert torch.allclose(where.mean(dim=0), (torch.tensor(size) - 1) / 2, atol=0.6)
        assert abs(float(image[inside].mean())) < 1e-5
        assert float(image[inside].std(correction=0)) == pytest.approx(1, abs=1e-4)
        assert image[0, 0] == 0


def test_black_and_white_and_shifted_intensities(tmp_path, image_config):
    kaggle = kaggle_folder(tmp_path / "k", 3, 3)
    write_picture(kaggle / "yes" / "bw.png", seed=1, mode="1")
    np.savez(kaggle / "yes" / "plain.npz", image=pixels(2).astype(np.float32))
    np.savez(kaggle / "yes" / "shifted.npz", image=pixels(2).astype(np.float32) * 0.01 - 1)  # z-scored by someone else
    brain = pixels(2) > 0
    scored = (pixels(2) - pixels(2)[brain].mean()) / pixels(2)[brain].std()
    np.savez(kaggle / "yes" / "brain.npz", image=np.where(brain, scored, 0))  # z-scored over the brain, around it exactly 0
    config = image_config()
    prepared = prepare_images(None, str(kaggle), config, PHANTOMS, tmp_path / "cache")
    images = {}
    for split in ("train", "val", "test"):
        data = MultiSourceDataset(prepared, split, config, 0, augment=False)
        images |= {data.cases[index]: data[index]["image"] for index in range(len(data))}
    assert images["yes-bw.png"].isfinite().all() and images["yes-bw.png"].unique().numel() > 1
    torch.testing.assert_close(images["yes-plain.npz"], images["yes-shifted.npz"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(images["yes-plain.npz"], images["yes-brain.npz"], atol=0.02, rtol=0)  # the darkest is 1, not 0


@pytest.mark.parametrize(("shape", "size"), [((40, 30), (32, 24)), ((16, 4000), (32, 32)), ((4000, 16), (48, 24))])
def test_pictures_of_any_shape_are_padded_to_that_of_the_input(shape, size):
    """As when the whole picture is padded first, which a thin one of 80,000 pixels has no memory for."""
    image, mask = pixels(3, shape).astype(np.float32), mask_of(shape[0] * 2, shape)
    height, width = (
        max(side, round(other * a / b))
        for side, other, a, b in ((shape[0], shape[1], *size), (shape[1], shape[0], *size[::-1]))
    )
    margins = [(whole - part) // 2 for whole, part in ((height, shape[0]), (width, shape[1]))]
    place = tuple(slice(margin, margin + side) for margin, side in zip(margins, shape, strict=True))
    whole, outlined = np.zeros((height, width), np.float32), np.zeros((height, width), np.uint8)
    whole[place], outlined[place] = image, mask
    for found, wanted in zip(preprocess(image, mask, size), preprocess(whole, outlined, size), strict=True):
        assert found.shape == (1, *size)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    thin = preprocess(pixels(3, (80_000, 16)).astype(np.float32), None, size)[0]
    assert thin.shape == (1, *size) and thin.isfinite().all()


def test_masks_stay_where_the_image_is(tmp_path, image_config):
    mask = np.zeros((40, 32), np.uint8)
    mask[10:30, 4:12] = 3
    image = np.pad(np.full((36, 28), 100, np.float32), 2)[None]
    image[0][mask > 0] = 200
    for patient in range(3):
        write_slice(tmp_path / "s", f"P{patient}-0", 1, image=image + patient, mask=mask)
    prepared = prepare_images(str(tmp_path / "s"), None, image_config(), PHANTOMS, tmp_path / "cache")
    item = MultiSourceDataset(prepared, "train", image_config(), 0, augment=False)[0]
    bright = item["image"] > (item["image"].max() + item["image"].median()) / 2
    middles = [torch.nonzero(part)[:, 1:].float().mean(dim=0) for part in (bright, item["mask"])]
    assert torch.allclose(*middles, atol=0.51) and 0.8 < bright.sum() / item["mask"].sum() < 1.25


def test_read_image_is_as_stored(tmp_path):
    write_slice(tmp_path / "s", "P-0", 1, seed=4, tumour=12)
    (image,) = find_slices(tmp_path / "s", "(.*)")
    stored, mask = read_image(image)
    np.testing.assert_array_equal(stored, pixels(4))
    np.testing.assert_array_equal(mask, mask_of(12))
    picture = find_kaggle(kaggle_folder(tmp_path / "k", 1, 1), "(.*)")[0]
    stored, mask = read_image(picture)
    assert stored.shape == (40, 32) and mask is None


SOURCES = ["brats"] * 30 + ["kaggle"] * 10


@pytest.mark.parametrize(
    ("weights", "kaggle"),
    [((1, 1), 20), ((3, 1), 10), ((1, 3), 30), ((30, 10), 10), ((1, 0.01), 0), ((1, 0.02), 1)],
)
def test_sources_get_their_shares(weights, kaggle):
    order = sampling_order(SOURCES, dict(zip(("brats", "kaggle"), weights, strict=True)), 0)
    for epoch in range(3):
        counts = Counter(order(epoch).tolist())
        assert sum(counts.values()) == 40
        assert sum(count for index, count in counts.items() if index >= 30) == kaggle
        for members in (range(30), range(30, 40)):
            used = [counts[index] for index in members]
            assert max(used) - min(used) <= 1


def test_the_order_follows_from_seed_and_epoch_alone():
    weights = {"brats": 1.0, "kaggle": 2.0}
    order = sampling_order(SOURCES, weights, 5)
    assert np.array_equal(order(7), sampling_order(SOURCES, weights, 5)(7))
    assert not np.array_equal(order(7), order(8)) and not np.array_equal(order(7), sampling_order(SOURCES, weights, 6)(7))
    assert np.ptp(np.flatnonzero(order(0) >= 30)) > 20, "sources are mixed"
    assert set(np.concatenate([order(epoch) for epoch in range(40)]).tolist()) == set(range(40))


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=2), data=st.data(), seed=st.integers(0, 2**31))
def test_any_weights_fill_an_epoch(counts, data, seed):
    names = ("brats", "kaggle")[: len(counts)]
    weights = {name: data.draw(st.floats(1e-3, 1e3)) for name in names}
    sources = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    drawn = sampling_order(sources, weights, seed)(1)
    assert len(drawn) == len(sources)
    for name in names:
        share = len(sources) * weights[name] / sum(weights.values())
        used = Counter({index: 0 for index, source in enumerate(sources) if source == name})
        used.update(index for index in drawn.tolist() if sources[index] == name)
        assert abs(used.total() - share) < 1 and max(used.values()) - min(used.values()) <= 1


@pytest.mark.parametrize(("weights", "wanted"), [((1, 1), (20 / 30, 2)), ((3, 1), (1, 1)), ((1, 2), (13 / 30, 2.7))])
def test_how_often_an_item_is_drawn_on_average(weights, wanted):
    weights = dict(zip(("brats", "kaggle"), weights, strict=True))
    found = expected_draws(SOURCES, weights)
    np.testing.assert_allclose(found, np.repeat(wanted, (30, 10)))
    order = sampling_order(SOURCES, weights, 0)
    drawn = np.mean([np.bincount(order(epoch), minlength=40) for epoch in range(400)], axis=0)
    np.testing.assert_allclose(drawn, found, atol=0.12)  # five standard deviations


@pytest.mark.parametrize("weights", [{"brats": 1.0}, {"brats": 1.0, "kaggle": 0.0}, {"brats": 1.0, "kaggle": float("nan")}])
def test_a_source_without_a_weight(weights):
    with pytest.raises(ConfigError, match="data.weights: no weight above 0 for kaggle"):
        sampling_order(SOURCES, weights, 0)
    with pytest.raises(ConfigError, match="data.weights: no weight above 0 for kaggle"):
        expected_draws(SOURCES, weights)
    assert len(sampling_order(["brats"] * 3, weights, 0)(0)) == 3
    assert expected_draws(["brats"] * 3, weights).tolist() == [1, 1, 1]
