"""Folds of phase 1: every arm is judged by cases that it had not seen, and what is registered was trained on all of them."""

import contextlib
import io
import json
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from medexp import registry
from medexp.data.manifest import patient_sha256
from medexp.data.splits import Splits, save_splits
from medexp.data.volumes.prepared import prepare_volumes
from medexp.data.volumes.semantics import SEMANTIC_FEATURES
from medexp.evaluation.regression import r2
from medexp.phases.phase1 import PHASE, recipe
from medexp.phases.phase1.arms import ARMS
from medexp.phases.phase1.features import read_off, semantics
from medexp.phases.phase1.pretrained import initial
from medexp.phases.phase1.segmentation import score_arm
from medexp.phases.shared.context import context
from medexp.reporting import NullReporter
from medexp.tracking.reporter import MlflowReporter
from medexp.tracking.runs import TrackedRun
from tests.configured import configured, run_phase
from tests.data.volumes.small_cases import SHAPE, write_case
from tests.runs import logged_table, store_in
from tests.small import ONE_EPOCH, PHASE1

SMALL = PHASE1 | ONE_EPOCH
SMALL |= {
    "data.spacing": "[2,2,3]",
    "data.input_size": "[64,32,32]",
    "data.test_fraction": "0.15",
    "validation.overlap": "0",
    "validation.bootstrap_samples": "100",
    "validation.min_dice_wt": "-1",
}


@dataclass(frozen=True)
class Folded:
    """A run with two folds that was killed in the second and gone on with.

    Attributes:
        settings: Its configuration.
        run: The run that went on.
        folds: The runs of its folds.
        told: What it printed.
        package: The registered encoder.
        tables: What it logged, by name.
    """

    settings: dict[str, str]
    run: Run
    folds: list[Run]
    told: str
    package: Path
    tables: dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases of seven patients, of whom one was scanned twice, and a base."""
    folder = tmp_path_factory.mktemp("folds")
    for number, name in enumerate([*(f"{number:05d}-000" for number in range(7)), "00006-001"]):
        label = np.zeros(SHAPE, np.uint8)
        label[2 : 7 + number % 6, 2 + number % 3 : 9, 2:8] = 2
        label[3:6, 5:8, 3 + number % 2 : 7] = 3
        label[5, 5:8, 4:6] = 1
        write_case(folder / "cases", f"BraTS-MEN-{name}", seed=number, seg=label)
    torch.manual_seed(0)
    torch.save(initial(configured("phase1", SMALL)).state_dict(), folder / "base.pt")
    return folder


@pytest.fixture(scope="module")
def home(folder: Path, empty_database: Path) -> Folded:
    settings = SMALL | {"data_dir": f"{folder / 'cases'}", "checkpoint": f"{folder / 'base.pt'}", "folds": "2"}
    flush, count = MlflowReporter.flush, iter(range(1, 100))

    def interrupting(self: MlflowReporter) -> None:
        flush(self)
        if next(count) == 5:  # an epoch of each of three arms and the end of the first fold, and one of the second
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        client = store_in(folder, empty_database, patch)
        with patch.context() as within:
            within.setattr(MlflowReporter, "flush", interrupting)
            assert run_phase("phase1", settings) == 143
        stopped, printed = whole(client), io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert run_phase("phase1", resume=stopped.info.run_id) == 0
        made = whole(client)
        inside = client.search_runs([made.info.experiment_id], f"tags.mlflow.parentRunId = '{made.info.run_id}'")
        package = registry.pull("models:/phase1_encoder_merged/1").folder.absolute()
        tables = {
            name: logged_table(made, f"{name}.csv")
            for name in ("per_case", "manifest", "folds", "probe_r2", "effects", "intervals")
        }
    return Folded(settings, made, inside, printed.getvalue(), package, tables)


def whole(client: MlflowClient) -> Run:
    """The last run that is no fold's."""
    experiment = client.get_experiment_by_name("phase1")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    return next(run for run in runs if "medexp.fold" not in run.data.tags)


def test_each_case_is_judged_once_by_every_arm_and_no_patient_by_two_folds(home: Folded) -> None:
    manifest, rows = home.tables["manifest"], home.tables["per_case"]
    judged = manifest[manifest["split"] != "test"]
    assert 0 < len(judged) < len(manifest) and set(rows["arm"]) == set(ARMS)
    for _, arm in rows.groupby("arm"):
        assert sorted(arm["case"]) == list(judged["case"])
    of_cases = rows[["case", "patient", "fold"]].drop_duplicates()
    assert len(of_cases) == len(judged) and len(of_cases[["patient", "fold"]].drop_duplicates()) == judged["patient"].nunique()
    assert list(home.tables["folds"]["cases"]) == list(of_cases["fold"].value_counts().sort_index())
    patients = home.tables["effects"].query("measure in ['dice', 'probe_r2']")["patients"]
    assert set(patients) == {judged["patient"].nunique()}, "one interval over all of them"
    own = rows[rows["arm"] == "lora"]
    said = home.tables["intervals"].set_index("metric")["estimate"]
    assert said["val/final/dice_WT"] == pytest.approx(own["dice_WT"].mean())
    assert sorted(run.info.run_name or "" for run in home.folds) == ["phase1 / fold 1 of 2", "phase1 / fold 2 of 2"]


