"""Phase 2.2 as a user runs it: its run and its version, the cache of features, volumes, the leak guard, bad input."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from sklearn.metrics import balanced_accuracy_score

from medexp import registry
from medexp.files import read_csv
from medexp.models.checkpoints import load_state, load_training_state
from medexp.models.classifier.network import EncoderClassifier
from medexp.phases.phase2_2 import PHASE
from medexp.phases.phase2_2.frozen import load_encoder
from medexp.phases.shared.context import context
from medexp.registry.store import Registered
from tests.configured import configured
from tests.phases.shared.image_runs import (
    MODELS,
    NETWORK,
    PICTURES,
    SMALL,
    Pipeline,
    run,
    write_pictures,
)
from tests.phases.shared.interrupting import killed_in
from tests.runs import artifact, figures, last_run, logged_table, measured

NAME, VOLUMES = MODELS["phase2_2"], "phase2_2_volume_classifier"
ENCODER = MODELS["phase2_1"]


def test_the_run_holds_all_that_it_promises(client: MlflowClient, pipeline: Pipeline) -> None:
    made = last_run(client, "phase2_2")
    assert made.info.status == "FINISHED"
    tags, metrics = made.data.tags, figures(made)
    version = client.get_model_version(ENCODER, "1")
    assert tags[f"medexp.upstream.{ENCODER}"] == f"1 {version.tags['medexp.digest']}"
    assert tags["medexp.verdict"] == "PASSED"
    assert metrics["params/head_trainable"] == 17 * 256 + 257 * 2
    assert not [name for name in metrics if name.endswith(("_low", "_high"))]
    intervals = logged_table(made, "intervals.csv", index_col="metric")
    for source in ("", "brats/", "kaggle/"):
        for metric in ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "macro_f1", "ece"):
            low, value, high = intervals.loc[f"val/final/{source}{metric}", ["low", "estimate", "high"]]
            assert value == metrics[f"val/final/{source}{metric}"]
            assert 0 <= value <= 1 and (low <= value <= high or np.isnan([low, high]).any() or metric == "ece")
    rows = logged_table(made, "per_case.csv")
    manifest = logged_table(made, "manifest.csv").query("split == 'val'")
    assert list(rows["case"]) == list(manifest["case"]) and set(rows["source"]) == {"brats", "kaggle"}
    assert list(rows["label"] == "tumour") == list(manifest["label"] == 1)
    assert list(rows["correct"] == 1) == list(rows["label"] == rows["predicted"])
    assert list(rows["predicted"] == "tumour") == list(rows["probability"] > 0.5)
    for source, part in [("", rows), *((f"{name}/", part) for name, part in rows.groupby("source"))]:
        expected = balanced_accuracy_score(part["label"], part["predicted"])
        assert metrics[f"val/final/{source}balanced_accuracy"] == pytest.approx(expected)
        assert metrics[f"val/final/{source}accuracy"] == pytest.approx(part["correct"].mean())
    assert metrics["majority/accuracy"] == pytest.approx(rows["label"].value_counts(normalize=True).max())
    logged = {item.path for item in client.list_artifacts(made.info.run_id)}
    assert {"best_model.pt", "last_model.pt", "dropped.csv", "training_log.csv", "manifest.csv", "checks.json"} <= logged
    pictures = {item.path for item in client.list_artifacts(made.info.run_id, "figures")}
    names = ["curves", "roc", "calibration", "misclassified", *(f"confusion_{name}" for name in ("all", "brats", "kaggle"))]
    assert {f"figures/{name}.png" for name in names} <= pictures
    assert (rows["correct"] == 0).any(), "the pictures of nothing in yes/"


def test_duplicates_are_dropped_and_told(client: MlflowClient, pipeline: Pipeline) -> None:
    dropped = logged_table(last_run(client, "phase2_2"), "dropped.csv")
    assert len(dropped) == 2 and dropped["reason"].str.contains("duplicate").all()
    assert figures(last_run(client, "phase2_2"))["params/dropped_images"] == 2
    assert "Left out: 2 exact duplicate" in pipeline.told["phase2_2"]


def test_the_terminal_tells_the_result_and_what_to_do_next(pipeline: Pipeline) -> None:
    words = ["LEAK", "P2_2-FROZEN", "P2_2-CHECKPOINTS", "P2_2-ACCURACY", "P2_2-MAJORITY", "Always saying 'tumour'"]
    words += ["validation cases of all sources together: brats 18 (", "kaggle "]
    for word in [*words, f"{NAME} version 1 (candidate, champion)", "mlflow run . -e phase2_3", "brats", "kaggle"]:
        assert word in pipeline.told["phase2_2"]


def test_encoder_and_decoder_are_those_of_phase_2_1_bit_for_bit(client: MlflowClient, pipeline: Pipeline) -> None:
    before = registry.load(f"models:/{ENCODER}@champion").state_dict()
    made = last_run(client, "phase2_2")
    classifier = registry.load(f"models:/{NAME}@champion")
    assert isinstance(classifier, EncoderClassifier)
    for name in ("best", "last"):
        state = load_state(artifact(made, f"{name}_model.pt"))
        assert state.keys() == before.keys(), "the whole network, as phase 2.1 writes it"
        differ = {key for key, value in state.items() if not torch.equal(value, before[key])}
        assert differ == {key for key in before if key.startswith("cls_head.")}
    encoder = classifier.encoder.state_dict()
    assert all(torch.equal(value, before[f"encoder.{key}"]) for key, value in encoder.items())
    best = load_state(artifact(made, "best_model.pt"))
    trained = load_training_state(pipeline.folder / "outputs" / made.info.run_id / "state" / "last.pt")
    last = load_state(artifact(made, "last_model.pt"))
    assert trained["epoch"] - 1 > trained["best_epoch"], "or best and last are the same head"
    assert all(torch.equal(value, last[f"cls_head.{key}"]) for key, value in trained["weights"].items())
    assert all(torch.equal(value, last[f"cls_head.{key}"]) for key, value in classifier.head.state_dict().items())
    assert not torch.equal(last["cls_head.layers.0.weight"], best["cls_head.layers.0.weight"])


def test_the_majority_is_that_of_the_cases_judged_on_whatever_was_trained_on(client: MlflowClient, pipeline: Pipeline) -> None:
    """Drawn by other weights, the training cases' majority may be the rare class here: an easy thing to be better than."""
    assert run("phase2_2", pipeline.folder, data__weights="{brats: 1.0, kaggle: 99.0}", training__epochs="2", shown="0") in (
        0,
        3,
    )
    made = last_run(client, "phase2_2")
    labels = logged_table(made, "manifest.csv").query("split == 'val'")["label"]
    assert figures(made)["majority/accuracy"] == pytest.approx(max(labels.mean(), 1 - labels.mean()))


