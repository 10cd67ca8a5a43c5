"""Phase 1 (docs/requirements/phase1.md): adapt a SwinUNETR encoder with LoRA, judge what that brought, merge and register it.

Four arms see the same cases in the same order: the frozen baseline, the decoder alone, LoRA alone, and both. The decoder,
which is thrown away afterwards, can bring all of a gain in Dice by itself, and hide what LoRA brings.
"""

from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch

from medexp.checks import Check
from medexp.data.folds import thirds
from medexp.data.splits import save_splits
from medexp.data.volumes.datasets import demand_tumours
from medexp.data.volumes.prepared import PreparedVolumes, prepare_volumes
from medexp.data.volumes.regions import to_regions
from medexp.errors import DataError
from medexp.evaluation.segmentation import mean_scores
from medexp.models.heads import SegmenterWithHeads, SemanticHeads
from medexp.models.lora import add_lora, decoder_parameters, freeze_decoder, freeze_encoder, lora_parameters
from medexp.models.swin.features import KINDS
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1 import PHASE, checks
from medexp.phases.phase1.arms import Trained, begin, crops, fit_arm, scores_of, trained_once
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.features import attribute, embed, embed_crops, over_controls, read_off, semantic_r2, semantics
from medexp.phases.phase1.mean_mask import score_mean_mask
from medexp.phases.phase1.pretrained import Base, initial, load_base, network, pretrained
from medexp.phases.phase1.reach import measure
from medexp.phases.phase1.report import Judged, log_judged, publish_all, summary
from medexp.phases.phase1.segmentation import DICE, intervals, score_arm, with_intervals, with_mean_dice
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.folds import Scored, Tables, in_folds, trained_and_judged
from medexp.phases.shared.foresight import foresee
from medexp.phases.shared.trials import studied
from medexp.training.loop import Group


@dataclass(frozen=True)
class Work:
    """The cases, and the base that is adapted."""

    data: PreparedVolumes
    base: Base

    def under(self, data: PreparedVolumes) -> "Work":
        """The same cases, split otherwise."""
        return replace(self, data=data)


def run(config: Phase1Config) -> None:
    """The whole phase; `Phase1Config` says what can be set."""
    with context(PHASE, config) as ctx:
        work = read(ctx)
        data = work.data
        reach = measure(ctx, data, fresh(ctx, work))
        if not reach.any and ctx.accelerator.is_main_process:
            print(checks.out_of_reach(reach))  # now, while stopping it costs nothing
        ctx.demand(checks.reach(reach), *check_adapters(ctx, work))
        frozen = score_arm(ctx, data, fresh(ctx, work), "baseline", native=True)
        if not data.folds:  # where a fold's run has its own course
            begin(ctx, frozen)
        foresee(
            ctx,
            "Dice",
            DICE,
            frozen.dropna(subset=DICE, how="all")["patient"],
            ["phase1_encoder_merged"],
            frozen=frozen,
            digest=data.digests["val"],
        )
        trained, evidence = trained_and_judged(ctx, work, train_arms, partial(answer_of_arms, frozen), score)
        per_case, read_from = evidence.tables
        net, merge_check = merge(ctx, work, trained)
        by_arm = {str(arm): rows for arm, rows in per_case.groupby("arm", sort=False)}
        means = {arm: mean_scores(rows) for arm, rows in by_arm.items()}
        judged = Judged(
            per_case=per_case,
            means=means,
            scores={arm: with_intervals(means[arm], rows, ctx.resampling) for arm, rows in by_arm.items()},
            semantic=semantic_r2(data, read_from),
            added=attribute(ctx, data, per_case, read_from),
            gains=over_controls(ctx, per_case),
            reach=reach,
            fits={arm: one.fitted for arm, one in {"lora": trained, **trained.beside}.items()},
            evidence=evidence,
        )
        if ctx.accelerator.is_main_process:
            log_judged(ctx, judged, net)
        ctx.check(
            merge_check,
            checks.segmentation(judged.means["lora"], judged.means["baseline"], config.validation, *judged.cases_of("WT")),
            checks.semantic_heads(judged.semantic["adapted"]),
            checks.controls(judged.gains),
            checks.attribution(judged.added.effects, judged.added.probes),
        )
        if ctx.accelerator.is_main_process:
            publish_all(ctx, data, work.base, judged, net)
        ctx.finish(summary(ctx, judged))


