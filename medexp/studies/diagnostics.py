"""What a recovery tried, what that did, and where the best of it still fails."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medexp.checks import DIAGNOSTICS, VERDICT
from medexp.checks import told as told_of
from medexp.files import read_csv
from medexp.markdown import as_markdown
from medexp.phases import Diagnosis
from medexp.studies.ladder import Ladder
from medexp.terminal import show_table
from medexp.tracking.figures import run_curves
from medexp.tracking.past import PastRun, artifact, figure, history
from medexp.tracking.runs import TrackedRun

_WORST = 5  # cases that are shown


@dataclass(frozen=True)
class Attempt:
    """One run of a recovery; kept in its study.

    Attributes:
        rung: Name of the rung, or `search <number>`.
        run: Id of the run.
        outcome: PASSED, FAILED (a BLOCKING check), or the fault that ended it: out_of_memory, diverged.
        value: The ladder's goal; None where it was not measured.
        change: What was changed on top of the configuration before, by dotted key: before and after.
        settings: What differs from the run that failed, in the same way.
        told: The first line of the error that it ended with.
        diagnostics: Those of its checks that failed (`medexp.checks.failed_diagnostics`); empty: not known.
    """

    rung: str
    run: str
    outcome: str
    value: float | None = None
    change: dict[str, list[Any]] = field(default_factory=dict)
    settings: dict[str, list[Any]] = field(default_factory=dict)
    told: str = ""
    diagnostics: str = ""

    @property
    def tags(self) -> dict[str, str]:
        """What a passed one says of its checks."""
        return {VERDICT: "PASSED"} | ({DIAGNOSTICS: self.diagnostics} if self.diagnostics else {})

    @property
    def came_to(self) -> str:
        """The outcome for a reader: PASSED stands never alone where a diagnostic failed."""
        return told_of("PASSED", self.diagnostics or None) or "" if self.outcome == "PASSED" else self.outcome


def describe(failed: PastRun, attempts: Sequence[Attempt], goal: str) -> pd.DataFrame:
    """A row a run, the failed one first: `rung`, `changed`, `outcome`, the goal, its `gain` over the row above, `run`."""
    rows: list[dict[str, Any]] = [{"rung": "failed run", "changed": "", "outcome": "FAILED", goal: figure(failed, goal)}]
    for one in attempts:
        rows.append({"rung": one.rung, "changed": said(one.change), "outcome": one.came_to, goal: one.value})
    table = pd.DataFrame(rows)
    table[goal] = pd.to_numeric(table[goal])
    table["gain"] = table[goal].diff()
    return table.assign(run=[failed.id, *(one.run for one in attempts)])


def said(change: Mapping[str, Sequence[Any]]) -> str:
    """Changes in words, by dotted key: before and after."""
    return ", ".join(f"{key} {_short(before)} -> {_short(after)}" for key, (before, after) in change.items())


def show(failed: PastRun, attempts: Sequence[Attempt], goal: str) -> None:
    """The runs as a table in the terminal."""
    rows = describe(failed, attempts, goal).itertuples(index=False)
    show_table(["rung", "changed", "outcome", goal], [[*map(str, row[:3]), _number(row[3])] for row in rows], "recovery")


def diagnose(
    tracked: TrackedRun,
    failed: PastRun,
    attempts: Sequence[Attempt],
    ladder: Ladder,
    shown: Diagnosis,
    passed: str | None,
) -> str:
    """Log curves and gradient norms of all runs, the cases that the best of them fails on, and `diagnostics.md`.

    Args:
        tracked: The recovery's run, which they are logged to.
        failed: The run that failed.
        attempts: What was run.
        ladder: What was climbed.
        shown: What is shown of the phase's runs.
        passed: Id of the run that passed; with one, the worst cases are left out.

    Returns:
        The report, as Markdown.
    """
    goal = ladder.goal
    names = {failed.id: "failed run"} | {one.run: f"{number} {one.rung}" for number, one in enumerate(attempts, 1)}
    curves = {metric: {name: history(run, metric) for run, name in names.items()} for metric in shown.curves}
    tracked.reporter.figure(run_curves(curves), "figures/runs.png")
    table = describe(failed, attempts, goal)
    table["gradient norm"] = [_summary(history(run, "train/grad_norm")["value"]) for run in names]
    if passed:
        outcome = next(one.came_to for one in attempts if one.run == passed)
        head = f"**{outcome}**: run {failed.id} was recovered; {names[passed]} passes all BLOCKING checks (run {passed})."
    else:
        head = f"**FAILED**: run {failed.id} was not recovered; none of {len(attempts)} runs passed all BLOCKING checks."
    parts = [head, "## What each run changed, and what that did", _markdown(table)]
    parts.append(
        f"{goal} and its gain over the row above; gradient norm: median, largest (before clipping). Curves: figures/runs.png"
    )
    parts += ["Rungs:\n\n" + "\n".join(f"- {rung.name}: {rung.why}" for rung in ladder.rungs)]
    if reasons := [f"- {names[one.run]}: {one.told}" for one in attempts if one.told]:
        parts += ["## What each run failed of", "\n".join(reasons)]
    if not passed:
        best = table.dropna(subset=[goal]).sort_values(goal)["run"].tolist()[-1:]
        parts += _worst_cases(tracked, names, best[0], shown) if best else ["No run came as far as scores of single cases."]
    report = "\n\n".join(parts) + "\n"
    tracked.reporter.text(report, "diagnostics.md")
    return report


def _worst_cases(tracked: TrackedRun, names: dict[str, str], best: str, shown: Diagnosis) -> list[str]:
    """The cases with the least scores in the best run, what all runs made of them, and their pictures where there are any."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scores = {name: found for run, name in names.items() if (found := _scores(run, folder / run, shown.arm)) is not None}
        if names[best] not in scores:
            return [f"The best run, {names[best]}, logged no per_case.csv."]
        regions = [column for column in scores[names[best]].columns if shown.scores and column.startswith(shown.scores)]
        if not regions:
            return []
        means = scores[names[best]][regions].mean(axis=1).dropna()  # a case that holds none of the regions has none
        worst = scores[names[best]].loc[means.nsmallest(_WORST).index]
        score = shown.scores.rstrip("_").capitalize()
        table = worst[regions].rename(columns=lambda column: column.replace(shown.scores, f"{score} ").strip())
        for name, rows in scores.items():
            table[f"mean {score}, {name}"] = rows[regions].mean(axis=1).reindex(worst.index)
        tracked.reporter.table(table.reset_index(), "worst_cases.csv")
        drawn = []
        for case in worst.index:
            (folder / "drawn").mkdir(exist_ok=True)
            if shown.picture and (picture := artifact(best, shown.picture.format(case=case), folder / "drawn")):
                tracked.reporter.file(picture.rename(picture.with_name(f"{case}.png")), "worst")
                drawn.append(f"worst/{case}.png")
    parts = [f"## The cases that {names[best]} does worst", _markdown(table.reset_index())]
    if drawn:
        parts.append(f"Pictures of those that were drawn: {', '.join(drawn)}.")
    elif shown.picture:
        parts.append(f"None of them was drawn: {shown.drawn_by}.")
    return parts


def _scores(run: str, folder: Path, arm: str) -> pd.DataFrame | None:
    """Scores by case, of an arm where there are several."""
    folder.mkdir(exist_ok=True)
    file = artifact(run, "per_case.csv", folder)
    if file is None:
        return None
    rows = read_csv(file)
    return (rows[rows["arm"] == arm] if "arm" in rows else rows).set_index("case")


def _summary(norms: pd.Series) -> str:
    return f"{norms.median():.3g}, {norms.max():.3g}" if len(norms) else "-"


def _markdown(table: pd.DataFrame) -> str:
    rows = ([_number(value) for value in row] for row in table.itertuples(index=False))
    return as_markdown(list(map(str, table.columns)), rows)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return "-" if pd.isna(value) else f"{value:.3f}"
    return str(value)
