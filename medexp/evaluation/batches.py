"""A function of every case, or of every batch of images: what is judged is run through here."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medexp.arrays import Array
from medexp.errors import TrainingDiverged, all_problems
from medexp.terminal import followed

T = TypeVar("T")

_MOST_BYTES = 2**29  # of kept batches
_FINITE = "Lower the learning rate, set training.precision=fp32, or give weights that are finite."


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


def map_cases(work: Callable[[Any], T], cases: Dataset[Any] | Sequence[Any], accelerator: Accelerator, title: str) -> list[T]:
    """The result of `work` for each case, in order, in every process.

    Args:
        work: From a case to a result that can be pickled; each case is worked on by one process.
        cases: By index, such as `evaluation_dataset`.
        accelerator: The processes.
        title: Name in the progress bar.
    """
    size = len(cases)  # type: ignore[arg-type]
    mine = range(accelerator.process_index, size, accelerator.num_processes)
    results = gather_object([(index, work(cases[index])) for index in shown(mine, len(mine), title, accelerator)])
    return [result for _, result in sorted(results, key=lambda item: item[0])]


@torch.inference_mode()
def map_batches(work: Callable[[Any], T], batches: Batches, accelerator: Accelerator, title: str) -> list[T]:
    """The result of `work` for each batch, in order, in the precision of training."""
    results = []
    for batch in shown(batches, len(batches), title, accelerator):
        with accelerator.autocast():  # and not while items are read
            results.append(work(batch))
    return results


def demand_finite(output: Tensor, cases: Sequence[str], of: str = "the network's output", advice: str = _FINITE) -> None:
    """Whatever is said of a case was computed: NaN would pass for class 0, or for a mask without a voxel.

    Args:
        output: What a network made of the cases (B, ...).
        cases: Their ids.
        of: What it is, and of which network.
        advice: What to do next.

    Raises:
        TrainingDiverged: NaN or infinity; every case of these is named.
    """
    counts = (~output.isfinite()).flatten(1).sum(1).tolist()
    if any(counts):
        told = [f"{case}: {count:,} NaN or infinite values" for case, count in zip(cases, counts, strict=True) if count]
        raise TrainingDiverged(all_problems(of, told, advice))


def in_batches(work: Callable[[Tensor], Tensor], batches: Batches, accelerator: Accelerator, title: str) -> Array:
    """What a network makes of each image (N, D), in the order of the data set, in float32.

    Args:
        work: From images (B, 1, H, W) to (B, D), in eval mode.
        batches: Items with `image` and `case`.
        accelerator: The device and the precision: that of training, for a network that was trained here and for any other.
        title: Name in the progress bar.

    Raises:
        TrainingDiverged: As of `demand_finite`.
    """

    def rows(batch: Any) -> Array:
        output = work(batch["image"].to(accelerator.device)).float()
        demand_finite(output, batch["case"])
        return np.asarray(output.cpu())

    return np.concatenate(map_batches(rows, batches, accelerator, title))


def shown(items: Iterable[T], count: int, title: str, accelerator: Accelerator) -> Iterable[T]:
    """The items, `count` of them, with a progress bar in the first process where there is a terminal."""
    return followed(items, count, title, shown=accelerator.is_main_process)
