"""A sweep: search the settings of a phase on its validation cases, and say what the chosen ones are worth."""

import importlib
import itertools
import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import t as student

from medexp import phases
from medexp.addresses import local_path
from medexp.config.keys import Role, flat, marked
from medexp.config.shared import resampling
from medexp.config.validate import typed
from medexp.errors import ConfigError, MedexpError, all_problems
from medexp.evaluation.intervals import Interval
from medexp.evaluation.optimism import Optimism, optimism
from medexp.files import dump_yaml, read_csv, replacing
from medexp.markdown import as_markdown
from medexp.phases.shared.reported import reported_run
from medexp.phases.sweep.config import SweepConfig
from medexp.registry.store import resolve
from medexp.report import panels
from medexp.report.summary import Summary, log_record
from medexp.studies.pictures import page, pictures
from medexp.studies.space import Goal, Space, read_space, suggest
from medexp.studies.study import recover_dead
from medexp.studies.trials import ask_for, commonest_reason, counted, with_values
from medexp.studies.workers import Work, prepare_workers, run_workers
from medexp.terminal import progress_bar, show_table
from medexp.tracking.killed import end_left, end_run
from medexp.tracking.past import artifact, tag_run
from medexp.tracking.provenance import flat_params
from medexp.tracking.results import log_figures, log_headline, log_intervals, log_summary
from medexp.tracking.runs import TrackedRun, runs_tagged
from medexp.tracking.steps import find_interrupted, tags_of_step
from medexp.tracking.ui import next_line

_SHOWN = 10  # trials in the table at the end
BEST = "medexp.best"
"""Tag of the run of a sweep's best trial, or of those on its Pareto front."""

WarmUp = Callable[..., Any]
"""Does once what trials share and gives the configuration with it fixed: `medexp.phases.<phase>.warm_up`, called with the
phase's configuration, a folder, and `test=True` when the test split will be scored."""


@dataclass(frozen=True)
class Repeated:
    """The chosen configuration, trained again with fresh seeds.

    Attributes:
        seeds: The seeds of those that came to an end.
        values: Their values, (seeds, goals).
        test: What the test split gave, by name, with its interval by patient where it has one; empty where it was not asked
            for.
        confidence: Of these intervals; NaN where there are none.
        tested: Numbers of the trials whose settings were scored on the test split in this study, this one last.
        failed: What did not come to an end, and why.
    """

    seeds: Sequence[int]
    values: np.ndarray
    test: Mapping[str, Interval]
    confidence: float
    tested: Sequence[int]
    failed: Sequence[str]


def run(config: SweepConfig) -> None:
    """The whole sweep; `SweepConfig` says what can be set.

    Raises:
        ConfigError: The space, the study or a trial's settings do not hold.
        MedexpError: No trial came to an end; it says the commonest reason.
    """
    phase = f"medexp.phases.{config.phase}"

    def warm_up(*given: Any, **named: Any) -> Any:
        return importlib.import_module(phase).warm_up(*given, **named)  # imported late, while workers' imports go on

    search(config, f"{phase}:objective", warm_up)


def search(config: SweepConfig, objective: str, warm_up: WarmUp) -> None:
    """A sweep of any objective.

    Args:
        config: Its configuration, with the phase's as the block that is named like the phase.
        objective: What a trial runs, `module:function`.
        warm_up: From (the phase's configuration, a folder) to one in which nothing that trials share follows from the seed.
    """
    prepare_workers(objective)
    settings = pinned(getattr(config, config.phase))
    config = replace(config, **{config.phase: settings})
    file = local_path(config.space or phases.phase(config.phase).profile("sweep"))
    space = read_space(file, type(settings))
    if space.combinations and config.trials > space.combinations:
        raise ConfigError(
            f"trials: found {config.trials}; the grid of {file} has {space.combinations} combinations, give those"
        )
    name = config.study or f"{config.phase}-{space.digest[:8]}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    key = f"sweep {name} {space.digest}"
    with runs_tagged({**tags_of_step(key), "medexp.study": name}), reported_run("sweep", config) as tracked:
        output_dir = local_path(config.output_dir).absolute()
        work = Work(
            name, config.storage, config.phase, space, settings, tracked.id, objective, config.trials, config.seed, output_dir
        )
        study = work.open()
        free = {*space.parameters, *marked(type(settings), Role.WHERE)}
        same_settings(study, {key: value for key, value in flat_params(settings).items() if key not in free}, free)
        print(take_over(study, tracked, key, config.trials), flush=True)
        warm_up(settings, tracked.folder, test=config.test)
        with telling(study, space.goals, config.trials, "trials") as look:
            study = run_workers(work, config.workers, tracked.folder / "workers", look)
        report(study, space.goals, tracked)
        chosen = choose(study, space.goals)
        again = repeat(config, work, chosen, warm_up, tracked)
        conclude(config, study, space, chosen, again, tracked)


