"""Segmentation of whole volumes, judged per case and region."""

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
from medexp.evaluation.cases import map_cases

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
