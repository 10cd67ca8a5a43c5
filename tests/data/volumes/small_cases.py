"""Small cases on disk, good ones and broken ones."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.facts import CaseFacts

SHAPE = (14, 12, 10)
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 12], [0, 0, 3, -8], [0, 0, 0, 1]])


def save(path: Path, voxels: Any, affine: Any = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def blob(value: int = 3) -> np.ndarray:
    """A label with a box of edema and a smaller box of `value` in it."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:10, 3:9, 2:8] = 2
    label[5:8, 5:8, 4:7] = value
    return label


def write_case(root: Path, case_id: str, seed: int = 0, **changed: Any) -> Path:
    """A good case, but for `changed`: the voxels of a modality by its name, None to leave it out."""
    rng = np.random.default_rng(seed)
    brain = np.zeros(SHAPE, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    voxels: dict[str, Any] = {name: (rng.integers(1, 900, SHAPE) * brain).astype(np.int16) for name in CHANNELS}
    for name, value in {**voxels, "seg": blob(), **changed}.items():
        if value is not None:
            save(root / case_id / f"{case_id}-{name}.nii.gz", value)
    return root / case_id


def a_case(case_id: str, patient: str) -> Case:
    return Case(case_id, patient, tuple(Path(f"{case_id}-{name}.nii.gz") for name in CHANNELS), Path(f"{case_id}-seg.nii.gz"))


def a_fact(case_id: str, voxels: str, perceptual_hash: tuple[str, ...] = ()) -> CaseFacts:
    semantic, intensity = tuple(map(float, range(10))), (0.0,) * 12
    sha256, shape, spacing = f"sha-{case_id}-{voxels}", (2, 3, 4), (1.0, 1.0, 2.0)
    return CaseFacts(case_id, sha256, voxels, shape, spacing, semantic, intensity, (0.0,) * 10, {}, perceptual_hash)
