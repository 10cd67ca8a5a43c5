"""What phase 1 leaves behind: figures, registered models, and what they say."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from safetensors.torch import save_file

from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import REGIONS
from medexp.evaluation.intervals import Interval
from medexp.evaluation.segmentation import left_apart
from medexp.models.checkpoints import save_checkpoint
from medexp.models.kinds import ONLY
from medexp.models.swin.network import SwinSegmenter, decoder_state, encoder_state
from medexp.phases.phase1 import checks
from medexp.phases.phase1.arms import ARMS
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.features import Attribution
from medexp.phases.phase1.pretrained import BASE_MODEL, Base, architecture, as_a_whole, in_windows
from medexp.phases.phase1.reach import Reach
from medexp.phases.phase1.segmentation import DICE, NATIVE, native_in_words
from medexp.phases.shared.context import Context
from medexp.phases.shared.folds import Evidence
from medexp.phases.shared.packaging import FEATURES, contract, made_with, packaged, regions
from medexp.phases.shared.publishing import Summary, epochs_in_words, selection
from medexp.registry import store
from medexp.registry.package import Learned, Package, Parent
from medexp.registry.packages import DECODER
from medexp.registry.tags import upstream_tag
from medexp.report.volumes import log_worst
from medexp.tracking.figures import curves, dice_bars, reach_bars
from medexp.training.loop import FitResult


@dataclass(frozen=True)
class Judged:
    """What the phase measured.

    Attributes:
        per_case: One row a case and arm.
        means: Mean scores by arm.
        scores: The same of Dice with their intervals, by arm, of two arms also on the cases' own grids (`native_`); none of a
            region that no case holds.
        semantic: R2 of the semantic heads, by encoder.
        added: What LoRA and the decoder added.
        gains: In Dice over the controls that were not trained, by arm.
        reach: What the stages of the base carry.
        fits: Training of the arms that train; with folds, of what is registered alone.
        evidence: What it was judged by.
    """

    per_case: pd.DataFrame
    means: Mapping[str, Mapping[str, float]]
    scores: Mapping[str, Mapping[str, Interval]]
    semantic: Mapping[str, Mapping[str, float]]
    added: Attribution
    gains: Mapping[str, Interval]
    reach: Reach
    fits: Mapping[str, FitResult]
    evidence: Evidence

    def cases_of(self, region: str) -> tuple[int, int]:
        """Validation cases that hold a region, and all of them."""
        rows = self.per_case[self.per_case["arm"] == "lora"]
        return int(rows[f"dice_{region}"].count()), len(rows)

    @property
    def apart(self) -> list[str]:
        """What is in no mean: what the adapted network predicts where a case lacks a region."""
        return left_apart(self.per_case[self.per_case["arm"] == "lora"])

    @property
    def in_words(self) -> str:
        """What LoRA added, plainly."""
        return checks.in_words(self.added.effects)


def log_judged(ctx: Context[Phase1Config], judged: Judged, net: SwinSegmenter) -> None:
    """Metrics, tables, pictures and the output files that docs/requirements/phase1.md names."""
    reporter, folder = ctx.run.reporter, ctx.run.folder
    save_checkpoint(encoder_state(net), folder / "phase1_encoder_merged.pt")
    heads = {"baseline": judged.semantic["unadapted"], "lora": judged.semantic["adapted"]}
    arms = {
        arm: {**means, **{f"aux_{name}": r2 for name, r2 in heads.get(arm, {}).items()}} for arm, means in judged.means.items()
    }
    # A case in which nothing is predicted has no HD95: a mean says nothing without their number.
    of_how_many = judged.per_case.set_index("arm").filter(like="hd95_").groupby("arm").count()
    table = pd.DataFrame.from_dict(arms, orient="index").join(of_how_many.add_suffix("_cases"))
    reporter.table(table.rename_axis("arm").reset_index(), "arms.csv")
    for arm, about in ARMS.items():
        prefix = "val/final/" if arm == "lora" else f"{arm}/final/" if about.training else f"{arm}/"
        ctx.intervals(prefix, {name: score for name, score in judged.scores[arm].items() if not name.startswith(NATIVE)})
    own = {name.removeprefix(NATIVE): score for name, score in judged.scores["lora"].items() if name.startswith(NATIVE)}
    ctx.intervals("val/native/", own)
    ctx.figures({f"val/aux_{name}": value for name, value in judged.semantic["adapted"].items()})
    reporter.table(judged.per_case, "per_case.csv")
    log_worst(ctx.run, judged.per_case[judged.per_case["arm"] == "lora"].set_index("case")[DICE].mean(axis=1))
    reporter.table(judged.added.table, "probe_r2.csv")
    reporter.table(judged.added.as_table, "effects.csv")
    reporter.table(judged.reach.table, "reach.csv")
    reporter.figure(reach_bars(judged.reach.table), "figures/reach.png")
    labels = {arm: about.label for arm, about in ARMS.items()}
    reporter.figure(dice_bars(judged.per_case.replace({"arm": labels})), "figures/dice_by_arm.png")
    for arm, trained in judged.fits.items():
        reporter.figure(curves(trained.history), f"figures/curves_{arm}.png")
        reporter.table(trained.history, "phase1_training_log.csv" if arm == "lora" else f"{arm}_training_log.csv")
    best = {region: judged.means["lora"][f"dice_{region}"] for region in REGIONS}
    reporter.text(json.dumps(best, indent=2), "phase1_best_dice.json")
    reporter.file(folder / "adapter")
    reporter.file(folder / "phase1_encoder_merged.pt")


def publish_all(ctx: Context[Phase1Config], data: PreparedVolumes, base: Base, judged: Judged, net: SwinSegmenter) -> None:
    """Register the adapter, the segmenter and its encoder, and the embedded base where this store does not have it yet."""
    config, folder = ctx.config, ctx.run.folder
    windows, outputs = in_windows(config), {ONLY: regions(config.data)}
    network, logits = architecture(config), f"logits (B, {len(REGIONS)}, X, Y, Z) of {', '.join(REGIONS)}"
    embedded = Package(
        name=BASE_MODEL,
        architecture=network,
        contract=contract(BASE_MODEL, logits, windows, outputs),
        weights=base.state,
        cases=base.cases,
        learned=Learned(f"{config.phantoms.glioma_patients} patients of glioma phantoms", phantoms=True),
        facts=made_with(ctx),
    )
    parent = _registered(config, base) or ctx.publish(embedded, judged=False)
    name = parent.name if parent.version else BASE_MODEL  # a file's name may be no tag's
    ctx.run.tag(upstream_tag(name, parent.version, parent.digest or parent.weights_digest))
    per_case = judged.per_case[judged.per_case["arm"] == "lora"].drop(columns="arm")
    common: dict[str, Any] = {
        "facts": _how(config, data, judged.evidence),
        "evaluation": {"window": list(config.data.input_size), "overlap": config.validation.overlap},
        "per_case": per_case.drop(columns=[name for name in per_case if str(name).startswith(NATIVE)]),
        "figures": figures_of(judged),
    }
    whole: dict[str, Any] = {"output": logits, "preprocessing": windows, "outputs": outputs}
    adapter = packaged(
        ctx,
        "phase1_lora_adapter",
        data,
        architecture={"kind": "lora_adapter", "base": network},
        weights={},
        parents={"base": parent},
        extra={"adapter": folder / "adapter"},
        **whole,
        **common,
    )
    parents = {"base": parent, "adapter": ctx.publish(adapter)}
    segmenter = packaged(
        ctx,
        "phase1_segmenter",
        data,
        architecture=network,
        weights=encoder_state(net) | decoder_state(net),
        parents=parents,
        **whole,
        **common | {"per_case": per_case, "figures": _native_figures(judged) | common["figures"]},
    )
    ctx.publish(segmenter)
    save_file(decoder_state(net), folder / "decoder.safetensors")
    encoder = {key: value for key, value in network.items() if key != "out_channels"} | {"kind": "swin_encoder"}
    merged = packaged(
        ctx,
        "phase1_encoder_merged",
        data,
        output=f"features (B, {16 * config.network.feature_size}): GAP(encoder10)",
        preprocessing=as_a_whole(config),
        outputs={ONLY: FEATURES},
        architecture=encoder,
        weights=encoder_state(net),
        parents=parents,
        extra={DECODER: folder / "decoder.safetensors"},
        **common,
    )
    ctx.publish(merged)


def _registered(config: Phase1Config, base: Base) -> Parent | None:
    """The base as its children name it; None for an embedded one that is not registered yet."""
    if base.pulled or config.checkpoint:
        return base.parent
    found = store.find_by_weights(BASE_MODEL, base.digest)
    return Parent(**asdict(found)) if found else None


def _how(config: Phase1Config, data: PreparedVolumes, evidence: Evidence) -> dict[str, str | None]:
    """What the card says of data and training, by item of CLAIM."""
    settings, grid = config.training, config.data
    drawn = f"drawn by seed {config.seed}: validation {grid.val_fraction:.0%}, test {grid.test_fraction:.0%} of the patients"
    return {
        "Inclusion and exclusion": "all cases of the folder"
        + (f" but {len(grid.exclude)} that were excluded by name" if grid.exclude else ""),
        "Missing data": "none: a case that lacks a channel or a segmentation is refused",
        "Reference standard": f"the segmentations of {data.source}; from their labels ({grid.meaning}) {', '.join(REGIONS)}",
        "Assignment to partitions": f"given by {config.splits}" if config.splits else f"by patient, {drawn}",
        "Training": f"{epochs_in_words(settings)} of crops of {' x '.join(map(str, grid.input_size))} voxels, "
        f"{settings.optimizer}, rate {settings.lr_lora:g} of adapters and {settings.lr_decoder:g} of the decoder, batches of "
        f"{settings.batch_size * settings.accumulate}, loss {settings.loss}; LoRA rank {config.lora.rank}, alpha "
        f"{config.lora.alpha}; all settings: config.yaml of the run",
        "Selection of the final model": evidence.selection(selection(settings, "the best mean validation Dice")),
    }


def figures_of(judged: Judged) -> dict[str, str]:
    """What the card shows: the network's own Dice, what to think of it, and that of the other arms."""

    def dice(arm: str) -> dict[str, str]:
        scores, called = judged.scores[arm], f"{judged.evidence.on} Dice {{}}, {ARMS[arm].label}"
        return {called.format(region): str(scores.get(f"dice_{region}", "no case holds it")) for region in REGIONS}

    said = {"what LoRA added": judged.in_words, "controls": checks.controls_in_words(judged.gains)}
    if not judged.reach.any:
        said = {"reach": checks.out_of_reach(judged.reach)} | said
    apart = {"cases in no mean": " ".join(judged.apart)} if judged.apart else {}
    own, *others = [dice(arm) for arm in reversed([*ARMS])]
    return own | said | apart | {name: value for other in others for name, value in other.items()}


