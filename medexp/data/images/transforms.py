"""From an image as it is stored to what a 2D network takes: the part that is the same every time, and the random part."""

from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandScaleIntensityd, RandShiftIntensityd
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medexp.data.volumes.background import beyond_tissue
from medexp.data.volumes.cases import FOREGROUND

VERSION = 3
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

    The darkest value is background, and so is 0 in an image of negative values too that has no value as often as 0: it was
    z-scored over the brain before. So is a pixel of a value that no tissue has, such as a marker that was burnt in. The
    convention of `medexp.data.volumes.transforms`, in the plane. Nothing is stretched: a square input gets a square. Images
    are resized bilinearly with antialiasing, masks by nearest pixel.

    Args:
        image: float32 (H, W), not constant.
        mask: (H, W), above 0 where there is tumour; None is no tumour anywhere.
        input_size: Height and width.

    Returns:
        Image float32 (1, *input_size) and mask float32 (1, *input_size) of 0 and 1.
    """
    pixels = _fitted(torch.from_numpy(_from_zero(image)), input_size, mode="bilinear", antialias=True, align_corners=False)
    tumour = torch.zeros(1, *input_size)
    if mask is not None:
        tumour = _fitted(torch.from_numpy(mask > 0).float(), input_size, mode="nearest-exact")
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


def _from_zero(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image moved to where its darkest value, and its background with it, is 0."""
    darkest = image.min()
    if darkest < 0:
        values, counts = np.unique(image, return_counts=True)
        if values[counts.argmax()] == 0:
            image = np.where(image == 0, darkest, image)
    image = image - darkest
    return np.where(beyond_tissue(image, image > 0), np.float32(0), image)


def _fitted(plane: Tensor, size: tuple[int, int], **how: Any) -> Tensor:
    """(H, W) as (1, *size), centred in zeros that give it the proportions of `size`.

    One axis after the other, and the one that is padded last: padded as a whole, a thin strip would become a huge square.
    """
    pixels, (height, width) = plane[None, None], plane.shape
    wanted = max(height, round(width * size[0] / size[1])), max(width, round(height * size[1] / size[0]))
    missing = wanted[0] - height, wanted[1] - width
    for axis in sorted((1, 0), key=lambda axis: missing[axis]):
        margins = (missing[axis] // 2, missing[axis] - missing[axis] // 2)
        pixels = functional.pad(pixels, margins if axis else (0, 0, *margins))
        shape = (pixels.shape[2], size[1]) if axis else (size[0], pixels.shape[3])
        pixels = functional.interpolate(pixels, shape, **how)
    return pixels[0]
