"""Phase 2.3 as a user runs it: both tasks before and after, where it begins, the leak guard, resuming, bad input."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from medexp import registry
from medexp.data.images.prepared import SOURCES, prepare_images
from medexp.models.checkpoints import load_state
from medexp.models.heads import ClassificationHead
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.phase2_3.alternating import alternating
from medexp.phases.shared.split_head import of_the_split
from medexp.registry.leaks import split_check
from medexp.registry.packages import SPLIT_CASES, SPLIT_HEAD
from tests.configured import configured
from tests.phases.shared.image_runs import MODELS, Pipeline, run, settings
from tests.runs import artifact, figures, last_run, logged_table

NAME = MODELS["phase2_3"]


def test_the_run_holds_all_that_it_promises(client: MlflowClient, pipeline: Pipeline) -> None:
    made = last_run(client, "phase2_3")
    assert made.info.status == "FINISHED"
    tags, metrics = made.data.tags, figures(made)
    assert tags["medexp.verdict"] == "PASSED"
    for phase in ("phase2_1", "phase2_2"):
        digest = client.get_model_version(MODELS[phase], "1").tags["medexp.digest"]
        assert tags[f"medexp.upstream.{MODELS[phase]}"] == f"1 {digest}"
    for name in (
        "train/loss_segmentation",
        "train/loss_dice",
        "train/loss_classification",
        "train/lr_encoder",
        "train/lr_head",
    ):
        assert name in metrics
    for source in ("", "brats/", "kaggle/"):
        for metric in ("accuracy", "balanced_accuracy", "auroc", "macro_f1"):
            assert 0 <= metrics[f"val/final/{source}{metric}"] <= 1
    assert not [name for name in metrics if name.endswith(("_low", "_high"))]
    intervals = logged_table(made, "intervals.csv", index_col="metric")
    for name in ("val/final/dice", "phase2_1/dice", "phase2_2/balanced_accuracy", "val/gain/dice"):
        assert intervals["low"][name] <= metrics[name] <= intervals["high"][name], name
    logged = {item.path for item in client.list_artifacts(made.info.run_id)}
    assert {"final_model.pt", "per_case.csv", "dice_per_scan.csv", "dropped.csv", "training_log.csv", "checks.json"} <= logged
    pictures = {item.path for item in client.list_artifacts(made.info.run_id, "figures")}
    assert {f"figures/{name}.png" for name in ("curves", "roc", "calibration", "segmentations", "confusion_all")} <= pictures
    for words in (
        "P2_3-DICE",
        "P2_3-ACCURACY",
        "P2_3-GAIN",
        f"{NAME} version 1 (candidate, champion)",
        "against",
        "phase 2.2",
    ):
        assert words in pipeline.told["phase2_3"]


def test_the_earlier_phases_are_judged_on_the_same_cases_and_come_out_as_they_did(client: MlflowClient) -> None:
    """Slices and pictures are split as in phases 2.1 and 2.2, so what these phases measured must come back."""
    made, first, second = (last_run(client, phase) for phase in ("phase2_3", "phase2_1", "phase2_2"))
    metrics = figures(made)
    assert metrics["phase2_1/dice"] == pytest.approx(figures(first)["val/final/dice"])
    for metric in ("accuracy", "balanced_accuracy", "auroc", "macro_f1"):
        assert metrics[f"phase2_2/{metric}"] == pytest.approx(figures(second)[f"val/final/{metric}"])
    scans = logged_table(made, "dice_per_scan.csv")
    before = logged_table(first, "per_case.csv").set_index("case")["dice"]
    assert scans.set_index("case")["dice_before"].to_dict() == pytest.approx(before.to_dict())
    assert metrics["val/final/dice"] == pytest.approx(scans["dice"].mean())
    assert metrics["val/gain/dice"] == pytest.approx((scans["dice"] - scans["dice_before"]).mean())
    assert metrics["val/both"] == pytest.approx((metrics["val/final/dice"] + metrics["val/final/balanced_accuracy"]) / 2)
    gain = metrics["val/final/balanced_accuracy"] - metrics["phase2_2/balanced_accuracy"]
    assert metrics["val/gain/balanced_accuracy"] == pytest.approx(gain)
    assert list(logged_table(made, "per_case.csv")["case"]) == list(logged_table(second, "per_case.csv")["case"])


def test_the_version_is_the_checkpoint_and_names_both_parents(client: MlflowClient) -> None:
    net, pulled = registry.load(f"models:/{NAME}@champion"), registry.pull(f"models:/{NAME}@champion")
    assert isinstance(net, MultiTaskModel)
    state = load_state(artifact(last_run(client, "phase2_3"), "final_model.pt"))
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    parents = json.loads((pulled.folder / "parents.json").read_text())
    assert {role: (one["name"], one["version"]) for role, one in parents.items()} == {
        "multitask": (MODELS["phase2_1"], "1"),
        "classifier": (MODELS["phase2_2"], "1"),
    }
    scored = pd.read_csv(pulled.folder / "per_case.csv")
    pd.testing.assert_frame_equal(scored, logged_table(last_run(client, "phase2_3"), "dice_per_scan.csv")[list(scored)])


def test_all_three_parts_are_trained(client: MlflowClient) -> None:
    before = registry.load(f"models:/{MODELS['phase2_1']}/1").state_dict()
    head = registry.load(f"models:/{MODELS['phase2_2']}/1").head.state_dict()
    after = registry.load(f"models:/{NAME}/1").state_dict()
    same = {key for key in after if not key.startswith("cls_head.") and torch.equal(after[key], before[key])}
    assert same == {key for key in before if "running" in key or "num_batches" in key}, "batch norm's statistics are kept"
    trained = {key: value for key, value in head.items() if key.startswith("layers.")}
    assert trained and not any(torch.equal(after[f"cls_head.{key}"], value) for key, value in trained.items())


def test_it_begins_with_the_networks_of_the_earlier_phases(client: MlflowClient, pipeline: Pipeline) -> None:
    """Rates of almost nothing: what comes out is what went in, and P2_3-GAIN says that nothing was gained."""
    rates = {"training__lr_encoder": "1e-12", "training__lr_decoder": "1e-11", "training__lr_head": "1e-11"}
    assert run("phase2_3", pipeline.folder, training__epochs="1", training__warmup_epochs="0", shown="0", **rates) == 0
    assert figures(last_run(client, "phase2_3"))["checks/P2_3-GAIN"] == 0
    state = registry.load(f"models:/{NAME}/2").state_dict()
    wanted = dict(registry.load(f"models:/{MODELS['phase2_1']}/1").state_dict())
    head = registry.load(f"models:/{MODELS['phase2_2']}/1").head.state_dict()
    wanted |= {f"cls_head.{key}": value for key, value in head.items()}
    for key, value in wanted.items():
        torch.testing.assert_close(state[key], value, atol=1e-8, rtol=0)


def test_what_joint_training_gains_is_found(client: MlflowClient, pipeline: Pipeline) -> None:
    """Begun with a head that has learned nothing, which joint training mends."""
    assert (
        run(
            "phase2_2", pipeline.folder, training__epochs="1", training__warmup_epochs="0", training__lr_head="1e-9", shown="0"
        )
        == 3
    )
    rates = {"training__lr_encoder": "0.001", "training__lr_decoder": "0.002", "training__lr_head": "0.02"}
    head = f"models:/{MODELS['phase2_2']}/2"
    assert run("phase2_3", pipeline.folder, classifier=head, training__epochs="4", shown="0", **rates) == 0
    measured = figures(last_run(client, "phase2_3"))
    assert measured["checks/P2_3-GAIN"] == 1 and measured["val/gain/balanced_accuracy"] > 0.1


def test_what_joint_training_gains_in_dice_is_found_and_nothing_where_nothing_is_trained(
    client: MlflowClient, pipeline: Pipeline
) -> None:
    """Begun with a network that was stopped after two epochs, which joint training goes on to train; and the same at rates of
    almost nothing. The head can learn nothing more: all its answers are right."""
    once = {"shown": "0", "training__warmup_epochs": "0"}
    assert run("phase2_1", pipeline.folder, training__epochs="2", **once) == 0
    network = f"models:/{MODELS['phase2_1']}/2"
    assert run("phase2_2", pipeline.folder, encoder=network, training__epochs="2", **once) == 0
    once |= {"multitask": network, "classifier": f"models:/{MODELS['phase2_2']}/2"}

    rates = {"training__lr_encoder": "0.001", "training__lr_decoder": "0.01", "training__lr_head": "0.006"}
    assert run("phase2_3", pipeline.folder, training__epochs="4", **once, **rates) == 0
    made = last_run(client, "phase2_3")
    gain = logged_table(made, "intervals.csv", index_col="metric").loc["val/gain/dice"]
    assert gain["low"] > 0 and figures(made)["val/gain/balanced_accuracy"] == 0 and figures(made)["checks/P2_3-GAIN"] == 1
    assert "Dice: joint training does better than phase 2.1" in made.data.tags["mlflow.note.content"]

    rates = {"training__lr_encoder": "1e-12", "training__lr_decoder": "1e-11", "training__lr_head": "1e-11"}
    assert run("phase2_3", pipeline.folder, training__epochs="1", **once, **rates) == 0
    made = last_run(client, "phase2_3")
    assert figures(made)["checks/P2_3-GAIN"] == 0 and "does better than phase 2.1" not in made.data.tags["mlflow.note.content"]


@given(count=st.integers(1, 30), classified=st.integers(1, 40), batch_size=st.integers(1, 9), epoch=st.integers(0, 3))
def test_batches_alternate_and_hold_items_of_one_task_each(count: int, classified: int, batch_size: int, epoch: int) -> None:
    def shuffled(size: int) -> Callable[[int], np.ndarray]:
        return lambda epoch: np.random.default_rng((size, epoch)).permutation(size)

    order = alternating(shuffled(count), shuffled(classified), count, batch_size)(epoch)
    batches = order.reshape(-1, batch_size)
    segmenting, classifying = batches[0::2], batches[1::2]
    assert len(segmenting) == len(classifying) == max(count // batch_size, 1)
    assert (segmenting < count).all() and (segmenting >= 0).all()
    assert (classifying >= count).all() and (classifying < count + classified).all()
    if count >= batch_size:
        assert len(set(segmenting.flat)) == segmenting.size, "no slice twice"
    used = np.bincount(classifying.reshape(-1) - count, minlength=classified)
    assert used.max() - used.min() <= 1, "all that is classified is used alike"
    other = alternating(shuffled(count), shuffled(classified), count, batch_size)(epoch + 1)
    assert len(other) == len(order)


def test_a_loss_beyond_the_margin_ends_with_exit_code_3_and_no_alias(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates that wreck the network."""
    rates = {"training__lr_encoder": "0.01", "training__lr_decoder": "0.02", "training__lr_head": "0.02"}
    assert run("phase2_3", pipeline.folder, margin="0.02", training__epochs="1", training__warmup_epochs="0", **rates) == 3
    told = capsys.readouterr().err
    assert "BLOCKING check failed: P2_3-ACCURACY" in told and "training.lr_encoder" in told
    assert client.get_model_version(NAME, "2").tags["medexp.verdict"] == "FAILED"
    assert client.get_registered_model(NAME).aliases == {"champion": 1, "candidate": 1}


