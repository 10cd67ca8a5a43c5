"""From a case's volume to what a network takes: the part that is the same every time, and the random part of training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialResample,
)
from numpy.typing import NDArray
from torch import Tensor

from medexp.config.data import SUFFIXES, DataConfig
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes.cases import CHANNELS, FOREGROUND, Volume
from medexp.data.volumes.steps import (
    CropForeground,
    Orient,
    PadTo,
    ReadChannels,
    Resample,
    VolumeStep,
    ZeroBackground,
    ZScore,
)
from medexp.data.volumes.zero_background import ZeroBackgroundd

INPUT = {
    "dtype": "float32",
    "orientation": "RAS",
    "normalisation": "zero mean and unit variance over the nonzero voxels of each channel; background stays 0",
}
"""What `preprocessing` makes, in the words of input contracts."""

_BOTH = ("image", "label")


def preprocessing(
    spacing: tuple[float, float, float], input_size: tuple[int, int, int], channels: Sequence[str] = CHANNELS
) -> Preprocessing:
    """What training does to a case: background to 0, axes to RAS, onto a grid (linear, labels by nearest voxel), the box
    around the brain, each channel's nonzero voxels to mean 0 and SD 1, and zeros around what is smaller than the input.

    The input contract of BrainSegFounder's BraTS model: channels t2f, t1c, t1n, t2w, nonzero voxels of mean 0 and SD 1.

    Args:
        spacing: Of the grid, in mm along R, A, S.
        input_size: Fewest voxels along R, A, S.
        channels: In the order that the network takes them.
    """
    steps: tuple[VolumeStep, ...] = (
        ReadChannels(tuple(channels), {channel: SUFFIXES[channel] for channel in channels}),
        ZeroBackground(),
        Orient(INPUT["orientation"]),
        Resample(spacing, "bilinear"),
        CropForeground(FOREGROUND),
        ZScore(),
        PadTo(input_size),
    )
    return Preprocessing("volumes", steps)


def execute(steps: Sequence[Any], volume: Volume, labelled: bool = False) -> dict[str, Any]:
    """What steps make of a volume.

    Args:
        steps: Of a `Preprocessing` of volumes.
        volume: As its files hold it.
        labelled: Whether its label is wanted too.

    Returns:
        image: MetaTensor float32 (4, X, Y, Z), whose `affine` says where its voxels lie (to RAS+ mm); with `labelled` label:
        MetaTensor uint8 (1, X, Y, Z); with the step ZeroBackground `grounds`, what it found in each channel.
    """
    affine = torch.from_numpy(volume.affine)
    item: dict[str, Any] = {"image": MetaTensor(torch.from_numpy(volume.image), affine=affine)}
    if labelled:
        item["label"] = MetaTensor(torch.from_numpy(volume.label[None]), affine=affine)
    done: dict[str, Any] = Compose(_transforms(steps, labelled))(item)
    return done


def preprocess(volume: Volume, data: DataConfig) -> dict[str, Tensor]:
    """What `preprocessing` makes of a labelled volume.

    Returns:
        image: float32 (4, X, Y, Z); label: uint8 (X, Y, Z); affine: float64 (4, 4), from their voxels to RAS+ mm.
    """
    done = execute(preprocessing(data.spacing, data.input_size).steps, volume, labelled=True)
    return {
        "image": done["image"].as_tensor().float().contiguous(),
        "label": done["label"].as_tensor()[0].round().to(torch.uint8).contiguous(),
        "affine": done["image"].affine.double().contiguous(),
    }


def label_on_grid(label: NDArray[np.uint8], affine: NDArray[np.float64], spacing: Sequence[float]) -> NDArray[np.uint8]:
    """What `preprocess` leaves of a label before it crops to the brain, and nothing else of the volume.

    Args:
        label: Classes 0 to 3 (X, Y, Z), along the file's axes.
        affine: From voxel indices to RAS+ millimetres (4, 4).
        spacing: Of the grid, in mm.
    """
    item = {"label": MetaTensor(torch.from_numpy(label[None]), affine=torch.from_numpy(affine))}
    x, y, z = spacing
    steps = (Orient(INPUT["orientation"]), Resample((x, y, z), "nearest"))
    done = Compose(_transforms(steps, False, keys=["label"]))(item)["label"].as_tensor()[0]
    return np.asarray(done.round().to(torch.uint8))


def onto_own_grid(values: Tensor, affine: Tensor, shape: Sequence[int], own: NDArray[np.float64]) -> Tensor:
    """Values on a network's grid, such as logits, at the voxels of a case's files: linear, 0 outside that grid.

    Args:
        values: (C, X, Y, Z), float32.
        affine: From their voxels to RAS+ mm (4, 4).
        shape: Of the case's files, three numbers.
        own: From the files' voxels to RAS+ mm (4, 4).

    Returns:
        (C, *shape), float32.
    """
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=np.float32)
    found = resample(MetaTensor(values, affine=affine), dst_affine=torch.from_numpy(own), spatial_size=tuple(shape))
    assert isinstance(found, MetaTensor)
    return found.as_tensor()


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


def transform_named(name: str) -> Callable[..., Any]:
    """What makes a dictionary transform that a step names: one of medexp's, else MONAI's."""
    own: Mapping[str, Callable[..., Any]] = {"ZeroBackgroundd": ZeroBackgroundd}
    return own.get(name) or getattr(monai.transforms, name)


def _transforms(steps: Sequence[Any], labelled: bool, keys: Sequence[str] = ()) -> list[Callable[..., Any]]:
    found, both = [], list(keys or (_BOTH if labelled else _BOTH[:1]))
    for step in steps:
        for name, values in step.transforms:
            of_labels = {"mode": [values["mode"], "nearest"]} if labelled and "mode" in values else {}
            found.append(transform_named(name)(**({"keys": both} | values | of_labels)))
    return found
