"""What each rung changes, and ladders that are refused. Nothing is trained here."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from medexp.errors import ConfigError
from medexp.phases.phase1.config import Phase1Config
from medexp.studies.ladder import changed, differences, phase_config, read_ladder
from medexp.tracking.provenance import config_yaml
from tests.configured import configured

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "medexp/phases/phase1/profiles/recovery.yaml").read_text())


def full(**keys: object) -> Phase1Config:
    return configured("phase1", profile="full", data_dir="d", checkpoint="c", **keys)


def climbed(config: Phase1Config) -> list[dict[str, Any]]:
    """What each rung of the shipped ladder changes on top of the one before, as the values after it."""
    rungs = read_ladder("phase1").rungs
    steps = [config, *(changed(config, [rung.change for rung in rungs[: n + 1]], "test") for n in range(len(rungs)))]
    return [
        {key: after for key, (_, after) in differences(below, above).items()} for below, above in itertools.pairwise(steps)
    ]


def test_the_ladder_of_phase_1_is_the_specifications() -> None:
    assert climbed(full()) == [{"training.epochs": 150}, {"training.lr_lora": 5e-5}, {"lora.target_stages": (2, 3, 4)}]


def test_the_demo_is_changed_by_as_much() -> None:
    demo = climbed(configured("phase1"))
    assert demo == [{"training.epochs": 5}, {"training.lr_lora": 5e-3}, {}], "stage 2 is adapted already"


def test_a_stage_that_is_there_is_not_added_again() -> None:
    assert climbed(full(lora__target_stages="[2, 4]"))[2] == {}


def test_remedies_keep_the_batch_of_an_update_and_turn_bf16_off() -> None:
    remedies = read_ladder("phase1").remedies
    config = full(training__batch_size="4", training__accumulate="3")
    after = changed(config, [remedies["out_of_memory"]], "test")
    assert (after.training.batch_size, after.training.accumulate) == (2, 6)
    after = changed(config, [remedies["diverged"], remedies["diverged"]], "test")
    assert after.training.precision == "fp32"
    assert after.training.lr_lora == pytest.approx(1e-6)
    assert after.training.lr_decoder == pytest.approx(5e-6)
    assert after.training.lr_aux == pytest.approx(1e-5)


def test_a_remedy_for_memory_may_load_data_in_the_training_process(tmp_path: Path) -> None:
    remedies = SHIPPED["remedies"] | {"out_of_memory": {"training.batch_size": {"times": 0.5}, "training.workers": 0}}
    ladder = read_ladder("phase1", written(tmp_path, remedies=remedies))
    assert changed(full(training__workers="4"), [ladder.remedies["out_of_memory"]], "test").training.workers == 0


def test_a_batch_of_one_cannot_be_halved() -> None:
    remedy = read_ladder("phase1").remedies["out_of_memory"]
    with pytest.raises(ConfigError, match="test: training.batch_size: found 0; at least 1"):
        changed(full(training__batch_size="1"), [remedy], "test")


@pytest.mark.parametrize(
    ("before", "times", "after"), [(3, 1.5, 5), (3, 0.5, 1), (20, 1.1, 22), (7, 2.0, 14), (100, 1.5, 150)]
)
def test_whole_numbers_stay_whole_and_always_change(tmp_path: Path, before: int, times: float, after: int) -> None:
    ladder = read_ladder("phase1", written(tmp_path, rungs=[rung("training.epochs", {"times": times})]))
    config = full(training__warmup_epochs="0", training__epochs=before)
    assert changed(config, [ladder.rungs[0].change], "test").training.epochs == after


def test_a_configuration_comes_back_from_what_a_run_logged() -> None:
    config = full(data__labels="map", data__label_map="{1: 1, 4: 3}", data__exclude="[a, b]", threads="3")
    assert phase_config("phase1", yaml.safe_load(config_yaml(config)), "test") == config


def test_where_a_run_writes_is_no_difference() -> None:
    assert differences(full(), replace(full(), output_dir="x", device="cpu", threads=4, resume="r", recover=True)) == {}


def rung(key: str, value: Any, name: str = "a") -> dict[str, Any]:
    return {"name": name, "why": "because", "change": {key: value}}


def written(folder: Path, **changes: Any) -> str:
    file = folder / "ladder.yaml"
    file.write_text(yaml.safe_dump(SHIPPED | changes))
    return str(file)


BAD = {
    "no check": ({"mends": ["TEST_9"]}, r"mends: unknown check 'TEST_9'; phase1 has .*TEST_2.1"),
    "no checks": ({"mends": []}, "mends"),
    "no rungs": ({"rungs": []}, "rungs: .*at least 1"),
    "unknown block": ({"rung": []}, "unknown key rung"),
    "unknown key": ({"rungs": [rung("training.epoch", 3)]}, "unknown key training.epoch; did you mean training.epochs?"),
    "key of a rung": ({"rungs": [rung("training.epochs", 300) | {"then": 1}]}, "unknown key rungs.0.then"),
    "no reason": ({"rungs": [{"name": "a", "change": {"training.epochs": 300}}]}, "rungs.0.why is missing"),
    "no name": ({"rungs": [rung("training.epochs", 300, " ")]}, "rungs.0.name"),
    "same name": ({"rungs": [rung("training.epochs", 300), rung("lora.rank", 4)]}, "two are named 'a'"),
    "our name": ({"rungs": [rung("lora.rank", 4, "as it was")]}, "rung 'as it was': is what recovery itself calls"),
    "our name with a number": ({"rungs": [rung("lora.rank", 4, "search 2")]}, "rung 'search 2': is what recovery itself"),
    "apostrophe": ({"rungs": [rung("lora.rank", 4, "it's")]}, "has ' or .* in its name, by which MLflow cannot find its run"),
    "backslash": ({"rungs": [rung("lora.rank", 4, "a\\")]}, "in its name, by which MLflow cannot find its run"),
    "no change": ({"rungs": [rung("training.epochs", 300) | {"change": {}}]}, "rung 'a': changes nothing"),
    "same change": (
        {"rungs": [rung("training.epochs", 300), rung("training.epochs", 300, "b")]},
        "rung 'b': changes nothing; the rungs before it set training.epochs to the same",
    ),
    "times one": ({"rungs": [rung("training.epochs", {"times": 1})]}, "training.epochs: times 1 changes nothing"),
    "times nothing": ({"rungs": [rung("training.epochs", {"times": 0})]}, "found 0; input should be greater than 0"),
    "times text": ({"rungs": [rung("training.precision", {"times": 2})]}, "times needs a number; the key holds 'bf16-mixed'"),
    "times a switch": ({"rungs": [rung("aux_heads.enabled", {"times": 2})]}, "times needs a number; the key holds True"),
    "add to a number": ({"rungs": [rung("lora.rank", {"add": [2]})]}, "add needs a list; the key holds 8"),
    "add nothing": ({"rungs": [rung("lora.target_stages", {"add": []})]}, "at least 1 item"),
    "add text": ({"rungs": [rung("lora.target_stages", {"add": ["x"]})]}, r"found \['x'\] to add"),
    "no such stage": ({"rungs": [rung("lora.target_stages", {"add": [7]})]}, r"found \[3, 4, 7\]; one or more of 1, 2, 3, 4"),
    "both": ({"rungs": [rung("training.epochs", {"times": 2, "add": [1]})]}, "a value, {times: NUMBER} or {add:"),
    "type": ({"rungs": [rung("training.epochs", "many")]}, "training.epochs: found many; expected a whole number"),
    "range": ({"rungs": [rung("training.epochs", 3)]}, r"training.warmup_epochs: found 10; below epochs \(3\)"),
    "the bar": ({"rungs": [rung("validation.min_dice_wt", 0.1)]}, "is not for a ladder to change"),
    "the seed": ({"rungs": [rung("seed", 1)]}, "seed: is not for a ladder to change"),
    "the split": ({"rungs": [rung("data.val_fraction", 0.5)]}, "is not for a ladder to change"),
    "fault": ({"remedies": {"fire": {"lora.rank": 4}}}, "should be 'out_of_memory' or 'diverged'"),
    "worse": ({"remedies": {"diverged": {"training.lr_lora": {"times": 2}}}}, "makes it worse"),
    "negative": ({"at_most": -1}, "at_most: found -1"),
}


@pytest.mark.parametrize(("changes", "told"), BAD.values(), ids=BAD)
def test_a_ladder_that_does_not_hold_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        read_ladder("phase1", written(tmp_path, **changes))
    assert str(raised.value).startswith(str(tmp_path / "ladder.yaml"))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    rungs = [rung("training.epoch", 3), rung("seed", 1, "b"), rung("training.epochs", "many", "c")]
    with pytest.raises(ConfigError, match="4 problems") as raised:
        read_ladder("phase1", written(tmp_path, rungs=rungs, mends=["TEST_9"]))
    for words in ("TEST_9", "training.epoch;", "seed:", "found many"):
        assert words in str(raised.value)


@pytest.mark.parametrize("content", ["rungs: [", "", "- a", "rungs:\n  x: !!python/object:os.system {}\n"])
def test_a_file_that_is_no_ladder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "ladder.yaml").write_text(content)
    with pytest.raises(ConfigError, match="ladder.yaml: (cannot be read|holds no keys)"):
        read_ladder("phase1", str(tmp_path / "ladder.yaml"))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none.yaml: cannot be read"):
        read_ladder("phase1", str(tmp_path / "none.yaml"))
