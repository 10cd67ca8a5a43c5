"""Slices and pictures on which a tumour is easily told from none, and phases 2.1 to 2.3 run on them in small."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medexp.phases import phase as record_of
from tests.configured import run_phase
from tests.data.images.small_images import write_slice

SIZE = 32
PATIENTS, SLICES, PICTURES = 24, 3, 20  # PICTURES of each class
MODELS = {"phase2_1": "phase2_1_multitask", "phase2_2": "phase2_2_classifier", "phase2_3": "phase2_3_multitask"}
SMALL = {
    "seed": "0",
    "data.split_seed": "0",
    "data.input_size": f"[{SIZE}, {SIZE}]",
    "data.val_fraction": "0.25",
    "data.jobs": "1",
    "threads": "1",
    "bootstrap_samples": "100",
    "shown": "2",
    "training.epochs": "2",
    "training.batch_size": "4",
}
NETWORK = {"network.base_filters": "4", "network.depth": "2"}
OF_PHASE = {
    "phase2_1": NETWORK | {"training.epochs": "4", "training.lr_network": "0.01", "min_dice": "0.3"},
    "phase2_2": NETWORK | {"folds": "0", "training.epochs": "6", "training.lr_head": "0.01", "min_accuracy": "0.6"},
    "phase2_3": {"margin": "1"},
}


def brain(seed: int, tumour: bool) -> tuple[np.ndarray, np.ndarray]:
    """A grey disc (SIZE, SIZE), with a bright square in it where there is a tumour; and the square's mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE)) - SIZE / 2
    image = np.where(rows**2 + columns**2 < (0.45 * SIZE) ** 2, rng.integers(70, 110, (SIZE, SIZE)), 0).astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if tumour:
        top, left = rng.integers(SIZE // 4, SIZE // 2, 2)
        mask[top : top + 7, left : left + 7] = 3
        image[mask > 0] = 240
    return image, mask


def scan_name(patient: int) -> str:
    return f"BraTS-MEN-{patient:05d}-000"


def write_slices(folder: Path, patients: int = PATIENTS, *, tumour: bool = True) -> Path:
    """Every other slice has a tumour, unless none has."""
    for patient in range(patients):
        for index in range(SLICES):
            image, mask = brain(1000 * patient + index, tumour and (patient + index) % 2 == 0)
            write_slice(folder, scan_name(patient), index, image=image.astype(np.float32)[None], mask=mask)
    return folder


def write_pictures(folder: Path, count: int = PICTURES, ending: str = "png") -> Path:
    """`yes/` and `no/`; one picture of each stands there twice, and every fifth in `yes/` shows nothing."""
    for name in ("yes", "no"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image, _ = brain(10**6 + 1000 * (name == "yes") + number, name == "yes" and number % 5 > 0)
            Image.fromarray(image).save(folder / name / f"{name}{number}.{ending}")
        (folder / name / f"twice.{ending}").write_bytes((folder / name / f"{name}0.{ending}").read_bytes())
    return folder


def run(phase: str, data: Path | None, **flags: str) -> int:
    """A phase from the command line, on a folder's slices and pictures; `__` is the dot of a key, "" leaves a key out."""
    if "resume" in flags:
        return run_phase(phase, **flags)
    return run_phase(phase, settings(phase, data), **flags)


def settings(phase: str, data: Path | None) -> dict[str, object]:
    """Small settings of a phase on a folder's slices and pictures."""
    folders = {"slices_dir": data / "slices", "kaggle_dir": data / "pictures"} if data else {}
    has = record_of(phase).config.__dataclass_fields__
    return SMALL | OF_PHASE[phase] | {key: folders[key] for key in folders.keys() & has}


@dataclass(frozen=True)
class Pipeline:
    """A store in which the three phases ran one after another.

    Attributes:
        folder: Holds mlflow.db, the cache, `slices/` and `pictures/`.
        told: What each phase printed.
        codes: The exit code of each.
    """

    folder: Path
    told: dict[str, str]
    codes: dict[str, int]
