"""Recovery as a user meets it: by itself, after a kill, and where nothing helps.

The crippled configuration is the small phase of test_phase1.py with a single epoch where the demo has two, and without the
semantic heads. Its validation Dice of the whole tumour is 0.14 with that and 0.27 with two epochs, and the frozen base's is
0.16; the bar of TEST_2.5 is put between these, or where none comes: what is held here is that the ladder is climbed, not how
well a few phantoms train.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from medexp.errors import OutOfMemory
from medexp.phases import phase
from medexp.phases.shared.context import context
from tests import small
from tests.configured import configured, flags, run_phase
from tests.runs import figures, until

ROOT = Path(__file__).parents[2]
SMALL = small.PHASE1 | small.ONE_EPOCH | {"aux_heads.enabled": "false", "output_dir": "outputs"}
LONGER = {"name": "longer", "why": "half as many epochs again", "change": {"training.epochs": {"times": 1.5}}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, small_base: Path) -> Path:
    return shutil.copytree(small_base, tmp_path_factory.mktemp("home") / "cache")


@pytest.fixture(autouse=True)
def home(store: MlflowClient, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store of its own; phantoms and base are made once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path


def phase1(**changed: object) -> int:
    return run_phase("phase1", SMALL, **changed)


def recover(run: str, **keys: object) -> int:
    return run_phase("recover", run=run, output_dir="outputs", **keys)


def runs(client: MlflowClient, **tags: str) -> list[Run]:
    """Runs with these tags, the oldest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = " and ".join(f"tags.`medexp.{key}` = '{value}'" for key, value in tags.items())
    return list(client.search_runs(experiments, wanted, order_by=["attributes.start_time ASC"]))


def ladder(*rungs: dict, **remedies: dict) -> str:
    content = {"goal": "val/final/dice_WT", "mends": ["TEST_2.5"], "rungs": list(rungs), "remedies": remedies, "at_most": 2}
    Path("ladder.yaml").write_text(yaml.safe_dump(content))
    return "ladder.yaml"


def trials(name: str) -> list[optuna.trial.FrozenTrial]:
    file = f"outputs/studies/{name}.journal"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file))
    return optuna.load_study(study_name=name, storage=storage).trials


