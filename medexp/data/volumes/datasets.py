"""The cases of a split as torch data sets. Preprocessed volumes are computed once and cached as safetensors.

MONAI's PersistentDataset is not used: it moves its files from the system's temporary folder, which is a copy where that is
another file system, so that a killed process can leave half a file, on which it then raises for ever. Training resumes here.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.utils.data import Dataset

from medexp.arrays import Array
from medexp.config.data import DataConfig
from medexp.data.kept import kept_arrays
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.cases import Case
from medexp.data.volumes.facts import CaseFacts
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.semantics import SEMANTIC_FEATURES
from medexp.data.volumes.transforms import augmentation, preprocess, preprocessing
from medexp.errors import DataError

_CENTROID = slice(SEMANTIC_FEATURES.index("centroid_r"), SEMANTIC_FEATURES.index("centroid_s") + 1)


def training_dataset(
    prepared: PreparedVolumes, split: str, data: DataConfig, cache: Path, seed: int
) -> Dataset[dict[str, Any]]:
    """Random crops of a split's cases, in the order of `prepared.ids(split)`.

    An item is asked for by (epoch, index), or by (epoch, index, repeat) where an epoch may have it again, and its randomness
    follows from the seed and these alone: neither a resumed training nor the number of loading processes changes it.

    Returns:
        Items with image float32 (4, *input_size), label int64 (*input_size) of 0 to 3, semantic float32 (10,) in the order
        of SEMANTIC_FEATURES with the centroid mirrored as the image is, and case, its id.
    """
    return _TrainingDataset(_Volumes(prepared, split, data, cache), seed)


def evaluation_dataset(prepared: PreparedVolumes, split: str, data: DataConfig, cache: Path) -> Dataset[dict[str, Any]]:
    """Whole volumes of a split's cases, in the order of `prepared.ids(split)`, by index; nothing is random.

    Returns:
        Items with image float32 (4, X, Y, Z), at least input_size; label int64 (X, Y, Z); affine float64 (4, 4), from their
        voxels to RAS+ mm; semantic float32 (10,); case.
    """
    return _EvaluationDataset(_Volumes(prepared, split, data, cache))


def demand_tumours(prepared: PreparedVolumes, split: str, data: DataConfig, cache: Path) -> None:
    """A split can be judged by: one case of it holds a tumour on the network's grid.

    Raises:
        DataError: None does. All that is predicted would be wrong, and what predicts nothing right.
    """
    cases = evaluation_dataset(prepared, split, data, cache)
    if not any(cases[index]["label"].any() for index in range(len(prepared.ids(split)))):
        spacing = " x ".join(f"{edge:g}" for edge in data.spacing)
        raise DataError(
            f"{prepared.source}: none of the {len(prepared.ids(split))} cases of the split {split} has a voxel of its tumour "
            f"left at a spacing of {spacing} mm. Give a finer one, data.spacing=[1, 1, 1], or other cases"
        )


class _Volumes:
    """Preprocessed cases of a split by index, from the cache when they are there."""

    def __init__(self, prepared: PreparedVolumes, split: str, data: DataConfig, cache: Path) -> None:
        self.entries = [(prepared.cases[name], prepared.facts[name]) for name in prepared.ids(split)]
        self.data, self.folder = data, cache / "volumes"

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Case, CaseFacts, dict[str, Tensor]]:
        case, facts = self.entries[index]
        content = [facts.sha256, preprocessing(self.data.spacing, self.data.input_size).key]
        arrays, _ = kept_arrays(self.folder, content, partial(_preprocessed, case, self.data))
        return case, facts, {name: torch.from_numpy(array) for name, array in arrays.items()}


def _preprocessed(case: Case, data: DataConfig) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in preprocess(read_case(case, data.classes), data).items()}


@dataclass
class _EvaluationDataset(Dataset[dict[str, Any]]):
    volumes: _Volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case, facts, tensors = self.volumes[index]
        semantic = torch.tensor(facts.semantic, dtype=torch.float32)
        return {**tensors, "label": tensors["label"].long(), "semantic": semantic, "case": case.id}


class _TrainingDataset(Dataset[dict[str, Any]]):
    def __init__(self, volumes: _Volumes, seed: int) -> None:
        self.volumes, self.seed = volumes, seed
        self.augment = augmentation(volumes.data)

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        case, facts, tensors = self.volumes[key[1]]
        self.augment.set_random_state(seed=int(np.random.SeedSequence((self.seed, *key)).generate_state(1)[0]))
        (item,) = self.augment({"image": MetaTensor(tensors["image"]), "label": MetaTensor(tensors["label"][None])})
        semantic = torch.tensor(facts.semantic, dtype=torch.float32)
        mirrored = item["image"].affine.diagonal()[:3] < 0
        semantic[_CENTROID] = torch.where(mirrored, 1 - semantic[_CENTROID], semantic[_CENTROID])
        return {
            "image": item["image"].as_tensor(),
            "label": item["label"].as_tensor()[0].long(),
            "semantic": semantic,
            "case": case.id,
        }
