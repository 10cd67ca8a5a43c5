"""Phase 2.1 (docs/requirements/phase2.md): train the multi-task U-Net's encoder and segmentation decoder on slices.

The classification head keeps its initial weights; phase 2.2 trains it.
"""

from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from medexp.config.shared import Resampling
from medexp.evaluation.intervals import UNIT, Interval, mean_by_patient
from medexp.evaluation.mean_mask import mean_mask
from medexp.evaluation.segmentation import left_apart
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.phase2_1 import PHASE, checks
from medexp.phases.phase2_1.config import Phase2_1Config
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.folds import Evidence, Scored, Tables, trained_and_judged
from medexp.phases.shared.foresight import foresee
from medexp.phases.shared.images import (
    CLASSES,
    Images,
    Trained,
    claims,
    demand_outlines,
    dice,
    log_training,
    masks,
    outlined_patients,
    read_images,
    segment,
    segmentations,
)
from medexp.phases.shared.packaging import MASK, classes, packaged
from medexp.phases.shared.publishing import Summary, epochs_in_words, selection
from medexp.phases.shared.trials import studied
from medexp.registry.package import Package
from medexp.training.loop import Batch, Group, Objective
from medexp.training.losses import segmentation_loss

MODEL = "phase2_1_multitask"


def run(config: Phase2_1Config) -> None:
    """The whole phase; `Phase2_1Config` says what can be set."""
    with context(PHASE, config) as ctx:
        images = read(ctx)
        foresee(ctx, "Dice", ["dice"], outlined_patients(images), ["phase2_1_multitask"], digest=images.data.digests["val"])
        trained, evidence = trained_and_judged(ctx, images, train, answer, score)
        scans = evidence.tables[0]
        interval = intervals(scans, ctx.resampling)["dice"]
        blind = {"baseline": dice(images, all_of_the_brain), "mean_mask": by_mean_mask(images)}
        controls = {name: intervals(table, ctx.resampling)["dice"] for name, table in blind.items()}
        ctx.intervals("val/final/", {"dice": interval})
        ctx.intervals("", {f"{name}/dice": found for name, found in controls.items()})
        ctx.run.reporter.table(scans, "per_case.csv")
        log_training(ctx, images, trained)
        ctx.check(checks.parameters(trained.net, config.network), checks.segmentation(interval, controls, config.min_dice))
        ctx.publish(package(ctx, images, trained, evidence, interval, controls))
        ctx.finish(summary(ctx, images, trained, evidence, interval, controls))


def read(ctx: Context[Phase2_1Config]) -> Images:
    """The slices, of which some in training and in validation show a tumour."""
    images = read_images(ctx, [masks], sources=("brats",))
    demand_outlines(images, *ctx.splits)
    return images


