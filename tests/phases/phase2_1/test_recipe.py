"""Phase 2.1 as a user runs it: what its run and its version hold, promotion, resuming, and input that cannot be used."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from medexp import registry
from medexp.errors import ConfigError
from medexp.models.checkpoints import load_state
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.shared.images import one_process
from tests.configured import run_phase
from tests.data.images.small_images import write_slice
from tests.phases.shared.image_runs import MODELS, SIZE, Pipeline, run, scan_name, write_slices
from tests.phases.shared.interrupting import killed_in
from tests.runs import artifact, figures, last_run, logged_table

NAME = MODELS["phase2_1"]


def test_the_run_holds_all_that_it_promises(client: MlflowClient, pipeline: Pipeline) -> None:
    made = last_run(client, "phase2_1")
    assert made.info.status == "FINISHED"
    tags, metrics = made.data.tags, figures(made)
    assert (tags["medexp.phase"], tags["medexp.profile"], tags["medexp.verdict"]) == ("phase2_1", "demo", "PASSED")
    for name in ("train/loss", "train/loss_dice", "train/loss_ce", "train/lr_network", "val/dice", "params/train_patients"):
        assert name in metrics
    assert not [name for name in metrics if name.endswith(("_low", "_high"))]
    params = made.data.params
    assert params["training.epochs"] == "4" and "output_dir" not in params, "where things lie is nothing to compare by"
    interval = logged_table(made, "intervals.csv", index_col="metric").loc["val/final/dice"]
    assert interval["low"] <= interval["estimate"] == metrics["val/final/dice"] <= interval["high"]
    scans = logged_table(made, "per_case.csv")
    assert metrics["val/final/dice"] == pytest.approx(scans["dice"].mean())
    assert 0 < metrics["baseline/dice"] < metrics["mean_mask/dice"] < metrics["val/final/dice"]
    card = (registry.pull(f"models:/{NAME}@champion").folder / "README.md").read_text()
    assert "validation Dice of the mean mask of the training slices" in card
    manifest = logged_table(made, "manifest.csv")
    assert set(manifest["source"]) == {"brats"}
    validated = manifest[manifest["split"] == "val"]
    assert set(scans["case"]) == set(validated["scan"])
    assert set(scans["patient"]) == set(validated["patient"])
    logged = {item.path for item in client.list_artifacts(made.info.run_id)}
    assert {"config.yaml", "manifest.csv", "per_case.csv", "training_log.csv", "final_model.pt", "checks.json"} <= logged
    pictures = {item.path for item in client.list_artifacts(made.info.run_id, "figures")}
    assert {"figures/curves.png", "figures/segmentations.png"} <= pictures
    drawn = [item.path for item in client.list_artifacts(made.info.run_id, "images") if item.path.endswith(".png")]
    steps = sorted(path.split("+step+")[1].partition("+")[0] for path in drawn if "val~segmentations+" in path)
    assert steps == ["0", "1", "2", "3"], "after each of four epochs, from 0 on: the slider starts there"
    assert artifact(made, "power.txt").read_text().strip() in pipeline.told["phase2_1"], "what can be seen is said first"
    assert {item.dataset.name for item in made.inputs.dataset_inputs} == {"phase2_1_train", "phase2_1_val", "phase2_1_test"}
    for words in (f"{NAME} version 1 (candidate, champion)", "mlflow run . -e phase2_2", "P2_1-DICE", "P2_1-PARAMETERS"):
        assert words in pipeline.told["phase2_1"]


def test_the_checkpoint_is_what_is_registered(client: MlflowClient) -> None:
    state = load_state(artifact(last_run(client, "phase2_1"), "final_model.pt"))
    net = registry.load(f"models:/{NAME}@champion")
    assert isinstance(net, MultiTaskModel) and state.keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())


def test_the_head_keeps_its_initial_weights(client: MlflowClient) -> None:
    torch.manual_seed(0)
    initial, net = MultiTaskModel(1, 4, 2), registry.load(f"models:/{NAME}@champion")
    differ = {
        key.split(".")[0] for key, value in net.state_dict().items() if not torch.equal(value, initial.state_dict()[key])
    }
    assert differ == {"encoder", "seg_decoder"}


def promote(**flags: str) -> int:
    return run_phase("promote", model=NAME, version=2, threads=1, **flags)


def test_a_second_run_is_a_candidate_that_promote_judges(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("phase2_1", pipeline.folder, shown="0", training__epochs="8") == 0
    assert f"{NAME} -P version=2" in capsys.readouterr().out
    assert client.get_registered_model(NAME).aliases == {"champion": 1, "candidate": 2}
    assert promote() == 0
    assert "PASSED PROMOTE_POLICY" in capsys.readouterr().out
    assert client.get_registered_model(NAME).aliases["champion"] == 2


def test_a_version_of_other_data_cannot_be_scored_anew_and_that_is_said(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("phase2_1", pipeline.folder, data__split_seed="1", training__epochs="2", min_dice="-1") == 0
    assert promote() == 3
    assert "PROMOTE_DATA" in capsys.readouterr().err
    assert promote(reevaluate="true") == 2
    told = capsys.readouterr().err
    assert f"reevaluate=true: {NAME} cannot be scored anew" in told and "champion's data instead" in told
    assert client.get_registered_model(NAME).aliases["champion"] == 1


def test_a_bar_that_is_not_reached_ends_with_exit_code_3_and_no_alias(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("phase2_1", pipeline.folder, training__epochs="2", min_dice="0.999") == 3
    assert "BLOCKING check failed: P2_1-DICE" in capsys.readouterr().err
    made = last_run(client, "phase2_1")
    assert (made.info.status, made.data.tags["medexp.verdict"]) == ("FAILED", "FAILED")
    assert client.get_model_version(NAME, "2").tags["medexp.verdict"] == "FAILED"
    assert client.get_registered_model(NAME).aliases == {"champion": 1, "candidate": 1}


def test_where_tumours_lie_in_one_place_a_network_is_no_better_than_the_mean_mask(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same square in all slices; in folds each case is held against the mask of the others."""
    for patient in range(16):
        rng = np.random.default_rng(patient)
        image, mask = rng.integers(70, 110, (SIZE, SIZE)).astype(np.float32), np.zeros((SIZE, SIZE), np.uint8)
        mask[9:16, 12:19] = 3
        write_slice(tmp_path / "same", scan_name(patient), 0, image=image[None], mask=mask)
    given = {"slices_dir": str(tmp_path / "same"), "training.epochs": "1", "training.warmup_epochs": "0"}
    given |= {"min_dice": "-1", "folds": "2", "shown": "0"}
    assert run("phase2_1", pipeline.folder, **given) == 3
    assert "the mean mask of the training slices" in capsys.readouterr().err
    whole = last_run(client, "phase2_1").data.tags["mlflow.parentRunId"]
    found = figures(client.get_run(whole))
    assert found["mean_mask/dice"] == 1 > found["val/final/dice"] and found["baseline/dice"] < 0.2


