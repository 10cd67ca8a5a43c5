import itertools
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.figure import Figure
from mlflow import MlflowClient

from medexp.tracking.figures import curves, dice_bars, overlay
from medexp.tracking.reporter import MlflowReporter


def test_metrics_keep_their_steps_whatever_their_number_and_nan_is_none(store: MlflowClient) -> None:
    run_id = store.create_run("0").info.run_id
    reporter = MlflowReporter(store, run_id)
    for step in range(1203):
        reporter.metrics({"train/loss": float(step), "train/ce": float("nan") if step == 1202 else 0.0}, step)
    reporter.flush()
    reporter.flush()
    history = store.get_metric_history(run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, float(step)) for step in range(1203)]
    history = store.get_metric_history(run_id, "train/ce")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, 0.0) for step in range(1202)]


def test_metrics_that_were_not_flushed_in_time_keep_the_time_they_were_measured_at(store: MlflowClient) -> None:
    run_id = store.create_run("0").info.run_id
    reporter = MlflowReporter(store, run_id)
    reporter.metrics({"train/loss": 1.0})
    marker = store.create_run("0").info.start_time
    reporter.flush()
    assert store.get_metric_history(run_id, "train/loss")[0].timestamp <= marker


@pytest.mark.parametrize("figure", [Figure(), pyplot.figure()], ids=["plain", "pyplot"])
def test_a_figure_becomes_a_picture_and_is_closed(store: MlflowClient, figure: Figure) -> None:
    run_id = store.create_run("0").info.run_id
    figure.subplots().plot([0, 1])
    MlflowReporter(store, run_id).figure(figure, "figures/one.png")
    picture = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="figures/one.png")
    assert pyplot.imread(picture).ndim == 3
    assert figure.axes == []
    assert figure not in map(pyplot.figure, pyplot.get_fignums())


def test_pictures_of_steps_are_one_series_that_the_ui_finds(store: MlflowClient) -> None:
    run_id = store.create_run("0").info.run_id
    for step, case in itertools.product((1, 2), ("case:7 (a)", "case;7 (a)")):  # MLflow refuses what differs
        figure = pyplot.figure()
        figure.subplots().plot([0, step])
        MlflowReporter(store, run_id).image(figure, f"overlays/lora/{case}", step)
        assert figure not in map(pyplot.figure, pyplot.get_fignums())
    files = [Path(item.path).name for item in store.list_artifacts(run_id, "images")]
    pictures = [name for name in files if name.endswith(".png")]
    series = {name.split("+")[0] for name in pictures}
    assert len(series) == 2 and all(name.startswith("overlays~lora~case_7 _a_ ") for name in series)
    assert sorted(name.split("+")[2] for name in pictures) == ["1", "1", "2", "2"]
    assert sum(name.endswith("+compressed.webp") for name in files) == 4
    drawn = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"images/{pictures[0]}")
    assert pyplot.imread(drawn).shape == (480, 640, 4)
    assert store.get_run(run_id).data.tags["mlflow.loggedImages"] == "True"


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(tumour=st.sampled_from(["none", "one voxel", "all"]), found=st.booleans(), as_regions=st.booleans())
def test_an_overlay_is_drawn_of_any_tumour(tumour: str, found: bool, as_regions: bool) -> None:
    truth = np.zeros((6, 8, 4), dtype=np.int64)
    truth[{"none": np.s_[:0], "one voxel": np.s_[2:3, 5:6, 3:4], "all": np.s_[:]}[tumour]] = 3
    regions = np.stack([truth > 0] * 3)
    prediction = np.full((3, 6, 8, 4), float(found))
    figure = overlay(np.zeros((4, 6, 8, 4), np.float32), regions if as_regions else truth, prediction, "case", (1.0, 1.0, 2.0))
    figure.canvas.draw()
    assert len(figure.axes) == 6
    if tumour == "one voxel":
        assert [axes.get_title() for axes in figure.axes[:3]] == ["FLAIR, axial 3", "FLAIR, coronal 5", "FLAIR, sagittal 2"]


def test_an_overlay_speaks_of_a_truth_only_where_it_is_known() -> None:
    image, mask = np.zeros((4, 8, 8, 8), np.float32), np.zeros((8, 8, 8), np.int64)
    mask[2:4, 5:7, 3] = 1
    drawn = {truth is None: overlay(image, truth, np.stack([mask] * 3), "case") for truth in (mask, None)}
    said = {known: [text.get_text() for text in figure.legends[0].get_texts()] for known, figure in drawn.items()}
    assert said[True] == [f"{region} predicted" for region in ("TC", "WT", "ET")]
    assert said[False] == said[True] + [f"{region} truth" for region in ("TC", "WT", "ET")]
    assert drawn[True].axes[0].get_title() == "FLAIR, axial 3", "through what was predicted"


def test_an_overlay_shows_the_patients_left_on_the_right() -> None:
    image = np.zeros((4, 8, 8, 8), np.float32)
    image[:, -1] = 1  # the patient's right
    figure = overlay(image, np.zeros((8, 8, 8), np.int64), np.zeros((3, 8, 8, 8)), "case")
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown[:, 0].all()
    assert not shown[:, 1:].any()


def test_curves_show_what_was_measured() -> None:
    history = pd.DataFrame({"epoch": [0, 1], "step": [4, 8], "train/loss": [1.0, 0.5], "train/lr_lora": [1.0, 1.0]})
    history["val/dice_WT"] = [float("nan"), 0.7]
    figure = curves(history)
    drawn = {line.get_label(): line.get_xydata().tolist() for axes in figure.axes for line in axes.lines}
    assert drawn == {"train/loss": [[1, 1.0], [2, 0.5]], "val/dice_WT": [[2, 0.7]]}
    assert len(curves(history, ["train/loss"]).axes) == 1
    history = history.assign(**{"val/accuracy": [0.5, 0.6], "train/grad_norm": [2.0, 1.0], "val/ce": [0.7, 0.6]})
    shown = {axes.get_title(): [line.get_label() for line in axes.lines] for axes in curves(history).axes}
    assert shown == {
        "loss": ["train/loss", "val/ce"],
        "score": ["val/dice_WT", "val/accuracy"],
        "other": ["train/grad_norm"],
    }
    curves(history[["epoch"]]).canvas.draw()


def test_dice_by_arm_shows_every_case_in_the_order_of_the_arms() -> None:
    rows = [
        {"arm": arm, "case": case, "dice_TC": 0.5, "dice_WT": 0.1 * case, "dice_ET": float("nan")}
        for arm in ("baseline", "lora")
        for case in range(5)
    ]
    figure = dice_bars(pd.DataFrame(rows))
    figure.canvas.draw()
    points = [np.asarray(found.get_offsets()) for found in figure.axes[0].collections if len(found.get_offsets()) == 5]
    assert len(points) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["baseline", "lora"]
