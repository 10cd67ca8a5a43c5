import json
import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load
from safetensors.torch import save as as_safetensors
from torch.utils.data import DataLoader

from medexp.config.data import PhantomConfig
from medexp.data.volumes.datasets import demand_tumours, evaluation_dataset, training_dataset
from medexp.data.volumes.prepared import prepare_volumes
from medexp.errors import DataError
from tests.data.volumes.small_cases import save, write_case
from tests.small import prepare_config

PHANTOMS = PhantomConfig(glioma_patients=4, meningioma_patients=7, seed=0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def prepared(cache):
    return prepare_volumes(prepare_config(cache, phantoms=PHANTOMS))


@pytest.fixture
def training(prepared, cache, data_config):
    return lambda seed=0, **changed: training_dataset(prepared, "train", data_config(**changed), cache, seed)


def same(one, other):
    return one["case"] == other["case"] and all(torch.equal(one[key], other[key]) for key in ("image", "label", "semantic"))


def test_items_have_the_contract_of_the_network(prepared, training, cache, data_config):
    data = training()
    assert len(data) == len(prepared.ids("train"))
    item = data[0, 1]
    assert item["case"] == prepared.ids("train")[1]
    assert type(item["image"]) is type(item["label"]) is torch.Tensor
    assert item["image"].shape == (4, 64, 64, 32) and item["image"].dtype == torch.float32
    assert item["label"].shape == (64, 64, 32) and item["label"].dtype == torch.int64
    assert item["semantic"].shape == (10,) and item["semantic"].dtype == torch.float32
    assert set(item["label"].unique().tolist()) <= {0, 1, 2, 3} and item["label"].any()


def test_a_split_whose_tumours_are_all_lost_on_the_networks_grid_cannot_be_judged_by(tmp_path, data_config):
    """One voxel in voxels of 2 x 2 x 3 mm: at 6 x 6 x 9 mm the nearest ones are others."""
    for number in range(1, 7):
        lesion = np.zeros((14, 12, 10), np.uint8)
        lesion[6, 6, 4] = 3
        write_case(tmp_path / "data", f"BraTS-MET-{number:05d}-000", seed=number, seg=lesion)
    coarse, fine = data_config(spacing=(6, 6, 9)), data_config(spacing=(2, 2, 3))
    prepared = prepare_volumes(prepare_config(tmp_path / "cache", data_dir=str(tmp_path / "data"), data=fine))
    demand_tumours(prepared, "val", fine, tmp_path / "cache")
    with pytest.raises(DataError, match=r"none of the 2 cases of the split val has a voxel.* 6 x 6 x 9 mm"):
        demand_tumours(prepared, "val", coarse, tmp_path / "cache")


def test_whole_volumes_are_normalised_and_never_random(prepared, cache, data_config):
    data = evaluation_dataset(prepared, "val", data_config(), cache)
    for index, name in enumerate(prepared.ids("val")):
        item = data[index]
        assert item["case"] == name and same(item, data[index])
        assert item["label"].any() and item["label"].dtype == torch.int64
        assert item["image"].shape[1:] == item["label"].shape
        assert all(size >= least for size, least in zip(item["label"].shape, (64, 64, 32), strict=True))
        torch.testing.assert_close(item["semantic"], torch.tensor(prepared.facts[name].semantic, dtype=torch.float32))
        for channel in item["image"]:
            inside = channel[channel != 0]
            assert abs(float(inside.mean())) < 1e-3 and float(inside.std()) == pytest.approx(1, abs=1e-3)


def test_randomness_follows_from_seed_epoch_and_index_alone(training):
    data = training()
    wanted = data[3, 1]
    for epoch, index in ((0, 0), (3, 0), (1, 1)):
        data[epoch, index]
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the state that a transform must not read
    assert same(data[3, 1], wanted)
    assert same(training()[3, 1], wanted)
    assert not same(data[4, 1], wanted)
    assert not same(training(seed=1)[3, 1], wanted)


def test_loading_processes_change_nothing(training):
    data = training()
    keys = [(epoch, index) for epoch in range(2) for index in range(len(data))]
    alone, shared = (list(DataLoader(data, batch_size=2, sampler=keys, num_workers=workers)) for workers in (0, 2))
    assert [batch["case"] for batch in alone] == [batch["case"] for batch in shared]
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(alone, shared, strict=True))


def test_the_centroid_is_mirrored_with_the_image(prepared, training, cache, data_config):
    """Where the tumour lies in an augmented volume, left or right of the middle and so on, is where the target says."""
    data, mirrored = training(), set()
    whole = evaluation_dataset(prepared, "train", data_config(), cache)
    for index in range(len(data)):
        before = middle(whole[index]["label"])
        for epoch in range(6):
            item = data[epoch, index]
            flipped = [
                bool(torch.isclose(1 - was, now, atol=1e-6))
                for was, now in zip(whole[index]["semantic"][4:7], item["semantic"][4:7], strict=True)
            ]
            mirrored |= {tuple(flipped)}
            expected = [1 - was if flip else was for was, flip in zip(before, flipped, strict=True)]
            assert middle(item["label"]) == pytest.approx(expected, abs=1e-5)
    assert len(mirrored) > 4


