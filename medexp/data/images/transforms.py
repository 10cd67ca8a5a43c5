"""From an image as it is stored to what a 2D network takes: the part that is the same every time, and the random part."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandScaleIntensityd, RandShiftIntensityd
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medexp.data.images.background import without_padding
from medexp.data.images.steps import Fit, ReadGrey, ZeroDarkest, ZScoreForeground
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes.background import beyond_tissue
from medexp.data.volumes.cases import FOREGROUND

INPUT = {
    "dtype": "float32",
    "channels": ["mri"],
    "orientation": "rows anterior to posterior, columns right to left",
    "units": "standard deviations of the image's foreground",
    "normalisation": "zero mean and unit variance over the foreground, brighter than 1 % of the maximum; background is 0",
}
"""What `preprocessing` makes of a slice, in the words of input contracts."""


def preprocessing(input_size: tuple[int, int]) -> Preprocessing:
    """What training does to a picture: darkest to 0, centred in the proportions of the input and resized to it, foreground to
    mean 0 and SD 1. The convention of `medexp.data.volumes.transforms`, in the plane; nothing is stretched.

    Args:
        input_size: Height and width.
    """
    return Preprocessing("images", (ReadGrey(), ZeroDarkest(), Fit(input_size), ZScoreForeground(FOREGROUND)))


def execute(steps: Sequence[Any], image: NDArray[np.float32]) -> Tensor:
    """What steps make of an image.

    Args:
        steps: Of a `Preprocessing` of images.
        image: float32 (H, W), not constant.

    Returns:
        float32 (1, H', W').
    """
    pixels = torch.from_numpy(image)[None]
    for step in steps:
        match step:
            case ZeroDarkest():
                pixels = torch.from_numpy(_from_zero(np.asarray(pixels[0])))[None]
            case Fit(size):
                pixels = _fitted(pixels[0], size, mode="bilinear", antialias=True, align_corners=False)
            case ZScoreForeground(above):
                pixels = _standardised(pixels, above)
    return pixels


def preprocess(
    image: NDArray[np.float32], mask: NDArray[np.uint8] | None, input_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What `preprocessing` makes of an image and its mask.

    Args:
        image: float32 (H, W), not constant.
        mask: (H, W), above 0 where there is tumour; None is no tumour anywhere.
        input_size: Height and width.

    Returns:
        Image float32 (1, *input_size) and mask float32 (1, *input_size) of 0 and 1.
    """
    pixels = execute(preprocessing(input_size).steps, image)
    if mask is None:
        return pixels, torch.zeros(1, *input_size)
    return pixels, _fitted(torch.from_numpy(mask > 0).float(), input_size, mode="nearest-exact")


def onto_own_pixels(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Values on a network's pixels, such as logits, brought back to the pixels of a picture's file: what `Fit` did, undone.

    Args:
        values: (C, H', W'), float32.
        shape: Height and width of the picture, H and W.

    Returns:
        (C, H, W), float32.
    """
    whole = _proportioned(shape, (values.shape[-2], values.shape[-1]))
    pixels = functional.interpolate(values[None], whole, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = ((outer - inner) // 2 for outer, inner in zip(whole, shape, strict=True))
    return pixels[:, top : top + shape[0], left : left + shape[1]]


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
    image = without_padding(image)[0]
    image = image - image.min()
    return np.where(beyond_tissue(image, image > 0), np.float32(0), image)


def _fitted(plane: Tensor, size: tuple[int, int], **how: Any) -> Tensor:
    """(H, W) as (1, *size), centred in zeros that give it the proportions of `size`.

    One axis after the other, and the one that is padded last: padded as a whole, a thin strip would become a huge square.
    """
    pixels, (height, width) = plane[None, None], plane.shape
    wanted = _proportioned((height, width), size)
    missing = wanted[0] - height, wanted[1] - width
    for axis in sorted((1, 0), key=lambda axis: missing[axis]):
        margins = (missing[axis] // 2, missing[axis] - missing[axis] // 2)
        pixels = functional.pad(pixels, margins if axis else (0, 0, *margins))
        shape = (pixels.shape[2], size[1]) if axis else (size[0], pixels.shape[3])
        pixels = functional.interpolate(pixels, shape, **how)
    return pixels[0]


def _proportioned(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width, at least those of a shape, in the proportions of a size."""
    height, width = shape
    return max(height, round(width * size[0] / size[1])), max(width, round(height * size[1] / size[0]))


def _standardised(pixels: Tensor, above: float) -> Tensor:
    """Foreground at mean 0 and SD 1, background at 0."""
    inside = pixels > above * pixels.max()
    values = pixels[inside]
    deviation = values.std(correction=0)
    if deviation == 0:  # black and white: what is white is all there is to see
        return inside.float()
    return torch.where(inside, (pixels - values.mean()) / deviation, 0.0)
