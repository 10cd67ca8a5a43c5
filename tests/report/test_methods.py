"""What a paper needs: all of it is in the store, and what is not in the store is not said."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from medexp.checks import Check, Severity
from medexp.console import main
from medexp.evaluation.intervals import Interval
from medexp.phases import phase
from medexp.phases.shared.publishing import present, publish
from medexp.registry.package import Package
from medexp.report.summary import Summary
from medexp.tracking.results import log_checks, log_figures, log_intervals, log_summary
from medexp.tracking.runs import tracked_run
from tests.runs import Config

ODD = "LoRA & decoder, 5 % of <n> | $x_1$ # {a} ~ ^ \\"


@pytest.fixture
def made(store: MlflowClient, package: Callable[..., Package]) -> str:
    """A run with a version, figures and a summary; its id."""
    checks = [Check("X", "a check", Severity.BLOCKING, True, "", {"x": 1})]
    summary = Summary("phase 1", "Dice", ["arm", "TC"], [[ODD, "0.801 [0.700, 0.900]"]], ["LoRA added nothing."])
    with tracked_run("phase1", Config(seed=7)) as run:
        run.reporter.table(
            pd.DataFrame({"case": ["a", "b", "c"], "patient": ["a", "b", "b"], "split": ["train", "val", "val"]}),
            "manifest.csv",
        )
        log_checks(run, checks)
        log_figures(run, {"params/trainable": 1224903, "val/ce": 0.0054})
        log_intervals(run, {"val/dice_TC": Interval(0.801, 0.7, 0.9, 12)}, 0.95)
        published = publish(package(facts={"Training": "three epochs | rate 0.01", "Funding": None}), "PASSED", run)
        present(summary, checks, [published], run, phase("phase1"))
    return run.id


def printed(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["methods", *argv]) == code
    told = capsys.readouterr()
    return told.err or told.out


def test_a_run_and_its_version_say_what_the_store_holds(made: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, made)
    name = re.search(r"## CLAIM: (\S+/1)", told)
    assert name
    for words in (
        "Training: three epochs | rate 0.01.",
        "Partitions: train: 1 cases of 1 patients; val: 2 cases of 1 patients.",
        "Intervals cover 95% each",
        "Seed 7.",
        f"(run {made})",
        "LoRA added nothing.",
        "| val/dice_TC | 0.801 | 0.700 to 0.900 | 12 |",
        "| params/trainable | 1224903 | none | - |",
        "| val/ce | 0.005 | none | - |",
        f"| 25 | Training | three epochs \\| rate 0.01 | card of {name[1]} |",
        "| 44 | Funding | unknown |  |",
        "| 6 | study goal | not applicable to a registered model |  |",
    ):
        assert words in told
    assert "unknown" not in told.split("## Results")[0]
    of_version = printed(capsys, name[1])
    assert of_version == told == printed(capsys, f"models:/{name[1]}")


def test_the_files_and_what_latex_makes_of_them(made: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    printed(capsys, made, "--output", str(tmp_path / "paper"))
    files = sorted(path.name for path in (tmp_path / "paper").iterdir())
    assert [re.sub("claim_.*", "claim", name) for name in files] == ["claim", "methods.md", "results.md", "results.tex"]
    table = (tmp_path / "paper" / "results.tex").read_text()
    assert (
        r"LoRA \& decoder, 5 \% of \textless{}n\textgreater{} \textbar{} \$x\_1\$ \# \{a\} \textasciitilde{} "
        r"\textasciicircum{} \textbackslash{}" in table
    )
    assert table.startswith("% \\usepackage{booktabs}\n")
    assert table.count(r"\begin{tabular}") == table.count(r"\end{tabular}") == 2
    if shutil.which("pdflatex"):
        whole = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{table}\end{{document}}"
        (tmp_path / "whole.tex").write_text(whole)
        subprocess.run(["pdflatex", "-halt-on-error", "whole.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_a_version_that_nobody_judged_borrows_no_figures(
    store: MlflowClient, package: Callable[..., Package], capsys: pytest.CaptureFixture[str]
) -> None:
    """A base that a run registered beside what it trained: its cases are its own, and the run's figures are not its."""
    cases = pd.DataFrame({"split": ["train"] * 3, "patient_sha256": [*"abb"], "voxels_sha256": [*"abc"]})
    with tracked_run("phase1", Config(seed=7)) as run:
        run.reporter.table(pd.DataFrame({"case": ["a"], "patient": ["a"], "split": ["val"]}), "manifest.csv")
        publish(
            package("bsf_base", cases=cases, per_case=pd.DataFrame(columns=["case", "patient"]), evaluation={}), "PASSED", run
        )
    told = printed(capsys, "bsf_base/1")
    assert "Partitions: train: 3 cases of 2 patients." in told
    assert "bsf_base/1 was registered without scores of its own" in told
    assert "latex" not in told  # nothing to show in a table


def test_a_run_of_runs_names_the_run_behind_each_figure(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    with tracked_run("main", Config(seed=7)) as run:
        log_summary(run, "[probe](#/experiments/1/runs/0a1b?workflowType=x): 0.9, [m version 1](#/models/m/versions/1)")
        run.tag({"medexp.upstream.phase1_encoder_merged": "3 0123456789ab"})
    told = printed(capsys, run.id)
    assert "probe (run 0a1b): 0.9, m version 1" in told
    assert "(#/" not in told
    assert "Registered models that it used: phase1_encoder_merged version 3." in told


def test_a_run_without_a_version_and_one_that_is_not_there(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    with tracked_run("prepare", Config(seed=7)) as run:
        pass
    told = printed(capsys, run.id)
    assert "is a run of prepare, profile demo" in told
    assert "CLAIM" not in told
    assert "Intervals" not in told
    assert "nobody" in printed(capsys, "nobody", code=2)
    assert "models:/nobody@champion" in printed(capsys, "nobody@champion", code=2)