def read(ctx: Context[Phase1Config]) -> Work:
    """The cases and the base, logged, and what an interrupted run had trained.

    Raises:
        DataError: The cases cannot be used, or the test split is scored and is empty.
        ConfigError: The run that is resumed was begun with another base, other cases or other splits.
    """
    config = ctx.config
    with ctx.accelerator.main_process_first():
        data = prepare_volumes(config)
    if "test" in ctx.splits and not data.ids("test"):
        raise DataError(
            f"test=true: no case is in the test split: {len(data.cases)} cases, "
            f"data.test_fraction {config.data.test_fraction:g}. "
            "Raise data.test_fraction, add patients, or leave test out"
        )
    base = load_base(config, ctx.accelerator, ctx.cache)
    if "test" in ctx.splits:
        demand_tumours(data, "test", config.data, ctx.cache)
    seed, built_on = 0 if config.splits else config.seed, [base.pulled] if base.pulled else []  # trials share their splits
    judged = partial(demand_tumours, split="val", data=config.data, cache=ctx.cache)
    strata = thirds({case: fact.semantic[0] for case, fact in data.facts.items()})  # of the whole tumour's volume
    data = in_folds(data, config.folds, seed, strata, built_on=built_on, demands=[judged])
    ctx.built_on({"base": base.parent}, "checkpoint", embedded=config.checkpoint is None)
    ctx.given(data, {f"{split} cases": digest for split, digest in data.digests.items()})
    return Work(data, base)


def fresh(ctx: Context[Phase1Config], work: Work) -> SwinSegmenter:
    """The base network, unadapted, on the device."""
    return network(ctx.config, work.base).to(ctx.device).eval()


def untrained(ctx: Context[Phase1Config]) -> SwinSegmenter:
    """A network with initial weights: what an encoder's architecture gives without any training."""
    torch.manual_seed(ctx.config.seed)
    return initial(ctx.config).to(ctx.device).eval()


def check_adapters(ctx: Context[Phase1Config], work: Work) -> list[Check]:
    """TEST_2.1 to TEST_2.3, before anything is trained, on the first batch."""
    config, cases = ctx.config, crops(ctx, work.data, "train")
    items = [cases[0, index] for index in range(min(config.training.batch_size, len(work.data.ids("train"))))]
    image = torch.stack([item["image"] for item in items]).to(ctx.device)
    regions = to_regions(torch.stack([item["label"] for item in items])).to(ctx.device)
    torch.manual_seed(config.seed)
    return [
        checks.injection(fresh(ctx, work), config.lora, config.network.feature_size, image, regions),
        checks.initialisation(fresh(ctx, work), config.lora, image),
        checks.training_step(fresh(ctx, work), config.lora, config.training.lr_lora, image, regions),
    ]


def train_arms(ctx: Context[Phase1Config], work: Work) -> Trained:
    """What is registered, with the arms beside it; without them where folds have judged it.

    In a fold no arm chooses an epoch of its own on the cases that it is judged by.
    """
    both = train(ctx, work, native=True)
    if work.data.folds:
        return both
    alike = replace(ctx, until=both.fitted.epoch + 1) if ctx.fold and both.fitted.chosen else ctx
    return replace(both, beside={"control": train_decoder(alike, work), "lora_alone": train(alike, work, "lora_alone")})


def train_decoder(ctx: Context[Phase1Config], work: Work) -> Trained:
    """The control: the decoder trains as in the adapted arm, the encoder does not change."""
    net = fresh(ctx, work)
    freeze_encoder(net)
    groups = [Group("decoder", ctx.config.training.lr_decoder, list(decoder_parameters(net).values()))]
    with trained_once(ctx, work.data, work.base, "control"):
        fitted, scores = fit_arm(ctx, work.data, SegmenterWithHeads(net), groups, "control")
        return Trained(net, fitted, scores=scores)