def _native_figures(judged: Judged) -> dict[str, str]:
    """Dice of the masks as they are written, the network's own before the base's."""
    return {
        f"{judged.evidence.on} Dice {region} on the cases' own grids, {ARMS[arm].label}": str(
            judged.scores[arm].get(f"{NATIVE}dice_{region}", "no case holds it")
        )
        for arm in ("lora", "baseline")
        for region in REGIONS
    }


def summary(ctx: Context[Phase1Config], judged: Judged) -> Summary:
    """Dice of the arms, what LoRA added, and first of all what keeps that from meaning anything."""
    evidence, kept = judged.evidence, {arm: fit.epoch + 1 for arm, fit in judged.fits.items()}
    if evidence.epochs:
        kept = {arm: evidence.epochs for arm, about in ARMS.items() if about.training}
    rows = [
        [about.label, *(f"{judged.means[arm][f'dice_{region}']:.3f}" for region in REGIONS), str(kept.get(arm, "-"))]
        for arm, about in ARMS.items()
    ]
    cases, patients = len(judged.per_case["case"].unique()), judged.per_case["patient"].nunique()
    first = [] if judged.reach.any else [checks.out_of_reach(judged.reach)]
    other = checks.other_features_in_words(judged.added.others, judged.added.other_gains)
    as_good = {arm: gain for arm, gain in judged.gains.items() if not gain.above}
    return Summary(
        headline=f"phase 1, profile {ctx.config.profile}, rank {ctx.config.lora.rank}",
        title=f"{evidence.on} Dice (cases: {cases}, patients: {patients})",
        head=["arm", *REGIONS, "epoch"],
        rows=rows,
        words=[
            judged.in_words,
            *other,
            native_in_words(judged.means["lora"], ctx.config.data.spacing),
            *judged.apart,
            evidence.caveat("dice_WT", judged.fits["lora"], ctx.resampling),
        ],
        first=[*first, *([checks.controls_in_words(as_good)] if as_good else []), *checks.to_heed(judged.added.effects)],
        compared_by=("val/final/dice", "Dice"),
    )
