"""`prepare -P pairs=…`: pairs of a FLAIR volume and its mask, checked and split, from the command line."""

import json
import shlex
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medexp.data.pairs.written import write_pairs
from medexp.files import parse_yaml
from medexp.phases.prepare import PHASE
from tests.configured import configured, run_phase
from tests.data.pairs.small_pairs import flair, lesion, write_bids, write_subject
from tests.data.pairs.test_written import DRAWN, drawn
from tests.runs import figures, last_run


def prepare(*folders: Path, **keys: object) -> int:
    return run_phase("prepare", cache_dir="cache", pairs=",".join(map(str, folders)), pair_data__jobs=1, **keys)


def test_pairs_are_split_and_the_command_that_reads_them_is_named(store, capsys, tmp_path):
    real = write_bids(tmp_path / "real", 6, roi=lesion() * 255)
    write_subject(real, "sub-hc", 40, roi=None)
    extra = write_pairs(tmp_path / "extra", **drawn(2), synthetic=DRAWN)
    assert prepare(real, extra, pair_data__lesion="[1,255]", pair_data__exclude="[sub-006]") == 0
    told = capsys.readouterr().out
    assert f"{real}, {extra}: 1 volumes without a mask, left out; mode=base takes those of healthy people: sub-hc" in told
    run = last_run(store, "prepare")
    assert run.info.status == "FINISHED" and figures(run)["params/synthetic"] == 2
    listed = {item.path for item in MlflowClient().list_artifacts(run.info.run_id)}
    assert {"account.md", "manifest.csv", "data_splits.json"} <= listed
    last = told.splitlines()[-1]
    assert last.startswith("Next: mlflow run . -e phase7 ")
    given = dict(pair.split("=", 1) for pair in shlex.split(last)[7::2])
    splits = json.loads(Path(given["splits"]).read_text())
    assert sum(map(len, splits.values())) == 7 and sum(case.startswith("sub-synthetic") for case in splits["train"]) == 2
    config = configured("phase7", **{key: value for key, value in given.items() if key != "profile"})
    assert config.folders == [str(real), str(extra)] and config.data.lesion == (1, 255) and config.data.exclude == ("sub-006",)
    assert set(given) == {"profile", "data_dir", "splits", "data.lesion", "data.exclude", "data.jobs"}


def test_all_bad_pairs_are_told_at_once_with_keys_that_can_be_typed_and_nothing_is_left(store, capsys, tmp_path):
    write_subject(tmp_path, "sub-a", roi=lesion() * 2)
    write_subject(tmp_path, "sub-b", roi=lesion() * 0)
    write_subject(tmp_path, "sub-c", FLAIR=flair(1)[:-1])
    assert prepare(tmp_path) == 2
    told = capsys.readouterr().err
    for words in (
        "3 of 3 cases cannot be used",
        "labels that pair_data.lesion does not have: 2 (36 voxels)",
        "-P 'pair_data.lesion=[2]'",
        "sub-b_FLAIR_roi.nii.gz: an empty mask",
        "pair_data.exclude=[sub-c]",
    ):
        assert words in told
    run = last_run(store, "prepare")
    assert run.info.status == "FAILED"
    assert not [path for path in Path("cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"data_dir": "x"}, "data_dir: found x with pairs; prepare one after the other"),
        ({"scenarios_dir": "x"}, "scenarios_dir: found x with pairs"),
        ({"pair_data__lesion": "[0]"}, "pair_data.lesion"),
        ({"pair_data__input_size": "[30,32,32]"}, "give three multiples of 4, of at least 16"),
        ({"pair_data__mask_strategy": "best"}, "expected one of auto, vae, downsample"),
        ({}, "no such folder or table"),
    ],
)
def test_settings_that_cannot_be(store, capsys, keys, words):
    assert prepare(Path("nowhere"), **keys) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("profile", ["demo", "full"])
def test_prepare_reads_pairs_as_phase7_does(profile):
    of_phase7 = PHASE.profile(profile).parents[2] / "phase7" / "profiles" / f"{profile}.yaml"
    assert parse_yaml(PHASE.profile(profile).read_text())["pair_data"] == parse_yaml(of_phase7.read_text())["data"]