def middle(label):
    return ((torch.nonzero(label).double().mean(dim=0) + 0.5) / torch.tensor(label.shape)).tolist()


@pytest.mark.parametrize("axes", ["RAS", "ASL"])
def test_the_orientation_of_the_files_changes_nothing(tmp_path, prepared, data_config, axes):
    name = next(
        name for name in prepared.cases if "".join(nib.aff2axcodes(nib.load(prepared.cases[name].label).affine)) == "LPS"
    )
    case = prepared.cases[name]
    for copy, codes in (("a", "LPS"), ("b", axes)):
        turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(codes))
        for path, suffix in zip(case.files, ("t2f", "t1c", "t1n", "t2w", "seg"), strict=True):
            turned = nib.load(path).as_reoriented(turn)
            save(tmp_path / "data" / copy / f"{copy}-{suffix}.nii.gz", np.asanyarray(turned.dataobj), turned.affine)
    other = write_other(tmp_path, prepared, case)
    both = prepare_volumes(prepare_config(tmp_path, data_dir=str(tmp_path / "data"), splits=str(other)))
    first, second = evaluation_dataset(both, "train", data_config(), tmp_path)
    torch.testing.assert_close(first["image"], second["image"], atol=1e-4, rtol=1e-4)
    assert torch.equal(first["label"], second["label"])
    torch.testing.assert_close(first["semantic"], second["semantic"])


def write_other(tmp_path, prepared, case):
    """A third case to validate on, and the split file."""
    third = next(other for other in prepared.cases.values() if other.patient != case.patient)
    (tmp_path / "data" / third.id).symlink_to(third.label.parent, target_is_directory=True)
    file = tmp_path / "data_splits.json"
    file.write_text(f'{{"train": ["a", "b"], "val": ["{third.id}"]}}')
    return file


def test_volumes_are_computed_once_for_a_setting(tmp_path, prepared, data_config):
    folder = tmp_path / "volumes"
    data = evaluation_dataset(prepared, "val", data_config(), tmp_path)
    first = data[0]
    (entry,) = folder.iterdir()
    written = entry.stat().st_mtime_ns
    assert same(data[0], first) and entry.stat().st_mtime_ns == written
    coarser = evaluation_dataset(prepared, "val", data_config(spacing=(4.0, 4.0, 6.0)), tmp_path)[0]
    assert int((coarser["label"] > 0).sum()) < int((first["label"] > 0).sum())
    larger = evaluation_dataset(prepared, "val", data_config(input_size=(96, 64, 64)), tmp_path)[0]
    assert larger["label"].shape == (96, 64, 64)
    assert len(list(folder.iterdir())) == 3


def _flipped(content):
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


DAMAGES = {
    "of no bytes": lambda content: b"",
    "cut in its header": lambda content: content[:5],
    "cut": lambda content: content[:-1000],
    "one bit": _flipped,
    "as written before, without a digest": lambda content: as_safetensors(load(content)),
    "turned": lambda content: as_safetensors(
        {name: tensor.mT.contiguous() for name, tensor in load(content).items()}, _digest_of(content)
    ),
    "a pickle": lambda content: pickle.dumps(load(content)),
}


def _digest_of(content):
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_computed_anew(tmp_path, prepared, data_config, damaged):
    data = evaluation_dataset(prepared, "val", data_config(), tmp_path)
    first = data[0]
    (entry,) = (tmp_path / "volumes").iterdir()
    content = entry.read_bytes()
    entry.unlink()
    entry.write_bytes(damaged(content))
    assert same(data[0], first)
    assert entry.read_bytes() == content


def test_the_cached_volume_of_another_case_is_not_taken_for_this_ones(tmp_path, prepared, data_config):
    data = evaluation_dataset(prepared, "train", data_config(), tmp_path)
    first, second = data[0], data[1]
    one, other = sorted((tmp_path / "volumes").iterdir())
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    assert same(data[0], first) and same(data[1], second)
    assert one.read_bytes() == content


def test_small_crops_meet_tumour_and_background(training):
    data = training(spacing=(2.0, 2.0, 2.0), input_size=(32, 32, 64))
    items = [data[epoch, index] for epoch in range(4) for index in range(len(data))]
    assert {tuple(item["image"].shape) for item in items} == {(4, 32, 32, 64)}
    assert sum(bool(item["label"].any()) for item in items) >= len(items) / 4
