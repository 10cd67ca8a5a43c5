"""The steps between a case's files and what a network takes. MONAI is imported when they are executed.

What a step does is said once, as transforms of MONAI's by name with their arguments: execution and exported bundles read it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from medexp.data.volumes.background import brighter_than

_STRICT = ConfigDict(extra="forbid")
_Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Edge = Annotated[int, Field(gt=0)]
Transforms = list[tuple[str, dict[str, Any]]]
"""Dictionary transforms by name (`medexp.data.volumes.transforms.transform_named`), each with its arguments; without `keys`
those of image and label."""


@dataclass(frozen=True, config=_STRICT)
class ReadChannels:
    """The files of a case, one a channel, found by how their names end; or one 4D file whose last axis is the channels.

    Attributes:
        channels: In the order that the network takes them.
        suffixes: By channel, what a file's name ends with before .nii or .nii.gz, after - or _; any case.
    """

    NAME: ClassVar[str] = "read_channels"
    VERSION: ClassVar[int] = 1
    channels: tuple[str, ...]
    suffixes: Mapping[str, tuple[str, ...]]

    @property
    def transforms(self) -> Transforms:
        """None: what is executed here begins with a volume that was read and checked."""
        return []


@dataclass(frozen=True, config=_STRICT)
class ZeroBackground:
    """Background and voxels of a value that no tissue has become 0 (`medexp.data.volumes.background`)."""

    NAME: ClassVar[str] = "zero_background"
    VERSION: ClassVar[int] = 1

    @property
    def transforms(self) -> Transforms:
        return [("ZeroBackgroundd", {"keys": ["image"]})]


@dataclass(frozen=True, config=_STRICT)
class Orient:
    """Axes turned and mirrored, without interpolation, to run to these directions.

    Attributes:
        axcodes: Such as RAS.
    """

    NAME: ClassVar[str] = "orient"
    VERSION: ClassVar[int] = 1
    axcodes: Annotated[str, Field(pattern="^[LRAPSI]{3}$")]

    @property
    def transforms(self) -> Transforms:
        return [("Orientationd", {"axcodes": self.axcodes, "labels": None})]


@dataclass(frozen=True, config=_STRICT)
class Resample:
    """Onto a grid of another spacing; labels by nearest voxel.

    Attributes:
        spacing_mm: Edges of its voxels, in mm.
        interpolation: Of the image.
    """

    NAME: ClassVar[str] = "resample"
    VERSION: ClassVar[int] = 1
    spacing_mm: tuple[_Length, _Length, _Length]
    interpolation: Literal["bilinear", "nearest"]

    @property
    def transforms(self) -> Transforms:
        return [("Spacingd", {"pixdim": list(self.spacing_mm), "mode": self.interpolation, "dtype": "float32"})]


@dataclass(frozen=True, config=_STRICT)
class CropForeground:
    """The box around the voxels that are brighter, in any channel, than a share of that channel's maximum.

    Attributes:
        above: The share, 0 to 1. Real data has small values of either sign around the brain, from resampling.
    """

    NAME: ClassVar[str] = "crop_foreground"
    VERSION: ClassVar[int] = 1
    above: Annotated[float, Field(ge=0, lt=1)]

    @property
    def transforms(self) -> Transforms:
        select = partial(brighter_than, share=self.above)
        return [("CropForegroundd", {"source_key": "image", "select_fn": select, "allow_smaller": True})]


@dataclass(frozen=True, config=_STRICT)
class FitTo:
    """The box around what is brighter, in any channel, than a share of that channel's maximum, brought to one size: about its
    centre, cut where it is larger, with zeros around it where it is smaller.

    Attributes:
        size: Voxels along each axis.
        above: The share, 0 to 1.
    """

    NAME: ClassVar[str] = "fit_to"
    VERSION: ClassVar[int] = 1
    size: tuple[_Edge, _Edge, _Edge]
    above: Annotated[float, Field(ge=0, lt=1)]

    @property
    def transforms(self) -> Transforms:
        return [*CropForeground(self.above).transforms, ("ResizeWithPadOrCropd", {"spatial_size": list(self.size)})]


@dataclass(frozen=True, config=_STRICT)
class ScalePercentiles:
    """Each channel from two percentiles of its voxels, background included, linearly to 0 and 1, and clipped there.

    What is darker than a background of 0, as single voxels are after a resampling, counts as background before.

    Attributes:
        lower: Percentile that becomes 0.
        upper: Percentile that becomes 1.
    """

    NAME: ClassVar[str] = "scale_percentiles"
    VERSION: ClassVar[int] = 1
    lower: Annotated[float, Field(ge=0, lt=100)]
    upper: Annotated[float, Field(gt=0, le=100)]

    @property
    def transforms(self) -> Transforms:
        values = {"lower": self.lower, "upper": self.upper, "b_min": 0.0, "b_max": 1.0, "clip": True, "channel_wise": True}
        return [
            ("ThresholdIntensityd", {"keys": ["image"], "threshold": 0.0, "above": True, "cval": 0.0}),
            ("ScaleIntensityRangePercentilesd", {"keys": ["image"]} | values),
        ]


@dataclass(frozen=True, config=_STRICT)
class ZScore:
    """Each channel to mean 0 and standard deviation 1 over its nonzero voxels; 0 stays 0."""

    NAME: ClassVar[str] = "z_score_nonzero"
    VERSION: ClassVar[int] = 1

    @property
    def transforms(self) -> Transforms:
        return [("NormalizeIntensityd", {"keys": ["image"], "nonzero": True, "channel_wise": True})]


@dataclass(frozen=True, config=_STRICT)
class PadTo:
    """Zeros around what is smaller, evenly on both sides.

    Attributes:
        size: Fewest voxels along each axis.
    """

    NAME: ClassVar[str] = "pad_to"
    VERSION: ClassVar[int] = 1
    size: tuple[_Edge, _Edge, _Edge]

    @property
    def transforms(self) -> Transforms:
        return [("SpatialPadd", {"spatial_size": list(self.size)})]


@dataclass(frozen=True, config=_STRICT)
class PadToMultiple:
    """Zeros evenly on both sides, up to a multiple of a number of voxels along each axis: what a network takes as a whole.

    Attributes:
        of: The number.
    """

    NAME: ClassVar[str] = "pad_to_multiple"
    VERSION: ClassVar[int] = 1
    of: _Edge

    @property
    def transforms(self) -> Transforms:
        return [("DivisiblePadd", {"k": self.of})]


@dataclass(frozen=True, config=_STRICT)
class SlidingWindow:
    """How a network that gives a value a voxel is run: window by window, overlapping ones blended.

    Attributes:
        size: Of a window in voxels.
        overlap: Of neighbouring windows, 0 to below 1.
        blending: Weights of a window's voxels.
    """

    NAME: ClassVar[str] = "sliding_window"
    VERSION: ClassVar[int] = 1
    size: tuple[_Edge, _Edge, _Edge]
    overlap: Annotated[float, Field(ge=0, lt=1)]
    blending: Literal["gaussian", "constant"]

    @property
    def transforms(self) -> Transforms:
        """None: it comes with the network (`medexp.evaluation.segmentation.sliding_window`)."""
        return []


VolumeStep = (
    ReadChannels
    | ZeroBackground
    | Orient
    | Resample
    | CropForeground
    | FitTo
    | ScalePercentiles
    | ZScore
    | PadTo
    | PadToMultiple
    | SlidingWindow
)
STEPS: Sequence[type[Any]] = VolumeStep.__args__
"""All that there are, of every version."""
