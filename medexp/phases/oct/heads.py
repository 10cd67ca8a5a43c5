"""Heads on encoders: one training for each encoder and seed, all under one protocol, and what they say of participants."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import Tensor, nn
from torch.utils.data import Dataset

from medexp.arrays import Array
from medexp.data.oct.datasets import AugmentedScans, augmentation, prepared_scan
from medexp.data.oct.steps import Resize
from medexp.data.prepared import Prepared
from medexp.errors import CheckpointError, TrainingDiverged
from medexp.evaluation.classification import Predictions, balanced_accuracy
from medexp.evaluation.embeddings import Embedder, embed_all, embed_to_files, read_features, scans_as_parts
from medexp.evaluation.optimism import balanced_by_case
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.heads import HeadsSideBySide, Rates, head_on
from medexp.phases.oct.config import OctConfig
from medexp.phases.oct.encoders import Encoder
from medexp.phases.shared.context import Context
from medexp.phases.shared.features import LabelledFeatures
from medexp.reporting import NullReporter
from medexp.training.loop import Batch, FitResult, Group, Objective
from medexp.training.losses import class_weights


@dataclass(frozen=True)
class Features:
    """What the encoders make of all volumes, in the order of the manifest, computed once.

    Attributes:
        pooled: Means over tokens (V, D), by encoder.
        tokens: All tokens of a volume (N, D), by encoder and row; empty where the head takes means.
    """

    pooled: Mapping[str, Array]
    tokens: Mapping[str, Callable[[int], Array]]

    def of(self, encoder: str, row: int) -> Tensor:
        """What a head is given of a volume."""
        found = self.tokens[encoder](row) if self.tokens else self.pooled[encoder][row]
        return torch.from_numpy(np.asarray(found, np.float32))


def embed(ctx: Context[OctConfig], encoders: list[Encoder], data: Prepared[Any, Any]) -> Features:
    """The features of all volumes from each encoder, from the cache where they are there.

    Volumes are read once for all encoders that are given the same, while earlier ones are embedded.

    Raises:
        CheckpointError: What an encoder makes of a volume is not finite; the file and the volume are named.
    """
    cases = [data.cases[case] for case in data.manifest["case"]]
    digests = [data.facts[case.id].voxels_sha256 for case in cases]
    jobs, cache = ctx.config.data.jobs, ctx.cache
    pooled: dict[str, Array] = {}
    tokens: dict[str, Callable[[int], Array]] = {}
    computed = 0
    for steps in {encoder.preprocessing.key: encoder.preprocessing for encoder in encoders}.values():
        alike = {one.name: embedder(one) for one in encoders if one.preprocessing == steps}
        parts = scans_as_parts(cases, digests, steps, ctx.accelerator)
        with _as_they_came():
            found = embed_all(alike, parts, cache, ctx.accelerator, jobs=jobs)
        pooled |= found.features
        computed += found.computed
        if ctx.config.model.head.pooling == "attentive":
            parts = scans_as_parts(cases, digests, steps, ctx.accelerator, tokens=True)
            for name, one in alike.items():
                with _as_they_came():
                    files = embed_to_files(one, parts, cache, ctx.accelerator, f"  tokens of {name}", jobs)
                tokens[name] = lambda row, files=files: read_features(files[row])  # type: ignore[misc]
    ctx.figures({"params/embeddings_computed": computed})
    return Features(pooled, tokens)


@contextmanager
def _as_they_came() -> Iterator[None]:
    """Encoders that nothing was trained of are input: what of them is not finite no learning rate has done."""
    try:
        yield
    except TrainingDiverged as error:
        raise CheckpointError(f"checkpoints: {error}") from error


def embedder(encoder: Encoder) -> Embedder:
    """An encoder as embeddings are computed and kept by."""
    told = f"{encoder.name} ({encoder.place})" if encoder.place else encoder.called
    return Embedder(encoder.net, None, repr(sorted(encoder.architecture.items(), key=str)), told)


@dataclass(frozen=True)
class Head:
    """A head that was trained on an encoder.

    Attributes:
        classifier: Encoder and head, in eval mode.
        fitted: The training.
        rates: Of the head; of several that were trained side by side, of the kept one.
    """

    classifier: EncoderClassifier
    fitted: FitResult
    rates: Rates


def train_head(
    ctx: Context[OctConfig], encoder: Encoder, data: Prepared[Any, Any], features: Features, seed: int, *, shown: bool
) -> Head:
    """A head on an encoder, which trains with it from the epoch that the configuration says, or stays as it is.

    Args:
        ctx: Where it is trained.
        encoder: The encoder.
        data: The volumes, split.
        features: Of all of them.
        seed: Of the initial weights, the order of volumes and the augmentation.
        shown: Whether the course of the training is logged and printed.
    """
    config, train = ctx.config, ctx.config.train
    manifest, count = data.manifest, len(config.classes.names)
    learned = np.flatnonzero(manifest["case"].isin(data.ids("train")))
    labels = manifest["target"].to_numpy()
    rates = [
        Rates(rate, decay)
        for rate in train.lr_head_grid or (train.lr_head,)
        for decay in train.weight_decay_grid or (train.weight_decay,)
    ]
    torch.manual_seed(seed)
    head = config.model.head
    heads = HeadsSideBySide(head_on(encoder.width, count, head.pooling, head.hidden, head.dropout), rates)
    if heads.takes == "features":
        heads.standardise(torch.from_numpy(features.pooled[encoder.name][learned]))
    groups = [
        Group(
            f"head_{one.name}" if len(rates) > 1 else "head",
            one.lr,
            [*own.parameters()],
            weight_decay=one.weight_decay,
            clipped_alone=len(rates) > 1,
            key="train.lr_head_grid" if train.lr_head_grid else "train.lr_head",
        )
        for one, own in heads
    ]
    module: nn.Module = heads
    items: Dataset[Any] = LabelledFeatures(lambda row: features.of(encoder.name, int(learned[row])), labels[learned])
    net, loading = encoder.net, {}
    if config.model.trains_encoder:
        net = copy.deepcopy(encoder.net).requires_grad_(True)
        net.checkpointing = train.gradient_checkpointing  # type: ignore[assignment]
        module = EncoderClassifier(net, heads, frozen=False)
        trained, starts = [*net.parameters()], config.model.unfreeze_at_epoch
        groups.append(Group("encoder", train.lr_encoder, trained, starts, key="train.lr_encoder"))
        scans = [data.cases[case] for case in manifest["case"][learned]]
        asked, size = config.data.augment, encoder.preprocessing.get(Resize).size
        augment = augmentation(size, flip=asked.flip, crop=asked.random_crop, jitter=asked.intensity_jitter)
        items = AugmentedScans(scans, labels[learned], encoder.preprocessing, augment, seed)
        loading = loader_settings(config, ctx)
    module.to(ctx.device)
    weight = _weights(train.class_weights, labels[learned], count).to(ctx.device)

    def loss(module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {"loss": heads.loss(module(batch["image"]), batch["label"], weight)}

    people = of_participants(manifest, data.ids("val"))
    every = np.ones((1, len(people)))

    def answers(module: nn.Module) -> list[Predictions]:
        each = logits_of(ctx, module, encoder, data, features, "val", ctx.accelerator.autocast)
        means = [pd.DataFrame(by_participant(logits, people)).assign(case=people["case"]) for logits in each]
        return [spoken(one, people) for one in means]

    def validate(module: nn.Module, epoch: int) -> dict[str, float | pd.Series | pd.DataFrame]:
        """Of each head: the best one is chosen by the same participants as the epoch."""
        each = [balanced_by_case(one, list(people["patient"])) for one in answers(module)]
        return {"balanced_accuracy": pd.concat(each, axis=1)}

    inner = ctx if shown else replace(ctx, run=replace(ctx.run, reporter=NullReporter()))
    fitted = inner.fit(
        module,
        groups,
        items,
        Objective(loss, validate, "balanced_accuracy"),
        title=f"{encoder.name}, seed {seed}",
        arm=f"{encoder.name}/{seed}",
        prefix=f"{encoder.name}/",
        seed=seed,
        loading=loading,
        quiet=not (shown and config.model.trains_encoder),
    )
    kept = int(np.argmax([balanced_accuracy(one, every)[0] for one in answers(module)])) if len(rates) > 1 else 0
    classifier = EncoderClassifier(net, heads.chosen(kept), frozen=not config.model.trains_encoder).eval()
    return Head(classifier, fitted, rates[kept])


def _weights(asked: str | tuple[float, ...], labels: np.ndarray, count: int) -> Tensor:
    """Of the classes in cross-entropy (K,), by the labels of the training volumes."""
    if isinstance(asked, tuple):
        return torch.tensor(asked, dtype=torch.float32)
    return class_weights(labels, np.ones(len(labels)), count, "balanced" if asked == "auto" else "none")


def architecture(config: OctConfig, encoder: Encoder) -> dict[str, Any]:
    """Of an encoder with its head."""
    head = {"pooling": config.model.head.pooling, "hidden": config.model.head.hidden, "dropout": config.model.head.dropout}
    sizes = {"classes": len(config.classes.names), "frozen": not config.model.trains_encoder}
    return {"kind": "oct_classifier", "encoder": dict(encoder.architecture), **head, **sizes}


def loader_settings(config: OctConfig, ctx: Context[OctConfig]) -> dict[str, Any]:
    """How the loader of an encoder's training reads ahead."""
    settings: dict[str, Any] = {"pin_memory": config.data.pin_memory and ctx.device.type == "cuda"}
    if config.data.num_workers:
        settings |= {"prefetch_factor": config.data.prefetch_factor, "persistent_workers": config.data.persistent_workers}
    return settings


