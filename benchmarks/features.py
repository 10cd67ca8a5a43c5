"""Which features of an encoder are worth pulling? `python -m benchmarks.features --table sex.tsv`

Each kind of `medexp.models.swin.features`, of the demo's encoder, of the base that it was adapted from, and of untrained
networks of its shape. How well a logistic head tells glioma from meningioma on phantoms that none of them saw, and the labels
of each table of real cases (as probe takes it), out of fold, folds by patient; how much of a tumour's volume and shape a ridge
regression reads within meningioma. Intervals by patient. Before that, on one thread: what `use_flash_attention` saves, and
oneDNN for convolutions.

The encoder is the champion of the store in the working folder, or of MLFLOW_TRACKING_URI; without one phase 1's demo trains
it here.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.model_selection import GroupKFold
from torch import nn

from medexp import registry
from medexp.arrays import Array
from medexp.cli import configuration, main
from medexp.config.networks import FeatureKind
from medexp.config.shared import Resampling, cache_root
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.cases import Case
from medexp.data.volumes.facts import CaseFacts, describe_cases
from medexp.data.volumes.phantoms import ensure_phantoms
from medexp.data.volumes.tables import read_table
from medexp.errors import RegistryError
from medexp.evaluation.classification import auroc, balanced_accuracy, gain
from medexp.evaluation.classifiers import folds_by_patient
from medexp.evaluation.controls import Source, Task, control
from medexp.evaluation.embeddings import Embedder, cases_as_parts, embed_all
from medexp.evaluation.intervals import Interval, mean_by_patient
from medexp.evaluation.regression import r2_gains, ridge
from medexp.models.convolutions import by_onednn
from medexp.models.kinds import build
from medexp.models.swin.attention import fast_attention
from medexp.models.swin.features import DEFAULT, KINDS
from medexp.models.swin.network import SwinSegmenter, features
from medexp.phases.shared.controls import untrained
from medexp.phases.shared.labelled_volumes import reading, volumes_of
from medexp.phases.shared.launch import start_accelerator
from medexp.registry.loading import whole_network
from medexp.registry.packages import read_json

METRICS = {"AUROC": auroc, "balanced accuracy": balanced_accuracy}
BLOCKS = {"volume": slice(0, 4), "shape": slice(7, 10)}
FOLDS = 5
RULE = (
    "Rule: the kind with most AUROC on phantoms, of the adapted encoder, if its gain over gap10 has an interval above 0 there "
    "and below 0 on no table of real cases; else gap10, which the specification names."
)


@dataclass(frozen=True)
class Told:
    """What a head tells from features: of each seed of a network its probabilities, with the cases that they are of."""

    task: Task
    found: Any
    scores: Mapping[str, Interval]


def embed(
    nets: Mapping[str, Any],
    cases: Sequence[Case],
    facts: Sequence[CaseFacts],
    preprocessing: Preprocessing,
    accelerator: Accelerator,
    cache: Path,
) -> dict[tuple[str, FeatureKind], Array]:
    """Features of the cases by network and kind."""
    parts = cases_as_parts(cases, {fact.case: fact for fact in facts}, preprocessing, accelerator)
    wanted = {f"{name} {kind}": Embedder(net, kind) for name, net in nets.items() for kind in KINDS}
    found = embed_all(wanted, parts, cache, accelerator).features
    return {(name, kind): found[f"{name} {kind}"] for name in nets for kind in KINDS}


def tell(
    found: Mapping[tuple[str, FeatureKind], Array],
    labels: Sequence[str],
    patients: Sequence[str],
    resampling: Resampling,
    cache: Path,
) -> dict[tuple[str, FeatureKind], Told]:
    """A logistic head on each network's features of each kind, out of fold; of untrained networks the mean."""
    classes = sorted({*labels})
    truth = np.array([classes.index(label) for label in labels])
    task = Task(truth, list(patients), len(classes), folds_by_patient(truth, patients, FOLDS, 0))
    told = {}
    for name in ("adapted", "base", "untrained"):
        for kind in KINDS:
            own = [one for (net, of), one in found.items() if of == kind and net.startswith(name)]
            head = control(Source(name, name, "logistic", None, partial(list, own)), task, cache)
            told[name, kind] = Told(task, head, head.scores(task.owners, resampling, METRICS))
    return told


