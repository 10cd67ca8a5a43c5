"""Recovery: climb a phase's ladder from a run that failed, until a rung passes all BLOCKING checks, or say why none did."""

import hashlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import optuna
from optuna.study import get_all_study_names
from optuna.trial import TrialState
from pydantic import TypeAdapter

from medexp import phases
from medexp.addresses import local_path
from medexp.checks import DIAGNOSTICS, VERDICT, Severity
from medexp.checks import told as verdict_of
from medexp.config.flags import flags
from medexp.config.keys import Role, flat, marked, value_of
from medexp.config.shared import Recoverable
from medexp.errors import CheckFailed, ConfigError, MedexpError, OutOfMemory, TrainingDiverged, all_problems
from medexp.files import parse_yaml
from medexp.phases.recover.config import RecoverConfig
from medexp.phases.shared.launch import forget_precision
from medexp.phases.shared.reported import reported_run
from medexp.report.summary import SUMMARY, Summary, from_record, log_record
from medexp.studies.diagnostics import Attempt, describe, diagnose, said, show
from medexp.studies.ladder import AS_IT_WAS, Fault, Ladder, Rung, changed, differences, phase_config, read_ladder
from medexp.studies.space import Space, suggest
from medexp.studies.study import ask, open_study, place_of, recover_dead
from medexp.tracking.killed import end_run
from medexp.tracking.past import PastRun, artifact, figure, past_run, runs_like, tag_run
from medexp.tracking.results import HEADLINE, log_summary
from medexp.tracking.runs import TrackedRun, runs_tagged
from medexp.tracking.ui import next_line

_FAULTS: Mapping[type[MedexpError], Fault] = {OutOfMemory: "out_of_memory", TrainingDiverged: "diverged"}
_MAY_BE_MENDED = (CheckFailed, OutOfMemory, TrainingDiverged)
_SPREAD = 3.0  # of a rate in the search around a rung, up and down


@dataclass(frozen=True)
class Climb:
    """A recovery that is going on.

    Attributes:
        config: Its configuration.
        ladder: The ladder.
        failed: The run that failed.
        fault: What it failed of before it came to its checks; None where a check failed.
        start: Its configuration: what the ladder stands on.
        run_phase: Runs the phase with a configuration.
        tracked: The run of the recovery.
        study: Optuna's study, which holds a trial a rung, and the attempts.
        attempts: What was run so far, in earlier calls too.
    """

    config: RecoverConfig
    ladder: Ladder
    failed: PastRun
    fault: Fault | None
    start: Recoverable
    run_phase: Callable[[Any], None]
    tracked: TrackedRun
    study: optuna.Study
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def faults(self) -> list[Fault]:
        """All that was met and has a remedy, the failed run's included."""
        met = [attempt.outcome for attempt in self.attempts if attempt.rung in self.names]
        return [fault for fault in (self.fault, *met) if fault in get_args(Fault)]  # type: ignore[misc]

    @property
    def rungs(self) -> list[Rung]:
        """What is climbed: the failed run's own configuration first, where a remedy alone may do."""
        as_it_was = Rung(AS_IT_WAS, "the configuration that failed, with the remedy", {})
        return [*([as_it_was] if self.fault else []), *self.ladder.rungs]

    @property
    def names(self) -> list[str]:
        return [rung.name for rung in self.rungs]

    @property
    def passed(self) -> Attempt | None:
        """The run that passed all BLOCKING checks, with which the recovery ends."""
        return next((attempt for attempt in self.attempts if attempt.outcome == "PASSED"), None)

    @property
    def stopped_by(self) -> list[str]:
        """The BLOCKING checks that the last run failed and that no rung mends."""
        failed = blocking(self.attempts[-1].run) if self.attempts and self.attempts[-1].outcome == "FAILED" else {}
        return sorted(failed.keys() - set(self.ladder.mends))

    @property
    def search_name(self) -> str:
        """Name of the study of the search, which lives where the rungs' does."""
        return f"{self.study.study_name}-search"


def run(config: RecoverConfig) -> None:
    """The whole recovery; `RecoverConfig` says what can be set.

    Raises:
        CheckFailed: No rung passed; the recovery's run holds the diagnostics.
        ConfigError: The run is none that recovery can mend, or the ladder does not hold.
    """
    recover(config)


