"""The step ZeroBackground as a transform of MONAI's.

It stands apart for bundles: one carries this file, and the module of medexp's that it imports, as they are.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medexp.data.volumes.background import from_zero


class ZeroBackgroundd(MapTransform):
    """Brings background and hot voxels of each image to 0; what it finds in each channel comes under `grounds`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        done = dict(data)
        for key in self.key_iterator(done):
            zeroed, done["grounds"] = from_zero(np.asarray(done[key]))
            done[key] = MetaTensor(torch.from_numpy(zeroed), meta=done[key].meta)
        return done