def pinned(settings: Any) -> Any:
    """A phase's configuration whose references to registered models name versions: an alias may move during a sweep.

    Raises:
        RegistryError: There is no such model, alias or version.
    """
    named = {field.name: getattr(settings, field.name) for field in fields(settings)}
    models = {key: resolve(uri) for key, uri in named.items() if isinstance(uri, str) and uri.startswith("models:/")}
    return replace(settings, **{key: f"models:/{version.name}/{version.version}" for key, version in models.items()})


def same_settings(study: optuna.Study, settings: Mapping[str, str], free: Collection[str]) -> None:
    """A study's trials differ in what is searched alone.

    Args:
        study: The study, which keeps the settings that it was begun with.
        settings: Of the phase, by dotted key; those that may not differ.
        free: The other keys, which a study that an earlier version began may hold.

    Raises:
        ConfigError: The study was begun with other settings; names all that differ.
    """
    there = study.user_attrs.get("settings")
    if there is None or not study.get_trials(deepcopy=False):  # a sweep that ended before its first trial binds nobody
        study.set_user_attr("settings", dict(settings))
        return
    changed = [
        f"{key}: the study has {there.get(key)}, given is {settings.get(key)}"
        for key in sorted({*there, *settings})
        if key not in free and there.get(key) != settings.get(key)
    ]
    if changed:
        advice = "Give what the study has, or begin another one: study=NAME."
        raise ConfigError(all_problems(f"study {study.study_name} was begun with other settings", changed, advice))


