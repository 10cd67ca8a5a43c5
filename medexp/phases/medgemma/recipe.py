"""MedGemma (docs/requirements/medgemma.md): LoRA on the decoder of a vision-language model, judged on clinical scenarios.

Each scenario is an image and a treatment, which is appropriate or not. An answer is the likelier one of the two whole answers;
beside it stand the base, the text without its image, the image of another scenario, and what needs no model.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medexp.checks import Check
from medexp.config.shared import Resampling
from medexp.data.scenarios.cases import ANSWERS, Scenario
from medexp.data.scenarios.prepared import PreparedScenarios
from medexp.errors import DataError
from medexp.evaluation.classification import DIAGNOSTIC, cross_entropy
from medexp.evaluation.classification import scores as scores_of
from medexp.evaluation.intervals import Interval, mean_by_patient
from medexp.models.vision_language.bases import Base
from medexp.phases.medgemma import PHASE
from medexp.phases.medgemma.adapter import Trained, trained
from medexp.phases.medgemma.arms import ADAPTER, arms, strangers
from medexp.phases.medgemma.asking import Asking, answers
from medexp.phases.medgemma.benchmark import benchmark
from medexp.phases.medgemma.comparison import compare, predictions_of, shares_of, with_shares
from medexp.phases.medgemma.config import MedgemmaConfig
from medexp.phases.medgemma.dry_run import dry_run
from medexp.phases.medgemma.reading import read_base, read_data, seen_by, strata
from medexp.phases.medgemma.report import MODEL, finish, publish
from medexp.phases.shared.classification import per_case
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.folds import Scored, Tables, in_folds, trained_and_judged
from medexp.phases.shared.foresight import foresee
from medexp.phases.shared.trials import studied
from medexp.registry.leaks import leak_check
from medexp.registry.package import Parent


@dataclass(frozen=True)
class Work:
    """The base, what makes prompts for it, and the scenarios."""

    base: Base
    asking: Asking
    data: PreparedScenarios

    def under(self, data: PreparedScenarios) -> "Work":
        """The same scenarios, split otherwise."""
        return replace(self, data=data)


def run(config: MedgemmaConfig) -> None:
    """The whole phase; `MedgemmaConfig` says what can be set.

    Raises:
        CheckFailed: The base has seen what is judged; nothing was trained.
        DataError: Scenarios or images cannot be used.
        ConfigError: The base cannot be used.
    """
    with context(PHASE, config) as ctx:
        if config.mode == "benchmark":
            benchmark(ctx)
            return
        work = read(ctx)
        if not work.data.ids(config.judged):
            raise DataError(f"judged={config.judged}: {work.data.source} has no scenario in that split; give judged=val")
        work.asking.demand_fit([one for split in ("train", "val", "test") for one in _of(work, split)[0]], arms(config))
        if config.dry_run:
            dry_run(ctx, work.base, work.asking, work.data)
            return
        ctx.demand(*guard(work, config.judged))
        judged = work.data.rows(config.judged)
        foresee(ctx, "accuracy", ["correct"], judged["patient"], [MODEL], digest=work.data.digests[config.judged])
        done, evidence = trained_and_judged(ctx, work, train, answer, score)
        told = {"val": evidence.tables[0]}
        if work.data.ids("test"):
            told["test"] = answer(ctx, work, done, "test")[0]
        compared = compare(ctx, work.data, told, evidence.on if config.judged == "val" else "test")
        ctx.check(*done.checks, *compared.checks)
        publish(ctx, work.base, work.asking, work.data, done, compared, evidence)
        finish(
            ctx, work.data, pd.concat([table.assign(split=split) for split, table in told.items()]), done, compared, evidence
        )


def read(ctx: Context[MedgemmaConfig]) -> Work:
    """The base and the scenarios, each of which was read and found good."""
    base, asking = read_base(ctx)
    parent = Parent(base.folder.name, None, None, base.digest)
    ctx.built_on({"base": parent}, "model", embedded=ctx.config.model is None)
    data = read_data(ctx)
    data = in_folds(data, ctx.config.folds, ctx.config.seed, strata(data), demands=[judgeable])
    ctx.given(data, {"the scenarios": data.digest}, "scenarios")
    return Work(base, asking, data)


def judgeable(data: PreparedScenarios) -> None:
    """That the judged scenarios are of several families: each is also asked with the image of another one.

    Raises:
        DataError: They are not.
    """
    for split in ("val", "test"):
        strangers([data.cases[case] for case in data.ids(split)], 0)


def guard(work: Work, split: str) -> list[Check]:
    """LEAK: the base was not trained on what is judged, as far as that is known."""
    listed = {work.base.folder.name: seen_by(work.asking.config, work.base)}
    return [leak_check(None, work.data.judged(split), listed=listed, unit=PHASE.units[1])]


def train(ctx: Context[MedgemmaConfig], work: Work) -> Trained:
    """The adapter alone, on the whole outputs of the training scenarios."""
    examples = {split: work.asking.examples(*_of(work, split)) for split in ("train", "val")}
    return trained(ctx, work.base, work.asking, examples, _of(work, "val")[0])


def answer(ctx: Context[MedgemmaConfig], work: Work, done: Trained, split: str) -> Tables:
    """What the model says of a split, however it is asked."""
    return (answers(ctx, work.asking, done.net, _of(work, split)[0], arms(ctx.config)),)


def score(ctx: Context[MedgemmaConfig], work: Work, told: Tables, split: str) -> Scored:
    """What the adapter says of each scenario, asked as it is meant to be."""
    rows = work.data.rows(split)
    found, every = predictions_of(told[0], ADAPTER, rows), np.ones((1, len(rows)))
    table, means = (
        per_case(rows, ANSWERS, found),
        {name: float(metric(found, every)[0]) for name, metric in DIAGNOSTIC.items()},
    )
    patients = list(rows["patient"])

    def intervals(resampling: Resampling) -> dict[str, Interval]:
        of_entropy = mean_by_patient(table["cross_entropy"].to_numpy(), patients, resampling, (0.0, np.inf))
        measured = scores_of(found, patients, resampling, DIAGNOSTIC)
        return {**with_shares(measured, shares_of(found, patients, resampling)), "cross_entropy": of_entropy}

    return Scored(table, means | {"cross_entropy": float(cross_entropy(found).mean())}, intervals)


objective, warm_up = studied(PHASE, read, train, answer, score, guard)


def _of(work: Work, split: str) -> tuple[list[Scenario], dict[str, str]]:
    """The scenarios of a split, and the digests of their images."""
    ids = work.data.ids(split)
    return [work.data.cases[case] for case in ids], {case: work.data.facts[case].voxels_sha256 for case in ids}
