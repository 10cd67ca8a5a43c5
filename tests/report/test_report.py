"""`report.html`: its figures are those of the store, it is one file, and nothing that a user named breaks it."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from medexp.checks import Check, Severity
from medexp.console import main
from medexp.evaluation.intervals import Interval
from medexp.report.facts import facts
from medexp.report.panels import panels
from medexp.report.summary import Summary, log_record
from medexp.report.volumes import WORST
from medexp.report.written import log_report
from medexp.tracking.results import log_checks, log_headline, log_intervals
from medexp.tracking.runs import tracked_run
from tests.report.made import CASES, ODD, made_run, per_case
from tests.runs import Config


class Read(HTMLParser):
    """What a page holds: its text without scripts and styles, the rows of its tables, and what it refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.rows, self.refers, self._skipped, self._cell = "", list[list[str]](), list[str](), False, False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped = self._skipped or tag in ("script", "style")
        self.refers += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._skipped = self._skipped and tag not in ("script", "style")
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.text += data
            if self._cell:
                self.rows[-1][-1] += data.strip()


def logged(client: MlflowClient, run_id: str) -> str:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="report.html")).read_text(encoding="utf-8")


def page_of(client: MlflowClient, run_id: str) -> tuple[str, Read]:
    assert log_report(run_id) is not None
    page = logged(client, run_id)
    return page, Read(page)


def test_its_figures_are_those_of_the_store(store: MlflowClient) -> None:
    run = made_run()
    _, read = page_of(store, run)
    for case, arm, dice in per_case(cases=[*CASES[:-1], ODD])[["case", "arm", "dice_WT"]].itertuples(index=False):
        (row,) = [row for row in read.rows if row[:2] == [case, arm]]
        assert f"{dice:.3f}" in row
    assert f"{0.6125:.3f} [0.521, 0.701]" in read.text
    for told in ("PASSED (diagnostics that failed: CONTROLS)", "dice_WT = 0.6125", "gain = -0.25", "Train longer.", "+0.112"):
        assert told in read.text, told
    assert "mlflow run . -e predict -P model=models:/phase1_segmenter@champion" in read.text
    assert f"run {run}" in read.text


def test_names_stand_as_they_are(store: MlflowClient) -> None:
    page, read = page_of(store, made_run(volumes=True))
    assert ODD in read.text and "a<b>" not in page and "<b>&c" not in page


def test_it_is_one_file_that_asks_nobody(store: MlflowClient) -> None:
    page, read = page_of(store, made_run(volumes=True))
    assert read.refers and all(re.match("#|data:image/png;base64,", told) for told in read.refers)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy and "default-src 'none'" in unescape(policy[1])
    assert not re.search(r"http|\*", unescape(policy[1]))
    assert len(page.encode()) < 15_000_000
    assert "BSD 2-Clause License" in page


def test_the_worst_cases_are_shown_first(store: MlflowClient) -> None:
    run = made_run(volumes=True)
    page, _ = page_of(store, run)
    shown = [one["case"] for one in json.loads(re.search(r'id="volume-data">(.*?)</script>', page)[1])]  # type: ignore[index]
    assert shown == [ODD, *CASES[-2:1:-1]][:WORST] and len(facts(run).cases) == WORST


