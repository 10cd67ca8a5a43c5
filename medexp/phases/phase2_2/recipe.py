"""Phase 2.2 (specification 003): train a classification head on a frozen encoder, of 2D images or of volumes, and register it.

The encoder never changes and nothing is augmented, so each case's features are computed once; `training.cache_features=false`
computes them anew in every step instead, for the same result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from medexp.checks import Check, verdict
from medexp.config.shared import Resampling
from medexp.data.images.prepared import SOURCES
from medexp.data.images.sampling import expected_draws, sampling_order
from medexp.evaluation.classification import DIAGNOSTIC, Predictions, accuracy, cross_entropy, gain
from medexp.models.checkpoints import load_training_state, save_checkpoint
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.heads import ClassificationHead
from medexp.models.kinds import build
from medexp.models.unet.network import MultiTaskModel, part
from medexp.phases.phase2_2.config import Phase2_2Config
from medexp.phases.phase2_2.labelled import (
    FrozenEncoder,
    Labelled,
    image_features,
    load_encoder,
    need_test_volumes,
    read_images,
    read_table_of_volumes,
    split_volumes,
    volume_features,
)
from medexp.phases.shared import image_checks
from medexp.phases.shared.classified import Judged, judge, log_judged, per_case, pooled, rows_of
from medexp.phases.shared.images import both_classes, warm_up_images
from medexp.phases.shared.launch import forget_precision, launched_run, out_of_memory, same_as_begun, scored, start_accelerator
from medexp.phases.shared.publishing import CAVEAT, Summary, packaged, present, publish
from medexp.registry.leaks import split_check
from medexp.registry.package import Package
from medexp.tracking.figures import curves
from medexp.tracking.results import log_checks, stop_if_blocked
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import Batch, FitResult, Group, Objective, fit, permutations
from medexp.training.losses import class_weights

OF_IMAGES, OF_VOLUMES = "phase2_2_classifier", "phase2_2_volume_classifier"


@dataclass(frozen=True)
class Trained:
    """A head that was trained.

    Attributes:
        head: With the best epoch's weights.
        fitted: The training.
        parameters: How many got gradients or were the optimiser's, of the head and of all of the encoder's network.
    """

    head: ClassificationHead
    fitted: FitResult
    parameters: int


def run(config: Phase2_2Config) -> None:
    """The whole phase; `Phase2_2Config` says what can be set.

    Raises:
        CheckFailed: A BLOCKING check failed: the run holds all that was logged, and nothing is promoted.
    """
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    with launched_run("phase2_2", config, accelerator) as tracked:
        encoder = load_encoder(config, accelerator)
        tracked.tag(encoder.upstream)
        same_as_begun(config.resume, tracked, {"encoder": encoder.parent.weights_digest})
        read = read_table_of_volumes if encoder.of_volumes else read_images
        labelled = read(config, encoder, accelerator, tracked)
        checks = [guard(encoder, labelled.manifest)]
        log_checks(tracked, checks)
        stop_if_blocked(tracked, checks)

        before = frozen_state(encoder)
        trained = train_head(config, encoder, labelled, accelerator, tracked)
        rows = labelled.of("val")
        resampling = Resampling(config.bootstrap_samples, config.confidence, config.seed)
        judged = judge(rows, predict(trained.head, labelled.features("val"), rows["label"].to_numpy()), resampling)
        truth = judged.predictions.truth
        most = int(np.bincount(truth).argmax())
        constant = Predictions(truth, np.eye(2)[np.full(len(rows), most)])
        over_majority = gain(accuracy, judged.predictions, constant, list(rows["patient"]), resampling)

        classifier = EncoderClassifier(encoder.net, trained.head).cpu().eval()
        files = write_checkpoints(encoder, trained, tracked)
        found, by_chance = judged.scores["all"]["accuracy"].estimate, float((truth == most).mean())
        checks += [
            image_checks.frozen(
                before, frozen_state(encoder), trained.parameters, image_checks.head_parameters(encoder.width)
            ),
            image_checks.checkpoints(files, whole_like(encoder), whole_state(encoder, trained.head.state_dict())),
            image_checks.accuracy(found, config.min_accuracy),
            image_checks.majority(over_majority, found, by_chance),
        ]
        tracked.reporter.metrics({"majority/accuracy": by_chance, "params/head_trainable": trained.parameters})
        log_judged(judged, labelled.classes, tracked, labelled.picture, resampling, shown=config.shown)
        report(trained, files, checks, tracked)
        published = [publish(packed(config, encoder, labelled, classifier, judged, checks, tracked), verdict(checks), tracked)]
        words = [
            f"Always saying {labelled.classes[most]!r}, the majority class: accuracy {by_chance:.3f}.",
            *pooled(judged),
            *shifted(config, labelled),
        ]
        present(summary(config, encoder, labelled, judged, trained, words), checks, published, tracked)
        stop_if_blocked(tracked, checks)


def objective(config: Phase2_2Config, tracked: TrackedRun, *, test: bool = False) -> None:
    """What a trial of a study runs: the head alone, its scores as the metrics `val/best/…`. Nothing is registered.

    Args:
        config: The trial's configuration.
        tracked: The trial's run.
        test: Whether the test split is scored too, as `test/…`; a search never asks for it.

    Raises:
        CheckFailed: The encoder has seen cases that the trial would be scored on.
    """
    forget_precision()
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    with out_of_memory(config):
        encoder = load_encoder(config, accelerator)
        tracked.tag(encoder.upstream)
        read = read_table_of_volumes if encoder.of_volumes else read_images
        labelled = read(config, encoder, accelerator, tracked)
        stop_if_blocked(tracked, [guard(encoder, labelled.manifest, split) for split in scored(test)])
        trained = train_head(config, encoder, labelled, accelerator, tracked)
        for split, prefix in scored(test).items():
            rows = labelled.of(split)
            found = predict(trained.head, labelled.features(split), rows["label"].to_numpy())
            every = np.ones((1, len(rows)))
            table = per_case(Judged(rows, found, {}), labelled.classes)
            tracked.reporter.table(table, f"per_case_{split}.csv")
            scores = {name: float(metric(found, every)[0]) for name, metric in DIAGNOSTIC.items()}
            scores["cross_entropy"] = float(table["cross_entropy"].mean())
            tracked.reporter.metrics({f"{prefix}{name}": value for name, value in scores.items()})


def warm_up(config: Phase2_2Config, folder: Path, *, test: bool = False) -> Phase2_2Config:
    """Do once what trials share; the split follows from data.split_seed, so another seed is another training alone.

    Raises:
        CheckFailed: The encoder was trained on what the trials would be judged on.
    """
    forget_precision()
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    encoder = load_encoder(config, accelerator)
    if encoder.of_volumes:
        if test:
            need_test_volumes(config.table)
        volumes, manifest = split_volumes(config, encoder, folder)
        features = volume_features(config, encoder, volumes, manifest, accelerator)
    else:
        data = warm_up_images(config, config.kaggle_dir, SOURCES, [both_classes], test=test)
        manifest, features = data.manifest, image_features(config, encoder, data, accelerator)
    stop_if_blocked(None, [guard(encoder, manifest, split) for split in scored(test)])
    if config.training.cache_features:
        for split in ("train", *scored(test)):
            features(split)
    return config


def guard(encoder: FrozenEncoder, manifest: pd.DataFrame, split: str = "val") -> Check:
    """LEAK: the encoder has not seen a split's cases."""
    return split_check([encoder.pulled] if encoder.pulled else [], encoder.called, manifest, split)


