"""Bad input to oct: one line a problem with what to do, before anything is embedded, and exit code 2."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from tests.configured import run_phase
from tests.phases.oct.small import SMALL, participants, write_encoder

KEYS = {"paths.data": "data", "paths.checkpoint_path": "a.pt"}
Spoil = Callable[[Path], object]


def labels(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Spoil:
    """The labels, changed."""
    return lambda folder: change(participants(24)).to_csv(folder / "data" / "participants.tsv", sep="\t", index=False)


def put(row: int, column: str, value: str) -> Spoil:
    return labels(lambda people: people.assign(**{column: people[column].where(people.index != row, value)}))


def without_test(people: pd.DataFrame) -> pd.DataFrame:
    return people.assign(recommended_split=people["recommended_split"].replace("test", "train"))


def files(folder: Path) -> list[Path]:
    return sorted((folder / "data").rglob("*.npy"))


def empty(count: int) -> Spoil:
    return lambda folder: [file.write_bytes(b"") for file in files(folder)[:count]]


def target_encoder(folder: Path) -> None:
    content = torch.load(folder / "a.pt", weights_only=True)
    weights = {f"target_{key.removeprefix('context_')}": value for key, value in content["model_state_dict"].items()}
    torch.save({"model_state_dict": weights}, folder / "a.pt")


def overflowing(folder: Path) -> None:
    content = torch.load(write_encoder(folder / "big.pt"), weights_only=True)
    content["model_state_dict"]["context_encoder.patch_embed.proj.weight"].fill_(3e38)
    torch.save(content, folder / "big.pt")


def nothing(folder: Path) -> None:
    pass


BAD: dict[str, tuple[Spoil, dict[str, str], list[str]]] = {
    "too many files that cannot be read": (
        empty(3),
        {},
        ["3 of 25 volumes cannot be used, more than data.max_failures=0.1", "is empty (0 bytes)"],
    ),
    "a participant without a key": (
        lambda folder: files(folder)[-1].unlink(),
        {"data.max_failures": "0"},
        ["1 of 24 participants have no volume, more than data.max_failures=0"],
    ),
    "a class that nobody has in a split": (
        labels(lambda people: people[~((people["study_group"] == "healthy") & (people["recommended_split"] == "val"))]),
        {},
        ["participants.tsv: val has nobody of healthy"],
    ),
    "an unknown study group": (put(3, "study_group", "gestational"), {}, ["line 5: study_group 'gestational' is unknown"]),
    "an unknown split": (put(3, "recommended_split", "held out"), {}, ["line 5: recommended_split 'held out' is unknown"]),
    "nobody in the split that is judged": (
        labels(without_test),
        {},
        ["judged=test: ", "has nobody in that split; give judged=val"],
    ),
    "no table of labels": (
        lambda folder: (folder / "data" / "participants.tsv").unlink(),
        {},
        ["data: holds no participants.tsv; give labels=FILE"],
    ),
    "a table of labels that is not there": (
        nothing,
        {"paths.labels_tsv": "other.tsv"},
        ["other.tsv: cannot be read (No such file or directory)"],
    ),
    "no folder": (nothing, {"paths.data": "other"}, ["other: no such folder; give a folder or s3://bucket/prefix"]),
    "checkpoints that are not there, and one that does not fit": (
        nothing,
        {"paths.checkpoint_path": "b.pt,a.pt,c.pt", "model.emb_dim": "768"},
        [
            "checkpoints: 3 problems",
            "b.pt",
            "c.pt",
            "a: features of width 16, model.emb_dim is 768; set it to 16, or to null",
        ],
    ),
    "another size than the card's": (
        nothing,
        {"data.augment.resize": "[64, 384, 384]"},
        ["a: takes volumes of [4, 16, 16], data.augment.resize is [64, 384, 384]; set it to that, or to null"],
    ),
    "two encoders of one name": (
        lambda folder: write_encoder(folder / "other" / "a.pt"),
        {"paths.checkpoint_path": "a.pt,other/a.pt"},
        ["a names 2 encoders. Name them: checkpoints=NAME=FILE,OTHER=FILE"],
    ),
    "the name of initial weights": (
        nothing,
        {"paths.checkpoint_path": "random=a.pt"},
        ["random is the row of initial weights"],
    ),
    "only the target encoder": (target_encoder, {}, ["holds the target_encoder", "weights: target_encoder", "a.card.yaml"]),
    "an encoder that overflows": (
        overflowing,
        {"paths.checkpoint_path": "big.pt"},
        ["checkpoints: big (big.pt): the network's output: ", " NaN or infinite values", "leave the encoder out"],
    ),
    "a registered model that there is not": (
        nothing,
        {"paths.checkpoint_path": "models:/oct_classifier@champion"},
        ["oct_classifier"],
    ),
}


@pytest.mark.parametrize(("spoil", "keys", "words"), BAD.values(), ids=BAD)
def test_input_that_cannot_be_used(
    little: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil, keys: dict[str, str], words: list[str]
) -> None:
    spoil(little)
    assert run_phase("oct", SMALL | KEYS | keys) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in ["medexp oct: error: ", *words]), told
    assert "Traceback" not in told
    assert not [*little.glob("cache/**/embeddings/*"), *little.glob("outputs/*/state")]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"train.class_weights": "[1, 2]"}, ["train.class_weights: found 2 weights; one for each of the 4 classes"]),
        ({"model.freeze_encoder": "false"}, ["model.unfreeze_at_epoch: found -1 with model.freeze_encoder=false"]),
        ({"train.warmup_epochs": "6"}, ["train.warmup_epochs: found 6; below epochs (6)"]),
        ({"classes.mapping": "{healthy: 0, insulin_dependent: 2}"}, ["classes.mapping: found", "without gaps"]),
        ({"folds": "3", "train.lr_head_grid": "[0.1, 0.01]"}, ["train.lr_head_grid: heads of a grid", "folds=0"]),
    ],
)
def test_settings_that_cannot_be_used_are_told_before_anything_is_written(
    store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, str], words: list[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert run_phase("oct", SMALL | KEYS | keys) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert sorted(tmp_path.iterdir()) == before
