"""How a phase registers what it made, and what it says of that in the terminal."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import medexp
from medexp import phases
from medexp.checks import Check, as_lines, verdict
from medexp.data.manifest import data_digest, seen_cases, split_digest
from medexp.phases.shared.config import ImagePhaseConfig
from medexp.registry.definitions import load_definition
from medexp.registry.journal import CANDIDATE, CHAMPION
from medexp.registry.package import Package
from medexp.registry.promotion import Nominated, nominate
from medexp.registry.registration import register
from medexp.registry.writing import write_package
from medexp.tracking.results import log_summary
from medexp.tracking.runs import TrackedRun
from medexp.tracking.ui import next_line

CAVEAT = "The best epoch was chosen on these same validation cases; the test split was not read."
_LIBRARIES = ("torch", "monai", "peft")
_SOFTWARE = ", ".join([f"medexp {medexp.__version__}", *(f"{name} {installed(name)}" for name in _LIBRARIES)])
PHANTOMS: Mapping[str, str | None] = {
    "De-identification": "not needed: phantoms are of nobody",
    "Who annotated": "nobody: the labels are the shapes that the phantoms were drawn from",
    "Demographic and clinical characteristics": "none: phantoms",
    "Limitations": "Made on phantoms: it says nothing about patients.",
}
"""What a card says of embedded data, by item of CLAIM."""


def made_with(run: TrackedRun, profile: str, seed: int) -> dict[str, str | None]:
    """What every card says of how a model was made."""
    return {"run": run.id, "profile": profile, "seed": str(seed), "license": None, "Software": _SOFTWARE}


def packaged(
    config: ImagePhaseConfig,
    run: TrackedRun,
    name: str,
    phase: str,
    output: str,
    *,
    manifest: pd.DataFrame,
    cases: Iterable[Any],
    source: str,
    example: Mapping[str, Any],
    claims: Mapping[str, str | None],
) -> dict[str, Any]:
    """What every package of phases 2.1 to 2.3 says alike: contract, evaluation, cases, and facts for the card.

    Args:
        config: The phase's configuration.
        run: The run.
        name: Name of the model.
        phase: The phase that made it.
        output: What comes out, in words.
        manifest: One row a case.
        cases: What is known of each, for `medexp.data.manifest.seen_cases`.
        source: What they are, in words.
        example: What the contract says of the input beyond the definition.
        claims: How the cases were chosen, labelled and split, by item of CLAIM.
    """
    digest = data_digest(manifest)
    facts = {"data": source, "data digest": digest, **claims, "Testing on external data": "none"}
    real = any(getattr(config, key, None) for key in ("slices_dir", "kaggle_dir", "table"))
    return {
        "contract": {"input": {**load_definition(name).input_as_records, **example}, "output": output},
        "evaluation": {
            "phase": phase,
            "revision": phases.phase(phase).revision,
            "split": "val",
            "data_digest": split_digest(manifest, "val"),
            "made_on": digest,
        },
        "cases": seen_cases(manifest, cases),
        "facts": {**made_with(run, config.profile, config.seed), **facts, **({} if real else PHANTOMS)},
    }


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


@dataclass(frozen=True)
class Summary:
    """What a phase comes to, for the run's page and for the terminal.

    Attributes:
        headline: The phase and its most telling settings.
        title: What the table shows.
        head: The table's columns.
        rows: Its rows.
        words: What the figures say, plainly, a sentence or two each.
    """

    headline: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str]


def present(summary: Summary, checks: Sequence[Check], published: Sequence[Nominated], run: TrackedRun) -> None:
    """The run's description and the end of the terminal's output: figures, checks, versions, and what to do next.

    Args:
        summary: What the phase comes to.
        checks: All checks.
        published: The versions that were registered; the last is the one to go on with.
        run: The run.
    """
    registered = [
        f"{one.name} version {one.version}" + (f" ({', '.join(one.aliases)})" if one.aliases else "") for one in published
    ]
    lines = ["| " + " | ".join(row) + " |" for row in [summary.head, ["---"] * len(summary.head), *summary.rows]]
    verdicts = "\n".join(f"- {check.id} {check.title}: **{check.outcome}**" for check in checks)
    paragraphs = [
        f"**{verdict(checks)}**: {summary.headline}",
        f"{summary.title}:",
        "\n".join(lines),
        *summary.words,
        verdicts,
    ]
    log_summary(run, "\n\n".join([*paragraphs, f"Registered: {'; '.join(registered)}"]) + "\n")

    console = Console(soft_wrap=True)
    table = Table(*summary.head, title=summary.title)
    for row in summary.rows:
        table.add_row(*row)
    console.print(table)
    for line in [*as_lines(checks), *map(escape, summary.words), *(f"Registered: {line}" for line in registered)]:
        console.print(line, highlight=False)
    print(f"Run: {run.id}, files in {run.folder}")
    for line in _next_steps(published[-1], run):
        print(line)


def _next_steps(model: Nominated, run: TrackedRun) -> list[str]:
    """What to do with a run and with the version that it registered, a command a line."""
    uri = f"models:/{model.name}" + ("@champion" if CHAMPION in model.aliases else f"/{model.version}")
    lines = [f"Next, browse it:  {next_line(run)}"]
    if model.aliases == (CANDIDATE,):
        which = "" if model.name == "phase1_encoder_merged" else f" -P model={model.name}"
        command = f"mlflow run . -e promote{which} -P version={model.version}"
        lines.append(f"Next, judge it:   {command}   against the champion, case by case")
    if CHAMPION in model.aliases and (use := _USED_BY.get(model.name)):
        lines.append(f"Next, use it:     {use}")
    lines.append(f"Next, load it:    python -c 'from medexp import registry; print(registry.load(\"{uri}\"))'")
    return lines


_USED_BY = {
    "phase2_1_multitask": "mlflow run . -e phase2_2   trains a classification head on it",
    "phase2_2_classifier": "mlflow run . -e phase2_3   trains encoder, decoder and head together",
}
