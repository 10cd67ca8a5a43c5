"""A pair as its files hold it, and its mask on the network's grid."""

from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medexp.config.data import SUFFIXES, PairDataConfig
from medexp.config.flags import flag
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes.brats import Wording, read_case
from medexp.data.volumes.cases import FOREGROUND, Case, Volume
from medexp.data.volumes.steps import FitTo, Orient, ReadChannels, Resample, ScalePercentiles, VolumeStep, ZeroBackground

CHANNEL = "t2f"
"""FLAIR, as the channels of volumes are called."""

_PARTS = 4  # along an edge of the grid: so finely a mask's voxels are divided


class OnGrid(NamedTuple):
    """A mask on the network's grid.

    Attributes:
        mask: uint8 (X, Y, Z), 0 and 1.
        outside: Share of the lesion, 0 to 1, that lies beyond the grid.
    """

    mask: NDArray[np.uint8]
    outside: float


def read_pair(case: Case, data: PairDataConfig, block: str = "data") -> Volume:
    """A FLAIR volume (1, X, Y, Z) and its mask (X, Y, Z), 0 and 1, as they lie in their files, checked.

    Args:
        case: As `find_pairs` gives it; its label is all 0 where it has no mask.
        data: `lesion`.
        block: Where `data` stands in the configuration, for messages.

    Raises:
        UnfitLabels: The mask holds values that `lesion` has not.
        DataError: As of `read_case`; all problems of the pair at once.
    """
    binary = f"it was resampled with interpolation: threshold it, as by fslmaths {case.label} -thr 0.5 -bin NEW_MASK"
    advice = f"Repair the files, or leave the case out with {flag(f'{block}.exclude', [case.id])}."
    return read_case(case, data.classes, advice, (CHANNEL,), Wording(f"{block}.lesion", "lesion", binary))


def preprocessing(spacing: tuple[float, float, float], size: tuple[int, int, int]) -> Preprocessing:
    """What is done to a FLAIR volume before the VAE sees it: background to 0, axes to RAS, onto a grid (linear), the head's
    box about its centre brought to one size, and from 0 to the 99.5th percentile to 0 to 1, as MAISI's volumes are.

    Args:
        spacing: Of the grid, in mm along R, A, S.
        size: Of the grid, in voxels.
    """
    steps: tuple[VolumeStep, ...] = (
        ReadChannels((CHANNEL,), {CHANNEL: SUFFIXES[CHANNEL]}),
        ZeroBackground(),
        Orient("RAS"),
        Resample(spacing, "bilinear"),
        FitTo(size, FOREGROUND),
        ScalePercentiles(0.0, 99.5),
    )
    return Preprocessing("volumes", steps)


def image_on_grid(volume: Volume, data: PairDataConfig) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """What `preprocessing` makes of a volume: float32 (1, X, Y, Z) in [0, 1], and its affine (4, 4), to RAS+ mm."""
    from medexp.data.volumes.transforms import execute  # whose MONAI takes longer to import than names take to be read

    done = execute(preprocessing(data.spacing, data.input_size).steps, volume)["image"]
    return np.asarray(done.as_tensor(), np.float32), np.asarray(done.affine, np.float64)


class Pair(NamedTuple):
    """A pair on the network's grid.

    Attributes:
        image: float32 (1, X, Y, Z) in [0, 1].
        mask: uint8 (1, X, Y, Z), 0 and 1; all 0 of a volume without a mask.
        affine: float64 (4, 4), from the grid's voxels to RAS+ mm.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]


def load_pair(case: Case, data: PairDataConfig) -> Pair:
    """A pair as the network takes it.

    Args:
        case: Of those that `prepare_pairs` gives.
        data: `lesion`, `spacing` and `input_size`.

    Raises:
        DataError: As of `read_pair`.
    """
    volume = read_pair(case, data)
    image, affine = image_on_grid(volume, data)
    return Pair(image, mask_on_grid(volume.label, volume.affine, affine, data.input_size).mask[None], affine)


def mask_on_grid(
    mask: NDArray[np.uint8], affine: NDArray[np.float64], grid: NDArray[np.float64], shape: tuple[int, int, int]
) -> OnGrid:
    """A mask on another grid: the voxels that the lesion fills most, as many as its volume makes.

    Nearest voxel and linear interpolation with a threshold of one half look at points, and a lesion of a few voxels comes out
    larger or smaller by chance; a threshold on the share of a voxel that is filled loses what is thinner than half of one.
    Here the volume stays what it is, to half a voxel of the grid (`python -m benchmarks.phase7_latents`).

    Args:
        mask: 0 and 1 (X, Y, Z).
        affine: From its voxels to RAS+ mm (4, 4).
        grid: From the grid's voxels to RAS+ mm (4, 4).
        shape: Of the grid.
    """
    voxels = np.argwhere(mask)
    if not len(voxels):
        return OnGrid(np.zeros(shape, np.uint8), 0.0)
    ratio = nib.affines.voxel_sizes(affine) / nib.affines.voxel_sizes(grid).min()
    parts = np.ceil(_PARTS * ratio).astype(int)
    onto = np.linalg.inv(grid) @ affine
    starts = nib.affines.apply_affine(onto, voxels)
    filled = np.zeros(shape)
    for part in np.ndindex(*parts):
        offset = onto[:3, :3] @ ((np.array(part) + 0.5) / parts - 0.5)
        at = np.rint(starts + offset).astype(np.intp)
        inside = at[((at >= 0) & (at < shape)).all(axis=1)]
        filled += np.bincount(np.ravel_multi_index(tuple(inside.T), shape), minlength=filled.size).reshape(shape)
    volume = abs(np.linalg.det(affine)) / abs(np.linalg.det(grid)) / parts.prod()  # of a part, in voxels of the grid
    wanted = round(filled.sum() * volume)
    among = ndimage.uniform_filter(filled, 3, mode="constant")  # of voxels that are filled alike, those that lie deeper
    best = np.lexsort((-among.ravel(), -filled.ravel()))[:wanted]
    found = np.zeros(shape, np.uint8)
    found.ravel()[best] = 1
    return OnGrid(found * (filled > 0), float(1 - filled.sum() / (len(voxels) * parts.prod())))
