"""From an image as it is stored to what a 2D network takes: the part that is the same every time, and the random part."""

import numpy as np
import torch
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandScaleIntensityd, RandShiftIntensityd
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medexp.data.cases import FOREGROUND

VERSION = 1
"""Raise it when `preprocess` changes."""

INPUT = {
    "dtype": "float32",
    "channels": ["mri"],
    "orientation": "rows anterior to posterior, columns right to left",
    "units": "standard deviations of the image's foreground",
    "normalisation": "zero mean and unit variance over the foreground, brighter than 1 % of the maximum; background is 0",
}
"""What `preprocess` makes of a slice, in the words of input contracts."""


def preprocess(
    image: NDArray[np.float32], mask: NDArray[np.uint8] | None, input_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Pads to the shape of the input with the darkest value, resizes, and z-scores the foreground; background becomes 0.

    The convention of `medexp.data.transforms`, in the plane. Nothing is stretched: a square input gets a square. Images are
    resized bilinearly with antialiasing, masks by nearest pixel.

    Args:
        image: float32 (H, W), not constant.
        mask: (H, W), above 0 where there is tumour; None is no tumour anywhere.
        input_size: Height and width.

    Returns:
        Image float32 (1, *input_size) and mask float32 (1, *input_size) of 0 and 1.
    """
    size = list(input_size)
    pixels = _padded(torch.from_numpy(image - image.min()), size)
    pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)[0]
    tumour = torch.zeros(1, *size)
    if mask is not None:
        tumour = functional.interpolate(_padded(torch.from_numpy(mask > 0).float(), size), size, mode="nearest-exact")[0]
    inside = pixels > FOREGROUND * pixels.max()
    values = pixels[inside]
    deviation = values.std(correction=0)
    if deviation == 0:  # black and white: what is white is all there is to see
        return inside.float(), tumour
    return torch.where(inside, (pixels - values.mean()) / deviation, 0.0), tumour


def augmentation() -> Compose:
    """The random part: left and right exchanged; intensities scaled and shifted by up to 10 %; a little Gaussian noise.

    Takes and returns image and mask (1, H, W).
    """
    return Compose(
        [
            RandFlipd(("image", "mask"), prob=0.5, spatial_axis=1),
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
            RandGaussianNoised("image", prob=0.2, std=0.05),
        ]
    )


def _padded(plane: Tensor, size: list[int]) -> Tensor:
    """(H, W) as (1, 1, H', W') with the sides of `size` in proportion, centred in zeros."""
    height, width = plane.shape
    wanted = max(height, round(width * size[0] / size[1])), max(width, round(height * size[1] / size[0]))
    down, across = wanted[0] - height, wanted[1] - width
    return functional.pad(plane, (across // 2, across - across // 2, down // 2, down - down // 2))[None, None]
