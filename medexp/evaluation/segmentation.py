"""Segmentation, judged per case: of whole volumes region by region, of 2D slices where those of a scan are one case."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from monai.inferers import sliding_window_inference
from monai.metrics import compute_dice, compute_hausdorff_distance
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from medexp.config.data import DataConfig
from medexp.data.volumes.brats import read_label
from medexp.data.volumes.cases import Case
from medexp.data.volumes.regions import REGIONS, paint, to_regions
from medexp.data.volumes.transforms import onto_own_grid
from medexp.evaluation.batches import Batches, demand_finite, map_batches, map_cases
from medexp.models.swin.attention import fast_attention

PIXELS = ("truth", "predicted", "overlap")
OnPrediction = Callable[[str, Tensor, Tensor, Tensor], None]
Native = Callable[[str, Tensor, Tensor], dict[str, float]]
"""From a case's id, logits (3, X, Y, Z) and their affine (4, 4) to scores on the case's own grid."""


def sliding_window(
    net: nn.Module, window: Sequence[int], overlap: float, accelerator: Accelerator | None = None, blending: str = "gaussian"
) -> Callable[[Tensor], Tensor]:
    """What segments a volume (1, 4, X, Y, Z) of any size window by window, as `evaluate_segmentation` wants it.

    Args:
        net: From windows (B, 4, *window) to logits (B, 3, *window), in eval mode.
        window: Size of a window in voxels.
        overlap: Overlap of neighbouring windows, 0 to below 1.
        accelerator: Precision; None: that of the network.
        blending: Of windows, gaussian or constant.
    """
    computing = accelerator.autocast if accelerator else nullcontext
    with computing():
        fast_attention(net)

    def predict(image: Tensor) -> Tensor:
        with computing():
            logits = sliding_window_inference(image, tuple(window), 1, net, overlap=overlap, mode=blending)
        assert isinstance(logits, Tensor)
        return logits.float()

    return predict


@torch.inference_mode()
def evaluate_segmentation(
    predict: Callable[[Tensor], Tensor],
    cases: Dataset[Any],
    *,
    spacing: Sequence[float],
    accelerator: Accelerator,
    hd95: bool = True,
    on_prediction: OnPrediction | None = None,
    native: Native | None = None,
) -> pd.DataFrame:
    """Dice, HD95 and cross-entropy of each case.

    Args:
        predict: From a volume (1, 4, X, Y, Z) on the device to logits (1, 3, X, Y, Z), float32; above 0 is the region.
        cases: `evaluation_dataset`.
        spacing: Voxel spacing in mm, for HD95.
        accelerator: Device and processes.
        hd95: Whether to compute HD95, which takes longer than the rest.
        on_prediction: Called where the case was predicted with its id, image (4, X, Y, Z), labels (X, Y, Z) and predicted
            regions (3, X, Y, Z).
        native: Scores the mask that a user would get: `on_own_grids`, whose columns are added.

    Returns:
        One row a case: `case`, `ce` (binary cross-entropy over voxels and regions), `dice_<region>` (0 to 1; NaN where the
        truth lacks the region: there is nothing to overlap with), `false_<region>` (mm^3 that were predicted where the truth
        lacks it; NaN where it has it) and `hd95_<region>` (mm; NaN where one of them lacks it).

    Raises:
        TrainingDiverged: The network gives NaN or infinity, which would count as no tumour.
    """

    def judge(item: Any) -> dict[str, Any]:
        logits = predict(item["image"].unsqueeze(0).to(accelerator.device))
        row = case_scores(item, logits, spacing, hd95, native)
        if on_prediction is not None:
            on_prediction(item["case"], item["image"], item["label"], (logits[0] > 0).float().cpu())
        return row

    return pd.DataFrame(map_cases(judge, cases, accelerator, "  evaluating"))


def case_scores(
    item: Mapping[str, Any], logits: Tensor, spacing: Sequence[float], hd95: bool = True, native: Native | None = None
) -> dict[str, Any]:
    """The row of one case in `evaluate_segmentation`.

    Args:
        item: Of `evaluation_dataset`: `case`, `label` and, with `native`, `affine`.
        logits: What the network says of it (1, 3, X, Y, Z), float32.
        spacing: As of `evaluate_segmentation`, like all else.
    """
    truth = to_regions(item["label"].unsqueeze(0).to(logits.device))
    demand_finite(logits, [item["case"]])
    predicted = (logits > 0).float()
    dice = compute_dice(predicted, truth, include_background=True)[0]
    false = torch.where(truth[0].flatten(1).any(1), math.nan, predicted[0].flatten(1).sum(1) * math.prod(spacing))
    row = {"case": item["case"], "ce": float(binary_cross_entropy_with_logits(logits, truth))}
    row |= {f"dice_{region}": float(value) for region, value in zip(REGIONS, dice, strict=True)}
    row |= {f"false_{region}": float(value) for region, value in zip(REGIONS, false, strict=True)}
    if hd95:
        row |= {f"hd95_{region}": value for region, value in zip(REGIONS, _hd95(predicted, truth, spacing), strict=True)}
    return row if native is None else row | native(item["case"], logits[0].cpu(), item["affine"])


def mask_on_own_grid(
    logits: Tensor, affine: Tensor, shape: Sequence[int], own: NDArray[np.float64], painted: Mapping[str, int | None]
) -> NDArray[np.uint8]:
    """The mask of a case as it is written: on the grid of its files, in the values of segmentation files.

    Args:
        logits: Of REGIONS on the network's grid (3, X, Y, Z), float32; above 0 is the region.
        affine: From their voxels to RAS+ mm (4, 4).
        shape: Of the case's files, three numbers.
        own: From the files' voxels to RAS+ mm (4, 4).
        painted: The value of each region (`medexp.data.volumes.regions.paint`).

    Returns:
        (*shape); 0 is background.
    """
    return paint(onto_own_grid(logits, affine, shape, own) > 0, painted)


def native_scores(
    mask: NDArray[np.uint8], classes: Mapping[int, int], label: NDArray[np.uint8], own: NDArray[np.float64]
) -> dict[str, float]:
    """What a mask is worth on a case's own grid, where no lesion was lost in resampling.

    Args:
        mask: Of the case, as `mask_on_own_grid` gives it.
        classes: From the mask's values to classes 0 to 3.
        label: The segmentation as it stands in its file, classes 0 to 3, of the same shape.
        own: The affine of both (4, 4); its axes give the voxels' edges in mm.

    Returns:
        `native_dice_<region>` and `native_hd95_<region>`, as `evaluate_segmentation` has them without `native`.
    """
    predicted = np.zeros_like(mask)
    for value, network in classes.items():
        predicted[mask == value] = network
    there = np.argwhere((predicted > 0) | (label > 0))  # outside this box both are background
    box = tuple(slice(low, high + 1) for low, high in zip(there.min(0), there.max(0), strict=True)) if len(there) else ()
    one, other = (to_regions(torch.from_numpy(array[box].astype(np.uint8))[None]) for array in (predicted, label))
    dice = compute_dice(one, other, include_background=True)[0].tolist()
    scores = {f"native_dice_{region}": value for region, value in zip(REGIONS, dice, strict=True)}
    distances = zip(REGIONS, _hd95(one, other, voxel_sizes(own).tolist()), strict=True)
    return scores | {f"native_hd95_{region}": value for region, value in distances}


def on_own_grids(
    cases: Mapping[str, Case], data: DataConfig, painted: Mapping[str, int | None], classes: Mapping[int, int]
) -> Native:
    """What scores a network's masks of labelled cases on the cases' own grids, as `evaluate_segmentation` takes it.

    Args:
        cases: By id.
        data: What the values of their segmentations mean.
        painted: As of `mask_on_own_grid`: of the network, which may have learned from another edition's labels.
        classes: As of `native_scores`: of the network.
    """

    def score(case: str, logits: Tensor, affine: Tensor) -> dict[str, float]:
        path = cases[case].label
        assert path is not None
        label, own = read_label(path, data.classes)
        return native_scores(mask_on_own_grid(logits, affine, label.shape, own, painted), classes, label, own)

    return score


def mean_scores(per_case: pd.DataFrame) -> dict[str, float]:
    """Means of `evaluate_segmentation`'s figures, each over the cases that have it, NaN where none has; `left_apart` says what
    was predicted where nothing is."""
    scores = per_case.select_dtypes("number")
    return {str(name): float(value) for name, value in scores.mean().items() if not str(name).startswith("false_")}


def left_apart(per_case: pd.DataFrame) -> list[str]:
    """What is in no mean: how many cases lack a region, and what was predicted there; nothing where none lacks any.

    Args:
        per_case: As `evaluate_segmentation` or `dice_by_scan` gives it.
    """
    units = {f"false_{region}": (region, "mm^3") for region in REGIONS} | {"false_pixels": ("tumour", "pixels")}
    told = []
    for column, (what, unit) in units.items():
        found = per_case[column].dropna() if column in per_case else pd.Series(dtype=float)
        if len(found):
            predicted = f"predicted there in {(found > 0).sum()}, {found.sum():,.0f} {unit} in all"
            told.append(f"{what}: {len(found)} of {len(per_case)} cases hold none and have no Dice; {predicted}.")
    return told


def evaluate_slices(
    net: Callable[[Tensor], Tensor],
    batches: Batches,
    manifest: pd.DataFrame,
    accelerator: Accelerator,
    title: str = "  evaluating",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Dice of each scan at the size that the network sees: a pixel is tumour where its probability is above 0.5.

    Args:
        net: From images (B, 1, H, W) to logits (B, 1, H, W), in eval mode.
        batches: Items with `image` and `mask` (1, H, W), `has_mask` and `case`; those without a mask are left out.
        manifest: Columns `case`, `scan`, `patient` and `source`.
        accelerator: Device and precision.
        title: Name in the progress bar.

    Returns:
        `dice_by_scan`, and what it was added up from: one row a slice in the order of the data, with `case` and the pixels
        `truth`, `predicted` and `overlap`.

    Raises:
        TrainingDiverged: As of `count_pixels`.
    """

    def judge(batch: Any) -> list[dict[str, Any]]:
        return count_pixels(net(batch["image"].to(accelerator.device)), batch) if batch["has_mask"].any() else []

    rows = [row for part in map_batches(judge, batches, accelerator, title) for row in part]
    slices = pd.DataFrame(rows, columns=["case", *PIXELS])
    return dice_by_scan(slices, manifest), slices