@torch.inference_mode()
def logits_of(
    ctx: Context[OctConfig],
    module: nn.Module,
    encoder: Encoder,
    data: Prepared[Any, Any],
    features: Features,
    split: str,
    precision: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Array]:
    """What heads say of the volumes of a split, in the order of the manifest: (V, K) each, of heads trained side by side.

    Args:
        ctx: The device.
        module: A head, heads side by side, or an encoder with either.
        encoder: The encoder as it was.
        data: The volumes, split.
        features: Of all of them.
        split: train, val or test.
        precision: fp32, as the registered model is used, unless it is only about an epoch.
    """
    rows, size = np.flatnonzero(data.manifest["case"].isin(data.ids(split))), ctx.config.data.val_batch_size
    trained = isinstance(module, EncoderClassifier) and not module.frozen
    if isinstance(module, EncoderClassifier) and module.frozen:
        module = module.head
    module, found = module.to(ctx.device), []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        if trained:
            cases = [data.cases[case] for case in data.manifest["case"].iloc[part]]
            given = torch.stack([prepared_scan(case, encoder.preprocessing) for case in cases])
        else:
            given = torch.stack([features.of(encoder.name, int(row)) for row in part])
        with precision():
            said = module(given.to(ctx.device)).float().cpu()
        found.append([*(said if said.ndim == 3 else said[None]).numpy()])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def of_participants(manifest: pd.DataFrame, cases: Collection[str]) -> pd.DataFrame:
    """The participants of volumes, sorted, a row each: case and patient, both their id; target, label, split, site and, where
    there are folds, fold; `volumes` are the places of their volumes among those that were given."""
    rows = manifest[manifest["case"].isin(cases)].reset_index(drop=True)
    found = rows.groupby("patient", sort=True)
    known = [column for column in ("target", "label", "split", "site", "fold") if column in rows]
    people = found[known].first().reset_index()
    return people.assign(
        case=people["patient"], volumes=pd.Series([found.indices[patient] for patient in people["patient"]], dtype=object)
    )


def by_participant(logits: Array, people: pd.DataFrame) -> Array:
    """The mean (P, K) of the logits (V, K) of all volumes of each participant; `people` is `of_participants` of them."""
    return np.stack([logits[places].mean(axis=0) for places in people["volumes"]])


def spoken(logits: pd.DataFrame, people: pd.DataFrame) -> Predictions:
    """What is said of participants in a table: `case`, and logits in the columns 0 to K - 1."""
    columns = [name for name in logits if isinstance(name, int)]
    rows = logits.set_index("case").loc[people["case"], columns].to_numpy(np.float64)
    return Predictions(people["target"].to_numpy(), softmax(rows, axis=1))
