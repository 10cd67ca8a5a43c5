"""The labelled cases of phase 2.2: 2D images or volumes, as the frozen encoder takes them, and their features."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medexp.arrays import Array
from medexp.config.data import known_by
from medexp.config.networks import FeatureKind
from medexp.data.images.sampling import expected_draws
from medexp.data.prepared import Prepared
from medexp.data.preprocessing import Preprocessing
from medexp.data.splits import Splits
from medexp.data.storage import local
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.facts import CaseFacts
from medexp.data.volumes.tables import LabelledTable, read_table, split_table
from medexp.data.volumes.transforms import execute
from medexp.errors import ConfigError, DataError
from medexp.evaluation.batches import Batches, in_batches
from medexp.evaluation.embeddings import Embedder, cases_as_parts, embed_all, images_as_part
from medexp.models.swin.features import KINDS
from medexp.models.unet.network import UNetEncoder
from medexp.phases.phase2_2.config import Phase2_2Config
from medexp.phases.phase2_2.frozen import FrozenEncoder
from medexp.phases.shared.context import Context
from medexp.phases.shared.controls import Known, of_images, of_volumes
from medexp.phases.shared.features import kinds_of, side_by_side
from medexp.phases.shared.folds import in_folds
from medexp.phases.shared.images import CLASSES, Images, both_classes, claims, one_process
from medexp.phases.shared.images import read_images as images_of
from medexp.phases.shared.labelled_volumes import LabelledVolumes, demand_every_label, read_volumes
from medexp.registry.loading import whole_network

_AT_ONCE = 8  # images in a batch of cached features, whatever the batches of training: trials share them


@dataclass(frozen=True)
class Labelled:
    """Labelled cases, split.

    Attributes:
        data: The cases; the manifest has one row each, sorted: case, patient, source, label (0 to K - 1), split, sha256,
            voxels_sha256.
        classes: Names of the K classes.
        embed: From these and a split to the features (cases, D) of its cases, float32, in the order of `of`.
        cached: Whether a case's features are computed once, or anew whenever they are asked for.
        images: The images; None for volumes.
        picture: From a case to a grey image (H, W) of it.
        preprocessing: What is done to the file of a case before the encoder sees it.
        claims: How they were chosen, labelled and split, by item of CLAIM.
        known: Makes what the controls know of the cases of training and validation.
        by_kind: From that to what the other kinds of the encoder's features tell; nothing of images, which have one kind.
    """

    data: Prepared[Any, Any]
    classes: tuple[str, ...]
    embed: Callable[["Labelled", str], Tensor]
    cached: bool
    images: Images | None
    picture: Callable[[str], Array]
    preprocessing: Preprocessing
    claims: Mapping[str, str | None]
    known: Callable[[], Known]
    by_kind: Callable[[Known], Sequence[str]]
    _features: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def features(self, split: str) -> Tensor:
        """The features (cases, D) of a split's cases, float32, in the order of `of`."""
        ids = self.data.ids(split)
        if not self.cached:
            return self.embed(self, split)
        if not self._features.keys() >= {*ids}:
            self._features.update(zip(ids, self.embed(self, split), strict=True))
        return torch.stack([self._features[case] for case in ids])

    def under(self, data: Prepared[Any, Any]) -> "Labelled":
        """The same cases, split otherwise; what is cached is embedded for all of them at once."""
        if self.cached:
            self.features("train")
        return replace(self, data=data, images=self.images and self.images.under(data))

    def of(self, split: str) -> pd.DataFrame:
        """The rows of a split."""
        return self.data.rows(split)

    def draws(self, config: Phase2_2Config) -> Array:
        """How often an epoch draws each training case, on average (N,)."""
        rows = self.of("train")
        return np.ones(len(rows)) if self.images is None else expected_draws(list(rows["source"]), config.data.weights)


def read_images(ctx: Context[Phase2_2Config], encoder: FrozenEncoder) -> Labelled:
    """Slices and Kaggle images."""
    config = ctx.config
    if config.table:
        raise ConfigError(f"table: found {config.table}, but {encoder.called} takes 2D images; give slices_dir or kaggle_dir")
    built_on = [encoder.pulled] if encoder.pulled else []
    images = images_of(ctx, [both_classes], config.kaggle_dir, built_on=built_on)

    def anew(cases: Labelled, split: str) -> Tensor:
        assert cases.images is not None
        batches = cases.images.batches(split)
        return torch.from_numpy(in_batches(encoder.net, batches, ctx.accelerator, f"  features of {split}"))

    def once(cases: Labelled, split: str) -> Tensor:
        assert cases.images is not None
        pixels = list(cases.of(split)["voxels_sha256"])
        batches = Batches(cases.images.of(split), _AT_ONCE, config.training.workers)
        settings = [images.preprocessing.key, _AT_ONCE]
        part = images_as_part(batches, pixels, settings, ctx.accelerator)
        found = embed_all({"encoder": Embedder(encoder.net)}, [part], ctx.cache, ctx.accelerator)
        came = "computed" if found.computed else "from the cache"
        print(f"features of {split}: {len(pixels)} images, {came}", flush=True)
        return torch.from_numpy(found.features["encoder"])

    return Labelled(
        data=images.data,
        classes=CLASSES,
        embed=once if config.training.cache_features else anew,
        cached=config.training.cache_features,
        images=images,
        picture=images.picture,
        preprocessing=images.preprocessing,
        claims=claims(images),
        known=lambda: of_images(images, encoder.architecture, ctx.cache),
        by_kind=lambda known: [],
    )


