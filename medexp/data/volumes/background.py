"""What surrounds the brain in a channel, and which voxels are no signal: told from the voxels, whatever value they have.

A file's background may be 0, a constant such as -2000, 999 or the lowest z-score, small values of either sign from
interpolation, or several of these, as where a turned volume was filled up. All come to 0 here, and so does a voxel of a value
that no tissue has, such as a marker that was burnt in: 0 is the mean after normalisation, so that such a voxel says nothing,
neither in the statistics nor to a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medexp.data.volumes.cases import FOREGROUND

_T = TypeVar("_T", bound=np.generic)
_CONSTANT = 0.05  # of the faces' voxels that have one value: no value of a tissue is so frequent
_FILLED = 0.4  # of the faces' voxels: more is no brain that touches them; noise that was cut off below 0 fills one half
_NOISE = 0.01  # of the voxels of other values: around a resampled brain lie a few (0.1 %) small ones, which stay what they are
_PATCHES = 0.5  # of the faces' voxels of a value
_FAR = 2.0  # ranges of the brain's values, from which on they are not counted from the background: air lies below 1
_WITHIN = 0.1  # ranges of the brain's values: a little above the darkest of them lies the air of many a picture
_HOT = 20.0  # times as far from the median as the 99th percentile is; the brightest vessels lie at 5


@dataclass(frozen=True)
class Ground:
    """A channel taken apart.

    Attributes:
        brain: bool (X, Y, Z): neither background nor hot.
        level: Value of the background, or the middle of its values; None where nothing can be told from the brain.
        lowest: The smallest value of the background; 0 where nothing can be told.
        highest: The largest one.
        hot: How many voxels are hot.
        hottest: The value of these that lies farthest off; 0 where there is none.
    """

    brain: NDArray[np.bool_]
    level: float | None
    lowest: float
    highest: float
    hot: int
    hottest: float


def ground_of(channel: NDArray[np.float32]) -> Ground:
    """Takes a channel apart.

    The background's value is the one that the faces of the volume share, or else the median of theirs. Where more than a few
    voxels lie within 1 % of the brain's brightness of it and hang together with the faces, they are background too. A margin
    of one value around noisy air is no background: there it is the faces of what lies inside the margin that tell. Any other
    value that the faces share in patches is background where it hangs together with them, if a body is left without it.

    Args:
        channel: Raw intensities (X, Y, Z), not constant.
    """
    level, constant, fillings = _shared(channel)
    inside = ndimage.find_objects((channel != level).astype(np.uint8))[0] if constant else (slice(None),) * channel.ndim
    noisy = constant and _noisy(channel[inside], level)
    if noisy:
        margin, level = level, float(np.median(_other(_faces(channel[inside]), level)))
    else:
        margin, inside = 0.0, (slice(None),) * channel.ndim
    inner = channel[inside]
    parted = inner != level
    for value in fillings:
        rest = parted & ~_from_the_faces(channel == value)[inside]
        if value != level and ndimage.binary_erosion(rest).any():  # a rim of interpolation is no body
            parted = rest
    near = np.abs(inner - level) <= FOREGROUND * abs(float(np.quantile(inner[parted], 0.99)) - level)
    few = _NOISE * np.count_nonzero(parted)
    if np.count_nonzero(near & parted) > few:
        outside = _from_the_faces(near)
        if np.count_nonzero(outside & parted) > few:
            parted = parted & ~outside
    told = parted.any() and ((constant and not noisy) or _faces(parted).mean() <= _FILLED)
    brain = channel != margin
    if told:
        brain = np.zeros_like(brain)
        brain[inside] = parted
    background = channel[~brain] if told else np.zeros(1)
    beyond = brain & beyond_tissue(channel, brain)
    farthest = channel[beyond][np.abs(channel[beyond] - np.median(channel[brain])).argmax()] if beyond.any() else 0
    return Ground(
        brain=brain & ~beyond,
        level=level if told else None,
        lowest=float(background.min()),
        highest=float(background.max()),
        hot=int(np.count_nonzero(beyond)),
        hottest=float(farthest),
    )


def in_words(channels: Sequence[str], grounds: Sequence[Ground]) -> list[str]:
    """What a reader would want to know of how channels were taken apart, a sentence each; nothing of one as it should be."""
    told = []
    for channel, ground in zip(channels, grounds, strict=True):
        if ground.level is None:
            told.append(f"{channel}: nothing can be told from the brain, all of the volume counts as brain")
        if ground.hot:
            told.append(f"{channel}: {ground.hot} voxels of a value that no tissue has, up to {ground.hottest:.6g}, became 0")
    return told


def from_zero(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[Ground]]:
    """An image (C, X, Y, Z) in which background and hot voxels are 0 and a brain's values are counted from its background,
    and how each channel was taken apart.

    A background within the brain's values, above or far below them, such as padding, is no air: the brain is counted from
    0 or from its own lowest value (`unpadded`), or else a voxel between both, as resampling makes them, would outweigh all
    tissue. One whose background is 0 already, and that has no hot voxel, comes back as it is.
    """
    done, grounds = np.zeros_like(image), []
    for index, channel in enumerate(image):
        ground = ground_of(channel)
        done[index][ground.brain] = channel[ground.brain] - np.float32(origin_of(channel, ground))
        grounds.append(ground)
    return done, grounds


def origin_of(channel: NDArray[np.float32], ground: Ground) -> float:
    """What the values of a brain are counted from: its background, or where that is no air `unpadded`.

    Args:
        channel: Raw intensities (X, Y, Z).
        ground: `ground_of` it.
    """
    brain = channel[ground.brain]
    level = ground.level or 0.0
    return unpadded(brain) if level and is_padding(level, brain) else level


def unpadded(brain: NDArray[np.float32]) -> float:
    """What values of which the background is padding are counted from: 0 where that can be their air, which is how they were
    before they were padded; else the lowest of them."""
    lowest = float(brain.min())
    return 0.0 if lowest >= 0 and not is_padding(0, brain) else lowest


def is_padding(level: float, brain: NDArray[np.float32]) -> bool:
    """Whether a background is no air: it is brighter than the darkest of what it surrounds, or far below all of that.

    Args:
        level: Value of the background.
        brain: Values of what it surrounds, of any shape.
    """
    if not brain.size:
        return False
    low, high = np.quantile(brain, (0.01, 0.99))
    return bool(high > low and (level - low > _WITHIN * (high - low) or low - level > _FAR * (high - low)))


def darker_share(brain: NDArray[np.float32], level: float) -> float:
    """Share of a brain that is darker than its background; 0 under padding, which lies farther above all tissue than the
    brain's values lie apart: nothing that is inverted does."""
    low, high = np.quantile(brain, (0.01, 0.99))
    return 0.0 if level - high > high - low > 0 else float((brain < level).mean())


