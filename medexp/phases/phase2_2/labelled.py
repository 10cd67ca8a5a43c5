"""Labelled cases and the frozen encoder that looks at them: 2D images or volumes, as the encoder's contract says."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from medexp import registry
from medexp.arrays import Array
from medexp.config.shared import cache_root
from medexp.data.images.datasets import MultiSourceDataset
from medexp.data.images.prepared import PreparedImages
from medexp.data.manifest import data_digest, split_digest
from medexp.data.splits import SPLITS, Splits
from medexp.data.volumes import transforms
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.tables import read_table, split_table, table_manifest
from medexp.errors import CheckpointError, ConfigError, DataError, RegistryError, all_problems
from medexp.evaluation.batches import Batches, in_batches
from medexp.evaluation.embeddings import cases_as_parts, embed_all, images_as_part
from medexp.models.checkpoints import load_state, load_weights, weights_digest
from medexp.models.swin.network import SwinEncoder
from medexp.models.unet.network import MultiTaskModel, UNetEncoder, size_of
from medexp.phases.phase2_2.config import Phase2_2Config
from medexp.phases.shared.images import CLASSES, ImageStudy, begin, both_classes, claims, demand_input, one_process
from medexp.phases.shared.launch import same_as_begun, take_over_state
from medexp.phases.shared.volumes import LabelledVolumes, read_volumes
from medexp.registry.loading import load_verified
from medexp.registry.package import Parent
from medexp.registry.packages import read_json
from medexp.registry.store import Pulled
from medexp.registry.tags import upstream_tag
from medexp.tracking.datasets import log_datasets
from medexp.tracking.runs import TrackedRun

_FIRST = "Train one first: mlflow run . -e phase2_1"
_AT_ONCE = 8  # images in a batch of cached features, whatever the batches of training: trials share them


@dataclass(frozen=True)
class FrozenEncoder:
    """What turns a case into features, and never changes.

    Attributes:
        net: In eval mode, on the device.
        whole: The network that it is a part of, which is the encoder itself where there is no more; none of it gets gradients.
        architecture: Of the encoder alone, as `medexp.models.kinds.build` takes it.
        width: Features of a case.
        called: What it is, for a reader.
        parent: What it is, for a package.
        pulled: Its package; None for a checkpoint file.
    """

    net: UNetEncoder | SwinEncoder
    whole: MultiTaskModel | SwinEncoder
    architecture: Mapping[str, Any]
    width: int
    called: str
    parent: Parent
    pulled: Pulled | None

    @property
    def of_volumes(self) -> bool:
        return isinstance(self.net, SwinEncoder)

    @property
    def upstream(self) -> dict[str, str]:
        """The tag that names its package."""
        return upstream_tag(self.pulled.name, self.pulled.version, self.pulled.digest) if self.pulled else {}


@dataclass(frozen=True)
class Labelled:
    """Cases of two classes, split.

    Attributes:
        manifest: One row a case, sorted: case, patient, source, label (0 or 1), split, sha256, voxels_sha256.
        classes: Names of the classes 0 and 1.
        source: What they are in words.
        facts: By case, for `medexp.data.manifest.seen_cases`.
        features: From a split, train or val, to the features (cases, D) of its cases, float32, in the order of `of`. They
            come from the cache, or with `training.cache_features=false` are computed anew at each call.
        study: The images; None for volumes.
        picture: From a case to a grey image (H, W) of it.
        example: What a contract says of these cases beyond the definition: `example_shape`, and `spacing_mm` of volumes.
        claims: How they were chosen, labelled and split, by item of CLAIM.
    """

    manifest: pd.DataFrame
    classes: tuple[str, ...]
    source: str
    facts: Mapping[str, Any]
    features: Callable[[str], Tensor]
    study: ImageStudy | None
    picture: Callable[[str], Array]
    example: Mapping[str, Any]
    claims: Mapping[str, str | None]

    def of(self, split: str) -> pd.DataFrame:
        """The rows of a split."""
        return self.manifest[self.manifest["split"] == split].reset_index(drop=True)


def load_encoder(config: Phase2_2Config, accelerator: Accelerator) -> FrozenEncoder:
    """The encoder that the configuration names.

    Raises:
        RegistryError: There is no such model, it holds no encoder that a head can be trained on, or takes other images.
        CheckpointError: There is no such file, or its network is of another size than `network` says.
        ConfigError: The encoder was trained on images of another size.
    """
    if not config.encoder.startswith("models:/"):
        return _from_file(config, accelerator)
    try:
        pulled = registry.pull(config.encoder)
    except RegistryError as error:
        raise RegistryError(f"encoder={config.encoder}: Encoder checkpoint not found: {error}. {_FIRST}") from error
    contract = read_json(pulled.folder, "contract.json")
    architecture, kind = contract["architecture"], contract["architecture"]["kind"]
    if kind not in ("multitask", "swin_encoder"):
        raise RegistryError(
            f"encoder={config.encoder}: is a {kind}; a head is trained on a multitask network or a swin_encoder. {_FIRST}"
        )
    digest = read_json(pulled.folder, "manifest.json")["weights_digest"]
    parent = Parent(pulled.name, pulled.version, pulled.digest, digest)
    whole = load_verified(pulled.folder).to(accelerator.device).requires_grad_(False)
    called = f"{pulled.name} version {pulled.version}"
    if isinstance(whole, MultiTaskModel):
        demand_input(pulled, config.data.input_size)
        return _of_multitask(whole, architecture, called, parent, pulled)
    assert isinstance(whole, SwinEncoder)
    return FrozenEncoder(whole, whole, architecture, 16 * architecture["feature_size"], called, parent, pulled)


def _from_file(config: Phase2_2Config, accelerator: Accelerator) -> FrozenEncoder:
    path = Path(config.encoder).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"encoder={config.encoder}: Encoder checkpoint not found: no such file. {_FIRST}, then leave encoder out, or give "
            "the best_model.pt of its run"
        )
    state, wanted = load_state(path), asdict(config.network)
    found = size_of(state)
    if found and found != wanted:
        differ = ", ".join(f"{key} {found[key]} against {wanted[key]}" for key in wanted if found[key] != wanted[key])
        give = " ".join(f"-P network.{key}={found[key]}" for key in wanted if found[key] != wanted[key])
        raise CheckpointError(f"encoder={path}: architecture mismatch ({differ}); give {give}")
    whole = MultiTaskModel(1, **wanted)
    load_weights(whole, state, str(path))
    parent = Parent(path.name, None, None, weights_digest(whole.state_dict()))
    architecture = {"kind": "multitask", "in_channels": 1, **wanted, "classes": len(CLASSES)}
    return _of_multitask(whole.to(accelerator.device).eval().requires_grad_(False), architecture, path.name, parent, None)


def _of_multitask(
    whole: MultiTaskModel, architecture: Mapping[str, Any], called: str, parent: Parent, pulled: Pulled | None
) -> FrozenEncoder:
    alone = {key: architecture[key] for key in ("in_channels", "base_filters", "depth")} | {"kind": "unet_encoder"}
    width = architecture["base_filters"] * 2 ** architecture["depth"]
    return FrozenEncoder(whole.encoder, whole, alone, width, called, parent, pulled)


def image_features(
    config: Phase2_2Config, encoder: FrozenEncoder, data: PreparedImages, accelerator: Accelerator
) -> Callable[[str], Tensor]:
    """`Labelled.features` of images, from the cache."""

    @functools.cache
    def features(split: str) -> Tensor:
        rows = data.manifest.query("split == @split")
        images = MultiSourceDataset(data, split, config.data, config.seed, augment=False)
        batches, settings = Batches(images, _AT_ONCE, config.training.workers), [*config.data.input_size, _AT_ONCE]
        part = images_as_part(batches, list(rows["voxels_sha256"]), settings, accelerator)
        embedded = embed_all({"encoder": encoder.net}, [part], cache_root(config.cache_dir), accelerator)
        found = embedded.features["encoder"]
        print(f"features of {split}: {len(found)} images, {'computed' if embedded.computed else 'from the cache'}", flush=True)
        return torch.from_numpy(found)

    return features


def volume_features(
    config: Phase2_2Config, encoder: FrozenEncoder, volumes: LabelledVolumes, manifest: pd.DataFrame, accelerator: Accelerator
) -> Callable[[str], Tensor]:
    """`Labelled.features` of volumes, from the cache."""
    cases, net = {case.id: case for case in volumes.table.cases}, encoder.net
    assert isinstance(net, SwinEncoder)

    @functools.cache
    def features(split: str) -> Tensor:
        ordered = [cases[case] for case in manifest.loc[manifest["split"] == split, "case"]]
        parts = cases_as_parts(ordered, volumes.facts, volumes.settings, accelerator)
        embedded = embed_all({"encoder": net}, parts, cache_root(config.cache_dir), accelerator)
        return torch.from_numpy(embedded.features["encoder"])

    return features


def read_images(config: Phase2_2Config, encoder: FrozenEncoder, accelerator: Accelerator, run: TrackedRun) -> Labelled:
    """Slices and Kaggle images."""
    if config.table:
        raise ConfigError(f"table: found {config.table}, but {encoder.called} takes 2D images; give slices_dir or kaggle_dir")
    study = begin(config, "phase2_2", accelerator, run, [both_classes], config.kaggle_dir)

    def anew(split: str) -> Tensor:
        return torch.from_numpy(in_batches(encoder.net, study.batches(split), accelerator, f"  features of {split}"))

    return Labelled(
        manifest=study.data.manifest,
        classes=CLASSES,
        source=study.data.source,
        facts=study.data.facts,
        features=image_features(config, encoder, study.data, accelerator) if config.training.cache_features else anew,
        study=study,
        picture=study.picture,
        example={"example_shape": [1, 1, *config.data.input_size]},
        claims=claims(config, study.data),
    )


def need_test_volumes(table: str | None) -> None:
    """A table of volumes has a test split: none is drawn.

    Raises:
        DataError: It has none, or cannot be read.
    """
    if table is None or "test" not in read_table(Path(table).expanduser(), judged="val").split_of.values():
        raise DataError(
            f"test=true: no case of {table or 'the phantoms'} is held back. Give a table whose column split says test, "
            "or leave test out"
        )


def split_volumes(config: Phase2_2Config, encoder: FrozenEncoder, folder: Path) -> tuple[LabelledVolumes, pd.DataFrame]:
    """The volumes of a table, or of phantoms, and the manifest that says their splits; a test split is there where the table
    has one.

    Args:
        config: The configuration.
        encoder: An encoder of volumes.
        folder: Gets the table of the phantoms.

    Raises:
        ConfigError: A key is given that is for images.
        DataError: The table cannot be used, has more than two labels, or a split without one of them.
    """
    assert encoder.pulled is not None
    for key in ("slices_dir", "kaggle_dir"):
        if getattr(config, key):
            raise ConfigError(f"{key}: found {getattr(config, key)}, but {encoder.called} takes volumes; give table=FILE.tsv")
    if not config.training.cache_features:
        raise ConfigError("training.cache_features=false: a volume costs seconds in every step; leave it out for volumes")
    cache = cache_root(config.cache_dir)
    volumes = read_volumes(config.table, config.volumes, encoder.pulled, config.data.jobs, folder, cache, "val")
    table, facts = volumes.table, volumes.facts
    if len(table.classes) != len(CLASSES):
        raise DataError(
            f"table {table.path}: {len(table.classes)} labels ({', '.join(table.classes)}); this head tells two apart"
        )
    drawn = split_table(table, facts.values(), config.data.val_fraction, config.data.split_seed)
    splits = drawn if table.split_of else Splits(drawn.train, drawn.test, ())
    missing = [
        f"split {split}: no case of {label}"
        for split in ("train", "val")
        for label in sorted(set(table.classes) - {table.labels[case] for case in getattr(splits, split)})
    ]
    if missing:
        advice = "Telling apart takes both labels in both; give some, or leave the column split out."
        raise DataError(all_problems(f"table {table.path}", missing, advice))
    manifest = table_manifest(table, facts.values(), splits)
    manifest = manifest.assign(source="volumes", label=[table.classes.index(label) for label in manifest["label"]])
    return volumes, manifest


def read_table_of_volumes(
    config: Phase2_2Config, encoder: FrozenEncoder, accelerator: Accelerator, run: TrackedRun
) -> Labelled:
    """The volumes of a table, or of phantoms; each is embedded once for all runs and then read from the cache.

    Raises:
        ConfigError: As of `split_volumes`, or the run that is resumed was begun with other volumes.
        DataError: As of `split_volumes`.
    """
    one_process(accelerator, "phase2_2")
    volumes, manifest = split_volumes(config, encoder, run.folder)
    table = volumes.table
    same_as_begun(config.resume, run, {"table": data_digest(manifest)})
    take_over_state(config.resume, run)
    digests = {split: split_digest(manifest, split) for split in SPLITS if split in set(manifest["split"])}
    log_datasets(run, manifest, digests, volumes.source, "phase2_2")
    cases = {case.id: case for case in table.cases}

    def picture(case: str) -> Array:
        """The middle axial slice of t1c, anterior up and the patient's right on the left."""
        image = transforms.preprocess(read_case(cases[case], {}), volumes.settings)["image"][1]
        middle: Array = np.asarray(image[:, :, image.shape[2] // 2]).T[::-1, ::-1]
        return middle

    size = list(volumes.settings.input_size)
    return Labelled(
        manifest=manifest,
        classes=table.classes,
        source=volumes.source,
        facts=volumes.facts,
        features=volume_features(config, encoder, volumes, manifest, accelerator),
        study=None,
        picture=picture,
        example={"spacing_mm": list(volumes.settings.spacing), "example_shape": [1, 4, *size]},
        claims={
            "Inclusion and exclusion": f"all volumes of {volumes.source}",
            "Missing data": "a volume that cannot be read, or lacks a channel, stops the phase",
            "Reference standard": f"the labels of {volumes.source}",
            "Assignment to partitions": "given by the table's column split"
            if table.split_of
            else f"drawn by seed {config.data.split_seed}: by patient, label by label; validation "
            f"{config.data.val_fraction:.0%}, none held back",
        },
    )
