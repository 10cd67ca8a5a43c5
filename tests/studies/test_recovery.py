"""Which runs are recovered and which are refused, and what is run. Training is in tests/end_to_end/test_recover.py."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from medexp.checks import Check, Severity
from medexp.cli import main
from medexp.errors import CheckFailed, CheckpointError, ConfigError, DataError, StorageError
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.recover.config import RecoverConfig
from medexp.studies import recovery
from medexp.tracking.results import log_checks, stop_if_blocked
from medexp.tracking.runs import TrackedRun, tracked_run
from tests.configured import configured, flags, run_phase
from tests.forked import CONTEXT
from tests.runs import artifact, last_run


def ended(how: Callable[[TrackedRun], object], phase: str = "phase1", **changed: object) -> str:
    """The id of a run of a phase that came to what `how` did in it."""
    run_id = ""
    try:
        with tracked_run(phase, replace(configured(phase, output_dir="outputs"), **changed)) as tracked:
            run_id = tracked.id
            how(tracked)
    except BaseException:
        assert run_id
    return run_id


def raising(error: BaseException) -> Callable[[TrackedRun], object]:
    def fail(tracked: TrackedRun) -> None:
        raise error

    return fail


def failing(*ids: str) -> Callable[[TrackedRun], object]:
    """BLOCKING checks that fail, beside one that passes and a DIAGNOSTIC one that fails."""

    def judge(tracked: TrackedRun) -> None:
        checks = [Check(id, "title", Severity.BLOCKING, False, "more", advice=f"Mend {id}.") for id in ids]  # noqa: A001
        checks += [Check("TEST_2.4", "title", Severity.BLOCKING, True, "less")]
        log_checks(tracked, [*checks, Check("TEST_2.6", "title", Severity.DIAGNOSTIC, False, "more")])
        stop_if_blocked(tracked, checks)

    return judge


def recover(**keys: object) -> int:
    return run_phase("recover", output_dir="outputs", **keys)


REFUSED = {
    "data": (raising(DataError("d/case: t2w is missing")), "ended with DataError: d/case: t2w is missing"),
    "flags": (raising(ConfigError("rank: found 0")), "never retried: mend its cause, then run phase1 again"),
    "weights": (raising(CheckpointError("c.pt: does not fit")), "ended with CheckpointError: c.pt: does not fit"),
    "store": (raising(StorageError("the disk is full")), "the disk is full"),
    "defect": (raising(KeyError("fold")), "ended with KeyError: KeyError: 'fold'"),
    "stopped": (
        raising(KeyboardInterrupt()),
        "was interrupted, it did not fail. Go on with it: mlflow run . -e phase1 -P resume=",
    ),
    "passed": (
        lambda tracked: tracked.tag({"medexp.verdict": "PASSED", "medexp.failed_diagnostics": "none"}),
        "is FINISHED, verdict PASSED; there is nothing to",
    ),
    "another check": (failing("TEST_2.1"), "TEST_2.1 failed, which no rung mends. Mend TEST_2.1. The ladder mends TEST_2.5."),
    "a check too many": (failing("TEST_2.5", "TEST_2.2"), "TEST_2.2 failed, which no rung mends"),
}


@pytest.mark.parametrize(("how", "told"), REFUSED.values(), ids=REFUSED)
def test_what_no_rung_mends_is_refused_in_a_line(
    store: MlflowClient, capsys: pytest.CaptureFixture[str], how: Callable[[TrackedRun], object], told: str
) -> None:
    run_id = ended(how)
    assert recover(run=run_id) == 2
    said = capsys.readouterr().err
    assert f"medexp recover: error: run {run_id}: " in said
    assert told in said
    assert store.get_experiment_by_name("recover") is None
    assert not Path("outputs/studies").exists()


def test_a_run_that_goes_on_is_refused(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    def meanwhile(tracked: TrackedRun) -> None:
        assert recover(run=tracked.id) == 2

    ended(meanwhile)
    assert "is RUNNING. Wait for its end; if its process is gone, go on with it" in capsys.readouterr().err


def test_a_run_of_another_phase_or_of_nobody_is_refused(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover(run=ended(raising(DataError("d")), phase="prepare")) == 2
    assert "is a run of prepare; give one of phase1 that failed" in capsys.readouterr().err
    foreign = store.create_run(store.create_experiment("theirs")).info.run_id
    assert recover(run=foreign) == 2
    assert "is a run of another program" in capsys.readouterr().err
    for unknown in ("0" * 32, "x/../y"):
        assert recover(run=unknown) == 2
        assert f"there is no run {unknown!r} in sqlite:///" in capsys.readouterr().err


def test_what_cannot_be_a_recovery_is_told_at_once(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover(phase="probe", search=-1) == 2
    said = capsys.readouterr().err
    for words in ("phase: found 'probe'; phase1 can recover", "run: not given", "search: found -1"):
        assert words in said


def test_several_processes_are_refused(
    store: MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert recover(run="r") == 2
    assert "WORLD_SIZE=2: recovery runs in one process" in capsys.readouterr().err


def test_a_rung_that_makes_no_configuration_is_told_before_anything_is_run(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("ladder.yaml").write_text(
        json.dumps(
            {
                "goal": "val/final/dice_WT",
                "mends": ["TEST_2.5"],
                "rungs": [{"name": "short", "why": "-", "change": {"training.epochs": {"times": 0.5}}}],
                "remedies": {},
                "at_most": 0,
            }
        )
    )
    run_id = ended(failing("TEST_2.5"))
    assert recover(run=run_id, ladder="ladder.yaml") == 2
    said = capsys.readouterr().err
    assert f"the ladder on the configuration of run {run_id}: training.warmup_epochs: found 1; below epochs (1)" in said
    assert store.get_experiment_by_name("recover") is None


def test_a_run_whose_configuration_is_gone_is_refused(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = ended(failing("TEST_2.5"))
    Path(f"outputs/{run_id}/config.yaml").write_text("seed: x\nlora: {rank: 0}\n")
    assert recover(run=run_id) == 2
    said = capsys.readouterr().err
    assert f"config.yaml of run {run_id}: " in said
    assert "seed: found x; expected a whole number" in said
    assert "training.epochs: missing" in said


GOAL = "val/final/dice_WT"
HALVED = {"training.lr_lora": {"times": 0.5}}


def recovery_of(run_id: str, *changes: dict[str, Any], name: str = "a", **changed: object) -> RecoverConfig:
    """Climbs a rung for each change, the first of which is called `name`."""
    rungs = [{"name": rung, "why": "-", "change": change} for rung, change in zip((name, *"bcd"), changes, strict=False)]
    ladder = {"goal": GOAL, "mends": ["TEST_2.5"], "rungs": rungs, "remedies": {}, "at_most": 0}
    Path("ladder.yaml").write_text(json.dumps(ladder))
    return replace(configured("recover", run=run_id, ladder="ladder.yaml", output_dir="outputs"), **changed)


class Trainings:
    """Stands where phase 1 trains; each comes to what the next of `ends` does in its run, the last one for ever."""

    def __init__(self, *ends: Callable[[TrackedRun], object], value: float = 0.5) -> None:
        self.ends, self.value = list(ends), value
        self.configs: list[Phase1Config] = []

    def __call__(self, config: Phase1Config) -> None:
        self.configs.append(config)
        with tracked_run("phase1", config) as tracked:
            tracked.reporter.metrics({GOAL: self.value})
            (self.ends.pop(0) if len(self.ends) > 1 else self.ends[0])(tracked)


def rungs(client: MlflowClient) -> list[Run]:
    """The runs of rungs and searches of all recoveries, the oldest first."""
    (experiment,) = client.search_experiments(filter_string="name = 'recover'")
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [run for run in found if "medexp.rung" in run.data.tags]


def statuses(client: MlflowClient) -> list[tuple[str, str]]:
    """What each is called beside its phase and settings, and its status."""
    assert all(run.info.run_name.startswith("phase1 ") for run in rungs(client))
    return [(run.info.run_name.partition(", ")[2], run.info.status) for run in rungs(client)]


def journal(config: RecoverConfig) -> optuna.storages.JournalStorage:
    file = f"outputs/studies/phase1-recover-{str(config.run)[:8]}.journal"
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file))


def killed_while_it_searches(environment: dict[str, str], folder: str, config: RecoverConfig) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    recovery.recover(config, Trainings(failing("TEST_2.5"), lambda tracked: os.kill(os.getpid(), signal.SIGKILL)))


def test_each_rung_is_on_top_of_the_one_before(store: MlflowClient) -> None:
    trainings = Trainings(failing("TEST_2.5"))
    with pytest.raises(CheckFailed, match="none of 3 runs passed"):
        recovery.recover(recovery_of(ended(failing("TEST_2.5")), HALVED, {"lora.rank": 5}, search=1), trainings)
    assert statuses(store) == [("1 a", "FAILED"), ("2 b", "FAILED"), ("3 search 1", "FAILED")]
    first, second, searched = trainings.configs
    start = configured("phase1")
    assert first.training.lr_lora == second.training.lr_lora == start.training.lr_lora / 2
    assert (first.lora.rank, second.lora.rank) == (start.lora.rank, 5)
    assert (searched.lora.rank, searched.training.lr_lora) != (second.lora.rank, second.training.lr_lora)


def test_what_passed_in_the_search_has_passed_when_it_is_asked_for_again(store: MlflowClient) -> None:
    config = recovery_of(ended(failing("TEST_2.5")), HALVED, search=2)
    trainings = Trainings(failing("TEST_2.5"), failing())
    passed = recovery.recover(config, trainings)
    assert statuses(store) == [("1 a", "FAILED"), ("2 search 1", "FINISHED")]
    assert recovery.recover(config, trainings) == passed
    assert recovery.recover(replace(config, search=0), trainings) == passed
    assert len(trainings.configs) == 2


def test_a_second_recovery_leaves_alone_one_that_searches(store: MlflowClient) -> None:
    config = recovery_of(ended(failing("TEST_2.5")), HALVED, search=1)

    def meanwhile(tracked: TrackedRun) -> None:
        with pytest.raises(ConfigError, match="another recovery is climbing it"):
            recovery.recover(config, Trainings(failing()))
        assert store.get_run(tracked.id).info.status == "RUNNING"
        assert store.get_run(store.get_run(tracked.id).data.tags["mlflow.parentRunId"]).info.status == "RUNNING"

    recovery.recover(config, Trainings(failing("TEST_2.5"), meanwhile))


def test_a_search_that_was_killed_goes_on_with_the_same_settings(
    store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recovery_of(ended(failing("TEST_2.5")), HALVED, search=1)
    process = CONTEXT.Process(target=killed_while_it_searches, args=(dict(os.environ), str(tmp_path), config))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert statuses(store) == [("1 a", "FAILED"), ("2 search 1", "RUNNING")]
    recovery.recover(config, Trainings(failing()))
    assert statuses(store) == [("1 a", "FAILED"), ("2 search 1", "KILLED"), ("2 search 1", "FINISHED")]
    _, killed, again = rungs(store)
    study = optuna.load_study(study_name=f"phase1-recover-{str(config.run)[:8]}-search", storage=journal(config))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert killed.data.params["training.lr_lora"] == again.data.params["training.lr_lora"]
    assert f"Run {killed.info.run_id} was left running by a recovery that was killed" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"lora.target_stages": {"add": [3]}}, {"lora.lora_dropout": 0.0, **HALVED}])
def test_a_search_where_there_is_little_to_search_ends_in_diagnostics(
    store: MlflowClient, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    config = recovery_of(ended(failing("TEST_2.5")), change, name="150", search=1)
    trainings = Trainings(failing("TEST_2.5"))
    with pytest.raises(CheckFailed, match=f"none of {len(change)} runs passed"):
        recovery.recover(config, trainings)
    assert len(trainings.configs) == len(change)
    assert ("there is nothing to search" in capsys.readouterr().out) == (len(change) == 1)
    assert trainings.configs[-1].lora.lora_dropout == (0.1 if len(change) == 1 else 0.0)
    assert list(Path("mlruns").glob("**/diagnostics.md"))


def test_what_no_rung_mends_ends_the_search_too(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    config = recovery_of(ended(failing("TEST_2.5")), HALVED, search=3)
    trainings = Trainings(failing("TEST_2.5"), failing("TEST_2.1"))
    for _ in range(2):
        with pytest.raises(CheckFailed, match="none of 2 runs passed"):
            recovery.recover(config, trainings)
        assert "TEST_2.1 failed, which no rung mends" in capsys.readouterr().out
    trainings = Trainings(failing("TEST_2.1"))
    with pytest.raises(CheckFailed, match="none of 1 runs passed"):
        recovery.recover(replace(config, study="another"), trainings)


def test_a_value_that_is_no_number_is_none(store: MlflowClient) -> None:
    config = recovery_of(ended(failing("TEST_2.5")), HALVED, search=1)

    with pytest.raises(CheckFailed, match="none of 1 runs passed"):
        recovery.recover(config, Trainings(failing("TEST_2.5"), value=float("nan")))


@pytest.mark.parametrize("recover", [True, False])
def test_a_phase_asks_its_ladder_only_where_it_is_told_to_recover(
    store: MlflowClient, capsys: pytest.CaptureFixture[str], recover: bool
) -> None:
    fails = Trainings(failing("TEST_2.2"))
    assert main("phase1", flags(recover=str(recover).lower(), output_dir="outputs"), run=fails) == 3
    refused = "medexp phase1: not recovered: " in capsys.readouterr().err
    assert refused == recover and len(fails.configs) == 1
    assert store.get_experiment_by_name("recover") is None


def test_a_recovery_says_what_can_be_done_next(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    """A search where no rung passed, by a command that its own report has too; nothing where one was made already."""
    config = recovery_of(ended(failing("TEST_2.5")), HALVED)
    with pytest.raises(CheckFailed):
        recovery.recover(config, Trainings(failing("TEST_2.5")))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Next, search around the best rung:")]
    assert f"-P run={config.run}" in line and "-P search=12" in line
    (kept,) = store.search_runs([last_run(store, "recover").info.experiment_id], "tags.`medexp.phase` = 'recover'")
    assert json.loads(artifact(kept, "summary.json").read_text())["following"] == [line]
    with pytest.raises(CheckFailed):
        recovery.recover(replace(config, search=1), Trainings(failing("TEST_2.5")))
    assert "Next, search" not in capsys.readouterr().out


def test_a_cache_that_is_given_is_the_one_that_is_used(store: MlflowClient) -> None:
    run_id = ended(failing("TEST_2.5"), cache_dir="theirs")
    trainings = Trainings(failing("TEST_2.5"), failing())
    with pytest.raises(CheckFailed):
        recovery.recover(recovery_of(run_id, HALVED), trainings)
    recovery.recover(recovery_of(run_id, HALVED, cache_dir="ours", study="another"), trainings)
    assert [config.cache_dir for config in trainings.configs] == ["theirs", "ours"]


def test_it_says_how_it_goes_on(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = ended(failing("TEST_2.5"))
    given = {"study": "mine", "storage": "sqlite:///secret.db", "output_dir": "out puts"}
    Path("outputs").rename("out puts")
    recovery.recover(recovery_of(run_id, HALVED, **given), Trainings(failing()))
    command = f"mlflow run . -e recover -P phase=phase1 -P run={run_id} -P ladder=ladder.yaml -P study=mine -P storage=URL"
    assert f"Interrupted, it goes on with: {command} -P 'output_dir=out puts'\n" in capsys.readouterr().out
