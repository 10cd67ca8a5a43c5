"""Configurations as dotted keys, what each key is for, and the one validator that all who set keys ask."""

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from medexp import phases
from medexp.cli import configuration, main, schema
from medexp.config.flags import flag
from medexp.config.keys import Role, built, flat, keys, marked, nested, protocol, run_name
from medexp.config.validate import Given, problems_of, read
from medexp.errors import ConfigError, UnfitValues
from medexp.files import dump_yaml, parse_yaml
from medexp.phases.phase1.config import Phase1Config
from medexp.studies.ladder import changed, phase_config, read_ladder
from medexp.studies.space import read_space
from medexp.studies.trials import with_values
from medexp.tracking.provenance import config_yaml
from medexp.tracking.steps import step_key

ARGUMENTS = {"recover": ["--run", "abc"]}
SPACE = {
    "goals": [{"metric": "val/final/dice", "direction": "maximize"}],
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
}
CANNOT_BE: dict[str, tuple[Any, str]] = {
    "lora.mode": ("qlora", "found qlora; expected one of lora, dora"),
    "aux_heads.enabled": ("maybe", "found maybe; expected true or false"),
    "lora.target_modules": (
        ["qkv", "banana"],
        "found [qkv, banana]; expected a list [...] of any number of values",
    ),
    "training.batch_size": (2.5, "found 2.5; expected a whole number"),
    "training.precision": ("int8", "found int8; expected one of fp32, bf16-mixed"),
    "lora.rank": (0, "found 0; at least 1"),
    "lora.target_stages": ([5], "found [5]; one or more of 1, 2, 3, 4"),
}
"""Values that make no phase 1, and what all who set them are told."""


@pytest.fixture(params=phases.names())
def config(request: pytest.FixtureRequest) -> Any:
    return configuration(request.param, ARGUMENTS.get(request.param, []))


def test_a_configuration_is_its_keys(config: Any) -> None:
    assert list(flat(config)) == list(keys(type(config)))
    assert built(type(config), flat(config)) == config
    assert problems_of(config) == []


def test_every_key_says_what_it_is(config: Any) -> None:
    assert [name for name, key in keys(type(config)).items() if not key.text.endswith((".", ")", "s", "e", "h"))] == []


def test_what_is_written_reads_back(config: Any) -> None:
    assert parse_yaml(config_yaml(config)) == json.loads(json.dumps(nested(config)), object_hook=_whole_keys)


def _whole_keys(block: dict[str, Any]) -> dict[Any, Any]:
    return {int(key) if key.isdigit() else key: value for key, value in block.items()}


def test_a_protocol_is_how_and_not_what_is_compared_nor_where_nor_on_which_cases() -> None:
    asked = {phase: protocol(phases.phase(phase).config) for phase in ("oct", "probe", "phase2_2")}
    assert {"model.head.pooling", "train.lr_head", "train.patience", "data.normalisation", "data.augment.flip"} <= asked["oct"]
    assert asked["oct"].isdisjoint({"paths.checkpoint_path", "paths.data", "seed", "seeds", "data.num_workers", "judged"})
    assert {"features", "head"} <= asked["probe"] and {"features", "training.epochs"} <= asked["phase2_2"]
    assert all({"encoder", "table", "bootstrap_samples", "device"}.isdisjoint(names) for names in asked.values())


@pytest.mark.parametrize(
    ("phase", "argv", "name"),
    [
        ("phase1", ["--rank", "4"], "phase1 r4 a16 s0"),
        ("phase1", ["--lora.alpha", "0.5", "--seed", "3"], "phase1 r8 a0.5 s3"),
        ("phase2_1", [], "phase2_1 s0"),
        ("probe", ["--head", "mlp"], "probe multiscale mlp s0"),
        ("promote", ["--version", "3"], "promote phase1_encoder_merged v3 s0"),
        ("sweep", ["--phase", "phase2_2"], "sweep phase2_2 s0"),
        ("main", ["--rank", "4"], "main s0"),
    ],
)
def test_a_run_is_called_after_what_a_reader_looks_for(phase: str, argv: list[str], name: str) -> None:
    assert run_name(phase, configuration(phase, argv)) == name