def take_over(study: optuna.Study, tracked: TrackedRun, key: str, total: int) -> str:
    """Clear up after sweeps of this study that were stopped, and say in a line what there is."""
    dead = recover_dead(study)
    killed = {one.run for one in dead if one.run}
    for run_id in killed:
        end_run(run_id)
    ended = len(killed)
    running = {trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
    for earlier in find_interrupted(tracked, key):
        if earlier.id == tracked.id:
            continue
        ended += len(end_left(earlier.id))
        if earlier.status == "RUNNING":
            end_run(earlier.id)
            ended += 1
    trials = counted(study)
    finished = [trial for trial in trials if trial.state.is_finished()]
    if not trials:
        return f"study {study.study_name}: new, {total} trials"
    found = [f"study {study.study_name}: {len(finished)} of {total} trials are finished and kept"]
    if running:
        found.append(f"{len(running)} run elsewhere")
    if again := sum(one.retried for one in dead):
        found.append(f"{again} whose worker was killed {'are' if again > 1 else 'is'} tried again")
    if twice := len(dead) - again:
        found.append(f"{twice} whose worker was killed twice {'count' if twice > 1 else 'counts'} as failed")
    if ended:
        found.append(f"{ended} runs that nobody had ended are KILLED now")
    return "; ".join(found)


@contextmanager
def telling(study: optuna.Study, goals: Sequence[Goal], total: int, title: str) -> Iterator[Callable[[optuna.Study], None]]:
    """A progress bar, and a function that tells of each trial that finished: its values, the best so far, what was tried."""
    told = {trial.number for trial in counted(study) if trial.state.is_finished()}
    retried = {trial.number for trial in study.get_trials(deepcopy=False) if "retried_from" in trial.user_attrs}
    with progress_bar() as progress:
        bar = progress.add_task(title, total=total, completed=len(told))
        tell = progress.console.print

        def look(study: optuna.Study) -> None:
            finished = [trial for trial in counted(study) if trial.state.is_finished()]
            for trial in finished:
                if trial.number not in told:
                    told.add(trial.number)
                    tell(_line(study, goals, trial))
            for trial in study.get_trials(deepcopy=False):
                if "retried_from" in trial.user_attrs and trial.number not in retried:
                    retried.add(trial.number)
                    tell(f"  trial {trial.user_attrs['retried_from']}: its worker was killed; tried again as {trial.number}")
            progress.update(bar, completed=len(finished))

        yield look


def _line(study: optuna.Study, goals: Sequence[Goal], trial: FrozenTrial) -> str:
    """A finished trial: its values, and, where the best is looked for, the best so far and what was tried."""
    if name := trial.user_attrs.get("name"):
        return f"  {name}: {outcome(goals, trial)}"
    best = best_trials(study, goals)
    so_far = f"; best so far {_values(goals, best[0])} (trial {best[0].number})" if best else ""
    return f"  trial {trial.number}: {outcome(goals, trial)}{so_far}; {_settings(trial)}"


def outcome(goals: Sequence[Goal], trial: FrozenTrial) -> str:
    """What a finished trial came to, in words."""
    if trial.state is TrialState.COMPLETE:
        return _values(goals, trial)
    if trial.state is TrialState.PRUNED:
        return f"pruned at step {trial.user_attrs.get('pruned_step')}"
    return f"failed: {trial.user_attrs.get('reason', 'its worker was killed')}"


def best_trials(study: optuna.Study, goals: Sequence[Goal]) -> list[FrozenTrial]:
    """The best trial; with two goals the Pareto front, the best in the first goal first."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return []
    return sorted(study.best_trials, key=lambda trial: trial.values[0], reverse=goals[0].direction == "maximize")


def report(study: optuna.Study, goals: Sequence[Goal], tracked: TrackedRun) -> None:
    """`trials.csv` and the pictures, also of a study in which no trial came to an end."""
    trials = counted(study)
    rows = [
        {"trial": trial.number, "state": trial.state.name, "outcome": outcome(goals, trial)}
        | dict(zip([goal.metric for goal in goals], trial.values if trial.state is TrialState.COMPLETE else (), strict=False))
        | trial.params
        | {"seconds": trial.duration.total_seconds() if trial.duration else None, "run": trial.user_attrs.get("run")}
        for trial in trials
    ]
    tracked.reporter.table(pd.DataFrame(rows), "trials.csv")
    for path, figure in pictures(study, [goal.metric for goal in goals]).items():
        tracked.reporter.figure(figure, path)
    if drawn := page(study, [goal.metric for goal in goals]):
        tracked.reporter.text(drawn, "figures/study.html")
    states = Counter(trial.state for trial in trials)
    wanted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    log_figures(tracked, {f"trials/{state.name.lower()}": states[state] for state in wanted})
    for index, goal in enumerate(goals):
        for number, value in so_far(trials, index, goal):
            tracked.reporter.metrics({f"best/{goal.metric}": value}, number)


def so_far(trials: Sequence[FrozenTrial], index: int, goal: Goal) -> list[tuple[int, float]]:
    """The best value of a goal up to each trial that came to an end, by the number of the trial, from 1."""
    ended = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    best = itertools.accumulate((trial.values[index] for trial in ended), max if goal.direction == "maximize" else min)
    return [(trial.number + 1, value) for trial, value in zip(ended, best, strict=True)]


def choose(study: optuna.Study, goals: Sequence[Goal]) -> FrozenTrial:
    """The best trial; with two goals the one on the Pareto front that is best in the first.

    Raises:
        MedexpError: No trial came to an end.
    """
    if best := best_trials(study, goals):
        return best[0]
    failed = [trial for trial in counted(study) if trial.state is TrialState.FAIL]
    if not failed:
        raise MedexpError(f"study {study.study_name}: every trial was pruned; give more trials, or prune later")
    raise MedexpError(
        f"study {study.study_name}: no trial came to an end. The commonest reason: {commonest_reason(failed)}. "
        "Change the settings or the space, then search under another study=NAME"
    )


def repeat(config: SweepConfig, work: Work, chosen: FrozenTrial, warm_up: WarmUp, tracked: TrackedRun) -> Repeated:
    """Train the chosen configuration again, with seeds that no trial had, on the same cases and from the same base.

    These are trials of studies of their own, in the same storage: what was done for this choice before is not done again.
    """
    used = {config.seed, work.config.seed, *(trial.params.get("seed") for trial in counted(work.open()))}
    fresh = list(itertools.islice((seed for seed in itertools.count(config.seed + 1) if seed not in used), config.confirm + 1))
    plans = [("confirm", fresh[: config.confirm], False), ("test", fresh[config.confirm :] if config.test else [], True)]
    came_to: dict[str, list[FrozenTrial]] = {title: [] for title, _, _ in plans}
    plans = [plan for plan in plans if plan[1]]
    fixed = warm_up(with_values(work.config, values_of(chosen, work.space)), tracked.folder) if plans else work.config
    for title, seeds, test in plans:
        planned = replace(work, study=f"{work.study}-{title}-{chosen.number}", config=fixed, total=len(seeds))
        study = planned.open()
        for number, seed in list(enumerate(seeds, 1))[len(counted(study)) :]:
            name = f"{title}-{number}" if len(seeds) > 1 else title
            ask_for(study, chosen.params, name=name, seed=seed, test=test)
        with telling(study, work.space.goals, len(seeds), f"{title}, fresh seeds") as look:
            study = run_workers(planned, min(config.workers, len(seeds)), tracked.folder / "workers", look)
        came_to[title] = counted(study)
    ended = {title: [one for one in trials if one.state is TrialState.COMPLETE] for title, trials in came_to.items()}
    lost = [one for trials in came_to.values() for one in trials if one.state is not TrialState.COMPLETE]
    again, tested = ended["confirm"], ended["test"]
    main = work.open()
    numbers = [number for number in main.user_attrs.get("tested", []) if number != chosen.number]
    if tested:
        numbers.append(chosen.number)
        main.set_user_attr("tested", numbers)
    return Repeated(
        [trial.user_attrs["seed"] for trial in again],
        np.array([trial.values for trial in again]),
        _with_intervals(tested[0]) if tested else {},
        next((float(row["confidence"]) for one in tested for row in one.user_attrs.get("test_intervals", ())), math.nan),
        numbers,
        [f"{trial.user_attrs['name']} {outcome(work.space.goals, trial)}" for trial in lost],
    )


def _with_intervals(trial: FrozenTrial) -> dict[str, Interval]:
    rows = {row["metric"]: row for row in trial.user_attrs.get("test_intervals", ())}
    bare: dict[str, Any] = {"low": None, "high": None, "patients": None}
    found = {}
    for name, value in trial.user_attrs["test_scores"].items():
        low, high, patients = (rows.get(name, bare)[key] for key in bare)
        bounds = [math.nan if bound is None else float(bound) for bound in (low, high)]
        found[name] = Interval(value, bounds[0], bounds[1], int(patients or 0))
    return found


def flattered(study: optuna.Study, goal: Goal, chosen: FrozenTrial, settings: Any, folder: Path) -> Optimism | None:
    """What choosing the best trial makes of its figure, from what all trials said of each validation case.

    Args:
        study: The study.
        goal: Its first goal.
        chosen: The best trial.
        settings: The phase's configuration, which says how resamples are drawn.
        folder: Gets the trials' tables, as long as they are read.

    Returns:
        None where the goal is no mean over cases, or a trial left no table of the same cases.
    """
    column, tables = goal.metric.removeprefix("val/final/"), list[pd.DataFrame]()
    ended = [trial for trial in counted(study) if trial.state is TrialState.COMPLETE]
    for trial in ended:
        (of_trial := folder / str(trial.number)).mkdir(parents=True)
        file = artifact(trial.user_attrs["run"], "per_case_val.csv", of_trial)
        table = read_csv(file) if file else pd.DataFrame()
        shutil.rmtree(folder)
        if not {"case", "patient", column} <= set(table) or (tables and list(tables[0]["case"]) != list(table["case"])):
            return None
        tables.append(table)
    scores = np.stack([table[column].to_numpy(dtype=float) for table in tables])
    judged = np.isfinite(scores).any(axis=0)  # a case that lacks what is looked for has no score in any trial
    if not judged.any() or not np.isfinite(scores[:, judged]).all(axis=1).any():
        return None
    patients = list(tables[0].loc[judged, "patient"])
    found = optimism(scores[:, judged], patients, goal.direction, resampling(settings))
    return found if ended[found.chosen].number == chosen.number else None


def conclude(
    config: SweepConfig,
    study: optuna.Study,
    space: Space,
    chosen: FrozenTrial,
    again: Repeated,
    tracked: TrackedRun,
) -> None:
    """The figures, `best.yaml`, the run's description and the end of the terminal's output."""
    goals, trials, settings = space.goals, counted(study), getattr(config, config.phase)
    front = best_trials(study, goals)
    words = in_words(goals, len(trials), chosen, again, flattered(study, goals[0], chosen, settings, tracked.folder / "cases"))
    values = given(config) | values_of(chosen, space)
    best = tracked.folder / "best.yaml"
    with replacing(best) as temporary:
        temporary.write_text(f"# Trial {chosen.number} of study {study.study_name}. {words[0]}\n" + dump_yaml(values))
    tracked.reporter.file(best)
    for index, goal in enumerate(goals):
        figures = {f"best/{goal.metric}": chosen.values[index]}
        if len(again.values):
            column = again.values[:, index]
            spread = {"mean": column.mean(), "sd": _sd(column), "min": column.min(), "max": column.max()}
            figures |= {f"confirm/{goal.metric}_{name}": float(value) for name, value in spread.items()}
        log_figures(tracked, figures)
    if again.test:
        log_intervals(tracked, again.test, again.confidence)
    first, measure = goals[0].metric, panels.in_words(goals[0].metric.rpartition("/")[2])
    if len(again.values):  # the best of many was chosen for its luck too
        log_headline(tracked, f"confirm/{first}_mean", f"{measure} with fresh seeds", sorted_by=False)
    else:
        log_headline(tracked, f"best/{first}", f"best {measure}", sorted_by=False)
    for trial in front:
        tag_run(trial.user_attrs["run"], {BEST: f"best of {len(trials)} trials" if len(front) == 1 else "on the Pareto front"})

    head = ["trial", *(goal.metric for goal in goals), "seconds", "settings"]
    others = [trial for trial in trials if trial.number not in {one.number for one in front}]
    done = sorted(
        (trial for trial in others if trial.state is TrialState.COMPLETE),
        key=lambda trial: trial.values[0],
        reverse=goals[0].direction == "maximize",
    )
    rows = [
        [str(trial.number), *(f"{value:.4g}" for value in trial.values), f"{_seconds(trial):.1f}", _settings(trial)]
        for trial in [*front, *done][:_SHOWN]
    ]
    title = f"{len(rows)} of {len(trials)} trials of {config.phase}, those that ended best"
    log_summary(tracked, "\n\n".join([*words, title + ":", as_markdown(head, rows)]) + "\n")
    following = [f"Next, train it whole:   mlflow run . -e {config.phase} -P profile={config.profile} -P config={best}"]
    about = f"study {study.study_name} of {config.phase}"
    log_record(tracked.reporter, Summary(about, title, head, rows, words), following)
    show_table(head, rows, title)
    for line in words:
        print(line)
    print(f"Run: {tracked.id}, files in {tracked.folder}")
    print(f"Next, browse it:        {next_line(tracked)}")
    print(*following, sep="\n")


def luck(goal: Goal, value: float, fresh: np.ndarray) -> str | None:
    """What to say first of a winner that is better than its settings are; None where fresh seeds could have given it.

    Args:
        goal: What was searched for.
        value: The winner's own value.
        fresh: The same settings' values with fresh seeds (seeds,); of one alone nothing can be said.
    """
    if len(fresh) < 2:
        return None
    better = (value - fresh.mean()) * (1 if goal.direction == "maximize" else -1)
    half = student.ppf(0.975, len(fresh) - 1) * _sd(fresh) * (1 + 1 / len(fresh)) ** 0.5
    if better <= half + 1e-9 * abs(value):
        return None
    within = f"{fresh.mean() - half:.4g} to {fresh.mean() + half:.4g}"
    return (
        f"{goal.metric}: the winner's own validation figure {value:.4g} lies outside what fresh seeds give, {within} for "
        f"95 % of them by the spread of {len(fresh)}: it was luck."
    )


def in_words(
    goals: Sequence[Goal], count: int, chosen: FrozenTrial, again: Repeated, flattery: Optimism | None = None
) -> list[str]:
    """What the search found and what that is worth, plainly; first, where it was luck, that it was."""
    columns = again.values.T if len(again.values) else np.empty((len(goals), 0))
    lucky = (luck(goal, value, fresh) for goal, value, fresh in zip(goals, chosen.values, columns, strict=True))
    said = [line for line in lucky if line]
    for index, goal in enumerate(goals):
        line = f"{goal.metric}: best of {count} trials {chosen.values[index]:.4g}"
        if len(goals) > 1:
            line = f"{goal.metric}: trial {chosen.number} of {count} has {chosen.values[index]:.4g}"
        seeds = len(again.values)
        if seeds:
            column = again.values[:, index]
            spread = f" \u00b1 {_sd(column):.2g} (SD; {column.min():.4g} to {column.max():.4g})" if seeds > 1 else ""
            line += f"; the same settings with {seeds} fresh seed{'s' * (seeds > 1)} {column.mean():.4g}{spread}"
        said.append(line + ".")
    if len(again.values):
        said.append("The best of many is chosen for its luck too: expect the second figure.")
    else:
        said.append("The best of many is chosen for its luck too: with fresh seeds expect less (confirm=3 says how much).")
    if flattery:
        told = flattery.told(f"Chosen by validation cases, trial {chosen.number} has {goals[0].metric}")
        alone = " That is of its seed and of the choice by these cases alone; of other seeds expect the figure above."
        said.append(told + alone * bool(len(again.values)))
    if again.failed:
        said.append(f"Trained again with a fresh seed, {'; '.join(again.failed)}.")
    if again.test:
        told = ", ".join(f"{name} {interval.in_a_cell(4)}" for name, interval in sorted(again.test.items()))
        told += " (intervals by patient)" if any(not math.isnan(one.low) for one in again.test.values()) else ""
        said.append(f"The test split, scored once after the search: {told}.")
        if len(again.tested) > 1:
            earlier = ", ".join(map(str, again.tested[:-1]))
            said[-1] = f"The test split, scored again after more search: {told}."
            said.append(f"It was scored for trial {earlier} of this study before: who has seen that is no longer blind to it.")
    else:
        said.append("All of this is on validation cases; there is no score of the test split.")
    return said


def given(config: SweepConfig) -> dict[str, Any]:
    """What the phase was given beyond its profile, by dotted key: the chosen values were found with it."""
    record, settings = phases.phase(config.phase), getattr(config, config.phase)
    profile, _ = typed(record.config, record.layers.of_profile(config.profile))
    free = marked(record.config, Role.WHERE)
    return {key: value for key, value in flat(settings).items() if key not in free and profile.get(key, value) != value}


def values_of(trial: FrozenTrial, space: Space) -> dict[str, Any]:
    """What was tried in a trial, by dotted key."""
    return suggest(optuna.trial.FixedTrial(trial.params), space)


def _values(goals: Sequence[Goal], trial: FrozenTrial) -> str:
    return ", ".join(f"{goal.metric} {value:.4g}" for goal, value in zip(goals, trial.values, strict=True))


def _settings(trial: FrozenTrial) -> str:
    """What was tried, briefly: without the blocks of the keys, which `trials.csv` has."""
    shown = {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in trial.params.items()}
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in shown.items())


def _seconds(trial: FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration else math.nan


def _sd(column: np.ndarray) -> float:
    return float(column.std(ddof=1)) if len(column) > 1 else math.nan
