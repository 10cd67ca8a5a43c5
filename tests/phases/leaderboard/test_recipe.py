"""`leaderboard` and `medexp report` on runs of a real store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from medexp.config.shared import Resampling
from medexp.console import main
from medexp.evaluation.classification import per_case_and_arm
from medexp.evaluation.collapse import spread_of
from medexp.evaluation.leaderboard import Entry, leaderboard, predictions_table
from medexp.phases.shared.leaderboard import Judging, count_classes, log_leaderboard, read_run
from medexp.tracking.reporter import MlflowReporter
from tests.configured import run_phase
from tests.evaluation.boards import CLASSES, board_entries, entry, people, truth_of
from tests.evaluation.test_collapse import NOISE
from tests.runs import artifact, figures, last_run, logged_table

PEOPLE = 60
MANIFEST = pd.DataFrame({"case": people(PEOPLE), "patient": people(PEOPLE), "split": "test"})
MANIFEST["label"], MANIFEST["sha256"] = [CLASSES[index % 4] for index in range(PEOPLE)], "d" + MANIFEST["case"]
Make = Callable[..., str]


@pytest.fixture
def made(store: MlflowClient) -> Make:
    """A run as oct leaves it, or with per_case=True as another phase does; its id."""

    def make(
        entries: list[Entry],
        name: str = "oct",
        digest: str = "d1",
        per_case: bool = False,
        manifest: pd.DataFrame = MANIFEST,
        settings: str = "model: {head: {pooling: mean}}",
    ) -> str:
        run = store.create_run("0", run_name=name, tags={"medexp.phase": "oct", "medexp.data_digest": digest}).info.run_id
        reporter = MlflowReporter(store, run)
        if per_case:
            arms = {one.name: one.predictions[0] for one in entries}
            reporter.table(per_case_and_arm(arms, people(PEOPLE), people(PEOPLE), CLASSES), "per_case.csv")
        else:
            judging = Judging("Encoders", "phantoms", "test", count_classes(MANIFEST, CLASSES), Resampling(200, 0.95, 7))
            board = leaderboard(entries, people(PEOPLE), CLASSES, judging.resampling)
            table = predictions_table(entries, people(PEOPLE), people(PEOPLE), CLASSES, "test")
            log_leaderboard(reporter, board, judging, pd.concat([table, table.assign(split="val")]))
        reporter.table(manifest, "manifest.csv")
        reporter.text(settings, "config.yaml")
        store.set_terminated(run)
        return run

    return make


def compared(*runs: str, code: int = 0) -> None:
    given = {"runs": f"[{','.join(runs)}]"} if runs else {}
    assert run_phase("leaderboard", {**given, "bootstrap_samples": 200, "cache_dir": "cache"}) == code


def test_runs_are_one_leaderboard_in_which_each_name_is_told_apart(store: MlflowClient, made: Make) -> None:
    spread = spread_of(NOISE)
    entries = [one for one in board_entries(PEOPLE) if one.name not in ("headers", "random")]
    first = [replace(one, spread=spread) if one.digest else one for one in entries]
    truth = truth_of(PEOPLE)
    second = [entry("single", truth, 0.4, 12, digest="e"), first[0], first[-1]]
    ones, others = made(first), made(second, "oct again")
    third = made([entry("network", truth, 2.0, 20), first[-1]], "probe", per_case=True)
    compared(ones, "oct again", third)
    run = last_run(store, "leaderboard")
    assert run.info.status == "FINISHED" and run.data.tags["medexp.data_digest"] == "d1"
    table = logged_table(run, "leaderboard.csv").set_index("name")
    runs = (("oct", ones), ("oct again", others))
    both = {f"{name} ({called}, {of[:8]})" for name in ("single", "layers_supervised") for called, of in runs}
    assert both | {"network", "multi_domain", "again", "majority"} <= set(table.index) and "single" not in table.index
    assert list(table.index).count("majority") == 1 and table.loc["network", "seeds"] == 1
    assert table.loc["again", "relative_sd"] == spread.relative_sd
    pairs = logged_table(run, "differences.csv")
    copies = pairs[pairs["relation"] == "copy"][["one", "other"]].to_numpy().tolist()
    assert len(copies) == 2 and any("layers_supervised (oct again" in " ".join(couple) for couple in copies)
    assert "judged/majority/balanced_accuracy" in figures(run)
    best = next(name for name in table.index if table.loc[name, "kind"] == "checkpoint")
    told = f"the largest balanced accuracy, {best}: {table.loc[best, 'balanced_accuracy']:.3f} ["
    assert run.data.tags["medexp.headline"].startswith(told)
    text = artifact(run, "leaderboard.html").read_text()
    assert "Leaderboard of 3 runs" in text and f"From run oct, {ones[:8]}" in text
    saved, judging, _ = read_run(run.info.run_id, "itself")
    again = leaderboard(saved.entries, saved.patients, saved.classes, judging.resampling)
    assert again.table().to_csv(index=False) == artifact(run, "leaderboard.csv").read_text(), "it can be redrawn itself"


def test_the_same_weights_under_another_head_are_compared_and_no_copies(store: MlflowClient, made: Make) -> None:
    spread, truth = spread_of(NOISE), truth_of(PEOPLE)
    drawn = ((0.0, 1), (4.0, 2), (4.0, 2))
    named = [replace(entry("a", truth, skill, seed, digest="e"), spread=spread) for skill, seed in drawn]
    attentive = "model: {head: {pooling: attentive}}"
    linear, better, again = made(named[:1]), made(named[1:2], settings=attentive), made(named[2:], settings=attentive)
    compared(linear, better, again)
    pairs = logged_table(last_run(store, "leaderboard"), "differences.csv")
    above = pairs[pairs["relation"] == "better"]
    assert sorted(pairs["relation"]) == ["better", "better", "copy"] and linear[:8] in above["other"].iloc[0]


def test_without_runs_the_latest_of_one_data_digest(
    store: MlflowClient, made: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    compared(code=2)
    assert "no run of oct ended well in this store; make one with mlflow run . -e oct" in capsys.readouterr().err
    truth = truth_of(PEOPLE)
    made([entry("of other data", truth, 1.0, 1)], "earlier", "d2", True)
    names = [made([entry(name, truth, 1.0, seed)], name, per_case=True) for name, seed in (("a", 1), ("b", 2))]
    compared()
    run = last_run(store, "leaderboard")
    assert set(run.data.tags["medexp.compared"].split()) == {*names}
    assert set(logged_table(run, "leaderboard.csv")["name"]) == {"a", "b"}


def test_runs_on_different_data_are_refused_by_name(made: Make, capsys: pytest.CaptureFixture[str]) -> None:
    truth = truth_of(PEOPLE)
    one, other = (made([entry(name, truth, 1.0, 1)], name, digest, True) for name, digest in (("one", "d1"), ("other", "d2")))
    compared(one, other, code=2)
    told = f"runs: judged on different data, which no figure compares: run one, {one[:8]} has the data digest d1; run other, "
    assert told + f"{other[:8]} has the data digest d2." in capsys.readouterr().err
    moved = made([entry("b", truth, 1.0, 2)], "moved", per_case=True, manifest=MANIFEST.assign(sha256="x"))
    compared(one, moved, code=2)
    assert "has the files of the judged " in capsys.readouterr().err
    turned = made([entry("b", truth[::-1].copy(), 1.0, 2)], "turned", per_case=True)
    compared(one, turned, code=2)
    assert "has the judged cases and labels " in capsys.readouterr().err


def test_a_run_that_judged_nothing(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    run = store.create_run("0", run_name="empty").info.run_id
    compared(run, code=2)
    assert f"run empty, {run[:8]}: logged neither predictions.parquet nor per_case.csv" in capsys.readouterr().err
    assert main(["report", run]) == 0
    assert "Written: report/report.html" in capsys.readouterr().out and not Path("report/leaderboard.html").exists()


def test_a_report_is_the_run_s_own_byte_for_byte(
    store: MlflowClient, made: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made([replace(one, spread=spread_of(NOISE)) if one.digest else one for one in board_entries(PEOPLE)[:3]])
    kept = artifact(store.get_run(run), "leaderboard.csv").read_bytes()
    file = tmp_path / "outputs" / run / "encoders" / "single" / "best.ckpt"
    file.parent.mkdir(parents=True)
    file.touch()
    folder = tmp_path / "drawn"
    assert main(["report", str(file), "--output", str(folder)]) == 0
    assert (folder / "leaderboard.csv").read_bytes() == kept
    assert "<title>" in (folder / "report.html").read_text()
    for name in ("leaderboard.html", "leaderboard.md", "differences.csv", "spread.csv", "class_to_idx.json"):
        assert (folder / name).read_bytes() == artifact(store.get_run(run), name).read_bytes()
    assert "The data support: layers_supervised above again; " in capsys.readouterr().out
    (tmp_path / "best.ckpt").touch()
    assert main(["report", str(tmp_path / "best.ckpt")]) == 2
    assert "lies in no run's folder" in capsys.readouterr().err
