"""The mean mask of the training cases, on the network's grid: what is told of a case without looking at it."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
from torch import Tensor
from torch.nn.functional import interpolate

from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import to_regions
from medexp.evaluation.mean_mask import mean_mask
from medexp.evaluation.segmentation import evaluate_segmentation
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.shared.context import Context


def score_mean_mask(ctx: Context[Phase1Config], data: PreparedVolumes) -> pd.DataFrame:
    """The mean mask of the training cases on the validation cases, as `score_arm` gives an arm.

    Cases lie on each other by the box of the brain that preprocessing cropped them to, brought to the size of the network's
    input.
    """
    train = evaluation_dataset(data, "train", ctx.config.data, ctx.cache)

    def regions(index: int) -> Tensor:
        return onto(to_regions(train[index]["label"].unsqueeze(0)), ctx.config.data.input_size)

    logits = mean_mask([partial(regions, index) for index in range(len(data.ids("train")))])

    def predict(image: Tensor) -> Tensor:
        return onto(logits, image.shape[2:]).to(image.device)

    cases = evaluation_dataset(data, "val", ctx.config.data, ctx.cache)
    scores = evaluate_segmentation(predict, cases, spacing=ctx.config.data.spacing, accelerator=ctx.accelerator)
    patients = data.owners(scores["case"])
    return scores.drop(columns="ce").assign(arm="mean_mask", patient=patients, split="val")


def onto(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, C, X, Y, Z) on another grid over the same box, by linear interpolation."""
    return interpolate(maps, size=tuple(size), mode="trilinear") if maps.shape[2:] != tuple(size) else maps
