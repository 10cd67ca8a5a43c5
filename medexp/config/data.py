"""How data are read, split and sampled, and the embedded data: blocks that several phases have."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PhantomConfig:
    """The embedded data, used when `data_dir` is not given.

    Args:
        glioma_patients: Patients with a glioma, the domain that the demo base is pretrained on.
        meningioma_patients: Patients with a meningioma, the domain that is adapted to.
        seed: Seed of the phantoms, apart from the training's.
    """

    glioma_patients: int
    meningioma_patients: int
    seed: int

    def problems(self) -> Iterator[str]:
        for key in ("glioma_patients", "meningioma_patients"):
            if getattr(self, key) < 4:
                yield f"{key}: found {getattr(self, key)}; at least 4 patients are needed to fill the splits"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"


@dataclass(frozen=True)
class DataConfig:
    """How cases are read, split and sampled.

    Args:
        label_map: From the labels in the segmentation files to 0 background, 1 necrotic or non-enhancing core, 2 edema,
            3 enhancing tumour. BraTS 2021 and older write 4 for the last. 0 is always background.
        patient_pattern: Regular expression on a case's folder name; its first group is the patient. A case that it does not
            match is a patient of its own.
        exclude: Cases to leave out, by folder name.
        spacing: Voxel spacing that volumes are resampled to, in mm, along R, A, S.
        input_size: Size of the network's input in voxels; multiples of 32.
        val_fraction: Share of the patients that is validated on, 0 to 1.
        test_fraction: Share of the patients that is held back, 0 to 1.
        jobs: Cases read in parallel.
    """

    label_map: dict[int, int]
    patient_pattern: str
    exclude: tuple[str, ...]
    spacing: tuple[float, float, float]
    input_size: tuple[int, int, int]
    val_fraction: float
    test_fraction: float
    jobs: int

    def problems(self) -> Iterator[str]:
        if bad := sorted(set(self.label_map.values()) - {0, 1, 2, 3}):
            yield f"label_map: maps to {bad}; allowed are 0, 1, 2 and 3"
        if min(self.spacing) <= 0:
            yield f"spacing: found {self.spacing}; give three lengths in mm above 0"
        if any(size <= 0 or size % 32 for size in self.input_size) or self.input_size == (32, 32, 32):
            yield f"input_size: found {self.input_size}; give three multiples of 32, at least one of them above 32"
        yield from _fractions(self)
        if self.jobs < 1:
            yield f"jobs: found {self.jobs}; at least 1"


@dataclass(frozen=True)
class ImagePhantomConfig:
    """The embedded 2D images, used when neither `slices_dir` nor `kaggle_dir` is given.

    Args:
        patients: Patients with a meningioma whose volumes are cut into slices.
        yes_images: Images with a tumour in the Kaggle-like folder, exact duplicates included.
        no_images: Images without a tumour in it, exact duplicates included.
        seed: Seed of the phantoms, apart from the training's.
    """

    patients: int
    yes_images: int
    no_images: int
    seed: int

    def problems(self) -> Iterator[str]:
        if self.patients < 4:
            yield f"patients: found {self.patients}; at least 4 are needed to fill the splits"
        for key in ("yes_images", "no_images"):
            if getattr(self, key) < 8:
                yield f"{key}: found {getattr(self, key)}; at least 8 images are needed to fill the splits"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"


@dataclass(frozen=True)
class ImageDataConfig:
    """How 2D images are read, split and sampled.

    Args:
        input_size: Height and width that images are brought to, in pixels; at least 16 each.
        min_tumour_pixels: Mask pixels, before resizing, from which on a slice counts as one with a tumour.
        patient_pattern: Regular expression on the name of the scan that an image comes from (a slice's name without
            `_slice_NNN`, else a file's without its ending); its first group is the patient. A scan that it does not match is a
            patient of its own. Where a file's metadata names the patient, that counts.
        val_fraction: Share that is validated on, 0 to 1: of the patients of slices, of each class of Kaggle images.
        test_fraction: Share that is held back, 0 to 1.
        split_seed: Seed of the splits, apart from the training's: another training is judged on the same cases.
        weights: How often a source (brats, kaggle) is drawn from in training, against the other; above 0.
        jobs: Processes that read images in parallel.
    """

    input_size: tuple[int, int]
    min_tumour_pixels: int
    patient_pattern: str
    val_fraction: float
    test_fraction: float
    split_seed: int
    weights: dict[str, float]
    jobs: int

    def problems(self) -> Iterator[str]:
        if min(self.input_size) < 16:
            yield f"input_size: found {self.input_size}; give a height and a width of at least 16 pixels"
        if self.min_tumour_pixels < 1:
            yield f"min_tumour_pixels: found {self.min_tumour_pixels}; at least 1"
        yield from _fractions(self)
        if self.split_seed < 0:
            yield f"split_seed: found {self.split_seed}; at least 0"
        if set(self.weights) != {"brats", "kaggle"} or not all(0 < weight < math.inf for weight in self.weights.values()):
            yield f"weights: found {self.weights}; give brats and kaggle a number above 0 each"
        if self.jobs < 1:
            yield f"jobs: found {self.jobs}; at least 1"


@dataclass(frozen=True)
class SliceConfig:
    """How volumes are cut into axial slices.

    Args:
        channel: The channel that is cut: t2f, t1c, t1n or t2w.
        every: Every n-th slice is kept.
        min_foreground: Share of a slice, 0 to 1, that brain must fill for it to be kept; blank slices never are.
    """

    channel: Literal["t2f", "t1c", "t1n", "t2w"]
    every: int
    min_foreground: float

    def problems(self) -> Iterator[str]:
        if self.every < 1:
            yield f"every: found {self.every}; at least 1"
        if not 0 <= self.min_foreground < 1:
            yield f"min_foreground: found {self.min_foreground}; 0 to below 1"


def _fractions(data: DataConfig | ImageDataConfig) -> Iterator[str]:
    val, test = data.val_fraction, data.test_fraction
    if val <= 0 or test < 0 or val + test >= 1:
        yield f"val_fraction and test_fraction: found {val} and {test}; the first is above 0, their sum below 1"
