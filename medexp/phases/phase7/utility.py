"""mode=utility: is a segmenter better for pairs that an adapter drew, of half of the patients?"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from medexp.arrays import Array
from medexp.data.pairs.prepared import PreparedPairs
from medexp.data.splits import Splits, patient_groups
from medexp.errors import DataError
from medexp.evaluation.synthesis import Masks, Pairs
from medexp.phases.phase7 import checks
from medexp.phases.phase7.adapting import Trained
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.phase7.reading import Volumes
from medexp.phases.phase7.segmenters import Utility, measure
from medexp.phases.shared.context import Context
from medexp.phases.shared.publishing import Summary
from medexp.reporting import NullReporter

W = TypeVar("W", bound="Split")
TEST = "test"
"""The split that is segmented: neither adapters nor segmenters are trained on it, or chosen by it."""


class Split(Protocol):
    """Pairs that can be split otherwise, as the recipe's work is."""

    @property
    def data(self) -> PreparedPairs: ...
    @property
    def volumes(self) -> Volumes: ...
    def under(self: W, data: PreparedPairs) -> W: ...


def utility(ctx: Context[Phase7Config], work: W, train: Callable[[Context[Phase7Config], W, str], Trained]) -> None:
    """Segmenters with and without synthetic pairs, on the test split; an adapter is trained for each seed, on a half alone.

    Args:
        ctx: Where it is logged: `utility.csv`, a row a segmenter and test case, and `gains.csv`.
        work: The base and the pairs.
        train: The recipe's training of an adapter.

    Raises:
        DataError: There is no test split, or no second patient to be trained on.
    """
    config, data = ctx.config, work.data
    if not data.ids(TEST):
        raise DataError(
            "mode=utility: no pairs are held back for the test; give data.test_fraction=0.25, or splits with a test"
        )
    cases = [case for case in data.ids("train") if not data.facts[case].synthetic]
    silent = replace(ctx, run=replace(ctx.run, reporter=NullReporter()))

    def draw(half: Sequence[str], count: int, seed: int) -> tuple[Array, Masks]:
        own = replace(config, seed=seed, training=replace(config.training, patience=0))  # and no epoch is chosen by others
        done = train(replace(silent, config=own), work.under(of_cases(data, half)), f"half, seed {seed}")
        images, masks = done.generator.draw(count, seed, config.sampling.steps[0])
        return images, masks

    found = measure(
        of_people(work.volumes.of(data, "train", real=True), cases, data),
        cases,
        work.volumes.of(data, TEST),
        data.ids(TEST),
        draw,
        config.utility,
        voxel_ml=float(np.prod(config.data.spacing)) / 1000,
        resampling=replace(ctx.resampling, folds=0),
        seed=config.seed,
        accelerator=ctx.accelerator,
        reporter=ctx.run.reporter,
        folder=ctx.state("segmenters"),
    )
    ctx.check(checks.half(len(found.copies), found.empty[1]), checks.learned(found.scores))
    _finish(ctx, data, found)


def of_cases(data: PreparedPairs, train: Sequence[str]) -> PreparedPairs:
    """The same pairs with these alone to train on: the other training cases, and the test cases, are not among them."""
    splits = Splits(tuple(sorted(train)), data.splits.val, ())
    kept = {*splits.train, *splits.val}
    return replace(
        data,
        cases={case: one for case, one in data.cases.items() if case in kept},
        facts={case: one for case, one in data.facts.items() if case in kept},
        splits=splits,
        manifest=data.manifest[data.manifest["case"].isin(kept)].reset_index(drop=True),
    )


def of_people(pairs: Pairs, cases: Sequence[str], data: PreparedPairs) -> Pairs:
    """The same, in which patients who share a copy of a scan are one: halves of them share nobody."""
    groups = patient_groups([data.cases[case] for case in cases], [data.facts[case] for case in cases])
    owner = {case: data.cases[group[0]].patient for group in groups for case in group}
    return replace(pairs, patients=[owner[case] for case in cases])


def _finish(ctx: Context[Phase7Config], data: PreparedPairs, found: Utility) -> None:
    config = ctx.config
    ctx.run.reporter.table(found.per_case, "utility.csv")
    ctx.run.reporter.table(found.table, "gains.csv")
    ctx.intervals("test/dice_", found.scores)
    ctx.intervals("test/gain_", {f"{gain.one.name}_over_{gain.other.name}": gain.gain for gain in found.gains})
    patients = len({data.cases[case].patient for case in data.ids(TEST)})
    ctx.finish(
        Summary(
            headline=f"utility, profile {config.profile}, {config.utility.seeds} seeds, on {data.source}",
            title=f"Dice of a segmenter on {len(data.ids(TEST))} real test cases of {patients} patients",
            head=["trained on", "pairs", "mean Dice", "over real pairs"],
            rows=found.rows,
            words=found.words,
            first=found.first,
        )
    )
