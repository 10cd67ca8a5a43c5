"""OCT volumes as a torch data set, for an encoder that trains: read anew in every epoch, and changed at random."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.transforms import Compose, RandFlip, RandScaleIntensity, RandShiftIntensity, RandSpatialCrop, Resize
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medexp.data.oct.cases import OctVolume
from medexp.data.oct.facts import read_volume
from medexp.data.oct.transforms import execute
from medexp.data.preprocessing import Preprocessing

_CROPPED = 0.9  # of each edge, at least
_JITTER = 0.1  # of the intensities, and of their standard deviation


def prepared_scan(volume: OctVolume, preprocessing: Preprocessing) -> Tensor:
    """A volume as an encoder is given it (1, D, H, W).

    Raises:
        DataError: It cannot be read.
    """
    return execute(preprocessing.steps, read_volume(volume))


def augmentation(size: Sequence[int], *, flip: bool, crop: bool, jitter: bool) -> Compose:
    """What is done to a normalised volume (1, D, H, W) at random.

    Args:
        size: D, H and W.
        flip: Mirror along the A-scans, half of the times: a right eye looks like a left one then.
        crop: Cut a box of 90 to 100 % of each edge, and bring it to the size.
        jitter: Scale values by 0.9 to 1.1, and shift them by up to 0.1.
    """
    steps: list[Any] = []
    if crop:
        smallest = [round(_CROPPED * edge) for edge in size]
        steps += [RandSpatialCrop(smallest, max_roi_size=list(size), random_size=True), Resize(list(size), mode="trilinear")]
    if flip:
        steps.append(RandFlip(prob=0.5, spatial_axis=2))
    if jitter:
        steps += [RandScaleIntensity(_JITTER, prob=1.0), RandShiftIntensity(_JITTER, prob=1.0)]
    return Compose(steps)


class AugmentedScans(Dataset[dict[str, Any]]):
    """Volumes by (epoch, index, repeat), from which, with the seed, what is random of an item follows: neither a resumed
    training nor the number of loading processes changes it. Items have image float32 (1, D, H, W), label and case.

    Args:
        volumes: The volumes.
        labels: Class of each (V,).
        preprocessing: What is done to them first.
        augment: `augmentation`.
        seed: Seed of what is random.
    """

    def __init__(
        self,
        volumes: Sequence[OctVolume],
        labels: NDArray[np.int_],
        preprocessing: Preprocessing,
        augment: Compose,
        seed: int,
    ) -> None:
        self.volumes, self.labels, self.preprocessing = volumes, labels, preprocessing
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        volume = self.volumes[key[1]]
        self.augment.set_random_state(seed=int(np.random.SeedSequence((self.seed, *key)).generate_state(1)[0]))
        image = self.augment(prepared_scan(volume, self.preprocessing))
        plain = image.as_tensor() if hasattr(image, "as_tensor") else image
        return {"image": plain, "label": int(self.labels[key[1]]), "case": volume.id}
