"""The comparison of OCT encoders: its figures against a plain computation, from a folder and from a bucket, and whom it
refuses."""

import json
import re
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from medexp import phases, registry
from medexp.checks import Severity
from medexp.data.manifest import patient_sha256
from medexp.data.oct.facts import ODD
from medexp.data.oct.labels import STUDY_GROUPS
from medexp.models.kinds import build
from medexp.phases import oct
from medexp.phases.oct import checks
from medexp.report.facts import facts
from medexp.tracking.runs import tracked_run
from tests.configured import configured, run_phase
from tests.phases.oct.conftest import CHECKPOINTS, Study
from tests.phases.oct.small import SHAPE, SMALL, participants, write_encoder, write_study
from tests.runs import artifact, figures, last_run, logged_table
from tests.s3 import KEY, SECRET, Prefix

CHAMPION = "models:/oct_classifier@champion"


@pytest.fixture
def made(study: Study, client: MlflowClient) -> Run:
    return last_run(client, "oct")


@pytest.fixture
def outputs(study: Study, made: Run) -> Path:
    return study.folder / "outputs" / made.info.run_id / "encoders"


def plainly(file: Path) -> torch.Tensor:
    """A volume as an encoder is given it, made of its file here."""
    voxels = np.load(file).astype(np.float64)
    return torch.from_numpy((voxels - voxels.mean()) / voxels.std()).float()[None]


# --------------------------------------------------------------------------------------------------------- the leaderboard


def test_its_rows_are_the_encoders_and_what_needs_none_and_copies_tie(study: Study, made: Run) -> None:
    board = logged_table(made, "leaderboard.csv").set_index("name")
    assert dict(board["kind"]) == {
        **dict.fromkeys("abc", "checkpoint"),
        "random": "random",
        **dict.fromkeys(["intensity", "layers", "headers", "majority"], "control"),
    }
    assert board["balanced_accuracy"].is_monotonic_decreasing
    same = board.drop(columns="called").loc[["a", "b"]]
    pd.testing.assert_series_equal(same.loc["a"], same.loc["b"], check_names=False)
    assert board.loc["a", "digest"] != board.loc["c", "digest"]
    assert board.loc["majority", "balanced_accuracy"] == 0.25
    assert board.loc["a", "balanced_accuracy"] > 0.6, "the groups differ in what can be seen"
    assert "a and b are the same weights" in study.told
    found = facts(made.info.run_id)
    measured = [str(name).split("/") for name in found.intervals["metric"] if str(name).endswith("/balanced_accuracy")]
    arms = [name[-2] for name in measured if not name[-2].startswith("gain_over_")]
    assert sorted(arms) == ["b", "c", "headers", "intensity", "layers", "majority", "test", "untrained"], "each once"
    assert found.arm == "a", "whose figures bear no name"
    assert re.search(r"a and c cannot be told apart: .* \[-0", study.told) and "oo few participants" not in study.told


def test_its_report_folds_the_leaderboard_whose_table_it_has_shown(study: Study, made: Run) -> None:
    page = artifact(made, "report.html").read_text()
    shown, folded, rest = page.partition("<details><summary>leaderboard.md</summary>")
    assert folded and "<h1>" in rest.partition("</details>")[0]
    assert shown.count("<h1>") == 1 and "the majority class" in shown


def test_its_figures_are_those_of_scikit_learn(made: Run) -> None:
    board = logged_table(made, "leaderboard.csv").set_index("name")
    said = pd.read_parquet(artifact(made, "predictions.parquet")).query("split == 'test'")
    assert set(said["arm"]) == set(board.index)
    for arm, rows in said.groupby("arm"):
        found = []
        for _, one in rows.groupby("seed"):
            shares = one[[f"probability_{name}" for name in STUDY_GROUPS]].to_numpy()
            truth, predicted = one["label"].map(STUDY_GROUPS.index), shares.argmax(axis=1)
            assert list(one["predicted"]) == [STUDY_GROUPS[index] for index in predicted]
            found.append(
                [
                    balanced_accuracy_score(truth, predicted),
                    accuracy_score(truth, predicted),
                    f1_score(truth, predicted, average="macro", zero_division=0),
                    roc_auc_score(truth, shares, multi_class="ovr", labels=range(4)),
                    *f1_score(truth, predicted, average=None, zero_division=0),
                ]
            )
        names = ["balanced_accuracy", "accuracy", "macro_f1", "auroc", *(f"f1_{name}" for name in STUDY_GROUPS)]
        expected = dict(zip(names, np.mean(found, axis=0), strict=True))
        assert board.loc[str(arm), names].to_dict() == pytest.approx(expected, abs=1e-9), arm
    assert len(said.query("arm == 'a'")) == 2 * said["case"].nunique(), "two seeds"


