"""The whole phase: what a run leaves, what its adapter draws elsewhere, a trial."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from medexp import phases, registry
from medexp.config.keys import flat
from medexp.phases import phase7
from medexp.phases.phase7.report import again
from medexp.registry.synthesis import load_generator
from medexp.tracking.runs import tracked_run
from tests.configured import configured, run_phase
from tests.phases.phase7.conftest import Study
from tests.phases.phase7.small import LOW, SMALL
from tests.runs import artifact, figures, history, last_run, logged_table

MODEL, BASE = "phase7_fcd_adapter", "meanflow_base"
OF_OTHER_MODES = {"P7-DRAWN", "P7-BASE", "P7-HALF", "P7-LEARNED"}
BLOCKING = {"LEAK", "P7-T1", "P7-T2", "P7-T3", "P7-T4", "P7-T5", "P7-PULL", "P7-COPIES"}


@pytest.fixture
def made(study: Study, client: MlflowClient) -> Run:
    return last_run(client, "phase7")


def test_every_check_that_is_promised_was_made_with_its_severity(study: Study, made: Run) -> None:
    checks = {check["id"]: check for check in json.loads(artifact(made, "checks.json").read_text())}
    assert set(checks) == set(phases.phase("phase7").checks) - OF_OTHER_MODES, study.told
    assert {name for name, check in checks.items() if check["severity"] == "BLOCKING"} == BLOCKING
    assert {name for name in BLOCKING if not checks[name]["passed"]} <= {"P7-T5", "P7-COPIES"}, study.told
    trains = checks["P7-T3"]["measured"]
    assert trains["lora"] == trains["lora_expected"] and trains["base_changed"] == 0
    assert trains["trainable"] == trains["lora"] + trains["new_slices"] < 0.01 * trains["all"]
    powers = logged_table(made, "ablation.csv")
    assert list(zip(powers["powers"], powers["seed"], strict=True)) == [
        (name, seed) for seed in (0, 1) for name in ("1.5 and 2", "2 and 2")
    ]
    assert checks["P7-T7"]["measured"]["outcome"] == "no difference can be told" and "Too few seeds to tell" in study.told


def test_the_masks_round_trip_decides_the_strategy(made: Run) -> None:
    told = json.loads(artifact(made, "mask_vae_test.json").read_text())
    vae, other = told["strategies"]["vae"], told["strategies"]["downsample"]
    assert told["used"] == ("vae" if vae["dice"] > 0.85 else "downsample")
    assert len(vae["dice_by_case"]) == told["cases"] and vae["dice"] == pytest.approx(np.mean(vae["dice_by_case"]))
    assert 0 < other["dice"] < 1 and 0 < vae["threshold"] < 1


def test_samples_are_told_of_one_by_one_and_beside_real_pairs(made: Run) -> None:
    samples, judged = logged_table(made, "samples.csv"), logged_table(made, "judgement.csv")
    assert set(samples["drawn"]) == {"one step, seed 0", "2 steps, seed 0"} and len(samples) == 12
    assert set(judged["steps"]) == {1, 2} and {"filled", "contrast", "coupling", "dice", "memory"} <= set(judged["name"])
    metrics = json.loads(artifact(made, "metrics.json").read_text())
    assert (
        metrics["samples"]["one step, seed 0"]["filled"] == judged.query("steps == 1 and name == 'filled'")["generated"].item()
    )
    scored = logged_table(made, "per_case.csv")
    assert list(scored["case"]) == [f"seed0-sample{number:03d}" for number in range(6)]
    for name in ("pairs", "curves"):
        with Image.open(artifact(made, f"figures/{name}.png")) as picture:
            picture.verify()


def test_losses_have_a_course_and_samples_are_seen_after_each_validated_epoch(client: MlflowClient, made: Run) -> None:
    assert len(history(client, made, "val/loss")) == 2 and len(history(client, made, "train/loss")) == 2
    pictures = [file.path for file in client.list_artifacts(made.info.run_id, "images")]
    assert len([path for path in pictures if "samples" in path and path.endswith(".png")]) == 2, pictures


def test_the_adapter_is_registered_on_its_base_and_draws_the_same_in_another_process(
    client: MlflowClient, tmp_path: Path
) -> None:
    version = _latest(client, MODEL)
    parents = json.loads((registry.pull(f"models:/{MODEL}/{version}").folder / "parents.json").read_text())
    assert parents["base"]["name"] == BASE and parents["base"]["version"] == _latest(client, BASE)
    of_base = (registry.pull(f"models:/{BASE}/{_latest(client, BASE)}").folder / "README.md").read_text()
    assert "| 28 | Metrics | unknown |" in of_base, "which nobody judged"
    images, masks = load_generator(f"models:/{MODEL}/{version}").draw(2, 5)
    program = (
        "import numpy as np; from medexp.registry.synthesis import load_generator; "
        f"i, m = load_generator('models:/{MODEL}/{version}').draw(1, 5, first=1); np.savez('drawn.npz', i=i, m=m)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    again = np.load("drawn.npz")
    assert np.abs(again["i"][0] - images[1]).max() < 1e-5 and (again["m"][0] == masks[1]).mean() > 0.999


def test_the_last_line_is_typed_as_it_stands_and_is_the_same_work(study: Study) -> None:
    line = next(line for line in study.told.splitlines() if line.startswith("Next, is it of use: mlflow run . -e phase7 "))
    words = shlex.split(line.partition("-e phase7 ")[2].partition("   ")[0])
    given = dict(word.split("=", 1) for word in words[1::2])
    layers = phases.phase("phase7").layers
    assert given.pop("mode") == "utility" and flat(layers.configuration(given)) == flat(
        layers.configuration({**as_text(), **given})
    )
    theirs = again(layers.configuration({"data_dir": "a b,c", "data.lesion": "[1,2,4]", "augment": "3", "augment_dir": "d"}))
    assert theirs == "-P 'data_dir=a b,c' -P 'data.lesion=[1, 2, 4]'"


def as_text() -> dict[str, str]:
    return {key: str(value) for key, value in {**SMALL, **LOW}.items() if key != "data.jobs"}


def _latest(client: MlflowClient, name: str) -> str:
    return str(max(int(one.version) for one in client.search_model_versions(f"name = '{name}'")))


def test_another_adapter_is_drawn_from_and_its_files_say_what_they_are(client: MlflowClient, capsys) -> None:
    uri = f"models:/{MODEL}/{_latest(client, MODEL)}"
    small = {"sampling.samples": 4, "sampling.steps": "[1]", "sampling.shown": 2, "target.non_empty": 0}
    pairs = {"augment": 2, "augment_dir": "drawn", "data.lesion": "[1,2]"}
    assert run_phase("phase7", {**small, **pairs}, mode="sample", adapter=uri, seed=5) in (0, 2), capsys.readouterr().out
    told, run = capsys.readouterr(), last_run(client, "phase7")
    assert (
        "-e prepare -P pairs=FOLDER,drawn -P 'pair_data.lesion=[1, 2]'" in told.out or "are a head with a lesion" in told.err
    )
    assert json.loads(artifact(run, "checks.json").read_text())[-1]["id"] == "P7-DRAWN"
    assert f"medexp.upstream.{MODEL}" in run.data.tags


def test_a_trial_logs_what_a_study_searches_for_and_registers_nothing(client: MlflowClient, tmp_path: Path) -> None:
    config = configured("phase7", SMALL)
    phase7.warm_up(config, tmp_path)
    before = len(client.search_model_versions(f"name = '{MODEL}'"))
    with tracked_run("phase7", config) as tracked:
        phase7.objective(config, tracked)
    metrics = figures(client.get_run(tracked.id))
    goals = yaml.safe_load(phases.phase("phase7").profile("sweep").read_text())["goals"]
    assert goals and {goal["metric"] for goal in goals} <= metrics.keys()
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == before


def test_a_base_is_trained_judged_and_registered_with_its_vae(client: MlflowClient, capsys) -> None:
    small = {"training.epochs": 2, "training.validate_every": 1, "training.warmup_epochs": 1, "phantoms.patients": 12}
    drawn = {"sampling.samples": 4, "sampling.steps": "[1]", "sampling.shown": 2, "data.jobs": 1}
    before = int(_latest(client, BASE))
    assert run_phase("phase7", {**small, **drawn}, mode="base") in (0, 3), capsys.readouterr().err
    checks = {check["id"]: check for check in json.loads(artifact(last_run(client, "phase7"), "checks.json").read_text())}
    assert set(checks) == {"TWINS", "P7-T4", "P7-BASE"}
    assert int(_latest(client, BASE)) == before + 1
    heads, masks = load_generator(f"models:/{BASE}/{before + 1}").draw(1, 0)
    assert heads.shape == (1, 32, 40, 24) and not masks.any()


def test_what_synthetic_pairs_are_worth_is_told_with_every_arm(client: MlflowClient, capsys) -> None:
    small = {"utility.seeds": 2, "utility.steps": 2, "utility.channels": "[4,8]", "sampling.steps": "[1]", "ablation.seeds": 0}
    assert run_phase("phase7", {**SMALL, **LOW, **small}, mode="utility") in (0, 3), capsys.readouterr().err
    run = last_run(client, "phase7")
    checks = {check["id"]: check for check in json.loads(artifact(run, "checks.json").read_text())}
    assert checks["P7-HALF"]["passed"] and "P7-LEARNED" in checks
    scored = logged_table(run, "utility.csv")
    assert {"real", "synthetic", "both", "twice"} == set(scored["arm"]) and set(scored["seed"]) == {0, 1}
    assert scored.groupby(["arm", "seed"]).size().nunique() == 1, "each arm is judged on the same test cases"
