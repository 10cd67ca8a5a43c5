from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medexp.data.images.datasets import MultiSourceDataset
from medexp.data.images.prepared import prepare_images
from tests.data.images.small_images import PHANTOMS, kaggle_folder, pixels, write_picture, write_slice


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