def test_nothing_of_the_network_that_the_encoder_is_of_gets_gradients(client: MlflowClient, pipeline: Pipeline) -> None:
    """The decoder neither: P2_2-FROZEN counts what does."""
    for given in (f"models:/{ENCODER}@champion", str(artifact(last_run(client, "phase2_1"), "final_model.pt"))):
        with context(PHASE, configured("phase2_2", SMALL | NETWORK, encoder=given)) as ctx:
            whole = load_encoder(ctx).whole
        assert not any(parameter.requires_grad for parameter in whole.parameters())


def weights_of(client: MlflowClient, number: str) -> str:
    return str(client.get_model_version(NAME, number).tags["medexp.weights_digest"])


def test_with_the_encoder_in_the_loop_everything_is_the_same_bit_for_bit(client: MlflowClient, pipeline: Pipeline) -> None:
    cached = last_run(client, "phase2_2")
    assert run("phase2_2", pipeline.folder, training__cache_features="false") == 0
    made = last_run(client, "phase2_2")
    assert measured(made) == measured(cached)
    assert weights_of(client, "1") == weights_of(client, "2")
    pd.testing.assert_frame_equal(logged_table(made, "training_log.csv"), logged_table(cached, "training_log.csv"))
    pd.testing.assert_frame_equal(logged_table(made, "per_case.csv"), logged_table(cached, "per_case.csv"))
    last = [load_state(artifact(one, "last_model.pt")) for one in (cached, made)]
    assert all(torch.equal(value, last[1][key]) for key, value in last[0].items())


