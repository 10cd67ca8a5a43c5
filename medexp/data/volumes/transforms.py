"""From a case's volume to what a network takes: the part that is the same every time, and the random part of training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    NormalizeIntensityd,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Spacingd,
    SpatialPadd,
)
from numpy.typing import NDArray
from torch import Tensor

from medexp.config.data import DataConfig
from medexp.data.volumes.background import from_zero
from medexp.data.volumes.cases import FOREGROUND, Volume

VERSION = 3
"""Part of the key of cached volumes: raise it when `preprocess` changes."""

INPUT = {
    "dtype": "float32",
    "orientation": "RAS",
    "normalisation": "zero mean and unit variance over the nonzero voxels of each channel; background stays 0",
}
"""What `preprocess` makes, in the words of input contracts."""

_BOTH = ("image", "label")


def preprocess(volume: Volume, data: DataConfig) -> dict[str, Tensor]:
    """Sets the background to 0 (`medexp.data.volumes.background`), reorients to RAS, resamples to `data.spacing` (linear,
    labels by nearest voxel), crops to the brain, z-scores each channel's nonzero voxels and pads with 0 to at least
    `data.input_size`.

    The input contract of BrainSegFounder's BraTS model: channels t2f, t1c, t1n, t2w, nonzero voxels of mean 0 and SD 1.

    Returns:
        image: float32 (4, X, Y, Z); label: uint8 (X, Y, Z).
    """
    steps = Compose(
        [
            *_onto_grid(_BOTH, data.spacing, ("bilinear", "nearest")),
            CropForegroundd(_BOTH, source_key="image", select_fn=_foreground, allow_smaller=True),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            SpatialPadd(_BOTH, spatial_size=data.input_size),
        ]
    )
    affine = torch.from_numpy(volume.affine)
    item = {
        "image": MetaTensor(torch.from_numpy(from_zero(volume.image)), affine=affine),
        "label": MetaTensor(torch.from_numpy(volume.label[None]), affine=affine),
    }
    done = steps(item)
    return {
        "image": done["image"].as_tensor().float().contiguous(),
        "label": done["label"].as_tensor()[0].round().to(torch.uint8).contiguous(),
    }


def label_on_grid(label: NDArray[np.uint8], affine: NDArray[np.float64], spacing: Sequence[float]) -> NDArray[np.uint8]:
    """What `preprocess` leaves of a label before it crops to the brain, and nothing else of the volume.

    Args:
        label: Classes 0 to 3 (X, Y, Z), along the file's axes.
        affine: From voxel indices to RAS+ millimetres (4, 4).
        spacing: Of the grid, in mm.
    """
    item = {"label": MetaTensor(torch.from_numpy(label[None]), affine=torch.from_numpy(affine))}
    done = Compose(_onto_grid(("label",), spacing, ("nearest",)))(item)["label"].as_tensor()[0]
    return np.asarray(done.round().to(torch.uint8))


def _onto_grid(keys: Sequence[str], spacing: Sequence[float], modes: Sequence[str]) -> list[Any]:
    turned = Orientationd(keys, axcodes="RAS", labels=None)
    return [turned, Spacingd(keys, pixdim=tuple(spacing), mode=tuple(modes), dtype=np.float32)]


def augmentation(data: DataConfig) -> Compose:
    """The random part: a crop of `data.input_size` whose centre is a tumour voxel or another, each half of the time; flips
    along each axis; intensities scaled and shifted by up to 10 %; a little Gaussian noise.

    Takes and returns image (4, X, Y, Z) and label (1, X, Y, Z); the crop makes a list of one.
    """
    return Compose(
        [
            RandCropByPosNegLabeld(_BOTH, label_key="label", spatial_size=data.input_size, pos=1, neg=1, num_samples=1),
            *(RandFlipd(_BOTH, prob=0.5, spatial_axis=axis) for axis in range(3)),
            RandScaleIntensityd("image", factors=0.1, prob=0.5, channel_wise=True),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5, channel_wise=True),
            RandGaussianNoised("image", prob=0.2, std=0.05),
        ]
    )


def _foreground(image: Tensor) -> Tensor:
    """Above a share of the channel's maximum. Real data has small values of either sign around the brain, from resampling."""
    return image > FOREGROUND * image.amax(dim=(1, 2, 3), keepdim=True)