def train(ctx: Context[Phase2_1Config], images: Images) -> Trained:
    """Encoder and decoder, with Dice of the batch + BCE; the criterion is the mean validation Dice over scans."""
    config = ctx.config
    torch.manual_seed(config.seed)
    net = MultiTaskModel(1, config.network.base_filters, config.network.depth).to(ctx.device)
    net.cls_head.requires_grad_(False)

    def loss(module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        parts = segmentation_loss(module(batch["image"], do_cls=False)["seg"], batch["mask"], "batch_dice_bce")
        return {"loss": parts.pop("segmentation")} | parts

    def validate(_: nn.Module, epoch: int) -> dict[str, pd.Series]:
        ctx.picture("segmentations", epoch, partial(segmentations, images, net, epoch))
        return {"dice": dice(images, partial(segment, net)).set_index("patient")["dice"].dropna()}

    groups = [Group("network", config.training.lr_network, [one for one in net.parameters() if one.requires_grad])]
    data, goal = images.of("train", augment=True, masked=True), Objective(loss, validate, "dice")
    return Trained(net, ctx.fit(net, groups, data, goal, title="segmentation warm-up"))


def answer(ctx: Context[Phase2_1Config], images: Images, trained: Trained, split: str) -> Tables:
    """Dice of each scan over its slices together."""
    return (dice(images, partial(segment, trained.net), split),)


def intervals(scans: pd.DataFrame, resampling: Resampling) -> dict[str, Interval]:
    """Mean Dice over the scans that hold a tumour, by patient."""
    outlined = scans.dropna(subset=["dice"])
    return {"dice": mean_by_patient(outlined["dice"].to_numpy(), outlined["patient"].tolist(), resampling, UNIT)}


def score(ctx: Context[Phase2_1Config], images: Images, told: Tables, split: str) -> Scored:
    """Their mean over scans."""
    return Scored(told[0], {"dice": float(told[0]["dice"].mean())}, partial(intervals, told[0]))


objective, warm_up = studied(PHASE, read, train, answer, score)


def all_of_the_brain(images: Tensor) -> Tensor:
    """The answer that takes no learning, for images (B, 1, H, W): logits, above 0 wherever one is not background, 0."""
    return (images != 0).float() - 0.5


def by_mean_mask(images: Images) -> pd.DataFrame:
    """`dice` of one mask for every slice: where the training scans, or those of the other folds, have their tumours."""
    parts = [images.under(images.data.fold(number)) for number in range(1, images.data.folds + 1)] or [images]
    return pd.concat([dice(part, partial(everywhere, mean_mask(outlines(part)))) for part in parts], ignore_index=True)


def outlines(images: Images) -> list[Callable[[], Tensor]]:
    """Reads the masks (slices, 1, H, W) of each training scan, as the network sees them."""
    masked = images.of("train", masked=True)
    scans = list(images.data.manifest.set_index("case").loc[masked.cases, "scan"])

    def read(scan: str) -> Tensor:
        return torch.stack([masked[index]["mask"] for index, of in enumerate(scans) if of == scan])

    return [partial(read, scan) for scan in dict.fromkeys(scans)]


def everywhere(logits: Tensor, images: Tensor) -> Tensor:
    """The same logits (1, 1, H, W) for each image (B, 1, H, W)."""
    return logits.to(images.device).expand(len(images), -1, -1, -1)


def package(
    ctx: Context[Phase2_1Config],
    images: Images,
    trained: Trained,
    evidence: Evidence,
    interval: Interval,
    controls: Mapping[str, Interval],
) -> Package:
    """The network with all that it was judged by."""
    network, training = ctx.config.network, ctx.config.training
    how = {
        "Training": f"{epochs_in_words(training)}, {training.optimizer}, rate {training.lr_network:g}, batches of "
        f"{training.batch_size * training.accumulate}, Dice of the batch + BCE; the head was not trained; all settings: "
        "config.yaml of the run",
        "Selection of the final model": evidence.selection(selection(training, "the best mean validation Dice over scans")),
    }
    return packaged(
        ctx,
        MODEL,
        images.data,
        output="seg: logits (B, 1, H, W); cls: logits (B, 2) of an untrained head",
        preprocessing=images.preprocessing,
        outputs={"seg": MASK, "cls": classes(CLASSES, "none: the head was not trained")},
        facts=claims(images) | how,
        architecture={"kind": "multitask", "in_channels": 1, "base_filters": network.base_filters}
        | {"depth": network.depth, "classes": 2},
        weights=trained.net.state_dict(),
        per_case=evidence.tables[0],
        figures={f"{evidence.on} Dice": str(interval)}
        | {f"{evidence.on} Dice of {checks.CONTROLS[name]}": str(found) for name, found in controls.items()},
    )


def summary(
    ctx: Context[Phase2_1Config],
    images: Images,
    trained: Trained,
    evidence: Evidence,
    interval: Interval,
    controls: Mapping[str, Interval],
) -> Summary:
    """Dice over the scans that it was judged by, beside what looks at no image."""
    scans = evidence.tables[0]
    sizes = [str(scans["dice"].count()), str(interval.patients)]
    rows = [["the network", str(interval), *sizes, str(trained.fitted.epoch + 1)]]
    rows += [[checks.CONTROLS[name], str(found), *sizes, "-"] for name, found in controls.items()]
    return Summary(
        headline=f"phase 2.1, profile {ctx.config.profile}, on {images.data.source}",
        compared_by=("val/final/dice", "Dice"),
        title=f"{evidence.on} Dice of a scan's slices together",
        head=["", "Dice", "scans", "patients", "epoch"],
        rows=rows,
        words=[
            *left_apart(scans),
            f"Intervals of {ctx.config.confidence:.0%}, by patient.",
            evidence.caveat("dice", trained.fitted, ctx.resampling),
        ],
    )
