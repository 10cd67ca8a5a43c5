"""2D images in batches, as often as they are judged; segmentation of slices, where the slices of a scan are one case."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medexp.evaluation.cases import shown

Array = NDArray[np.floating[Any]]
T = TypeVar("T")

_MOST_BYTES = 2**29  # of kept batches
PIXELS = ("truth", "predicted", "overlap")


class Batches:
    """The items of a data set, several at a time, in order, as often as they are asked for.

    A data set may keep in memory what it read, but not what another process read for it: those batches are kept here, the
    first 512 MB of them, and only the others are read again.

    Args:
        data: Items by index: tensors, numbers and text by name.
        size: Items at a time.
        workers: Processes that read; 0 reads in this one.
    """

    def __init__(self, data: Dataset[Any], size: int, workers: int = 0) -> None:
        items: int = len(data)  # type: ignore[arg-type]
        self._data, self._workers = data, workers
        self._parts = [list(range(first, min(first + size, items))) for first in range(0, items, size)]
        self._kept: list[dict[str, Any]] = []
        self._room = _MOST_BYTES if workers else 0

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first = len(self._kept)
        yield from self._kept[:first]
        if first == len(self):
            return
        own = torch.Generator()  # or a loader draws from the one that dropout draws from
        rest = DataLoader(self._data, batch_sampler=self._parts[first:], num_workers=self._workers, generator=own)
        for index, batch in enumerate(rest, first):
            if index == len(self._kept):
                self._keep(batch)
            yield batch

    def _keep(self, batch: dict[str, Any]) -> None:
        self._room -= sum(value.nbytes for value in batch.values() if isinstance(value, Tensor))
        if self._room >= 0:  # a copy: what workers send lies in shared memory, of which a container has little
            copied = {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
            self._kept.append(copied)


@torch.inference_mode()
def map_batches(work: Callable[[Any], T], batches: Batches, accelerator: Accelerator, title: str) -> list[T]:
    """The result of `work` for each batch, in order, in the precision of training."""
    results = []
    for batch in shown(batches, title, accelerator):
        with accelerator.autocast():  # and not while items are read
            results.append(work(batch))
    return results


def in_batches(work: Callable[[Tensor], Tensor], batches: Batches, accelerator: Accelerator, title: str) -> Array:
    """What a network makes of each image (N, D), in the order of the data set, in float32.

    Args:
        work: From images (B, 1, H, W) to (B, D), in eval mode.
        batches: Items with `image`.
        accelerator: The device and the precision: that of training, for a network that was trained here and for any other.
        title: Name in the progress bar.
    """

    def rows(batch: Any) -> Array:
        return np.asarray(work(batch["image"].to(accelerator.device)).float().cpu())

    return np.concatenate(map_batches(rows, batches, accelerator, title))


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