@pytest.mark.parametrize("key", CANNOT_BE)
def test_the_command_line_a_file_a_space_a_ladder_a_trial_and_a_resumed_run_are_told_the_same(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value, told = CANNOT_BE[key]
    config = configuration("phase1")
    assert main("phase1", [f"--{key}", dump_yaml(value, in_a_line=True)]) == 2
    said = [capsys.readouterr().err]

    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: value}))
    with pytest.raises(ConfigError) as refused:
        configuration("phase1", ["--config", str(file)])
    said.append(str(refused.value))

    searched = SPACE | {"parameters": {key: {"type": "categorical", "choices": [value, flat_plain(config)[key]]}}}
    file.write_text(yaml.safe_dump(searched))
    with pytest.raises(ConfigError) as refused:
        read_space(file, type(config))
    said.append(str(refused.value))

    ladder = parse_yaml(phases.phase("phase1").profile("recovery").read_text())
    file.write_text(yaml.safe_dump(ladder | {"rungs": [{"name": "a", "why": "b", "change": {key: value}}]}))
    with pytest.raises(ConfigError) as refused:
        read_ladder("phase1", str(file))
    said.append(str(refused.value))

    with pytest.raises(UnfitValues) as refused:
        with_values(config, {key: value})
    said.append(str(refused.value))
    with pytest.raises(ConfigError) as refused:
        changed(config, [{key: value}], "a rung")
    said.append(str(refused.value))

    content = parse_yaml(config_yaml(config))
    block, _, last = key.partition(".")
    content[block][last] = value
    with pytest.raises(ConfigError) as refused:
        phase_config("phase1", content, "config.yaml of a run")
    said.append(str(refused.value))

    assert [words for words in said if f"{key}" not in words or told not in words] == []


def flat_plain(config: Any) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat(config).items()}


@pytest.mark.parametrize(
    ("phase", "key"),
    [
        ("phase2_2", "volumes.seed"),
        ("phase2_2", "volumes.glioma_patients"),
        ("phase2_2", "phantoms.seed"),
        ("phase2_2", "data.split_seed"),
        ("phase1", "data.val_fraction"),
        ("phase1", "phantoms.meningioma_patients"),
    ],
)
def test_a_sweep_does_not_search_which_cases_it_is_judged_on(phase: str, key: str, tmp_path: Path) -> None:
    refused = searching(phase, key, tmp_path)
    assert refused.endswith("decides which cases trials are judged on, and the easiest would be best; set it instead")


@pytest.mark.parametrize(
    ("phase", "key"),
    [
        ("phase2_2", "min_accuracy"),
        ("phase2_2", "output_dir"),
        ("phase2_2", "bootstrap_samples"),
        ("phase1", "validation.overlap"),
        ("phase1", "training.workers"),
        ("phase1", "data.jobs"),
        ("phase1", "recover"),
    ],
)
def test_a_sweep_does_not_search_what_makes_no_model_better(phase: str, key: str, tmp_path: Path) -> None:
    assert searching(phase, key, tmp_path).endswith("no model gets better by it; set it instead")


def searching(phase: str, key: str, folder: Path) -> str:
    """What a space is told that searches two values which the key could have."""
    value = flat_plain(configuration(phase))[key]
    other = f"{value}x" if isinstance(value, str) else not value if isinstance(value, bool) else value + value / 10 or 1
    other = int(value) + 8 if isinstance(value, int) and not isinstance(value, bool) else other
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(SPACE | {"parameters": {key: {"type": "categorical", "choices": [value, other]}}}))
    with pytest.raises(ConfigError) as refused:
        read_space(file, phases.phase(phase).config)
    return str(refused.value)


