"""How well a network of phase 1 outlines tumours in whole volumes, with pictures of it."""

from functools import partial

import numpy as np
import pandas as pd
from torch import Tensor

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import REGIONS
from medexp.evaluation.intervals import UNIT, Interval, by_patient, mean_by_patient
from medexp.evaluation.optimism import as_one_mean
from medexp.evaluation.segmentation import OnPrediction, evaluate_segmentation, mean_scores, sliding_window
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.shared.context import Context
from medexp.tracking.figures import overlay

DICE = [f"dice_{region}" for region in REGIONS]


def score_arm(
    ctx: Context[Phase1Config], data: PreparedVolumes, net: SwinSegmenter, arm: str, split: str = "val"
) -> pd.DataFrame:
    """Dice, HD95 and cross-entropy per case of a split, with the arm, patient and split in each row."""
    draw = partial(draw_overlay, ctx, data, arm, None)
    return evaluate(ctx, data, net, split, hd95=True, on_prediction=draw).assign(arm=arm, split=split)


def with_mean_dice(per_case: pd.DataFrame) -> dict[str, float]:
    """Mean scores, and `dice`, the mean over the regions that any case holds."""
    scores = mean_scores(per_case)
    return scores | {"dice": float(np.nanmean([scores[f"dice_{region}"] for region in REGIONS]))}


def dice_by_patient(per_case: pd.DataFrame) -> pd.Series:
    """Values whose mean is `dice` as of `with_mean_dice`, for who chooses by it."""
    by_patient = per_case.set_index("patient")
    return as_one_mean(*(by_patient[column].dropna() for column in DICE))


def intervals(per_case: pd.DataFrame, resampling: Resampling) -> dict[str, Interval]:
    """Dice of each region over the cases that hold it, and `dice`, the mean of these: by patient."""
    found: dict[str, Interval] = {}
    values = per_case[DICE].to_numpy()
    held = np.isfinite(values)

    def mean(weights: Array) -> Array:
        counted = weights @ held
        means = weights @ np.where(held, values, 0) / np.maximum(counted, 1)
        return means.sum(axis=1) / np.maximum((counted > 0).sum(axis=1), 1)

    patients = per_case["patient"].tolist()
    for index, region in enumerate(REGIONS):
        rows = held[:, index]
        of_region = [patient for patient, there in zip(patients, rows, strict=True) if there]
        if of_region:
            found[f"dice_{region}"] = mean_by_patient(values[rows, index], of_region, resampling, UNIT)
    return found | {"dice": by_patient(mean, patients, resampling, within=UNIT)}


def evaluate(
    ctx: Context[Phase1Config],
    data: PreparedVolumes,
    net: SwinSegmenter,
    split: str,
    *,
    hd95: bool,
    on_prediction: OnPrediction,
) -> pd.DataFrame:
    """`medexp.evaluation.segmentation.evaluate_segmentation` of whole volumes, and each case's patient."""
    config = ctx.config
    scores = evaluate_segmentation(
        sliding_window(net.eval(), config.data.input_size, config.validation.overlap, ctx.accelerator),
        evaluation_dataset(data, split, config.data, ctx.cache),
        spacing=config.data.spacing,
        accelerator=ctx.accelerator,
        hd95=hd95,
        on_prediction=on_prediction,
    )
    return scores.assign(patient=[data.cases[case].patient for case in scores["case"]])


def draw_overlay(
    ctx: Context[Phase1Config],
    data: PreparedVolumes,
    arm: str,
    epoch: int | None,
    case: str,
    image: Tensor,
    label: Tensor,
    predicted: Tensor,
) -> None:
    """A case as a picture of an epoch, or, without one, of the network that is kept; the first validation cases alone."""
    first_process_has = data.splits.val[:: ctx.accelerator.num_processes]  # the others have no reporter
    if case in first_process_has[: ctx.config.validation.overlays]:
        title, spacing = f"{case}, {arm}, {'final' if epoch is None else f'epoch {epoch}'}", ctx.config.data.spacing
        figure = overlay(np.asarray(image), np.asarray(label), np.asarray(predicted), title, spacing)
        if epoch is None:
            ctx.run.reporter.figure(figure, f"overlays/{arm}/{case}/final.png")
        else:
            # Counted from 0, where the slider starts; and under val, or the pictures stand above the curves of train.
            ctx.run.reporter.image(figure, f"val/overlays/{arm}/{case}", epoch - 1)