def test_a_checkpoint_file_gives_the_same_head_from_the_same_features_and_says_that_nobody_knows_its_patients(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    file = artifact(last_run(client, "phase2_1"), "final_model.pt")
    capsys.readouterr()
    assert run("phase2_2", pipeline.folder, encoder=str(file)) == 0
    told = capsys.readouterr().out
    for split in ("train", "val"):
        assert re.search(rf"features of {split}: \d+ images, computed", pipeline.told["phase2_2"])
        assert re.search(rf"features of {split}: \d+ images, from the cache", told)
    assert weights_of(client, "1") == weights_of(client, "2")
    made = last_run(client, "phase2_2")
    (leak,) = (one for one in json.loads(artifact(made, "checks.json").read_text()) if one["id"] == "LEAK")
    assert leak["passed"] and leak["measured"]["unknown"] == "final_model.pt"
    assert f"medexp.upstream.{ENCODER}" not in made.data.tags
    parents = json.loads((registry.pull(f"models:/{NAME}/2").folder / "parents.json").read_text())
    assert (parents["encoder"]["name"], parents["encoder"]["version"]) == ("final_model.pt", None)


def test_an_encoder_whose_alias_moved_meanwhile_is_not_gone_on_with(
    client: MlflowClient, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted = killed_in("phase2_2", 1, pipeline, client, monkeypatch)
    assert run("phase2_1", pipeline.folder, training__lr_network="0.005", min_dice="-1", shown="0") == 0
    client.set_registered_model_alias(ENCODER, "champion", "2")
    capsys.readouterr()
    assert run("phase2_2", None, resume=interrupted) == 2
    told = capsys.readouterr().err
    assert f"resume={interrupted}: not what the run was begun with: encoder" in told and "without resume" in told


def test_a_folder_of_jpegs_works_with_nothing_else_set(
    client: MlflowClient, pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_pictures(tmp_path / "pictures", 3 * PICTURES, "jpg")
    for name, other in (("no", "[no] tumour"), ("yes", "[yes] $1_$")):
        (folder / name).rename(folder / other)
        for path in (folder / other).iterdir():
            path.rename(path.with_stem(f"IMG_$1_$[{path.stem}]"))
    classes = {"data.classes": '{no: ["[no] tumour"], yes: ["[yes] $1_$"]}'}
    assert run("phase2_2", None, kaggle_dir=str(folder), **classes) == 0, capsys.readouterr().err
    assert "Reading [yes] $1_$ " in capsys.readouterr().err
    made = last_run(client, "phase2_2")
    assert set(logged_table(made, "manifest.csv")["source"]) == {"kaggle"}
    assert "val/final/kaggle/accuracy" not in figures(made), "all cases are of that source"
    card = (registry.pull(f"models:/{NAME}/2").folder / "README.md").read_text()
    assert str(folder) in card and "Made on phantoms" not in card


# ------------------------------------------------------------------------------------------------------------------ volumes


JUDGED = {"p2", "p3", "p6", "p7", "p10", "p11", "p14", "p15"}


@pytest.fixture
def volumes(table: Path) -> Path:
    """Sixteen patients of two classes; the half is validated on."""
    rows = pd.read_csv(table, sep="\t").drop_duplicates("patient")
    rows["split"] = ["val" if patient in JUDGED else "train" for patient in rows["patient"]]
    rows.to_csv(table, sep="\t", index=False)
    return table


def test_an_encoder_of_volumes_gets_a_head_through_the_same_code(
    store: MlflowClient,
    registered: Callable[..., Registered],
    volumes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the features for which it takes the whole network, which a classifier of the others does not hold."""
    made = registered(base=True, decoder=tmp_path)
    encoder, flags = "models:/phase1_encoder_merged@champion", {"features": "tumour_weighted", "training__epochs": "20"}
    assert run("phase2_2", None, encoder=encoder, table=str(volumes), **flags) == 0, capsys.readouterr()
    done = last_run(store, "phase2_2")
    assert done.data.tags["medexp.upstream.phase1_encoder_merged"] == f"1 {made.digest}"
    rows = logged_table(done, "per_case.csv")
    assert set(rows["patient"]) == JUDGED and set(rows["label"]) == {"glioma", "meningioma"}
    uri = f"models:/{VOLUMES}@champion"
    example = json.loads((registry.pull(uri).folder / "contract.json").read_text())["input"]["example_shape"]
    card = (registry.pull(uri).folder / "README.md").read_text()
    for words in (f"Reference standard | the labels of {volumes}", "Assignment to partitions | given by the table's column"):
        assert words in card
    assert f"Inclusion and exclusion | all volumes of {volumes}" in card and "Made on phantoms" not in card
    images = np.random.default_rng(0).normal(size=example).astype("float32")
    net = registry.load(uri)
    with torch.inference_mode():
        assert np.array_equal(net(torch.from_numpy(images)).numpy(), mlflow.pyfunc.load_model(uri).predict(images))
    before, after = registry.load(encoder).state_dict(), net.encoder.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert net.encoder(torch.from_numpy(images)).shape == (1, 31 * 12)
    for kind in ("gap10", "multiscale"):
        assert f"The encoder's {kind} features: AUROC" in done.data.tags["mlflow.note.content"]
    assert set(logged_table(done, "features.csv")["features"]) == {"gap10", "multiscale", "tumour_weighted"}
    assert {item.path for item in store.list_artifacts(done.info.run_id)} >= {"best_model.pt", "last_model.pt"}


def test_a_head_tells_as_many_labels_apart_as_the_table_has(
    store: MlflowClient, registered: Callable[..., Registered], volumes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever they are called; the table has words of its own for splits and none to validate on."""
    registered()
    names = ("glioma [/who 2]", "grade $2_$ <b>", "NA")
    rows = pd.read_csv(volumes, sep="\t")
    nth = rows.groupby("split").cumcount()
    split = rows["split"].map({"train": "Training", "val": "testing"})
    rows.assign(label=[names[number % 3] for number in nth], split=split).to_csv(volumes, sep="\t", index=False)
    assert run("phase2_2", None, table=str(volumes), **VOLUMES_ENCODER, folds="0", training__epochs="2") in (0, 3)
    done, printed = last_run(store, "phase2_2"), capsys.readouterr().out
    assert f"validation: {' or '.join(sorted(names))}" in printed and "read as train" in printed
    assert "no case has the split val; 3 patients of train are drawn for it" in printed
    passed = {name for name, value in figures(done).items() if name.startswith("checks/") and value == 1}
    assert {"checks/LEAK", "checks/P2_2-FROZEN", "checks/P2_2-CHECKPOINTS"} <= passed
    told = read_csv(artifact(done, "per_case.csv"))
    chances = told[[f"probability_{name}" for name in names]]
    assert np.allclose(chances.sum(axis=1), 1) and set(told["label"]) == set(names)
    assert {"val/final/auroc", "val/final/specificity", "val/final/ece"} <= figures(done).keys()
    net, example = registry.load(f"models:/{VOLUMES}/1"), registry.pull(f"models:/{VOLUMES}/1").folder / "contract.json"
    assert net(torch.zeros(json.loads(example.read_text())["input"]["example_shape"])).shape == (1, 3)


VOLUMES_ENCODER = {"encoder": "models:/phase1_encoder_merged@champion"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"kaggle_dir": "pictures"}, ["kaggle_dir: found pictures", "takes volumes", "table=FILE.tsv"]),
        ({"slices_dir": "slices"}, ["slices_dir: found slices", "takes volumes"]),
        ({"training.cache_features": "false"}, ["training.cache_features=false", "leave it out"]),
        ({"data.suffixes": "{t3: [x]}"}, ["data.suffixes: found t3; known are t2f"]),
    ],
)
def test_what_an_encoder_of_volumes_does_not_take(
    registered: Callable[..., Registered],
    capsys: pytest.CaptureFixture[str],
    flags: dict[str, str],
    words: list[str],
) -> None:
    registered()
    assert run("phase2_2", None, **VOLUMES_ENCODER, **flags) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words) and "Traceback" not in told, told


