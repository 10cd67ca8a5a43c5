"""What a file may say about what is searched, and what is drawn from it."""

import itertools
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import optuna
import pytest
import yaml
from annotated_types import Ge, Le
from hypothesis import given
from hypothesis import strategies as st

from medexp import phases
from medexp.cli import configuration
from medexp.config.bounds import NotNegative
from medexp.config.keys import Role, keys, value_of
from medexp.errors import ConfigError
from medexp.studies.space import Space, read_space, suggest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Data:
    val_fraction: Annotated[float, Role.CASES]


@dataclass(frozen=True)
class Config:
    rate: NotNegative
    depth: Annotated[int, Ge(1), Le(11)]
    stages: tuple[int, ...] | int
    mode: str | bool | None
    decay: float
    jobs: Annotated[int, Role.WHERE]
    bar: Annotated[float, Role.JUDGING]
    data: Data


GOAL = {"metric": "val/final/dice", "direction": "maximize"}
RATE = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
DEPTH = {"type": "int", "low": 1, "high": 9, "step": 2}
STAGES = {"type": "categorical", "choices": [[4], [3, 4]]}
MODE = {"type": "categorical", "choices": ["lora", "dora", None, True]}
WHOLE: dict[str, Any] = {
    "goals": [GOAL],
    "sampler": {"name": "random"},
    "pruner": {"name": "median", "arguments": {"n_startup_trials": 2}},
    "parameters": {"rate": RATE, "depth": DEPTH, "stages": STAGES, "mode": MODE},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sweep.yaml"


def read(file: Path, **changed: Any) -> Space:
    file.write_text(yaml.safe_dump(WHOLE | changed))
    return read_space(file, Config)


def parameters(**changed: Any) -> dict[str, Any]:
    return {"parameters": WHOLE["parameters"] | changed}


def drawn(space: Space, count: int = 20) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=space.make_sampler(0), directions=[goal.direction for goal in space.goals])
    return [suggest(study.ask(), space) for _ in range(count)]


@pytest.mark.parametrize("phase", phases.studied())
def test_every_shipped_space_holds(phase: str) -> None:
    record, config = phases.phase(phase), configuration(phase)
    for one in drawn(read_space(record.profile("sweep"), record.config)):
        for key, value in one.items():
            assert isinstance(value, type(value_of(config, key))), key


def test_values_are_drawn_as_the_file_says(file: Path) -> None:
    for one in drawn(read(file)):
        assert one.keys() == WHOLE["parameters"].keys()
        assert 1e-4 <= one["rate"] <= 1e-1
        assert one["depth"] in (1, 3, 5, 7, 9)
        assert one["stages"] in ((4,), (3, 4))
        assert one["mode"] in ("lora", "dora", None, True)


def test_a_list_is_stored_as_text_and_comes_back_as_it_was(file: Path) -> None:
    space = read(file)
    study = optuna.create_study()
    study.enqueue_trial({"stages": "[3, 4]", "rate": 0.01})
    trial = study.ask()
    values = suggest(trial, space)
    assert (values["stages"], values["rate"]) == ((3, 4), 0.01)
    assert trial.params["stages"] == "[3, 4]"
    assert suggest(optuna.trial.FixedTrial(trial.params), space) == values


def test_a_parameter_with_a_condition_is_drawn_where_it_holds_alone(file: Path) -> None:
    found = drawn(read(file, **parameters(rate=RATE | {"when": {"stages": [3, 4], "mode": "dora"}})), 40)
    assert {("rate" in one) for one in found} == {True, False}
    for one in found:
        assert ("rate" in one) == (one["stages"] == (3, 4) and one["mode"] == "dora")


def test_a_condition_on_a_parameter_that_has_one(file: Path) -> None:
    space = read(file, **parameters(rate=RATE | {"when": {"depth": 3}}, depth=DEPTH | {"when": {"mode": "lora"}}))
    for one in drawn(space, 40):
        assert ("depth" in one) == (one["mode"] == "lora")
        assert ("rate" in one) == (one.get("depth") == 3)


def test_the_grid_is_all_combinations(file: Path) -> None:
    space = read(
        file,
        sampler={"name": "grid"},
        parameters={"decay": {"type": "float", "low": 0, "high": 0.3, "step": 0.1}, "depth": DEPTH, "stages": STAGES},
    )
    found = {(one["decay"], one["depth"], one["stages"]) for one in drawn(space, 4 * 5 * 2)}
    assert found == set(itertools.product((0.0, 0.1, 0.2, 0.3), (1, 3, 5, 7, 9), ((4,), (3, 4))))


@pytest.mark.parametrize("name", ["tpe", "random", "nsga2"])
def test_two_goals_and_every_sampler(file: Path, name: str) -> None:
    goals = [GOAL, {"metric": "val/hd95", "direction": "minimize"}]
    space = read(file, sampler={"name": name}, pruner={"name": "none"}, goals=goals)
    assert len(drawn(space, 3)) == 3


