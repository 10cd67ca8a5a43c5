"""`promote` from the command line: promoted, refused, scored anew, and input that cannot be used."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from safetensors.torch import save_file

from medexp.data.manifest import data_digest
from medexp.data.splits import make_splits
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.prepared import manifest, semantic
from medexp.data.volumes.regions import REGIONS
from medexp.models.kinds import ONLY, build
from medexp.models.swin.network import decoder_state, encoder_state
from medexp.phases.shared.packaging import regions
from medexp.registry import journal
from medexp.registry.definitions import load_definition
from medexp.registry.journal import Move
from medexp.registry.promotion import Nominated
from tests.configured import run_phase
from tests.data.volumes.small_cases import write_case
from tests.packages import ENCODER, EVALUATION, SEGMENTER, scores
from tests.runs import figures, last_run
from tests.small import data_config

NAME = "phase1_encoder_merged"
Publish = Callable[..., Nominated]
DATA = {
    "data.val_fraction": "0.7",
    "data.test_fraction": "0",
    "data.spacing": "[2,2,3]",
    "data.input_size": "[64,32,32]",
    "data.jobs": "1",
    "data_dir": "data",
    "reevaluate": "true",
}


def promote(given: Mapping[str, object] | None = None, **keys: object) -> int:
    return run_phase("promote", {"cache_dir": "cache", "threads": 1, **(given or {})}, **keys)


def champion(store: MlflowClient) -> str:
    return str(store.get_registered_model(NAME).aliases["champion"])


def evaluated_on(digest: str) -> dict[str, Any]:
    return {"phase": "phase1", "revision": EVALUATION["revision"], "split": "val", "data_digest": digest, "made_on": "d0"}


def test_a_better_candidate_is_promoted_and_the_run_is_the_record(
    store: MlflowClient,
    publish: Publish,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(seed=0)
    publish(seed=1, per_case=scores(dice=0.9))
    assert promote() == 0
    printed = capsys.readouterr().out
    for words in ("PASSED PROMOTE_POLICY", f"{NAME} version 2 is the champion; before it: 1", "medexp rollback"):
        assert words in printed
    assert champion(store) == "2"
    run = last_run(store, "promote")
    assert (run.info.status, run.data.tags["medexp.verdict"]) == ("FINISHED", "PASSED")
    assert figures(run)["gain"] == pytest.approx(0.1)
    assert run.data.tags[f"medexp.upstream.{NAME}"].startswith("2 ")
    assert "**Promoted**" in run.data.tags["mlflow.note.content"]
    logged = {item.path for item in store.list_artifacts(run.info.run_id)}
    assert {"checks.json", "verification_report.md", "gains.csv", "figures", "journal.txt", "config.yaml"} <= logged
    assert "report.html" in logged
    entry = json.loads(store.get_registered_model(NAME).tags["medexp.journal.000004"].splitlines()[1])
    assert "gain +0.100 [+0.099, +0.101]" in entry["reason"], "a difference, with its sign"
    assert (entry["run"], entry["evidence"]["PROMOTE_CASES.cases"]) == (run.info.run_id, 12)
    assert promote() == 0
    assert "version 2 is the champion already" in capsys.readouterr().out


def test_a_promotion_that_was_killed_before_it_loaded_the_model_is_finished_when_it_is_run_again(
    store: MlflowClient,
    publish: Publish,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(seed=0)
    broken = publish(weights={key: value * float("nan") for key, value in build(ENCODER).state_dict().items()})
    journal.move(NAME, Move("champion", "2", broken.digest, "promote", "better"))
    assert promote(version=2) == 2
    assert "version 2 does not load" in capsys.readouterr().err
    assert champion(store) == "1"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"per_case": scores(dice=0.7)}, ["PROMOTE_POLICY", "gain -0.1, low -0.10", "patients 12", "-0.01"]),
        ({"evaluation": evaluated_on("d2")}, ["PROMOTE_DATA", "candidate d2, champion d1", "-P reevaluate=true"]),
        ({"per_case": scores(5)}, ["PROMOTE_CASES", "cases 5, patients 5, cases_of_one_alone 7", "at least 10 cases"]),
    ],
)
def test_what_the_policy_does_not_support_is_refused_with_the_numbers(
    store: MlflowClient,
    publish: Publish,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    told: list[str],
) -> None:
    publish(seed=0)
    publish(seed=1, **given)
    assert promote(version=2) == 3
    error = capsys.readouterr().err
    for words in ("is not promoted", "version 1 stays the champion", *told):
        assert words in error
    assert "Traceback" not in error
    assert champion(store) == "1"
    run = last_run(store, "promote")
    assert (run.info.status, run.data.tags["medexp.verdict"]) == ("FAILED", "FAILED")
    assert "**Refused**" in run.data.tags["mlflow.note.content"]
    assert "report.html" in {item.path for item in store.list_artifacts(run.info.run_id)}


# ------------------------------------------------------------------------------------------------ a champion on other cases


@pytest.fixture
def validation(tmp_path: Path) -> pd.DataFrame:
    """The validation cases of a folder `data`, as `prepare` splits it with seed 0: `case`, `patient`, `sha256`."""
    for number in range(1, 19):
        write_case(tmp_path / "data", f"BraTS-MEN-{number:05d}-000", seed=number)
    data = data_config(spacing=(2, 2, 3), input_size=(64, 32, 32), val_fraction=0.7, test_fraction=0)
    cases = find_cases(tmp_path / "data", data)
    facts = describe_cases(cases, data, tmp_path / "cache")
    table = manifest(cases, facts, make_splits(cases, facts, data, 0), semantic)
    return table.loc[table["split"] == "val", ["case", "patient", "sha256"]]


@pytest.fixture
def judged_elsewhere(publish: Publish, validation: pd.DataFrame, tmp_path: Path) -> None:
    """A champion that was judged on other cases, with its decoder, and a candidate that was judged on those of `data`."""
    net = build(SEGMENTER)
    decoder = tmp_path / "decoder.safetensors"
    save_file(decoder_state(net), decoder)
    evaluation = evaluated_on("d1") | {"window": [64, 32, 32], "overlap": 0.5}
    publish(weights=encoder_state(net), evaluation=evaluation, extra={"judge/decoder.safetensors": decoder})
    mine = validation[["case", "patient"]].assign(dice_TC=0.9, dice_WT=0.9, dice_ET=0.9)
    publish(seed=1, evaluation=evaluated_on(data_digest(validation)), per_case=mine)


@pytest.mark.usefixtures("judged_elsewhere")
def test_a_champion_judged_on_other_cases_is_scored_on_the_candidates(
    store: MlflowClient,
    validation: pd.DataFrame,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It has initial weights, so its Dice there is low whatever it was on its own cases."""
    assert promote(DATA) == 0, capsys.readouterr().err
    assert champion(store) == "2"
    run = last_run(store, "promote")
    anew = pd.read_csv(store.download_artifacts(run.info.run_id, "champion_on_the_candidates_cases.csv"))
    assert list(anew["case"]) == list(validation["case"])
    assert list(anew["patient"]) == list(validation["patient"])
    assert anew["dice_WT"].between(0, 1).all()
    gain = 0.9 - anew[["dice_TC", "dice_WT", "dice_ET"]].mean(axis=1).mean()
    assert figures(run)["gain"] == pytest.approx(gain)


