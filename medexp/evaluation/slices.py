"""Segmentation of 2D slices, judged per scan: the slices of a scan are one case."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from medexp.evaluation.cases import map_cases


class Batches(Dataset[dict[str, Any]]):
    """The items of a data set, several at a time, in order."""

    def __init__(self, data: Dataset[Any], size: int) -> None:
        self._data, self._size = data, size
        self._items: int = len(data)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return math.ceil(self._items / self._size)

    def __getitem__(self, index: int) -> dict[str, Any]:
        first = index * self._size
        return default_collate([self._data[item] for item in range(first, min(first + self._size, self._items))])


@torch.inference_mode()
def evaluate_slices(
    net: Callable[[Tensor], Tensor],
    data: Dataset[Any],
    manifest: pd.DataFrame,
    accelerator: Accelerator,
    batch_size: int,
    title: str = "  evaluating",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Dice of each scan at the size that the network sees: a pixel is tumour where its probability is above 0.5.

    Args:
        net: From images (B, 1, H, W) to logits (B, 1, H, W), in eval mode.
        data: Items with `image` and `mask` (1, H, W), `has_mask` and `case`; those without a mask are left out.
        manifest: Columns `case`, `scan`, `patient` and `source`.
        accelerator: Device, precision and processes.
        batch_size: Slices at a time.
        title: Name in the progress bar.

    Returns:
        `dice_by_scan`, and what it was added up from: one row a slice in the order of the data, with `case` and the pixels
        `truth`, `predicted` and `overlap`.
    """

    def judge(batch: Any) -> list[dict[str, Any]]:
        with accelerator.autocast():
            logits = net(batch["image"].to(accelerator.device))
        predicted = (logits.float() > 0).flatten(1)
        truth = (batch["mask"].to(accelerator.device) > 0.5).flatten(1)
        pixels = torch.stack([truth.sum(1), predicted.sum(1), (truth & predicted).sum(1)], dim=1).tolist()
        names = ("truth", "predicted", "overlap")
        rows = zip(batch["case"], batch["has_mask"].tolist(), pixels, strict=True)
        return [{"case": case} | dict(zip(names, counts, strict=True)) for case, masked, counts in rows if masked]

    rows = [row for part in map_cases(judge, Batches(data, batch_size), accelerator, title) for row in part]
    slices = pd.DataFrame(rows, columns=["case", "truth", "predicted", "overlap"])
    return dice_by_scan(slices, manifest), slices


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
    pixels = scans[["truth", "predicted", "overlap"]].sum()
    both = pixels["truth"] + pixels["predicted"]
    table = owners.groupby("scan")[["patient", "source"]].first()
    table["dice"] = (2 * pixels["overlap"] / both).where(both > 0, 1.0)
    table["slices"] = scans.size()
    return table.rename_axis("case").reset_index()
