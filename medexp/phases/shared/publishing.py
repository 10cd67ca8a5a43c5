"""How a phase registers what it made, and what it says of that in the terminal."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from medexp import phases
from medexp.checks import Check, as_lines, failed_diagnostics, told, verdict
from medexp.config.shared import Resampling
from medexp.config.training import TrainingConfig
from medexp.evaluation.optimism import optimism
from medexp.markdown import as_it_stands, as_markdown
from medexp.phases import Phase
from medexp.registry.definitions import load_definition
from medexp.registry.journal import CANDIDATE, CHAMPION
from medexp.registry.package import Package
from medexp.registry.promotion import Nominated, nominate
from medexp.registry.registration import register
from medexp.registry.writing import write_package
from medexp.report.summary import Summary, log_record
from medexp.terminal import show_table, terminal
from medexp.tracking.results import log_summary
from medexp.tracking.runs import TrackedRun
from medexp.tracking.ui import next_line
from medexp.training.loop import FitResult
from medexp.words import counted

SEED = "What another seed of the training would change is in no interval."


def caveat(fitted: FitResult, resampling: Resampling, *, test: bool = False) -> str:
    """What to know of a training's validation figures: by what its epoch was kept, and what that made of them.

    Args:
        fitted: The training, with its monitored values of cases.
        resampling: How resamples are drawn.
        test: Whether the test split was read.
    """
    unread = "" if test else "; the test split was not read"
    if not fitted.chosen:
        return f"No epoch was chosen, the last one is kept{unread}. {SEED}"
    said = f"The best epoch was chosen on these same validation cases{unread}. {SEED}"
    found = optimism(fitted.cases, fitted.patients, fitted.direction, resampling)
    return f"{said} {found.told(f'The chosen epoch has a validation {fitted.monitor} of')}"


def epochs_in_words(training: TrainingConfig) -> str:
    """How long a training goes on, for a card."""
    return f"{'at most ' if training.patience else ''}{counted(training.epochs, 'epoch')}"


def selection(training: TrainingConfig, criterion: str) -> str:
    """How the final epoch came about, for a card; the criterion is the one that early stopping goes by."""
    return f"early stopping: the epoch with {criterion}" if training.patience else "the last epoch; none was chosen"


def publish(package: Package, outcome: str | None, run: TrackedRun) -> Nominated:
    """Register a version whatever the verdict, with all that it was judged by; aliases are for those that passed.

    Args:
        package: The version.
        outcome: The verdict of its checks, PASSED or FAILED; None where nobody judged it.
        run: The run that made it.
    """
    definition = load_definition(package.name, phases.checks())
    with tempfile.TemporaryDirectory(dir=run.folder, prefix=".package.") as temporary:
        write_package(package, definition, Path(temporary) / package.name)
        made = register(run.id, Path(temporary) / package.name, definition, outcome)
    return nominate(made, definition, outcome, run.id)


def present(summary: Summary, checks: Sequence[Check], published: Sequence[Nominated], run: TrackedRun, phase: Phase) -> None:
    """The run's description and the end of the terminal's output: figures, checks, versions, and what to do next.

    Args:
        summary: What the phase comes to.
        checks: All checks.
        published: The versions that were registered; the last is the one to go on with, the others are told of where the phase
            knows what they are for.
        run: The run.
        phase: The phase, which knows what its models are for.
    """
    registered = [
        f"{one.name} version {one.version}" + (f" ({', '.join(one.aliases)})" if one.aliases else "") for one in published
    ]
    second = [f"{summary.beside[0]}:", as_markdown(*summary.beside[1:])] if summary.beside else []
    paragraphs = [
        *(f"**{as_it_stands(line)}**" for line in summary.first),
        f"**{told(verdict(checks), failed_diagnostics(checks))}**: {as_it_stands(summary.headline)}",
        f"{as_it_stands(summary.title)}:",
        as_markdown(summary.head, summary.rows),
        *second,
        *map(as_it_stands, summary.words),
        "\n".join(f"- {check.id} {check.title}: **{check.outcome}**" for check in checks),
    ]
    paragraphs += [f"Registered: {'; '.join(registered)}"] if registered else []
    log_summary(run, "\n\n".join(paragraphs) + "\n")
    following = [*_next_steps(published, phase), *summary.following]
    log_record(run.reporter, summary, following)

    console = terminal()
    for line in summary.first:
        console.print(Text(line, "bold yellow"))
    show_table(*(summary.narrow or (summary.head, summary.rows)), summary.title)
    if summary.beside:
        show_table(*summary.beside[1:], summary.beside[0])
    console.print(*as_lines(checks), *summary.words, *(f"Registered: {line}" for line in registered), sep="\n")
    print(f"Run: {run.id}, files in {run.folder}")
    print(f"Next, browse it:  {next_line(run)}")
    for line in following:
        print(line)


def _next_steps(published: Sequence[Nominated], phase: Phase) -> list[str]:
    """What to do with the versions that a run registered, a command a line: with each that the phase knows a use of, and how
    to load the last."""
    lines = []
    for model in published:
        use, last = phase.next.get(model.name), model is published[-1]
        if model.aliases == (CANDIDATE,) and (use or last):
            command = f"mlflow run . -e promote -P model={model.name} -P version={model.version}"
            lines.append(f"Next, judge it:   {command}   # against the champion, case by case")
        if CHAMPION in model.aliases and use:
            lines.append(f"Next, use it:     {use}")
        if last:
            uri = f"models:/{model.name}" + ("@champion" if CHAMPION in model.aliases else f"/{model.version}")
            lines.append(f"Next, load it:    python -c 'from medexp import registry; print(registry.load(\"{uri}\"))'")
    return lines