@pytest.mark.parametrize("labels", ["brats2023", "brats2021"])
def test_a_segmenter_is_scored_anew_by_its_masks_in_the_values_that_it_learned(
    store: MlflowClient, publish: Publish, validation: pd.DataFrame, labels: str
) -> None:
    """On the network's grid the candidate has nothing right; its masks are better, and that counts. The champion may have
    learned from another edition, in which another value is enhancing tumour: its masks mean the same."""
    model = "phase1_segmenter"
    contract: dict[str, Any] = {"input": asdict(load_definition(model).input)}
    contract["input"] |= {"spacing_mm": [2.0, 2.0, 3.0], "example_shape": [1, 4, 64, 32, 32]}
    contract["outputs"] = {ONLY: regions(data_config(labels=labels))}
    given = {"name": model, "architecture": SEGMENTER, "contract": contract}
    masks = scores().rename(columns=lambda name: name.replace("dice_", "native_dice_"))
    publish(evaluation=evaluated_on("d1") | {"window": [64, 32, 32], "overlap": 0.5}, per_case=masks, **given)
    mine = validation[["case", "patient"]].assign(**{f"native_dice_{region}": 0.9 for region in REGIONS}, dice_WT=0.0)
    publish(seed=1, evaluation=evaluated_on(data_digest(validation)), per_case=mine, **given)
    assert promote(DATA, model=model) == 0
    assert str(store.get_registered_model(model).aliases["champion"]) == "2"
    run = last_run(store, "promote")
    anew = pd.read_csv(store.download_artifacts(run.info.run_id, "champion_on_the_candidates_cases.csv"))
    native = anew[[f"native_dice_{region}" for region in REGIONS]]
    assert native.notna().all(axis=None) and (native > 0).any().all(), "initial weights, so low, and of every region"
    assert figures(run)["gain"] == pytest.approx(0.9 - native.mean(axis=1).mean())


