"""Small slices and pictures on disk, good ones and broken ones."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medexp.config.data import ImagePhantomConfig
from medexp.data.images.cases import LabelledImage
from medexp.data.images.facts import ImageFacts
from medexp.data.images.slices import FORMAT

PHANTOMS = ImagePhantomConfig(4, 10, 8, 0)
LEGACY = {"patient": "P1", "note": object}  # a dict that numpy stores as a pickle


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def pixels(seed: int = 0, shape: tuple[int, int] = (40, 32)) -> np.ndarray:
    """Grey values from 1 to 255 in a frame of 0."""
    inside = np.random.default_rng(seed).integers(1, 256, (shape[0] - 4, shape[1] - 4))
    return np.pad(inside, 2).astype(np.uint8)


def mask_of(count: int, shape: tuple[int, int] = (40, 32)) -> np.ndarray:
    """A mask with so many pixels of enhancing tumour."""
    mask = np.zeros(shape, np.uint8)
    mask.flat[np.arange(count) + 5 * shape[1]] = 3
    return mask


def write_slice(folder: Path, scan: str, index: int, seed: int | None = None, tumour: int = 0, **changed: Any) -> Path:
    """A slice as `prepare` writes it, but for `changed` arrays; None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    seed = index + sum(map(ord, scan)) * 1000 if seed is None else seed
    metadata = {"format": FORMAT, "case": scan, "patient": scan.rpartition("-")[0] or scan, "slice": index}
    arrays: dict[str, Any] = {
        "image": pixels(seed).astype(np.float32)[None],
        "mask": mask_of(tumour),
        "metadata": np.array(json.dumps(metadata)),
    } | changed
    path = folder / f"{scan}_slice_{index:03d}.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def write_picture(path: Path, seed: int | None = None, mode: str = "L") -> Path:
    """A picture that differs from those of other names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = Image.fromarray(pixels(sum(map(ord, path.parent.name + path.name)) if seed is None else seed))
    grey.convert(mode).save(path)
    return path


def kaggle_folder(root: Path, yes: int = 6, no: int = 6) -> Path:
    """Pictures of both classes."""
    for name, count in (("yes", yes), ("no", no)):
        for number in range(count):
            write_picture(root / name / f"{name[0].upper()}{number}.png", seed=1000 * count + number + (name == "yes") * 500)
    return root


def an_image(case: str, patient: str | None = None, label: int | None = None) -> LabelledImage:
    source = "brats" if label is None else "kaggle"
    return LabelledImage(case, source, patient or case, case, Path(case), label)  # type: ignore[arg-type]


def an_image_fact(case: str, voxels: str | None = None, label: int = 0) -> ImageFacts:
    return ImageFacts(case, f"sha-{case}", voxels or case, (40, 32), None, label, {}, ())


def slices_folder(root: Path, patients: int = 6, count: int = 3) -> Path:
    """Slices of several patients; the last of each shows a tumour of 20 pixels."""
    for patient in range(patients):
        for index in range(count):
            write_slice(root, f"BraTS-MEN-{patient:05d}-000", index, tumour=20 if index == count - 1 else 0)
    return root
