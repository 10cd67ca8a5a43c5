import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from medexp.checks import Check, Severity
from medexp.data.manifest import data_digest
from medexp.errors import CheckFailed
from medexp.evaluation.intervals import Interval
from medexp.reporting import NullReporter
from medexp.tracking.datasets import log_datasets
from medexp.tracking.results import log_checks, log_figures, log_headline, log_intervals, log_summary, stop_if_blocked
from medexp.tracking.runs import TrackedRun, tracked_run


@dataclass(frozen=True)
class Config:
    output_dir: str = "outputs"
    profile: str = "demo"
    seed: int = 0


@pytest.fixture
def run(store: MlflowClient) -> Iterator[TrackedRun]:
    with tracked_run("prepare", Config()) as run:
        yield run


@pytest.fixture
def manifest() -> pd.DataFrame:
    cases = pd.DataFrame(
        {"case": ["a-0", "a-1", "b-0", "c-0"], "patient": list("aabc"), "split": ["train", "train", "val", "test"]}
    )
    return cases.assign(sha256=[letter * 64 for letter in "abcd"])


def read(run: TrackedRun, path: str) -> str:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.id, artifact_path=path)).read_text()


@pytest.mark.parametrize("source", ["meningioma phantoms", "/data/BraTS-MEN", "s3://bucket/BraTS-MEN"])
def test_each_split_is_a_dataset_input_with_the_digest_of_its_voxels(
    store: MlflowClient, run: TrackedRun, manifest: pd.DataFrame, source: str
) -> None:
    digests = {split: data_digest(manifest[manifest["split"] == split]) for split in ("train", "val", "test")}
    log_datasets(run, manifest, digests, source, "phase1")
    inputs = {item.tags[0].value: item.dataset for item in store.get_run(run.id).inputs.dataset_inputs}
    assert {split: dataset.digest for split, dataset in inputs.items()} == digests
    assert inputs["train"].name == "phase1_train"
    assert json.loads(inputs["train"].profile) == {"num_rows": 2, "patients": 1}
    assert source in inputs["val"].source
    assert store.get_run(run.id).data.tags["medexp.data_digest"] == data_digest(manifest)
    assert pd.read_csv(mlflow.artifacts.download_artifacts(run_id=run.id, artifact_path="manifest.csv")).equals(manifest)


def test_runs_that_log_the_same_data_at_once_all_have_it(store: MlflowClient, run: TrackedRun, manifest: pd.DataFrame) -> None:
    digests = {split: data_digest(manifest[manifest["split"] == split]) for split in ("train", "val", "test")}
    for attempt in range(5):
        others = [replace(run, id=store.create_run("0").info.run_id, reporter=NullReporter()) for _ in range(6)]
        start = threading.Barrier(len(others))

        def log(other: TrackedRun, attempt: int = attempt, start: threading.Barrier = start) -> None:
            start.wait()
            log_datasets(other, manifest, digests, "phantoms", f"attempt{attempt}")

        with ThreadPoolExecutor(len(others)) as pool:
            list(pool.map(log, others))
        assert [len(store.get_run(other.id).inputs.dataset_inputs) for other in others] == [3] * len(others)


def test_checks_are_a_table_a_report_and_a_verdict_and_no_metrics(store: MlflowClient, run: TrackedRun) -> None:
    log_checks(
        run,
        [
            Check("TEST_2.1", "injection", Severity.BLOCKING, True, "36864 parameters", {"trainable": 36864}),
            Check(
                "TEST_2.5", "quality", Severity.BLOCKING, False, "Dice WT > 0.80", {"dice_WT": float("nan")}, "train longer"
            ),
        ],
    )
    run.reporter.flush()
    data = store.get_run(run.id).data
    assert not data.metrics
    assert data.tags["medexp.verdict"] == "FAILED" and data.tags["medexp.checks"] == "failed TEST_2.5; passed TEST_2.1"
    assert json.loads(read(run, "checks.json"))[1]["measured"] == {"dice_WT": "nan"}
    assert "train longer" in (report := read(run, "verification_report.md")) and "Verdict: **FAILED**" in report


def test_checks_of_a_run_that_goes_on_are_no_verdict(run: TrackedRun, store: MlflowClient) -> None:
    """What is looked at while it trains, or was killed, would else have PASSED by the few checks before the training."""
    passed = [Check("LEAK", "leaks", Severity.BLOCKING, True, "none")]
    log_checks(run, passed, so_far=True)
    run.reporter.flush()
    assert "medexp.verdict" not in store.get_run(run.id).data.tags and "PASSED**" not in read(run, "verification_report.md")
    log_checks(run, passed)
    run.reporter.flush()
    assert store.get_run(run.id).data.tags["medexp.verdict"] == "PASSED"
    assert "Verdict: **PASSED**" in read(run, "verification_report.md")