def read_off(values: Array, targets: Array, patients: Sequence[str]) -> Array:
    """What ridge regressions, each fitted without the patient, say of the targets (cases, T)."""
    read = np.zeros_like(targets)
    for fit, score in GroupKFold(min(FOLDS, len({*patients}))).split(values, groups=patients):
        read[score] = ridge(values[fit], targets[fit], [patients[row] for row in fit], values[score])
    return read


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def compare(title: str, told: Mapping[tuple[str, FeatureKind], Told], resampling: Resampling) -> dict[FeatureKind, Interval]:
    """Prints the scores; gives the adapted encoder's gain in AUROC over gap10 by kind."""
    gains: dict[FeatureKind, Interval] = {}
    rows = []
    for (name, kind), one in told.items():
        over = "-"
        if kind != "gap10" and name != "untrained":
            reference = told[name, "gap10"].found.predictions[0]
            found = gain(auroc, one.found.predictions[0], reference, one.task.owners, resampling)
            over = found.as_gain
            if name == "adapted":
                gains[kind] = found
        rows.append([name, kind, *(score.in_a_cell(2) for score in one.scores.values()), over])
    table(title, ["network", "features", *METRICS, "AUROC over gap10"], rows)
    return gains


def regress(
    found: Mapping[tuple[str, FeatureKind], Array], facts: Sequence[CaseFacts], patients: Sequence[str], resampling: Resampling
) -> None:
    """Prints R2 of a tumour's volume and shape."""
    truth, rows = np.array([fact.semantic for fact in facts]), []
    for name in ("adapted", "base", "untrained"):
        for kind in KINDS:
            cells = []
            own = [one for (net, of), one in found.items() if of == kind and net.startswith(name)]
            read = [read_off(one, truth, patients) for one in own]
            for columns in BLOCKS.values():
                targets = truth[:, columns]
                constant = np.broadcast_to(targets.mean(axis=0), targets.shape)
                by_case = np.mean([r2_gains(targets, one[:, columns], constant) for one in read], axis=0)
                cells.append(mean_by_patient(by_case, list(patients), resampling, (-np.inf, 1.0)).in_a_cell(2))
            rows.append([name, kind, *cells])
    table(f"R2 within meningioma, {len({*patients})} patients", ["network", "features", *BLOCKS], rows)


@torch.inference_mode()
def passes() -> None:
    """Prints what passes of one volume take, on one thread: as PyTorch has them, with attention computed the fast way, and
    with convolutions by oneDNN too."""
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for feature_size, window, size, rounds in ((12, 4, (64, 32, 32), 9), (12, 4, (64, 64, 32), 9), (48, 7, (64, 64, 64), 3)):
        torch.manual_seed(0)
        sizes = {"in_channels": 4, "out_channels": 3, "feature_size": feature_size, "window_size": window}
        net, x = build({"kind": "swin_unetr", **sizes}).eval(), torch.randn(1, 4, *size)
        assert isinstance(net, SwinSegmenter)
        for module in net.modules():
            if isinstance(module, nn.Conv3d):
                module.__class__ = nn.Conv3d
        calls: list[Callable[[], Any]] = [partial(net.swinViT, x, True)]
        calls += [partial(features, net, x, [DEFAULT]), partial(features, net, x, [*KINDS]), partial(net, x)]
        taken, outputs = [], []
        for change in (lambda _: True, fast_attention, by_onednn):
            change(net)
            taken.append([_least(call, rounds) for call in calls])
            outputs.append(net(x))
        apart = max(float((one - outputs[0]).abs().max()) for one in outputs)
        seconds = [" -> ".join(f"{one * 1000:.0f}" for one in way) + " ms" for way in zip(*taken, strict=True)]
        rows.append([f"{feature_size}, window {window}, {' x '.join(map(str, size))}", *seconds, f"{apart:.1e}"])
    torch.set_num_threads(threads)
    head = ["feature_size", "SwinViT", DEFAULT, "all kinds", "segmentation", "logits at most apart"]
    table("PyTorch's own -> use_flash_attention -> oneDNN too, one thread", head, rows)