@pytest.mark.parametrize(
    "pruner", [{"name": "hyperband", "arguments": {"max_resource": 9}}, {"name": "median"}, {"name": "none"}]
)
def test_every_pruner(file: Path, pruner: dict[str, Any]) -> None:
    assert isinstance(read(file, pruner=pruner).make_pruner(), optuna.pruners.BasePruner)


def test_a_seed_decides_what_is_drawn(file: Path) -> None:
    space = read(file)
    assert drawn(space) == drawn(space)


def test_the_digest_is_of_what_decides_and_not_of_the_order(file: Path) -> None:
    space = read(file)
    file.write_text(
        yaml.safe_dump(dict(reversed(WHOLE.items())) | {"parameters": dict(reversed(WHOLE["parameters"].items()))})
    )
    assert read_space(file, Config).digest == space.digest
    assert pickle.loads(pickle.dumps(space)) == space  # noqa: S301  it goes to other processes
    others = [
        read(file, goals=[GOAL | {"direction": "minimize"}]),
        read(file, sampler={"name": "tpe"}),
        read(file, pruner={"name": "none"}),
        read(file, **parameters(rate=RATE | {"high": 0.2})),
        read(file, **parameters(rate=RATE | {"when": {"mode": "dora"}})),
    ]
    assert len({space.digest, *(other.digest for other in others)}) == 6


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown key": ({"pruners": 1}, ["unknown key pruners; known are goals, parameters, sampler, pruner"]),
    "a goal that goes nowhere": ({"goals": [GOAL | {"direction": "up"}]}, ["goals.0.direction: found 'up'; input should be"]),
    "no goal": ({"goals": []}, ["goals: found 0; one or two"]),
    "three goals": (
        {"goals": [GOAL, GOAL | {"metric": "b"}, GOAL | {"metric": "c"}], "pruner": {"name": "none"}},
        ["goals: found 3; one or two"],
    ),
    "one goal twice": ({"goals": [GOAL, GOAL], "pruner": {"name": "none"}}, ["val/final/dice is named twice"]),
    "a pruner with two goals": ({"goals": [GOAL, GOAL | {"metric": "b"}]}, ["pruner: found median with 2 goals"]),
    "an unknown sampler": ({"sampler": {"name": "tp"}}, ["unknown name 'tp'; known are tpe, random, grid, nsga2"]),
    "an unknown pruner": ({"pruner": {"name": "n"}}, ["unknown name 'n'; known are median, hyperband, none"]),
    "an unknown argument": (
        {"sampler": {"name": "tpe", "arguments": {"seed": 3}}},
        ["sampler tpe: unknown argument seed; known are n_startup_trials"],
    ),
    "an argument of another type": (
        {"pruner": {"name": "median", "arguments": {"n_min_trials": "x"}}},
        ["pruner median.n_min_trials: found 'x'; a int is needed"],
    ),
    "an argument that the library refuses": (
        {"pruner": {"name": "median", "arguments": {"n_startup_trials": -1}}},
        ["pruner median: Number of startup trials cannot be negative"],
    ),
    "no parameter": ({"parameters": {}}, ["parameters: none; name at least one"]),
    "an unknown parameter": (parameters(deepth=DEPTH), ["unknown parameter deepth; the nearest known is depth"]),
    "what decides which cases are judged": (
        parameters(**{"data.val_fraction": RATE}),
        ["parameters.data.val_fraction: decides which cases trials are judged on"],
    ),
    "no type": (parameters(rate={"low": 1}), ["parameters.rate.type is missing; known are float, int, categorical"]),
    "an unknown type": (parameters(rate={"type": "real"}), ["parameters.rate.type: found 'real'; known are float"]),
    "an unknown key of a parameter": (
        parameters(rate=RATE | {"hihg": 1}),
        ["unknown key parameters.rate.hihg; known are type"],
    ),
    "no number": (parameters(rate=RATE | {"low": "little"}), ["parameters.rate.low: found 'little'"]),
    "half a layer": (parameters(depth=DEPTH | {"low": 1.5}), ["parameters.depth.low: found 1.5"]),
    "infinity": (parameters(rate=RATE | {"high": float("inf")}), ["parameters.rate.high: found inf"]),
    "low above high": (parameters(rate=RATE | {"low": 1.0}), ["low is 1.0 and high 0.1; low has to be below high"]),
    "low equal to high": (parameters(depth=DEPTH | {"low": 9}), ["low is 9 and high 9"]),
    "log of nothing": (parameters(rate=RATE | {"low": 0.0}), ["low is 0.0; with log it has to be above 0"]),
    "log with step": (parameters(depth=DEPTH | {"log": True}), ["parameters.depth: has log and step"]),
    "no step": (parameters(depth=DEPTH | {"step": 0}), ["parameters.depth.step: found 0; above 0"]),
    "steps that pass high by": (parameters(depth=DEPTH | {"high": 8}), ["from 1 do not meet high, 8; the nearest below is 7"]),
    "one choice": (parameters(stages=STAGES | {"choices": [1]}), ["parameters.stages.choices: found 1; at least 2"]),
    "a choice twice": (parameters(stages=STAGES | {"choices": [[4], [4]]}), ["'[4]' is named twice"]),
    "one and true": (parameters(stages=STAGES | {"choices": [1, True]}), ["1 is named twice"]),
    "a choice that is a mapping": (
        parameters(stages=STAGES | {"choices": [{"a": 1}, 2]}),
        ["parameters.stages.choices.0: found {'a': 1}; a number, a text"],
    ),
    "text for a number": (
        parameters(stages=STAGES | {"choices": ["many", "x"]}),
        [
            "parameters.stages.choices: found many; expected a list [...] of any number of values, each a whole number",
            "parameters.stages.choices: found x; expected",
        ],
    ),
    "a choice that its key cannot have": (
        parameters(depth={"type": "categorical", "choices": [3, 2.5, 12, "deep", True]}),
        [
            "parameters.depth.choices: found 2.5; expected a whole number",
            "parameters.depth.choices: found 12; at least 1 and at most 11",
            "parameters.depth.choices: found deep; expected a whole number",
            "parameters.depth.choices: found true; expected a whole number",
        ],
    ),
    "a range that its key does not have": (
        parameters(depth=DEPTH | {"low": -1}),
        ["parameters.depth.low: found -1; at least 1 and at most 11"],
    ),
    "fractions of a whole number": (
        parameters(depth={"type": "float", "low": 1.0, "high": 9.0}),
        ["parameters.depth.low: found 1.0; expected a whole number"],
    ),
    "what makes no model better": (
        parameters(jobs={"type": "int", "low": 1, "high": 2}, bar=RATE),
        ["parameters.jobs: no model gets better by it", "parameters.bar: no model gets better by it"],
    ),
    "a condition on nothing": (parameters(rate=RATE | {"when": {"decay": 1}}), ["when: decay is not in the space"]),
    "a condition that never holds": (parameters(rate=RATE | {"when": {"depth": 2}}), ["when: depth is never 2"]),
    "a condition that is never drawn": (parameters(rate=RATE | {"when": {"stages": [4, 3]}}), ["stages is never '[4, 3]'"]),
    "a circle": (
        parameters(rate=RATE | {"when": {"depth": 3}}, depth=DEPTH | {"when": {"rate": 0.01}}),
        ["a circle of conditions", "depth -> rate"],
    ),
    "itself": (parameters(depth=DEPTH | {"when": {"depth": 3}}), ["a circle of conditions, depth -> depth"]),
    "a grid of a line": ({"sampler": {"name": "grid"}}, ["parameters.rate: the sampler grid needs finitely many values"]),
    "a grid with a condition": (
        {"sampler": {"name": "grid"}, "parameters": {"mode": MODE, "depth": DEPTH | {"when": {"mode": "dora"}}}},
        ["parameters.depth.when: the sampler grid"],
    ),
}


