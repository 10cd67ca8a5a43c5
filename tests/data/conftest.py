from collections.abc import Callable
from typing import Any

import pytest

from medexp.config.data import DataConfig, ImageDataConfig


@pytest.fixture
def data_config() -> Callable[..., DataConfig]:
    """A DataConfig with small values, but for those given."""

    def make(**changed: Any) -> DataConfig:
        values: dict[str, Any] = {
            "label_map": {1: 1, 2: 2, 3: 3, 4: 3},
            "patient_pattern": r"^(BraTS-[A-Za-z]+-\d+)-\d+$",
            "exclude": (),
            "spacing": (3.0, 3.0, 4.5),
            "input_size": (64, 64, 32),
            "val_fraction": 0.3,
            "test_fraction": 0.15,
            "jobs": 1,
        }
        return DataConfig(**{**values, **changed})

    return make


@pytest.fixture
def image_config() -> Callable[..., ImageDataConfig]:
    """An ImageDataConfig with small values, but for those given."""

    def make(**changed: Any) -> ImageDataConfig:
        values: dict[str, Any] = {
            "input_size": (32, 32),
            "min_tumour_pixels": 10,
            "patient_pattern": r"^(BraTS-[A-Za-z]+-\d+)-\d+$",
            "val_fraction": 0.15,
            "test_fraction": 0.15,
            "split_seed": 0,
            "weights": {"brats": 1.0, "kaggle": 1.0},
            "jobs": 1,
        }
        return ImageDataConfig(**{**values, **changed})

    return make
