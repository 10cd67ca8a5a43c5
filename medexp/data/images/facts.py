"""What is known of a 2D image once it was read and checked: digests, shape, label. Computed once and cached."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medexp.config.data import ImageDataConfig
from medexp.data.headers import Header, of_npz
from medexp.data.images.background import without_padding
from medexp.data.images.cases import LabelledImage
from medexp.data.images.kaggle import read_kaggle
from medexp.data.images.slices import read_slice
from medexp.data.kept import kept_records
from medexp.data.seen import Field
from medexp.data.twins import perceptual_hash
from medexp.errors import DataError, all_problems

VERSION = 6
"""Part of the cache: raise it when what is computed here, in `slices`, `kaggle` or `background` changes."""

_TOLD = 20  # bad images that a message names


@dataclass(frozen=True)
class ImageFacts:
    """What a manifest and a split need to know of an image.

    Args:
        case: Its id.
        sha256: Of the decoded pixels, the shape, the mask and the label.
        voxels_sha256: Of the decoded pixels and the shape alone: equal for exact duplicates.
        shape: Height and width in pixels.
        tumour_pixels: Mask pixels; None without a mask.
        label: 1 with a tumour, 0 without.
        header: What its file says besides pixels.
        perceptual_hash: Alike for copies that are not equal (`medexp.data.twins`).
        patient: As the file's metadata names it; None where it does not.
        constant: Whether all pixels are equal.
        padding: Value of what pads it (`medexp.data.images.background`); None where its background is dark as it stands.
    """

    case: str
    sha256: str
    voxels_sha256: str
    shape: tuple[int, int]
    tumour_pixels: int | None
    label: int
    header: Header
    perceptual_hash: tuple[str, ...]
    patient: str | None = None
    constant: bool = False
    padding: float | None = None

    @property
    def fields(self) -> Mapping[str, Field]:
        """What stands for how an image looked before anything was done to it (`medexp.data.seen`)."""
        return self.header


def read_image(image: LabelledImage) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
    """An image as it is stored, float32 (H, W), and its mask, uint8 (H, W) of 0 to 3; None where its source has none.

    Raises:
        DataError: All problems of the file at once.
    """
    if image.source == "brats":
        content = read_slice(image.path)
        return content.image[0], content.mask
    return read_kaggle(image.path, image.label).image, None


def describe_images(images: Sequence[LabelledImage], data: ImageDataConfig, cache: Path) -> tuple[ImageFacts, ...]:
    """Reads, checks and describes every image, in the order given.

    Files that were described before and have not changed since (path, size and times) come from the cache.

    Args:
        images: As `find_slices` and `find_kaggle` return them.
        data: `min_tumour_pixels` and `jobs`.
        cache: Root of the cache; one JSON file for each folder of images goes under `images/`.

    Raises:
        DataError: All problems of all images at once.
    """
    files = {image.id: (image.path, (image,), (image.source, image.label)) for image in images}
    records, wrong = kept_records(_record, files, cache / "images", VERSION, data.jobs)
    folder_of = {image.id: image.path.parent.name for image in images}
    problems = [f"{folder_of[name]}/{problem}" for name, problem in wrong.items()]
    if failed := len(problems):
        if len(problems) > _TOLD:
            problems = [*problems[:_TOLD], f"and {len(problems) - _TOLD} more"]
        raise DataError(
            all_problems(
                f"{failed} of {len(images)} images cannot be used", problems, "Repair them, or take them out of the folder."
            )
        )
    return tuple(_facts(image, records[image.id], data.min_tumour_pixels) for image in images)


def _record(image: LabelledImage) -> dict[str, Any]:
    mask = None
    if image.source == "brats":
        content = read_slice(image.path)
        pixels, mask, patient = content.image[0], content.mask, content.metadata.get("patient")
        header = of_npz(pixels.shape, content.metadata, image.path)
    else:
        pixels, patient, header = read_kaggle(image.path, image.label)
    constant = bool(pixels.min() == pixels.max())
    return {
        "shape": pixels.shape,
        "pixels_sha256": _sha256(pixels + np.float32(0)),  # -0 becomes 0
        "mask_sha256": None if mask is None else _sha256(mask),
        "tumour_pixels": None if mask is None else int(np.count_nonzero(mask)),
        "patient": patient,
        "header": header,
        "perceptual_hash": perceptual_hash(pixels, cropped=image.source == "kaggle"),
        "constant": constant,
        "padding": None if constant else without_padding(pixels)[1],
    }


def identity(pixels: NDArray[np.float32]) -> tuple[str, tuple[str, ...]]:
    """`voxels_sha256` and `perceptual_hash` of a picture, by which it is known again."""
    return _sha256(pixels + np.float32(0)), perceptual_hash(pixels, cropped=True)


def _sha256(array: NDArray[Any]) -> str:
    whole = hashlib.sha256(repr(array.shape).encode())
    whole.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return whole.hexdigest()


def _facts(image: LabelledImage, record: Mapping[str, Any], least: int) -> ImageFacts:
    tumour = record["tumour_pixels"]
    label = int(tumour >= least) if image.label is None else image.label
    parts = f"{record['pixels_sha256']} {record['mask_sha256']} {label}"
    return ImageFacts(
        case=image.id,
        sha256=hashlib.sha256(parts.encode()).hexdigest(),
        voxels_sha256=record["pixels_sha256"],
        shape=tuple(record["shape"]),
        tumour_pixels=tumour,
        label=label,
        header=record["header"],
        perceptual_hash=tuple(record["perceptual_hash"]),
        patient=record["patient"],
        constant=record["constant"],
        padding=record["padding"],
    )
