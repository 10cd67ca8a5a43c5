"""`prepare -P scenarios_dir=…`: scenarios for medgemma, from the command line."""

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest
from mlflow.artifacts import download_artifacts

from medexp.data.scenarios.prepared import prepare_scenarios
from medexp.data.scenarios.read import read_scenarios
from tests.configured import run_phase
from tests.data.scenarios.small_scenarios import picture, scenario, the_24, write_images, write_lines, write_project
from tests.runs import figures, last_run


def prepare(**keys: object) -> int:
    return run_phase("prepare", cache_dir="cache", data__jobs=1, **keys)


def next_command(told: str) -> dict[str, str]:
    """What the last line says to type."""
    words = shlex.split(told.splitlines()[-1].removeprefix("Next: mlflow run . -e medgemma"))
    assert words[::2] == ["-P"] * (len(words) // 2)
    return dict(word.split("=", 1) for word in words[1::2])


def test_scenarios_are_split_and_the_command_that_reads_them_is_named(store, capsys, tmp_path):
    records = the_24()
    records[5]["image_file"] = records[0]["image_file"]
    records[7]["id"] = "mri [/who] $1_$ [x]"
    file = write_project(tmp_path / "my data", records)
    picture(0, (48, 20)).save(file.parent / "images" / records[7]["image_file"])
    assert prepare(scenarios=file, scenarios_dir="my scenarios") == 0
    told = capsys.readouterr().out
    assert "24 in 23 families" in told and "tiny" in told and records[7]["id"] in told
    given = next_command(told)
    assert given["scenarios"] == "my scenarios/train.jsonl,my scenarios/val.jsonl" and given["profile"] == "demo"
    assert Path(given["image_dir"]) == file.parent / "images"
    files = [Path(one) for one in given["scenarios"].split(",")]
    read = read_scenarios(files, Path(given["image_dir"]))
    assert len(read) == 24 and {one.image for one in read} == {file.parent / "images" / one["image_file"] for one in records}
    assert sorted(line for one in files for line in one.read_text().splitlines()) == sorted(file.read_text().splitlines())
    again = prepare_scenarios(files, Path(given["image_dir"]), cache=tmp_path / "cache")
    assert [len(again.ids(split)) for split in ("train", "val")] == [16, 8]
    stats = json.loads(Path("my scenarios/dataset_stats.json").read_text())
    assert stats["splits"]["val"]["modality"] == dict.fromkeys(("histopathology", "mri", "ultrasound", "xray"), 2)
    assert stats["all"]["families"] == 23 and stats["all"]["oddity"] == {"tiny": 1} and stats["digest"] == again.digest
    run = last_run(store, "prepare")
    assert run.info.status == "FINISHED" and figures(run)["params/val_families"] == again.rows("val")["patient"].nunique()
    odd = pd.read_csv(download_artifacts(run_id=run.info.run_id, artifact_path="oddities.csv"))
    assert list(odd["case"]) == [records[7]["id"]] and list(odd["oddity"]) == ["tiny"]
    assert prepare(scenarios=file, scenarios_dir="my scenarios") == 0, "the same again"
    capsys.readouterr()
    before = Path("my scenarios/train.jsonl").read_bytes()
    assert prepare(scenarios=file, scenarios_dir="my scenarios", seed=1) == 2
    assert "my scenarios/train.jsonl is there and holds something else" in capsys.readouterr().err
    assert Path("my scenarios/train.jsonl").read_bytes() == before


def test_images_in_several_folders_are_found_again(store, capsys, tmp_path):
    """A file with its images beside it, and one whose images are in a folder."""
    records = [*the_24(), scenario("more", "mri", True, input="Größe: 3 cm.")]
    one = write_project(tmp_path / "one", records[:12], "a.jsonl")
    write_images(tmp_path / "two" / "images", records[12:24], first=100)
    write_images(tmp_path / "two", records[24:], first=200)
    two = write_lines(tmp_path / "two" / "b.jsonl", records[12:])
    assert prepare(scenarios=f"{one},{two}", scenarios_dir="out", modalities="[xray,histopathology,mri,ultrasound,ct]") == 0
    given = next_command(capsys.readouterr().out)
    assert Path(given["image_dir"]) == tmp_path and given["modalities"] == "[xray,histopathology,mri,ultrasound,ct]"
    read = read_scenarios([Path(file) for file in given["scenarios"].split(",")], Path(given["image_dir"]))
    found = {scenario.id: scenario.image.relative_to(tmp_path).as_posix() for scenario in read}
    assert found["more"] == "two/more.png" and found[records[0]["id"]] == f"one/images/{records[0]['id']}.png"
    assert len(found) == 25 and {one.input for one in read} == {one["input"] for one in records}


def test_the_embedded_ones(store, capsys):
    assert prepare(scenarios_dir="out") == 0
    given = next_command(capsys.readouterr().out)
    read = read_scenarios([Path(one) for one in given["scenarios"].split(",")], Path(given["image_dir"]))
    assert [sum(Path(one).name == one_of.file.name for one_of in read) for one in ("train.jsonl", "val.jsonl")] == [16, 8]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"scenarios": "a.jsonl"}, "scenarios_dir: scenarios are given; give scenarios_dir=FOLDER"),
        ({"scenarios_dir": "out", "profile": "full"}, "scenarios: profile=full needs real data; give scenarios=FILE.jsonl"),
        ({"scenarios_dir": "out", "slices_dir": "s"}, "slices_dir: found s with scenarios_dir; that is of volumes"),
        ({"scenarios_dir": "out", "image_dir": "i"}, "image_dir: found i without scenarios"),
        ({"scenarios_dir": "s3://bucket/out"}, "scenarios_dir: found s3://bucket/out; what is written goes to a folder"),
        ({"scenarios_dir": "out", "scenarios": "none.jsonl"}, "none.jsonl: cannot be read (No such file or directory)"),
        ({"scenarios_dir": "out", "scenarios": "train.jsonl"}, "no val.jsonl beside train.jsonl"),
    ],
)
def test_what_cannot_be(store, capsys, keys, words):
    assert prepare(**keys) == 2
    assert words in capsys.readouterr().err
    assert not Path("out").exists()