def test_a_failed_blocking_check_stops_the_run_with_what_was_found(run: TrackedRun) -> None:
    fine = Check("LEAK", "leaks", Severity.BLOCKING, True, "none")
    hint = Check("PROBE_MAJORITY", "majority", Severity.DIAGNOSTIC, False, "above 0")
    stop_if_blocked(run, [fine, hint])
    leak = Check(
        "LEAK", "leaks", Severity.BLOCKING, False, "no patient", {"seen": "p3 by bsf_base version 1"}, "Take them out."
    )
    with pytest.raises(CheckFailed) as error:
        stop_if_blocked(run, [hint, leak])
    for words in ("LEAK", "no patient", "seen = p3 by bsf_base version 1", "Take them out.", run.id):
        assert words in str(error.value)
    assert "PROBE_MAJORITY" not in str(error.value)


def test_a_summary_of_any_length_is_the_description(store: MlflowClient, run: TrackedRun) -> None:
    summary = "# Phase 1\n" + "LoRA added nothing. " * 1000
    log_summary(run, summary)
    assert store.get_run(run.id).data.tags["mlflow.note.content"] == summary[:8000]
    assert read(run, "summary.md") == summary


def test_files_and_folders_keep_their_names(store: MlflowClient, run: TrackedRun) -> None:
    folder = run.folder / "adapter"
    folder.mkdir()
    (folder / "weights").write_text("1")
    run.reporter.file(folder)
    run.reporter.file(folder / "weights", "copies")
    assert read(run, "adapter/weights") == read(run, "copies/weights") == "1"


def test_what_is_measured_once_is_one_table_and_no_metric(store: MlflowClient, run: TrackedRun) -> None:
    dice, nan = Interval(0.1 + 0.2, 0.25, 0.4, 7), float("nan")
    log_intervals(run, {"val/final/dice": dice, "val/final/auroc": Interval(0.5, nan, nan, 3)}, 0.95)
    log_intervals(run, {"val/gain/dice": Interval(0.0, -0.1, 0.1, 7), "val/final/auroc": Interval(nan, nan, nan, 3)}, 0.9)
    log_figures(run, {"params/val_cases": 7})
    run.reporter.flush()
    assert not store.get_run(run.id).data.metrics
    table = pd.read_csv(io.StringIO(read(run, "intervals.csv")), index_col="metric")
    assert list(table.index) == ["val/final/dice", "val/gain/dice", "val/final/auroc", "params/val_cases"]
    assert list(table.loc["val/final/dice"]) == [0.1 + 0.2, 0.25, 0.4, 0.95, 7], "to the bit"
    assert table.loc["val/final/auroc", ["estimate", "low", "high"]].isna().all()
    log_summary(run, "**PASSED**")
    place = f"#/experiments/{store.get_run(run.id).info.experiment_id}/runs/{run.id}/artifacts/intervals.csv"
    assert f"[intervals.csv]({place}?" in store.get_run(run.id).data.tags["mlflow.note.content"]
    assert read(run, "summary.md") == "**PASSED**"


@pytest.mark.parametrize(
    ("course", "found"),
    [
        ([], {"val/final/dice": [(0, 0.3)]}),
        ([0.1, 0.3], {"val/dice": [(1, 0.1), (2, 0.3)]}),
        ([0.3, 0.1], {"val/dice": [(1, 0.3), (2, 0.1), (3, 0.3)]}),  # another epoch is kept than the last one
    ],
)
def test_the_figure_that_runs_are_compared_by_is_one_metric_and_ends_its_course(
    store: MlflowClient, run: TrackedRun, course: list[float], found: dict[str, list[tuple[int, float]]]
) -> None:
    for step, value in enumerate(course, 1):
        run.reporter.metrics({"val/dice": value}, step)
    log_intervals(run, {"val/final/dice": Interval(0.3, 0.25, 0.4, 7), "val/final/auroc": Interval(0.5, 0.4, 0.6, 7)}, 0.95)
    log_headline(run, "val/final/dice", "Dice")
    run.reporter.flush()
    data = store.get_run(run.id).data
    histories = {name: store.get_metric_history(run.id, name) for name in data.metrics}
    assert {name: sorted((one.step, one.value) for one in points) for name, points in histories.items()} == found
    assert data.tags["medexp.headline"] == "Dice 0.300 [0.250, 0.400]"


def test_a_figure_that_is_not_there_is_no_headline(store: MlflowClient, run: TrackedRun) -> None:
    log_figures(run, {"val/final/dice": float("nan")})
    log_headline(run, "val/final/dice", "Dice")
    log_headline(run, "val/final/auroc", "AUROC")
    run.reporter.flush()
    data = store.get_run(run.id).data
    assert "medexp.headline" not in data.tags and not data.metrics


def test_a_process_that_writes_nothing_makes_no_table(run: TrackedRun) -> None:
    other = replace(run, client=None, reporter=NullReporter())
    log_intervals(other, {"gain": Interval(0.0, -0.1, 0.1, 7)}, 0.95)
    assert not (run.folder / "intervals.csv").exists()