def count_pixels(logits: Tensor, batch: Any) -> list[dict[str, Any]]:
    """One row an item that has a mask: `case` and the pixels `truth`, `predicted` and `overlap`.

    Args:
        logits: (B, 1, H, W), above 0 is tumour.
        batch: `mask` (B, 1, H, W), `has_mask` and `case`.

    Raises:
        TrainingDiverged: NaN or infinity, which would count as no tumour.
    """
    demand_finite(logits, batch["case"])
    predicted = (logits.float() > 0).flatten(1)
    truth = (batch["mask"].to(logits.device) > 0.5).flatten(1)
    pixels = torch.stack([truth.sum(1), predicted.sum(1), (truth & predicted).sum(1)], dim=1).tolist()
    rows = zip(batch["case"], batch["has_mask"].tolist(), pixels, strict=True)
    return [{"case": case} | dict(zip(PIXELS, counts, strict=True)) for case, masked, counts in rows if masked]


def dice_by_scan(slices: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Dice over all slices of a scan together, as if they were one volume: 2 overlap / (truth + predicted).

    Sums rather than MONAI's `DiceMetric`, which keeps one value an image and cannot add up the slices of a scan.

    Args:
        slices: One row a slice; columns `case` and the pixels `truth`, `predicted` and `overlap`.
        manifest: Columns `case`, `scan`, `patient` and `source`, for each of the slices at least.

    Returns:
        One row a scan, sorted: `case` (the scan), `patient`, `source`, `dice` (0 to 1; NaN where the truth has no tumour),
        `false_pixels` (predicted where the truth has none; NaN where it has one) and `slices` (how many).
    """
    owners = manifest.set_index("case").loc[slices["case"]].reset_index(drop=True)
    scans = slices.reset_index(drop=True).groupby(owners["scan"])
    pixels = scans[list(PIXELS)].sum()
    there = pixels["truth"] > 0
    table = owners.groupby("scan")[["patient", "source"]].first()
    table["dice"] = (2 * pixels["overlap"] / (pixels["truth"] + pixels["predicted"])).where(there)
    table["false_pixels"] = pixels["predicted"].where(~there).astype(float)
    table["slices"] = scans.size()
    return table.rename_axis("case").reset_index()


def _hd95(predicted: Tensor, truth: Tensor, spacing: Sequence[float]) -> list[float]:
    """HD95 per region in mm; NaN for a region that is empty on either side, which MONAI would warn of or call infinite."""
    values = []
    for region in range(predicted.shape[1]):
        one, other = predicted[:, [region]], truth[:, [region]]
        both = bool(one.any() and other.any())
        distance = partial(compute_hausdorff_distance, include_background=True, percentile=95, spacing=list(spacing))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of an argument that MONAI passes to itself
            values.append(float(distance(one, other)) if both else float("nan"))
    return values
