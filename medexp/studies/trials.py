"""One trial of a study: a child run with what was sampled, what was measured, and how it ended."""

import logging
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from medexp.addresses import local_path
from medexp.config.keys import flat
from medexp.config.shared import Configuration
from medexp.config.validate import made
from medexp.errors import ConfigError, MedexpError, Pruned, TrainingDiverged, UnfitValues, all_problems
from medexp.reporting import Reporter
from medexp.studies.space import Goal, Space, suggest
from medexp.studies.study import GIVEN, ask
from medexp.tracking.results import intervals_of
from medexp.tracking.runs import called, child_run, store_failures

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)
C = TypeVar("C", bound=Configuration)
Objective = Callable[..., None]
"""What a trial runs, `medexp.phases.<phase>.objective`: called with its configuration and its run, and `test=True` or not."""


@dataclass(frozen=True)
class TrialReporter:
    """Implements `medexp.reporting.Reporter`: passes all on to the run's, keeps what was logged last, and prunes.

    Pruning goes by the goal's figure after each validated epoch (`Goal.watched`). Optuna is told how often it was logged, not
    the step: with another batch size a step is another epoch.

    Attributes:
        reporter: The run's.
        trial: The trial; None: it is not pruned.
        goals: The study's goals; a study with two of them is not pruned.
        logged: The last value of each metric.
        stepwise: Names of those that were logged step by step.
        seen: What pruning goes by, so far.
    """

    reporter: Reporter
    trial: optuna.Trial | None
    goals: Sequence[Goal]
    logged: dict[str, float] = field(default_factory=dict)
    stepwise: set[str] = field(default_factory=set)
    seen: list[float] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.reporter.metrics(values, step)
        self.logged.update(values)
        if step:
            self.stepwise.update(values)
        watched = self.goals[0].watched
        if self.trial is None or watched not in values or step == 0 or len(self.goals) > 1:
            return
        self.seen.append(values[watched])
        self.trial.report(values[watched], len(self.seen))
        if self.trial.should_prune():
            self.trial.set_user_attr("pruned_step", step)
            raise Pruned(f"pruned at step {step}: {watched} was {values[watched]:.4g}")

    def figure(self, figure: "Figure", path: str) -> None:
        self.reporter.figure(figure, path)

    def image(self, figure: "Figure", key: str, step: int) -> None:
        self.reporter.image(figure, key, step)

    def table(self, table: "pd.DataFrame", path: str) -> None:
        self.reporter.table(table, path)

    def text(self, text: str, path: str) -> None:
        self.reporter.text(text, path)

    def file(self, file: Path, folder: str = "") -> None:
        self.reporter.file(file, folder)

    def flush(self) -> None:
        self.reporter.flush()


def run_trial(
    trial: optuna.Trial, space: Space, phase: str, config: Configuration, parent_id: str, objective: Objective
) -> list[float]:
    """A trial as a child run of `parent_id`: what was sampled as its parameters, its metrics, and where it was pruned.

    A trial with the user attributes `name` and `seed` has that name and is trained with that seed, to its end; with `test` it
    is scored on the test split too, and its user attributes `test_scores` and `test_intervals` say what came out.

    Args:
        trial: The trial.
        space: What is searched.
        phase: The phase, for the name of the run.
        config: Its configuration, which the sampled values are put into.
        parent_id: The run of the sweep.
        objective: What is run with the trial's configuration.

    Returns:
        The value of each goal.

    Raises:
        Pruned: The trial is not worth going on with.
        UnfitValues: The sampled values make no configuration.
        ConfigError: A goal was never logged, or what pruning goes by was not logged step by step.
        TrainingDiverged: A goal is not finite.
        StorageError: The tracking store does not answer, or the disk is full.
        Exception: What the objective raises.
    """
    values = suggest(trial, space)
    name, seed, test = (trial.user_attrs.get(key) for key in GIVEN)
    params = {key: str(list(value) if isinstance(value, tuple) else value) for key, value in values.items()}
    params |= {} if seed is None else {"seed": str(seed)}
    tags = {"medexp.study": trial.study.study_name, "medexp.trial": str(trial.number)}
    folder = local_path(config.output_dir)
    said = name or f"trial {trial.number}"
    kept = "Finished trials are kept: when the cause is gone, run it again with the same study"
    with (
        store_failures(folder, kept),
        child_run(parent_id, said, folder, params, tags) as run,
    ):
        trial.set_user_attr("run", run.id)
        watching = TrialReporter(run.reporter, trial if seed is None else None, space.goals)
        try:
            changed = with_values(config, values if seed is None else {**values, "seed": seed})
            run.tag({"mlflow.runName": called(phase, changed, said)})
            objective(changed, replace(run, reporter=watching), **({"test": True} if test else {}))
            figures = intervals_of(run)
            once = {row["metric"]: row["estimate"] for row in figures}
            passed_on = set(watching.logged)
            watching.logged.update({name: math.nan if value is None else value for name, value in once.items()})
            if test:
                scores = {key: value for key, value in watching.logged.items() if key.startswith("test/")}
                trial.set_user_attr("test_scores", scores)
                trial.set_user_attr("test_intervals", [row for row in figures if row["low"] is not None])
            found = _values_of(space, watching)
            goals = [goal.metric for goal in space.goals if goal.metric not in passed_on]
            run.reporter.metrics({name: watching.logged[name] for name in goals})  # by which the study's runs are compared
            return found
        except Pruned:
            run.tag({"medexp.pruned_step": str(trial.user_attrs["pruned_step"])})
            raise
        finally:
            shutil.rmtree(run.folder, ignore_errors=True)  # the state of a training that nobody goes on with


