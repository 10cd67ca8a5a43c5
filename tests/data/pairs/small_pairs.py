"""Small pairs on disk, good ones and broken ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medexp.config.data import PairDataConfig, PairPhantomConfig
from tests.data.volumes.small_cases import save

SHAPE = (24, 26, 22)
AFFINE = np.array([[-6.0, 0, 0, 70], [0, -6, 0, 80], [0, 0, 6, -60], [0, 0, 0, 1]])
LESION = (slice(8, 12), slice(9, 12), slice(10, 13))


def pair_data(**changed: Any) -> PairDataConfig:
    values: dict[str, Any] = {
        "mask_strategy": "auto",
        "pooling": "average",
        "lesion": (1,),
        "patient_pattern": r"^(sub-[A-Za-z0-9]+)",
        "suffixes": {},
        "exclude": (),
        "spacing": (6.0, 6.0, 6.0),
        "input_size": (32, 32, 32),
        "val_fraction": 0.25,
        "test_fraction": 0.25,
        "jobs": 1,
    }
    return PairDataConfig(**{**values, **changed})


def reads(cache: Path, *folders: Path, splits: Path | None = None, **changed: Any) -> Any:
    """What `prepare_pairs` is given."""
    names = [str(folder) for folder in folders]
    given = {"folders": names, "splits": str(splits) if splits else None, "seed": 0, "cache_dir": str(cache)}
    return SimpleNamespace(**given, data=pair_data(**changed), phantoms=PairPhantomConfig(4, 0))


def flair(seed: int = 0) -> NDArray[np.int16]:
    """A head: an ellipsoid of varied tissue in air."""
    rng = np.random.default_rng(seed)
    at = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2).T
    head = sum((part / radius) ** 2 for part, radius in zip(at, (10, 11, 9), strict=True)) < 1
    return np.asarray(rng.integers(200, 900, SHAPE) * head, np.int16)


def lesion() -> NDArray[np.uint8]:
    mask = np.zeros(SHAPE, np.uint8)
    mask[LESION] = 1
    return mask


def write_subject(root: Path, subject: str, seed: int = 0, session: str = "", derived: bool = False, **changed: Any) -> None:
    """A subject of a BIDS data set, but for what is changed: voxels of FLAIR, T1w and roi (None leaves one out), `affine`."""
    voxels = {"FLAIR": flair(seed), "T1w": flair(seed + 1000), "roi": lesion()} | {
        name: value for name, value in changed.items() if name != "affine"
    }
    stem, anat = "_".join(part for part in (subject, session) if part), Path(subject, session, "anat")
    names = {"FLAIR": f"{stem}_FLAIR", "T1w": f"{stem}_T1w", "roi": f"{stem}_FLAIR_roi"}
    if derived:
        names["roi"] = f"{stem}_label-lesion_roi"
    for name, value in voxels.items():
        if value is not None:
            folder = root / "derivatives/lesion_masks" if derived and name == "roi" else root
            save(folder / anat / f"{names[name]}.nii.gz", value, changed.get("affine", AFFINE) if name == "roi" else AFFINE)


def write_bids(root: Path, subjects: int, **changed: Any) -> Path:
    for number in range(1, subjects + 1):
        write_subject(root, f"sub-{number:03d}", number, **changed)
    return root