# --------------------------------------------------------------------------------------------------------- what it leaves


def test_a_saved_network_says_of_volumes_what_its_table_says(study: Study, made: Run, outputs: Path) -> None:
    names = {"best.ckpt", "head.ckpt", "val_preds.parquet", "test_preds.parquet", "class_to_idx.json"}
    contract = json.loads((registry.pull(CHAMPION).folder / "contract.json").read_text())
    every = pd.read_parquet(artifact(made, "predictions.parquet")).query("seed == 42").set_index(["arm", "split", "case"])
    for name in "abc":
        assert {file.name for file in (outputs / name).iterdir()} == names
        assert json.loads((outputs / name / "class_to_idx.json").read_text()) == {
            group: index for index, group in enumerate(STUDY_GROUPS)
        }
        weights, net = load_file(outputs / name / "best.ckpt"), build(contract["architecture"]).eval()
        net.load_state_dict(weights)
        head = load_file(outputs / name / "head.ckpt")
        assert head and all(torch.equal(value, weights[key]) for key, value in head.items())
        for split in ("val", "test"):
            told = pd.read_parquet(outputs / name / f"{split}_preds.parquet")
            assert len(told) and told["pid"].is_unique
            for row in told.to_dict("records"):
                files = [file for file in (study.folder / "data").rglob(f"*/{row['pid']}_?.npy") if file.stat().st_size > 200]
                with torch.inference_mode():
                    logits = net(torch.stack([plainly(file) for file in files])).double().mean(dim=0)
                assert logits.log_softmax(0).tolist() == pytest.approx(list(row["logits"]), abs=1e-4)
                saved = every.loc[(name, split, row["pid"])]
                assert row["y_pred"] == int(logits.argmax()) == STUDY_GROUPS.index(saved["predicted"])
                assert row["y_true"] == STUDY_GROUPS.index(saved["label"])
    two = [len([*(study.folder / "data").rglob(f"*/{pid}_?.npy")]) for pid in every.loc["a", "test"].index]
    assert {1, 2} == set(two), "participants of one volume and of two"


def test_what_was_used_counted_and_left_out_stands_in_tables(study: Study, made: Run) -> None:
    people = participants()
    unread = logged_table(made, "data_errors.csv", dtype=str)
    cut, empty = unread.sort_values("exception").to_dict("records")
    assert "cut off or damaged" in cut["exception"] and "is empty (0 bytes)" in empty["exception"]
    assert cut["key"].endswith("_L.npy") and cut["participant_id"] in cut["key"]
    out = logged_table(made, "left_out.csv", dtype=str)
    assert out.to_dict("records") == [{"participant": empty["participant_id"], "reason": "none of the volumes can be used"}]
    keys = logged_table(made, "keys.csv", dtype=str)
    there = {file.relative_to(study.folder / "data").as_posix() for file in (study.folder / "data").rglob("*.npy")}
    assert set(keys["key"]) == there - set(unread["key"]) and not keys["etag"].isna().any()
    left = people[~people["person_id"].isin(out["participant"])]
    counts = logged_table(made, "class_counts.csv").set_index("class")
    for group in STUDY_GROUPS:
        of_group = left[left["study_group"] == group]["recommended_split"].value_counts()
        assert counts.loc[group].to_dict() == of_group.to_dict()
    assert artifact(made, "figures/volumes.png").is_file()
    assert "FAILED OCT-DATA" in study.told and "2 volumes cannot be used; data_errors.csv says why: " in study.told
    assert dict(figures(made)).items() >= {"params/embeddings_computed": 6 * len(keys)}.items()


