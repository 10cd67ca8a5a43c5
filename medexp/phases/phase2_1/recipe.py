"""Phase 2.1 (specification 003): train the multi-task U-Net's encoder and segmentation decoder on slices, and register it.

The classification head keeps its initial weights; phase 2.2 trains it.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from medexp.checks import Check, verdict
from medexp.config.shared import Resampling
from medexp.evaluation.intervals import Interval, mean_by_patient
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.phase2_1.config import Phase2_1Config
from medexp.phases.shared import image_checks
from medexp.phases.shared.images import ImageStudy, begin, dice, log_training, masks, packaged_images, segment, warm_up_images
from medexp.phases.shared.launch import forget_precision, launched_run, out_of_memory, scored, start_accelerator
from medexp.phases.shared.publishing import CAVEAT, Summary, present, publish
from medexp.registry.package import Package
from medexp.tracking.results import log_checks, log_intervals, stop_if_blocked
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import Batch, FitResult, Group, Objective, fit
from medexp.training.losses import segmentation_loss

MODEL = "phase2_1_multitask"


def run(config: Phase2_1Config) -> None:
    """The whole phase; `Phase2_1Config` says what can be set.

    Raises:
        CheckFailed: A BLOCKING check failed: the run holds all that was logged, and nothing is promoted.
    """
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    with launched_run("phase2_1", config, accelerator) as tracked:
        study = begin(config, "phase2_1", accelerator, tracked, [masks], sources=("brats",))
        net = fresh(study)
        checks = [image_checks.parameters(net, config.network)]

        fitted = train(study, net)
        per_case = dice(study, partial(segment, net.eval()))
        interval = mean_by_patient(
            per_case["dice"].to_numpy(),
            per_case["patient"].tolist(),
            Resampling(config.bootstrap_samples, config.confidence, config.seed),
        )
        whole_brain = float(dice(study, all_of_the_brain)["dice"].mean())
        checks.append(image_checks.segmentation(interval, whole_brain, config.min_dice))
        tracked.reporter.metrics({"baseline/dice": whole_brain})

        report(study, net, fitted, per_case, interval, checks)
        package = packed(study, net, per_case, interval, checks)
        published = [publish(package, verdict(checks), tracked)]
        present(summary(study, fitted, per_case, interval), checks, published, tracked)
        stop_if_blocked(tracked, checks)


def objective(config: Phase2_1Config, tracked: TrackedRun, *, test: bool = False) -> None:
    """What a trial of a study runs: the warm-up, its Dice as `val/best/dice`. Nothing is registered.

    Args:
        config: The trial's configuration.
        tracked: The trial's run.
        test: Whether the test split is scored too, as `test/dice`; a search never asks for it.
    """
    forget_precision()
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    with out_of_memory(config):
        study = begin(config, "phase2_1", accelerator, tracked, [masks], sources=("brats",))
        net = fresh(study)
        train(study, net)
        for split, prefix in scored(test).items():
            scans = dice(study, partial(segment, net), split)
            tracked.reporter.table(scans, f"per_case_{split}.csv")
            tracked.reporter.metrics({f"{prefix}dice": float(scans["dice"].mean())})


def warm_up(config: Phase2_1Config, folder: Path, *, test: bool = False) -> Phase2_1Config:
    """Do once what trials share; the split follows from data.split_seed, so another seed is another training alone."""
    del folder
    warm_up_images(config, None, ("brats",), [masks], test=test)
    return config


def fresh(study: ImageStudy) -> MultiTaskModel:
    """The network with the initial weights of the seed."""
    torch.manual_seed(study.config.seed)
    network = study.config.network
    return MultiTaskModel(1, network.base_filters, network.depth).to(study.accelerator.device)


def train(study: ImageStudy, net: MultiTaskModel) -> FitResult:
    """Encoder and decoder, with Dice of the batch + BCE; the best epoch has the best mean validation Dice over scans."""
    config = study.config
    net.cls_head.requires_grad_(False)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]

    def loss(module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        parts = segmentation_loss(module(batch["image"], do_cls=False)["seg"], batch["mask"], "batch_dice_bce")
        return {"loss": parts.pop("segmentation")} | parts

    def validate(_: nn.Module, epoch: int) -> dict[str, float]:
        return {"dice": float(dice(study, partial(segment, net))["dice"].mean())}

    return fit(
        net,
        [Group("network", config.training.lr_network, trained)],
        study.images("train", augment=True, masked=True),
        Objective(loss, validate, "dice"),
        config.training,
        seed=config.seed,
        accelerator=study.accelerator,
        reporter=study.run.reporter,
        folder=study.run.folder / "state",
        title="segmentation warm-up",
    )


def all_of_the_brain(images: Tensor) -> Tensor:
    """The answer that takes no learning: logits above 0 wherever an image is not background."""
    return (images != 0).float() - 0.5


def report(
    study: ImageStudy, net: MultiTaskModel, fitted: FitResult, per_case: pd.DataFrame, interval: Interval, checks: list[Check]
) -> None:
    """Metrics, tables, pictures, checks and the checkpoint."""
    reporter = study.run.reporter
    log_intervals(study.run, {"val/best/dice": interval}, study.config.confidence)
    reporter.table(per_case, "per_case.csv")
    log_training(study, net, fitted)
    log_checks(study.run, checks)


def packed(study: ImageStudy, net: MultiTaskModel, per_case: pd.DataFrame, interval: Interval, checks: list[Check]) -> Package:
    """The network with all that it was judged by."""
    network, training = study.config.network, study.config.training
    output = "seg: logits (B, 1, H, W); cls: logits (B, 2) of an untrained head"
    common: dict[str, Any] = packaged_images(study, MODEL, "phase2_1", output)
    common["facts"] |= {
        "Training": f"at most {training.epochs} epochs, {training.optimizer}, rate {training.lr_network:g}, batches of "
        f"{training.batch_size * training.accumulate}, Dice of the batch + BCE; the head was not trained; all settings: "
        "config.yaml of the run",
        "Selection of the final model": "the epoch with the best mean validation Dice over scans",
    }
    return Package(
        name=MODEL,
        architecture={"kind": "multitask", "in_channels": 1, "base_filters": network.base_filters}
        | {"depth": network.depth, "classes": 2},
        weights=net.state_dict(),
        checks=checks,
        per_case=per_case,
        figures={"validation Dice": str(interval)},
        **common,
    )


def summary(study: ImageStudy, fitted: FitResult, per_case: pd.DataFrame, interval: Interval) -> Summary:
    """Dice over the validation scans."""
    row = [str(fitted.best_epoch + 1), str(interval), str(len(per_case)), str(per_case["patient"].nunique())]
    return Summary(
        headline=f"phase 2.1, profile {study.config.profile}, on {study.data.source}",
        title="validation Dice of a scan's slices together",
        head=["best epoch", "Dice", "scans", "patients"],
        rows=[row],
        words=[f"Intervals of {study.config.confidence:.0%}, by patient.", CAVEAT],
    )
