"""The overlapping BraTS regions that networks predict and metrics are given for."""

from collections.abc import Mapping

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from torch import Tensor

from medexp.data.volumes.cases import REGION_CLASSES

REGIONS = tuple(REGION_CLASSES)


def to_regions(label: Tensor) -> Tensor:
    """Tumour core (1 and 3), whole tumour (1, 2 and 3) and enhancing tumour (3) from labels.

    MONAI's ConvertToMultiChannelBasedOnBratsClasses takes one case, and a batch of one for a channel to squeeze; this takes
    batches.

    Args:
        label: Labels 0 to 3 (B, X, Y, Z).

    Returns:
        0 or 1 as float32 (B, 3, X, Y, Z), in the order of REGIONS.
    """
    return torch.stack([(label == 1) | (label == 3), label > 0, label == 3], dim=1).float()


def values_in_masks(classes: Mapping[int, int]) -> dict[str, int | None]:
    """The value that each region has in a mask, as `paint` takes them: of several the lowest, None of one that has none.

    Args:
        classes: `DataConfig.classes`, from the values of segmentation files to 0..3.
    """
    value = {network: given for given, network in sorted(classes.items(), reverse=True) if given}  # 0 is background
    return {"WT": value.get(2), "TC": value.get(1), "ET": value.get(3)}


def paint(predicted: Tensor, values: Mapping[str, int | None]) -> NDArray[np.uint8]:
    """A mask of the regions that were predicted: painted one over the other, as nnU-Net does, the outermost first.

    Args:
        predicted: Whether a voxel is of a region (regions, X, Y, Z), in the order of REGIONS.
        values: The value of each region in the mask, in the order of painting; None of one that has none.

    Returns:
        (X, Y, Z), of 8 bits where the values fit them, else of 32; 0 is background.
    """
    few = all(0 <= value < 256 for value in values.values() if value is not None)
    mask = torch.zeros(predicted.shape[1:], dtype=torch.uint8 if few else torch.int32)
    for region, value in values.items():
        if value is not None:
            mask[predicted[REGIONS.index(region)].bool().cpu()] = value
    return mask.numpy()


def volumes_in_mm3(mask: NDArray[np.uint8], affine: NDArray[np.float64], values: Mapping[str, int | None]) -> dict[str, float]:
    """The volume of each region of a mask, what lies inside it included; of a region without a value in masks, none.

    Args:
        mask: (X, Y, Z), as `paint` makes it.
        affine: From its voxels to RAS+ mm (4, 4).
        values: As `paint` takes them.
    """
    voxel, regions = float(np.prod(voxel_sizes(affine))), [name for name, value in values.items() if value is not None]
    counts = [int(np.count_nonzero(mask == values[name])) for name in regions]
    return {name: voxel * sum(counts[index:]) for index, name in enumerate(regions)}  # what is painted later lies inside
