"""Batches of two tasks in turns, from the items of both."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medexp.data.images.datasets import MultiSourceDataset


class BothTasks(Dataset[dict[str, Any]]):
    """The items of segmentation, then those of classification; `task` says which, 0 or 1."""

    def __init__(self, segmented: MultiSourceDataset, classified: MultiSourceDataset) -> None:
        self.parts = (segmented, classified)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        epoch, index, repeat = key
        task = int(index >= len(self.parts[0]))
        return self.parts[task][epoch, index - task * len(self.parts[0]), repeat] | {"task": task}


def alternating(
    segmented: Callable[[int], NDArray[np.intp]], classified: Callable[[int], NDArray[np.intp]], count: int, batch_size: int
) -> Callable[[int], NDArray[np.intp]]:
    """An order of items in which a batch of one task follows a batch of the other.

    An epoch has as many batches of each as segmentation has: its items once, and the classified ones over and over or in part.
    Batches are full: those left at the end of an epoch's order, fewer than a batch, come another time.

    Args:
        segmented: Order of the items of segmentation.
        classified: Order of the items of classification, counted from 0.
        count: Number of items of segmentation.
        batch_size: Items a batch.
    """

    def order(epoch: int) -> NDArray[np.intp]:
        rows = max(count // batch_size, 1)
        first, second = (np.resize(each(epoch), (rows, batch_size)) for each in (segmented, classified))
        return np.stack([first, second + count], axis=1).reshape(-1)

    return order
