"""predict on scenarios: both probabilities of each, by a registered adapter of a vision-language model."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from medexp import console, registry
from medexp.data.manifest import patient_sha256
from medexp.data.scenarios.facts import identity
from medexp.data.scenarios.inputs import find_inputs
from medexp.errors import TrainingDiverged
from medexp.models.vision_language.bases import find_base
from medexp.registry.package import Parent
from tests.configured import run_phase
from tests.gemma import tiny_gemma
from tests.medgemma import ADAPTER, adapted, publish_adapter, scenario, write_scenarios
from tests.runs import figures, last_run, store_in

MODEL = f"models:/{ADAPTER}@champion"


@pytest.fixture(scope="module")
def home(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose store has an adapter that learned from the scenario `learned`, on a base that is a folder there."""
    folder = tmp_path_factory.mktemp("asked")
    with pytest.MonkeyPatch.context() as patch:
        store = store_in(folder, empty_database, patch)
        base = find_base(str(tiny_gemma(folder / "base")))
        adapted(base, folder / "adapter")
        learned = write_scenarios(folder / "learned.jsonl", scenario(folder, "learned", 7, output="ERROR - no."))
        (case,) = find_inputs(learned).cases
        voxels, hashes = identity(case)
        row = {"split": "train", "patient_sha256": patient_sha256("somebody"), "voxels_sha256": voxels}
        cases = pd.DataFrame([row | {"perceptual_hash": " ".join(hashes)}])
        parent = Parent(base.source, None, None, base.digest)
        publish_adapter(store, folder / "package", base, folder / "adapter", parent, cases=cases)
        yield folder


def test_new_scenarios_are_answered_and_scored_where_the_answer_is_known(home: Path, tmp_path: Path) -> None:
    known = [scenario(tmp_path, f"known{n}", n, output=f"{'ERROR' if n % 2 else 'CORRECT'} - so.") for n in range(6)]
    new = [scenario(tmp_path, f"new{n}", 10 + n) for n in range(2)]
    file = write_scenarios(tmp_path / "both.jsonl", *known, *new)
    out = tmp_path / "out"
    assert run_phase("predict", model=MODEL, input=str(file), output=str(out), shown=1, evaluate=True) == 0
    rows, scores = (pd.read_csv(out / f"{name}.csv").set_index("case") for name in ("predictions", "scores"))
    assert set(rows.index) == {f"known{n}" for n in range(6)} | {"new0", "new1"}
    assert set(scores.index) == {f"known{n}" for n in range(6)} and scores["label"].tolist() == [1, 0] * 3
    say = registry.predictor(MODEL, "cpu")
    alone = say(write_scenarios(tmp_path / "alone.jsonl", new[1])).probabilities
    for answer, probability in alone.items():
        assert rows.loc["new1", f"probability_{answer}"] == pytest.approx(probability)
    assert rows.loc["new1", "predicted"] == max(alone, key=alone.get)
    record = json.loads((out / "new1.json").read_text())
    assert record["network_saw"]["pixel_values"] == [3, 16, 16] and record["probabilities"] == pytest.approx(alone)
    run = last_run(MlflowClient(), "predict")
    told = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/verification_report.md")
    assert "LEAK" in told
    right = (rows.loc[scores.index, "predicted"] == ["CORRECT", "ERROR"] * 3).mean()
    assert figures(run)["external/accuracy"] == pytest.approx(right)
    pictures = [item.path for item in MlflowClient().list_artifacts(run.info.run_id, "predictions")]
    assert len(pictures) == 1

    # The same command goes on; another text under the same id and image is another scenario.
    assert run_phase("predict", model=MODEL, input=str(file), output=str(out), evaluate=True) == 0
    write_scenarios(file, *known, new[0], new[1] | {"input": "Something else."})
    assert run_phase("predict", model=MODEL, input=str(file), output=str(out)) == 3
    assert pd.read_csv(out / "errors.csv")["case"].tolist() == ["new1"]


def test_an_answer_that_is_not_finite_names_its_scenario(home: Path, tmp_path: Path) -> None:
    file = write_scenarios(tmp_path / "a.jsonl", scenario(tmp_path, "number-8", 8))
    say = registry.predictor(MODEL, "cpu")
    assert set(say(file).probabilities or ()) == {"CORRECT", "ERROR"}
    with torch.no_grad():
        next(parameter for name, parameter in say.net.named_parameters() if "lora_B" in name).fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"the network's output: number-8: \d+"):
        say(file)


def test_a_scenario_whose_image_was_learned_from_is_no_external_validation(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = scenario(tmp_path, "copy", 7, output="CORRECT - so.")
    fresh = scenario(tmp_path, "fresh", 8, input="A fracture; rest is proposed.", output="ERROR - no.")
    file = write_scenarios(tmp_path / "a.jsonl", copy, fresh)
    assert console.main(["predict", MODEL, str(file), "--output", str(tmp_path / "out"), "--evaluate=true"]) == 3
    assert "1 of 2 patients are not new to the model" in capsys.readouterr().out


def test_scenarios_that_share_an_image_or_a_form_are_one_for_intervals(home: Path, tmp_path: Path) -> None:
    form = "A nodule of {} mm; a biopsy is proposed to a patient who has no complaints."
    lines = [scenario(tmp_path, f"s{n}", n, input=form.format(n)) for n in range(2)]
    others = [scenario(tmp_path, f"t{n}", 4 + n, input=f"Case {'x' * (n + 1)}") for n in range(6)]
    file = write_scenarios(tmp_path / "a.jsonl", *lines, *others, others[0] | {"id": "again", "input": "Else."})
    found = registry.predictor(MODEL, "cpu").find(file)
    owner = {case.id: case.patient for case in found.cases}
    assert owner["s0"] == owner["s1"] and owner["t0"] == owner["again"]
    assert len(set(owner.values())) == 7


def test_images_are_looked_up_where_the_key_says_and_the_base_is_given(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = scenario(tmp_path, "one")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    file = write_scenarios(tmp_path / "a.jsonl", line)
    assert run_phase("predict", model=MODEL, input=str(file)) == 2
    assert "a.jsonl:1" in capsys.readouterr().err
    (home / "base").rename(home / "moved")
    try:
        where = {"image_dir": str(tmp_path / "elsewhere"), "output": str(tmp_path / "out")}
        assert run_phase("predict", where, model=MODEL, input=str(file)) == 2
        assert "-P base=FOLDER" in capsys.readouterr().err
        assert run_phase("predict", where, model=MODEL, input=str(file), base=str(home / "moved")) == 0
    finally:
        (home / "moved").rename(home / "base")