def recover(config: RecoverConfig, run_phase: Callable[[Any], None] | None = None) -> str:
    """Recover from a failed run.

    Args:
        config: What to recover, and how.
        run_phase: Runs the phase with the configuration that a rung makes of it; None: as its entry point does.

    Returns:
        The id of the run that passed all BLOCKING checks; its models are registered and nominated.

    Raises:
        CheckFailed: No rung passed.
        ConfigError: There is nothing to recover, or nothing that a rung mends.
    """
    _in_one_process()
    ladder = read_ladder(config.phase, config.ladder)
    assert config.run is not None
    failed = past_run(config.run)
    fault = what_failed(failed, config.phase, ladder)
    start = replace(_configuration_of(failed, config), resume=None, recover=False, output_dir=config.output_dir)
    start = replace(start, cache_dir=config.cache_dir or start.cache_dir)
    changed(start, [rung.change for rung in ladder.rungs], f"the ladder on the configuration of run {failed.id}")
    name = config.study or f"{config.phase}-recover-{failed.id[:8]}"
    run_phase = run_phase or importlib.import_module(f"medexp.phases.{config.phase}").run
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = _space(ladder, {"rung": {"type": "categorical", "choices": [AS_IT_WAS, *(rung.name for rung in ladder.rungs)]}})
    study = open_study(name, config.storage, config.phase, space, config.seed, _folder(config))
    _same_start(study, ladder, start)
    with runs_tagged({"medexp.study": name, "medexp.recovers": failed.id}), reported_run("recover", config) as tracked:
        attempts = [Attempt(**kept) for kept in study.user_attrs.get("attempts", [])]
        climb = Climb(config, ladder, failed, fault, start, run_phase, tracked, study, attempts)
        _clear_up(climb)
        _say_what_there_is(climb)
        if not climb.passed:
            up(climb, space)
        if not climb.passed and not climb.stopped_by:
            around_the_best(climb)
        return conclude(climb)


def run_or_recover(phase: str, config: Recoverable, run_phase: Callable[[Any], None], study: str | None = None) -> str | None:
    """Run a phase, and recover by itself when it fails of something that its ladder may mend.

    Args:
        phase: Name of the phase.
        config: Its configuration; nothing is recovered unless its `recover` is true.
        run_phase: Runs it.
        study: Name of the study of the recovery; without it one is made of the run that failed.

    Returns:
        The id of the run that passed, where it was a rung's; None when the phase passed by itself.

    Raises:
        MedexpError: What the phase raises and no rung mends.
        CheckFailed: No rung passed.
    """
    if not config.recover:
        run_phase(config)
        return None
    _in_one_process()
    ladder = read_ladder(phase)  # one that does not hold is told before anything is trained
    try:
        run_phase(config)
    except _MAY_BE_MENDED as error:
        if error.run is None:
            raise
        try:
            what_failed(past_run(error.run), phase, ladder)
        except ConfigError as refusal:
            print(f"medexp {phase}: not recovered: {refusal}", file=sys.stderr)
            raise error from None
        print(f"medexp {phase}: {error}", file=sys.stderr)
        return recover(
            RecoverConfig(
                profile=config.profile,
                phase=phase,
                run=error.run,
                ladder=None,
                search=0,
                study=study,
                storage=None,
                output_dir=config.output_dir,
                cache_dir=config.cache_dir,
                seed=config.seed,
            )
        )
    return None


def what_failed(run: PastRun, phase: str, ladder: Ladder) -> Fault | None:
    """What a run failed of: a fault that has a remedy, or None for BLOCKING checks that a rung may mend.

    Raises:
        ConfigError: It is no failed run of the phase, or it failed of what no change of settings mends.
    """
    subject, tags = f"run {run.id}", run.tags
    resume = f"mlflow run . -e {phase} -P resume={run.id}"
    if tags.get("medexp.phase") != phase:
        raise ConfigError(
            f"{subject}: is a run of {tags.get('medexp.phase', 'another program')}; give one of {phase} that failed"
        )
    if run.status == "RUNNING":
        raise ConfigError(f"{subject}: is RUNNING. Wait for its end; if its process is gone, go on with it: {resume}")
    if run.status == "KILLED":
        raise ConfigError(f"{subject}: was interrupted, it did not fail. Go on with it: {resume}")
    if run.status != "FAILED":
        judged = (
            f", verdict {said_of_checks}" if (said_of_checks := verdict_of(tags.get(VERDICT), tags.get(DIAGNOSTICS))) else ""
        )
        raise ConfigError(f"{subject}: is {run.status}{judged}; there is nothing to recover")
    kind, told = tags.get("medexp.error_type", "unknown"), tags.get("medexp.error", "").partition("\n")[0]
    for error, fault in _FAULTS.items():
        if kind == error.__name__:
            if fault not in ladder.remedies:
                raise ConfigError(f"{subject}: {told}. The ladder has no remedy for {fault}; add one to its remedies")
            return fault
    if kind != CheckFailed.__name__:
        raise ConfigError(
            f"{subject}: ended with {kind}: {told}\nThat is no matter of settings and is never retried: mend its cause, then "
            f"run {phase} again"
        )
    if beyond := {check: advice for check, advice in blocking(run.id).items() if check not in ladder.mends}:
        failed = [f"{check} failed, which no rung mends. {advice}" for check, advice in beyond.items()]
        raise ConfigError(all_problems(subject, failed, f"The ladder mends {', '.join(ladder.mends)}."))
    return None