def test_an_interrupted_run_does_not_go_on_with_other_slices(
    client: MlflowClient, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another patient draws other splits: what was trained on would be validated on."""
    folder = write_slices(Path("slices").absolute(), 8)
    interrupted = killed_in("phase2_1", 1, pipeline, client, monkeypatch, slices_dir=str(folder))
    capsys.readouterr()
    write_slices(folder, 9)
    assert run("phase2_1", None, resume=interrupted) == 2
    assert f"resume={interrupted}: not what the run was begun with: images" in capsys.readouterr().err


def test_several_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="phase2_1 trains in one process, found 2; start it without a launcher"):
        one_process(SimpleNamespace(num_processes=2), "phase2_1")  # type: ignore[arg-type]


def test_embedded_slices_are_taken_where_no_folder_is_given(client: MlflowClient) -> None:
    """Too few and too small to learn from: the version is registered whatever its checks say."""
    flags = {"phantoms.patients": "4", "data.input_size": "[16, 16]", "training.epochs": "2", "shown": "0", "min_dice": "-1"}
    assert run("phase2_1", None, **flags) in (0, 3)
    card = (registry.pull(f"models:/{NAME}/2").folder / "README.md").read_text()
    assert "slices of meningioma phantoms" in card and "it says nothing about patients" in card
