"""Phase 7 (docs/requirements/phase7.md): LoRA on a MeanFlow U-Net that draws FLAIR volumes together with their lesion masks.

A base that draws latents of healthy heads is given channels for a mask, and adapters in its attention; these train on a few
pairs. What is drawn then is judged beside real pairs that nothing was trained on.
"""

from dataclasses import dataclass, replace

import numpy as np

from medexp.checks import Check
from medexp.config.shared import Resampling
from medexp.data.pairs.prepared import PreparedPairs, prepare_pairs
from medexp.evaluation.intervals import Interval, mean_by_patient
from medexp.evaluation.synthesis import Pairs
from medexp.phases.phase7 import PHASE
from medexp.phases.phase7.ablation import ablated
from medexp.phases.phase7.adapting import Encoded, Trained, adapted, joint_of
from medexp.phases.phase7.basing import make_base
from medexp.phases.phase7.comparison import compare, draw
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.phase7.reading import Base, Volumes, read_base, read_volumes
from medexp.phases.phase7.report import finish, publish, scored
from medexp.phases.phase7.sampling import demand_free, draw_registered, write_augmented
from medexp.phases.phase7.utility import utility
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.folds import Scored, Tables
from medexp.phases.shared.trials import studied
from medexp.registry.leaks import leak_check


@dataclass(frozen=True)
class Work:
    """The base and the pairs.

    Attributes:
        base: What is adapted.
        data: The pairs, split.
        volumes: All of them on the network's grid.
    """

    base: Base
    data: PreparedPairs
    volumes: Volumes

    def under(self, data: PreparedPairs) -> "Work":
        """The same pairs, split otherwise."""
        return replace(self, data=data)

    @property
    def train(self) -> Pairs:
        """The pairs that are trained on."""
        return self.volumes.of(self.data, "train")

    @property
    def held(self) -> Pairs:
        """Real pairs that nothing is trained on, nor chosen by."""
        return self.volumes.of(self.data, "val")


def run(config: Phase7Config) -> None:
    """The whole phase; `Phase7Config` says what can be set.

    Raises:
        CheckFailed: The base has seen what is judged, or masks do not survive as they are to be encoded; nothing was trained.
        DataError: Pairs cannot be used.
        ConfigError: The base cannot be used.
        TrainingDiverged: A Jacobian-vector product is not finite.
    """
    with context(PHASE, config) as ctx:
        demand_free(config)
        if config.mode == "base":
            make_base(ctx)
            return
        if config.mode == "sample":
            draw_registered(ctx)
            return
        work = read(ctx)
        ctx.demand(*guard(work, "test" if config.mode == "utility" else "val"))
        if config.mode == "utility":
            utility(ctx, work, train)
            return
        done = adapted(ctx, work.base, encoded := encode(ctx, work))
        real = work.volumes.of(work.data, "train", real=True)
        compared = compare(ctx, done.generator, work.base, real, work.held, draw(ctx, done.generator))
        powers = ablated(ctx, lambda other, arm: adapted(other, work.base, encoded, arm).generator, work.held)
        ctx.check(*done.checks, *compared.checks, powers.check)
        publish(ctx, work.base, work.data, work.held, done, compared)
        finish(ctx, work.data, work.held, done, compared, powers, write_augmented(ctx, done.generator))


def read(ctx: Context[Phase7Config]) -> Work:
    """The base and the pairs, each of which was read and found good."""
    base = read_base(ctx)
    ctx.built_on({"base": base.parent}, embedded=base.is_embedded)
    with ctx.accelerator.main_process_first():
        data = prepare_pairs(ctx.config)
    ctx.given(data, {"the pairs": data.digest}, "pairs")
    return Work(base, data, read_volumes(data, ctx.config))


def guard(work: Work, split: str) -> list[Check]:
    """LEAK: the base has not seen whom samples are held against, as far as that is known."""
    return [leak_check(work.base.pulled, work.data.judged(split), listed=work.base.learned)]


def encode(ctx: Context[Phase7Config], work: Work) -> Encoded:
    """How masks stand in latents, and the latents: nothing of it depends on a training, so that all have them in common."""
    joint, tested = joint_of(ctx, work.base, work.train, work.held)
    if tested.blocks:
        ctx.demand(tested)
    with ctx.accelerator.main_process_first():
        latents = {split: work.volumes.latents(work.data, split, joint, ctx.config, ctx.cache) for split in ("train", "val")}
    return Encoded(joint, tested, latents, work.held.patients, work.volumes.affine)


def train(ctx: Context[Phase7Config], work: Work, arm: str = "") -> Trained:
    """The adapter's training on the latents."""
    return adapted(ctx, work.base, encode(ctx, work), arm)


def answer(ctx: Context[Phase7Config], work: Work, done: Trained, split: str) -> Tables:
    """What is drawn, a row a sample (`medexp.registry.synthesis.per_sample`)."""
    return (scored(ctx.config, work.volumes.of(work.data, split), draw(ctx, done.generator)),)


def score(ctx: Context[Phase7Config], work: Work, told: Tables, split: str) -> Scored:
    """How far samples' contrast lies from that of real pairs, and how many hold a lesion."""
    table = told[0]

    def intervals(resampling: Resampling) -> dict[str, Interval]:
        values, names = table["contrast_gap"].to_numpy(), list(table["patient"])
        return {"contrast_gap": mean_by_patient(values, names, resampling, (0.0, np.inf))}

    means = {"contrast_gap": float(table["contrast_gap"].mean()), "non_empty": float(1 - table["empty_mask"].mean())}
    return Scored(table, means, intervals)


objective, warm_up = studied(PHASE, read, train, answer, score, guard)
