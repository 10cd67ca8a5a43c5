from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from medexp.checks import Check, Severity
from medexp.models.builders import build
from medexp.registry.definitions import load_definition
from medexp.registry.packages import Package, write_package
from tests.mlflow_store import empty_database, store  # noqa: F401

ENCODER = {"kind": "swin_encoder", "in_channels": 4, "feature_size": 12, "window_size": 2}
SEGMENTER = {**ENCODER, "kind": "swin_unetr", "out_channels": 3}


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., Package]:
    """A package of `phase1_encoder_merged` with initial weights; any attribute can be given."""

    def make(name: str = "phase1_encoder_merged", seed: int = 0, **given: Any) -> Package:
        torch.manual_seed(seed)
        architecture = given.get("architecture", ENCODER)
        checks = [Check(check, "", Severity.BLOCKING, True, "") for check in load_definition(name).required_checks]
        content: dict[str, Any] = {
            "architecture": architecture,
            "contract": {"spacing_mm": [1.0, 1.0, 1.0], "channels": ["t2f", "t1c", "t1n", "t2w"]},
            "weights": build(architecture).state_dict() if "weights" not in given else {},
            "parents": {},
            "checks": checks,
            "per_case": pd.DataFrame({"case": ["a"], "dice_WT": [0.9]}),
            "card": f"# {name}\n",
        }
        return Package(name, **{**content, **given})

    return make


@pytest.fixture
def written(package: Callable[..., Package], tmp_path: Path) -> Callable[..., Path]:
    """`package`, written; the folder."""
    count = iter(range(100))

    def write(**given: Any) -> Path:
        folder = tmp_path / f"package_{next(count)}"
        write_package(package(**given), folder)
        return folder

    return write