def brighter_than(image: Any, share: float) -> Any:
    """Where an image, a tensor (C, X, Y, Z), is above a share of the channel's maximum."""
    return image > share * image.amax(dim=(1, 2, 3), keepdim=True)


def beyond_tissue(image: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where an image has a value that no tissue has, judged by the values of the brain.

    Args:
        image: Intensities, of any shape.
        brain: Of the same shape, True somewhere.
    """
    low, middle, high = np.quantile(image[brain], (0.01, 0.5, 0.99))
    above = image - middle > _HOT * (high - middle) if high > middle else np.zeros_like(brain)
    below = middle - image > _HOT * (middle - low) if middle > low else np.zeros_like(brain)
    beyond: NDArray[np.bool_] = above | below
    return beyond


def _shared(channel: NDArray[np.float32]) -> tuple[float, bool, list[float]]:
    """The value that most of the faces share, or else the median of theirs; whether they share one; all that they share in
    patches, as tissue and noise do not."""
    faces = _faces(channel)
    values, counts = np.unique(faces, return_counts=True)
    shared = values[counts >= _CONSTANT * faces.size].tolist()
    patches = [value for value in shared if _in_patches(channel, value)]
    return float(values[counts.argmax()] if shared else np.median(faces)), bool(shared), patches


def _in_patches(channel: NDArray[np.float32], value: float) -> bool:
    """Whether half of the faces' voxels of a value have neighbours of it on all sides, within their face."""
    planes = [plane == value for plane in _planes(channel)]
    inner = sum(int(ndimage.binary_erosion(plane, border_value=1).sum()) for plane in planes)
    return inner >= _PATCHES * sum(map(np.count_nonzero, planes))


def _noisy(inner: NDArray[np.float32], margin: float) -> bool:
    """Whether what lies inside a margin is filled to its faces by something that is not what its middle third consists of.

    A brain that was cropped before the margin was put around it fills them too, with tissue.
    """
    faces = _faces(inner)
    others = _other(faces, margin)
    if len(others) <= _FILLED * len(faces):
        return False
    low, high = np.quantile(inner[tuple(slice(size // 3, size - size // 3) for size in inner.shape)], (0.25, 0.75))
    return not low <= np.median(others) <= high


def _other(faces: NDArray[np.float32], margin: float) -> NDArray[np.float64]:
    """The values that are not the margin's, in double: two of the largest float32 have no mean."""
    return faces[faces != margin].astype(float)


def _faces(array: NDArray[_T]) -> NDArray[_T]:
    """The voxels of all six faces; those of edges several times."""
    return np.concatenate([plane.ravel() for plane in _planes(array)])


def _planes(array: NDArray[_T]) -> list[NDArray[_T]]:
    """The six faces. By slices: `np.take` copies all that is not contiguous."""
    turned = (np.moveaxis(array, axis, 0) for axis in range(array.ndim))
    return [one[side] for one in turned for side in (0, -1)]


def _from_the_faces(near: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels that hang together with a face."""
    parts, _ = ndimage.label(near)
    outside: NDArray[np.bool_] = np.isin(parts, np.setdiff1d(_faces(parts), 0))
    return outside