def _least(call: Any, rounds: int) -> float:
    call()
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return min(took)


def encoder_of(model: str) -> Any:
    """The encoder's package; without one phase 1's demo makes it."""
    try:
        return registry.pull(model)
    except RegistryError as error:
        print(f"{error}\nTraining phase 1's demo:", flush=True)
        main("phase1", [])
        return registry.pull("models:/phase1_encoder_merged@candidate")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models:/phase1_encoder_merged@champion", help="the adapted encoder")
    parser.add_argument("--table", action="append", default=[], help="TSV of labelled real cases, as probe takes it")
    parser.add_argument("--patients", type=int, default=80, help="phantom patients of each kind of tumour")
    parser.add_argument("--seed", type=int, default=11, help="of the phantoms: one that no encoder was trained or judged on")
    given = parser.parse_args()
    passes()

    config, cache = configuration("phase1", []), cache_root(None)
    accelerator, resampling = start_accelerator("auto", 1), Resampling(2000, 0.95, 0)
    pulled = encoder_of(given.model)
    preprocessing = volumes_of(pulled)
    parent = read_json(pulled.folder, "parents.json")["base"]
    base = registry.pull(f"models:/{parent['name']}/{parent['version']}")
    nets: dict[str, Any] = {"adapted": whole_network(pulled.folder), "base": whole_network(base.folder)}
    architecture = read_json(base.folder, "contract.json")["architecture"]
    nets |= {f"untrained {name}": one.net for name, one in untrained(architecture, accelerator.device).items()}

    cases: list[Case] = []
    for domain in ("glioma", "meningioma"):
        cases += find_cases(ensure_phantoms(domain, given.patients, given.seed, cache), config.data)
    labels = ["glioma" if "GLI" in case.id else "meningioma" for case in cases]
    facts = describe_cases(cases, config.data, cache)
    patients = [case.patient for case in cases]
    found = embed(nets, cases, facts, preprocessing, accelerator, cache)
    title = f"glioma against meningioma, {len(cases)} phantoms of {len({*patients})} patients"
    told = tell(found, labels, patients, resampling, cache)
    gains, worse = compare(title, told, resampling), set()
    within = [row for row, label in enumerate(labels) if label == "meningioma"]
    here = {key: values[within] for key, values in found.items()}
    regress(here, [facts[row] for row in within], [patients[row] for row in within], resampling)

    for file in given.table:
        read = read_table(Path(file).expanduser())
        known = describe_cases(read.cases, reading(1), cache)
        owners = [case.patient for case in read.cases]
        found = embed(nets, read.cases, known, preprocessing, accelerator, cache)
        real = tell(found, [read.labels[case.id] for case in read.cases], owners, resampling, cache)
        title = f"{' or '.join(read.classes)}, {len(read.cases)} real cases of {len({*owners})} people ({Path(file).name})"
        worse |= {kind for kind, one in compare(title, real, resampling).items() if one.below}

    better = {kind: one for kind, one in gains.items() if one.above and kind not in worse}
    chosen = max(better, key=lambda kind: told["adapted", kind].scores["AUROC"].estimate) if better else "gap10"
    print(f"\n{RULE}\nChosen: {chosen}. The default of this version: {DEFAULT}.")


if __name__ == "__main__":
    run()
