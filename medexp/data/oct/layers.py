"""What classical statistics say of a volume: of its intensities, and of the bright band that the retina is.

The band is found without a segmentation, in each smoothed profile along the beam: from where it first rises above the dark by
a share of its peak to where it last does, which is from the vitreous' edge to the choroid. That is thicker than the retina,
the same way in every volume of a device. A network that gains nothing over these figures has learned nothing that they do not
hold.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata

from medexp.arrays import Array

INTENSITY_STATISTICS = ("mean", "sd", "p01", "p05", "p25", "p50", "p75", "p95", "p99", "speckle", "frame_sd")
"""In the file's units; speckle: the SD of neighbouring A-scans' difference over root 2 and the SD; frame_sd: of B-scans'
means."""

LAYER_STATISTICS = (
    "thickness_mean",
    "thickness_sd",
    "thickness_p10",
    "thickness_p90",
    "thickness_centre",
    "thickness_periphery",
    "pit",
    "peak_depth_mean",
    "peak_depth_sd",
    "inner",
    "middle",
    "outer",
    "contrast",
    "tilt",
    "roughness",
)
"""In mm: thickness of the band over all A-scans, in the central ninth and outside it, pit their difference, peak_depth from
the band's upper edge to its brightest row, tilt the range of a plane through the upper edge, roughness the SD around it.
Brightness of the band's inner, middle and outer third over that of the band. Contrast: the band's less the dark's, over their
sum."""

DEPTH_MM = 2.0
"""How deep a volume counts as where no file says; devices see 1.9 to 2.6 mm deep."""

_GRID = (32, 256, 64)  # that profiles are smoothed on, at most
_FRAMES = 128  # of a volume that are looked at, evenly spread
_RISE = 0.3  # of the way from the dark to the peak
_DARK = 20.0  # percentile of a profile
_HALF, _BESIDE = 0.5, 0.12  # as _RISE, of a band that is upside down or not; how far beside it, of the rows
_LEAST = 64  # rows, in which layers are seen
_BRIGHT = 4  # power of the ranks: dark noise, which is most of a volume, counts little
_TURNED = 0.02  # of what is compared: less on either side says nothing


def intensity_statistics(voxels: NDArray[Any]) -> Array:
    """The INTENSITY_STATISTICS of a volume (D, H, W), float64; of 32 B-scans where it has more."""
    some = _spread(voxels, 32).astype(np.float32)
    spread = float(some.std(dtype=float))
    quantiles = np.percentile(some[:, ::2, ::2], [1, 5, 25, 50, 75, 95, 99])
    speckle = float(np.diff(some, axis=2).std(dtype=float)) / np.sqrt(2) / max(spread, 1e-12)
    frames = some.mean(axis=(1, 2), dtype=float).std()
    return np.array([some.mean(dtype=float), spread, *quantiles, speckle, frames])


def layer_statistics(voxels: NDArray[Any], row_mm: float | None) -> Array:
    """The LAYER_STATISTICS of a volume, float64, finite.

    Args:
        voxels: (D, H, W).
        row_mm: Between rows; None where nobody says: DEPTH_MM are the whole.
    """
    profiles = _profiles(voxels)
    rows = profiles.shape[1]
    step = (row_mm * voxels.shape[1] if row_mm else DEPTH_MM) / rows
    dark = np.percentile(profiles, _DARK, axis=1, keepdims=True)
    peak = profiles.max(axis=1, keepdims=True)
    inside = profiles > dark + _RISE * (peak - dark)
    top = _smooth(inside.argmax(axis=1))
    bottom = _smooth(rows - 1 - inside[:, ::-1].argmax(axis=1))
    brightest = _smooth(profiles.argmax(axis=1))
    thickness, depth = (bottom - top) * step, (brightest - top) * step
    central = _central(thickness.shape)
    centre, periphery = float(thickness[central].mean()), float(thickness[~central].mean())
    plane = _plane(top)
    thirds, band, outside = _brightness(profiles, top, bottom)
    return np.array(
        [
            *(thickness.mean(), thickness.std(), *np.percentile(thickness, [10, 90])),
            *(centre, periphery, centre - periphery, depth.mean(), depth.std()),
            *(third / (abs(band) or 1) for third in thirds),
            (band - outside) / (abs(band) + abs(outside) or 1),
            *(np.ptp(plane) * step, (top - plane).std() * step),
        ],
        float,
    )


def upside_down(voxels: NDArray[Any]) -> bool:
    """Whether the vitreous seems to lie below in a volume (D, H, W): both of two signs say so.

    Light enters from the vitreous, so that the retina begins with a sharp rise from the dark, and decays into the choroid,
    which is brighter than the vitreous. One sign is that the steepest rise along the beam is fainter than the steepest fall,
    the other that what lies just above the band is brighter than what lies just below it. Both go by the ranks of brightness,
    since devices differ in their grey scales. docs/oct.md has how often they are wrong. Of few rows nothing is said.
    """
    if voxels.shape[1] < _LEAST:
        return False
    smooth = _profiles(_spread(voxels, 32))
    profiles = (rankdata(smooth).reshape(smooth.shape) / smooth.size) ** _BRIGHT
    rows = profiles.shape[1]
    slopes = np.diff(profiles, axis=1)
    rise, fall = slopes.max(axis=1), -slopes.min(axis=1)
    edge = ((rise - fall) / np.maximum(rise + fall, 1e-9)).mean()
    dark, peak = np.percentile(profiles, _DARK, axis=1, keepdims=True), profiles.max(axis=1, keepdims=True)
    inside = profiles > dark + _HALF * (peak - dark)
    top, bottom = inside.argmax(axis=1), rows - 1 - inside[:, ::-1].argmax(axis=1)
    row, reach = np.arange(rows)[None, :, None], max(round(_BESIDE * rows), 2)
    sides = []
    for away in (top[:, None] - row, row - bottom[:, None]):
        beside = (away > 1) & (away <= 1 + reach)
        count = beside.sum(axis=1)
        sides.append(np.where(count > 1, (profiles * beside).sum(axis=1) / np.maximum(count, 1), np.nan))
    contrast = (sides[1] - sides[0]) / np.maximum(peak - dark, 1e-9)[:, 0]
    seen = contrast[np.isfinite(contrast)]
    return bool(edge < -_TURNED and seen.size and np.median(seen) < -_TURNED)


def _spread(voxels: NDArray[Any], most: int) -> NDArray[Any]:
    """So many B-scans, evenly spread; all where there are no more."""
    if len(voxels) <= most:
        return voxels
    return voxels[np.linspace(0, len(voxels) - 1, most).round().astype(int)]


def _profiles(voxels: NDArray[Any]) -> Array:
    """The volume averaged over equal parts of at most _GRID, and smoothed: speckle is as strong as the layers."""
    frames = _spread(voxels, _FRAMES)
    shape = tuple(min(most, length) for most, length in zip(_GRID, frames.shape, strict=True))
    plane = np.stack([_averaged(_averaged(frame, 0, shape[1]), 1, shape[2]) for frame in frames])
    return np.asarray(ndimage.gaussian_filter(_averaged(plane, 0, shape[0]), (0.5, 1.5, 1.0), mode="nearest"))


def _averaged(values: NDArray[Any], axis: int, parts: int) -> Array:
    starts = np.arange(parts) * values.shape[axis] // parts
    counts = np.diff([*starts, values.shape[axis]])
    sums = np.add.reduceat(values, starts, axis=axis, dtype=np.float32)
    return np.asarray(sums / np.expand_dims(counts, tuple(range(1, values.ndim - axis))).astype(np.float32))


def _smooth(rows: NDArray[Any]) -> Array:
    """A surface (D, W) without the A-scans that lie by themselves, such as under a vessel."""
    return np.asarray(ndimage.median_filter(rows.astype(float), size=3, mode="nearest"))


def _central(shape: Sequence[int]) -> NDArray[np.bool_]:
    """The central third along both axes."""
    found = np.zeros((shape[0], shape[1]), bool)
    found[tuple(slice(length // 3, max(length - length // 3, length // 3 + 1)) for length in shape)] = True
    return found


def _plane(surface: Array) -> Array:
    grid = np.stack([np.ones(surface.shape), *np.indices(surface.shape)], axis=-1).reshape(-1, 3)
    return np.asarray(grid @ np.linalg.lstsq(grid, surface.ravel(), rcond=None)[0]).reshape(surface.shape)


def _brightness(profiles: Array, top: Array, bottom: Array) -> tuple[list[float], float, float]:
    """Means of the band's three thirds, of the band, and of what lies outside it."""
    row = np.arange(profiles.shape[1])[None, :, None]
    share = (row - top[:, None]) / np.maximum(bottom - top, 1)[:, None]
    within = (share >= 0) & (share <= 1)
    thirds = [profiles[within & (share >= low) & (share <= low + 1 / 3)] for low in (0, 1 / 3, 2 / 3)]
    outside = profiles[~within]
    band = float(profiles[within].mean())
    means = [float(third.mean()) if third.size else band for third in thirds]
    return means, band, float(outside.mean()) if outside.size else 0.0
