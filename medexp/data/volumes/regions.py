"""The overlapping BraTS regions that networks predict and metrics are given for."""

import torch
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