def next_trial(
    study: optuna.Study, space: Space, phase: str, config: Configuration, parent_id: str, objective: Objective, total: int
) -> FrozenTrial | None:
    """Run the next trial of a study and tell the study what it came to; a trial that fails is one of the study's trials.

    Args:
        study: The study; a trial that waits in it comes first.
        space: As for `run_trial`, like all others.
        phase: The phase.
        config: Its configuration.
        parent_id: The run of the sweep.
        objective: What a trial runs.
        total: Trials of the study.

    Returns:
        The trial; None when the study has all of its trials.

    Raises:
        MedexpError: What no other trial would be spared: bad data or settings, a store that does not answer.
        StorageInternalError: The study's own storage does not answer; see `medexp.studies.study.storage_failures`.
    """
    while True:
        if len(counted(study)) >= total and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return None
        trial = ask(study)
        if trial.number in {one.number for one in counted(study)[:total]}:
            break
        trial.set_user_attr("surplus", True)  # another worker was faster
        study.tell(trial, state=TrialState.FAIL)
    try:
        values = run_trial(trial, space, phase, config, parent_id, objective)
    except Pruned:
        return study.tell(trial, state=TrialState.PRUNED)
    except BaseException as error:
        no_fault_of_its = isinstance(error, StorageInternalError) or (isinstance(error, MedexpError) and error.exit_code == 2)
        if no_fault_of_its or not isinstance(error, Exception):
            _try_again(study, trial)
            raise
        told = str(error) if isinstance(error, MedexpError) else f"{type(error).__name__}: {error}"
        trial.set_user_attr("reason", told.partition("\n")[0])
        _log.warning("trial %d failed", trial.number, exc_info=error)
        return study.tell(trial, state=TrialState.FAIL)
    return study.tell(trial, values)


def _try_again(study: optuna.Study, trial: optuna.Trial) -> None:
    """Have another trial do what this one was kept from, through no fault of its own."""
    ended = study.tell(trial, state=TrialState.FAIL)
    attrs = {key: value for key, value in ended.user_attrs.items() if key in GIVEN} | {"replaces": ended.number}
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=ended.params,
            distributions=ended.distributions,
            user_attrs=attrs,
            system_attrs=ended.system_attrs,
        )
    )


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that a study's total counts, by number: all but those that another trial stands in for.

    Of trials that were asked for by the same name, by two sweeps at once, the first counts.
    """
    trials = study.get_trials(deepcopy=False)
    replaced = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    replaced |= {trial.user_attrs.get("replaces") for trial in trials}
    standing = [trial for trial in trials if trial.number not in replaced and not trial.user_attrs.get("surplus")]
    return list({trial.user_attrs.get("name", trial.number): trial for trial in reversed(standing)}.values())[::-1]


def ask_for(study: optuna.Study, params: Mapping[str, Any], **attrs: Any) -> None:
    """Have a study try these values next; attributes: `name`, `seed` and `test`, as of `run_trial`."""
    study.enqueue_trial(dict(params), user_attrs=attrs)


def commonest_reason(trials: Sequence[FrozenTrial]) -> str:
    """What most of the failed trials failed of, and how many did."""
    reasons = Counter(str(trial.user_attrs.get("reason", "its worker was killed")) for trial in trials)
    told, count = reasons.most_common(1)[0]
    return f"{told} ({count} of {len(trials)} trials)"


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """A configuration in which dotted keys have other values.

    Raises:
        UnfitValues: The configuration does not hold with them; all problems at once.
    """
    return made(type(config), flat(config) | dict(values), "the values of a trial", UnfitValues, "Correct the space.")


def _values_of(space: Space, watching: TrialReporter) -> list[float]:
    goals, logged = space.goals, watching.logged
    names = [goal.metric for goal in goals]
    if missing := [name for name in names if name not in logged]:
        there = ", ".join(sorted(logged)) or "none"
        told = [f"{name}: the trial did not log this metric" for name in missing]
        raise ConfigError(all_problems("goals", told, f"Logged were {there}. Name one of them in the space."))
    if space.pruner.name != "none" and goals[0].watched not in watching.stepwise:
        there = ", ".join(sorted(watching.stepwise)) or "none"
        raise ConfigError(
            f"goals: {goals[0].watched}: the trial did not log it step by step, so nothing can be pruned by it. Logged so "
            f"were {there}. Search by one of them, val/NAME or val/final/NAME, or give the pruner none"
        )
    if bad := [name for name in names if not math.isfinite(logged[name])]:
        raise TrainingDiverged(f"{', '.join(bad)} is not finite")
    return [logged[name] for name in names]
