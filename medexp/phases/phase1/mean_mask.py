"""A segmentation that looks at no image: where the training cases have their tumours."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pandas as pd
import torch
from monai.metrics import compute_dice
from torch import Tensor
from torch.nn.functional import interpolate

from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import REGIONS, to_regions
from medexp.evaluation.segmentation import evaluate_segmentation
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.shared.context import Context

_SHARES = torch.linspace(0.05, 0.95, 19)  # of the largest probability: where a threshold is looked for


def score_mean_mask(ctx: Context[Phase1Config], data: PreparedVolumes) -> pd.DataFrame:
    """The mean mask of the training cases on the validation cases, as `score_arm` gives an arm."""
    train = evaluation_dataset(data, "train", ctx.config.data, ctx.cache)
    labels = [partial(lambda index: train[index]["label"], index) for index in range(len(data.ids("train")))]
    logits = mean_mask(labels, ctx.config.data.input_size)

    def predict(image: Tensor) -> Tensor:
        return onto(logits, image.shape[2:]).to(image.device)

    cases = evaluation_dataset(data, "val", ctx.config.data, ctx.cache)
    scores = evaluate_segmentation(predict, cases, spacing=ctx.config.data.spacing, accelerator=ctx.accelerator)
    patients = [data.cases[case].patient for case in scores["case"]]
    return scores.drop(columns="ce").assign(arm="mean_mask", patient=patients, split="val")


def mean_mask(labels: Sequence[Callable[[], Tensor]], size: Sequence[int]) -> Tensor:
    """How much more probable each region is at a voxel than where its mask begins (1, 3, *size): above 0 is the mask.

    Cases lie on each other by the box of the brain that preprocessing cropped them to, brought to the size of the network's
    input. Each region's threshold has the best mean Dice on the training cases, each held against the mean of the others.

    Args:
        labels: Reads those of a training case, 0 to 3 (X, Y, Z), of any size; asked twice, for they may be many.
        size: The grid of the map.
    """

    def masks() -> Iterator[Tensor]:
        return (onto(to_regions(read().unsqueeze(0)), size) for read in labels)

    count, total = len(labels), torch.zeros(1, len(REGIONS), *size)
    for mask in masks():
        total += mask
    largest = total.amax((2, 3, 4)) / count
    steps = (_SHARES[:, None] * largest)[..., None, None, None]
    scores = []
    for mask in masks():
        predicted = (total - mask) / max(count - 1, 1) > steps
        scores.append(compute_dice(predicted.float(), (mask > 0.5).float().expand(predicted.shape)))  # NaN without the region
    best = torch.stack(scores).nanmean(0).nan_to_num(0).argmax(0)
    return total / count - (_SHARES[best] * largest[0])[:, None, None, None]


def onto(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, C, X, Y, Z) on another grid over the same box, by linear interpolation."""
    return interpolate(maps, size=tuple(size), mode="trilinear") if maps.shape[2:] != tuple(size) else maps