# --------------------------------------------------------------------------------------------------------------- leak guard


def test_a_head_that_was_trained_on_a_file_does_not_hide_what_the_network_was_trained_on(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record names no registered ancestor, and its own split is that of the other seed."""
    file = artifact(last_run(client, "phase2_1"), "final_model.pt")
    assert run("phase2_2", pipeline.folder, encoder=str(file), data__split_seed="1", shown="0") == 0
    capsys.readouterr()
    assert run("phase2_3", pipeline.folder, data__split_seed="1", classifier=f"models:/{MODELS['phase2_2']}/2") == 3
    told = capsys.readouterr().err
    assert "BLOCKING check failed: LEAK" in told and f"by {MODELS['phase2_1']} version 1" in told


def test_after_folds_it_goes_on_from_a_head_that_has_not_seen_the_validation_cases(
    client: MlflowClient, pipeline: Pipeline
) -> None:
    """What is registered after folds was trained on them; the head beside it is the one that the single split gives."""
    assert run("phase2_2", pipeline.folder, folds="3", shown="0") == 0
    heads = [registry.pull(f"models:/{MODELS['phase2_2']}/{number}") for number in "12"]
    state, single = (
        load_state(heads[1].folder / SPLIT_HEAD),
        registry.load(f"models:/{MODELS['phase2_2']}/1").head.state_dict(),
    )
    assert state.keys() == single.keys() and all(torch.equal(value, single[key]) for key, value in state.items())
    assert "which phase 2.3 goes on from" in (heads[1].folder / "README.md").read_text()
    assert not (heads[0].folder / SPLIT_HEAD).exists()

    rates = {"training__lr_encoder": "1e-12", "training__lr_decoder": "1e-11", "training__lr_head": "1e-11"}
    given = {"classifier": f"models:/{MODELS['phase2_2']}/2", "training__epochs": "1", "training__warmup_epochs": "0"}
    assert run("phase2_3", pipeline.folder, **given, **rates, shown="0") == 0
    made, before = last_run(client, "phase2_3"), client.get_run(client.get_model_version(MODELS["phase2_2"], "1").run_id)
    assert figures(made)["checks/LEAK"] == 1
    assert figures(made)["phase2_2/auroc"] == pytest.approx(figures(before)["val/final/auroc"])
    joint = registry.load(f"models:/{NAME}/2").cls_head.state_dict()
    assert all(torch.allclose(joint[key], value, atol=1e-8) for key, value in single.items())

    config = configured("phase2_3", settings("phase2_3", pipeline.folder))
    folders, cache = (config.slices_dir, config.kaggle_dir), pipeline.folder / "cache" / "medexp"
    data = prepare_images(*folders, config.data, config.phantoms, cache, SOURCES)
    first = registry.pull(f"models:/{MODELS['phase2_1']}/1")
    assert split_check([of_the_split(heads[1], ClassificationHead(16, 2)), first], "", data).passed
    assert not split_check([heads[1], first], "", data).passed, "the head that is registered has seen them"
    built_on = registry.pull(f"models:/{NAME}/2")
    assert split_check([built_on], "", data).passed, "whoever builds on it is asked what it was made from"
    assert json.loads((built_on.folder / "parents.json").read_text())["classifier"]["cases"] == SPLIT_CASES


# ------------------------------------------------------------------------------------------------------------------ bad input


def test_a_head_of_another_encoder_is_refused_with_the_command_that_trains_one(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("phase2_1", pipeline.folder, training__lr_network="0.005", min_dice="-1", shown="0") == 0
    capsys.readouterr()
    assert run("phase2_3", pipeline.folder, multitask=f"models:/{MODELS['phase2_1']}/2") == 2
    told = capsys.readouterr().err
    for words in (
        f"{MODELS['phase2_2']} version 1 was trained on another encoder than that of {MODELS['phase2_1']} version 2",
        f"mlflow run . -e phase2_2 -P encoder=models:/{MODELS['phase2_1']}/2",
    ):
        assert words in told


def test_before_phases_2_1_and_2_2_the_next_step_is_told(
    store: MlflowClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("phase2_3", None) == 2
    assert "Train one first: mlflow run . -e phase2_1" in capsys.readouterr().err
