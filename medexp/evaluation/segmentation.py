"""Segmentation, judged per case: of whole volumes region by region, of 2D slices where those of a scan are one case."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from monai.inferers import sliding_window_inference
from monai.metrics import compute_dice, compute_hausdorff_distance
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from medexp.data.volumes.regions import REGIONS, to_regions
from medexp.evaluation.batches import Batches, map_batches, map_cases

PIXELS = ("truth", "predicted", "overlap")
OnPrediction = Callable[[str, Tensor, Tensor, Tensor], None]


@torch.inference_mode()
def evaluate_segmentation(
    net: nn.Module,
    cases: Dataset[Any],
    *,
    window: Sequence[int],
    overlap: float,
    spacing: Sequence[float],
    accelerator: Accelerator,
    hd95: bool = True,
    on_prediction: OnPrediction | None = None,
) -> pd.DataFrame:
    """Dice, HD95 and cross-entropy of each case by sliding window.

    Args:
        net: From volumes (B, 4, X, Y, Z) to logits (B, 3, X, Y, Z), in eval mode.
        cases: `evaluation_dataset`.
        window: Size of a window in voxels.
        overlap: Overlap of neighbouring windows, 0 to below 1.
        spacing: Voxel spacing in mm, for HD95.
        accelerator: Device, precision and processes.
        hd95: Whether to compute HD95, which takes longer than the rest.
        on_prediction: Called where the case was predicted with its id, image (4, X, Y, Z), labels (X, Y, Z) and predicted
            regions (3, X, Y, Z).

    Returns:
        One row a case: `case`, `ce` (binary cross-entropy over voxels and regions), `dice_<region>` (0 to 1; 1 where neither
        truth nor prediction has the region) and `hd95_<region>` (mm; NaN where one of them lacks it).
    """

    def judge(item: Any) -> dict[str, Any]:
        image = item["image"].unsqueeze(0).to(accelerator.device)
        truth = to_regions(item["label"].unsqueeze(0).to(accelerator.device))
        with accelerator.autocast():
            logits = sliding_window_inference(image, tuple(window), 1, net, overlap=overlap, mode="gaussian")
        assert isinstance(logits, Tensor)
        logits = logits.float()
        predicted = (logits > 0).float()
        dice = compute_dice(predicted, truth, include_background=True, ignore_empty=False)[0]
        row = {"case": item["case"], "ce": float(binary_cross_entropy_with_logits(logits, truth))}
        row |= {f"dice_{region}": float(value) for region, value in zip(REGIONS, dice, strict=True)}
        if hd95:
            row |= {f"hd95_{region}": value for region, value in zip(REGIONS, _hd95(predicted, truth, spacing), strict=True)}
        if on_prediction is not None:
            on_prediction(item["case"], item["image"], item["label"], predicted[0].cpu())
        return row

    return pd.DataFrame(map_cases(judge, cases, accelerator, "  evaluating"))


def mean_scores(per_case: pd.DataFrame) -> dict[str, float]:
    """Means over the cases of all figures of `evaluate_segmentation`; HD95 over the cases that have one, else NaN."""
    return {str(name): float(value) for name, value in per_case.select_dtypes("number").mean().items()}


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
    """
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
        One row a scan, sorted: `case` (the scan), `patient`, `source`, `dice` (0 to 1; 1 where neither truth nor prediction
        has a tumour) and `slices` (how many).
    """
    owners = manifest.set_index("case").loc[slices["case"]].reset_index(drop=True)
    scans = slices.reset_index(drop=True).groupby(owners["scan"])
    pixels = scans[list(PIXELS)].sum()
    both = pixels["truth"] + pixels["predicted"]
    table = owners.groupby("scan")[["patient", "source"]].first()
    table["dice"] = (2 * pixels["overlap"] / both).where(both > 0, 1.0)
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
