"""OCT (docs/requirements/oct.md): pretrained encoders compared on one classification task, under one protocol.

Every encoder has the same participants, splits and seeds, and a head that is trained in the same way; beside them stand
networks with initial weights, and what needs no encoder. Heads are judged by participant: what is said of the volumes of one
is pooled.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medexp.checks import Check
from medexp.config.shared import Resampling
from medexp.data.prepared import Prepared
from medexp.errors import DataError
from medexp.evaluation.classification import METRICS, cross_entropy
from medexp.evaluation.controls import Control
from medexp.evaluation.intervals import Interval, mean_by_patient
from medexp.phases.oct import PHASE
from medexp.phases.oct.comparison import compare
from medexp.phases.oct.config import OctConfig
from medexp.phases.oct.encoders import Encoder, load_encoders, with_initial_weights
from medexp.phases.oct.heads import Features, Head, by_participant, embed, logits_of, of_participants, spoken, train_head
from medexp.phases.oct.reading import answers_at, read_data, show_volumes
from medexp.phases.oct.report import MODEL, finish, package
from medexp.phases.oct.smoke import smoke
from medexp.phases.shared.classification import per_case
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.folds import Scored, Tables, in_folds, trained_and_judged
from medexp.phases.shared.foresight import foresee
from medexp.phases.shared.launch import deterministic
from medexp.phases.shared.trials import studied
from medexp.registry.leaks import leak_check
from medexp.training.loop import FitResult

_WORDS = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Work:
    """The encoders, the volumes, and what the ones make of the others, computed when it is first asked for."""

    encoders: list[Encoder]
    data: Prepared[Any, Any]
    features: Callable[[], Features]

    def under(self, data: Prepared[Any, Any]) -> "Work":
        """The same volumes, split otherwise."""
        return replace(self, data=data)


@dataclass(frozen=True)
class Trained:
    """A head for each encoder and seed.

    Attributes:
        heads: By name of the encoder, then by seed.
    """

    heads: Mapping[str, Mapping[int, Head]]

    @property
    def fitted(self) -> FitResult:
        """The first of the trainings."""
        return next(iter(next(iter(self.heads.values())).values())).fitted


def run(config: OctConfig) -> None:
    """The whole phase; `OctConfig` says what can be set.

    Raises:
        CheckFailed: An encoder has seen people who are judged, or a smoke test failed; nothing was trained.
        DataError: Volumes, labels or splits cannot be used.
        ConfigError: An encoder cannot be used.
        StorageError: The bucket does not answer.
    """
    with context(PHASE, config) as ctx:
        work = read(ctx)
        show_volumes(ctx, work.data)
        judged = "val" if config.folds else config.judged
        if not work.data.ids(judged):
            raise DataError(f"judged={judged}: {work.data.source} has nobody in that split; give judged=val")
        ctx.demand(*guard(work, judged))
        every = [*work.encoders, *with_initial_weights(work.encoders)]
        work = replace(work, encoders=every, features=functools.cache(functools.partial(embed, ctx, every, work.data)))
        ctx.demand(*smoke(ctx, work.encoders, work.data, work.features()))
        people = of_participants(work.data.manifest, work.data.ids(judged))
        foresee(
            ctx, "accuracy", ["correct"], people["patient"], [MODEL], split=_WORDS[judged], digest=work.data.digests[judged]
        )
        trained, evidence = trained_and_judged(ctx, work, train, answer, score)
        told = {"val": evidence.tables[0]}
        if not config.folds and work.data.ids("test"):
            told["test"] = answer(ctx, work, trained, "test")[0]
        compared = compare(ctx, work.encoders, work.data, work.features(), told, judged)
        ctx.check(*compared.checks)
        best = next(encoder for encoder in work.encoders if encoder.name == compared.chosen)
        head = trained.heads[best.name][config.seed]
        ctx.publish(package(ctx, best, head, work.data, compared, evidence))
        finish(ctx, work.encoders, trained.heads, work.data, compared)


def read(ctx: Context[OctConfig]) -> Work:
    """The encoders, the participants and their volumes, each of which was read and found good."""
    answers_at(ctx.config)
    for line in ctx.config.told if ctx.accelerator.is_main_process else ():
        print(line, flush=True)
    encoders = load_encoders(ctx)
    parents = {encoder.name: encoder.parent for encoder in encoders}
    ctx.built_on(parents, "checkpoints", embedded=not ctx.config.paths.checkpoints)
    data = read_data(ctx)
    strata = dict(zip(data.manifest["case"], data.manifest["label"], strict=True))
    known = [encoder.pulled for encoder in encoders if encoder.pulled]
    data = in_folds(data, ctx.config.folds, ctx.config.seed, strata, built_on=known)
    ctx.given(data, {"the volumes": data.digest}, "volumes")
    return Work(encoders, data, functools.cache(functools.partial(embed, ctx, encoders, data)))


def guard(work: Work, split: str) -> list[Check]:
    """LEAK: no encoder has seen a split's people, whatever split they were in when it was pretrained."""
    pulled = [encoder.pulled for encoder in work.encoders if encoder.pulled]
    listed = {encoder.name: encoder.seen for encoder in work.encoders if not encoder.pulled}
    first, beside = (pulled[0], pulled[1:]) if pulled else (None, [])
    return [leak_check(first, work.data.judged(split), beside=beside, listed=listed)]


