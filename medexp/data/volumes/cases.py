"""A case on disk and the volume that it holds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("t2f", "t1c", "t1n", "t2w")
"""The network's channel order, BrainSegFounder's: FLAIR, contrast-enhanced T1, native T1, T2. In another, Dice is near 0."""

REGION_CLASSES = {"TC": (1, 3), "WT": (1, 2, 3), "ET": (3,)}
"""The classes that make up each region."""

FOREGROUND = 0.01
"""Brain is what is brighter than this share of a channel's maximum."""


@dataclass(frozen=True)
class Case:
    """One scan of one patient: where its files are.

    Args:
        id: The name of its folder, unique in a data folder.
        patient: Cases of one patient stay in one split.
        images: One file a channel, in the order of CHANNELS; or one 4D file whose last axis is the channels.
        label: The segmentation; None where only the images are of interest.
    """

    id: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None

    @property
    def scan(self) -> str:
        """Itself, as no slice of another one."""
        return self.id

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.images, self.label) if self.label else self.images


@dataclass(frozen=True)
class Volume:
    """What a case's files hold, as they lie on disk: neither reoriented nor resampled.

    Args:
        image: float32 (4, X, Y, Z), raw intensities in the order of CHANNELS.
        label: uint8 (X, Y, Z): 0 background, 1 necrotic or non-enhancing core, 2 edema, 3 enhancing tumour; all 0 where the
            case has no segmentation.
        affine: float64 (4, 4), from voxel indices to RAS+ millimetres.
        values: What the segmentation's file holds besides 0, ascending, as the file has it.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    values: tuple[int, ...] = ()
