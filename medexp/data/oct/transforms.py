"""From a scan as it is stored to what an encoder takes."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medexp.data.oct.cases import Scan
from medexp.data.oct.steps import ReadOct, Resize, ToUnit, ZScoreVolume
from medexp.data.preprocessing import Preprocessing

Normalisation = Literal["zscore", "unit"]
"""Of a volume: mean 0 and SD 1, or clipped to [0, 1]: as the encoder was pretrained."""

PERCENTILES = (0.5, 99.5)
"""What becomes 0 and 1 with "unit": a few glaring or dead pixels do not set the range."""

INPUT = {
    "dtype": "float32",
    "channels": ["oct"],
    "orientation": "B-scans in the order of their positions, rows from the vitreous to the choroid, columns along the B-scan",
    "units": "standard deviations of the volume, or its range",
    "normalisation": "as in the encoder's pretraining, which the contract says",
}
"""What `preprocessing` makes of a scan, in the words of input contracts."""

_TOGETHER = 2**25  # voxels that are resized at a time: 128 MiB as float32


def preprocessing(size: tuple[int, int, int], normalisation: Normalisation, *, antialias: bool = True) -> Preprocessing:
    """What is done to a file before an encoder sees it.

    Args:
        size: B-scans, rows and A-scans of the encoder's input.
        normalisation: As in its pretraining; with another one its features are those of volumes that it never saw.
        antialias: Likewise: without it speckle stays, and detail between the points that are read is lost.
    """
    last = ZScoreVolume() if normalisation == "zscore" else ToUnit(*PERCENTILES)
    return Preprocessing("oct", (ReadOct(), Resize(size, antialias), last))


def execute(steps: Sequence[Any], scan: Scan) -> Tensor:
    """What steps make of a scan.

    Beside the scan it takes memory for some B-scans and for the result, whatever the scan's size.

    Args:
        steps: Of a `Preprocessing` of oct.
        scan: As `medexp.data.oct.readers.read_scan` returns it.

    Returns:
        float32 (1, D, H, W), C-contiguous.
    """
    voxels: Tensor | None = None
    for step in steps:
        match step:
            case Resize(size, antialias):
                voxels = _resized(scan.voxels if voxels is None else np.asarray(voxels), size, antialias=antialias)
            case ZScoreVolume():
                voxels = _standardised(_floats(scan) if voxels is None else voxels)
            case ToUnit(low, high):
                voxels = _clipped(_floats(scan) if voxels is None else voxels, low, high)
    return (_floats(scan) if voxels is None else voxels)[None].contiguous()


def _floats(scan: Scan) -> Tensor:
    return torch.from_numpy(scan.voxels.astype(np.float32))


def _resized(voxels: NDArray[Any], size: tuple[int, int, int], *, antialias: bool) -> Tensor:
    """First each B-scan, some at a time, then along the B-scans: linear interpolation is one axis after the other."""
    depth, height, width = size
    frames = torch.empty(len(voxels), height, width)
    together = max(1, _TOGETHER // (voxels.shape[1] * voxels.shape[2]))
    for start in range(0, len(voxels), together):
        some = torch.from_numpy(voxels[start : start + together].astype(np.float32))[:, None]
        frames[start : start + together] = _linear(some, (height, width), antialias=antialias)[:, 0]
    return _linear(frames.reshape(1, 1, len(voxels), -1), (depth, height * width), antialias=antialias).reshape(size)


def _linear(planes: Tensor, size: tuple[int, int], *, antialias: bool) -> Tensor:
    if planes.shape[-2:] == size:
        return planes
    return functional.interpolate(planes, size, mode="bilinear", antialias=antialias, align_corners=False)


def _standardised(voxels: Tensor) -> Tensor:
    """Sums in double: 9 million float32 of one sign lose digits."""
    values = voxels.double()
    deviation = values.std(correction=0)
    return ((values - values.mean()) / deviation.clamp_min(1e-12)).float()


def _clipped(voxels: Tensor, low: float, high: float) -> Tensor:
    bottom, top = np.percentile(voxels.numpy(), [low, high])  # torch.quantile takes no more than 16 million values
    if top <= bottom:  # nearly all values are equal: what differs is all there is to see
        bottom, top = float(voxels.min()), float(voxels.max())
    return ((voxels - float(bottom)) / max(float(top - bottom), 1e-12)).clamp(0, 1)
