"""Phase 2.3 (specification 003): train encoder, segmentation decoder and classification head together, in alternating batches.

The network of phase 2.1 gets the head of phase 2.2, nothing is frozen, and the encoder learns at a lower rate than the rest.
Batch norm keeps its statistics: the head learned on features that they make, and a batch of one task has others. Both earlier
phases are judged again on the same validation cases.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from medexp import registry
from medexp.checks import Check, verdict
from medexp.config.shared import Resampling
from medexp.data.images.datasets import MultiSourceDataset
from medexp.data.images.prepared import SOURCES
from medexp.data.images.sampling import expected_draws, sampling_order
from medexp.errors import RegistryError
from medexp.evaluation.classification import balanced_accuracy, gain
from medexp.evaluation.intervals import Interval, mean_by_patient
from medexp.models.checkpoints import weights_digest
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.phase2_3.config import Phase2_3Config
from medexp.phases.shared import image_checks
from medexp.phases.shared.classified import Judged, brief, judge, log_judged, pooled, rows_of
from medexp.phases.shared.images import (
    CLASSES,
    ImageStudy,
    begin,
    both_classes,
    demand_input,
    dice,
    log_training,
    masks,
    packaged_images,
    predict,
    predict_and_dice,
    segment,
    warm_up_images,
)
from medexp.phases.shared.launch import forget_precision, launched_run, out_of_memory, same_as_begun, scored, start_accelerator
from medexp.phases.shared.publishing import CAVEAT, Summary, present, publish
from medexp.registry.leaks import split_check
from medexp.registry.loading import load_verified
from medexp.registry.package import Package, Parent
from medexp.registry.packages import MANIFEST, read_json
from medexp.registry.store import Pulled
from medexp.registry.tags import upstream_tag
from medexp.tracking.results import log_checks, log_intervals, stop_if_blocked
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import Batch, FitResult, Group, Objective, fit, permutations
from medexp.training.losses import class_weights, segmentation_loss

MODEL = "phase2_3_multitask"
NEEDS = (both_classes, masks)


@dataclass(frozen=True)
class Before:
    """What the earlier phases registered.

    Attributes:
        multitask: Phase 2.1's package.
        classifier: Phase 2.2's package.
        net: Phase 2.1's network.
        head: Phase 2.2's encoder and head.
        architecture: Of the network.
    """

    multitask: Pulled
    classifier: Pulled
    net: MultiTaskModel
    head: EncoderClassifier
    architecture: dict[str, Any]

    @property
    def upstream(self) -> dict[str, str]:
        """The tags that name both packages."""
        first, second = (upstream_tag(one.name, one.version, one.digest) for one in (self.multitask, self.classifier))
        return first | second


@dataclass(frozen=True)
class Compared:
    """Joint training against the earlier phases, on the same validation cases.

    Attributes:
        scans: Dice per scan: case, patient, source, dice, slices, and dice_before.
        judged: The classifier after joint training.
        judged_before: Phase 2.2's.
        means: Mean Dice over scans, `dice_before` and `dice`.
        dice: Gain in mean Dice.
        balanced: Gain in balanced accuracy.
    """

    scans: pd.DataFrame
    judged: Judged
    judged_before: Judged
    means: Mapping[str, Interval]
    dice: Interval
    balanced: Interval


def run(config: Phase2_3Config) -> None:
    """The whole phase; `Phase2_3Config` says what can be set.

    Raises:
        CheckFailed: A BLOCKING check failed: the run holds all that was logged, and nothing is promoted.
    """
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    with launched_run("phase2_3", config, accelerator) as tracked:
        before = fetch(config, accelerator)
        tracked.tag(before.upstream)
        digests = {"multitask": before.multitask.digest, "classifier": before.classifier.digest}
        same_as_begun(config.resume, tracked, digests)
        study = begin(config, "phase2_3", accelerator, tracked, NEEDS, config.kaggle_dir)
        checks = [guard(before, study.data.manifest)]
        log_checks(tracked, checks)
        stop_if_blocked(tracked, checks)

        net = joined(before).to(accelerator.device)
        fitted = train(study, net)
        compared = compare(study, before, net)
        checks += [
            image_checks.kept(
                "P2_3-DICE",
                "Dice",
                "phase 2.1",
                compared.dice,
                compared.means["dice_before"].estimate,
                compared.means["dice"].estimate,
                config.margin,
            ),
            image_checks.kept(
                "P2_3-ACCURACY",
                "Balanced accuracy",
                "phase 2.2",
                compared.balanced,
                compared.judged_before.scores["all"]["balanced_accuracy"].estimate,
                compared.judged.scores["all"]["balanced_accuracy"].estimate,
                config.margin,
            ),
            image_checks.joint(compared.dice, compared.balanced),
        ]
        report(study, net, fitted, compared, checks)
        published = [publish(packed(study, before, net, compared, checks), verdict(checks), tracked)]
        present(summary(study, fitted, compared), checks, published, tracked)
        stop_if_blocked(tracked, checks)


def objective(config: Phase2_3Config, tracked: TrackedRun, *, test: bool = False) -> None:
    """What a trial of a study runs: the joint training, its scores as the metrics `val/best/…`. Nothing is registered.

    Args:
        config: The trial's configuration.
        tracked: The trial's run.
        test: Whether the test split is scored too, as `test/…`; a search never asks for it.

    Raises:
        CheckFailed: A network has seen cases that the trial would be scored on.
    """
    forget_precision()
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    with out_of_memory(config):
        before = fetch(config, accelerator)
        tracked.tag(before.upstream)
        study = begin(config, "phase2_3", accelerator, tracked, NEEDS, config.kaggle_dir)
        stop_if_blocked(tracked, [guard(before, study.data.manifest, split) for split in scored(test)])
        net = joined(before).to(accelerator.device)
        train(study, net)
        for split, prefix in scored(test).items():
            tracked.reporter.metrics({f"{prefix}{name}": value for name, value in both_tasks(study, net, split).items()})


def warm_up(config: Phase2_3Config, folder: Path, *, test: bool = False) -> Phase2_3Config:
    """Do once what trials share; the split follows from data.split_seed, so another seed is another training alone."""
    del folder
    forget_precision()
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    before = fetch(config, accelerator)
    manifest = warm_up_images(config, config.kaggle_dir, SOURCES, NEEDS, test=test).manifest
    stop_if_blocked(None, [guard(before, manifest, split) for split in scored(test)])
    return config


def fetch(config: Phase2_3Config, accelerator: Accelerator) -> Before:
    """Pull the network of phase 2.1 and the head of phase 2.2, which must have been trained on that very encoder.

    Raises:
        RegistryError: One of them is not there or is something else, the head was trained on another encoder, or they
            take other images.
        ConfigError: They were trained on images of another size.
    """
    pulled = {}
    for key, phase in (("multitask", "phase2_1"), ("classifier", "phase2_2")):
        try:
            pulled[key] = registry.pull(getattr(config, key))
        except RegistryError as error:
            told = f"{key}={getattr(config, key)}: {error}. Train it first: mlflow run . -e {phase}"
            raise RegistryError(told) from error
    nets = {key: load_verified(one.folder).to(accelerator.device) for key, one in pulled.items()}
    net, head = nets["multitask"], nets["classifier"]
    if not isinstance(net, MultiTaskModel):
        raise RegistryError(f"multitask={config.multitask}: is of the class {type(net).__name__}; give a network of phase 2.1")
    if not isinstance(head, EncoderClassifier):
        raise RegistryError(
            f"classifier={config.classifier}: is of the class {type(head).__name__}; give a classifier of phase 2.2"
        )
    if weights_digest(head.encoder.state_dict()) != weights_digest(net.encoder.state_dict()):
        one, other = pulled["classifier"], pulled["multitask"]
        raise RegistryError(
            f"classifier={config.classifier}: {one.name} version {one.version} was trained on another encoder than that of "
            f"{other.name} version {other.version}. Train a head on this one: mlflow run . -e phase2_2 "
            f"-P encoder=models:/{other.name}/{other.version}, then give its version as classifier"
        )
    for one in pulled.values():
        demand_input(one, config.data.input_size)
    architecture = read_json(pulled["multitask"].folder, "contract.json")["architecture"]
    return Before(pulled["multitask"], pulled["classifier"], net, head, architecture)


def guard(before: Before, manifest: pd.DataFrame, split: str = "val") -> Check:
    """LEAK: neither network has seen a split's cases. A head that was trained on a file has no registered ancestor, so phase
    2.1's network is asked itself."""
    return split_check([before.classifier, before.multitask], "", manifest, split)