def blocking(run_id: str) -> dict[str, str]:
    """The BLOCKING checks that a run failed, each with its advice."""
    with tempfile.TemporaryDirectory() as folder:
        file = artifact(run_id, "checks.json", Path(folder))
        checks = json.loads(file.read_text(encoding="utf-8")) if file else []
    return {check["id"]: check["advice"] for check in checks if not check["passed"] and check["severity"] == Severity.BLOCKING}


def up(climb: Climb, space: Space) -> None:
    """Climb, rung upon rung, until one passes; what was done in an earlier call is not done again."""
    below = climb.start
    for place, rung in enumerate(climb.rungs):
        on_top = [one.change for one in climb.rungs[: place + 1]]
        before = below
        while True:
            if climb.passed or _is_stopped(climb):
                return
            remedies = [climb.ladder.remedies[fault] for fault in climb.faults]
            try:
                config = changed(climb.start, [*on_top, *remedies], f"rung {rung.name!r}")
            except ConfigError as error:
                print(f"{error}\nNo rung stands on that.")
                return
            done = next((one for one in reversed(climb.attempts) if one.rung == rung.name), None)
            if done and done.outcome == "FAILED":
                break
            if len(climb.faults) > climb.ladder.at_most:
                print(f"remedies were taken {climb.ladder.at_most} times, which is all that the ladder allows")
                return
            if not differences(below, config):
                print(f"{rung.name}: changes nothing here, and is skipped")
                break
            with _trial(climb.study, rung.name) as trial:
                suggest(trial, space)
                _told(climb.study, trial, attempt(climb, rung.name, before, config))
            before = config
        below = config


def around_the_best(climb: Climb) -> None:
    """Sampled trials around the best rung, as many as were asked for, until one passes."""
    if not climb.config.search:
        return
    judged = [one for one in climb.attempts if one.value is not None and one.rung in climb.names]
    if not judged:
        print(f"search: no rung came as far as {climb.ladder.goal}; there is no best one to search around")
        return
    best = max(judged, key=lambda one: one.value or 0.0)
    phase = climb.config.phase
    base = changed(climb.start, [{key: after for key, (_, after) in best.settings.items()}], f"rung {best.rung!r}")
    near = _near(base, {key for rung in climb.ladder.rungs for key in rung.change})
    if not near:
        print("search: the ladder changes no number above 0; there is nothing to search")
        return
    space, seed = _space(climb.ladder, near), climb.config.seed + len(climb.attempts)  # gone on with, it draws others
    where = place_of(climb.study.study_name, climb.config.storage, _folder(climb.config))
    study = open_study(climb.search_name, where, phase, space, seed, _folder(climb.config))
    for number in range(len(_tried(study)), climb.config.search):
        with _trial(study, None) as trial:
            values = suggest(trial, space)
            try:
                config = changed(base, [values], f"search {number + 1}")
            except ConfigError as error:
                print(f"\n{error}\nThat is no configuration, and is not run.")
                trial.set_user_attr("unfit", str(error))
                study.tell(trial, state=TrialState.FAIL)
                continue
            _told(study, trial, attempt(climb, f"search {number + 1}", base, config))
        if climb.passed or _is_stopped(climb):
            return


