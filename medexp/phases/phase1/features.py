"""What the encoder's features tell, before and after the adaptation, beside a random encoder's and intensity statistics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from medexp.arrays import Array
from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import REGIONS
from medexp.data.volumes.semantics import SEMANTIC_FEATURES
from medexp.evaluation.embeddings import embed_all, volumes_as_parts
from medexp.evaluation.intervals import GAIN, Interval, mean_by_patient
from medexp.evaluation.regression import mean_r2, r2_gains, ridge
from medexp.models.heads import SemanticHeads
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.shared.context import Context


@dataclass(frozen=True)
class Features:
    """Features (cases, D) from one source, of the training and of the validation cases."""

    train: Array
    held_out: Array


@dataclass(frozen=True)
class Attribution:
    """What LoRA added.

    Attributes:
        dice: Difference in mean Dice per case, LoRA minus the decoder-only control, over the cases and regions that are there.
        features: Difference in the mean R2 of linear probes on validation cases, adapted minus unadapted encoder.
        r2: Mean R2 of the probes, by source.
        table: R2 of each semantic target (rows) from each source (columns).
    """

    dice: Interval
    features: Interval
    r2: Mapping[str, float]
    table: pd.DataFrame


def embed(ctx: Context[Phase1Config], data: PreparedVolumes, net: SwinSegmenter) -> Features:
    """GAP(encoder10) of all training and validation cases."""

    def of(split: str) -> Array:
        cases = evaluation_dataset(data, split, ctx.config.data, ctx.cache)
        digests = [data.facts[case].sha256 for case in data.ids(split)]
        ids, settings = data.ids(split), ctx.config.data
        parts = volumes_as_parts(lambda index: cases[index]["image"], ids, digests, settings, ctx.accelerator)
        return embed_all({"net": net}, parts, ctx.cache, ctx.accelerator).features["net"]

    return Features(of("train"), of("val"))


def semantics(data: PreparedVolumes, split: str) -> Array:
    """Semantic features (cases, 10) of a split, float32."""
    return np.array([data.facts[case].semantic for case in data.ids(split)], dtype=np.float32)


def intensities(data: PreparedVolumes) -> Features:
    """Statistics of the raw intensities (cases, 12), which need no network."""
    ids = (data.ids(split) for split in ("train", "val"))
    return Features(*(np.array([data.facts[case].intensity for case in cases], dtype=np.float32) for cases in ids))


@torch.inference_mode()
def semantic_r2(
    ctx: Context[Phase1Config], data: PreparedVolumes, heads: SemanticHeads | None, features: Features
) -> dict[str, float]:
    """R2 on validation cases of the trained heads over the features of an encoder: `r2_vol`, `r2_loc`, `r2_shape`.

    NaN where no heads were trained.
    """
    if heads is None:
        return dict.fromkeys(("r2_vol", "r2_loc", "r2_shape"), math.nan)
    predicted = heads.predict(torch.from_numpy(features.held_out).to(ctx.device)).cpu().numpy()
    truth = semantics(data, "val")
    return {
        f"r2_{name}": mean_r2(truth[:, columns], predicted[:, columns])
        for name, columns in (("vol", slice(0, 4)), ("loc", slice(4, 7)), ("shape", slice(7, 10)))
    }


def attribute(
    ctx: Context[Phase1Config], data: PreparedVolumes, per_case: pd.DataFrame, features: Mapping[str, Features]
) -> Attribution:
    """Gains of LoRA over the control in Dice, and of the adapted encoder over the base in linear probes.

    Args:
        ctx: The phase's context.
        data: The cases.
        per_case: Scores of the arms `lora` and `control`, one row a case and arm.
        features: By encoder: `adapted`, `unadapted` and `random`.
    """
    arms = per_case.set_index(["arm", "case"])[[f"dice_{region}" for region in REGIONS]].mean(axis=1)
    gains = (arms["lora"] - arms["control"]).loc[list(data.ids("val"))].dropna()
    patients = [[data.cases[case].patient for case in cases] for cases in (gains.index, data.ids("val"))]
    of_dice, of_features = (partial(mean_by_patient, patients=owners, resampling=ctx.resampling) for owners in patients)
    sources = {**features, "intensity": intensities(data)}
    train, truth = semantics(data, "train"), semantics(data, "val")
    predicted = {name: ridge(source.train, train, source.held_out) for name, source in sources.items()}
    return Attribution(
        dice=of_dice(gains.to_numpy(), within=GAIN),
        features=of_features(r2_gains(truth, predicted["adapted"], predicted["unadapted"])),
        r2={name: mean_r2(truth, values) for name, values in predicted.items()},
        table=pd.DataFrame(
            {name: [mean_r2(truth[:, [i]], values[:, [i]]) for i in range(10)] for name, values in predicted.items()},
            index=pd.Index(SEMANTIC_FEATURES, name="target"),
        ).reset_index(),
    )
