"""What phases 2.1 to 2.3 share: two networks that are compared are judged alike, and what a trial needs is asked for first."""

import copy
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torch.utils.data import Dataset

from medexp.cli import main
from medexp.errors import CheckFailed, DataError
from medexp.models.multitask import MultiTaskModel
from medexp.phases.images import classify, in_batches
from medexp.phases.labelled import need_test_volumes
from medexp.phases.launch import forget_precision, start_accelerator
from medexp.tracking.runs import tracked_run
from tests.phases.image_runs import CONFIGS, SMALL, Pipeline, write_pictures, write_slices

held: list[Any] = []


def hold(config: Any) -> None:
    held.append(config)


class Noise(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(index))}


@pytest.fixture
def fresh_precision() -> Iterator[None]:
    forget_precision()
    yield
    forget_precision()


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_a_network_that_was_trained_here_is_judged_as_one_that_was_pulled(fresh_precision: None, precision: str) -> None:
    """Preparing a network for training makes it compute in the precision of training from then on."""
    torch.manual_seed(0)
    pulled = MultiTaskModel(1, 4, 2).eval()
    trained = copy.deepcopy(pulled)
    accelerator = start_accelerator("cpu", 1, precision)
    accelerator.prepare(trained)
    found = [
        in_batches(lambda images, net=net: classify(net, images), Noise(), accelerator, 4, "") for net in (trained, pulled)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("phase", "given", "told"),
    [
        ("phase2_1", "slices", "train: no slice with a mask of a tumour"),
        ("phase2_2", "slices", "train: no image of the class 'tumour'"),
        ("phase2_3", "kaggle", "train: no slice with a mask of a tumour"),
    ],
)
def test_a_study_is_told_what_its_phase_would_be_told(
    client: MlflowClient, tmp_path: Path, phase: str, given: str, told: str
) -> None:
    """Before its trials begin, and in a trial too."""
    folder = write_slices(tmp_path / "in", tumour=False) if given == "slices" else write_pictures(tmp_path / "in")
    flags = [f"--{key}={value}" for key, value in (SMALL | {f"{given}_dir": str(folder)}).items()]
    assert main(phase, CONFIGS[phase], f"{__name__}:hold", flags) == 0
    config, module = held.pop(), import_module(f"medexp.phases.{phase}")
    with pytest.raises(DataError, match=told):
        module.warm_up(config, tmp_path)
    with pytest.raises(DataError, match=told), tracked_run(phase, config) as tracked:
        module.objective(config, tracked)


@pytest.mark.parametrize("phase", ["phase2_2", "phase2_3"])
def test_a_study_over_cases_that_its_networks_have_seen_does_not_begin(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path, phase: str
) -> None:
    """Nor one whose test split they were selected on; it may be validated on."""

    def warm_up(test: bool = False, **flags: str) -> None:
        given = {"slices_dir": str(pipeline.folder / "slices"), "kaggle_dir": str(pipeline.folder / "pictures")}
        settings = SMALL | given | {key.replace("__", "."): value for key, value in flags.items()}
        assert main(phase, CONFIGS[phase], f"{__name__}:hold", [f"--{key}={value}" for key, value in settings.items()]) == 0
        import_module(f"medexp.phases.{phase}").warm_up(held.pop(), tmp_path, test=test)

    warm_up(test=True)
    told = "BLOCKING check failed: LEAK .*in training of .*phase2_1_multitask version 1.*BraTS-MEN-.*No trial was begun"
    with pytest.raises(CheckFailed, match=told):
        warm_up(data__split_seed="1")
    later = {"data__val_fraction": "0.15", "data__test_fraction": "0.25"}  # some of what was validated on is held back now
    warm_up(**later)
    with pytest.raises(CheckFailed, match="LEAK .*in training or validation of .*Take these patients out"):
        warm_up(test=True, **later)


def test_volumes_without_a_test_split_cannot_be_scored_on_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test=true: no case of the phantoms is held back"):
        need_test_volumes(None)
    table = tmp_path / "table.tsv"
    rows = [("id", "path", "label", "patient", "split")]
    for number, split in enumerate(("train", "train", "val", "val")):
        (tmp_path / f"P{number}").mkdir()
        for channel in ("t2f", "t1c", "t1n", "t2w"):
            (tmp_path / f"P{number}" / f"P{number}-{channel}.nii.gz").touch()
        rows.append((f"P{number}", f"P{number}", "ab"[number % 2], f"P{number}", split))
    table.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    with pytest.raises(DataError, match=r"no case of .*table.tsv is held back"):
        need_test_volumes(str(table))
    table.write_text(table.read_text() + "\n".join(f"Q{n}\tP{n}\t{label}\tQ{n}\ttest" for n, label in enumerate("ab")) + "\n")
    need_test_volumes(str(table))