def attempt(climb: Climb, name: str, before: Recoverable, config: Recoverable) -> Attempt:
    """Run the phase with a rung's configuration, as a run in the recovery's, and keep what it came to.

    Raises:
        MedexpError: What no rung would be spared: bad data, a store that does not answer.
    """
    change = {key: list(values) for key, values in differences(before, config).items()}
    print(f"\n{name}: {said(change)}")
    outcome, told = "PASSED", ""
    forget_precision()
    try:
        with runs_tagged({"medexp.rung": name}, f"{len(climb.attempts) + 1} {name}"):
            climb.run_phase(replace(config, resume=_interrupted(climb, name, config)))
    except _MAY_BE_MENDED as error:
        outcome, told = _FAULTS.get(type(error), "FAILED"), str(error).replace("\n  - ", " ").partition(". ")[0]
    made = runs_like(climb.tracked.id, {"mlflow.parentRunId": climb.tracked.id, "medexp.rung": name})[-1]
    settings = {key: list(values) for key, values in differences(climb.start, config).items()}
    value = figure(made, climb.ladder.goal)
    ended = Attempt(name, made.id, outcome, value, change, settings, told, made.tags.get(DIAGNOSTICS, ""))
    climb.attempts.append(ended)
    climb.study.set_user_attr("attempts", [vars(one) for one in climb.attempts])
    if value is not None:
        climb.tracked.reporter.metrics({climb.ladder.goal: value}, len(climb.attempts))
    goal = f", {climb.ladder.goal} {value:.3f}" if value is not None else ""
    print(f"{name}: {ended.came_to}{goal}{f' ({told})' if told else ''}")
    return ended


def conclude(climb: Climb) -> str:
    """What the recovery came to, in its run and in the terminal.

    Raises:
        CheckFailed: No rung passed.
    """
    tracked, passed = climb.tracked, climb.passed
    tracked.tag(passed.tags if passed else {VERDICT: "FAILED"})
    if not passed and climb.attempts and climb.attempts[-1].diagnostics:
        tracked.tag({DIAGNOSTICS: climb.attempts[-1].diagnostics})
    tracked.reporter.table(describe(climb.failed, climb.attempts, climb.ladder.goal), "rungs.csv")
    shown = phases.phase(climb.config.phase).diagnosis
    report = diagnose(tracked, climb.failed, climb.attempts, climb.ladder, shown, passed.run if passed else None)
    log_summary(tracked, report)
    about = f"recovery of run {climb.failed.name} of {climb.config.phase}"
    lines = following(climb)
    log_record(tracked.reporter, Summary(about, "", (), (), ()), lines)
    show(climb.failed, climb.attempts, climb.ladder.goal)
    print(f"Run: {tracked.id}, files in {tracked.folder}")
    print(f"Next, browse it:  {next_line(tracked)}")
    if passed:
        tag_run(climb.failed.id, {"medexp.recovered_by": passed.run})
        headline = past_run(passed.run).tags.get(HEADLINE)
        tracked.tag({HEADLINE: headline} if headline else {})
        print(f"Recovered: run {passed.run} ({passed.rung}) passes all BLOCKING checks")
        return passed.run
    print(*lines, sep="\n")
    raise CheckFailed(
        f"recovery of run {climb.failed.id}: none of {len(climb.attempts)} runs passed all BLOCKING checks. What each of them "
        f"changed and what that did is in diagnostics.md of run {tracked.id}; nothing was promoted"
    )


def following(climb: Climb) -> Sequence[str]:
    """What can be done next: what the run that passed says, or a search around the best rung, where there was none."""
    if climb.passed:
        with tempfile.TemporaryDirectory() as folder:
            kept = artifact(climb.passed.run, SUMMARY, Path(folder))
            return from_record(json.loads(kept.read_text(encoding="utf-8"))).following if kept else ()
    if climb.config.search or climb.stopped_by or all(one.value is None for one in climb.attempts):
        return ()
    return [f"Next, search around the best rung: {_command(replace(climb.config, search=12))}"]


def _in_one_process() -> None:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(f"WORLD_SIZE={os.environ['WORLD_SIZE']}: recovery runs in one process. Leave the launcher out")


def _configuration_of(failed: PastRun, config: RecoverConfig) -> Any:
    """The configuration that the run was made with: from its folder, else from its artifacts."""
    file = local_path(config.output_dir) / failed.id / "config.yaml"
    with tempfile.TemporaryDirectory() as folder:
        there = file if file.is_file() else artifact(failed.id, "config.yaml", Path(folder))
        if there is None:
            raise ConfigError(f"run {failed.id}: has no config.yaml, neither at {file} nor among its artifacts")
        content = parse_yaml(there.read_text(encoding="utf-8"))
    return phase_config(config.phase, {"recover": False, **content}, f"config.yaml of run {failed.id}")


def _space(ladder: Ladder, parameters: Mapping[str, Any]) -> Space:
    content = {"goals": [{"metric": ladder.goal, "direction": "maximize"}], "parameters": dict(parameters)}
    content |= {"sampler": {"name": "tpe"}, "pruner": {"name": "none"}}
    return TypeAdapter(Space).validate_python(content)


