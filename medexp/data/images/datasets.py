"""The images of a split as a torch data set. Preprocessed images stay in memory, as far as that goes."""

from typing import Any

import numpy as np
from monai.data import MetaTensor
from torch import Tensor
from torch.utils.data import Dataset

from medexp.config.data import ImageDataConfig
from medexp.data.images.facts import read_image
from medexp.data.images.prepared import PreparedImages
from medexp.data.images.transforms import augmentation, preprocess

_KEPT_BYTES = 2**29  # of preprocessed images in memory; what is more is read again each time


class MultiSourceDataset(Dataset[dict[str, Any]]):
    """The images of a split, of all sources, in the order of `prepared.ids(split)`.

    An item is asked for by index or, where randomness is wanted, by (epoch, index), or by (epoch, index, repeat) where an
    epoch may have it again; it then follows from the seed and these alone, and repeat 0 is the same as none. Items have image
    float32 (1, H, W); mask float32 (1, H, W) of 0 and 1, all 0 where there is none; has_mask; label int64, 1 with a tumour;
    source; case.

    Args:
        prepared: The images.
        split: train, val or test.
        data: `input_size`.
        seed: Seed of the augmentation.
        augment: Whether images that are asked for with an epoch are augmented.
        masked: Whether images without a mask are left out.
        kept: Where preprocessed images are kept, by case: data sets that share it read an image once between them.

    Attributes:
        cases: Id of each item.
        sources: Source of each item.
        labels: Label of each item.
    """

    def __init__(
        self,
        prepared: PreparedImages,
        split: str,
        data: ImageDataConfig,
        seed: int,
        augment: bool,
        masked: bool = False,
        kept: dict[str, tuple[Tensor, Tensor, bool]] | None = None,
    ) -> None:
        ids = [case for case in prepared.ids(split) if not masked or prepared.facts[case].tumour_pixels is not None]
        self.images = [prepared.cases[case] for case in ids]
        self.labels = [prepared.facts[case].label for case in ids]
        self.cases, self.sources = ids, [str(image.source) for image in self.images]
        self.size, self.seed = data.input_size, seed
        self.augment = augmentation() if augment else None
        self._kept = {} if kept is None else kept
        self._most = _KEPT_BYTES // (8 * self.size[0] * self.size[1])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        image, mask, has_mask = self._preprocessed(index)
        if self.augment is not None and isinstance(key, tuple):
            self.augment.set_random_state(seed=int(np.random.SeedSequence((self.seed, *key)).generate_state(1)[0]))
            item = self.augment({"image": MetaTensor(image), "mask": MetaTensor(mask)})
            image, mask = item["image"].as_tensor(), item["mask"].as_tensor()
        return {
            "image": image,
            "mask": mask,
            "has_mask": has_mask,
            "label": self.labels[index],
            "source": self.sources[index],
            "case": self.cases[index],
        }

    def _preprocessed(self, index: int) -> tuple[Tensor, Tensor, bool]:
        case = self.cases[index]
        if case in self._kept:
            return self._kept[case]
        image, mask = read_image(self.images[index])
        done = (*preprocess(image, mask, self.size), mask is not None)
        if len(self._kept) < self._most:
            self._kept[case] = done
        return done
