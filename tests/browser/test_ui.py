"""`medexp ui` as a browser shows it: runs are found at once, and nothing of generative models stands between."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from mlflow import MlflowClient

from medexp.checks import VERDICT
from medexp.registry.promotion import Nominated
from medexp.tracking.results import HEADLINE
from medexp.tracking.runs import child_run, tracked_run
from tests.browsing import Visit, ui_on
from tests.runs import Config


def test_runs_are_found_at_once(store: MlflowClient, tmp_path: Path, visit: Callable[..., Visit]) -> None:
    with tracked_run("phase1", Config()) as run:
        run.tag({"mlflow.note.content": "What the run says of itself"})
        run.tag({HEADLINE: "Dice 0.831 [0.778, 0.873]", VERDICT: "PASSED", "medexp.git_dirty": "false"})
        for step in range(3):
            run.reporter.metrics({f"train/{name}": 0.5 for name in ("grad_norm", "loss", "loss_dice", "lr_lora")}, step)
            run.reporter.metrics({f"{arm}val/{name}": 0.5 for name in ("ce", "dice") for arm in ("", "versus/control/")}, step)
        run.reporter.metrics({"test/auroc": 0.8}, 0)
    with ui_on(os.environ["MLFLOW_TRACKING_URI"], tmp_path) as (told, server):
        assert told.startswith("The last run, phase1 s0:  ")
        there = visit()
        there.open(told.split()[-1])
        there.shows("phase1 s0", "What the run says of itself")
        charts = visit(1400, 4000)
        charts.open(told.split()[-1].replace("?", "/model-metrics?"))
        charts.shows("(versus/control/val/ce)")
        assert charts.charts()[1] == 0, "what was measured once is no chart"
        assert re.findall(r"\((\S+/\S+)\)", charts.page.locator("body").inner_text()) == [
            *("train/loss", "train/loss_dice", "train/grad_norm", "train/lr_lora"),
            *("val/dice", "val/ce", "versus/control/val/dice", "versus/control/val/ce"),
        ]
        first = visit()
        first.open(server)  # what a user types who has not read what was printed
        first.shows("Experiments")
        first.page.get_by_role("link", name="phase1", exact=True).click()
        first.shows("phase1 s0")
        assert "/runs" in first.page.url
        first.shows("Dice 0.831 [0.778, 0.873]")
        columns = first.page.locator(".ag-header-cell").all_inner_texts()
        assert any(VERDICT in name for name in columns) and not any("git_dirty" in name for name in columns), columns
        assert not first.page.get_by_text("Ask a question").count()
        small = visit(900)
        small.open(told.split()[-1].replace(run.id, ""))
        for text in ("PASSED", "Dice 0.831 [0.778, 0.873]"):
            box = small.page.get_by_text(text, exact=True).locator("visible=true").first.bounding_box()
            assert box and box["x"] + box["width"] <= 900, text
        first.open(f"{server}/#/models")
        first.shows("Registered Models")
        assert there.errors + charts.errors + first.errors + small.errors == []


def test_a_sweep_two_of_its_trials_their_pictures_and_models_are_found(
    store: MlflowClient, tmp_path: Path, visit: Callable[..., Visit], publish: Callable[..., Nominated]
) -> None:
    publish()
    ids = []
    with tracked_run("sweep", Config()) as sweep:
        for number in range(2):
            called, rate = f"phase2_2 s0, trial {number}", {"training.lr_head": f"0.{number + 1}"}
            with child_run(sweep.id, called, sweep.folder, rate, {}) as trial:
                ids.append(trial.id)
                for step in range(2):
                    trial.reporter.metrics({"val/accuracy": 0.5 + 0.1 * (number + step)}, step)
                    trial.reporter.image(Figure((1 + step, 1)), "val/overlay", step)
    experiment = store.get_run(sweep.id).info.experiment_id
    with ui_on(os.environ["MLFLOW_TRACKING_URI"], tmp_path) as (told, server):
        for width in (1400, 900):
            there = visit(width)
            there.open(told.split()[-1])
            there.shows("sweep s0", "phase2_2 s0, trial 0", "phase2_2 s0, trial 1")
            there.open(f"{server}/#/compare-runs?runs={json.dumps(ids)}&experiments={json.dumps([experiment])}")
            there.shows("Comparing 2 Runs from 1 Experiment", "phase2_2 s0, trial 1", "training.lr_head", "val/accuracy")
            assert "system/" not in there.page.locator("body").inner_text()
            there.open(f"{server}/#/experiments/{experiment}/runs/{ids[0]}/model-metrics?workflowType=machine_learning")
            first = there.page.locator("img[src*=run_uuid]").first.get_attribute("src")
            there.page.get_by_role("slider").last.press("ArrowRight")
            other = "was => [...document.images].some(one => one.src.includes('run_uuid') && one.getAttribute('src') !== was)"
            there.page.wait_for_function(other, arg=first)
            there.open(f"{server}/#/models/phase1_encoder_merged")
            there.shows("phase1_encoder_merged", "Version 1", "candidate")
            there.open(f"{server}/#/models/phase1_encoder_merged/versions/1")
            there.shows("Version 1", "Made by run", "champion")
            assert there.missing() == [] and there.errors == []


def test_what_a_user_chose_stands(store: MlflowClient, tmp_path: Path, visit: Callable[..., Visit]) -> None:
    with ui_on(os.environ["MLFLOW_TRACKING_URI"], tmp_path) as (told, server):
        assert told.startswith("No run yet:")
        there = visit()
        there.open(server)
        there.page.get_by_role("button", name="GenAI").click()
        there.page.reload()
        there.shows("Prompts")
