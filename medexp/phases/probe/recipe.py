"""The probe: what a registered encoder's features tell about a labelled table, beside what simpler sources tell.

Every arm has the same cases, the same folds and the same head: the encoder; the network that it was adapted from; the same
architecture with random weights; statistics of raw intensities; and the most frequent class, which needs no features at all.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medexp import registry
from medexp.arrays import Array
from medexp.config.shared import cache_root
from medexp.data.manifest import split_digest
from medexp.data.splits import SPLITS
from medexp.data.volumes.tables import split_table, table_manifest
from medexp.errors import RegistryError
from medexp.evaluation.classification import Predictions
from medexp.evaluation.classifiers import fit_head, folds_by_patient, majority
from medexp.evaluation.embeddings import cases_as_parts, embed_all
from medexp.models.kinds import build
from medexp.models.swin.network import SwinEncoder, SwinSegmenter
from medexp.phases.probe.config import ProbeConfig
from medexp.phases.probe.report import Data, judge, report, show
from medexp.phases.shared.launch import start_accelerator
from medexp.phases.shared.volumes import read_volumes
from medexp.registry.leaks import fetch_parent, leak_check
from medexp.registry.loading import load_verified
from medexp.registry.package import Parent
from medexp.registry.packages import read_json
from medexp.registry.store import Pulled
from medexp.registry.tags import upstream_tag
from medexp.tracking.datasets import log_datasets
from medexp.tracking.results import log_checks, stop_if_blocked
from medexp.tracking.runs import TrackedRun, tracked_run

Encoder = SwinEncoder | SwinSegmenter


def run(config: ProbeConfig) -> None:
    """The whole phase; `ProbeConfig` says what can be set.

    Raises:
        CheckFailed: The encoder has seen patients of the test split; nothing was embedded.
        DataError: The table or a volume in it cannot be used.
        RegistryError: There is no such encoder, or what there is is none.
    """
    accelerator = start_accelerator(config.device, config.threads)
    with tracked_run("probe", config) as tracked:
        cache = cache_root(config.cache_dir)
        pulled = registry.pull(config.encoder)
        data = read_data(config, pulled, tracked, cache)

        checks = [leak_check(pulled, data.of("test")[["case", "patient", "voxels_sha256"]])]
        log_checks(tracked, checks)
        stop_if_blocked(tracked, checks)

        encoders, left_out = load_encoders(config, pulled, tracked)
        cases = {case.id: case for case in data.table.cases}
        ordered = [cases[case] for case in data.manifest["case"]]
        embedded = embed_all(encoders, cases_as_parts(ordered, data.facts, data.settings, accelerator), cache, accelerator)
        intensity = np.array([data.facts[case].intensity for case in data.manifest["case"]])

        predictions, chosen = predict(config, data, {**embedded.features, "intensity": intensity})
        results = judge(config, data, predictions, chosen, left_out, checks)
        tracked.reporter.metrics({"params/embeddings_computed": embedded.computed})
        report(tracked, data, results, config.confidence)
        show(config, pulled, data, results, tracked)


def read_data(config: ProbeConfig, pulled: Pulled, tracked: TrackedRun, cache: Path) -> Data:
    """Read the table and every volume in it as the encoder wants them, split it where it is not split, and log what it is.

    Raises:
        DataError: The table or volumes cannot be used; all problems of each step at once.
        RegistryError: The encoder wants volumes of a kind that the probe cannot make.
    """
    volumes = read_volumes(config.table, config.phantoms, pulled, config.jobs, tracked.folder, cache)
    facts = volumes.facts.values()
    manifest = table_manifest(volumes.table, facts, split_table(volumes.table, facts, config.test_fraction, config.seed))
    digests = {split: split_digest(manifest, split) for split in SPLITS if split in set(manifest["split"])}
    log_datasets(tracked, manifest, digests, volumes.source, "probe")
    return Data(volumes.table, volumes.facts, manifest, volumes.source, volumes.settings)


def load_encoders(config: ProbeConfig, pulled: Pulled, tracked: TrackedRun) -> tuple[dict[str, Encoder], str]:
    """The encoder, the one that it was adapted from, and one of its architecture with random weights, in eval mode.

    Returns:
        The encoders by arm, and why the unadapted one is not among them; empty when it is.

    Raises:
        RegistryError: What was pulled is no encoder.
    """
    encoders = {"encoder": _as_encoder(load_verified(pulled.folder), config.encoder)}
    left_out = ""
    if record := read_json(pulled.folder, "parents.json").get("base"):
        parent = fetch_parent(Parent(**record))
        if isinstance(parent, Pulled):
            tracked.tag(upstream_tag(parent.name, parent.version, parent.digest))
            encoders["unadapted"] = _as_encoder(load_verified(parent.folder), f"{parent.name} version {parent.version}")
        else:
            left_out = f"No row for the unadapted encoder, {parent.rstrip(',')}."
    else:
        left_out = f"No row for an unadapted encoder: {pulled.name} names no base that it was adapted from."
    architecture = read_json(pulled.folder, "contract.json")["architecture"]
    torch.manual_seed(config.seed)
    encoders["random"] = _as_encoder(build(architecture.get("base", architecture)), "random weights").eval()
    return encoders, left_out


def _as_encoder(net: nn.Module, called: str) -> Encoder:
    if adapted := getattr(net, "get_base_model", None):  # of peft, whose import takes seconds
        net = adapted()
    if not isinstance(net, SwinEncoder | SwinSegmenter):
        raise RegistryError(f"encoder {called}: is a {type(net).__name__}; the probe takes a SwinEncoder or a SwinUNETR")
    return net


def predict(config: ProbeConfig, data: Data, features: Mapping[str, Array]) -> tuple[dict[str, Predictions], dict[str, float]]:
    """Predictions of every arm on the test cases, and the hyperparameter that each head was fitted with.

    The splits train and val fit the head, and choose its hyperparameter across their patients; test is predicted.
    """
    tests = (data.manifest["split"] == "test").to_numpy()
    labels = np.array([data.table.classes.index(label) for label in data.manifest["label"]])
    fitted, truth = labels[~tests], labels[tests]
    folds = folds_by_patient(fitted, list(data.manifest.loc[~tests, "patient"]), config.search.folds, config.seed)
    predictions, chosen = {}, {}
    for arm, rows in features.items():
        head, chosen[arm] = fit_head(config.head, rows[~tests], fitted, folds, config.search, config.seed)
        predictions[arm] = Predictions(truth, head.predict_proba(rows[tests]))
    nothing = np.zeros((len(labels), 1))
    constant = majority(nothing[~tests], fitted)
    return predictions | {"majority": Predictions(truth, constant.predict_proba(nothing[tests]))}, chosen
