"""How well a network of phase 1 outlines tumours in whole volumes, with pictures of it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import REGIONS, to_regions, values_in_masks
from medexp.evaluation.intervals import UNIT, Interval, by_patient, mean_by_patient
from medexp.evaluation.optimism import as_one_mean
from medexp.evaluation.segmentation import OnPrediction, evaluate_segmentation, mean_scores, on_own_grids, sliding_window
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.shared.context import Context
from medexp.report.volumes import keep
from medexp.tracking.figures import overlay

DICE = [f"dice_{region}" for region in REGIONS]
NATIVE = "native_"
"""What columns of scores on the cases' own grids begin with."""
_APART = 0.05  # from this difference in the whole tumour's Dice on, the summary says what it can come from


def score_arm(
    ctx: Context[Phase1Config],
    data: PreparedVolumes,
    net: SwinSegmenter,
    arm: str,
    split: str = "val",
    native: bool = False,
    also: OnPrediction | None = None,
) -> pd.DataFrame:
    """Dice, HD95 and cross-entropy per case of a split, with the arm, patient and split in each row; with `native` also Dice
    and HD95 of the masks on the cases' own grids. `also` is told of each prediction too."""
    seen = [one for one in (also, partial(draw_overlay, ctx, data, arm, None)) if one]

    def look(case: str, image: Tensor, label: Tensor, predicted: Tensor) -> None:
        for one in seen:
            one(case, image, label, predicted)
        if arm == "lora" and native:  # what the phase is judged by, and no trial of a study
            keep_volumes(ctx, case, image, label, predicted)

    return evaluate(ctx, data, net, split, hd95=True, on_prediction=look, native=native).assign(arm=arm, split=split)


def keep_volumes(ctx: Context[Phase1Config], case: str, image: Tensor, label: Tensor, predicted: Tensor) -> None:
    """A case for the report's eye: its first channel, and the regions as levels, the innermost of those that hold a voxel: 1
    WT, 2 TC, 3 ET. A network's need not lie within one another."""
    level = torch.tensor([{"WT": 1, "TC": 2, "ET": 3}[region] for region in REGIONS]).view(-1, 1, 1, 1)
    regions = {"truth": to_regions(label[None])[0], "prediction": predicted}
    masks = {kind: np.asarray((held.to(level) * level).amax(dim=0)) for kind, held in regions.items()}
    keep(ctx.run.folder, case, {"image": np.asarray(image[0]), **masks}, ctx.config.data.spacing)


def native_in_words(means: Mapping[str, float], spacing: tuple[float, float, float]) -> str:
    """Dice of the masks as they are written beside that on the network's grid.

    Args:
        means: Scores of an arm with `native_dice_<region>` and `dice_<region>`; NaN where no case holds the region.
        spacing: Of the network's grid, in mm.
    """

    def told(kind: str) -> str:
        values = {region: means[f"{kind}dice_{region}"] for region in REGIONS}
        return ", ".join(f"{region} {'-' if np.isnan(value) else f'{value:.3f}'}" for region, value in values.items())

    said = f"Masks as they are written, on each case's own grid: Dice {told(NATIVE)}; on the network's grid {told('')}."
    gap = means[f"{NATIVE}dice_WT"] - means["dice_WT"]
    if not abs(gap) > _APART:
        return said
    edges = " x ".join(f"{edge:g}" for edge in spacing)
    return (
        f"{said} WT differs by {gap:+.3f}: a mask that is written has all of a tumour's regions within WT, ends where the "
        f"case's files end, and comes from a grid of {edges} mm, on which the truth was resampled too. Where that is what it "
        "comes from, a finer one: data.spacing."
    )


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


def with_intervals(means: Mapping[str, float], per_case: pd.DataFrame, resampling: Resampling) -> dict[str, Interval]:
    """An arm's means with their intervals by patient, by metric: Dice as of `intervals`, and each other score, such as HD95
    and Dice on the cases' own grids, over the cases that have it."""
    found = intervals(per_case, resampling)
    by_patient = per_case.set_index("patient")
    for name in [name for name in means if name not in found and name in per_case]:
        values = by_patient[name].dropna()
        if len(values):
            within = UNIT if "dice_" in name else (0.0, math.inf)
            found[name] = mean_by_patient(values.to_numpy(), values.index.tolist(), resampling, within)
    return {name: replace(one, estimate=means.get(name, one.estimate)) for name, one in found.items()}


def evaluate(
    ctx: Context[Phase1Config],
    data: PreparedVolumes,
    net: SwinSegmenter,
    split: str,
    *,
    hd95: bool,
    on_prediction: OnPrediction,
    native: bool = False,
) -> pd.DataFrame:
    """`medexp.evaluation.segmentation.evaluate_segmentation` of whole volumes, and each case's patient."""
    config, classes = ctx.config, ctx.config.data.classes
    scores = evaluate_segmentation(
        sliding_window(net.eval(), config.data.input_size, config.validation.overlap, ctx.accelerator),
        evaluation_dataset(data, split, config.data, ctx.cache),
        spacing=config.data.spacing,
        accelerator=ctx.accelerator,
        hd95=hd95,
        on_prediction=on_prediction,
        native=on_own_grids(data.cases, config.data, values_in_masks(classes), classes) if native else None,
    )
    return scores.assign(patient=data.owners(scores["case"]))


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
    """One of the first validation cases as a picture of an epoch, from 0, or, without one, of the network that is kept."""
    first_process_has = data.splits.val[:: ctx.accelerator.num_processes]  # the others have no reporter
    if case in first_process_has[: ctx.config.validation.overlays]:
        title = f"{case}, {arm}, {'final' if epoch is None else f'epoch {epoch + 1}'}"
        seen, truth, said = (np.asarray(one) for one in (image, label, predicted))
        draw = partial(overlay, seen, truth, said, title, ctx.config.data.spacing)
        if epoch is None:
            ctx.run.reporter.figure(draw(), f"overlays/{arm}/{case}/final.png")
        else:  # one section, in which the arms of a case stand beside one another
            ctx.picture(f"overlays/{case} {arm}", epoch, draw)
