"""What the encoder's features tell, before and after the adaptation, beside a random encoder's and intensity statistics."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch

from medexp.arrays import Array
from medexp.config.networks import FeatureKind
from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import REGIONS
from medexp.data.volumes.semantics import SEMANTIC_FEATURES
from medexp.evaluation.embeddings import Embedder, embed_all, volumes_as_parts
from medexp.evaluation.intervals import GAIN, Interval, mean_by_patient
from medexp.evaluation.regression import mean_r2, r2_gains, ridge
from medexp.models.heads import SemanticHeads
from medexp.models.swin.features import KINDS
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1.arms import FACTORIAL, crops, effects
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.pretrained import as_a_whole
from medexp.phases.shared.context import Context
from medexp.tracking.steps import code_digest


@dataclass(frozen=True)
class Features:
    """Features (cases, D) from one source, of the training and of the validation cases."""

    train: Array
    held_out: Array


@dataclass(frozen=True)
class Attribution:
    """What LoRA and the decoder added, each alone and together.

    Attributes:
        effects: By measure, then by effect (`medexp.phases.phase1.arms.EFFECTS`): `dice`, the mean over a case's regions;
            `dice_<region>`; and `probe_r2`, the mean R2 of linear probes on validation cases. An arm's features are those of
            its encoder, which where LoRA did not train is the base's.
        r2: Mean R2 of the probes, by source.
        others: Mean R2 of probes of the other kinds of features, by kind, then by source: `unadapted` and `adapted`.
        other_gains: What these gained by the adaptation, by kind.
        table: R2 of each semantic target and kind of features (rows) from each source (columns).
    """

    effects: Mapping[str, Mapping[str, Interval]]
    r2: Mapping[str, float]
    others: Mapping[str, Mapping[str, float]]
    other_gains: Mapping[str, Interval]
    table: pd.DataFrame

    @property
    def probes(self) -> dict[str, float]:
        """All mean R2: by source, and of the other kinds by `<kind>_<source>`."""
        return {**self.r2, **{f"{kind}_{name}": r2 for kind, found in self.others.items() for name, r2 in found.items()}}

    @property
    def as_table(self) -> pd.DataFrame:
        """A row a measure and effect: `measure`, `effect`, and what an `Interval` has."""
        rows = [
            {"measure": measure, "effect": name} | asdict(interval)
            for measure, found in self.effects.items()
            for name, interval in found.items()
        ]
        return pd.DataFrame(rows)


ByKind = Mapping[FeatureKind, Features]


def embed(
    ctx: Context[Phase1Config], data: PreparedVolumes, nets: Mapping[str, tuple[SwinSegmenter, Collection[FeatureKind]]]
) -> dict[str, ByKind]:
    """Features of all training and validation cases, by network, then by kind: each case is read once.

    Args:
        ctx: The phase's context.
        data: The cases.
        nets: By name, with the kinds that are wanted of each.
    """
    embedders = {f"{name} {kind}": Embedder(net, kind) for name, (net, kinds) in nets.items() for kind in kinds}

    def of(split: str) -> dict[str, Array]:
        cases = evaluation_dataset(data, split, ctx.config.data, ctx.cache)
        digests = [data.facts[case].sha256 for case in data.ids(split)]
        ids, preprocessing = data.ids(split), as_a_whole(ctx.config)
        parts = volumes_as_parts(lambda index: cases[index]["image"], ids, digests, preprocessing, ctx.accelerator)
        return embed_all(embedders, parts, ctx.cache, ctx.accelerator).features

    train, held_out = of("train"), of("val")
    return {
        name: {kind: Features(train[f"{name} {kind}"], held_out[f"{name} {kind}"]) for kind in kinds}
        for name, (_, kinds) in nets.items()
    }


def embed_crops(ctx: Context[Phase1Config], data: PreparedVolumes, base: SwinSegmenter) -> Array:
    """Features that the base gives for augmented training crops, whose spread is what the heads meet in training.

    A crop follows from the case, the seed, its place and the code, so that both arms with heads, and later runs, find it.
    """
    cases, ids, drawn = crops(ctx, data, "train"), data.ids("train"), f"crop of {ctx.config.seed}, {code_digest()}"
    digests = [f"{data.facts[case].sha256}, {index}, {drawn}" for index, case in enumerate(ids)]
    preprocessing = as_a_whole(ctx.config)
    parts = volumes_as_parts(lambda index: cases[0, index]["image"], ids, digests, preprocessing, ctx.accelerator)
    embedders = {"base": Embedder(base, "gap10")}
    return embed_all(embedders, parts, ctx.cache, ctx.accelerator, "  embedding crops").features["base"]


def semantics(data: PreparedVolumes, split: str) -> Array:
    """Semantic features (cases, 10) of a split, float32."""
    return np.array([data.facts[case].semantic for case in data.ids(split)], dtype=np.float32)


def intensities(data: PreparedVolumes) -> Features:
    """Statistics of the raw intensities (cases, 12), which need no network."""
    ids = (data.ids(split) for split in ("train", "val"))
    return Features(*(np.array([data.facts[case].intensity for case in cases], dtype=np.float32) for cases in ids))


@torch.inference_mode()
def read_off(
    ctx: Context[Phase1Config], data: PreparedVolumes, features: Mapping[str, ByKind], heads: SemanticHeads | None = None
) -> pd.DataFrame:
    """The semantic features as they are read from features, a row a validation case, reader, source and kind of the features.

    Columns: case, reader, source, features, SEMANTIC_FEATURES. The readers are `probe`, linear and fitted on the training
    cases, of all sources and kinds and of intensity statistics, which count as of the kind that is asked for; and `heads`,
    trained with the adapters, of `adapted` and `unadapted`.
    """
    learned, owners = semantics(data, "train"), data.owners(data.ids("train"))
    read = {
        ("probe", name, kind): ridge(source.train, learned, owners, source.held_out)
        for name, by_kind in {**features, "intensity": {ctx.config.features: intensities(data)}}.items()
        for kind, source in by_kind.items()
    }
    for name in ("adapted", "unadapted") if heads is not None else ():
        assert heads is not None
        held_out = torch.from_numpy(features[name]["gap10"].held_out).to(ctx.device)
        read["heads", name, "gap10"] = heads.predict(held_out).cpu().numpy()
    tables = [
        pd.DataFrame(values, columns=list(SEMANTIC_FEATURES)).assign(
            case=data.ids("val"), reader=reader, source=source, features=kind
        )
        for (reader, source, kind), values in read.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _by_source(data: PreparedVolumes, read: pd.DataFrame, reader: str, kind: FeatureKind) -> dict[str, Array]:
    """What a reader read (validation cases, 10) from a kind of features, by source."""
    chosen = read[(read["reader"] == reader) & (read["features"] == kind)]
    tables, ids = chosen.groupby("source", sort=False), list(data.ids("val"))
    return {str(name): table.set_index("case").loc[ids, list(SEMANTIC_FEATURES)].to_numpy() for name, table in tables}


def semantic_r2(data: PreparedVolumes, read: pd.DataFrame) -> dict[str, dict[str, float]]:
    """R2 on validation cases of the trained heads: `r2_vol`, `r2_loc`, `r2_shape`, over the features of `adapted` and
    `unadapted`; NaN where no heads were trained. Arguments as of `attribute`."""
    blocks = {"vol": slice(0, 4), "loc": slice(4, 7), "shape": slice(7, 10)}
    none, truth = dict.fromkeys((f"r2_{name}" for name in blocks), math.nan), semantics(data, "val")
    found = {
        source: {f"r2_{name}": mean_r2(truth[:, columns], values[:, columns]) for name, columns in blocks.items()}
        for source, values in _by_source(data, read, "heads", "gap10").items()
    }
    return {source: found.get(source, none) for source in ("adapted", "unadapted")}


def attribute(ctx: Context[Phase1Config], data: PreparedVolumes, per_case: pd.DataFrame, read: pd.DataFrame) -> Attribution:
    """The effects of LoRA and of the decoder on Dice, and on what linear probes read from the encoder.

    Args:
        ctx: The phase's context.
        data: The cases.
        per_case: Scores of the arms of FACTORIAL, one row a case and arm.
        read: Output of `read_off` of the encoders `unadapted`, `random`, and of the arms in which LoRA trained `lora_alone`
            and `adapted`; out of fold, what each fold's probes read of its own cases. The effects are of the kind of features
            that is asked for.
    """
    ids, found = list(data.ids("val")), {}
    patients = data.owners(ids)
    columns = [f"dice_{region}" for region in REGIONS]
    for measure, of in {"dice": columns, **{column: [column] for column in columns}}.items():
        scores = per_case.assign(score=per_case[of].mean(axis=1)).pivot_table(index="case", columns="arm", values="score")
        found[measure] = effects(scores.reindex(index=ids, columns=list(FACTORIAL)), patients, ctx.resampling, 1.0)
    asked, truth = ctx.config.features, semantics(data, "val")
    by_kind = {kind: _by_source(data, read, "probe", kind) for kind in sorted(KINDS, key=lambda kind: kind != asked)}
    predicted = by_kind[asked]
    encoders = dict(zip(FACTORIAL, ("unadapted", "unadapted", "lora_alone", "adapted"), strict=True))
    gains = {arm: r2_gains(truth, predicted[encoder], predicted["unadapted"]) for arm, encoder in encoders.items()}
    found["probe_r2"] = effects(pd.DataFrame(gains), patients, ctx.resampling)
    r2 = {kind: {name: mean_r2(truth, values) for name, values in one.items()} for kind, one in by_kind.items()}
    return Attribution(
        effects=found,
        r2=r2[asked],
        others={kind: values for kind, values in r2.items() if kind != asked and values},
        other_gains={
            kind: mean_by_patient(r2_gains(truth, found["adapted"], found["unadapted"]), patients, ctx.resampling)
            for kind, found in by_kind.items()
            if kind != asked and found
        },
        table=pd.concat([_by_target(truth, found).assign(features=kind) for kind, found in by_kind.items() if found]),
    )


def _by_target(truth: Array, predicted: Mapping[str, Array]) -> pd.DataFrame:
    """R2 of each semantic target (rows) as read from each source (columns)."""
    return pd.DataFrame(
        {name: [mean_r2(truth[:, [i]], values[:, [i]]) for i in range(10)] for name, values in predicted.items()},
        index=pd.Index(SEMANTIC_FEATURES, name="target"),
    ).reset_index()


def over_controls(ctx: Context[Phase1Config], per_case: pd.DataFrame) -> dict[str, Interval]:
    """Gain in a case's mean Dice of the registered arm over what was not trained for it, with intervals by patient."""
    rows = per_case.assign(dice=per_case[[f"dice_{region}" for region in REGIONS]].mean(axis=1))
    scores = rows.pivot_table(index=["case", "patient"], columns="arm", values="dice").dropna()
    owners = scores.index.get_level_values("patient").tolist()
    return {
        arm: mean_by_patient((scores["lora"] - scores[arm]).to_numpy(), owners, ctx.resampling, GAIN)
        for arm in ("mean_mask", "baseline")
    }
