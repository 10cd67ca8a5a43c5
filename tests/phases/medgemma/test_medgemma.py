"""The whole phase: what a run leaves, what its adapter says elsewhere, the benchmark, a dry run, a trial."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from safetensors.torch import load_file

from medexp import phases, registry
from medexp.data.scenarios.cases import MODALITIES
from medexp.phases import medgemma
from medexp.registry.definitions import load_definition
from medexp.tracking.runs import tracked_run
from tests.configured import configured, run_phase
from tests.data.scenarios.small_scenarios import write_images, write_lines
from tests.phases.medgemma.conftest import Study
from tests.phases.medgemma.small import SIZES, SMALL, scenarios
from tests.runs import artifact, figures, history, last_run, logged_table

MODEL = "medgemma_lora_adapter"
ARMS = {"adapter", "base", "blind", "other_image", "error_first", "paraphrase_1"}
BLOCKING = {"LEAK", "MEDGEMMA-PARAMETERS", "MEDGEMMA-IMAGES", "MEDGEMMA-FROZEN", "MEDGEMMA-MERGE", "MEDGEMMA-LOSS"}
STEPS, EPOCHS = SIZES["train"] // 8 * 2, 2


@pytest.fixture
def made(study: Study, client: MlflowClient) -> Run:
    return last_run(client, "medgemma")


# --------------------------------------------------------------------------------------------------------- what it leaves


def test_every_check_that_is_promised_was_made_with_its_severity(made: Run) -> None:
    checks = {check["id"]: check for check in json.loads(artifact(made, "checks.json").read_text())}
    assert set(checks) == set(phases.phase("medgemma").checks)
    assert {name for name, check in checks.items() if check["severity"] == "BLOCKING"} == BLOCKING
    assert all(checks[name]["passed"] for name in BLOCKING)
    said = [artifact(made, name).read_text() for name in ("summary.md", "power.txt")]
    assert all("famil" in text and "patients" not in text for text in said), "what is resampled are families of scenarios"
    assert BLOCKING <= set(load_definition(MODEL).required_checks) <= set(checks)
    counted = checks["MEDGEMMA-IMAGES"]["measured"]
    assert counted["prompts"] == len(ARMS) * SIZES["val"] and counted["images_blind"] == 0
    assert {counted[f"images_{arm}"] for arm in ARMS - {"blind"}} == {1}
    assert checks["MEDGEMMA-PARAMETERS"]["measured"]["trainable"] == checks["MEDGEMMA-PARAMETERS"]["measured"]["expected"] > 0


def test_answers_are_probabilities_of_both_answers_of_every_scenario_and_way_of_asking(made: Run) -> None:
    told = logged_table(made, "answers.csv")
    for split in ("val", "test"):
        rows = told[told["split"] == split]
        assert set(rows["arm"]) == ARMS and (rows.groupby("arm")["case"].nunique() == SIZES[split]).all()
        assert len(rows) == len(ARMS) * SIZES[split]
    shares = np.exp(told["log_correct"]) / (np.exp(told["log_error"]) + np.exp(told["log_correct"]))
    assert told["probability_correct"].to_numpy() == pytest.approx(shares, abs=1e-9) and (
        told["probability_error"] + told["probability_correct"]
    ).to_numpy() == pytest.approx(1)
    by_arm = told.pivot_table(index="case", columns="arm", values="probability_correct")
    for arm in ARMS - {"adapter"}:
        assert (by_arm[arm] - by_arm["adapter"]).abs().max() > 1e-6, f"{arm} is another question"
    replied = told["reply"].notna()
    assert set(told.loc[replied, "arm"]) == {"adapter", "base"} and set(told.loc[replied, "said"]) <= {-1, 0, 1}


def test_tables_and_pictures_of_who_is_right_agree_with_the_answers(made: Run) -> None:
    told, manifest = logged_table(made, "answers.csv").query("split == 'val'"), logged_table(made, "manifest.csv")
    models, wrong = logged_table(made, "models.csv"), logged_table(made, "wrong.csv")
    assert list(models["model"].unique()) == ["adapter", "base", "blind", "other_image", "words", "rule", "majority"]
    assert set(models["modality"]) == {"all", *MODALITIES}
    truth = manifest.set_index("case")["label"]
    for arm in ("adapter", "base", "blind", "other_image"):
        rows = told[told["arm"] == arm].set_index("case")
        right = (rows["probability_correct"] > rows["probability_error"]) == (truth[rows.index] == 1)
        row = models.query("model == @arm and modality == 'all' and metric == 'accuracy'").iloc[0]
        assert (row["right"], row["of"], row["estimate"]) == (right.sum(), SIZES["val"], pytest.approx(right.mean()))
        assert row["low"] < row["estimate"] < row["high"]
        assert set(wrong.loc[wrong["model"] == arm, "case"]) == set(right[~right].index)
        assert (wrong["truth"] != wrong["said"]).all() and wrong["probability"].between(0.5, 1).all()
    positive = models.query("model == 'adapter' and modality == 'all'").set_index("metric")["of"]
    assert positive["true_positive"] + positive["true_negative"] == SIZES["val"]
    wording = logged_table(made, "wording.csv").set_index("arm")
    assert list(wording.index) == ["adapter", "error_first", "paraphrase_1"] and wording.loc["adapter", "changed"] == 0
    assert list(logged_table(made, "replies.csv")["arm"]) == ["adapter", "base"]
    for name in ["heat_maps", "controls", "curves", *(f"wrong/{model}" for model in wrong["model"].unique())]:
        with Image.open(artifact(made, f"figures/{name}.png")) as picture:
            picture.verify()


def test_each_step_has_its_loss_and_figures_have_intervals(client: MlflowClient, made: Run) -> None:
    losses = history(client, made, "train/loss")
    assert [step for step, _ in losses] == list(range(STEPS)) and len(history(client, made, "val/loss")) == EPOCHS
    assert logged_table(made, "training_log.csv")["train/loss"].iloc[-1] == pytest.approx(
        np.mean([value for _, value in losses[STEPS // 2 :]])
    )
    bounds = logged_table(made, "intervals.csv")
    names = set(bounds["metric"])
    assert {"val/final/true_positive", "base/true_positive", "blind/accuracy", "controls/base/accuracy"} <= names
    assert {"val/final/accuracy", "val/final/true_negative"} <= names & set(figures(made))
    checks = {check["id"]: check["measured"] for check in json.loads(artifact(made, "checks.json").read_text())}
    for name, check in (("accuracy", "ACCURACY"), ("sensitivity", "POSITIVE"), ("specificity", "NEGATIVE")):
        told = bounds.set_index("metric").loc[f"val/final/{name}", ["low", "high"]]
        assert [*told] == pytest.approx([checks[f"MEDGEMMA-{check}"][key] for key in ("low", "high")]), "one interval of it"


def test_the_adapter_is_registered_on_its_base_as_peft_saves_it(study: Study, client: MlflowClient, made: Run) -> None:
    folder = registry.pull(f"models:/{MODEL}@champion").folder
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"].endswith("base") and config["r"] == 2
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert weights and all(".language_model." in name and ".self_attn." in name for name in weights)
    metadata = json.loads((folder / "training_metadata.json").read_text())
    assert (metadata["scenarios"], metadata["epochs"], metadata["lora"]["rank"]) == (SIZES["train"], EPOCHS, 2)
    assert metadata["loss"] == logged_table(made, "training_log.csv")["train/loss"].tolist()
    assert json.loads(artifact(made, "training_metadata.json").read_text()) == metadata
    assert (
        artifact(made, "adapter/adapter_model.safetensors").is_file() and artifact(made, "processor/tokenizer.json").is_file()
    )
    assert client.get_model_version_by_alias(MODEL, "champion").tags["medexp.run"] == made.info.run_id
    seen = pd.read_csv(folder / "cases.csv")
    assert seen["split"].value_counts().to_dict() == SIZES


def test_in_a_fresh_process_the_adapter_by_alias_gives_the_scores_that_it_had_when_it_was_trained(
    study: Study, client: MlflowClient, made: Run, tmp_path: Path
) -> None:
    lines = (tmp_path / "val.jsonl").read_text().splitlines()[:4]
    for number, line in enumerate(lines):
        (tmp_path / f"{number}.jsonl").write_text(line + "\n")
    (tmp_path / "elsewhere").mkdir()
    program = (
        "from medexp import registry\nimport json\n"
        f"say = registry.predictor('models:/{MODEL}@champion', 'cpu')\n"
        f"print(json.dumps([say(f'../{{n}}.jsonl').probabilities for n in range({len(lines)})]))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, cwd=tmp_path / "elsewhere", env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = logged_table(made, "answers.csv").query("arm == 'adapter'").set_index("case")
    for line, found in zip(lines, json.loads(done.stdout.splitlines()[-1]), strict=True):
        row = told.loc[json.loads(line)["id"]]
        assert found == pytest.approx({"ERROR": row["probability_error"], "CORRECT": row["probability_correct"]}, abs=1e-5)


# ------------------------------------------------------------------------------------------ interrupted, tried, benchmarked


def test_a_run_that_was_stopped_goes_on_and_a_trial_that_was_not_ends_the_same_and_registers_nothing(
    study: Study, client: MlflowClient, made: Run
) -> None:
    assert client.get_run(study.stopped).info.status == "KILLED"
    assert made.data.tags["medexp.resumed_from"] == study.stopped
    assert study.told.count("epoch 2/2") == 1 and "epoch 1/2" not in study.told
    config = configured("medgemma", SMALL)
    with tracked_run("medgemma", config) as tracked:
        medgemma.objective(config, tracked)
    trial = client.get_run(tracked.id)
    assert history(client, trial, "train/loss") == history(client, made, "train/loss")
    goals = yaml.safe_load(phases.phase("medgemma").profile("sweep").read_text())["goals"]
    assert {goal["metric"] for goal in goals} <= figures(trial).keys()
    assert not any(name.startswith("test/") for name in figures(trial))
    for name in ("accuracy", "auroc", "balanced_accuracy"):
        assert figures(trial)[f"val/final/{name}"] == figures(made)[f"val/final/{name}"], name
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == 1


def test_a_dry_run_says_what_a_training_takes_trains_nothing_and_registers_nothing(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_phase("medgemma", SMALL, dry_run="true", training__batch_size="3") == 0
    told, run = capsys.readouterr().out, last_run(client, "medgemma")
    for words in ("Gemma3ForConditionalGeneration", "16 train, 16 val, 8 test", "with batches of 3", "Nothing was trained"):
        assert words in told
    assert not any(name.startswith(("train/", "val/")) for name in figures(run))
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == 1


def test_the_benchmark_tells_what_the_adapter_was_trained_on_apart(
    client: MlflowClient, made: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = scenarios(4, 100)
    write_lines(tmp_path / "new.jsonl", new)
    write_images(tmp_path / "more", new, 100)
    (tmp_path / "val_and_new.jsonl").write_text((tmp_path / "val.jsonl").read_text() + (tmp_path / "new.jsonl").read_text())
    for image in (tmp_path / "images").iterdir():
        (tmp_path / "more" / image.name).symlink_to(image)
    given = {"scenarios": "train.jsonl,val_and_new.jsonl", "image_dir": "more", "mode": "benchmark"}
    assert run_phase("medgemma", SMALL | given) == 0
    told, run = capsys.readouterr().out, last_run(client, "medgemma")
    assert f"{SIZES['val'] + 4} scenarios that it was not trained on" in told
    assert f"{SIZES['train']} scenarios that it was trained on" in told
    assert "\nNext, " in told.partition("Next, browse it:")[2], "what to do with such an adapter"
    answers = logged_table(run, "answers.csv").set_index("case")
    before = logged_table(made, "answers.csv").query("arm == 'adapter' and split == 'val'").set_index("case")
    seen = logged_table(made, "manifest.csv").query("split == 'train'")["case"]
    assert set(answers.index[answers["seen"]]) == set(seen)
    assert answers.loc[before.index, "probability_adapter"].to_numpy() == pytest.approx(
        before["probability_correct"], abs=1e-5
    )
    models = logged_table(run, "models.csv").query("modality == 'all' and metric == 'accuracy'").set_index("model")
    assert list(models.index) == ["adapter", "base", "rule", "majority"] and set(models["of"]) == {SIZES["val"] + 4}
    assert artifact(run, "figures/heat_maps.png").is_file() and len(logged_table(run, "wrong.csv"))
    assert figures(run)["benchmark/adapter/accuracy"] == pytest.approx(models.loc["adapter", "estimate"])
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == 1
    assert run_phase("medgemma", SMALL, mode="benchmark", scenarios="train.jsonl") == 2
    assert f"{MODEL} version 1 was trained on all {SIZES['train']} of them" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- refused before training


@pytest.mark.parametrize(
    ("changed", "keys", "told"),
    [
        ({"input": "word " * 2000}, {"dry_run": "true"}, "tokens and"),
        ({"instruction": "<end_of_turn>"}, {"dry_run": "true"}, "holds <end_of_turn>"),
        ({}, {"scoring__paraphrases": '["Is it right?", "<end_of_turn>"]'}, "(asked: <end_of_turn>)"),
        ({"image_file": "the first one's"}, {}, "all that are judged are of one family"),
    ],
)
def test_what_could_not_be_asked_of_the_test_scenarios_is_told_before_anything_is_trained(
    client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: Any, keys: Any, told: str
) -> None:
    path = tmp_path / "test.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    if "image_file" in changed:
        write_lines(path, [line | {"image_file": lines[0]["image_file"]} for line in lines])
    else:
        write_lines(path, [lines[0] | changed, *lines[1:]])
    assert run_phase("medgemma", SMALL, **keys) == 2
    said = capsys.readouterr().err
    assert told in said and (told.startswith(("(", "all")) or lines[0]["id"] in said)
    assert not history(client, last_run(client, "medgemma"), "train/loss")
