"""`medexp compare` on runs, versions and tables of a real store."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from medexp.compare import compare
from medexp.console import main
from medexp.registry.promotion import Nominated
from medexp.report.comparison import as_comparison

JUDGED = {"phase": "phase1", "revision": 1, "split": "val", "data_digest": "d", "made_on": "m"}


def table(seed: int, cases: int = 10) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    names = [f"p{place}" for place in range(cases)]
    return pd.DataFrame({"case": names, "patient": names, "dice_WT": rng.uniform(0.4, 0.6, cases) + 0.2 * (seed > 0)})


@pytest.fixture
def run(store: MlflowClient) -> Callable[..., str]:
    """A run with a table of scores and a manifest; its id."""

    def make(scores: pd.DataFrame, name: str = "a", split: str = "val", voxels: str = "v") -> str:
        run_id = store.create_run("0", run_name=name).info.run_id
        manifest = pd.DataFrame({"case": scores["case"].unique(), "split": split})
        manifest["sha256"] = voxels + manifest["case"]
        for content, file in ((scores, "per_case.csv"), (manifest, "manifest.csv")):
            store.log_text(run_id, content.to_csv(index=False), file)
        store.set_terminated(run_id)
        return run_id

    return make


def told(capsys: pytest.CaptureFixture[str], *argv: str, code: int) -> str:
    capsys.readouterr()
    assert main(["compare", *argv]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def test_runs_are_compared_by_id_or_name(run: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = run(table(0))
    run(table(1), "phase1 r8 s0")
    out = told(capsys, first, "phase1 r8 s0", "--output", str(tmp_path / "out"), code=0)
    assert f"dice_WT: phase1 r8 s0 is better than {first}: +0." in out
    assert "dice_WT: least p" in out
    rows = pd.read_csv(tmp_path / "out" / "comparison.csv")
    gains = table(1)["dice_WT"] - table(0)["dice_WT"]
    assert rows.loc[0, "gain"] == pytest.approx(gains.mean()) and rows.loc[0, "low"] > 0
    assert len(pd.read_csv(tmp_path / "out" / "cases.csv")) == 10
    assert (tmp_path / "out" / "differences.png").read_bytes().startswith(b"\x89PNG")
    records = json.loads(told(capsys, first, "phase1 r8 s0", "--json", code=0))
    assert records["metrics"][0]["gain"]["estimate"] == pytest.approx(gains.mean())


def test_cases_without_a_difference_are_not_ranked(run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, *(run(table(0).assign(split="val")) for _ in range(2)), code=0)
    assert "the figures are the same" in out
    assert "least" not in out
    assert "split" not in out  # no metric that somebody forgot to name


def test_a_table_from_elsewhere_is_compared_with_a_run(run: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "theirs.tsv"
    table(1).drop(columns="patient").to_csv(file, sep="\t", index=False)
    found = compare(run(table(0)), str(file))
    assert found.rows[0].told.startswith("dice_WT: theirs.tsv is better than ")


def test_a_patient_is_called_what_the_phase_calls_it(run: Callable[..., str], store: MlflowClient, tmp_path: Path) -> None:
    ids = [run(table(seed, 4)) for seed in (0, 1)]
    for one in ids:
        store.set_tag(one, "medexp.phase", "medgemma")
    theirs = tmp_path / "theirs.csv"
    table(1, 4).to_csv(theirs, index=False)
    for other in (ids[1], str(theirs), run(table(1, 4))):
        found = compare(ids[0], other)
        assert "too few families" in found.rows[0].told
        assert "by family" in as_comparison(found, (ids[0], other), (None, None), "")
    store.set_tag(ids[1], "medexp.phase", "phase2_2")  # of two kinds: the word that holds for both
    assert "too few patients" in compare(*ids).rows[0].told


def test_an_arm_is_compared_in_what_was_measured_of_it(run: Callable[..., str]) -> None:
    """Masks on the cases' own grids are of some arms alone."""
    masks = table(1).assign(arm="lora", native_dice_WT=0.5, dice_ET=np.nan)
    name = run(pd.concat([masks, table(0).assign(arm="control", dice_ET=np.nan)]))
    found = compare(f"{name}:control", f"{name}:lora")
    assert [row.metric for row in found.rows] == ["dice_WT"]
    alone, nowhere = sorted(found.left_out, reverse=True)
    assert alone == f"native_dice_WT: {name}:lora alone has it" and nowhere == "dice_ET: no case has a value of both"