def joined(before: Before) -> MultiTaskModel:
    """Phase 2.1's network with phase 2.2's head; phase 2.1's own stays as it is."""
    net = MultiTaskModel(**{key: value for key, value in before.architecture.items() if key != "kind"})
    net.load_state_dict(before.net.state_dict())
    net.cls_head.load_state_dict(before.head.head.state_dict())
    net.keep_statistics = True  # the head learned on features of these statistics, and batches of one task have others
    return net


class _BothTasks(Dataset[dict[str, Any]]):
    """The items of segmentation, then those of classification; `task` says which, 0 or 1."""

    def __init__(self, segmented: MultiSourceDataset, classified: MultiSourceDataset) -> None:
        self.parts = (segmented, classified)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        epoch, index, repeat = key
        task = int(index >= len(self.parts[0]))
        return self.parts[task][epoch, index - task * len(self.parts[0]), repeat] | {"task": task}


def alternating(
    segmented: Callable[[int], NDArray[np.intp]], classified: Callable[[int], NDArray[np.intp]], count: int, batch_size: int
) -> Callable[[int], NDArray[np.intp]]:
    """An order of items in which a batch of one task follows a batch of the other.

    An epoch has as many batches of each as segmentation has: its items once, and the classified ones over and over or in part.
    Batches are full: those left at the end of an epoch's order, fewer than a batch, come another time.

    Args:
        segmented: Order of the items of segmentation.
        classified: Order of the items of classification, counted from 0.
        count: Number of items of segmentation.
        batch_size: Items a batch.
    """

    def order(epoch: int) -> NDArray[np.intp]:
        rows = max(count // batch_size, 1)
        first, second = (np.resize(each(epoch), (rows, batch_size)) for each in (segmented, classified))
        return np.stack([first, second + count], axis=1).reshape(-1)

    return order


def train(study: ImageStudy, net: MultiTaskModel) -> FitResult:
    """Both tasks; the best epoch has the best mean of validation Dice and balanced accuracy."""
    config, training = study.config, study.config.training
    segmented, classified = study.images("train", augment=True, masked=True), study.images("train", augment=True)
    by_source = sampling_order(classified.sources, config.data.weights, config.seed)
    draws = expected_draws(classified.sources, config.data.weights)
    weight = class_weights(classified.labels, draws, len(CLASSES), training.class_weights).to(study.accelerator.device)
    order = alternating(permutations(len(segmented), config.seed), by_source, len(segmented), training.batch_size)

    def loss(module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        if batch["task"][0] == 0:
            parts = segmentation_loss(module(batch["image"], do_cls=False)["seg"], batch["mask"], "batch_dice_bce")
            return {"loss": parts["segmentation"]} | parts
        entropy = cross_entropy(module(batch["image"], do_seg=False)["cls"].float(), batch["label"], weight)
        return {"loss": entropy, "classification": entropy}

    def validate(_: nn.Module, epoch: int) -> dict[str, float]:
        return both_tasks(study, net)

    return fit(
        net,
        [
            Group("encoder", training.lr_encoder, list(net.encoder.parameters())),
            Group("decoder", training.lr_decoder, list(net.seg_decoder.parameters())),
            Group("head", training.lr_head, list(net.cls_head.parameters())),
        ],
        _BothTasks(segmented, classified),
        Objective(loss, validate, "both"),
        training,
        seed=config.seed,
        accelerator=study.accelerator,
        reporter=study.run.reporter,
        folder=study.run.folder / "state",
        title="joint fine-tuning",
        order=order,
    )


def both_tasks(study: ImageStudy, net: MultiTaskModel, split: str = "val") -> dict[str, float]:
    """Mean Dice over scans, balanced accuracy, and the mean of the two, `both`."""
    found, scans = predict_and_dice(study, net, split)
    scores = {
        "dice": float(scans["dice"].mean()),
        "balanced_accuracy": float(balanced_accuracy(found, np.ones((1, len(found.truth))))[0]),
    }
    return scores | {"both": sum(scores.values()) / 2}


def compare(study: ImageStudy, before: Before, net: MultiTaskModel) -> Compared:
    """Joint training, phase 2.1 and phase 2.2 on the same validation cases."""
    config = study.config
    resampling = _resampling(config)
    after, scans = predict_and_dice(study, net)
    scans = scans.merge(
        dice(study, partial(segment, before.net))[["case", "dice"]].rename(columns={"dice": "dice_before"}),
        on="case",
        validate="1:1",
    )
    rows = study.data.manifest[study.data.manifest["split"] == "val"].reset_index(drop=True)
    earlier = predict(study, before.head)

    def of_scans(values: pd.Series) -> Interval:
        return mean_by_patient(values.to_numpy(), scans["patient"].tolist(), resampling)

    return Compared(
        scans=scans,
        judged=judge(rows, after, resampling),
        judged_before=judge(rows, earlier, resampling),
        means={column: of_scans(scans[column]) for column in ("dice_before", "dice")},
        dice=of_scans(scans["dice"] - scans["dice_before"]),
        balanced=gain(balanced_accuracy, after, earlier, rows["patient"].tolist(), resampling),
    )


def report(study: ImageStudy, net: MultiTaskModel, fitted: FitResult, compared: Compared, checks: list[Check]) -> None:
    """Metrics, tables, pictures, checks and the checkpoint."""
    config, reporter = study.config, study.run.reporter
    intervals = {f"phase2_2/{metric}": interval for metric, interval in compared.judged_before.scores["all"].items()}
    intervals |= {"val/best/dice": compared.means["dice"], "phase2_1/dice": compared.means["dice_before"]}
    intervals |= {"val/gain/dice": compared.dice, "val/gain/balanced_accuracy": compared.balanced}
    log_intervals(study.run, intervals, config.confidence)
    log_judged(
        compared.judged,
        CLASSES,
        study.run,
        study.picture,
        _resampling(config),
        shown=config.shown,
    )
    reporter.table(compared.scans, "dice_per_scan.csv")
    log_training(study, net, fitted)
    log_checks(study.run, checks)


def packed(study: ImageStudy, before: Before, net: MultiTaskModel, compared: Compared, checks: list[Check]) -> Package:
    """The network with all that it was judged by."""
    training = study.config.training
    common = packaged_images(study, MODEL, "phase2_3", f"seg: logits (B, 1, H, W); cls: logits (B, 2): {', '.join(CLASSES)}")
    common["facts"] |= {
        "Training": f"at most {training.epochs} epochs in alternating batches of {training.batch_size}, {training.optimizer}, "
        f"rates {training.lr_encoder:g} of the encoder, {training.lr_decoder:g} of the decoder, {training.lr_head:g} of the "
        "head; Dice of the batch + BCE, and cross-entropy; all settings: config.yaml of the run",
        "Selection of the final model": "the epoch with the best mean of validation Dice and balanced accuracy",
    }
    return Package(
        name=MODEL,
        architecture=before.architecture,
        weights=net.state_dict(),
        parents={
            role: Parent(one.name, one.version, one.digest, read_json(one.folder, MANIFEST)["weights_digest"])
            for role, one in (("multitask", before.multitask), ("classifier", before.classifier))
        },
        checks=checks,
        per_case=compared.scans.drop(columns="dice_before"),
        figures={"Dice over phase 2.1": compared.dice.as_gain, "balanced accuracy over phase 2.2": compared.balanced.as_gain}
        | {"validation Dice": str(compared.means["dice"])}
        | {f"validation {name}": str(interval) for name, interval in compared.judged.scores["all"].items()},
        **common,
    )


def summary(study: ImageStudy, fitted: FitResult, compared: Compared) -> Summary:
    """Both tasks before and after, on the same cases."""
    scans, number = compared.scans, len(compared.judged.rows)
    dice_row = [f"Dice ({len(scans)} scans)", *(brief(compared.means[column]) for column in ("dice_before", "dice"))]
    return Summary(
        headline=f"phase 2.3, profile {study.config.profile}, on {study.data.source}",
        title=f"validation, {number} images, best epoch {fitted.best_epoch + 1}",
        head=["", "phases 2.1 and 2.2", "joint training"],
        rows=[dice_row, *rows_of([compared.judged_before.scores["all"], compared.judged.scores["all"]])],
        words=[
            image_checks.gained("Dice", "phase 2.1", compared.dice),
            image_checks.gained("Balanced accuracy", "phase 2.2", compared.balanced),
            *pooled(compared.judged),
            f"Intervals of {study.config.confidence:.0%}, by patient.",
            CAVEAT,
        ],
    )


def _resampling(config: Phase2_3Config) -> Resampling:
    return Resampling(config.bootstrap_samples, config.confidence, config.seed)