def test_a_case_by_its_name_and_one_that_was_not_kept(
    store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(volumes=True)
    assert main(["report", run, "--output", str(tmp_path / "one.html"), "--case", CASES[5]]) == 0
    page = (tmp_path / "one.html").read_text()
    assert re.findall(r'data-case="\d+"', page) == ['data-case="0"'] and CASES[5] in page
    assert main(["report", run, "--case", "case-0"]) == 2
    assert "kept no volumes of case-0; it has " in capsys.readouterr().err


def test_an_older_run_says_what_it_said(store: MlflowClient) -> None:
    run = made_run(summary=None)
    assert facts(run).summary is None
    _, read = page_of(store, run)
    assert ["old", "0.321"] in read.rows and f"as older versions say it of {ODD}" in read.text
    assert facts(run).settings is None and "config=config.yaml" in read.text


def test_a_folds_run_has_estimates_alone(store: MlflowClient) -> None:
    run = made_run()
    store.log_text(run, "metric,estimate\nval/final/accuracy,0.6789\n", "intervals.csv")
    _, read = page_of(store, run)
    assert any(row[:2] == ["val/final/accuracy", "0.679"] for row in read.rows)


def test_what_the_store_does_not_hold_is_not_said(store: MlflowClient) -> None:
    run = store.create_run("0", run_name="bare").info.run_id
    store.set_terminated(run)
    found = facts(run)
    assert (found.verdict, found.summary, found.command, found.per_case, found.checks) == (None, None, None, None, ())
    _, read = page_of(store, run)
    assert "Finished; it has no checks" in read.text
    for told in ("Checks", "Training", "Each case", "Data", "Lineage", "None", "nan"):
        assert told not in read.text, told


def test_an_altered_artifact_is_told_and_the_run_stays_what_it_was(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run()
    store.log_text(run, "{not json", "summary.json")
    assert log_report(run) is None
    told = capsys.readouterr().err
    assert "summary.json cannot be read" in told and f"medexp report {run}" in told
    assert store.get_run(run).info.status == "FINISHED"
    assert main(["report", run]) == 2


def test_two_runs_side_by_side(store: MlflowClient, tmp_path: Path) -> None:
    one, other = (made_run(volumes=True, shift=shift, odd=False) for shift in (0.0, 0.02))
    file = tmp_path / "both.html"
    assert main(["report", f"{one}:lora", f"{other}:lora", "--output", str(file)]) == 0
    read = Read(file.read_text(encoding="utf-8"))
    assert len([told for told in read.refers if told.startswith("data:image/png")]) == 2 * WORST
    assert f"{other[:8]}:lora over {one[:8]}:lora" in read.text, "names that can be read; the command has them whole"
    assert f"A: {one[:8]}:lora is {store.get_run(one).info.run_name}" in read.text
    assert "+0.020" in read.text and len([row for row in read.rows if row[0] in CASES and "dice_WT" in row]) == len(CASES)
    assert main(["report", f"{one}:baseline", f"{other}:lora", "--output", str(file)]) == 0
    assert "side by side" not in file.read_text(encoding="utf-8"), "of an arm that is not registered no prediction is kept"


def test_trials_of_a_sweep_with_the_best_first_and_marked(store: MlflowClient) -> None:
    run = store.create_run("0", run_name="sweep", tags={"medexp.phase": "sweep"}).info.run_id
    trials = pd.DataFrame({"trial": [0, 1, 2], "state": "COMPLETE", "val/auroc": [0.6, 0.8, 0.7], "lr": [1e-3, 1e-4, 1e-5]})
    store.log_text(run, trials.to_csv(index=False), "trials.csv")
    store.log_metric(run, "best/val/auroc", 0.8)
    store.set_terminated(run)
    page, read = page_of(store, run)
    marked = re.search(r'<tr class="marked">(.*?)</tr>', page)
    assert marked and ">1<" in marked[1]
    assert [row[0] for row in read.rows if "COMPLETE" in row] == ["1", "0", "2"]


def test_a_panel_says_of_which_arm_a_figure_is(store: MlflowClient) -> None:
    """The arm that the run is about is the one whose name no other figure bears, wherever it stands in the table; gains stand
    apart from scores, and a table that repeats figures draws none twice."""
    table = pd.DataFrame(
        [
            {"case": f"case-{number}", "patient": number, "arm": arm, "dice": 0.5 + shift * (-1) ** number}
            for arm, shift in (("encoder", 0.2), ("majority", -0.2))
            for number in range(4)
        ]
    )
    scores = {
        "test/auroc": Interval(0.9, 0.8, 0.95, 9),
        "controls/majority/auroc": Interval(0.5, float("nan"), float("nan"), 9),
        "controls/gain_over_majority/auroc": Interval(0.4, 0.3, 0.45, 9),
    }
    controls = [("model", "auroc", 0.9, 0.8, 0.95), ("majority", "auroc", 0.5, None, None), ("other", "auroc", 0.6, 0.4, 0.7)]
    with tracked_run("probe", Config()) as run:
        run.reporter.table(table, "per_case.csv")
        run.reporter.table(pd.DataFrame(controls, columns=["control", "metric", "estimate", "low", "high"]), "controls.csv")
        log_intervals(run, scores, 0.95)
        log_headline(run, "test/auroc", "AUROC")
    found = facts(run.id)
    drawn = {panel.title: [(dot.label, dot.estimate, dot.main) for dot in panel.dots] for panel in panels(found)}
    assert drawn == {
        "AUROC": [("encoder", 0.9, True), ("majority", 0.5, False)],
        "gain in AUROC over": [("majority", 0.4, False)],
        "controls: AUROC": [("other", 0.6, False)],
    }
    _, read = page_of(store, run.id)
    assert "AUROC 0.900 [0.800, 0.950]" in read.text, "the first screen has the headline"
    worst = next(row for row in read.rows if row[:1] and row[0].startswith("case-"))
    assert worst[0] == "case-1", "by the encoder's score"


def test_what_to_do_is_said_once_and_units_by_their_name(store: MlflowClient) -> None:
    """Advice that two checks give stands once, without the sentences that the page has anyway."""
    lines, advice = ["The control is as good."], "Take more cases."
    with tracked_run("medgemma", Config()) as run:
        given = {"ONE": advice, "TWO": advice, "THREE": f"{lines[0]} Look at them."}
        checks = [Check(name, "title", Severity.DIAGNOSTIC, False, "above 0", {}, text) for name, text in given.items()]
        log_checks(run, checks)
        log_intervals(run, {"val/accuracy": Interval(0.6, 0.5, 0.7, 9)}, 0.95)
        log_record(run.reporter, Summary("", "", (), (), (), first=lines, units=("family", "families")), ())
    _, read = page_of(store, run.id)
    assert "ONE, TWO Take more cases." in read.text and "THREE Look at them." in read.text
    assert read.text.count(lines[0]) == 1 and "for its figure alone, by family." in read.text


def test_a_small_figure_among_large_ones_keeps_its_digits(store: MlflowClient) -> None:
    """intervals.csv holds counts, millimetres and Dice in one column, where a Dice of 0.044 was 0.0."""
    with tracked_run("phase1", Config()) as run:
        figures = {"params/lora_trainable": 9216.0, "val/final/hd95_WT": 94.82, "val/final/dice_TC": 0.0437}
        log_intervals(run, {name: Interval(value, value, value, 9) for name, value in figures.items()}, 0.95)
    _, read = page_of(store, run.id)
    estimates = {row[0]: row[1] for row in read.rows if row[0] in figures}
    assert estimates == {"params/lora_trainable": "9216.0", "val/final/hd95_WT": "94.8", "val/final/dice_TC": "0.044"}


def test_links_of_the_ui_are_words_in_a_file(store: MlflowClient) -> None:
    with tracked_run("main", Config()) as run:
        run.reporter.text(
            "| step |\n| --- |\n| [phase1](#/experiments/1/runs/2?workflowType=machine_learning) |\n", "summary.md"
        )
    page, read = page_of(store, run.id)
    assert ["phase1"] in read.rows and "workflowType" not in page
