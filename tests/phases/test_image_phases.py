"""What phases 2.1 to 2.3 share: two networks that are compared are judged alike, and what a trial needs is asked for first."""

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from torch.utils.data import Dataset

from medexp.data.images.prepared import SOURCES, prepare_images
from medexp.errors import CheckFailed, DataError, RegistryError, TrainingDiverged
from medexp.evaluation.batches import Batches, in_batches
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.phase2_2.labelled import need_test_volumes
from medexp.phases.shared.images import Images, demand_input, demand_outlines, dice, predict, predict_and_dice, segment
from medexp.phases.shared.launch import forget_precision, start_accelerator
from medexp.registry.definitions import load_definition
from medexp.registry.store import Pulled
from medexp.tracking.runs import tracked_run
from tests.configured import configured
from tests.data.images.small_images import write_slice
from tests.phases.shared.image_runs import SMALL, Pipeline, brain, run, scan_name, write_pictures, write_slices


class Noise(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(index)), "case": f"noise {index}"}


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
        in_batches(lambda images, net=net: net(images)["cls"], Batches(Noise(), 4), accelerator, "")
        for net in (trained, pulled)
    ]
    np.testing.assert_array_equal(*found)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_slices(folder / "slices")
    write_pictures(folder / "pictures")
    return folder


def study_of(folder: Path, sources: Sequence[str], **flags: str) -> Images:
    """The images of a folder, as phase 2.3 sees them; without a run."""
    config = configured("phase2_3", SMALL, slices_dir=folder / "slices", kaggle_dir=folder / "pictures", **flags)
    given = [config.slices_dir, config.kaggle_dir, config.data, config.phantoms]
    return Images(config, prepare_images(*given, folder / "cache", sources), start_accelerator("cpu", 1))


@pytest.fixture
def net() -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel(1, 4, 2).eval()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_validation_reads_each_image_once(images: Path, tmp_path: Path, net: MultiTaskModel, workers: str) -> None:
    shutil.copytree(images, tmp_path / "in")
    study = study_of(tmp_path / "in", SOURCES, training__workers=workers)
    first, scans = predict_and_dice(study, net)
    shutil.rmtree(tmp_path / "in")
    again, scans_again = predict_and_dice(study, net)
    np.testing.assert_array_equal(again.probabilities, first.probabilities)
    pd.testing.assert_frame_equal(scans_again, scans)


def test_slices_whose_tumours_are_all_lost_at_the_networks_size_cannot_be_judged_by(tmp_path: Path) -> None:
    for patient in range(8):
        image, mask = brain(patient, tumour=False)
        mask[10, 10] = 3  # of a pixel and its neighbours, the nearest at half the size is another
        write_slice(tmp_path / "slices", scan_name(patient), 0, image=image.astype(np.float32)[None], mask=mask)
    write_pictures(tmp_path / "pictures")
    flags = {"data__min_tumour_pixels": "1"}
    demand_outlines(study_of(tmp_path, ("brats",), **flags), "train", "val")
    with pytest.raises(DataError, match=r"none of the \d+ slices with a mask of the split val .* 16 x 16 pixels"):
        demand_outlines(study_of(tmp_path, ("brats",), data__input_size="[16, 16]", **flags), "val")


def test_an_answer_that_is_not_finite_is_no_class_and_no_empty_mask(images: Path, net: MultiTaskModel) -> None:
    study = study_of(images, SOURCES)
    broken = copy.deepcopy(net)
    next(broken.parameters()).data.fill_(float("nan"))
    for judged in (predict_and_dice, lambda study, net: dice(study, partial(segment, net))):
        with pytest.raises(TrainingDiverged, match=r"(?s)the network's output: .*NaN or infinite values"):
            judged(study, broken)
    with pytest.raises(TrainingDiverged, match="NaN or infinite values"):
        predict(study, lambda batch: broken(batch)["cls"])


@pytest.mark.parametrize("sources", [SOURCES, ("brats",), ("kaggle",)])
def test_both_tasks_are_judged_in_one_pass_as_each_is_alone(images: Path, net: MultiTaskModel, sources: Sequence[str]) -> None:
    study, seen, drawn = study_of(images, sources), [], []
    hooks = [net.encoder.blocks[0].register_forward_hook(lambda _, inputs, __: seen.extend(inputs[0]))]
    hooks += [net.seg_decoder.register_forward_hook(lambda _, inputs, __: drawn.extend(inputs[0][0]))]
    found, scans = predict_and_dice(study, net)
    for hook in hooks:
        hook.remove()
    ids = study.data.ids("val")
    masked = sum(study.data.facts[case].tumour_pixels is not None for case in ids)
    assert len(seen) == len(ids) > 0, "the encoder sees each image once"
    assert masked <= len(drawn) < masked + study.config.training.batch_size, "the decoder those that have a mask"
    alone = predict(study, lambda batch: net(batch)["cls"])
    np.testing.assert_array_equal(found.probabilities, alone.probabilities)
    assert list(found.truth) == list(alone.truth) == [study.data.facts[case].label for case in ids]
    pd.testing.assert_frame_equal(scans, dice(study, partial(segment, net)))
    assert scans["slices"].sum() == masked


