"""Phase 2.2 (docs/requirements/phase2.md): train a classification head on a frozen encoder, of 2D images or of volumes.

The encoder never changes and nothing is augmented, so each case's features are computed once; `training.cache_features=false`
computes them anew in every step instead, for the same result.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from medexp.checks import Check
from medexp.config.shared import Resampling
from medexp.data.images.sampling import sampling_order
from medexp.data.prepared import Prepared
from medexp.evaluation.classification import DIAGNOSTIC, Predictions, accuracy, cross_entropy, gain
from medexp.evaluation.classification import scores as scores_of
from medexp.evaluation.intervals import Interval, mean_by_patient
from medexp.models.checkpoints import load_training_state, save_checkpoint
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.heads import ClassificationHead, head_parameters
from medexp.models.unet.network import part
from medexp.phases.phase2_2 import PHASE, checks
from medexp.phases.phase2_2.config import Phase2_2Config
from medexp.phases.phase2_2.frozen import FrozenEncoder, load_encoder
from medexp.phases.phase2_2.labelled import Labelled, read_images, read_table_of_volumes
from medexp.phases.phase2_2.report import package, registered_as, shifted, summary
from medexp.phases.shared.classification import as_table, judge, log_judged, per_case, predictions_in
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.controls import beside
from medexp.phases.shared.features import LabelledFeatures
from medexp.phases.shared.folds import Evidence, Scored, Tables, trained_and_judged
from medexp.phases.shared.foresight import foresee
from medexp.phases.shared.split_head import written
from medexp.phases.shared.trials import studied
from medexp.registry.leaks import split_check
from medexp.reporting import NullReporter
from medexp.tracking.figures import curves
from medexp.training.loop import Batch, FitResult, Group, Objective, permutations
from medexp.training.losses import class_weights


@dataclass(frozen=True)
class Work:
    """The encoder, and the cases as it takes them."""

    encoder: FrozenEncoder
    cases: Labelled

    @property
    def data(self) -> Prepared[Any, Any]:
        return self.cases.data

    def under(self, data: Prepared[Any, Any]) -> "Work":
        """The same cases, split otherwise."""
        return replace(self, cases=self.cases.under(data))


@dataclass(frozen=True)
class Trained:
    """A head that was trained.

    Attributes:
        head: With the kept epoch's weights.
        fitted: The training.
        parameters: How many got gradients or were the optimiser's, of the head and of all of the encoder's network.
    """

    head: ClassificationHead
    fitted: FitResult
    parameters: int


def run(config: Phase2_2Config) -> None:
    """The whole phase; `Phase2_2Config` says what can be set."""
    with context(PHASE, config) as ctx:
        work = read(ctx)
        ctx.demand(*guard(work, "val"))
        encoder, cases = work.encoder, work.cases
        before = encoder.state()
        foresee(
            ctx, "accuracy", ["correct"], cases.of("val")["patient"], [registered_as(cases)], digest=cases.data.digests["val"]
        )
        trained, evidence = trained_and_judged(ctx, work, train, answer, score)
        rows, classes = cases.of("val"), cases.classes
        judged = judge(rows, classes, predictions_in(evidence.tables[0], rows), ctx.resampling, evidence.on)
        truth = judged.predictions.truth
        most = int(np.bincount(truth).argmax())
        constant = Predictions(truth, np.eye(len(classes))[np.full(len(rows), most)])
        over_majority = gain(accuracy, judged.predictions, constant, list(rows["patient"]), ctx.resampling)

        classifier = EncoderClassifier(encoder.net, trained.head).cpu().eval()
        files = write_checkpoints(ctx, encoder)
        found, by_chance = judged.scores["all"]["accuracy"].estimate, float((truth == most).mean())
        ctx.figures({"majority/accuracy": by_chance, "params/head_trainable": trained.parameters})
        log_judged(ctx, judged, cases.picture, shown=config.shown)
        ctx.run.reporter.figure(curves(trained.fitted.history), "figures/curves.png")
        ctx.run.reporter.table(trained.fitted.history, "training_log.csv")
        for path in files.values():
            ctx.run.reporter.file(path)
        expected, registered = head_parameters(encoder.width, len(classes)), encoder.state_with(trained.head.state_dict())
        ctx.check(
            checks.frozen(before, encoder.state(), trained.parameters, expected),
            checks.checkpoints(files, encoder.network(len(classes)), registered, "best" if trained.fitted.chosen else "last"),
            checks.accuracy(found, config.min_accuracy),
            checks.majority(over_majority, found, by_chance),
            *(controls := beside(ctx, f"the head on {encoder.called}", judged.predictions, known := cases.known())).checks,
        )
        words = [f"Always saying {classes[most]!r}, the majority class: accuracy {by_chance:.3f}.", *shifted(config, cases)]
        apart = of_the_training_split(ctx, work, evidence)
        ctx.publish(package(ctx, encoder, cases, classifier, judged, evidence, controls, words[1:], apart))
        ctx.finish(summary(ctx, encoder, cases, judged, evidence, trained.fitted, controls, [*words, *cases.by_kind(known)]))


def read(ctx: Context[Phase2_2Config]) -> Work:
    """The encoder and its cases: images for one of images, volumes for one of volumes."""
    encoder = load_encoder(ctx)
    ctx.built_on({"encoder": encoder.parent})
    return Work(encoder, (read_table_of_volumes if encoder.of_volumes else read_images)(ctx, encoder))


def guard(work: Work, split: str) -> list[Check]:
    """LEAK: the encoder has not seen a split's cases."""
    encoder = work.encoder
    return [split_check([encoder.pulled] if encoder.pulled else [], encoder.called, work.cases.data, split)]


