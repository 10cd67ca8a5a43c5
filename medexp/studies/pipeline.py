"""A pipeline: phases as runs in one run. A step whose inputs are unchanged is not run again."""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from medexp import phases
from medexp.addresses import local_path
from medexp.checks import DIAGNOSTICS, VERDICT, told
from medexp.config.shared import Configuration, Recoverable, Resumable
from medexp.errors import CheckFailed, MedexpError, StorageError
from medexp.markdown import as_markdown
from medexp.phases.shared.reported import reported_run
from medexp.phases.shared.steps import Step
from medexp.registry.versions import told_version, versions_of_run
from medexp.report.summary import Summary, log_record
from medexp.terminal import show_table, terminal
from medexp.tracking.results import HEADLINE, log_summary
from medexp.tracking.runs import TrackedRun, runs_tagged
from medexp.tracking.steps import StepRun, find_child, find_done, find_interrupted, find_run, mark_done, step_key, tags_of_step
from medexp.tracking.ui import next_line, page

COLUMNS = ("step", "outcome", "verdict", "seconds", "run")
SHOWN = ("step", "outcome", "verdict", "figure", "registered", "seconds")

Inputs = Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class Pipeline:
    """A run of a pipeline, its name, those of its steps, and what they came to so far, a row a step: as COLUMNS has it for
    the terminal, and as SHOWN has it for the run's report and, with links, for its page."""

    tracked: TrackedRun
    name: str
    steps: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    shown: list[tuple[str, ...]] = field(default_factory=list)
    linked: list[tuple[str, ...]] = field(default_factory=list)


def run(config: Configuration) -> None:
    """A whole pipeline; its configuration says what can be set.

    Raises:
        CheckFailed: A BLOCKING check of a step failed; the steps after it did not run.
        ConfigError: The pipeline cannot be started so.
    """
    name = next(one.name for one in phases.phases().values() if isinstance(config, one.config))
    described = importlib.import_module(f"medexp.phases.{name}.steps")
    steps: Sequence[Step] = described.steps(config)
    with reported_run(name, config) as tracked:
        pipeline, made = Pipeline(tracked, name, tuple(step.phase for step in steps)), dict[str, StepRun]()
        for step in steps:
            given, holds = step.given(made), partial(step.holds, made)
            made[step.phase] = take(pipeline, step.phase, given, partial(inputs_of, step.phase, given), holds)
        tracked.tag({VERDICT: "PASSED", DIAGNOSTICS: failed_diagnostics(made)})
        show(pipeline)
        lines = described.last_lines(made)
        _report(
            pipeline,
            [line for line in lines if not line.startswith("Next")],
            [line for line in lines if line.startswith("Next")],
        )
        for line in lines:
            print(line)
        print(f"Next, browse it:             {next_line(tracked)}")


def failed_diagnostics(made: Mapping[str, StepRun]) -> str:
    """The diagnostics that failed in each step, after its name; `none` where none did."""
    failed = {step: run.tags.get(DIAGNOSTICS, "none") for step, run in made.items()}
    return "; ".join(f"{step} {checks}" for step, checks in failed.items() if checks != "none") or "none"


def inputs_of(step: str, config: Configuration) -> Mapping[str, str]:
    """Digests of what a step reads."""
    digests: Mapping[str, str] = importlib.import_module(f"medexp.phases.{step}.inputs").inputs(config)
    return digests


