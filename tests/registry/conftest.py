from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from medexp.checks import Check, Severity
from medexp.models.builders import build
from medexp.registry.definitions import load_definition
from medexp.registry.package import Package
from medexp.registry.packages import write_package
from tests.mlflow_store import empty_database, server, store  # noqa: F401

ENCODER = {"kind": "swin_encoder", "in_channels": 4, "feature_size": 12, "window_size": 2}
EVALUATION = {"phase": "phase1", "revision": 1, "split": "val", "data_digest": "d1", "made_on": "d0"}
SEGMENTER = {**ENCODER, "kind": "swin_unetr", "out_channels": 3}


def scores(cases: int = 12, dice: float = 0.8) -> pd.DataFrame:
    """`per_case.csv` of one patient a case, whose Dice varies a little about `dice`."""
    noise = np.random.default_rng(0).normal(0, 0.02, cases)
    regions = {f"dice_{region}": dice + noise for region in ("TC", "WT", "ET")}
    return pd.DataFrame({"case": [f"p{i}-0" for i in range(cases)], "patient": [f"p{i}" for i in range(cases)], **regions})


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., Package]:
    """A package of `phase1_encoder_merged` with initial weights; any attribute can be given."""

    def make(name: str = "phase1_encoder_merged", seed: int = 0, **given: Any) -> Package:
        torch.manual_seed(seed)
        architecture = given.get("architecture", ENCODER)
        checks = [Check(check, "", Severity.BLOCKING, True, "") for check in load_definition(name).required_checks]
        contract = asdict(load_definition(name).input)
        content: dict[str, Any] = {
            "architecture": architecture,
            "contract": {"input": contract | {"spacing_mm": [1.0, 1.0, 1.0], "example_shape": [1, 4, 64, 32, 32]}},
            "weights": build(architecture).state_dict() if "weights" not in given else {},
            "checks": checks,
            "evaluation": EVALUATION,
            "per_case": scores(),
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
