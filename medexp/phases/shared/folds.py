"""Folds, made of a phase's own steps: each case is judged by a training that has not seen its patient, and what is registered
is trained on all of them.

1. In each fold a training goes as it would with one split: a run of its own in the phase's run.
2. The median of their numbers of epochs is what all are judged at, and what the last training, on all cases, runs for. Without
   early stopping these are all the same. With it a fold chose on the very cases that it is judged by, which would flatter it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from statistics import median_low
from typing import Any, Protocol, Self, TypeVar

import pandas as pd

from medexp.config.shared import Resampling
from medexp.data.folds import draw_folds
from medexp.data.prepared import Prepared
from medexp.data.splits import patient_groups
from medexp.errors import DataError
from medexp.evaluation.intervals import Interval
from medexp.phases.shared.context import Context, Settings
from medexp.phases.shared.publishing import SEED, caveat
from medexp.registry.leaks import learned_cases
from medexp.registry.store import Pulled
from medexp.reporting import NullReporter, Reporter
from medexp.tracking.runs import child_run
from medexp.training.loop import FitResult

Tables = tuple[pd.DataFrame, ...]
"""What a network says of the cases of a split: one table or several, each with the column `case`."""


class Work(Protocol):
    """What a phase works on."""

    @property
    def data(self) -> Prepared[Any, Any]: ...

    def under(self, data: Prepared[Any, Any]) -> Self:
        """The same with the same cases, split otherwise; nothing is read or embedded again."""


class Trained(Protocol):
    """What a training gave."""

    @property
    def fitted(self) -> FitResult: ...


@dataclass(frozen=True)
class Scored:
    """What a trained network does on a split.

    Attributes:
        per_case: One row a case.
        means: The figures that trials are compared by.
        intervals: From how resamples are drawn to figures with their intervals by patient, those of `means` that have one.
    """

    per_case: pd.DataFrame
    means: Mapping[str, float]
    intervals: Callable[[Resampling], Mapping[str, Interval]]


C = TypeVar("C", bound=Settings)
W = TypeVar("W", bound=Work)
T = TypeVar("T", bound=Trained)
Train = Callable[[Context[C], W], T]
Answer = Callable[[Context[C], W, T, str], Tables]
Score = Callable[[Context[C], W, Tables, str], Scored]


@dataclass(frozen=True)
class Evidence:
    """What a version is judged by: what one training, or those of the folds, said of cases that they had not seen.

    Attributes:
        tables: What the judged cases were told, in the order of `work.data.rows("val")`.
        folds: One row a fold: fold, cases, patients, epochs, and its scores; empty where one split is judged.
        epochs: The folds' median number of epochs; None where one split is judged.
    """

    tables: Tables
    folds: pd.DataFrame = field(default_factory=pd.DataFrame)
    epochs: int | None = None

    @property
    def on(self) -> str:
        """What the cases are, for titles."""
        return "validation" if self.epochs is None else "out-of-fold"

    def selection(self, rule: str) -> str:
        """How the registered epoch came about, for a card; `rule` is how that of one training does."""
        if self.epochs is None:
            return rule
        return (
            f"trained on all cases of training and validation for {self.epochs} epochs, the median of {len(self.folds)} folds "
            f"({self.folds['epochs'].min()} to {self.folds['epochs'].max()}; in each, {rule}), and judged by the cases of the "
            "folds, each by a training for as many epochs that had not seen its patient"
        )

    def caveat(self, figure: str, fitted: FitResult, resampling: Resampling, *, test: bool = False) -> str:
        """What to know of the figures: of those out of fold, how far the folds lie apart in one of them; of one training, what
        the choice of its epoch made of them; and, but where `test` says so, that the test split was not read."""
        if self.epochs is None:
            return caveat(fitted, resampling, test=test)
        return (
            f"Each case is judged by one of {len(self.folds)} trainings that had not seen its patient; the registered version "
            f"was trained on all of them, for {self.epochs} epochs. From fold to fold {figure.replace('_', ' ')} went from "
            f"{self.folds[figure].min():.3f} to {self.folds[figure].max():.3f}, which is no interval: folds share their "
            f"training cases. The intervals are wider for that (Nadeau and Bengio, 2003). {SEED}"
            + ("" if test else " The test split was not read.")
        )


def in_folds(
    data: Prepared[Any, Any],
    count: int,
    seed: int,
    strata: Mapping[str, str],
    *,
    built_on: Sequence[Pulled] = (),
    learned: Sequence[str] = ("train",),
    demands: Sequence[Callable[[Prepared[Any, Any]], None]] = (),
) -> Prepared[Any, Any]:
    """Cases whose training and validation together are in folds, or as they are where no folds are asked for.

    Cases that a model learned from, on which the phase builds, are trained on in every fold and judged in none.

    Args:
        data: The cases.
        count: Folds; fewer are drawn where a fold of so many would not meet the demands.
        seed: Seed of the folds.
        strata: By case, what is spread evenly over the folds.
        built_on: The models.
        learned: Splits of theirs that count, as of `medexp.registry.leaks.leak_check`.
        demands: Each raises a DataError where training or validation lacks what the phase needs.

    Raises:
        DataError: A demand is not met, by the split or by two folds.
    """
    if not count:
        for demand in demands:
            demand(data)
        return data
    rows = pd.concat([data.judged("train"), data.judged("val")])
    known = learned_cases(built_on, rows, learned) if built_on else frozenset()
    groups = [group for group in patient_groups([*data.cases.values()], data.facts.values()) if {*group} <= {*rows["case"]}]
    judged = [group for group in groups if known.isdisjoint(group)]
    reason = "the patients are too few"
    if known and len(judged) < 2:
        reason = f"what it builds on was trained on {len(known)} of the {len(rows)} cases, and is judged on none of them"
    for number in range(min(count, len(judged)), 1, -1):
        drawn = data.in_folds(draw_folds(judged, strata, number, seed))
        try:
            for fold in range(1, drawn.folds + 1):
                for demand in demands:
                    demand(drawn.fold(fold))
        except DataError as error:
            reason = str(error)
            continue
        if drawn.folds == number and all((drawn.manifest["fold"] == fold).any() for fold in range(1, number + 1)):
            _tell(drawn, count, len(known), reason)
            return drawn
    raise DataError(
        f"folds={count}: not even two folds can be judged: {reason.rstrip('.')}. Or judge one validation split: folds=0"
    )


def _tell(data: Prepared[Any, Any], wanted: int, known: int, reason: str) -> None:
    rows = data.rows("val")
    kept = f"; {known} cases that it builds on are trained on in each and judged in none" if known else ""
    print(f"{data.folds} folds of {len(rows)} cases of {rows['patient'].nunique()} patients{kept}", flush=True)
    if data.folds < wanted:
        print(f"  not {wanted}: {' '.join(reason.split())}", flush=True)


def trained_and_judged(
    ctx: Context[C], work: W, train: Train[C, W, T], answer: Answer[C, W, T], score: Score[C, W], *, runs: bool = True
) -> tuple[T, Evidence]:
    """A training and what it is judged by: one split, or all cases with the evidence of folds; `folds.csv` has a row a fold.

    Args:
        ctx: Where it is logged.
        work: The cases, in folds or split.
        train: The phase's training.
        answer: What a trained network says of a split.
        score: The figures of that.
        runs: Whether each fold is a run of its own; else the curves of `ctx` are those of the first fold, for who searches.
    """
    if not work.data.folds:
        trained = train(ctx, work)
        return trained, Evidence(answer(ctx, work, trained, "val"))
    silent = replace(ctx, run=replace(ctx.run, reporter=NullReporter()))
    found = _out_of_fold(ctx, silent, work, train, answer, score, runs)
    ctx.run.reporter.table(found.folds, "folds.csv")
    return train(replace(ctx if runs else silent, until=found.epochs), work), found


def _out_of_fold(
    ctx: Context[C],
    silent: Context[C],
    work: W,
    train: Train[C, W, T],
    answer: Answer[C, W, T],
    score: Score[C, W],
    runs: bool,
) -> Evidence:
    """What each judged case is told out of its fold; a training that was interrupted goes on in the fold that it was in."""
    count = work.data.folds
    called = {number: f"fold {number} of {count}" for number in range(1, count + 1)}
    chosen: list[int] = []
    reporters: list[Reporter] = []
    for number, fold in called.items():
        part = work.under(work.data.fold(number))
        alone = replace(silent if chosen else ctx, fold=fold)
        with _run_of(ctx, part, fold) if runs else nullcontext(alone) as inner:
            chosen.append(train(inner, part).fitted.epoch + 1)
            reporters.append(inner.run.reporter if runs else silent.run.reporter)
    epochs, tables, rows = median_low(chosen), [], []
    for (number, fold), own, reporter in zip(called.items(), chosen, reporters, strict=True):
        part = work.under(work.data.fold(number))
        inner = replace(silent, fold=fold, until=None if own == epochs else epochs)  # the one that it chose is there
        told = answer(replace(inner, run=ctx.run), part, train(inner, part), "val")  # its pictures are the phase's
        scored = score(inner, part, told, "val")
        reporter.table(scored.per_case, "per_case.csv")
        means = [(f"val/final/{name}", value) for name, value in scored.means.items()]
        reporter.table(pd.DataFrame(means, columns=["metric", "estimate"]), "intervals.csv")
        tables.append([table.assign(fold=number) for table in told])
        held = part.data.rows("val")
        sizes = {"fold": number, "cases": len(held), "patients": held["patient"].nunique(), "epochs": own}
        rows.append(sizes | dict(scored.means))
    joined = (pd.concat(same).sort_values("case", kind="stable", ignore_index=True) for same in zip(*tables, strict=True))
    return Evidence(tuple(joined), pd.DataFrame(rows), epochs)


@contextmanager
def _run_of(ctx: Context[C], part: Work, called: str) -> Iterator[Context[C]]:
    """A fold's own run in the phase's run; what it is to go on from lies with the phase's."""
    if ctx.run.client is None:
        yield replace(ctx, fold=called)
        return
    rows = part.data.rows("val")
    params = {"fold": called, "cases": str(len(rows)), "patients": str(rows["patient"].nunique())}
    folder = ctx.run.folder / "folds"
    with child_run(ctx.run.id, f"{ctx.phase.name} / {called}", folder, params, {"medexp.fold": called}) as run:
        yield replace(ctx, run=replace(run, folder=ctx.run.folder), fold=called)
