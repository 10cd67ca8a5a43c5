"""Folds as a user runs them: each case judged once, by a training without its patient; what is registered; going on."""

import json
import os
import re
import shutil
import signal
from importlib import import_module
from pathlib import Path
from statistics import median_low

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from sklearn.metrics import roc_auc_score

from medexp import registry
from medexp.data.images.transforms import preprocess
from medexp.data.manifest import patient_sha256
from medexp.tracking.reporter import MlflowReporter
from medexp.tracking.runs import tracked_run
from tests.configured import configured
from tests.phases.shared.image_runs import MODELS, SIZE, Pipeline, brain, run, settings
from tests.runs import artifact, figures, history, last_run, logged_table, measured

NAME = MODELS["phase2_2"]


def whole_and_folds(client: MlflowClient, phase: str) -> tuple[Run, list[Run]]:
    """The last run of a phase, and those of its folds in order."""
    experiment = client.get_experiment_by_name(phase)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    whole = next(one for one in runs if "medexp.fold" not in one.data.tags)
    inside = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == whole.info.run_id]
    return whole, sorted(inside, key=lambda one: one.data.tags["medexp.fold"])


def test_each_case_is_judged_once_and_what_is_registered_was_trained_on_all_of_them(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = logged_table(last_run(client, "phase2_1"), "manifest.csv").query("split == 'train'")
    assert run("phase2_2", pipeline.folder, folds="3", training__patience="1") in (0, 3), capsys.readouterr().err
    told = capsys.readouterr().out
    whole, folds = whole_and_folds(client, "phase2_2")
    assert [one.info.run_name for one in folds] == [f"phase2_2 / fold {number} of 3" for number in (1, 2, 3)]
    assert {one.info.status for one in folds} == {"FINISHED"}

    manifest = logged_table(whole, "manifest.csv")
    possible = manifest[(manifest["split"] != "test") & ~manifest["patient"].isin(learned["patient"])]
    rows = logged_table(whole, "per_case.csv")
    assert list(rows["case"]) == list(possible["case"]) and set(rows["source"]) == {"brats", "kaggle"}
    assert len(rows[["patient", "fold"]].drop_duplicates()) == rows["patient"].nunique()
    assert f"With {rows['patient'].nunique()} out-of-fold patients a difference in accuracy of about " in told
    assert "3 folds of " in told and f"{len(learned)} cases that it builds on are trained on in each" in told
    for number, one in enumerate(folds, 1):
        own = logged_table(one, "per_case.csv")
        assert list(own["case"]) == list(rows.loc[rows["fold"] == number, "case"])
        assert np.allclose(own["probability"], rows.loc[rows["fold"] == number, "probability"])
    intervals = logged_table(whole, "intervals.csv", index_col="metric")
    assert intervals.loc["val/final/auroc", "patients"] == rows["patient"].nunique()
    assert figures(whole)["val/final/accuracy"] == pytest.approx(rows["correct"].mean())
    assert figures(whole)["checks/LEAK"] == 1

    table, log = logged_table(whole, "folds.csv"), logged_table(whole, "training_log.csv")
    best = [int(pd.Series(dict(history(client, one, "val/cross_entropy"))).argmin()) + 1 for one in folds]
    assert list(table["epochs"]) == best and list(table["cases"]) == list(rows["fold"].value_counts().sort_index())
    assert len(log) == median_low(best) and not any(name.startswith("val/") for name in log)
    folder = registry.pull(f"models:/{NAME}/2").folder
    seen, card = pd.read_csv(folder / "cases.csv"), (folder / "README.md").read_text()
    assert set(rows["patient"].map(patient_sha256)) <= set(seen.loc[seen["split"] == "train", "patient_sha256"])
    assert set(seen["split"]) == {"train", "test"}
    assert json.loads((folder / "evaluation.json").read_text())["split"] == "3 folds"
    for words in (f"for {median_low(best)} epochs, the median of 3 folds", "in 3 folds by patient", "| out-of-fold auroc |"):
        assert words in card
    for words in ("which is no interval", "out-of-fold: no tumour or tumour"):
        assert words in told


def test_a_run_that_was_interrupted_in_a_fold_goes_on_there_and_ends_the_same_and_the_encoder_sees_each_case_once(
    client: MlflowClient,
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = str(tmp_path / "cache")

    def embedded() -> list[tuple[str, str]]:
        return re.findall(r"features of (\w+): \d+ images, (.*)", capsys.readouterr().out)

    assert run("phase2_2", pipeline.folder, folds="3", cache_dir=cache) == 0
    assert embedded() == [("train", "computed")]
    expected, _ = whole_and_folds(client, "phase2_2")
    flush, count = MlflowReporter.flush, iter(range(1, 1000))

    def interrupting(self: MlflowReporter) -> None:
        flush(self)
        if next(count) == 17:  # six epochs and an end of each of two folds, and three of the third
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as within:
        within.setattr(MlflowReporter, "flush", interrupting)
        assert run("phase2_2", pipeline.folder, folds="3", cache_dir=cache) == 143
    stopped, folds = whole_and_folds(client, "phase2_2")
    assert [one.info.status for one in folds] == ["FINISHED", "FINISHED", "KILLED"]
    assert run("phase2_2", None, resume=stopped.info.run_id) == 0
    made, folds = whole_and_folds(client, "phase2_2")
    assert measured(made) == measured(expected) and len(folds) == 3
    for path in ("per_case.csv", "folds.csv", "training_log.csv"):
        pd.testing.assert_frame_equal(logged_table(made, path), logged_table(expected, path))
    digests = [client.get_model_version(NAME, number).tags["medexp.weights_digest"] for number in ("2", "3")]
    assert digests[0] == digests[1]
    assert run("phase2_2", pipeline.folder, folds="2", cache_dir=cache) == 0
    assert embedded() == 3 * [("train", "from the cache")], "however many folds there are"


def permuted(pictures: Path, folder: Path) -> Path:
    """The pictures with their labels drawn anew, as many of each."""
    files = sorted(path for path in pictures.glob("*/*.png") if path.stem != "twice")
    drawn = np.random.default_rng(0).permutation(len(files))
    for name, part in zip(("yes", "no"), np.array_split(drawn, 2), strict=True):
        (folder / name).mkdir(parents=True)
        for number in part:
            shutil.copy(files[number], folder / name / files[number].name)
    return folder


def test_labels_that_the_features_hold_are_found(client: MlflowClient, pipeline: Pipeline) -> None:
    assert run("phase2_2", None, kaggle_dir=str(pipeline.folder / "pictures"), folds="5") == 0
    intervals = logged_table(last_whole(client), "intervals.csv", index_col="metric")
    assert intervals.loc["val/final/auroc", "low"] > 0.5


def test_labels_that_mean_nothing_are_not_found_where_the_cases_that_were_trained_on_would_say_so(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path
) -> None:
    folder = permuted(pipeline.folder / "pictures", tmp_path / "permuted")
    given = {"folds": "5", "training__epochs": "40", "training__validate_every": "40"}
    assert run("phase2_2", None, kaggle_dir=str(folder), **given) in (0, 3)
    made = last_whole(client)
    low, high = logged_table(made, "intervals.csv", index_col="metric").loc["val/final/auroc", ["low", "high"]]
    assert low < 0.5 < high
    net, rows = registry.load(f"models:/{NAME}/2"), logged_table(made, "per_case.csv")
    files = [folder / case.partition("-")[0] / case.partition("-")[2] for case in rows["case"]]
    images = [preprocess(np.asarray(Image.open(file), np.float32), None, (SIZE, SIZE))[0] for file in files]
    with torch.inference_mode():
        told = net(torch.stack(images)).softmax(dim=1)[:, 1]
    assert roc_auc_score(rows["label"] == "tumour", told) > high, "on the cases that it was trained on it looks able"


def last_whole(client: MlflowClient) -> Run:
    return whole_and_folds(client, "phase2_2")[0]


def test_fewer_patients_of_a_class_than_folds_are_as_many_folds(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "few"
    for name, count in (("yes", 6), ("no", 20)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image, _ = brain(10**8 + 1000 * (name == "yes") + number, tumour=name == "yes")
            Image.fromarray(image).save(folder / name / f"{name}{number}.png")
    keys = {"training__epochs": "2", "data__val_fraction": "0.2", "data__test_fraction": "0.3"}
    assert run("phase2_2", None, kaggle_dir=str(folder), folds="6", **keys) in (0, 3), capsys.readouterr().err
    told = capsys.readouterr().out
    rows = logged_table(last_whole(client), "per_case.csv")
    least = rows["label"].value_counts().min()
    assert rows["fold"].nunique() == least < 6
    assert f"{least} folds of {len(rows)} cases" in told and "not 6: " in told and "no image of the class 'tumour'" in told


ONE_EPOCH = {"folds": "2", "training__epochs": "1", "training__warmup_epochs": "0", "shown": "0"}


def judged_out_of_fold(client: MlflowClient, phase: str, *tables: str) -> None:
    """The last run, in two folds: each patient in one of them, and Dice of the scans that they judged."""
    whole, folds = whole_and_folds(client, phase)
    judged = set(logged_table(whole, "manifest.csv").query("fold > 0")["patient"])
    assert len(folds) == 2 and len(judged) >= 6
    for path in tables:
        rows = logged_table(whole, path)
        assert rows["case"].is_unique and set(rows["fold"]) == {1, 2}
        assert set(rows["patient"]) <= judged
    scans = logged_table(whole, tables[-1])
    assert figures(whole)["val/final/dice"] == pytest.approx(scans["dice"].mean())
    told = artifact(whole, "power.txt").read_text()
    assert f"{scans.dropna(subset='dice')['patient'].nunique()} out-of-fold patients" in told and "in Dice" in told


def test_joint_training_is_judged_out_of_fold_too(client: MlflowClient, pipeline: Pipeline) -> None:
    assert run("phase2_3", pipeline.folder, **ONE_EPOCH) in (0, 3)
    judged_out_of_fold(client, "phase2_3", "per_case.csv", "dice_per_scan.csv")


def test_a_network_is_too_and_nobody_is_left_to_judge_what_is_built_on_it(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """For it was trained on all slices, and there is nothing else."""
    assert run("phase2_1", pipeline.folder, **ONE_EPOCH, min_dice="-1") in (0, 3)
    judged_out_of_fold(client, "phase2_1", "per_case.csv")
    capsys.readouterr()
    on_it = {"encoder": f"models:/{MODELS['phase2_1']}/2", "kaggle_dir": ""}
    assert run("phase2_2", pipeline.folder, **on_it, folds="2") == 2
    told = capsys.readouterr().err
    assert "folds=2: not even two folds can be judged: what it builds on was trained on" in told and "folds=0" in told
    assert run("phase2_2", pipeline.folder, **on_it) == 3
    assert "BLOCKING check failed: LEAK" in capsys.readouterr().err


def test_a_trial_is_scored_out_of_fold_and_its_curve_is_the_first_folds(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path
) -> None:
    module, config = (
        import_module("medexp.phases.phase2_2"),
        configured("phase2_2", settings("phase2_2", pipeline.folder), folds="3"),
    )
    module.warm_up(config, tmp_path, test=True)
    with tracked_run("phase2_2", config) as tracked:
        module.objective(config, tracked, test=True)
    made = client.get_run(tracked.id)
    rows = logged_table(made, "per_case_val.csv")
    assert set(rows["fold"]) == {1, 2, 3} and len(history(client, made, "val/cross_entropy")) == 6
    assert figures(made)["val/final/accuracy"] == pytest.approx(rows["correct"].mean())
    assert figures(made)["val/final/cross_entropy"] == pytest.approx(rows["cross_entropy"].mean())
    assert "test/accuracy" in figures(made) and whole_and_folds(client, "phase2_2")[1] == []