def test_two_tables_need_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    names = ["0012", "1e5", "NA", "nan-1", "True", "[/x]", "$1_$", "[red]", "a|b", "None"]
    for seed in (0, 1):
        table(seed).assign(case=names, patient=names).to_csv(f"{seed}.csv", index=False)
    printed = told(capsys, "0.csv", "1.csv", code=0)
    assert "dice_WT: 1.csv is better than 0.csv" in printed
    found = compare("0.csv", "1.csv")
    assert set(found.cases["case"]) == set(found.cases["patient"]) == set(names)
    least, _ = found.extremes("dice_WT", 1)
    assert f"dice_WT: least {least['case'].iloc[0]} " in printed
    assert {path.name for path in tmp_path.iterdir()} == {"0.csv", "1.csv"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('case,dice_WT\na,0.5\n"b,0.5\nc",0.5\n', "line 3: a value begins with a quotation mark"),
        ("case;dice_WT\na;0,5\n", "line 1: values are parted by semicolons; save it with commas"),
        ("case,dice_WT,dice_WT\na,0.5,0.6\n", "the column dice_WT stands 2 times"),
        ("case,dice_WT\na,0.5,1\n", "line 2: 3 values, the header has 2"),
        ("case,dice_WT\n", "holds no rows"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert words in told(capsys, str(tmp_path / "a.csv"), str(tmp_path / "a.csv"), code=2)


def test_versions_are_compared(publish: Callable[..., Nominated]) -> None:
    made = [publish(per_case=table(seed), seed=seed, evaluation=JUDGED) for seed in (0, 1)]
    found = compare(f"models:/{made[0].name}/1", f"{made[1].name}/2")
    assert found.rows[0].told.startswith(
        "dice_WT: phase1_encoder_merged version 2 is better than phase1_encoder_merged version 1"
    )


def test_a_version_is_not_compared_with_itself(publish: Callable[..., Nominated], capsys: pytest.CaptureFixture[str]) -> None:
    one, other = f"{publish(per_case=table(0), evaluation=JUDGED).name}@champion", "phase1_encoder_merged/1"
    assert f"{one} and {other}: both are phase1_encoder_merged version 1" in told(capsys, one, other, code=2)


def test_an_arm_is_named(run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    both = run(pd.concat([table(0).assign(arm="frozen"), table(1).assign(arm="lora")]))
    assert f"dice_WT: {both}:lora is better than {both}:frozen" in told(capsys, f"{both}:frozen", f"{both}:lora", code=0)
    assert "has the arms frozen, lora, found none named" in told(capsys, both, f"{both}:lora", code=2)


def test_other_data_are_refused_in_a_line(run: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = run(table(0))
    other = run(table(1), voxels="w")
    assert "10 of 10 cases of the same name have other voxels" in told(capsys, first, other, code=2)
    tested = run(table(1).assign(case=[f"q{place}" for place in range(10)]), split="test")
    assert f"{first} was judged on val, {tested} was judged on test; 0 cases in both" in told(capsys, first, tested, code=2)
    fewer = run(table(1, 8))
    assert f"not the same cases: 2 in {first} alone (p8, p9), 8 in both" in told(capsys, first, fewer, code=2)
    assert "no run is 'nobody'" in told(capsys, first, "nobody", code=2)
    assert "cannot be read" in told(capsys, first, str(tmp_path / "none.csv"), code=2)
    run(table(0), "twice"), run(table(0), "twice")
    assert "2 runs are called so" in told(capsys, first, "twice", code=2)
