"""Masks on a case's own grid: what they are worth, against nibabel and scipy alone; oblique, left-handed and flat grids."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, map_coordinates
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from medexp.config.data import DataConfig
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.regions import to_regions, values_in_masks
from medexp.data.volumes.transforms import preprocess
from medexp.evaluation.segmentation import evaluate_segmentation, on_own_grids
from tests.data.volumes.small_cases import save
from tests.small import data_config

SHAPE = (26, 22, 14)
REGIONS = {"TC": (1, 3), "WT": (1, 2, 3), "ET": (3,)}  # of the classes
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -15, 25], degrees=True).as_matrix() * [1.5, 1.2, 3]
LEFT_HANDED = np.array([[0, 0, 2.5, -7], [1.5, 0, 0, 12], [0, -1, 0, 9], [0, 0, 0, 1.0]])  # axes A, I, R


def case_of(folder: Path, affine: Any, labels: dict[int, int]) -> Case:
    """A case with an ellipsoid of edema, in it a core and in that an enhancing part, in an edition's values."""
    at = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) - np.array([12, 10, 6])
    values = {network: given for given, network in labels.items()}
    label = np.zeros(SHAPE, np.uint8)
    for network, radius in ((2, 1.0), (1, 0.6), (3, 0.35)):
        label[(np.square(at / (np.array([8, 7, 4]) * radius)).sum(-1) <= 1)] = values[network]
    rng, brain = np.random.default_rng(0), np.zeros(SHAPE, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    files = [
        save(folder / f"c-{name}.nii.gz", (rng.integers(200, 900, SHAPE) * brain).astype(np.int16), affine)
        for name in CHANNELS
    ]
    return Case("c", "c", tuple(files), save(folder / "c-seg.nii.gz", label, affine))


def judged(case: Case, data: DataConfig, logits: Tensor, item: dict[str, Tensor], painted: dict[str, int | None]) -> Any:
    cases: Any = [{**item, "case": "c"}]
    native = on_own_grids({"c": case}, data, painted, data.classes)
    accelerator = Accelerator(cpu=True)
    return evaluate_segmentation(
        lambda image: logits[None], cases, spacing=data.spacing, accelerator=accelerator, native=native
    ).iloc[0]


def surface(mask: NDArray[np.bool_], affine: Any) -> Any:
    """Voxels of a mask's edge, in mm."""
    return nib.affines.apply_affine(affine, np.argwhere(mask & ~binary_erosion(mask)))


@pytest.mark.parametrize("labels", ["brats2023", "brats2021", "brats-ped"])
@pytest.mark.parametrize("affine", [OBLIQUE, LEFT_HANDED], ids=["oblique", "left-handed"])
def test_they_equal_a_plain_computation_on_the_files(tmp_path: Path, affine: Any, labels: str) -> None:
    """Of noisy logits, whose mask has spots all over the case."""
    data = data_config(labels=labels, spacing=(2.0, 2.0, 3.0), input_size=(16, 16, 16))
    case = case_of(tmp_path, affine, dict(data.classes))
    item = preprocess(read_case(case, data.classes), data)
    assert np.linalg.det(affine) * (-1 if affine is LEFT_HANDED else 1) > 0
    noise = torch.randn(3, *item["label"].shape, generator=torch.Generator().manual_seed(0))
    logits = (to_regions(item["label"][None])[0] - 0.5) * 4 + noise
    edge = torch.ones(logits.shape[1:], dtype=torch.bool)
    edge[1:-1, 1:-1, 1:-1] = False
    logits[:, edge] = -4  # what lies at the very edge of the grid has a weight of rounding errors
    painted = values_in_masks(data.classes)
    row = judged(case, data, logits, item, painted)

    seg = nib.load(case.label or "")
    assert isinstance(seg, nib.Nifti1Image) and seg.affine is not None
    truth = np.asarray(seg.dataobj)
    indices = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    to_network = np.linalg.inv(np.asarray(item["affine"])) @ seg.affine
    at = np.moveaxis(nib.affines.apply_affine(to_network, indices), -1, 0)
    core, whole, enhancing = (
        map_coordinates(np.asarray(one, np.float64), at, order=1, mode="grid-constant") > 0 for one in logits
    )
    mask = np.zeros(SHAPE, np.uint8)
    for region, found in (("WT", whole), ("TC", core), ("ET", enhancing)):
        mask[found] = painted[region] or 0
    for region, classes in REGIONS.items():
        values = [given for given, network in data.classes.items() if network in classes]
        one, other = np.isin(mask, values), np.isin(truth, values)
        dice = 2 * (one & other).sum() / (one.sum() + other.sum())
        assert 0.3 < dice < 0.95, "neither perfect nor nothing"
        assert row[f"native_dice_{region}"] == pytest.approx(dice, abs=1e-6)
        ours, theirs = surface(one, seg.affine), surface(other, seg.affine)
        distances = [np.percentile(cKDTree(b).query(a)[0], 95) for a, b in ((ours, theirs), (theirs, ours))]
        assert row[f"native_hd95_{region}"] == pytest.approx(max(distances), rel=1e-4)


def test_what_resampling_lost_counts_and_a_region_that_the_file_lacks_has_none(tmp_path: Path) -> None:
    """A lesion of one voxel, which no voxel of the network's grid holds; the mask holds what is told of it: nothing."""
    data = data_config(spacing=(4.0, 4.0, 4.0), input_size=(16, 16, 16))
    case = case_of(tmp_path, np.diag([1.0, 1, 1, 1]), dict(data.classes))
    label = np.zeros(SHAPE, np.uint8)
    label[8:18, 6:16, 3:10] = 2
    label[12, 10, 6] = 3
    assert case.label is not None
    save(case.label, label, np.diag([1.0, 1, 1, 1]))
    item = preprocess(read_case(case, data.classes), data)
    assert not (item["label"] == 3).any() and (item["label"] == 2).any(), "lost"
    row = judged(case, data, (to_regions(item["label"][None])[0] - 0.5) * 4, item, values_in_masks(data.classes))
    assert np.isnan(row["dice_ET"]) and row["native_dice_ET"] == row["native_dice_TC"] == 0
    assert row["dice_WT"] == 1 and 0.5 < row["native_dice_WT"] < 1 and np.isnan(row["native_hd95_ET"])
    save(case.label, np.where(label == 3, 2, label).astype(np.uint8), np.diag([1.0, 1, 1, 1]))
    row = judged(case, data, torch.ones(3, *item["label"].shape), item, values_in_masks(data.classes))
    assert np.isnan(row["native_dice_ET"]) and row["native_dice_WT"] < 0.5
