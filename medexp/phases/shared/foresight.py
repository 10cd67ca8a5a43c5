"""What a comparison can show, said before anything is trained: the smallest difference that its patients would let be seen."""

from collections.abc import Sequence

import pandas as pd

from medexp.evaluation.power import smallest_difference
from medexp.phases.shared.context import Context, JudgedSettings
from medexp.registry.spread import Spread, spread_alone, spread_of
from medexp.words import PATIENTS

DISAGREEMENT = 0.3
"""Share of the cases that two classifiers are taken to disagree on where no earlier version says it."""


def foresee(
    ctx: Context[JudgedSettings],
    metric: str,
    columns: Sequence[str],
    patients: pd.Series,
    models: Sequence[str] = (),
    *,
    frozen: pd.DataFrame | None = None,
    split: str = "validation",
    digest: str | None = None,
) -> None:
    """Print and log one line: with the patients that judge, what difference would be seen with 80 %, and by what spread.

    Args:
        ctx: The phase's context.
        metric: What is compared, in words.
        columns: Of per-case scores, which are averaged; `correct` is a share of the cases.
        patients: Patient of each case that is judged in it.
        models: Whose earlier versions are looked at, in this order; the first with such scores tells the spread.
        frozen: Scores of the network before training, a row a case, where no earlier version has any.
        split: validation or test, in words, where one split judges; where folds do, these are named.
        digest: Of the cases that judge, as packages hold it: whether an earlier version was judged on others.
    """
    if not ctx.accelerator.is_main_process:
        return
    resampling, spread = ctx.resampling, known_spread(columns, models, frozen, digest)
    judging = "out-of-fold" if resampling.folds else split
    line = in_words(metric, patients.nunique(), judging, spread, resampling.excess, ctx.phase.units)
    print(line)
    ctx.run.reporter.text(f"{line}\n", "power.txt")


def known_spread(
    columns: Sequence[str], models: Sequence[str], frozen: pd.DataFrame | None = None, digest: str | None = None
) -> Spread | None:
    """From earlier versions, else from the frozen network, else, of right answers, from an assumption; arguments as above."""
    for model in models:
        if found := spread_of(model, columns, digest=digest):
            return found
    if frozen is not None:
        return spread_alone(frozen, columns, "scores of the frozen network alone")
    if list(columns) == ["correct"]:
        assumed = f"no earlier version: as if two classifiers disagreed on {DISAGREEMENT:.0%} of the cases"
        return Spread(DISAGREEMENT**0.5, 0, assumed)
    return None


def in_words(
    metric: str,
    patients: int,
    judging: str,
    spread: Spread | None,
    excess: float = 1.0,
    units: tuple[str, str] = PATIENTS,
) -> str:
    """The line; `excess` as of `Resampling`, whose intervals are wider where folds judge; `units` as of `Phase`."""
    cases = f"{patients} {judging} {units[patients != 1]}"
    if spread is None:
        return f"What difference in {metric} {cases} can show is not known: no earlier scores say it."
    seen = smallest_difference(patients, spread.value * excess**0.5)
    source = f"{spread.source}: SD of differences {spread.value:.2g}"
    source += ", in intervals that are wider because of the folds" if excess > 1 else ""
    if not seen < 1:
        return f"With {cases} no difference in {metric} could be told ({source})."
    return f"With {cases} a difference in {metric} of about {seen:.2g} would be seen with 80 % ({source})."