@pytest.mark.usefixtures("judged_elsewhere")
def test_cases_that_are_not_those_of_the_candidate_are_refused(
    store: MlflowClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert promote(DATA, seed=1) == 2
    assert "the version was judged on" in capsys.readouterr().err
    assert champion(store) == "1"


@pytest.mark.parametrize("folded", [1, 2])
def test_what_was_judged_by_folds_cannot_be_scored_anew(
    store: MlflowClient, publish: Publish, capsys: pytest.CaptureFixture[str], folded: int
) -> None:
    by_folds = evaluated_on("d2") | {"split": "3 folds"}
    publish(seed=0, evaluation=by_folds if folded == 1 else evaluated_on("d1"))
    publish(seed=1, evaluation=by_folds if folded == 2 else evaluated_on("d1"))
    assert promote(reevaluate="true") == 2
    error = capsys.readouterr().err
    assert f"{NAME} version {folded} was judged by 3 folds" in error and "`folds` instead" in error
    assert champion(store) == "1"


# ------------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            {"model": "nothing"},
            "model 'nothing': has no definition; known are bsf_base, meanflow_base, medgemma_base",
        ),
        ({"model": "bsf_base"}, "no model bsf_base in this registry; registered are: phase1_encoder_merged"),
        ({"version": "9"}, "has no version 9; it has: 1, 2"),
        ({"version": "0"}, "version: found 0; at least 1"),
        ({"version": "2"}, "version 2 of phase1_encoder_merged holds no package; it was made by another program"),
        ({"reevaluate": "perhaps"}, "reevaluate: found perhaps; expected true or false"),
        ({"profile": "full", "reevaluate": "true"}, "data_dir: profile=full needs real data"),
    ],
)
def test_bad_input_is_told_in_a_line(
    store: MlflowClient,
    publish: Publish,
    capsys: pytest.CaptureFixture[str],
    flags: dict[str, str],
    told: str,
) -> None:
    publish(seed=0)
    store.create_model_version(NAME, source="nowhere")
    assert promote(flags) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error
    assert champion(store) == "1"
    looked_first = "holds no package" not in told
    assert (store.get_experiment_by_name("promote") is None) == looked_first


def test_a_champion_that_was_moved_by_hand_is_not_overruled(
    store: MlflowClient,
    publish: Publish,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(seed=0)
    publish(seed=1, per_case=scores(dice=0.9))
    store.set_registered_model_alias(NAME, "champion", "2")
    assert promote() == 2
    assert "it was moved by hand" in capsys.readouterr().err