def train(ctx: Context[Phase1Config], work: Work, arm: str = "lora", native: bool = False) -> Trained:
    """LoRA in the encoder, semantic heads on the bottleneck, and the decoder, which in the arm `lora_alone` stays as it is;
    `native` as of `fit_arm`."""
    config, rates, net = ctx.config, ctx.config.training, fresh(ctx, work)
    torch.manual_seed(config.seed)  # of the A matrices and the heads
    adapter = add_lora(net, config.lora)
    heads = None
    groups = [
        Group("lora", rates.lr_lora, list(lora_parameters(net).values())),
        Group("decoder", rates.lr_decoder, list(decoder_parameters(net).values())),
    ]
    if arm == "lora_alone":
        freeze_decoder(net)
        groups.pop()
    if config.aux_heads.enabled:
        features, targets = embed_crops(ctx, work.data, fresh(ctx, work)), semantics(work.data, "train")
        heads = SemanticHeads(torch.from_numpy(features), torch.from_numpy(targets)).to(ctx.device)
        groups.append(Group("aux", rates.lr_aux, list(heads.parameters())))
    if arm == "lora":
        sizes = {f"params/{group.name}_trainable": sum(p.numel() for p in group.parameters) for group in groups}
        ctx.figures(sizes)
    fitted, scores = fit_arm(ctx, work.data, SegmenterWithHeads(net, heads), groups, arm, native)
    return Trained(net, fitted, adapter, heads, scores)


def answer(ctx: Context[Phase1Config], work: Work, trained: Trained, split: str) -> Tables:
    """The adapted arm on a split."""
    return (scores_of(ctx, work.data, trained, "lora", split),)


def answer_of_arms(frozen: pd.DataFrame, ctx: Context[Phase1Config], work: Work, trained: Trained, split: str) -> Tables:
    """All arms on the validation cases, and what is read from the features of their encoders; `frozen` are the baseline's."""
    data = work.data
    rows = [score_mean_mask(ctx, data), frozen[frozen["case"].isin(data.ids(split))]]
    rows += [scores_of(ctx, data, arm, name, split) for name, arm in trained.beside.items()]
    rows.append(scores_of(ctx, data, trained, "lora", split, native=True))
    encoders = {"unadapted": fresh(ctx, work), "random": untrained(ctx)}
    encoders |= {"lora_alone": trained.beside["lora_alone"].merged()[0], "adapted": trained.merged()[0]}
    kinds = {name: KINDS if name in ("unadapted", "adapted") else [ctx.config.features] for name in encoders}
    features = embed(ctx, data, {name: (net, kinds[name]) for name, net in encoders.items()})
    return pd.concat(rows, ignore_index=True), read_off(ctx, data, features, trained.heads)


def score(ctx: Context[Phase1Config], work: Work, told: Tables, split: str) -> Scored:
    """Scores, and the means of the arm that is registered."""
    own = told[0][told[0]["arm"] == "lora"]
    return Scored(told[0].assign(dice=told[0][DICE].mean(axis=1)), with_mean_dice(own), partial(intervals, own))


def merge(ctx: Context[Phase1Config], work: Work, trained: Trained) -> tuple[SwinSegmenter, Check]:
    """Save the adapter, absorb it into the weights, and TEST_2.4: the same outputs on a validation case, in fp32."""
    if ctx.accelerator.is_main_process and trained.adapter:
        trained.adapter.save_pretrained(str(ctx.run.folder / "adapter"))
    image = crops(ctx, work.data, "val")[0, 0]["image"].unsqueeze(0).to(ctx.device)
    with torch.no_grad():
        before = trained.net.eval()(image)
        net, certificate = trained.merged()
        return net, checks.merge(certificate, before, net.eval()(image))


def share(ctx: Context[Phase1Config], work: Work) -> Phase1Config:
    """The split and the base as files, for another seed would be another split."""
    file = ctx.run.folder / "data_splits.json"
    save_splits(prepare_volumes(ctx.config).splits, file)  # the work's may be in folds
    checkpoint = ctx.config.checkpoint or str(pretrained(ctx.config, ctx.accelerator, ctx.cache))
    return replace(ctx.config, splits=str(file.absolute()), checkpoint=checkpoint)


objective, warm_up = studied(PHASE, read, train, answer, score, share=share)
