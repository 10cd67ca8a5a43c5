"""Which runs are recovered and which are refused, by what they failed of. Training is in tests/end_to_end/test_recover.py."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medexp.checks import Check, Severity
from medexp.cli import main
from medexp.config import Phase1Config, PrepareConfig, RecoverConfig
from medexp.errors import CheckpointError, ConfigError, DataError, StorageError
from medexp.tracking.results import log_checks, stop_if_blocked
from medexp.tracking.runs import TrackedRun, tracked_run

taken: list = []


def hold(config: object) -> None:
    taken.append(config)


def ended(how: Callable[[TrackedRun], object], phase: str = "phase1", **changed: object) -> str:
    """The id of a run of a phase that came to what `how` did in it."""
    classes = {"phase1": Phase1Config, "prepare": PrepareConfig}
    assert main(phase, classes[phase], f"{__name__}:hold", ["--output_dir", "outputs"]) == 0
    run_id = ""
    try:
        with tracked_run(phase, replace(taken.pop(), **changed)) as tracked:
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


def recover(*flags: str) -> int:
    return main("recover", RecoverConfig, "medexp.studies.recovery:run", ["--output_dir", "outputs", *flags])


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
    "passed": (lambda tracked: tracked.tag({"medexp.verdict": "PASSED"}), "is FINISHED, verdict PASSED; there is nothing to"),
    "another check": (failing("TEST_2.1"), "TEST_2.1 failed, which no rung mends. Mend TEST_2.1. The ladder mends TEST_2.5."),
    "a check too many": (failing("TEST_2.5", "TEST_2.2"), "TEST_2.2 failed, which no rung mends"),
}


@pytest.mark.parametrize(("how", "told"), REFUSED.values(), ids=REFUSED)
def test_what_no_rung_mends_is_refused_in_a_line(
    store: MlflowClient, capsys: pytest.CaptureFixture[str], how: Callable[[TrackedRun], object], told: str
) -> None:
    run_id = ended(how)
    assert recover("--run", run_id) == 2
    said = capsys.readouterr().err
    assert f"medexp recover: error: run {run_id}: " in said
    assert told in said
    assert store.get_experiment_by_name("recover") is None
    assert not Path("outputs/studies").exists()


def test_a_run_that_goes_on_is_refused(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    def meanwhile(tracked: TrackedRun) -> None:
        assert recover("--run", tracked.id) == 2

    ended(meanwhile)
    assert "is RUNNING. Wait for its end; if its process is gone, go on with it" in capsys.readouterr().err


def test_a_run_of_another_phase_or_of_nobody_is_refused(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover("--run", ended(raising(DataError("d")), phase="prepare")) == 2
    assert "is a run of prepare; give one of phase1 that failed" in capsys.readouterr().err
    foreign = store.create_run(store.create_experiment("theirs")).info.run_id
    assert recover("--run", foreign) == 2
    assert "is a run of another program" in capsys.readouterr().err
    for unknown in ("0" * 32, "x/../y"):
        assert recover("--run", unknown) == 2
        assert f"there is no run {unknown!r} in sqlite:///" in capsys.readouterr().err


def test_what_cannot_be_a_recovery_is_told_at_once(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover("--phase", "probe", "--search", "-1") == 2
    said = capsys.readouterr().err
    for words in ("phase: found 'probe'; phase1 can recover", "run: not given", "search: found -1"):
        assert words in said


def test_several_processes_are_refused(
    store: MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert recover("--run", "r") == 2
    assert "WORLD_SIZE=2: recovery runs in one process" in capsys.readouterr().err


def test_a_rung_that_makes_no_configuration_is_told_before_anything_is_run(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("ladder.yaml").write_text(
        json.dumps(
            {
                "goal": "val/best/dice_WT",
                "mends": ["TEST_2.5"],
                "rungs": [{"name": "short", "why": "-", "change": {"training.epochs": {"times": 0.5}}}],
                "remedies": {},
                "at_most": 0,
            }
        )
    )
    run_id = ended(failing("TEST_2.5"))
    assert recover("--run", run_id, "--ladder", "ladder.yaml") == 2
    said = capsys.readouterr().err
    assert f"the ladder on the configuration of run {run_id}: training.warmup_epochs: found 1; below epochs (1)" in said
    assert store.get_experiment_by_name("recover") is None


def test_a_run_whose_configuration_is_gone_is_refused(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = ended(failing("TEST_2.5"))
    Path(f"outputs/{run_id}/config.yaml").write_text("seed: x\nlora: {rank: 0}\n")
    assert recover("--run", run_id) == 2
    said = capsys.readouterr().err
    assert f"config.yaml of run {run_id}: " in said
    assert "seed: found 'x'" in said
    assert "training is missing" in said