def train(ctx: Context[Phase2_2Config], work: Work) -> Trained:
    """The head alone, on standardised features, with cross-entropy, which is the criterion too: accuracy is coarse."""
    encoder, cases, training = work.encoder, work.cases, ctx.config.training
    rows, count = cases.of("train"), len(cases.classes)
    labels = rows["label"].to_numpy()
    torch.manual_seed(ctx.config.seed)
    head = ClassificationHead(encoder.width, count).to(ctx.device)
    features = cases.features("train")
    head.standardise(features.to(ctx.device))
    order = permutations(len(rows), ctx.config.seed)
    if cases.images is not None:
        order = sampling_order(list(rows["source"]), ctx.config.data.weights, ctx.config.seed)
    weight = class_weights(labels, cases.draws(ctx.config), count, training.class_weights).to(ctx.device)
    module: nn.Module = head
    if training.cache_features:
        data: Dataset[Any] = LabelledFeatures(features.__getitem__, labels)
    else:
        assert cases.images is not None
        module, data = EncoderClassifier(encoder.net, head), cases.images.of("train")

    def loss(module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(module(batch["image"]).float(), batch["label"], weight)}

    def validate(_: nn.Module, epoch: int) -> dict[str, float | pd.Series]:
        found = predict(head, cases, "val")
        right = float(accuracy(found, np.ones((1, len(found.truth))))[0])
        return {"accuracy": right, "cross_entropy": pd.Series(cross_entropy(found), cases.of("val")["patient"])}

    group = Group("head", training.lr_head, list(head.parameters()))
    goal = Objective(loss, validate, "cross_entropy", "minimize")
    fitted = ctx.fit(module, [group], data, goal, title="training the head", order=order)
    got = {one for network in (encoder.whole, head) for one in network.parameters() if one.requires_grad}
    return Trained(head, fitted, sum(one.numel() for one in got.union(group.parameters)))


@torch.inference_mode()
def predict(head: ClassificationHead, cases: Labelled, split: str) -> Predictions:
    """What a head says of a split's cases, from their features."""
    logits = head.eval()(cases.features(split).to(next(head.parameters()).device))
    return Predictions(cases.of(split)["label"].to_numpy(), np.asarray(logits.float().softmax(dim=1).cpu()))


def answer(ctx: Context[Phase2_2Config], work: Work, trained: Trained, split: str) -> Tables:
    """The probabilities of each case."""
    return (as_table(work.cases.of(split), predict(trained.head, work.cases, split)),)


def score(ctx: Context[Phase2_2Config], work: Work, told: Tables, split: str) -> Scored:
    """What the head says of each case."""
    found, classes = predictions_in(told[0], work.cases.of(split)), work.cases.classes
    table, every = per_case(work.cases.of(split), classes, found), np.ones((1, len(found.truth)))
    scores = {name: float(metric(found, every)[0]) for name, metric in DIAGNOSTIC.items()}
    patients = table["patient"].tolist()

    def intervals(resampling: Resampling) -> dict[str, Interval]:
        of_entropy = mean_by_patient(table["cross_entropy"].to_numpy(), patients, resampling, (0.0, np.inf))
        return {**scores_of(found, patients, resampling, DIAGNOSTIC), "cross_entropy": of_entropy}

    return Scored(table, scores | {"cross_entropy": float(table["cross_entropy"].mean())}, intervals)


def share(ctx: Context[Phase2_2Config], work: Work) -> Phase2_2Config:
    """The features; the split follows from data.split_seed: another seed is another training alone."""
    for split in ("train", *ctx.splits) if ctx.config.training.cache_features else ():
        work.cases.features(split)
    return ctx.config


objective, warm_up = studied(PHASE, read, train, answer, score, guard, share)


def of_the_training_split(ctx: Context[Phase2_2Config], work: Work, evidence: Evidence) -> dict[str, Path]:
    """After folds of images, the files of a head that was trained for as many epochs on the training split alone, as phase 2.3
    needs it; none where the registered one is, or where that split cannot teach one."""
    split = work.under(work.data.out_of_folds()) if work.data.folds and work.cases.images else work
    if split is work or split.cases.of("train")["label"].nunique() < len(split.cases.classes):
        return {}
    silent = replace(ctx, run=replace(ctx.run, reporter=NullReporter()), fold="training split", until=evidence.epochs)
    return written(ctx.run.folder, train(silent, split).head.state_dict(), split.data)


def write_checkpoints(ctx: Context[Phase2_2Config], encoder: FrozenEncoder) -> dict[str, Path]:
    """`last_model.pt` and, where epochs were validated, `best_model.pt`: the network with the head of the last epoch, and
    with that of the lowest validation cross-entropy."""
    state, files = ctx.run.folder / "state", {}
    saved = {"last": load_training_state(state / "last.pt")["weights"]}
    if (state / "best.pt").is_file():
        saved["best"] = load_training_state(state / "best.pt")
    for name, trained in saved.items():
        files[name] = ctx.run.folder / f"{name}_model.pt"
        of_head = part(trained, "head") or trained  # trained in the loop, the head is a part of what was saved
        save_checkpoint(encoder.state_with(of_head), files[name])
    return files
