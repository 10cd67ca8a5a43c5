"""What phase 2.3 leaves behind: figures of both tasks before and after, and a registered network."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from medexp.evaluation.intervals import Interval
from medexp.evaluation.segmentation import left_apart
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.phase2_3.checks import gained
from medexp.phases.phase2_3.config import Phase2_3Config
from medexp.phases.shared.classification import Judged, calibration_of, log_judged, pooled, rows_of
from medexp.phases.shared.context import Context
from medexp.phases.shared.controls import Beside
from medexp.phases.shared.folds import Evidence
from medexp.phases.shared.images import CLASSES, Images, claims
from medexp.phases.shared.packaging import MASK, classes, packaged, parent_of
from medexp.phases.shared.publishing import Summary, epochs_in_words, selection
from medexp.registry.package import Package
from medexp.registry.packages import read_json
from medexp.registry.store import Pulled
from medexp.training.loop import FitResult

MODEL = "phase2_3_multitask"


@dataclass(frozen=True)
class Compared:
    """Joint training against the earlier phases, on the same validation cases.

    Attributes:
        scans: `medexp.evaluation.segmentation.dice_by_scan`, and dice_before; a scan without a tumour is in no mean.
        judged: The classifier after joint training.
        judged_before: Phase 2.2's.
        means: Mean Dice over scans, `dice_before` and `dice`.
        dice: Gain in mean Dice.
        balanced: Gain in balanced accuracy.
        controls: The classifier after joint training beside its controls.
    """

    scans: pd.DataFrame
    judged: Judged
    judged_before: Judged
    means: Mapping[str, Interval]
    dice: Interval
    balanced: Interval
    controls: Beside


def log_compared(ctx: Context[Phase2_3Config], images: Images, compared: Compared) -> None:
    """Metrics, tables and pictures of both tasks, before and after."""
    ctx.intervals("phase2_2/", compared.judged_before.scores["all"])
    ctx.intervals("phase2_1/", {"dice": compared.means["dice_before"]})
    ctx.intervals("val/final/", {"dice": compared.means["dice"]})
    ctx.intervals("val/gain/", {"dice": compared.dice, "balanced_accuracy": compared.balanced})
    log_judged(ctx, compared.judged, images.picture, shown=ctx.config.shown)
    ctx.run.reporter.table(compared.scans, "dice_per_scan.csv")


def package(
    ctx: Context[Phase2_3Config],
    images: Images,
    parents: Mapping[str, Pulled],
    net: MultiTaskModel,
    compared: Compared,
    evidence: Evidence,
) -> Package:
    """The network with all that it was judged by; `parents` are the packages that it was made from, by role."""
    training, known = ctx.config.training, claims(images)
    how = {
        "Training": f"{epochs_in_words(training)} in alternating batches of {training.batch_size}, {training.optimizer}, "
        f"rates {training.lr_encoder:g} of the encoder, {training.lr_decoder:g} of the decoder, {training.lr_head:g} of the "
        "head; Dice of the batch + BCE, and cross-entropy; all settings: config.yaml of the run",
        "Selection of the final model": evidence.selection(
            selection(training, "the best mean of validation Dice and balanced accuracy")
        ),
    }
    return packaged(
        ctx,
        MODEL,
        images.data,
        output=f"seg: logits (B, 1, H, W); cls: logits (B, 2): {', '.join(CLASSES)}",
        preprocessing=images.preprocessing,
        outputs={"seg": MASK, "cls": classes(CLASSES, calibration_of(compared.judged))},
        facts=known | how | {"Limitations": " ".join(compared.controls.first) or None},
        architecture=read_json(parents["multitask"].folder, "contract.json")["architecture"],
        weights=net.state_dict(),
        parents={role: parent_of(one) for role, one in parents.items()},
        per_case=compared.scans.drop(columns="dice_before"),
        figures={"Dice over phase 2.1": compared.dice.as_gain, "balanced accuracy over phase 2.2": compared.balanced.as_gain}
        | {f"{evidence.on} Dice": str(compared.means["dice"])}
        | {f"{evidence.on} {name}": str(interval) for name, interval in compared.judged.scores["all"].items()}
        | compared.controls.figures,
    )


def summary(
    ctx: Context[Phase2_3Config], images: Images, fitted: FitResult, compared: Compared, evidence: Evidence
) -> Summary:
    """Both tasks before and after, on the same cases."""
    scans, number = compared.scans, len(compared.judged.rows)
    in_cells = [compared.means[column].in_a_cell(2) for column in ("dice_before", "dice")]
    dice_row = [f"Dice ({scans['dice'].count()} scans)", *in_cells]
    return Summary(
        headline=f"phase 2.3, profile {ctx.config.profile}, on {images.data.source}",
        compared_by=("val/final/balanced_accuracy", "balanced accuracy"),
        title=f"{evidence.on}, {number} images, epoch {fitted.epoch + 1}",
        head=["", "phases 2.1 and 2.2", "joint training"],
        rows=[dice_row, *rows_of([compared.judged_before.scores["all"], compared.judged.scores["all"]])],
        words=[
            gained("Dice", "phase 2.1", compared.dice),
            gained("Balanced accuracy", "phase 2.2", compared.balanced),
            *compared.controls.words,
            *left_apart(scans),
            *pooled(compared.judged),
            f"Intervals of {ctx.config.confidence:.0%}, by patient.",
            evidence.caveat("both", fitted, ctx.resampling),
        ],
        first=compared.controls.first,
        beside=compared.controls.table(f"joint training beside controls, the same {number} images"),
    )