def take(
    pipeline: Pipeline, step: str, config: Configuration, inputs: Inputs, holds: Callable[[], bool] = lambda: True
) -> StepRun:
    """A step of the pipeline: found done, or done, or gone on with where it was interrupted.

    Args:
        pipeline: What the steps came to so far; this one is added, in the run's summary too.
        step: Name of the phase.
        config: Its configuration.
        inputs: Digests of what it reads; what is wrong with them is for the step itself to say.
        holds: Whether what it did before still stands.
    """
    started = time.monotonic()
    terminal().rule(f"{pipeline.steps.index(step) + 1} of {len(pipeline.steps)}: {step}", align="left")
    try:
        key = step_key(step, config, inputs())
    except StorageError:
        raise
    except (MedexpError, OSError):
        key = None
    for done in find_done(pipeline.tracked, key) if key else []:
        if set(done.registered or ()) <= set(versions_of_run(done.id)) and holds():
            pipeline.tracked.tag({f"medexp.reused.{step}": done.id})
            print(f"reused: its inputs are those of run {done.id}")
            _add(pipeline, step, "reused", done, started)
            return done
    outcome = "ran"
    if key and (interrupted := _with_state(pipeline, key, config)):
        config, outcome = replace(config, resume=interrupted), f"went on from {interrupted}"
        print(f"going on from run {interrupted}, which was interrupted")
    try:
        recovered = _run(step, config, key)
        from medexp.phases.shared.launch import forget_precision  # accelerate: where nothing is run it is not needed

        forget_precision()
        made = find_run(recovered) if recovered else find_child(pipeline.tracked, step)
        assert made is not None
        outcome = "recovered" if recovered else outcome
        registered = versions_of_run(made.id)
        mark_done(made.id, registered, key)
    except StorageError:
        raise  # there may be no store to write the summary to
    except BaseException as error:
        pipeline.tracked.tag({VERDICT: "FAILED"} if isinstance(error, CheckFailed) else {})
        _add(
            pipeline,
            step,
            "FAILED" if isinstance(error, Exception) else "interrupted",
            find_child(pipeline.tracked, step),
            started,
        )
        show(pipeline)
        print(f"Stopped at {step}. Run it again when the cause is gone: the steps before it are not run again.")
        raise
    made = replace(made, registered=registered)
    _add(pipeline, step, outcome, made, started)
    return made


def _run(step: str, config: Configuration, key: str | None) -> str | None:
    """Run a step; the run that passed, where one of its recovery did."""

    def run_phase(config: Any) -> None:
        with runs_tagged(tags_of_step(key) if key else {}):
            importlib.import_module(f"medexp.phases.{step}").run(config)

    if not (isinstance(config, Recoverable) and config.recover):
        run_phase(config)
        return None
    from medexp.studies.recovery import run_or_recover  # optuna: where nothing is recovered it is not needed

    return run_or_recover(step, config, run_phase, f"{step}-recover-{key[:8]}" if key else None)


def show(pipeline: Pipeline) -> None:
    """The steps as a table in the terminal."""
    show_table(COLUMNS, pipeline.rows, pipeline.name)


def _with_state(pipeline: Pipeline, key: str, config: Configuration) -> str | None:
    """The newest interrupted run of the step that left something to go on from; None for a step that cannot go on."""
    if not isinstance(config, Resumable):
        return None
    folder = local_path(config.output_dir)
    return next((run.id for run in find_interrupted(pipeline.tracked, key) if (folder / run.id / "state").is_dir()), None)


def _add(pipeline: Pipeline, step: str, outcome: str, child: StepRun | None, started: float) -> None:
    """A row for a step, in the terminal's table and in the run's summary."""
    judged, run_id = (told(child.tags.get(VERDICT), child.tags.get(DIAGNOSTICS)) or "-", child.id) if child else ("-", "-")
    seconds = f"{time.monotonic() - started:.1f}"
    pipeline.rows.append((step, outcome, judged, seconds, run_id))
    headline = child.tags.get(HEADLINE, "-") if child else "-"
    registered = (child.registered or ()) if child else ()

    def row(named: str, versions: Sequence[str]) -> tuple[str, ...]:
        return named, outcome, judged, headline, ", ".join(versions) or "-", seconds

    pipeline.shown.append(row(step, [told_version(name) for name in registered]))
    pipeline.linked.append(
        row(f"[{step}]({page(child.id)})" if child else step, [told_version(name, linked=True) for name in registered])
    )
    if headline != "-":
        figures = [f"{named} {figure}" for named, _, _, figure, *_ in pipeline.shown if figure != "-"]
        pipeline.tracked.tag({HEADLINE: "; ".join(figures)})
    log_summary(pipeline.tracked, as_markdown(SHOWN, pipeline.linked) + "\n")
    _report(pipeline)


def _report(pipeline: Pipeline, words: Sequence[str] = (), following: Sequence[str] = ()) -> None:
    """What the run's report shows of the steps so far, and at the end of what came out."""
    done = f"{len(pipeline.shown)} of {len(pipeline.steps)} steps"
    summary = Summary(f"{pipeline.name}, {done}", "Steps", SHOWN, pipeline.shown, words)
    log_record(pipeline.tracked.reporter, summary, following)