@pytest.mark.parametrize(
    ("contract", "words"),
    [
        ({"channels": ["t1c", "t2f"]}, "input.channels is ['t1c', 't2f']; ['mri'] can be made"),
        ({"normalisation": "0 to 1"}, "input.normalisation is '0 to 1'"),
        ({"orientation": None}, "input.orientation is None"),
        ({"units": "percent"}, "input.units is 'percent'"),
        ({"example_shape": None}, "input.example_shape is missing"),
    ],
)
def test_a_network_of_other_images_is_refused(tmp_path: Path, contract: dict[str, Any], words: str) -> None:
    made = {**asdict(load_definition("phase2_1_multitask").input), "example_shape": [1, 1, 32, 32]}
    given = {key: value for key, value in {**made, **contract}.items() if value is not None}
    for name, content in (("good", made), ("other", given)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "contract.json").write_text(json.dumps({"input": content, "architecture": {"kind": "multitask"}}))
    demand_input(Pulled(tmp_path / "good", "good", "1", "d"), (32, 32))
    with pytest.raises(RegistryError) as error:
        demand_input(Pulled(tmp_path / "other", "other", "1", "d"), (32, 32))
    assert words in str(error.value) and "contract.json of other version 1" in str(error.value)
    assert not any(f"input.{key}" in str(error.value) for key in set(made) - set(contract))


@pytest.mark.parametrize("phase", ["phase2_2", "phase2_3"])
def test_a_network_of_images_that_were_made_otherwise_is_not_built_upon(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """As by another version of medexp."""
    monkeypatch.setattr("medexp.data.images.transforms.FOREGROUND", 0.02)
    assert run(phase, pipeline.folder) == 2
    told = capsys.readouterr().err
    assert "contract.json of phase2_1_multitask version 1" in told and "(above 0.01); images: read_grey 1" in told, told


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
    config, module = configured(phase, SMALL, **{f"{given}_dir": folder}), import_module(f"medexp.phases.{phase}")
    with pytest.raises(DataError, match=told):
        module.warm_up(config, tmp_path)
    with pytest.raises(DataError, match=told), tracked_run(phase, config) as tracked:
        module.objective(config, tracked)


@pytest.mark.parametrize("phase", ["phase2_2", "phase2_3"])
def test_a_study_over_cases_that_its_networks_have_seen_does_not_begin(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path, phase: str
) -> None:
    """Nor one whose test split they were selected on; it may be validated on. Its trials say so too: they may search it."""
    module = import_module(f"medexp.phases.{phase}")
    images = {"slices_dir": pipeline.folder / "slices", "kaggle_dir": pipeline.folder / "pictures", "folds": "0"}

    def warm_up(test: bool = False, **flags: str) -> None:
        module.warm_up(configured(phase, SMALL | images, **flags), tmp_path, test=test)

    warm_up(test=True)
    told = "BLOCKING check failed: LEAK .*in training of .*phase2_1_multitask version 1.*BraTS-MEN-.*No trial was begun"
    with pytest.raises(CheckFailed, match=told):
        warm_up(data__split_seed="1")
    config = configured(phase, SMALL | images, data__split_seed="1")
    with pytest.raises(CheckFailed, match="LEAK .*in training of"), tracked_run(phase, config) as tracked:
        module.objective(config, tracked)
    later = {"data__val_fraction": "0.15", "data__test_fraction": "0.25"}  # some of what was validated on is held back now
    warm_up(**later)
    with pytest.raises(CheckFailed, match="LEAK .*in training or validation of .*Take these patients out"):
        warm_up(test=True, **later)


def test_volumes_without_a_test_split_cannot_be_scored_on_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test=true: no case of the phantoms is held back"):
        need_test_volumes(None, tmp_path)
    table = tmp_path / "table.tsv"
    rows = [("id", "path", "label", "patient", "split")]
    for number, split in enumerate(("train", "train", "val", "val")):
        (tmp_path / f"P{number}").mkdir()
        for channel in ("t2f", "t1c", "t1n", "t2w"):
            (tmp_path / f"P{number}" / f"P{number}-{channel}.nii.gz").touch()
        rows.append((f"P{number}", f"P{number}", "ab"[number % 2], f"P{number}", split))
    table.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    with pytest.raises(DataError, match=r"no case of .*table.tsv is held back"):
        need_test_volumes(str(table), tmp_path)
    table.write_text(table.read_text() + "\n".join(f"Q{n}\tP{n}\t{label}\tQ{n}\ttest" for n, label in enumerate("ab")) + "\n")
    need_test_volumes(str(table), tmp_path)