def test_what_is_registered_was_trained_on_all_of_them_and_says_so(home: Folded) -> None:
    rows, card = home.tables["per_case"], (home.package / "README.md").read_text()
    seen, kept = pd.read_csv(home.package / "cases.csv"), pd.read_csv(home.package / "per_case.csv")
    assert set(seen["split"]) == {"train", "test"}
    assert set(rows["patient"].map(patient_sha256)) == set(seen.loc[seen["split"] == "train", "patient_sha256"])
    assert json.loads((home.package / "evaluation.json").read_text())["split"] == "2 folds"
    assert sorted(kept["case"]) == sorted(rows.loc[rows["arm"] == "lora", "case"]) and set(kept["fold"]) == {1, 2}
    for words in ("for 1 epochs, the median of 2 folds", "in 2 folds by patient", "out-of-fold Dice WT, LoRA + decoder"):
        assert words in card
    assert f"out-of-fold Dice (cases: {len(kept)}" in home.told and "which is no interval" in home.told
    masks = rows[rows["arm"] == "lora"]
    assert masks["native_dice_WT"].between(0, 1).all(), "each by its fold's network"
    by_fold = masks.groupby("fold")["native_dice_WT"].mean()
    assert home.tables["folds"]["native_dice_WT"].to_numpy() == pytest.approx(by_fold.to_numpy())


def test_a_run_that_was_killed_in_a_fold_goes_on_in_it(home: Folded) -> None:
    trained = re.findall(r"training (.*?)(?:, fold (\d) of 2)?: epoch 1/1", home.told)
    assert trained == [("the decoder alone", "2"), ("LoRA alone", "2"), ("LoRA and the decoder", "")]


def test_a_fold_says_what_one_split_says_that_is_the_same(home: Folded, tmp_path: Path) -> None:
    """Trained anew, arm by arm, from a file with the split of the fold in which the run was killed."""
    manifest, rows = home.tables["manifest"], home.tables["per_case"]
    judged = tuple(sorted({*rows.loc[rows["fold"] == 2, "case"]}))
    held, test = set(judged), tuple(manifest.loc[manifest["split"] == "test", "case"])
    save_splits(
        Splits(tuple(case for case in manifest["case"] if case not in held | {*test}), judged, test), tmp_path / "s.json"
    )
    given = {"folds": "0", "splits": tmp_path / "s.json", "cache_dir": tmp_path / "cache"}
    with context(PHASE, configured("phase1", home.settings, **given), TrackedRun("", tmp_path, NullReporter())) as ctx:
        work = recipe.read(ctx)
        frozen = score_arm(ctx, work.data, recipe.fresh(ctx, work), "baseline")
        told, _ = recipe.answer_of_arms(frozen, ctx, work, recipe.train_arms(ctx, work), "val")
    for arm, alone in told.groupby("arm"):
        folded = rows[(rows["arm"] == arm) & (rows["fold"] == 2)]
        scores = [name for name in alone if name.startswith(("dice_", "false_")) or name == "ce"]
        pd.testing.assert_frame_equal(folded[scores].reset_index(drop=True), alone[scores].reset_index(drop=True))


def test_probes_are_fitted_without_the_fold_that_they_are_judged_by_and_a_study_shares_its_split(
    home: Folded, tmp_path: Path
) -> None:
    """Of intensity statistics, which need no network; R2 is of all cases together."""
    config = configured("phase1", home.settings)
    with context(PHASE, config, TrackedRun("", tmp_path, NullReporter())) as ctx:
        data = recipe.read(ctx).data
        read = (
            pd.concat([read_off(ctx, data.fold(number), {}) for number in (1, 2)]).set_index("case").loc[list(data.ids("val"))]
        )
        expected = r2(semantics(data, "val"), read[list(SEMANTIC_FEATURES)].to_numpy())
    table = home.tables["probe_r2"].query("features == 'gap10'")
    assert np.allclose(table["intensity"], expected, equal_nan=True)
    shared = recipe.warm_up(config, tmp_path)
    assert prepare_volumes(shared).splits == prepare_volumes(config).splits
    with context(PHASE, shared, TrackedRun("", tmp_path, NullReporter())) as ctx:
        assert recipe.read(ctx).data.manifest["fold"].tolist() == data.manifest["fold"].tolist()