def _near(base: Recoverable, keys: set[str]) -> dict[str, Any]:
    """A small space around a configuration: of the numbers above 0 that the ladder changes."""
    space: dict[str, Any] = {}
    for key in sorted(keys):
        value = value_of(base, key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            continue
        if isinstance(value, float):
            space[key] = {"type": "float", "low": value / _SPREAD, "high": value * _SPREAD, "log": True}
        else:
            space[key] = {"type": "int", "low": -(-value // 2), "high": 2 * value}
    return space


def _same_start(study: optuna.Study, ladder: Ladder, start: Recoverable) -> None:
    """A study's rungs are those of one ladder on one configuration."""
    where = marked(type(start), Role.WHERE)
    told = json.dumps([repr(ladder), repr({key: value for key, value in flat(start).items() if key not in where})])
    digest = hashlib.sha256(told.encode()).hexdigest()
    there = study.user_attrs.get("start", digest)
    if there != digest:
        raise ConfigError(
            f"study {study.study_name}: climbed another ladder, or from another configuration. Name another one: study=NAME"
        )
    study.set_user_attr("start", digest)


@contextmanager
def _trial(study: optuna.Study, rung: str | None) -> Iterator[optuna.Trial]:
    """The next trial, of a rung where one is given; it fails when it is interrupted."""
    if rung is not None and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial({"rung": rung})
    trial = ask(study)
    try:
        yield trial
    except BaseException:
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


def _told(study: optuna.Study, trial: optuna.Trial, made: Attempt) -> None:
    trial.set_user_attr("run", made.run)
    trial.set_user_attr("outcome", made.outcome)
    study.tell(trial, made.value, TrialState.FAIL if made.value is None else TrialState.COMPLETE)


def _tried(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials of a search that were not interrupted."""
    return [trial for trial in study.get_trials(deepcopy=False) if {"run", "unfit"} & trial.user_attrs.keys()]


def _clear_up(climb: Climb) -> None:
    """End what a killed recovery of this study left running, be it a rung or a trial of the search.

    Raises:
        ConfigError: Another one is climbing.
    """
    studies = [climb.study]
    storage = climb.study._storage
    if climb.search_name in get_all_study_names(storage):
        studies.append(optuna.load_study(study_name=climb.search_name, storage=storage))
    for study in studies:
        recover_dead(study)
        if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            raise ConfigError(
                f"study {climb.study.study_name}: another recovery is climbing it. Wait for its end, or name another: "
                "study=NAME"
            )
    for run in runs_like(climb.tracked.id, {"medexp.study": climb.study.study_name}):
        if run.status == "RUNNING" and run.id != climb.tracked.id:
            print(f"Run {run.id} was left running by a recovery that was killed; it is ended KILLED")
            end_run(run.id)


def _is_stopped(climb: Climb) -> bool:
    if stopped_by := climb.stopped_by:
        print(f"{', '.join(stopped_by)} failed, which no rung mends")
    return bool(stopped_by)


def _folder(config: RecoverConfig) -> Path:
    return local_path(config.output_dir).absolute()


def _interrupted(climb: Climb, name: str, config: Recoverable) -> str | None:
    """An interrupted run of the same rung with the same settings that left something to go on from."""
    known = {attempt.run for attempt in climb.attempts}
    tags = {"medexp.study": climb.study.study_name, "medexp.rung": name}
    for run in reversed(runs_like(climb.tracked.id, tags)):
        folder = local_path(climb.config.output_dir) / run.id
        if run.id not in known and run.status == "KILLED" and (folder / "state").is_dir():
            content = parse_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
            if not differences(phase_config(climb.config.phase, content, run.id), config):
                return run.id
    return None


def _say_what_there_is(climb: Climb) -> None:
    ladder = ", ".join(climb.names)
    kept = f"; {len(climb.attempts)} runs are done and kept" if climb.attempts else ""
    failed = climb.fault or ", ".join(blocking(climb.failed.id)) or "a BLOCKING check"
    print(f"Recovering run {climb.failed.id} ({failed}) in study {climb.study.study_name}: {ladder}{kept}", flush=True)
    print(f"Interrupted, it goes on with: {_command(climb.config)}", flush=True)


def _command(config: RecoverConfig) -> str:
    """The command that goes on with a recovery, and tells no password of a database."""
    usual = parse_yaml(phases.phase("recover").profile("demo").read_text(encoding="utf-8")) | {
        "profile": "demo",
        "phase": None,
    }
    given = {key: str(value) for key, value in asdict(config).items() if value != usual[key]}
    return f"mlflow run . -e recover {flags({key: 'URL' if '://' in value else value for key, value in given.items()})}"
