"""The probe as a user runs it, on small registered packages: figures, the cache, the leak guard, bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from sklearn.metrics import balanced_accuracy_score

from medexp.data.manifest import patient_sha256
from medexp.data.volumes.brats import image_files
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.tables import COLUMNS, write_table
from medexp.models.kinds import build
from medexp.models.swin.features import DEFAULT
from medexp.registry.definitions import load_definition
from medexp.registry.package import Package, Parent
from medexp.registry.registration import register
from medexp.registry.store import Registered
from tests.configured import run_phase
from tests.data.volumes.small_cases import AFFINE, SHAPE, save, write_case
from tests.packages import ENCODER, SEGMENTER
from tests.runs import artifact, figures, last_run, logged_table

QUICK = {"search__folds": "2", "search__c": "[0.01, 1.0]"}
ARMS = ("unadapted", "untrained", "classical", "shape", "headers", "majority")


def probe(table: Path | str, **flags: str) -> int:
    return run_phase(
        "probe", **{"table": table, "cache_dir": "cache", "jobs": 1, "threads": 1, "bootstrap_samples": 200, **flags}
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache for tests of the same volumes and networks, of which each is embedded once."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("shape_tells", [True, False])
def test_what_the_shape_of_a_head_gives_away_is_told(
    store: MlflowClient, registered: Callable[..., Registered], tmp_path: Path, shape_tells: bool
) -> None:
    """Tissue is alike in both classes; in one of them heads are flatter, or in half of either."""
    registered()
    rows = []
    for number in range(24):
        rng, flat = np.random.default_rng(number), 2 * (number % 2 if shape_tells else number // 2 % 2)
        brain = np.zeros(SHAPE)
        brain[1:-1, 1:-1, 1 + flat : -1 - flat // 2] = 1
        voxels = {name: (rng.integers(200, 900, SHAPE) * brain).astype(np.int16) for name in CHANNELS}
        write_case(tmp_path / "data", f"p{number}", seg=None, **voxels)
        rows.append([f"p{number}", f"data/p{number}", ("round", "flat")[number % 2], f"q{number}"])
    write_table(pd.DataFrame(rows, columns=list(COLUMNS)), tmp_path / "shapes.tsv")
    assert probe(tmp_path / "shapes.tsv") in (0, 3)
    made = last_run(store, "probe")
    found = figures(made)
    auroc = found["controls/shape/auroc"]
    assert auroc == 1 if shape_tells else auroc < 0.9
    assert found["controls/classical/auroc"] < 0.9, "tissue tells nothing"
    assert "the shape of the head in AUROC" in made.data.tags["mlflow.note.content"]


def test_a_label_that_the_files_headers_give_away_is_told_of_first_and_one_that_they_do_not_is_not(
    store: MlflowClient, registered: Callable[..., Registered], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same volumes under two labels: half are sampled wider, and half of either are darker on one side."""
    registered()
    rows = []
    for number in range(24):
        rng, dark, wide = np.random.default_rng(number), number % 2, number // 2 % 2
        brain = np.zeros(SHAPE)
        brain[1:-1, 1:-1, 1:-1] = 1
        brain[SHAPE[0] // 2 :] *= 1 - 0.7 * dark
        for name in CHANNELS:
            voxels = (rng.integers(200, 900, SHAPE) * brain).astype(np.int16)
            file = tmp_path / "data" / f"p{number}" / f"p{number}-{name}.nii"
            save(file, voxels, AFFINE @ np.diag([1 + 0.1 * wide, 1, 1, 1]))
        rows.append([f"p{number}", f"data/p{number}", f"q{number}", ("even", "dark")[dark], ("narrow", "wide")[wide]])
    table = pd.DataFrame(rows, columns=["id", "path", "patient", "seen", "header"])
    for label in ("seen", "header"):
        write_table(table.rename(columns={label: "label"}), tmp_path / f"{label}.tsv")
        capsys.readouterr()
        assert probe(tmp_path / f"{label}.tsv", test_fraction="0.5", **QUICK) in (0, 3)
        printed, made = capsys.readouterr().out, last_run(store, "probe")
        found, first = figures(made), made.data.tags["mlflow.note.content"].partition("\n")[0]
        if label == "header":
            assert found["controls/headers/auroc"] == 1 and found["checks/SHORTCUT"] == 0
            assert first.startswith("**The files' headers alone (spacing") and "FAILED SHORTCUT" in printed
        else:
            assert found["controls/headers/auroc"] < 0.8 < found["test/auroc"] and found["checks/SHORTCUT"] == 1
            assert "headers alone" not in first


def test_all_of_a_table_without_test_cases_is_judged_out_of_fold(
    store: MlflowClient,
    registered: Callable[..., Registered],
    table: Path,
    kept: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """But for whom the encoder learned from; the cases of every arm are the same. Test cases, where there are some, judge."""
    seen = pd.DataFrame({"split": ["train", "val"], "patient_sha256": [patient_sha256(name) for name in ("p3", "p0")]})
    registered(base=True, cases=seen.assign(voxels_sha256="0" * 64))
    given = pd.read_csv(table, sep="\t")
    assert probe(table, folds="3", **QUICK, cache_dir=kept) == 3
    assert "LEAK" in (told := capsys.readouterr().err) and "p3" in told and "p0" not in told, "p3 is tested, p0 is not"
    given.drop(columns="split").to_csv(table, sep="\t", index=False)
    assert probe(table, folds="3", **QUICK, cache_dir=kept) == 0
    made = last_run(store, "probe")
    told, measured, rows = capsys.readouterr().out, figures(made), logged_table(made, "per_case.csv")
    judged = given[~given["patient"].isin(["p0", "p3"])].sort_values("id")
    assert list(rows["arm"].unique()) == ["encoder", *ARMS]
    for _, of_arm in rows.groupby("arm"):
        assert list(of_arm["case"]) == list(judged["id"]) and list(of_arm["label"]) == list(judged["label"])
        assert of_arm.groupby("patient")["fold"].nunique().max() == 1 and set(of_arm["fold"]) == {1, 2, 3}
    of_encoder = rows[rows["arm"] == "encoder"]
    balanced = balanced_accuracy_score(of_encoder["label"], of_encoder["predicted"])
    assert measured["val/balanced_accuracy"] == pytest.approx(balanced) and "test/auroc" not in measured
    intervals = logged_table(made, "intervals.csv", index_col="metric")
    assert {"val/auroc", "controls/gain_over_unadapted/balanced_accuracy"} <= set(intervals.index)
    folds = logged_table(made, "folds.csv")
    assert list(folds["fold"]) == [1, 2, 3] and folds["cases"].sum() == len(judged)
    assert folds["patients"].sum() == judged["patient"].nunique()
    assert "judged out of fold, 3 folds" in told and "From fold to fold AUROC went from" in told
    assert f"3 folds of {len(judged)} cases of 14 patients; 3 cases that it builds on are trained on in each" in told


def test_a_table_that_names_no_patients_is_told_of(
    store: MlflowClient, registered: Callable[..., Registered], table: Path, kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registered()
    told = "the column patient says what id says, in every row"
    rows = pd.read_csv(table, sep="\t").drop(columns="split")
    rows.to_csv(table, sep="\t", index=False)
    assert probe(table, cache_dir=kept) in (0, 3) and told not in capsys.readouterr().out
    rows.assign(patient=rows["id"]).to_csv(table, sep="\t", index=False)
    assert probe(table, cache_dir=kept) in (0, 3) and told in capsys.readouterr().out
    assert told in last_run(store, "probe").data.tags["mlflow.note.content"]


def test_the_run_holds_all_that_it_promises(
    store: MlflowClient,
    registered: Callable[..., Registered],
    table: Path,
    kept: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = registered(base=True)
    assert probe(table, cache_dir=kept) == 0
    run = last_run(store, "probe")
    assert run.info.status == "FINISHED"
    tags, measured = run.data.tags, figures(run)
    assert tags["medexp.upstream.phase1_encoder_merged"] == f"1 {made.digest}"
    assert tags["medexp.upstream.bsf_base"].startswith("1 ")
    assert tags["medexp.verdict"] == "PASSED"
    assert not [name for name in measured if name.endswith(("_low", "_high"))]
    intervals = logged_table(run, "intervals.csv", index_col="metric")
    for prefix in ("test", *(f"controls/{arm}" for arm in ARMS)):
        for metric in ("accuracy", "balanced_accuracy", "macro_f1", "auroc"):
            values = list(intervals.loc[f"{prefix}/{metric}", ["low", "estimate", "high"]])
            assert values[1] == measured[f"{prefix}/{metric}"]
            assert values == sorted(values) or np.isnan(values).any()
    assert measured["controls/majority/balanced_accuracy"] == 0.5
    assert measured["params/val_patients"] == len({n for n in range(16) if n % 5 == 2})
    assert {item.dataset.name for item in run.inputs.dataset_inputs} == {"probe_train", "probe_val", "probe_test"}

    rows = pd.read_csv(artifact(run, "per_case.csv"))
    tested = pd.read_csv(table, sep="\t").query("split == 'test'").sort_values("id")
    assert list(rows["arm"].unique()) == ["encoder", *ARMS]
    encoder = rows[rows["arm"] == "encoder"]
    assert list(encoder["case"]) == list(tested["id"]) and list(encoder["label"]) == list(tested["label"])
    assert encoder[["probability_glioma", "probability_meningioma"]].sum(axis=1).to_numpy() == pytest.approx(1)
    for arm, prefix in (("encoder", "test"), ("unadapted", "controls/unadapted"), ("classical", "controls/classical")):
        of_arm = rows[rows["arm"] == arm]
        assert measured[f"{prefix}/balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(of_arm["label"], of_arm["predicted"])
        )
    gain = measured["test/balanced_accuracy"] - measured["controls/unadapted/balanced_accuracy"]
    assert measured["controls/gain_over_unadapted/balanced_accuracy"] == pytest.approx(gain)
    assert {check["id"] for check in json.loads(artifact(run, "checks.json").read_text())} == {
        "TWINS",
        "LEAK",
        "PROBE_MAJORITY",
        "PROBE_ATTRIBUTION",
        "SHORTCUT",
        "CONTROLS",
    }
    pictures = {item.path for item in store.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/roc.png", "figures/confusion_encoder.png", "figures/confusion_majority.png"} <= pictures
    printed = capsys.readouterr().out
    for words in ("unadapted", "untrained", "headers", "train and val", "PROBE_ATTRIBUTION", "Next", f"table={table}"):
        assert words in printed
    assert "unadapted encoder" in tags["mlflow.note.content"]
    kinds = logged_table(run, "features.csv").set_index(["features", "metric"])["estimate"]
    assert kinds[DEFAULT, "auroc"] == measured["test/auroc"], "the same head on the same features"
    assert f"The encoder's gap10 features: AUROC {kinds['gap10', 'auroc']:.3f}" in tags["mlflow.note.content"]
    assert f"{DEFAULT}, asked for" in printed and "tumour_weighted" not in printed, "its package holds no decoder"


@pytest.mark.parametrize("blind", [True, False])
def test_what_adaptation_added_is_found_and_nothing_where_nothing_was_added(
    store: MlflowClient, registered: Callable[..., Registered], make_table: Callable[..., Path], kept: str, blind: bool
) -> None:
    """Of a base that cannot see the image, and of one that has the very weights of the encoder; two of 16 test patients are
    mislabelled, without whom there would be no spread to judge by."""
    base = build(SEGMENTER).state_dict()
    encoder = {key: base[key].clone() for key in build(ENCODER).state_dict()}
    if blind:
        base = {key: torch.zeros_like(value) if value.ndim > 1 else value for key, value in base.items()}  # all 0 is refused
    registered(base=base, weights=encoder)
    assert probe(make_table(40, mislabelled=(3, 39)), cache_dir=kept) == 0
    measured = figures(last_run(store, "probe"))
    gain = measured["controls/gain_over_unadapted/balanced_accuracy"]
    assert gain > 0.3 if blind else gain == 0
    assert measured["checks/PROBE_ATTRIBUTION"] == blind


def test_other_features_are_asked_for_where_the_package_gives_them(
    store: MlflowClient,
    registered: Callable[..., Registered],
    table: Path,
    kept: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registered()
    assert probe(table, features="tumour_weighted") == 2
    assert "no decoder" in (told := capsys.readouterr().err) and "phase1_encoder_merged version 1" in told
    assert not (tmp_path / "cache" / "embeddings").exists()

    registered(decoder=tmp_path)
    assert probe(table, features="tumour_weighted", cache_dir=kept) in (0, 3)
    run = last_run(store, "probe")
    assert run.info.run_name == "probe tumour_weighted logistic s0"
    kinds = logged_table(run, "features.csv")
    assert list(kinds["features"].unique()) == ["tumour_weighted", "gap10", "multiscale"]
    own = kinds.query("features == 'tumour_weighted' and metric == 'auroc'")
    assert own["asked"].all() and own["estimate"].item() == figures(run)["test/auroc"]
    for kind in ("gap10", "multiscale"):
        assert f"The encoder's {kind} features: AUROC" in run.data.tags["mlflow.note.content"]


def test_labels_that_mean_nothing_are_not_read_from_the_features(
    store: MlflowClient, registered: Callable[..., Registered], table: Path, kept: str
) -> None:
    """The same volumes under labels that say nothing of them: no claim holds. Under their own, the classes are told apart."""
    registered()
    rows = pd.read_csv(table, sep="\t").drop_duplicates("patient")
    numbers = rows["patient"].str.removeprefix("p").astype(int)
    rows["split"] = ["test" if number % 3 else "train" for number in numbers]  # five of each class are judged
    rows.to_csv(table, sep="\t", index=False)
    assert probe(table, cache_dir=kept) == 0
    own = figures(last_run(store, "probe"))
    assert own["checks/PROBE_MAJORITY"] == 1 and own["test/auroc"] > 0.9
    rows.assign(label=[("glioma", "meningioma")[number // 2 % 2] for number in numbers]).to_csv(table, sep="\t", index=False)
    assert probe(table, cache_dir=kept) == 0
    mixed = figures(last_run(store, "probe"))
    assert mixed["checks/PROBE_MAJORITY"] == 0 and mixed["checks/CONTROLS"] == 0
    told = last_run(store, "probe").data.tags["mlflow.note.content"]
    assert "No better than an untrained network in AUROC" in told.partition("PASSED")[0], "before the verdict"


def test_a_second_probe_reads_the_embeddings_and_says_the_same(
    store: MlflowClient,
    registered: Callable[..., Registered],
    table: Path,
) -> None:
    registered(base=True)
    assert probe(table) == 0
    first = figures(last_run(store, "probe"))
    cases = len(pd.read_csv(table, sep="\t"))
    assert first["params/embeddings_computed"] == 6 * cases, "two kinds of the encoder, its base, and three untrained ones"
    assert probe(table) == 0
    again = figures(last_run(store, "probe"))
    assert again["params/embeddings_computed"] == 0
    for name, value in first.items():
        if not name.startswith(("system/", "params/embeddings")):
            assert again[name] == value or (np.isnan(again[name]) and np.isnan(value)), name
    assert probe(table, head="mlp", encoder="models:/phase1_encoder_merged/1") == 0
    assert figures(last_run(store, "probe"))["params/embeddings_computed"] == 0


def test_without_a_base_its_row_is_left_out_and_that_is_said(
    store: MlflowClient,
    registered: Callable[..., Registered],
    table: Path,
    kept: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registered()
    assert probe(table, cache_dir=kept) == 0
    run = last_run(store, "probe")
    assert "controls/unadapted/accuracy" not in figures(run)
    said = "No row for an unadapted encoder"
    assert said in capsys.readouterr().out and said in run.data.tags["mlflow.note.content"]
    (check,) = (one for one in json.loads(artifact(run, "checks.json").read_text()) if one["id"] == "PROBE_ATTRIBUTION")
    assert not check["passed"] and said in check["advice"]

    registered(parents={"base": Parent("finetuned.pt", None, None, "0" * 64)})
    assert probe(table, cache_dir=kept) == 0
    assert "finetuned.pt, which is not registered" in capsys.readouterr().out


def test_a_table_without_splits_is_split_by_patient(
    store: MlflowClient,
    registered: Callable[..., Registered],
    table: Path,
    kept: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registered()
    called = {"glioma": "glioma [/idh] $2_$", "meningioma": "[red]NA"}
    rows = pd.read_csv(table, sep="\t").drop(columns="split")
    rows["label"] = rows["label"].map(called)
    rows.to_csv(table, sep="\t", index=False)
    assert probe(table, test_fraction="0.25", cache_dir=kept) == 0
    assert f"{' or '.join(sorted(called.values()))}, " in capsys.readouterr().out
    manifest = pd.read_csv(artifact(last_run(store, "probe"), "manifest.csv"))
    assert manifest.groupby("patient")["split"].nunique().max() == 1
    tested = manifest[manifest["split"] == "test"]
    assert tested.groupby("label")["patient"].nunique().to_dict() == dict.fromkeys(called.values(), 2)


def test_a_test_patient_that_the_encoder_learned_from_stops_the_probe(
    store: MlflowClient,
    registered: Callable[..., Registered],
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data_config: Callable[..., Any],
) -> None:
    scan = Case("x", "x", image_files(tmp_path / "data" / "p4-0"), None)
    (fact,) = describe_cases([scan], data_config(), tmp_path / "elsewhere")
    seen = pd.DataFrame(
        {
            "split": ["train", "val", "train"],
            "patient_sha256": [patient_sha256(name) for name in ("p3", "p0", "another name")],  # p0 is not tested
            "voxels_sha256": ["0" * 64, "1" * 64, fact.voxels_sha256],
        }
    )
    registered(cases=seen)
    assert probe(table) == 3
    told = capsys.readouterr().err
    assert "LEAK" in told and "p3" in told and "p4" in told and "p0" not in told
    run = last_run(store, "probe")
    assert run.info.status == "FAILED"
    assert run.data.tags["medexp.verdict"] == "FAILED"
    assert "p3" in artifact(run, "verification_report.md").read_text()
    assert not (tmp_path / "cache" / "embeddings").exists(), "nothing was embedded"


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("models:/nothing@champion", ["no model nothing", "phase1_encoder_merged"]),
        ("models:/phase1_encoder_merged@best", ["no alias best", "champion"]),
        ("models:/phase1_encoder_merged/7", ["no version 7"]),
        ("encoder.pt", ["no reference to a registered model"]),
    ],
)
def test_an_encoder_that_is_not_there(
    registered: Callable[..., Registered], table: Path, capsys: pytest.CaptureFixture[str], encoder: str, words: list[str]
) -> None:
    registered()
    assert probe(table, encoder=encoder) == 2
    told = capsys.readouterr().err
    for word in (encoder.partition("@")[0].removeprefix("models:/"), *words):
        assert word in told


def test_a_table_with_bad_volumes_is_refused_whole(
    registered: Callable[..., Registered], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registered()
    (tmp_path / "data" / "p1-0" / "p1-0-t1c.nii.gz").write_bytes(b"no image")
    file = tmp_path / "data" / "p2-0" / "p2-0-t2w.nii.gz"
    file.write_bytes(file.read_bytes()[:-100])
    assert probe(table) == 2
    told = capsys.readouterr().err
    for word in ("2 of 24 cases", "p1-0-t1c.nii.gz", "p2-0-t2w.nii.gz", "leave the case out"):
        assert word in told
    for folder in (tmp_path / "data").iterdir():
        (folder / f"{folder.name}-t1c.nii.gz").rename(folder / f"{folder.name}-T1post.nii.gz")
    assert probe(table) == 2 and "p1-0: no t1c; looked for" in capsys.readouterr().err
    assert probe(table, data__suffixes="{t1c: [t1post]}") == 2 and "p1-0-T1post.nii.gz: unreadable" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "embeddings").exists()


def test_an_adapter_is_an_encoder_too(
    store: MlflowClient,
    registered: Callable[..., Registered],
    written: Callable[..., Path],
    table: Path,
    tmp_path: Path,
) -> None:
    from medexp.config.networks import LoraConfig
    from medexp.models.lora import add_lora

    registered(base=True)
    torch.manual_seed(11)
    adapter = add_lora(build(SEGMENTER), LoraConfig(2, 4.0, (3, 4), ("qkv",), 0.0, "lora"))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapter.save_pretrained(str(tmp_path / "adapter"))
    base = store.get_model_version("bsf_base", "1").tags
    parent = Parent("bsf_base", "1", base["medexp.digest"], base["medexp.weights_digest"])
    folder = written(
        name="phase1_lora_adapter",
        architecture={"kind": "lora_adapter", "base": SEGMENTER},
        weights={},
        parents={"base": parent},
        extra={"adapter": tmp_path / "adapter"},
    )
    run = store.create_run(store.create_experiment("adapter"))
    register(run.info.run_id, folder, load_definition("phase1_lora_adapter"), "PASSED")
    assert probe(table, encoder="models:/phase1_lora_adapter/1") == 0
    metrics = figures(last_run(store, "probe"))
    assert "controls/unadapted/accuracy" in metrics
    assert metrics["params/embeddings_computed"] == 7 * len(pd.read_csv(table, sep="\t")), "three kinds, base, three untrained"


@pytest.mark.parametrize(
    ("contract", "words"),
    [
        ({"channels": ["b-scan"]}, "input.channels are b-scan"),
        ({"normalisation": "0 to 1"}, "input.normalisation is '0 to 1'"),
        ({"orientation": "LPS"}, "input.orientation is 'LPS'"),
        ({"spacing_mm": None}, "input.spacing_mm is missing"),
    ],
)
def test_an_encoder_of_other_volumes_is_refused(
    package: Callable[..., Package],
    tmp_path: Path,
    contract: dict[str, Any],
    words: str,
) -> None:
    from medexp.errors import RegistryError
    from medexp.phases.shared.labelled_volumes import volumes_of
    from medexp.registry.store import Pulled

    made = dict(package().contract)
    made["input"] = {key: value for key, value in {**made["input"], **contract}.items() if value is not None}
    (tmp_path / "contract.json").write_text(json.dumps(made | {"architecture": {"kind": "swin_encoder"}}))
    with pytest.raises(RegistryError) as error:
        volumes_of(Pulled(tmp_path, "other", "1", "d"))
    assert words in str(error.value) and "other version 1" in str(error.value)