def test_whoever_drops_out_and_whatever_looks_odd_fails_a_diagnostic() -> None:
    odd = dict.fromkeys(ODD, 0)
    assert checks.data(48, 0, 24, [], odd).passed
    for bad in (checks.data(48, 1, 24, [], odd), checks.data(48, 0, 24, ["1000"], odd)):
        assert not bad.passed
    turned = checks.data(48, 0, 24, [], odd | {"upside_down": 3})
    assert not turned.passed and turned.severity is Severity.DIAGNOSTIC and turned.measured["odd_upside_down"] == 3


def test_a_site_that_gives_the_group_away_is_told_of_first_and_so_is_what_choosing_an_epoch_made_of_its_score(
    study: Study, made: Run, client: MlflowClient, tmp_path: Path
) -> None:
    """The same volumes and groups, with a site for each group in place of sites that have all of them."""
    assert figures(made)["checks/SHORTCUT"] == 1 and "headers" not in made.data.tags["mlflow.note.content"].partition("\n")[0]
    people = participants()
    people.assign(clinical_site="site " + people["study_group"]).to_csv(tmp_path / "sites.tsv", sep="\t", index=False)
    keys = {"paths.data": str(study.folder / "data"), "paths.labels_tsv": "sites.tsv", "seeds": "1", "train.patience": "3"}
    assert run_phase("oct", SMALL | keys, paths__checkpoint_path=str(study.folder / "c.pt")) == 0
    again = last_run(client, "oct")
    told = again.data.tags["mlflow.note.content"]
    assert figures(again)["checks/SHORTCUT"] == 0 and figures(again)["controls/headers/auroc"] == 1
    assert re.match(r"\*\*The files' headers alone \(site\) are (better|as good): AUROC 1.00 against ", told)
    assert re.search(r"Its first seed.s epoch was chosen by a validation balanced accuracy of [01]\.\d{3}", told)
    assert "epoch was chosen" not in made.data.tags["mlflow.note.content"]


# ----------------------------------------------------------------------------------------------------------- from a bucket