@pytest.mark.parametrize("flags", [["--training.workers", "3"], ["--data.jobs", "7"], ["--threads", "1"]])
def test_a_run_goes_on_on_a_smaller_machine(flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "r1"
    folder.mkdir()
    begun = configuration("phase1", ["--output_dir", str(tmp_path)])
    (folder / "config.yaml").write_text(config_yaml(begun))
    config = configuration("phase1", ["--resume", "r1", "--output_dir", str(tmp_path), *flags])
    changes = {key: value for key, value in flat(config).items() if value != flat(begun)[key]}
    assert changes == {"resume": "r1", flags[0].removeprefix("--"): int(flags[1])}


def test_a_step_is_the_same_wherever_it_runs() -> None:
    config = configuration("phase1")
    where = {"training.workers": 3, "data.jobs": 7, "threads": 5, "device": "cpu", "output_dir": "o", "cache_dir": "c"}
    assert where.keys() <= marked(type(config), Role.WHERE)
    moved = built(type(config), flat(config) | where | {"resume": "r", "recover": True})
    assert step_key("phase1", moved, {}) == step_key("phase1", config, {})
    assert step_key("phase1", replace(config, seed=1), {}) != step_key("phase1", config, {})


OF_FILE = {"sweep.yaml": "sweep", "recovery.yaml": "recovery"}


@pytest.mark.parametrize(
    "file", sorted(Path(phases.__file__).parent.glob("*/profiles/*.yaml")), ids=lambda file: f"{file.parts[-3]} {file.name}"
)
def test_every_profile_fits_the_schema_that_its_first_line_names(file: Path) -> None:
    phase, of = file.parts[-3], OF_FILE.get(file.name, "config")
    kept = "schema.json" if of == "config" else f"{of}.schema.json"
    assert file.read_text().startswith(f"# yaml-language-server: $schema=../{kept}\n")
    found = json.loads((file.parents[1] / kept).read_text())
    assert found == schema(phase, of), f"medexp schema {phase} --of {of} > medexp/phases/{phase}/{kept}"
    jsonschema.Draft202012Validator(found).validate(json.loads(json.dumps(parse_yaml(file.read_text()))))


@pytest.mark.parametrize(
    ("of", "wrong"),
    [
        ("sweep", {"parameters": {"lora.mode": {"type": "categorical", "choices": ["lora", "qlora"]}}}),
        ("sweep", {"parameters": {"lora.rank": {"type": "int", "low": 0, "high": 8}}}),
        ("sweep", {"parameters": {"lora.rnk": {"type": "int", "low": 1, "high": 8}}}),
        ("sweep", {"parameters": {"phantoms.seed": {"type": "int", "low": 1, "high": 8}}}),
        ("sweep", {"sampler": {"name": "gp"}}),
        ("recovery", {"mends": ["TEST_2.7"]}),
        ("recovery", {"rungs": [{"name": "a", "why": "b", "change": {"lora.mode": "qlora"}}]}),
        ("recovery", {"rungs": [{"name": "a", "why": "b", "change": {"seed": 1}}]}),
        ("recovery", {"remedies": {"diverged": {"training.lr_lora": {"times": 0}}}}),
    ],
)
def test_a_schema_of_spaces_and_ladders_refuses_what_a_study_refuses(of: str, wrong: dict[str, object]) -> None:
    validator = jsonschema.Draft202012Validator(schema("phase1", of))
    whole = json.loads(json.dumps(parse_yaml(phases.phase("phase1").profile(of).read_text())))
    assert validator.is_valid(whole) and not validator.is_valid(whole | wrong)


def test_a_schema_refuses_what_the_command_line_refuses() -> None:
    validator = jsonschema.Draft202012Validator(schema("phase1"))
    for key, (value, _) in CANNOT_BE.items():
        block, _, last = key.partition(".")
        assert not validator.is_valid({block: {last: value}}), key
    assert not validator.is_valid({"lora": {"rnk": 8}})
    assert validator.is_valid({"lora": {"rank": 8}, "rank": 8, "threads": None})


def test_a_schema_of_what_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="phase: found 'phase9'; there are leaderboard, main, medgemma, oct, phase1"):
        schema("phase9")
    with pytest.raises(
        ConfigError, match="--of: prepare has no profiles/sweep.yaml; phases that have one: medgemma, oct, phase1"
    ):
        schema("prepare", "sweep")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )
)
@example("\x85")
@example({"a": ["\u2028b", "c\u2029"]})
def test_yaml_that_is_written_reads_back_as_it_was(content: Any) -> None:
    assert parse_yaml(dump_yaml(content)) == parse_yaml(dump_yaml(content, in_a_line=True)) == content


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
@example(["0012"])
@example(["it's", "a, b"])
@example(["$HOME", "no", "1e3", "[x]", 'say "x"', "a\nb", "!"])
def test_a_flag_that_is_advised_gives_the_names_when_it_is_typed(names: list[str]) -> None:
    first, word = shlex.split(flag("data.exclude", names))
    key, _, text = word.partition("=")
    assert (first, key) == ("-P", "data.exclude")
    assert read(keys(Phase1Config)[key], Given(text, is_text=True)) == tuple(names)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (8, "-P rank=8"),
        (["0012"], "-P 'rank=[0012]'"),
        ("['0012']", "-P \"rank=['0012']\""),
        ("my folder", "-P 'rank=my folder'"),
        ("Anna's", '-P "rank=Anna\'s"'),
    ],
)
def test_a_flag_has_no_more_quotes_than_bash_needs(value: object, told: str) -> None:
    assert flag("rank", value) == told
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {told}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["-P", f"rank={'[0012]' if isinstance(value, list) else value}"]


@given(
    st.sampled_from(sorted(keys(Phase1Config))),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
)
def test_any_value_makes_a_configuration_or_is_refused_by_its_key(key: str, value: Any) -> None:
    config = configuration("phase1")
    try:
        made = with_values(config, {key: value})
    except UnfitValues as error:
        assert key.rpartition(".")[2] in str(error)
    else:
        assert problems_of(made) == []
