"""The probe: what a registered encoder's features tell about a labelled table, beside what simpler sources tell.

Every arm has the same cases, the same folds and the same head: the encoder; the network that it was adapted from; the same
architecture with random weights; statistics of raw intensities; and the most frequent class, which needs no features at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from medexp import registry
from medexp.arrays import Array
from medexp.checks import Check
from medexp.data.volumes.tables import split_table
from medexp.errors import RegistryError
from medexp.evaluation.classification import METRICS, Predictions, gain, scores
from medexp.evaluation.classifiers import fit_head, folds_by_patient, majority
from medexp.evaluation.embeddings import cases_as_parts, embed_all
from medexp.models.kinds import build
from medexp.models.swin.network import SwinEncoder, SwinSegmenter
from medexp.phases.probe import PHASE, checks
from medexp.phases.probe.config import ProbeConfig
from medexp.phases.probe.report import Judged, log_judged, summary
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.foresight import foresee
from medexp.phases.shared.labelled_volumes import LabelledVolumes, read_volumes
from medexp.phases.shared.packaging import parent_of
from medexp.registry.leaks import fetch_parent, leak_check
from medexp.registry.loading import load_verified
from medexp.registry.package import Parent
from medexp.registry.packages import read_json
from medexp.registry.store import Pulled

Encoder = SwinEncoder | SwinSegmenter


@dataclass(frozen=True)
class Work:
    """The encoder's package, and the labelled volumes as it wants them."""

    pulled: Pulled
    volumes: LabelledVolumes


def run(config: ProbeConfig) -> None:
    """The whole phase; `ProbeConfig` says what can be set.

    Raises:
        CheckFailed: The encoder has seen patients of the test split; nothing was embedded.
        DataError: The table or a volume in it cannot be used.
        RegistryError: There is no such encoder, or what there is is none.
    """
    with context(PHASE, config) as ctx:
        work = read(ctx)
        volumes = work.volumes
        ctx.demand(*guard(work, "test"))
        foresee(ctx, "balanced accuracy", ["correct"], volumes.data.rows("test")["patient"], split="test")
        encoders, left_out = load_encoders(ctx, work.pulled)
        ordered = volumes.cases(volumes.data.manifest)
        parts = cases_as_parts(ordered, volumes.data.facts, volumes.settings, ctx.accelerator)
        embedded = embed_all(encoders, parts, ctx.cache, ctx.accelerator)
        ctx.run.reporter.metrics({"params/embeddings_computed": embedded.computed})
        intensity = np.array([volumes.data.facts[case].intensity for case in volumes.data.manifest["case"]])
        judged = judge(ctx, work, {**embedded.features, "intensity": intensity}, left_out)
        log_judged(ctx, volumes, judged)
        ctx.check(
            checks.better_than_majority(judged.gains["majority"]), checks.attribution(judged.gains.get("unadapted"), left_out)
        )
        ctx.finish(summary(ctx, f"{work.pulled.name} version {work.pulled.version}", volumes, judged))


def read(ctx: Context[ProbeConfig]) -> Work:
    """The encoder's package; the table and every volume in it as the encoder wants them, split where it is not split.

    Raises:
        DataError: The table or volumes cannot be used; all problems of each step at once.
        RegistryError: There is no such encoder, or it wants volumes of a kind that the probe cannot make.
    """
    config, folder = ctx.config, ctx.run.folder
    pulled = registry.pull(config.encoder)
    split = partial(split_table, test_fraction=config.test_fraction, seed=config.seed)
    volumes = read_volumes(config.table, config.phantoms, pulled, config.jobs, folder, ctx.cache, split)
    ctx.given(volumes.data, {}, "cases")
    return Work(pulled, volumes)


def guard(work: Work, split: str) -> list[Check]:
    """LEAK: the encoder has not seen a split's cases."""
    return [leak_check(work.pulled, work.volumes.data.judged(split))]


def load_encoders(ctx: Context[ProbeConfig], pulled: Pulled) -> tuple[dict[str, Encoder], str]:
    """The encoder, the one that it was adapted from, and one of its architecture with random weights, in eval mode.

    Returns:
        The encoders by arm, and why the unadapted one is not among them; empty when it is.

    Raises:
        RegistryError: What was pulled is no encoder.
    """
    encoders = {"encoder": _as_encoder(load_verified(pulled.folder), ctx.config.encoder)}
    left_out = ""
    if record := read_json(pulled.folder, "parents.json").get("base"):
        parent = fetch_parent(Parent(**record))
        if isinstance(parent, Pulled):
            ctx.built_on(base=parent_of(parent))
            encoders["unadapted"] = _as_encoder(load_verified(parent.folder), f"{parent.name} version {parent.version}")
        else:
            left_out = f"No row for the unadapted encoder, {parent.rstrip(',')}."
    else:
        left_out = f"No row for an unadapted encoder: {pulled.name} names no base that it was adapted from."
    architecture = read_json(pulled.folder, "contract.json")["architecture"]
    torch.manual_seed(ctx.config.seed)
    encoders["random"] = _as_encoder(build(architecture.get("base", architecture)), "random weights").eval()
    return encoders, left_out


def _as_encoder(net: nn.Module, called: str) -> Encoder:
    if adapted := getattr(net, "get_base_model", None):  # of peft, whose import takes seconds
        net = adapted()
    if not isinstance(net, SwinEncoder | SwinSegmenter):
        raise RegistryError(f"encoder {called}: is a {type(net).__name__}; the probe takes a SwinEncoder or a SwinUNETR")
    return net


def judge(ctx: Context[ProbeConfig], work: Work, features: Mapping[str, Array], left_out: str) -> Judged:
    """Every arm on the test cases: metrics with their intervals, and the gains of the encoder over the other arms.

    Args:
        ctx: The phase's context.
        work: The volumes.
        features: Of all cases (N, D), by arm.
        left_out: As of `load_encoders`.
    """
    predictions, chosen = predict(ctx.config, work.volumes, features)
    patients = list(work.volumes.data.rows("test")["patient"])
    return Judged(
        predictions=predictions,
        scores={arm: scores(predicted, patients, ctx.resampling) for arm, predicted in predictions.items()},
        gains={
            arm: gain(METRICS["balanced_accuracy"], predictions["encoder"], reference, patients, ctx.resampling)
            for arm, reference in predictions.items()
            if arm != "encoder"
        },
        chosen=chosen,
        left_out=left_out,
    )


def predict(
    config: ProbeConfig, volumes: LabelledVolumes, features: Mapping[str, Array]
) -> tuple[dict[str, Predictions], dict[str, float]]:
    """Predictions of every arm on the test cases, and the hyperparameter that each head was fitted with.

    The splits train and val fit the head, and choose its hyperparameter across their patients; test is predicted.
    """
    manifest = volumes.data.manifest
    tests = (manifest["split"] == "test").to_numpy()
    labels = np.array([volumes.table.classes.index(label) for label in manifest["label"]])
    fitted, truth = labels[~tests], labels[tests]
    folds = folds_by_patient(fitted, list(manifest.loc[~tests, "patient"]), config.search.folds, config.seed)
    predictions, chosen = {}, {}
    for arm, rows in features.items():
        head, chosen[arm] = fit_head(config.head, rows[~tests], fitted, folds, config.search, config.seed)
        predictions[arm] = Predictions(truth, head.predict_proba(rows[tests]))
    nothing = np.zeros((len(labels), 1))
    constant = majority(nothing[~tests], fitted)
    return predictions | {"majority": Predictions(truth, constant.predict_proba(nothing[tests]))}, chosen
