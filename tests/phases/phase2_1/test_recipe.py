"""Phase 2.1 as a user runs it: what its run and its version hold, promotion, resuming, and input that cannot be used."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from medexp import registry
from medexp.data.manifest import patient_sha256
from medexp.errors import ConfigError
from medexp.models.checkpoints import load_state
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.shared.images import one_process
from medexp.registry.definitions import load_definition
from tests.configured import run_phase
from tests.phases.shared.image_runs import MODELS, SIZE, Pipeline, run, write_pictures, write_slices
from tests.phases.shared.interrupting import killed_in
from tests.runs import artifact, history, last_run, logged_table, measured

NAME = MODELS["phase2_1"]


def test_the_run_holds_all_that_it_promises(client: MlflowClient, pipeline: Pipeline) -> None:
    made = last_run(client, "phase2_1")
    assert made.info.status == "FINISHED"
    tags, metrics = made.data.tags, made.data.metrics
    assert (tags["medexp.phase"], tags["medexp.profile"], tags["medexp.verdict"]) == ("phase2_1", "demo", "PASSED")
    for name in ("train/loss", "train/dice_loss", "train/ce", "train/lr_network", "val/dice", "params/train_patients"):
        assert name in metrics
    assert not [name for name in metrics if name.endswith(("_low", "_high"))]
    interval = logged_table(made, "intervals.csv", index_col="metric").loc["val/best/dice"]
    assert interval["low"] <= interval["estimate"] == metrics["val/best/dice"] <= interval["high"]
    scans = logged_table(made, "per_case.csv")
    assert metrics["val/best/dice"] == pytest.approx(scans["dice"].mean())
    manifest = logged_table(made, "manifest.csv")
    assert set(manifest["source"]) == {"brats"}
    validated = manifest[manifest["split"] == "val"]
    assert set(scans["case"]) == set(validated["scan"])
    assert set(scans["patient"]) == set(validated["patient"])
    logged = {item.path for item in client.list_artifacts(made.info.run_id)}
    assert {"config.yaml", "manifest.csv", "per_case.csv", "training_log.csv", "best_model.pt", "checks.json"} <= logged
    pictures = {item.path for item in client.list_artifacts(made.info.run_id, "figures")}
    assert {"figures/curves.png", "figures/segmentations.png"} <= pictures
    assert {item.dataset.name for item in made.inputs.dataset_inputs} == {"phase2_1_train", "phase2_1_val", "phase2_1_test"}
    for words in (f"{NAME} version 1 (candidate, champion)", "mlflow run . -e phase2_2", "P2_1-DICE", "P2_1-PARAMETERS"):
        assert words in pipeline.told["phase2_1"]


@pytest.mark.parametrize("phase", MODELS)
def test_a_version_loads_both_ways_and_both_say_the_same(client: MlflowClient, phase: str) -> None:
    uri = f"models:/{MODELS[phase]}@champion"
    images = np.random.default_rng(0).normal(size=(3, 1, SIZE, SIZE)).astype("float32")
    net, other = registry.load(uri), mlflow.pyfunc.load_model(uri)
    assert not net.training
    with torch.inference_mode():
        output = net(torch.from_numpy(images))
    found = other.predict(images)
    if phase == "phase2_2":
        assert np.array_equal(output.numpy(), found) and found.shape == (3, 2)
        return
    assert set(found) == {"seg", "cls"}
    assert all(np.array_equal(output[task].numpy(), logits) for task, logits in found.items())
    assert found["seg"].shape == (3, 1, SIZE, SIZE)


@pytest.mark.parametrize("phase", MODELS)
def test_a_definition_holds_for_the_version_that_its_phase_made(client: MlflowClient, phase: str) -> None:
    name = MODELS[phase]
    definition, folder = load_definition(name), registry.pull(f"models:/{name}@champion").folder
    assert definition.producing_phase == phase and definition.promotion is not None
    contract = json.loads((folder / "contract.json").read_text())
    assert contract["input"]["example_shape"] == [1, 1, SIZE, SIZE]
    checks = json.loads((folder / "checks.json").read_text())
    assert set(definition.required_checks) <= {check["id"] for check in checks}
    scored = pd.read_csv(folder / "per_case.csv")
    assert {"case", "patient", *definition.promotion.columns} <= set(scored)
    assert len(scored) >= definition.promotion.min_cases, "enough to be judged by"
    cases = pd.read_csv(folder / "cases.csv")
    assert set(scored["patient"].map(patient_sha256)) <= set(cases.loc[cases["split"] == "val", "patient_sha256"])
    assert (folder / "README.md").read_text().startswith(f"# {name}: {definition.title}")
    measured_there = (folder / "README.md").read_text().partition("## Measured")[2].partition("\n## ")[0]
    figures = [line for line in measured_there.splitlines() if line.startswith("| validation ")]
    assert figures and not any("+" in line for line in figures), "no differences"
    version = client.get_model_version_by_alias(name, "champion")
    assert version.tags["medexp.run"] == last_run(client, phase).info.run_id


def test_the_checkpoint_is_what_is_registered(client: MlflowClient) -> None:
    state = load_state(artifact(last_run(client, "phase2_1"), "best_model.pt"))
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


def test_an_interrupted_run_goes_on_and_ends_the_same(
    client: MlflowClient, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = last_run(client, "phase2_1")
    interrupted = killed_in("phase2_1", 2, pipeline, client, monkeypatch)
    assert run("phase2_1", None, resume=interrupted) == 0
    made = last_run(client, "phase2_1")
    assert made.data.tags["medexp.resumed_from"] == interrupted
    assert measured(made) == measured(first)
    for name in ("train/loss", "val/dice"):
        assert history(client, made, name) == history(client, first, name)
    digests = [client.get_model_version(NAME, number).tags["medexp.weights_digest"] for number in ("1", "2")]
    assert digests[0] == digests[1]


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


# ------------------------------------------------------------------------------------------------------------------ bad input


def no_tumours(folder: Path) -> dict[str, str]:
    return {"slices_dir": str(write_slices(folder / "slices", tumour=False))}


def unreadable(folder: Path) -> dict[str, str]:
    slices = write_slices(folder / "slices", 6)
    first, second, *_ = sorted(slices.iterdir())
    first.write_bytes(b"no slice")
    second.write_bytes(second.read_bytes()[:-100])
    return {"slices_dir": str(slices)}


def pictures(folder: Path) -> dict[str, str]:
    return {"slices_dir": str(write_pictures(folder / "pictures", 2))}


BAD: dict[str, tuple[Any, list[str]]] = {
    "no such folder": (lambda _: {"slices_dir": "nowhere"}, ["nowhere", "no such folder", "-e prepare"]),
    "pictures instead of slices": (pictures, ["slices_dir", "pictures", "SCAN_slice_NNN.npz"]),
    "no tumour anywhere": (no_tumours, ["train: no slice with a mask of a tumour", "val: no slice", "slices_dir=FOLDER"]),
    "slices that cannot be read": (unreadable, ["BraTS-MEN-00000-000_slice_000", "BraTS-MEN-00000-000_slice_001"]),
    "a size that does not halve": (lambda _: {"data.input_size": "[30, 32]"}, ["data.input_size", "multiples of 4"]),
    "a bottleneck of one pixel": (
        lambda _: {"data.input_size": "[16, 16]", "network.depth": "4"},
        ["network.depth: found 4", "one pixel"],
    ),
    "real data that is missing": (lambda _: {"profile": "full", "slices_dir": ""}, ["slices_dir", "profile=full"]),
}


@pytest.mark.parametrize(("spoil", "words"), BAD.values(), ids=BAD.keys())
def test_input_that_cannot_be_used(
    client: MlflowClient,
    pipeline: Pipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Any,
    words: list[str],
) -> None:
    assert run("phase2_1", pipeline.folder, **spoil(tmp_path)) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in ["medexp phase2_1: error: ", *words]), told
    assert "Traceback" not in told
    assert client.get_registered_model(NAME).aliases == {"champion": 1, "candidate": 1}
    assert not list(tmp_path.glob("outputs/*/best_model.pt"))


def test_several_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="phase2_1 trains in one process, found 2; start it without a launcher"):
        one_process(SimpleNamespace(num_processes=2), "phase2_1")  # type: ignore[arg-type]


def test_embedded_slices_are_taken_where_no_folder_is_given(client: MlflowClient) -> None:
    """Too few and too small to learn from: the version is registered whatever its checks say."""
    flags = {"phantoms.patients": "4", "data.input_size": "[16, 16]", "training.epochs": "2", "shown": "0", "min_dice": "-1"}
    assert run("phase2_1", None, **flags) in (0, 3)
    card = (registry.pull(f"models:/{NAME}/2").folder / "README.md").read_text()
    assert "slices of meningioma phantoms" in card and "it says nothing about patients" in card