def draws(config: Phase2_2Config, labelled: Labelled) -> NDArray[np.float64]:
    """How often an epoch draws each training case, on average (N,)."""
    rows = labelled.of("train")
    return np.ones(len(rows)) if labelled.study is None else expected_draws(list(rows["source"]), config.data.weights)


def shifted(config: Phase2_2Config, labelled: Labelled) -> list[str]:
    """What to know of the probabilities where weights made a class more frequent in training than it is; else nothing."""
    labels, times, name = labelled.of("train")["label"].to_numpy(), draws(config, labelled), labelled.classes[1]
    counted = times * class_weights(labels, times, len(labelled.classes), config.training.class_weights).numpy()[labels]
    share, there = (float(values @ labels / values.sum()) for values in (counted, np.ones(len(labels))))
    if f"{share:.0%}" == f"{there:.0%}":
        return []
    return [
        f"Weights of classes and sources made {name!r} {share:.0%} of what the head was trained on; it is {there:.0%} of the "
        f"training cases and {labelled.of('val')['label'].mean():.0%} of the validation cases, by which Brier score, ECE and "
        "calibration.png go. Calibrate the probabilities on cases as frequent as yours before you use them as such."
    ]


class _Features(Dataset[dict[str, Any]]):
    """Cached features with their labels, by (epoch, index, repeat)."""

    def __init__(self, features: Tensor, labels: np.ndarray) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        return {"image": self.features[key[1]], "label": int(self.labels[key[1]])}