def read_table_of_volumes(ctx: Context[Phase2_2Config], encoder: FrozenEncoder) -> Labelled:
    """The volumes of a table, or of phantoms; each is embedded once for all runs and then read from the cache.

    Raises:
        ConfigError: A key is given that is for images, or the run that is resumed was begun with other volumes.
        DataError: The table cannot be used, or a split lacks one of its labels.
    """
    one_process(ctx.accelerator, ctx.phase.name)
    config, net = ctx.config, encoder.net
    assert encoder.pulled is not None
    assert not isinstance(net, UNetEncoder)
    for key in ("slices_dir", "kaggle_dir"):
        if getattr(config, key):
            raise ConfigError(f"{key}: found {getattr(config, key)}, but {encoder.called} takes volumes; give table=FILE.tsv")
    if not config.training.cache_features:
        raise ConfigError("training.cache_features=false: a volume costs seconds in every step; leave it out for volumes")
    if "test" in ctx.splits:
        need_test_volumes(config.table, ctx.cache, config.data.suffixes)
    split = functools.partial(_split, config)
    jobs, names, folder = config.data.jobs, config.data.suffixes, ctx.run.folder
    volumes = read_volumes(config.table, config.volumes, encoder.pulled, jobs, folder, ctx.cache, split, "val", names)
    table, named = volumes.table, volumes.data.manifest
    labels = [table.classes.index(label) for label in named["label"]]
    data = replace(volumes.data, manifest=named.assign(source="volumes", label=labels))
    strata, every_label = dict(zip(named["case"], named["label"], strict=True)), functools.partial(demand_every_label, volumes)
    seed, built_on = config.data.split_seed, [encoder.pulled]
    data = in_folds(data, config.folds, seed, strata, built_on=built_on, demands=[every_label])
    ctx.given(data, {"table": data.digest})

    kinds = kinds_of(encoder.pulled, config.features)
    whole = whole_network(encoder.pulled.folder) if any(KINDS[kind].decoder for kind in kinds) else net

    def of_rows(rows: pd.DataFrame) -> dict[FeatureKind, Array]:
        """Features of cases by kind, the one that is asked for first."""
        parts = cases_as_parts(volumes.cases(rows), data.facts, volumes.preprocessing, ctx.accelerator)
        found = embed_all({kind: Embedder(whole, kind) for kind in kinds}, parts, ctx.cache, ctx.accelerator).features
        return {kind: found[kind] for kind in kinds}

    def embed(cases: Labelled, split: str) -> Tensor:
        return torch.from_numpy(of_rows(cases.of(split))[config.features])

    def by_kind(known: Known) -> list[str]:
        return side_by_side(ctx, of_rows(known.rows), known.task()).words

    def picture(case: str) -> Array:
        """The middle axial slice of t1c, anterior up and the patient's right on the left."""
        image = execute(volumes.preprocessing.steps, read_case(data.cases[case], {}))["image"][1]
        middle: Array = np.asarray(image[:, :, image.shape[2] // 2]).T[::-1, ::-1]
        return middle

    return Labelled(
        data=data,
        classes=table.classes,
        embed=embed,
        cached=True,
        images=None,
        picture=picture,
        preprocessing=volumes.preprocessing,
        claims=_claims(config, volumes),
        known=lambda: of_volumes(
            volumes, data.by_owner[data.by_owner["split"] != "test"], encoder.architecture, config.features, ctx
        ),
        by_kind=by_kind,
    )


def _split(config: Phase2_2Config, table: LabelledTable, facts: Sequence[CaseFacts]) -> Splits:
    """The splits that the table gives, validation being drawn where it gives none."""
    return split_table(table, facts, config.data.val_fraction, config.data.split_seed, "val")


def _claims(config: Phase2_2Config, volumes: LabelledVolumes) -> dict[str, str | None]:
    given = volumes.table.split_of
    val = "" if "val" in given.values() else f"; validation drawn from train by seed {config.data.split_seed}"
    drawn = (
        f"drawn by seed {config.data.split_seed}: by patient, label by label; validation {config.data.val_fraction:.0%}, none "
        "held back"
    )
    return {
        "Inclusion and exclusion": f"all volumes of {volumes.data.source}",
        "Missing data": "a volume that cannot be read, or lacks a channel, stops the phase",
        "Reference standard": f"the labels of {volumes.data.source}",
        "Assignment to partitions": f"given by the table's column split{val}" if given else drawn,
    }


def need_test_volumes(table: str | None, cache: Path, suffixes: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> None:
    """A table of volumes has a test split: none is drawn.

    Raises:
        DataError: It has none, or cannot be read.
    """
    if table is None or "test" not in read_table(local(table, cache), suffixes=known_by(suffixes)).split_of.values():
        raise DataError(
            f"test=true: no case of {table or 'the phantoms'} is held back. Give a table whose column split says test, "
            "or leave test out"
        )
