"""The probe: what a registered encoder's features tell about a labelled table, beside what simpler sources tell.

Every arm has the same cases, the same folds and the same head: the encoder; the network that it was adapted from; the same
architecture with random weights; statistics of raw intensities; and the most frequent class, which needs no features at all.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from medexp import registry
from medexp.config import DataConfig, ProbeConfig, cache_root
from medexp.data.cases import CHANNELS
from medexp.data.facts import describe_cases
from medexp.data.manifest import split_digest
from medexp.data.phantoms import PATIENT_PATTERN, ensure_phantoms
from medexp.data.phantoms.head import Domain
from medexp.data.splits import SPLITS
from medexp.data.tables import COLUMNS, read_table, split_table, table_manifest, write_table
from medexp.data.transforms import INPUT
from medexp.errors import RegistryError, all_problems
from medexp.evaluation.classification import Predictions
from medexp.evaluation.classifiers import fit_head, folds_by_patient, majority
from medexp.evaluation.embeddings import Array, embed_volumes
from medexp.models.builders import build
from medexp.models.swin import SwinEncoder, SwinSegmenter
from medexp.phases.launch import start_accelerator
from medexp.phases.probe_results import Data, judge, report, show
from medexp.registry.leaks import fetch_parent, leak_check
from medexp.registry.lineage import upstream_tag
from medexp.registry.loading import load_verified
from medexp.registry.packages import Parent, read_json
from medexp.registry.store import Pulled
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
    device = start_accelerator(config.device, config.threads).device
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
        embedded = embed_volumes(encoders, ordered, data.facts, data.settings, cache, device)
        intensity = np.array([data.facts[case].intensity for case in data.manifest["case"]])

        predictions, chosen = predict(config, data, {**embedded.features, "intensity": intensity})
        results = judge(config, data, predictions, chosen, left_out, checks)
        tracked.reporter.metrics({"params/embeddings_computed": embedded.computed})
        report(tracked, data, results)
        show(config, pulled, data, results, tracked)


def read_data(config: ProbeConfig, pulled: Pulled, tracked: TrackedRun, cache: Path) -> Data:
    """Read the table and every volume in it as the encoder wants them, split it where it is not split, and log what it is.

    Raises:
        DataError: The table or volumes cannot be used; all problems of each step at once.
        RegistryError: The encoder wants volumes of a kind that the probe cannot make.
    """
    channels, settings = input_settings(config, pulled)
    if config.table:
        path, source = Path(config.table).expanduser(), config.table
    else:
        path, source = phantom_table(config, tracked.folder, cache), "glioma and meningioma phantoms"
    table = read_table(path, channels)
    facts = describe_cases(table.cases, settings, cache)
    manifest = table_manifest(table, facts, split_table(table, facts, config.test_fraction, config.seed))
    digests = {split: split_digest(manifest, split) for split in SPLITS if split in set(manifest["split"])}
    log_datasets(tracked, manifest, digests, source, "probe")
    return Data(table, {fact.case: fact for fact in facts}, manifest, source, settings)


def input_settings(config: ProbeConfig, pulled: Pulled) -> tuple[tuple[str, ...], DataConfig]:
    """The channels in the order that the package's contract wants them, and how it wants volumes to be.

    Raises:
        RegistryError: The contract is not of volumes that the probe knows how to make.
    """
    contract = read_json(pulled.folder, "contract.json").get("input", {})
    problems = [
        f"input.{key} is {contract.get(key)!r}; the probe makes {value!r}"
        for key, value in INPUT.items()
        if contract.get(key) != value
    ]
    problems += [f"input.{key} is missing" for key in ("spacing_mm", "example_shape") if key not in contract]
    channels = tuple(contract.get("channels", ()))
    if sorted(channels) != sorted(CHANNELS):
        problems.append(f"input.channels are {', '.join(channels) or 'missing'}; the probe reads {', '.join(CHANNELS)}")
    if problems:
        raise RegistryError(all_problems(f"contract.json of {config.encoder}", problems, "Probe an encoder of such volumes."))
    settings = DataConfig(
        label_map={},  # segmentations are not read
        patient_pattern=PATIENT_PATTERN,
        exclude=(),
        spacing=tuple(contract["spacing_mm"]),
        input_size=tuple(contract["example_shape"][-3:]),
        val_fraction=0.0,
        test_fraction=config.test_fraction,
        jobs=config.jobs,
    )
    return channels, settings


def phantom_table(config: ProbeConfig, folder: Path, cache: Path) -> Path:
    """A table of phantoms of both domains, to be told apart; it has no splits."""
    rows = []
    patients: dict[Domain, int] = {
        "glioma": config.phantoms.glioma_patients,
        "meningioma": config.phantoms.meningioma_patients,
    }
    for domain, count in patients.items():
        for case in sorted(ensure_phantoms(domain, count, config.phantoms.seed, cache).iterdir()):
            patient = re.sub(PATIENT_PATTERN, r"\1", case.name)
            rows.append(dict(zip(COLUMNS, (case.name, str(case), domain, patient), strict=True)))
    write_table(pd.DataFrame(rows), folder / "table.tsv")
    return folder / "table.tsv"


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
