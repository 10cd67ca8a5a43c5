"""One trial after another, in this process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from medexp.errors import ConfigError, DataError, StorageError
from medexp.phases.phase1 import recipe as phase1
from medexp.phases.phase1.config import Phase1Config
from medexp.reporting import NullReporter
from medexp.studies.space import Space, read_space
from medexp.studies.trials import TrialReporter, ask_for, commonest_reason, counted, next_trial, with_values
from tests.configured import configured
from tests.studies.cheap import SPACE, Cheap, objective


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return written(tmp_path, SPACE)


def written(folder: Path, text: str) -> Space:
    (folder / "sweep.yaml").write_text(text)
    return read_space(folder / "sweep.yaml", Cheap)


@pytest.fixture
def parent(store: MlflowClient) -> str:
    return str(store.create_run("0").info.run_id)


Next = Callable[..., Any]


@pytest.fixture
def go_on(space: Space, parent: str, tmp_path: Path) -> Next:
    def one(study: optuna.Study, how: str = "well", total: int = 3, **changed: Any) -> Any:
        config = Cheap(str(tmp_path / "outputs"), 0, how, 0.5, 2)
        given = {
            "space": space,
            "phase": "cheap",
            "config": config,
            "parent_id": parent,
            "objective": objective,
            "total": total,
        } | changed
        return next_trial(study, **given)

    return one


def children(store: MlflowClient, parent: str) -> list[Run]:
    return list(store.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent}'", order_by=["attributes.start_time"]))


def test_a_trial_is_a_child_run_with_what_was_sampled_and_measured(store: MlflowClient, go_on: Next, parent: str) -> None:
    study = optuna.create_study(direction="maximize", study_name="s")
    trial = go_on(study)
    (run,) = children(store, parent)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "cheap s0, trial 0"
    assert run.data.params == {key: str(value) for key, value in trial.params.items()}
    assert run.data.tags["medexp.study"] == "s" and run.data.tags["medexp.trial"] == "0"
    assert run.data.metrics["val/final/score"] == trial.value == trial.params["rate"]
    assert trial.user_attrs["run"] == run.info.run_id
    assert [(m.step, m.value) for m in store.get_metric_history(run.info.run_id, "train/loss")] == [
        (10, 1),
        (20, 0.5),
        (30, 1 / 3),
    ]


def test_a_study_has_as_many_trials_as_it_should(go_on: Next) -> None:
    study = optuna.create_study(direction="maximize")
    ended = [go_on(study, how) for how in ("well", "check", "well", "well")]
    assert [trial and trial.state for trial in ended] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, None]
    assert len(study.trials) == len(counted(study)) == 3


def test_of_two_workers_that_take_the_last_trial_one_gives_it_back(go_on: Next) -> None:
    study = optuna.create_study(direction="maximize")
    go_on(study)
    go_on(study)

    class OtherIsFaster(optuna.samplers.RandomSampler):
        def before_trial(self, study: optuna.Study, trial: Any) -> None:  # noqa: ARG002
            if len(study.trials) == 3:
                study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING))

    study.sampler = OtherIsFaster()
    one, other = go_on(study), go_on(study)
    assert (one.state, other) == (TrialState.COMPLETE, None)
    assert [trial.number for trial in counted(study)][:3] == [0, 1, 2]


def test_pruning_works_inside_the_fit_loop(store: MlflowClient, go_on: Next, parent: str) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=0.5, n_warmup_steps=2))
    ask_for(study, {"rate": 0.6, "depth": 1})
    trial = go_on(study)
    (run,) = children(store, parent)
    assert trial.state is TrialState.PRUNED
    assert trial.intermediate_values == pytest.approx({1: 0.2, 2: 0.4})  # counted, not in steps
    assert run.info.status == "FINISHED"
    assert run.data.tags["medexp.pruned_step"] == "20"
    assert run.data.metrics["val/score"] == pytest.approx(0.4)
    assert "val/final/score" not in run.data.metrics


def test_two_goals_are_not_pruned(go_on: Next, tmp_path: Path) -> None:
    second = ", {metric: train/loss, direction: minimize}]"
    space = written(tmp_path, SPACE.replace("maximize}]", "maximize}" + second))
    study = optuna.create_study(directions=["maximize", "minimize"], pruner=optuna.pruners.ThresholdPruner(lower=2))
    assert go_on(study, space=space).values == [pytest.approx(study.trials[0].params["rate"]), pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("how", "told"),
    [("check", "TEST_0: too shallow"), ("defect", "KeyError: 'fold'"), ("infinite", "val/final/score is not finite")],
)
def test_a_trial_that_fails_says_why_and_the_search_goes_on(
    store: MlflowClient, go_on: Next, parent: str, how: str, told: str
) -> None:
    study = optuna.create_study(direction="maximize")
    trial = go_on(study, how)
    (run,) = children(store, parent)
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.FAIL, told)
    assert run.info.status == "FAILED"
    assert run.data.tags["medexp.error"].startswith(told)
    assert go_on(study).state is TrialState.COMPLETE


@pytest.mark.parametrize(("how", "error", "told"), [
    ("data", DataError, "case 7: is empty"),
    ("unlogged", ConfigError, "val/final/score: the trial did not log this metric.*Logged were train/loss, val/score"),
])  # fmt: skip
def test_what_no_trial_would_be_spared_ends_the_search_and_the_trial_is_tried_again(
    store: MlflowClient, go_on: Next, parent: str, how: str, error: type[Exception], told: str
) -> None:
    study = optuna.create_study(direction="maximize")
    with pytest.raises(error, match=told):
        go_on(study, how)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert len(counted(study)) == 1
    assert go_on(study).params == study.trials[0].params
    assert [run.info.status for run in children(store, parent)] == ["FAILED", "FINISHED"]


def test_a_trial_that_is_interrupted_ends_killed_and_is_tried_again(store: MlflowClient, go_on: Next, parent: str) -> None:
    def interrupted(config: Any, run: Any) -> None:
        raise KeyboardInterrupt

    study = optuna.create_study(direction="maximize")
    with pytest.raises(KeyboardInterrupt):
        go_on(study, objective=interrupted)
    assert [run.info.status for run in children(store, parent)] == ["KILLED"]
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_full_disk_is_no_trials_fault(go_on: Next) -> None:
    def full(config: Any, run: Any) -> None:
        Path("/dev/full").write_text("state")

    study = optuna.create_study(direction="maximize")
    with pytest.raises(StorageError, match=r"the disk is full. Finished trials are kept.*run it again with the same study"):
        go_on(study, objective=full)
    assert study.trials[-1].state is TrialState.WAITING


def test_a_file_that_a_trial_lacks_is_its_own_failure(store: MlflowClient, go_on: Next, parent: str) -> None:
    def lacks(config: Any, run: Any) -> None:
        (run.folder / "state" / "last.pt").read_bytes()

    assert "No such file" in go_on(optuna.create_study(direction="maximize"), objective=lacks).user_attrs["reason"]
    assert [run.info.status for run in children(store, parent)] == ["FAILED"]


def test_sampled_values_that_make_no_configuration_fail_that_trial_alone(
    store: MlflowClient, go_on: Next, parent: str, tmp_path: Path
) -> None:
    study = optuna.create_study(direction="maximize")
    space = written(tmp_path, SPACE.replace("high: 4", "high: 6"))
    ask_for(study, {"rate": 0.6, "depth": 5})
    trial = go_on(study, space=space)
    assert (trial.state, trial.user_attrs["reason"]) == (
        TrialState.FAIL,
        "the values of a trial: depth: found 5; at most 4. Correct the space.",
    )
    assert [run.info.status for run in children(store, parent)] == ["FAILED"]
    ask_for(study, {"rate": 0.6, "depth": 4})
    assert go_on(study, space=space).state is TrialState.COMPLETE


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("val/final/score", "val/final/once"), "val/once: the trial did not log it step by step"),
        (("val/final/score", "final"), "Logged so were train/loss, val/score. Search by one of them"),
    ],
)
@pytest.mark.parametrize("pruner", ["none", "median"])
def test_what_nothing_can_be_pruned_by(go_on: Next, tmp_path: Path, pruner: str, changed: tuple[str, str], told: str) -> None:
    space = written(tmp_path, SPACE.replace(*changed).replace("pruner: {name: none}", f"pruner: {{name: {pruner}}}"))
    study = optuna.create_study(direction="maximize", pruner=space.make_pruner())
    if pruner == "none":
        assert go_on(study, space=space).state is TrialState.COMPLETE
    else:
        with pytest.raises(ConfigError, match=told):
            go_on(study, space=space)


def test_where_the_studys_storage_fails_the_trial_is_tried_again(go_on: Next) -> None:
    def fails(config: Any, run: Any) -> None:
        raise StorageInternalError("the connection was closed")

    study = optuna.create_study(direction="maximize")
    with pytest.raises(StorageInternalError):
        go_on(study, objective=fails)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_trial_that_is_asked_for_has_its_name_seed_and_test_scores_and_is_not_pruned(
    store: MlflowClient, go_on: Next, parent: str
) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=2))
    ask_for(study, {"rate": 0.6, "depth": 1}, name="confirm-1", seed=7, test=True)
    trial = go_on(study)
    (run,) = children(store, parent)
    assert run.info.run_name == "cheap s7, confirm-1"
    assert run.data.params == {"rate": "0.6", "depth": "1", "seed": "7"}
    assert trial.value == pytest.approx(0.607)
    assert trial.user_attrs["test_scores"] == {"test/score": pytest.approx(0.507)}


def test_nothing_is_left_of_a_trials_training(go_on: Next, tmp_path: Path) -> None:
    def trains(config: Any, run: Any) -> None:
        (run.folder / "last.pt").write_text("state")
        objective(config, run)

    assert go_on(optuna.create_study(direction="maximize"), objective=trains).state is TrialState.COMPLETE
    assert list((tmp_path / "outputs").iterdir()) == []


def test_the_commonest_reason(go_on: Next) -> None:
    study = optuna.create_study(direction="maximize")
    for how in ("defect", "check", "check"):
        go_on(study, how)
    assert commonest_reason(study.trials) == "TEST_0: too shallow (2 of 3 trials)"


def test_a_trial_that_needs_too_much_memory_fails_in_one_line_and_the_search_goes_on(
    store: MlflowClient, go_on: Next, parent: str, tmp_path: Path
) -> None:
    given = {"phantoms.meningioma_patients": 4, "threads": 1, "device": "cpu", "checkpoint": "base.pt"}
    config = configured("phase1", given, output_dir=tmp_path / "outputs")
    goals = "goals: [{metric: val/final/score, direction: maximize}]\nsampler: {name: random}\npruner: {name: none}\n"
    (tmp_path / "large.yaml").write_text(
        goals + "parameters: {network.feature_size: {type: categorical, choices: [1572864, 3145728]}}"
    )
    large = read_space(tmp_path / "large.yaml", Phase1Config)
    study = optuna.create_study(direction="maximize")
    trial = go_on(study, space=large, config=config, objective=phase1.objective)
    assert trial.state is TrialState.FAIL
    told = commonest_reason([trial])
    assert told.startswith("out of memory with batches of 2 ") and told.endswith("lower data.input_size (1 of 1 trials)")
    (run,) = children(store, parent)
    assert run.info.status == "FAILED"
    assert go_on(study).state is TrialState.COMPLETE


def test_of_trials_that_two_sweeps_asked_for_by_the_same_name_the_first_counts(go_on: Next) -> None:
    study = optuna.create_study(direction="maximize")
    for name in ("confirm-1", "confirm-1", "confirm-2", "confirm-2"):
        ask_for(study, {"rate": 0.6, "depth": 1}, name=name, seed=1, test=False)
    ended = [go_on(study, total=2) for _ in range(3)]
    assert [trial and trial.user_attrs["name"] for trial in ended] == ["confirm-1", "confirm-2", None]
    assert [trial.number for trial in counted(study)] == [0, 2]


def test_values_go_where_their_keys_say_and_have_to_hold() -> None:
    config = Cheap("outputs", 0, "well", 0.5, 2)
    assert with_values(config, {"rate": 0.1, "depth": 3}) == replace(config, rate=0.1, depth=3)
    with pytest.raises(ConfigError, match="depth: found 5; at most 4"):
        with_values(config, {"depth": 5})


def test_the_reporter_passes_all_on(tmp_path: Path, store: MlflowClient, parent: str) -> None:
    class Kept(NullReporter):
        def __init__(self) -> None:
            self.calls: list[tuple[Any, ...]] = []

        def text(self, text: str, path: str) -> None:
            self.calls.append((text, path))

        def file(self, file: Path, folder: str = "") -> None:
            self.calls.append((file, folder))

    kept = Kept()
    reporter = TrialReporter(kept, None, ())
    reporter.text("a", "a.txt")
    reporter.file(tmp_path, "b")
    assert kept.calls == [("a", "a.txt"), (tmp_path, "b")]