def one_label(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(label="glioma")


def one_class_to_validate_on(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["label"] == "glioma") | (rows["split"] == "train")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_label, "label"),
        (one_class_to_validate_on, "split val: no case of meningioma"),
    ],
)
def test_a_table_that_cannot_be_used(
    registered: Callable[..., Registered],
    volumes: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[pd.DataFrame], pd.DataFrame],
    words: str,
) -> None:
    registered()
    change(pd.read_csv(volumes, sep="\t")).to_csv(volumes, sep="\t", index=False)
    assert run("phase2_2", None, table=str(volumes), **VOLUMES_ENCODER) == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told, told


# --------------------------------------------------------------------------------------------------------------- leak guard


def test_patients_that_the_encoder_was_only_selected_on_do_not_stop_it(client: MlflowClient) -> None:
    rows = {
        phase: logged_table(last_run(client, phase), "manifest.csv").query("split == 'val'")
        for phase in ("phase2_1", "phase2_2")
    }
    assert set(rows["phase2_1"]["patient"]) <= set(rows["phase2_2"]["patient"])
    assert figures(last_run(client, "phase2_2"))["checks/LEAK"] == 1


# ------------------------------------------------------------------------------------------------------------------ bad input


def test_before_phase_2_1_the_next_step_is_told(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("phase2_2", None, **NETWORK) == 2
    told = capsys.readouterr().err
    assert f"encoder=models:/{ENCODER}@champion: Encoder checkpoint not found" in told
    assert "Train one first: mlflow run . -e phase2_1" in told


def test_too_little_memory_is_told_in_a_line(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a GPU says, from within the training."""

    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(fails)
    try:
        assert run("phase2_2", pipeline.folder) == 3
    finally:
        hook.remove()
    told = capsys.readouterr().err
    assert "out of memory with batches of 4 inputs of 32 x 32: lower training.batch_size" in told
    assert "Traceback" not in told
