"""Small settings, for tests that need some and not these in particular."""

from pathlib import Path
from typing import Any

from medexp.config.data import DataConfig, ImageDataConfig, PhantomConfig, SliceConfig
from medexp.data.scenarios.cases import MODALITIES
from medexp.phases.prepare.config import PrepareConfig
from tests.data.pairs.small_pairs import pair_data

# Phase 1 in seconds, on half the demo's voxels; the bars of TEST_2.5 are lowered, for a few phantoms do not train well.
PHASE1 = {
    "rank": "4",
    "data.spacing": "[3,6,4.5]",
    "data.input_size": "[64,32,32]",
    "data.jobs": "1",
    "phantoms.meningioma_patients": "8",
    "phantoms.glioma_patients": "4",
    "network.window_size": "2",
    "base.epochs": "2",
    "training.epochs": "2",
    "training.validate_every": "1",
    "validation.overlays": "0",
    "validation.min_dice_wt": "0",
    "validation.min_dice_gain": "-1",
    "threads": "1",
}
ONE_EPOCH = {"training.epochs": "1", "training.warmup_epochs": "0"}
PATIENT_PATTERN = r"^(BraTS-[A-Za-z]+-\d+)-\d+$"


def data_config(**changed: Any) -> DataConfig:
    values: dict[str, Any] = {
        "labels": "brats2023",
        "label_map": None,
        "suffixes": {},
        "patient_pattern": PATIENT_PATTERN,
        "exclude": (),
        "meant": (),
        "spacing": (3.0, 3.0, 4.5),
        "input_size": (64, 64, 32),
        "val_fraction": 0.3,
        "test_fraction": 0.15,
        "jobs": 1,
    }
    return DataConfig(**{**values, **changed})


def prepare_config(cache: Path, **changed: Any) -> PrepareConfig:
    """A PrepareConfig with few phantoms and small values, but for those given."""
    values: dict[str, Any] = {
        "profile": "demo",
        "data_dir": None,
        "splits": None,
        "output_dir": "outputs",
        "cache_dir": str(cache),
        "slices_dir": None,
        "scenarios": (),
        "image_dir": None,
        "scenarios_dir": None,
        "modalities": MODALITIES,
        "pairs": (),
        "seed": 0,
        "data": data_config(),
        "pair_data": pair_data(),
        "phantoms": PhantomConfig(glioma_patients=4, meningioma_patients=5, seed=0),
        "slices": SliceConfig(channel="t2f", every=1, min_foreground=0.05),
    }
    return PrepareConfig(**{**values, **changed})


def image_config(**changed: Any) -> ImageDataConfig:
    values: dict[str, Any] = {
        "input_size": (32, 32),
        "min_tumour_pixels": 10,
        "patient_pattern": PATIENT_PATTERN,
        "val_fraction": 0.15,
        "test_fraction": 0.15,
        "split_seed": 0,
        "classes": {"no": ("no",), "yes": ("yes",)},
        "weights": {"brats": 1.0, "kaggle": 1.0},
        "jobs": 1,
    }
    return ImageDataConfig(**{**values, **changed})