def train_head(
    config: Phase2_2Config, encoder: FrozenEncoder, labelled: Labelled, accelerator: Accelerator, run: TrackedRun
) -> Trained:
    """The head alone, on standardised features, with cross-entropy; the best epoch has the best validation accuracy."""
    training, rows = config.training, labelled.of("train")
    labels = rows["label"].to_numpy()
    torch.manual_seed(config.seed)
    head = ClassificationHead(encoder.width).to(accelerator.device)
    features = labelled.features("train")
    head.standardise(features.to(accelerator.device))
    order = permutations(len(rows), config.seed)
    if labelled.study is not None:
        order = sampling_order(list(rows["source"]), config.data.weights, config.seed)
    times, classes = draws(config, labelled), len(labelled.classes)
    weight = class_weights(labels, times, classes, training.class_weights).to(accelerator.device)
    module: nn.Module = head
    cached = training.cache_features
    if cached:
        data: Dataset[Any] = _Features(features, labels)
    else:
        assert labelled.study is not None
        module, data = EncoderClassifier(encoder.net, head), labelled.study.images("train")
    known, truth = (labelled.features("val") if cached else None), labelled.of("val")["label"].to_numpy()

    def loss(module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(module(batch["image"]).float(), batch["label"], weight)}

    def validate(_: nn.Module, epoch: int) -> dict[str, float]:
        predictions = predict(head, labelled.features("val") if known is None else known, truth)
        right = float(accuracy(predictions, np.ones((1, len(truth))))[0])
        return {"accuracy": right, "ce": float(cross_entropy(predictions).mean())}

    group = Group("head", training.lr_head, list(head.parameters()))
    fitted = fit(
        module,
        [group],
        data,
        Objective(loss, validate, "accuracy"),
        training,
        seed=config.seed,
        accelerator=accelerator,
        reporter=run.reporter,
        folder=run.folder / "state",
        title="training the head",
        order=order,
    )
    got = {one for part in (encoder.whole, head) for one in part.parameters() if one.requires_grad}
    return Trained(head, fitted, sum(one.numel() for one in got.union(group.parameters)))


@torch.inference_mode()
def predict(head: ClassificationHead, features: Tensor, labels: np.ndarray) -> Predictions:
    """What a head says of cases, from their features (N, D)."""
    logits = head.eval()(features.to(next(head.parameters()).device))
    return Predictions(labels, np.asarray(logits.float().softmax(dim=1).cpu()))


def frozen_state(encoder: FrozenEncoder) -> dict[str, Tensor]:
    """All tensors of the network that the encoder is a part of, but those of a head."""
    state = encoder.whole.state_dict()
    return {key: value.detach().cpu().clone() for key, value in state.items() if not key.startswith("cls_head.")}