def train(ctx: Context[OctConfig], work: Work) -> Trained:
    """A head on each encoder, as many times as there are seeds; on each network with initial weights once."""
    seeds = range(ctx.config.seed, ctx.config.seed + ctx.config.seeds)
    features, heads = work.features(), {}
    with deterministic(ctx.config.train.deterministic):
        for encoder in work.encoders:
            made = {}
            for seed in seeds[:1] if encoder.is_random else seeds:
                shown = seed == seeds[0] and not encoder.is_random
                made[seed] = train_head(ctx, encoder, work.data, features, seed, shown=shown)
            heads[encoder.name] = made
            if ctx.accelerator.is_main_process:
                fits = [head.fitted for head in made.values()]
                found = ", ".join(f"{fit.best_value:.3f} in epoch {fit.best_epoch + 1}" for fit in fits)
                told = f"best validation balanced accuracy {found}"
                if fits[0].best_epoch < 0:  # after folds there is nobody left to validate on
                    told = f"trained on all, {fits[0].epoch + 1} epochs"
                print(f"  {encoder.name}: {told}", flush=True)
    return Trained(heads)


def answer(ctx: Context[OctConfig], work: Work, trained: Trained, split: str) -> Tables:
    """The logits of each participant, a row for each encoder and seed: case (the participant), arm, seed, and 0 to K - 1."""
    people, tables = of_participants(work.data.manifest, work.data.ids(split)), []
    for encoder in work.encoders:
        for seed, head in trained.heads[encoder.name].items():
            (logits,) = logits_of(ctx, head.classifier, encoder, work.data, work.features(), split)
            means = pd.DataFrame(by_participant(logits, people))
            tables.append(means.assign(case=people["case"], arm=encoder.name, seed=seed))
    return (pd.concat(tables, ignore_index=True),)


def score(ctx: Context[OctConfig], work: Work, told: Tables, split: str) -> Scored:
    """The mean over encoders and seeds of what they say of each participant: what is searched is good for all of them."""
    people = of_participants(work.data.manifest, work.data.ids(split))
    found = [spoken(table, people) for _, table in told[0].groupby(["arm", "seed"], sort=False)]
    every, patients = np.ones((1, len(people))), list(people["patient"])
    means = {name: float(np.mean([metric(one, every)[0] for one in found])) for name, metric in METRICS.items()}
    entropy = np.mean([cross_entropy(one) for one in found], axis=0)

    def intervals(resampling: Resampling) -> dict[str, Interval]:
        of_all = Control("", "", found).scores(patients, resampling)
        return {**of_all, "cross_entropy": mean_by_patient(entropy, patients, resampling, (0.0, np.inf))}

    table = per_case(people, ctx.config.classes.names, found[0]).assign(cross_entropy=entropy)
    return Scored(table, means | {"cross_entropy": float(entropy.mean())}, intervals)


def share(ctx: Context[OctConfig], work: Work) -> OctConfig:
    """The features, which no trial's settings change."""
    work.features()
    return ctx.config


objective, warm_up = studied(PHASE, read, train, answer, score, guard, share)