def test_one_that_cannot_pass_is_killed_goes_on_and_ends_in_diagnostics(
    store: MlflowClient, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert phase1(validation__min_dice_wt="0.999", validation__overlays=1) == 3
    (failed,) = runs(store, phase="phase1")
    stronger = {"name": "stronger", "why": "a rank more", "change": {"lora.rank": 5}}
    given = {"run": failed.info.run_id, "ladder": ladder(stronger), "study": "up"}
    command = [sys.executable, "-m", "entry_points.recover", *flags(given, output_dir="outputs")]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    theirs = home / "outputs" / failed.info.run_id / "state" / "lora" / "last.pt"
    trained = until(process, lambda: [one for one in home.glob("outputs/*/state/lora/last.pt") if one != theirs])
    process.kill()
    process.wait()
    killed = trained[0].parents[2].name
    assert store.get_run(killed).info.status == "RUNNING"

    assert recover(**given) == 3
    assert "none of 1 runs passed all BLOCKING checks" in capsys.readouterr().err
    interrupted, climbed = runs(store, rung="stronger")
    assert interrupted.info.run_id == killed == climbed.data.tags["medexp.resumed_from"]
    assert [run.info.status for run in (interrupted, climbed)] == ["KILLED", "FAILED"]
    assert [run.info.status for run in runs(store, phase="recover")] == ["KILLED", "FAILED"]
    assert climbed.data.params["lora.rank"] == "5"
    assert [trial.params["rung"] for trial in trials("up")] == ["stronger", "stronger"]
    assert [trial.state.name for trial in trials("up")] == ["FAIL", "COMPLETE"]

    parent = runs(store, phase="recover")[-1]
    assert parent.data.tags["medexp.verdict"] == "FAILED"
    there = {item.path for item in store.list_artifacts(parent.info.run_id)}
    assert {"diagnostics.md", "summary.md", "rungs.csv", "worst_cases.csv", "figures", "worst"} <= there
    folder = home / "fetched"
    folder.mkdir()
    table = pd.read_csv(store.download_artifacts(parent.info.run_id, "rungs.csv", str(folder)))
    assert list(table["rung"]) == ["failed run", "stronger"]
    tried = (failed, climbed)
    assert list(table["run"]) == [run.info.run_id for run in tried]
    dice = [figures(run)["val/final/dice_WT"] for run in tried]
    assert list(table["val/final/dice_WT"]) == pytest.approx(dice)
    assert table["changed"][1] == "lora.rank 4 -> 5"
    report = Path(store.download_artifacts(parent.info.run_id, "diagnostics.md", str(folder))).read_text()
    for words in ("gradient norm", "lora.rank 4 -> 5", "The cases that", "worst/BraTS-MEN-", "found dice_WT = "):
        assert words in report
    worst = pd.read_csv(store.download_artifacts(parent.info.run_id, "worst_cases.csv", str(folder)))
    assert list(worst["Dice WT"]) == sorted(worst["Dice WT"])
    assert {"mean Dice, failed run", "mean Dice, 1 stronger"} <= set(worst)
    assert store.get_registered_model("phase1_encoder_merged").aliases == {}

    assert recover(**given) == 3  # what is done is not done again
    assert len(runs(store, phase="phase1")) == 3
    assert recover(**given | {"ladder": phase("phase1").profile("recovery")}) == 2


def test_too_much_memory_is_met_with_half_a_batch_and_what_then_diverges_with_lower_rates(store: MlflowClient) -> None:
    config = configured("phase1", SMALL, training__lr_decoder="1.0e+36")
    with pytest.raises(OutOfMemory), context(phase("phase1"), config) as ctx:
        torch.empty(2**50)  # what no machine has
    lower = {"training.lr_decoder": {"times": 1e-38}, "training.precision": "fp32"}
    half = {"training.batch_size": {"times": 0.5}, "training.accumulate": {"times": 2}}
    assert recover(ctx.run.id, ladder=ladder(LONGER, out_of_memory=half, diverged=lower)) == 0
    diverged, passed = runs(store, rung="as it was")
    assert diverged.data.tags["medexp.error_type"] == "TrainingDiverged"
    assert "lower training.lr_lora and training.lr_decoder" in diverged.data.tags["medexp.error"]
    for run in (diverged, passed):
        assert (run.data.params["training.batch_size"], run.data.params["training.accumulate"]) == ("1", "2")
    assert float(passed.data.params["training.lr_decoder"]) == pytest.approx(1e-2)
    assert passed.data.params["training.epochs"] == "1"


def test_the_pipeline_recovers_by_itself_and_finds_what_passed(
    store: MlflowClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    probed = {"probe.phantoms.meningioma_patients": "4", "probe.phantoms.glioma_patients": "4"}
    given = SMALL | probed | {"validation.min_dice_wt": "0.2", "recover": "true"}
    assert run_phase("main", given) == 0
    told = capsys.readouterr()
    failed, passed = runs(store, phase="phase1")
    (parent,), (recovery,) = runs(store, phase="main"), runs(store, phase="recover")
    assert [run.info.status for run in (failed, passed, recovery, parent)] == ["FAILED", *["FINISHED"] * 3]
    assert "BLOCKING check failed: TEST_2.5" in told.err
    assert f"Recovered: run {passed.info.run_id} (longer) passes all BLOCKING checks" in told.out
    assert passed.data.tags["mlflow.parentRunId"] == recovery.info.run_id
    assert passed.data.tags["medexp.rung"] == "longer"
    assert passed.data.tags["medexp.recovers"] == failed.info.run_id
    assert passed.data.params["training.epochs"] == "2"
    assert failed.data.tags["medexp.recovered_by"] == passed.info.run_id
    assert recovery.data.tags["medexp.verdict"] == "PASSED"
    assert "training.epochs 1 -> 2" in recovery.data.tags["mlflow.note.content"]
    assert re.search(r"\| \[phase1\]\(\S+\) \| recovered \| PASSED", parent.data.tags["mlflow.note.content"])
    assert "Champion: phase1_encoder_merged version 2" in told.out
    aliases = store.get_registered_model("phase1_encoder_merged").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "2", "candidate": "2"}
    assert store.get_model_version("phase1_encoder_merged", "2").tags["medexp.run"] == passed.info.run_id

    assert run_phase("main", given) == 0
    assert runs(store, phase="main")[-1].data.tags["medexp.reused.phase1"] == passed.info.run_id
    assert len(runs(store, phase="phase1")) == 2