def test_a_bucket_gives_the_same_table_byte_for_byte_and_no_file_holds_a_credential(
    study: Study, made: Run, client: MlflowClient, bucket: Prefix, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bucket.put_folder(study.folder / "data")
    for file in [*study.folder.glob("*.pt"), *study.folder.glob("*.card.yaml")]:
        bucket.put_all({f"encoders/{file.name}": file.read_bytes()})
    checkpoints = ",".join(f"{bucket.uri}/encoders/{name}" for name in CHECKPOINTS)
    given = {"paths.data": f"{bucket.uri}/retinal_oct", "paths.labels_tsv": f"{bucket.uri}/participants.tsv"}
    assert run_phase("oct", SMALL | given, paths__checkpoint_path=checkpoints, log__ckpt_dir="kept") == 0
    printed = "".join(capfd.readouterr())
    again = last_run(client, "oct")
    assert again.info.run_id != made.info.run_id
    for name in ("leaderboard.csv", "differences.csv", "predictions.parquet"):
        assert artifact(again, name).read_bytes() == artifact(made, name).read_bytes()
    assert figures(again)["params/embeddings_computed"] == 0
    unread, here = (logged_table(one, "data_errors.csv", dtype=str) for one in (again, made))
    assert [f"retinal_oct/{key}" for key in unread["key"]] == list(here["key"])
    assert {file.name for file in (tmp_path / "kept" / "a").iterdir()} >= {"best.ckpt", "config.yaml", "test_preds.parquet"}
    for file in [*tmp_path.rglob("*"), *study.folder.glob("cache/**/*")]:
        if file.is_file():
            content = file.read_bytes()
            assert not any(word.encode() in content for word in (KEY, SECRET)), file
    assert KEY not in printed and SECRET not in printed


def test_the_server_is_the_one_that_a_variable_names_for_encoders_and_labels_alone_too(
    study: Study, client: MlflowClient, bucket: Prefix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EYE_ENDPOINT", bucket.server.endpoint)
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket.put(**{"a.pt": (study.folder / "a.pt").read_bytes(), "a.card.yaml": (study.folder / "a.card.yaml").read_bytes()})
    keys = {"paths.checkpoint_path": f"eye={bucket.uri}/a.pt", "paths.data": str(study.folder / "nothing")}
    assert run_phase("oct", SMALL | keys, s3__endpoint_env="EYE_ENDPOINT") == 2
    assert "nothing: no such folder" in capsys.readouterr().err, "the encoder was read"
    assert run_phase("oct", SMALL | keys, s3__endpoint_env="NO_SUCH") == 2
    assert "s3.endpoint_env: found NO_SUCH, which is not in the environment" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- leak guard


def in_split(split: str) -> list[str]:
    people = participants()
    return list(people[people["recommended_split"] == split]["person_id"])


@pytest.mark.parametrize("how", ["card", "cases.csv"])
def test_an_encoder_that_has_seen_a_test_person_stops_it_before_anything_is_embedded(
    study: Study, client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    seen = in_split("test")[3]
    write_encoder(tmp_path / "seer.pt", seed=5, people=frozenset({seen, "somebody"}))
    if how == "cases.csv":
        card = (tmp_path / "seer.card.yaml").read_text()
        (tmp_path / "seer.card.yaml").write_text(
            re.sub(r"pretrained_on:.*?(?=^\w)", "pretrained_on: {file: cases.csv}\n", card, flags=re.S | re.M)
        )
        (tmp_path / "cases.csv").write_text(f"patient_sha256,split\n{patient_sha256(seen)},train\n")
    before = sorted((study.folder / "cache").rglob("embeddings/*"))
    keys = {"paths.data": str(study.folder / "data"), "paths.checkpoint_path": f"{study.folder / 'c.pt'},seer.pt"}
    assert run_phase("oct", SMALL | keys) == 3
    told = capsys.readouterr().err
    assert "LEAK" in told and f"{seen} by seer" in told and "leaked_patients = 1" in told
    assert not any(one in told for one in in_split("test") if one != seen)
    assert sorted((study.folder / "cache").rglob("embeddings/*")) == before
    assert last_run(client, "oct").info.status == "FAILED"


def test_people_of_another_split_may_be_known_a_registered_model_is_an_encoder_and_where_nothing_can_be_seen_it_is_said(
    study: Study, client: MlflowClient, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    people = participants()
    write_study(tmp_path / "data", people.assign(person_id="9" + people["person_id"]), strength=0, both_eyes=100)
    trained = "9" + in_split("train")[0]
    write_encoder(tmp_path / "dull.pt", scale=0, people=frozenset({trained}))
    checkpoints = f"dull.pt,{study.folder / 'c.pt'},old={CHAMPION}"
    assert run_phase("oct", SMALL, seeds="1", paths__data="data", paths__checkpoint_path=checkpoints) == 0
    told = capfd.readouterr().out
    made = last_run(client, "oct")
    checks = {check["id"]: check for check in json.loads(artifact(made, "checks.json").read_text())}
    assert checks["LEAK"]["passed"] and "oct_classifier version 1" in checks["LEAK"]["threshold"]
    assert not checks["OCT-COLLAPSE"]["passed"] and "dull has collapsed" in checks["OCT-COLLAPSE"]["advice"]
    assert checks["OCT-OVERFIT"]["passed"] and "dull" not in checks["OCT-OVERFIT"]["measured"], "the others are compared"
    first = told.partition("┏")[0]
    assert "dull has collapsed" in first, "before the table"
    assert "The data support no order" in told
    assert not checks["OCT-MAJORITY"]["passed"] and "FAILED OCT-MAJORITY" in told
    board = logged_table(made, "leaderboard.csv").set_index("name")
    assert board.loc["old", "called"] == "oct_classifier version 1"
    old = logged_table(last_run_but_one(client), "leaderboard.csv").set_index("name")
    assert board.loc["c", "digest"] == old.loc["c", "digest"] and board.loc["old", "digest"] == old.loc["a", "digest"]
    assert len([key for key in made.data.tags if key.startswith("medexp.upstream")]) == 1


def last_run_but_one(client: MlflowClient) -> Run:
    experiment = client.get_experiment_by_name("oct")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[1]


def test_whom_a_registered_model_and_its_encoder_learned_from_may_not_be_judged(
    study: Study, client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = pd.read_csv(registry.pull(CHAMPION).folder / "cases.csv", dtype=str)
    learned = set(seen[seen["split"].isin(["train", "val"])]["patient_sha256"])
    assert patient_sha256("elsewhere") in learned, "whom its encoder was pretrained on"
    people = participants()
    swapped = people.assign(recommended_split=people["recommended_split"].replace({"train": "test", "test": "train"}))
    swapped.to_csv(tmp_path / "swapped.tsv", sep="\t", index=False)
    keys = {"paths.data": str(study.folder / "data"), "paths.labels_tsv": "swapped.tsv", "paths.checkpoint_path": CHAMPION}
    assert run_phase("oct", SMALL | keys) == 3
    told = capsys.readouterr().err
    assert "LEAK" in told and "oct_classifier version 1" in told
    assert in_split("train")[0] in told and not any(one in told for one in in_split("test"))


# ----------------------------------------------------------------------------------------------- what the registered one says


def test_predict_gives_the_probabilities_of_a_plain_forward_and_tells_files_of_other_kinds(
    study: Study, client: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volumes = sorted(file for file in (study.folder / "data").rglob("*.npy") if file.stat().st_size > 200)[:3]
    (tmp_path / "in").mkdir()
    for file in volumes:
        shutil.copy(file, tmp_path / "in")
    given = {"model": CHAMPION, "input": "in", "output": "out", "data.jobs": "1", "threads": "1"}
    assert run_phase("predict", given) == 0
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("case")
    net = registry.load(CHAMPION)
    with torch.inference_mode():
        shares = net(torch.stack([plainly(file) for file in volumes])).softmax(1)
    for file, share in zip(volumes, shares, strict=True):
        told = [rows.loc[file.stem, f"probability_{name}"] for name in STUDY_GROUPS]
        assert told == pytest.approx(share.tolist(), abs=1e-5)
    capsys.readouterr()
    (tmp_path / "in" / "photo.png").write_bytes(b"no volume")
    assert run_phase("predict", given | {"input": "in/photo.png", "output": "other"}) == 2
    assert "takes OCT volumes, as DICOM, NIfTI or NPY; photo.png is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.random.default_rng(0).normal(size=(1, 1, 4, 16, 17)), "cases of 4 x 16 x 17; the contract makes 4 x 16 x 16"),
        (np.random.default_rng(0).normal(size=(1, 2, *SHAPE)), "2 channels"),
        (np.random.default_rng(0).uniform(0, 255, (1, 1, *SHAPE)), "are no z-scores"),
    ],
)
def test_arrays_that_its_steps_cannot_have_made_are_refused(client: MlflowClient, array: np.ndarray, words: str) -> None:
    net = mlflow.pyfunc.load_model(CHAMPION)
    with pytest.raises(MlflowException, match=words):
        net.predict(array.astype(np.float32))


# ------------------------------------------------------------------------------------------------------------------ studies


def test_a_trial_logs_what_a_study_searches_for_and_reads_no_test_split(
    study: Study, client: MlflowClient, tmp_path: Path
) -> None:
    keys = {"paths.data": str(study.folder / "data"), "paths.checkpoint_path": str(study.folder / "c.pt"), "seeds": "1"}
    config = configured("oct", SMALL | keys | {"train.weight_decay": "1e-3"})
    oct.warm_up(config, tmp_path)
    with tracked_run("oct", config) as tracked:
        oct.objective(config, tracked)
    metrics = figures(client.get_run(tracked.id))
    assert metrics["params/embeddings_computed"] == 0 and not any(name.startswith("test/") for name in metrics)
    goals = yaml.safe_load(phases.phase("oct").profile("sweep").read_text())["goals"]
    assert {goal["metric"] for goal in goals} <= metrics.keys()
    people = set(logged_table(client.get_run(tracked.id), "per_case_val.csv", dtype=str)["case"])
    assert people and people <= set(in_split("val"))
    assert len(client.search_model_versions("name = 'oct_classifier'")) == 1