def whole_state(encoder: FrozenEncoder, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that a checkpoint holds: the multi-task network with the head in it, or encoder and head."""
    if isinstance(encoder.whole, MultiTaskModel):
        return frozen_state(encoder) | {f"cls_head.{key}": value.cpu() for key, value in head.items()}
    frozen = {f"encoder.{key}": value for key, value in frozen_state(encoder).items()}
    return frozen | {f"head.{key}": value.cpu() for key, value in head.items()}


def whole_like(encoder: FrozenEncoder) -> nn.Module:
    """A network that takes `whole_state`."""
    if isinstance(encoder.whole, MultiTaskModel):
        sizes = {key: encoder.architecture[key] for key in ("in_channels", "base_filters", "depth")}
        return MultiTaskModel(**sizes)
    return build({"kind": "classifier", "encoder": encoder.architecture, "features": encoder.width, "classes": 2})


def write_checkpoints(encoder: FrozenEncoder, trained: Trained, run: TrackedRun) -> dict[str, Path]:
    """The specification's `best_model` and `last_model`: the whole network with the best and with the last epoch's head."""
    last = load_training_state(run.folder / "state" / "last.pt")["weights"]
    of_head = part(last, "head") or last  # trained in the loop, the head is a part of what was saved
    files = {}
    for name, head in (("best", trained.head.state_dict()), ("last", of_head)):
        files[name] = run.folder / f"{name}_model.pt"
        save_checkpoint(whole_state(encoder, head), files[name])
    return files


def report(trained: Trained, files: Mapping[str, Path], checks: list[Check], run: TrackedRun) -> None:
    """Curves, the training log, checkpoints and checks."""
    run.reporter.figure(curves(trained.fitted.history), "figures/curves.png")
    run.reporter.table(trained.fitted.history, "training_log.csv")
    for path in files.values():
        run.reporter.file(path)
    log_checks(run, checks)


def packed(
    config: Phase2_2Config,
    encoder: FrozenEncoder,
    labelled: Labelled,
    classifier: EncoderClassifier,
    judged: Judged,
    checks: list[Check],
    run: TrackedRun,
) -> Package:
    """Encoder and head with all that they were judged by."""
    training = config.training
    output = f"logits (B, 2): {', '.join(labelled.classes)}"
    name = OF_IMAGES if labelled.study else OF_VOLUMES
    common = packaged(
        config,
        run,
        name,
        "phase2_2",
        output,
        manifest=labelled.manifest,
        cases=labelled.facts.values(),
        source=labelled.source,
        example=labelled.example,
        claims=labelled.claims,
    )
    limits = [common["facts"].get("Limitations"), *pooled(judged), *shifted(config, labelled)]
    common["facts"] |= {
        "Training": f"at most {training.epochs} epochs, {training.optimizer}, rate {training.lr_head:g}, batches of "
        f"{training.batch_size * training.accumulate}, cross-entropy, class weights {training.class_weights}; the encoder "
        "was frozen; all settings: config.yaml of the run",
        "Selection of the final model": "the epoch with the best validation accuracy",
        "Limitations": " ".join(filter(None, limits)) or None,
    }
    return Package(
        name=name,
        architecture={"kind": "classifier", "encoder": dict(encoder.architecture), "features": encoder.width, "classes": 2},
        weights=classifier.state_dict(),
        parents={"encoder": encoder.parent},
        checks=checks,
        per_case=per_case(judged, labelled.classes),
        figures={f"validation {name}": str(interval) for name, interval in judged.scores["all"].items()},
        **common,
    )


def summary(
    config: Phase2_2Config, encoder: FrozenEncoder, labelled: Labelled, judged: Judged, trained: Trained, words: list[str]
) -> Summary:
    """The metrics of all validation cases and of each source's."""
    counts = judged.rows["source"].value_counts()
    return Summary(
        headline=f"phase 2.2, profile {config.profile}: a head on {encoder.called}, on {labelled.source}",
        title=f"validation: {labelled.classes[0]} or {labelled.classes[1]}, best epoch {trained.fitted.best_epoch + 1}",
        head=["", *(f"{name} ({counts.get(name, len(judged.rows))})" for name in judged.scores)],
        rows=rows_of(list(judged.scores.values())),
        words=[*words, f"Intervals of {config.confidence:.0%}, by patient.", CAVEAT],
    )
