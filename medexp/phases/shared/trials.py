"""What a study runs of a phase, made of the phase's own steps: a trial, and what is done once for all trials."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from medexp.checks import Check
from medexp.phases import Phase
from medexp.phases.shared.context import Context, JudgedSettings, context
from medexp.phases.shared.folds import Answer, Score, Train, Trained, Work, trained_and_judged
from medexp.reporting import NullReporter
from medexp.tracking.results import stop_if_blocked
from medexp.tracking.runs import TrackedRun

C = TypeVar("C", bound=JudgedSettings)
W = TypeVar("W", bound=Work)
T = TypeVar("T", bound=Trained)
_PREFIXES = {"val": "val/final/", "test": "test/"}  # of the figures of a trial, by split


def studied(
    phase: Phase,
    read: Callable[[Context[C]], W],
    train: Train[C, W, T],
    answer: Answer[C, W, T],
    score: Score[C, W],
    guard: Callable[[W, str], Sequence[Check]] = lambda work, split: (),
    share: Callable[[Context[C], W], C] = lambda ctx, work: ctx.config,
) -> tuple[Callable[..., None], Callable[..., C]]:
    """`objective` and `warm_up` of a phase, as studies call them; with folds a trial is scored out of fold.

    `objective(config, run, test=False)` is a trial, whose scores become the figures `val/final/…` and, with `test`, `test/…`,
    which have intervals; `warm_up(config, folder, test=False)` does once what trials share, and gives a configuration with
    which another seed is another training alone.

    Args:
        phase: The phase.
        read: Cases, splits and networks that are built on: all that no training changes.
        train: The training.
        answer: What a trained network says of a split.
        score: The figures of that.
        guard: What must hold of a split before anything is trained; a BLOCKING check that fails ends a trial, and the study.
        share: What else trials share, made once; gives their configuration.
    """

    def splits(test: bool) -> tuple[str, ...]:
        """What is scored; the test split by name alone: no search asks for it."""
        return ("val", "test") if test else ("val",)

    def hold(run: TrackedRun | None, ctx: Context[C], work: W) -> None:
        if checks := [check for split in ctx.splits for check in guard(work, split)]:
            stop_if_blocked(run, checks)

    def objective(config: C, run: TrackedRun, *, test: bool = False) -> None:
        with context(phase, config, run, splits(test)) as ctx:
            work = read(ctx)
            hold(run, ctx, work)
            trained, evidence = trained_and_judged(ctx, work, train, answer, score, runs=False)
            for split in ctx.splits:
                told = evidence.tables if split == "val" else answer(ctx, work, trained, split)
                scored = score(ctx, work, told, split)
                run.reporter.table(scored.per_case, f"per_case_{split}.csv")
                ctx.figures({f"{_PREFIXES[split]}{name}": value for name, value in scored.means.items()})
                if split == "test":
                    ctx.intervals(_PREFIXES[split], scored.intervals(replace(ctx.resampling, folds=0)))

    def warm_up(config: C, folder: Path, *, test: bool = False) -> C:
        nowhere = TrackedRun("", folder, NullReporter())
        with context(phase, config, nowhere, splits(test)) as ctx:
            work = read(ctx)
            hold(None, ctx, work)
            return share(ctx, work)

    return objective, warm_up
