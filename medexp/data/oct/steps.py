"""The steps between an OCT file and what an encoder takes (`medexp.data.oct.transforms` executes them)."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid")
_Edge = Annotated[int, Field(gt=0)]
_Percent = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True, config=_STRICT)
class ReadOct:
    """A DICOM, NIfTI or NPY file as a volume (B-scans, rows along the beam, A-scans), B-scans in the order of their positions,
    values rescaled as the header says (`medexp.data.oct.readers.read_scan`)."""

    NAME: ClassVar[str] = "read_oct"
    VERSION: ClassVar[int] = 1


@dataclass(frozen=True, config=_STRICT)
class Resize:
    """The whole volume onto another grid: linear; its proportions are not kept.

    Attributes:
        size: B-scans, rows and A-scans.
        antialias: Whether an axis that shrinks is averaged over, instead of read at some points.
    """

    NAME: ClassVar[str] = "resize"
    VERSION: ClassVar[int] = 1
    size: tuple[_Edge, _Edge, _Edge]
    antialias: bool = True


@dataclass(frozen=True, config=_STRICT)
class ZScoreVolume:
    """Mean 0 and standard deviation 1 over all voxels of a volume."""

    NAME: ClassVar[str] = "z_score_volume"
    VERSION: ClassVar[int] = 1


@dataclass(frozen=True, config=_STRICT)
class ToUnit:
    """Values clipped to two percentiles of the volume, which become 0 and 1.

    Attributes:
        low: The lower percentile, 0 to 100.
        high: The upper one.
    """

    NAME: ClassVar[str] = "to_unit"
    VERSION: ClassVar[int] = 1
    low: _Percent
    high: _Percent


OctStep = ReadOct | Resize | ZScoreVolume | ToUnit
STEPS: Sequence[type[Any]] = OctStep.__args__
"""All that there are, of every version."""
