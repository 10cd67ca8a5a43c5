"""Ways to train on OCT encoders: with the encoder, on all tokens with several rates, in folds, and after an interruption."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from medexp import registry
from medexp.models.checkpoints import load_training_state
from medexp.models.encoders import load_oct_encoder
from medexp.tracking.reporter import MlflowReporter
from tests.configured import run_phase
from tests.phases.oct.small import SMALL, participants
from tests.runs import artifact, figures, history, last_run, logged_table, measured

KEYS = SMALL | {"paths.data": "data", "paths.checkpoint_path": "a.pt", "seeds": "1", "bootstrap_samples": "100"}
TUNED = KEYS | {
    "model.freeze_encoder": "false",
    "model.unfreeze_at_epoch": "1",
    "train.epochs": "2",
    "train.warmup_epochs": "0",
}
RATES = {"train.lr_head": "0.05", "train.lr_encoder": "0.001"}


def encoder_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}


def test_an_encoder_trains_from_its_epoch_with_its_own_rate_and_a_stopped_run_ends_the_same(
    little: Path, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, count = MlflowReporter.flush, iter(range(1, 100))

    def interrupting(self: MlflowReporter) -> None:
        flush(self)
        if next(count) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as within:
        within.setattr(MlflowReporter, "flush", interrupting)
        assert run_phase("oct", TUNED | RATES) == 143
    stopped = last_run(store, "oct")
    state = load_training_state(Path("outputs") / stopped.info.run_id / "state" / "a" / "42" / "last.pt")
    given = load_oct_encoder(little / "a.pt")[0].state_dict()
    waited = encoder_of(state["weights"])
    assert state["epoch"] == 1 and waited.keys() == given.keys()
    assert all(torch.equal(waited[name], value) for name, value in given.items()), "before its epoch"
    assert run_phase("oct", {"resume": stopped.info.run_id}) == 0
    resumed = last_run(store, "oct")
    assert run_phase("oct", TUNED | RATES | {"train.deterministic": "true"}) == 0
    whole = last_run(store, "oct")
    assert measured(resumed) == measured(whole)
    tables = [artifact(made, "leaderboard.csv").read_text() for made in (resumed, whole)]
    assert tables[0] == tables[1]
    trained = registry.load("models:/oct_classifier/2").encoder.state_dict()
    moved = [name for name, value in given.items() if not torch.equal(trained[name], value)]
    assert "patch_embed.proj.weight" in moved and "blocks.0.attn.qkv.weight" in moved, "after it"
    rates = [[value for _, value in history(store, whole, f"a/train/lr_{group}")] for group in ("head", "encoder")]
    assert rates[1][0] == 0 and len(rates[0]) == 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_heads_of_all_rates_see_one_pass_of_tokens_and_the_chosen_one_is_what_the_card_names(
    little: Path, store: MlflowClient
) -> None:
    grid = {"train.lr_head_grid": "[0.02, 0.0000001]", "train.weight_decay_grid": "[0.0, 0.01]", "train.epochs": "8"}
    grid |= {"train.patience": "7"}
    assert run_phase("oct", KEYS | grid | {"model.head.pooling": "attentive"}) == 0
    made = last_run(store, "oct")
    told = made.data.tags["mlflow.note.content"]
    assert re.search(r"Its first seed's epoch and rates were chosen by a validation balanced accuracy of [01]\.\d{3}", told)
    package = registry.pull("models:/oct_classifier@champion").folder
    assert re.search(r"rate 0\.02, decay 0(\.01)?, ", (package / "README.md").read_text())
    rates = [name for name in figures(made) if name.startswith("a/train/lr_head_")]
    assert sorted(rates) == [f"a/train/lr_head_lr{rate}_wd{decay}" for rate in ("0.02", "1e-07") for decay in ("0", "0.01")]
    said = pd.read_parquet(Path("outputs") / made.info.run_id / "encoders" / "a" / "test_preds.parquet").iloc[0]
    voxels = np.load(next((little / "data").rglob(f"{said['pid']}_R.npy"))).astype(np.float64)
    image = torch.from_numpy((voxels - voxels.mean()) / voxels.std()).float()[None, None]
    net = registry.load("models:/oct_classifier@champion")
    with torch.inference_mode():
        shares = net(image).log_softmax(1)[0].tolist()
    assert shares == pytest.approx(list(said["logits"]), abs=2e-2), "tokens are kept in float16"


def test_folds_judge_training_and_validation_people_once_and_do_not_read_the_test_split(
    little: Path, store: MlflowClient
) -> None:
    assert run_phase("oct", KEYS | {"folds": "3"}) == 0
    made = store.get_run(store.get_model_version_by_alias("oct_classifier", "champion").tags["medexp.run"])
    said = pd.read_parquet(artifact(made, "predictions.parquet"))
    people = participants(24).set_index("person_id")["recommended_split"]
    judged = set(people[people != "test"].index)
    assert set(said["split"]) == {"val"} and set(said["case"]) == judged
    of_arm = said.query("arm == 'a'")
    assert len(of_arm) == len(judged), "each by one training"
    folds = logged_table(made, "folds.csv")
    assert len(folds) == 3 and folds["patients"].sum() == len(judged)
    assert not any("test" in name.split("/") for name in figures(made) if not name.startswith(("params/", "system/")))
    assert not (Path("outputs") / made.info.run_id / "encoders" / "a" / "test_preds.parquet").exists()
