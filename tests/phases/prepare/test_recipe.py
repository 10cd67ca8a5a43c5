"""`prepare -P slices_dir=…`: the folder of slices that the 2D phases read, from the command line."""

import json
import shlex
from pathlib import Path

import pytest

from medexp.cli import main
from medexp.data.images.slices import find_slices, read_slice
from medexp.data.volumes.brats import find_cases
from tests.configured import configured, run_phase
from tests.data.volumes.small_cases import write_case
from tests.runs import figures, last_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        write_case(tmp_path / "data", f"BraTS-MEN-0000{number}-000", seed=number)
    return tmp_path / "data"


def prepare(folder: Path, **keys: object) -> int:
    return run_phase("prepare", cache_dir="cache", data_dir=folder, **keys)


def test_slices_are_cut_and_the_next_command_named(folder, store, capsys):
    assert prepare(folder, slices_dir="my slices", slices__channel="t1c", slices__every=2) == 0
    told = capsys.readouterr().out.splitlines()
    assert "Slices: 12 in my slices" in told and told[-2].startswith("Next: mlflow run . -e phase1 ")
    assert told[-1] == "Next: mlflow run . -e phase2_1 -P profile=demo -P 'slices_dir=my slices'"
    assert shlex.split(told[-1])[-1] == "slices_dir=my slices"
    found = find_slices(Path("my slices"), r"^(BraTS-[A-Za-z]+-\d+)-\d+$")
    assert len(found) == 12 and {image.patient for image in found} == {f"BraTS-MEN-0000{n}" for n in (1, 2, 3)}
    assert {read_slice(image.path).metadata["channel"] for image in found} == {"t1c"}
    run = last_run(store, "prepare")
    assert run.info.status == "FINISHED" and figures(run)["params/slices"] == 12
    assert prepare(folder, slices_dir="my slices", slices__channel="t1c", slices__every=2) == 0
    assert "Slices: 12 in my slices" in capsys.readouterr().out


def test_names_that_tell_no_patient_are_told_of(folder, store, capsys):
    for number, name in enumerate(("anna_1", "anna_2", "bert_1", "carl_1")):
        write_case(folder.parent / "others", name, number)
    assert prepare(folder.parent / "others") == 0
    assert "finds a patient in none of 4 names, such as anna_1. Each counts as a patient" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"data_dir": ""}, "data_dir: found no text (is a variable of the shell unset?)"),
        ({"data_dir": " "}, "data_dir: found no text"),
        ({"data_dir": "~nobody_here/d"}, "data_dir: found ~nobody_here/d; this machine has no user nobody_here"),
        ({"output_dir": "~nobody_here"}, "output_dir: found ~nobody_here; this machine has no user nobody_here"),
        ({"scenarios": "~nobody_here/a.jsonl"}, "scenarios: found ~nobody_here/a.jsonl; this machine has no user nobody_here"),
        ({"slices_dir": ""}, "slices_dir: found no text"),
        ({"pairs": "['']"}, "pairs: found no text"),
        ({"splits": ""}, "splits: found no text"),
        (
            {"data.labels": "map", "data.label_map": "{0: 1, 1: 1}"},
            "data.label_map: maps 0 to 1; 0 is background in every file",
        ),
        ({"data.suffixes": "{t1c: [t1]}"}, "data.suffixes: t1 (t1c and t1n) would be two files' ending"),
        ({"data.suffixes": "[t1]"}, "data.suffixes: found [t1]; expected a mapping {...} from text to a list"),
    ],
)
def test_texts_and_maps_that_say_nothing(store, capsys, keys, words):
    assert main("prepare", [f"--{key}={value}" for key, value in keys.items()]) == 2
    assert words in capsys.readouterr().err


def test_the_home_folder_is_found_and_what_is_printed_reads_the_same(folder, store, capsys, monkeypatch):
    """Ids and endings that YAML would take for numbers or truth values, too."""
    for case in (write_case(folder, "0012", 7), write_case(folder, "no", 8), write_case(folder, "1e3", 9)):
        for name, ending in (("t1c", "0001"), ("seg", "off")):
            (case / f"{case.name}-{name}.nii.gz").rename(case / f"{case.name}_{ending}.nii.gz")
    monkeypatch.setenv("HOME", str(folder.parent))
    keys = {"data.exclude": "[0012, no]", "data.suffixes": "{t1c: [t1c, 0001], seg: [seg, off]}"}
    assert prepare(f"~/{folder.name}", **keys) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])[7::2]
    config = configured("phase1", **dict(word.split("=", 1) for word in words if not word.startswith("profile")))
    assert config.data.exclude == ("0012", "no") and config.data.suffixes == {"t1c": ("t1c", "0001"), "seg": ("seg", "off")}
    assert "1e3" in {case for split in json.loads(Path(config.splits).read_text()).values() for case in split}
    assert len(find_cases(Path(config.data_dir).expanduser(), config.data)) == 4


def test_without_a_folder_none_are_cut(folder, store, capsys):
    assert prepare(folder) == 0
    told = capsys.readouterr().out
    assert "finds a patient in none" not in told
    assert "Slices" not in told and told.splitlines()[-1].startswith("Next: mlflow run . -e phase1 ")
    assert "params/slices" not in figures(last_run(store, "prepare"))


def test_a_folder_of_other_slices_is_left_and_the_run_fails(folder, store, capsys):
    assert prepare(folder, slices_dir="slices") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("slices").iterdir()}
    assert prepare(folder, slices_dir="slices", slices__channel="t2w") == 2
    assert "it was cut with channel t2f, not t2w. Give another folder, or remove this one" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in Path("slices").iterdir()} == before
    assert last_run(store, "prepare").info.status == "FAILED"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("slices.channel", "flair", "slices.channel: found flair; expected one of t2f, t1c, t1n, t2w"),
        ("slices.every", "0", "slices.every: found 0; at least 1"),
        ("slices.min_foreground", "1", "slices.min_foreground: found 1.0; 0 to below 1"),
    ],
)
def test_settings_that_cannot_be(folder, store, capsys, key, value, words):
    assert prepare(folder, slices_dir="slices", **{key: value}) == 2
    assert words in capsys.readouterr().err
    assert not Path("slices").exists()