@pytest.mark.parametrize(("changed", "told"), BAD.values(), ids=BAD)
def test_a_space_that_does_not_hold(file: Path, changed: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigError) as found:
        read(file, **changed)
    assert str(found.value).startswith(f"{file}: ")
    for words in told:
        assert words in str(found.value)


def test_all_problems_at_once(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"4 problems\n(.*\n)*.*low is 2.0") as found:
        read(file, goals=[], sampler={"name": "x"}, **parameters(rates=RATE, rate=RATE | {"low": 2}))
    assert str(found.value).count("\n  - ") == 4


def test_what_has_wrong_types_and_what_is_unknown_is_told_together(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"rate.low: found 'x'(.|\n)*unknown parameter deepth"):
        read(file, **parameters(rate=RATE | {"low": "x"}, deepth=DEPTH))


@pytest.mark.parametrize("content", ["", "- 1\n", "a: [", "\xff"])
def test_no_mapping_at_all(file: Path, content: str) -> None:
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=rf"{file}: (holds no keys; known are goals|cannot be read)"):
        read_space(file, Config)


def test_no_file(file: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{file}: cannot be read \(.*No such file"):
        read_space(file, Config)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["int", "depth", "tpe"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*keys(Config), "type", "low", "high", "step", "choices", "when", "name", "arguments"]), inner
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from(["goals", "parameters", "sampler", "pruner"]), JUNK)
def test_whatever_is_written_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, key: str, junk: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "junk.yaml"
    file.write_text(yaml.safe_dump(WHOLE | {key: junk}, allow_unicode=True), encoding="utf-8")
    try:
        drawn(read_space(file, Config), 2)
    except ConfigError as error:
        assert str(file) in str(error)


@given(st.floats(1e-6, 10), st.floats(1e-6, 10), st.sampled_from([0.5, 0.001, 0.3, None]), st.booleans())
def test_what_is_accepted_can_be_drawn(
    tmp_path_factory: pytest.TempPathFactory, low: float, high: float, step: float | None, log: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "range.yaml"
    rate = {"type": "float", "low": low, "high": high, "step": step, "log": log}
    file.write_text(yaml.safe_dump(WHOLE | {"parameters": {"rate": rate}}))
    try:
        found = drawn(read_space(file, Config), 3)
    except ConfigError as error:
        assert low >= high or (step is not None and (log or "do not meet high" in str(error)))
        return
    assert all(low <= one["rate"] <= high for one in found)
