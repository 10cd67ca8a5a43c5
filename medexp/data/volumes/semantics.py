"""Semantic features of a tumour (volume 4, place 3, shape 3), and what a volume is without any network: statistics of raw
intensities, and the shape of what is not background."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import marching_cubes, mesh_surface_area

from medexp.data.volumes.background import Ground
from medexp.data.volumes.cases import CHANNELS, Volume

SEMANTIC_FEATURES = (
    "log_volume_whole",
    "log_volume_core",
    "log_volume_edema",
    "log_volume_enhancing",
    "centroid_r",
    "centroid_a",
    "centroid_s",
    "sphericity",
    "log_surface_area",
    "solidity",
)
"""Names of what `semantic_features` returns, in its order."""

INTENSITY_STATISTICS = tuple(f"{channel}_{name}" for channel in CHANNELS for name in ("mean", "sd", "p99"))
"""Names of what `intensity_statistics` returns, in its order."""

SHAPE_STATISTICS = (
    "volume_ml",
    *(f"extent_{axis}_mm" for axis in "ras"),
    *(f"axis_{number}_mm" for number in (1, 2, 3)),
    "sphericity",
    "log_surface_area",
    "solidity",
)
"""Names of what `shape_statistics` returns, in its order."""


def semantic_features(volume: Volume) -> NDArray[np.float64]:
    """The ten features of SEMANTIC_FEATURES.

    Log volumes are log(1 + mm^3) of the whole tumour and of labels 1, 2 and 3. The centroid of the whole tumour is a fraction,
    0 to 1, of the volume's extent from left to right, posterior to anterior and inferior to superior, in the closest canonical
    orientation. Shape is of the whole tumour: sphericity (0 to 1) and log(1 + mm^2) of the surface from marching cubes, and
    solidity, its share of its convex hull. All are finite also for a single voxel.

    Args:
        volume: With at least one tumour voxel.

    Returns:
        float64 (10,).
    """
    label, spacing = _turned(volume.label, volume.affine)
    voxel = abs(np.linalg.det(volume.affine[:3, :3]))
    whole = label > 0
    log_volumes = [np.log1p(voxel * np.count_nonzero(mask)) for mask in (whole, label == 1, label == 2, label == 3)]
    centroid = (np.asarray(ndimage.center_of_mass(whole)) + 0.5) / whole.shape
    return np.array([*log_volumes, *centroid, *_shape(whole, spacing)], np.float64)


def intensity_statistics(image: NDArray[np.float32], grounds: Sequence[Ground]) -> NDArray[np.float64]:
    """The twelve numbers of INTENSITY_STATISTICS: mean, SD and 99th percentile of each channel's brain.

    Args:
        image: Raw intensities (4, X, Y, Z).
        grounds: `medexp.data.volumes.background.ground_of` of each channel.

    Returns:
        float64 (12,), in the units of the files' intensities.
    """
    brains = [channel[ground.brain].astype(np.float64) for channel, ground in zip(image, grounds, strict=True)]
    return np.array([figure for v in brains for figure in (v.mean(), v.std(), np.percentile(v, 99))], np.float64)


def shape_statistics(brain: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ten numbers of SHAPE_STATISTICS, of the largest part that hangs together: a few voxels beside it are noise.

    Its volume; its extents from left to right, posterior to anterior and inferior to superior, in the closest canonical
    orientation; the lengths of the principal axes of the ellipsoid with its second moments, the longest first; sphericity,
    log(1 + mm^2) of the surface and solidity as of a tumour (`semantic_features`).

    Args:
        brain: What is not background in any channel (X, Y, Z); True somewhere.
        affine: From voxels to mm (4, 4).

    Returns:
        float64 (10,).
    """
    turned, spacing = _turned(brain, affine)
    whole = largest_part(turned)
    box = ndimage.find_objects(whole.astype(np.uint8))[0]
    extents = np.array([edges.stop - edges.start for edges in box]) * spacing
    places = np.argwhere(whole[box]) * spacing
    moments = np.cov(places.T, bias=True) + np.diag(spacing**2) / 12  # of a voxel itself: one alone has a length too
    axes = np.sqrt(20 * np.linalg.eigvalsh(moments)[::-1])
    millilitres = len(places) * float(np.prod(spacing)) / 1000
    return np.array([millilitres, *extents, *axes, *_shape(whole, spacing)], np.float64)


def largest_part(brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest part that hangs together of what is True somewhere."""
    parts, _ = ndimage.label(brain)
    whole: NDArray[np.bool_] = parts == np.bincount(parts[brain]).argmax()
    return whole


def _turned(array: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """An array along R, A, S in the closest canonical orientation, and the edges of its voxels in mm."""
    orientation = io_orientation(affine)
    return apply_orientation(array, orientation), np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]


def _shape(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> tuple[float, float, float]:
    """Sphericity, log(1 + surface in mm^2) and solidity, all of one mesh: neither ratio exceeds 1, and a single voxel, an
    octahedron in the mesh, has both. scikit-image's own solidity has no hull for a flat mask and warns."""
    box = np.pad(mask[ndimage.find_objects(mask.astype(np.uint8))[0]], 1).astype(np.float32)
    vertices, faces, *_ = marching_cubes(box, 0.5, spacing=tuple(spacing))
    surface = float(mesh_surface_area(vertices, faces))
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    volume = abs(float(np.einsum("ij,ij->", a, np.cross(b, c)))) / 6
    sphericity = np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface
    solidity = min(volume / ConvexHull(vertices).volume, 1.0)  # 1 may be missed by rounding
    return float(sphericity), float(np.log1p(surface)), float(solidity)
