"""Phase 2.3 (docs/requirements/phase2.md): train encoder, decoder and classification head together, in alternating batches.

The network of phase 2.1 gets the head of phase 2.2, nothing is frozen, and the encoder learns at a lower rate than the rest.
Batch norm keeps its statistics: the head learned on features that they make, and a batch of one task has others. Both earlier
phases are judged again on the same validation cases.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from medexp import registry
from medexp.checks import Check
from medexp.config.shared import Resampling
from medexp.data.images.prepared import PreparedImages
from medexp.data.images.sampling import expected_draws, sampling_order
from medexp.errors import RegistryError
from medexp.evaluation.classification import balanced_accuracy, gain
from medexp.evaluation.classification import scores as scores_of
from medexp.evaluation.intervals import GAIN, UNIT, Interval, Range, mean_by_patient
from medexp.models.checkpoints import weights_digest
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.phase2_3 import PHASE, checks
from medexp.phases.phase2_3.alternating import BothTasks, alternating
from medexp.phases.phase2_3.config import Phase2_3Config
from medexp.phases.phase2_3.report import MODEL, Compared, log_compared, package, summary
from medexp.phases.phase2_3.scoring import both_by_patient, both_tasks, told
from medexp.phases.shared.classification import judge, predictions_in
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.controls import beside, of_images
from medexp.phases.shared.folds import Evidence, Scored, Tables, trained_and_judged
from medexp.phases.shared.foresight import foresee
from medexp.phases.shared.images import (
    CLASSES,
    Images,
    Trained,
    both_classes,
    demand_input,
    demand_outlines,
    dice,
    encoder_alone,
    log_training,
    masks,
    outlined_patients,
    predict,
    read_images,
    segment,
    segmentations,
)
from medexp.phases.shared.packaging import parent_of
from medexp.phases.shared.split_head import of_the_split
from medexp.phases.shared.trials import studied
from medexp.registry.leaks import split_check
from medexp.registry.loading import load_verified
from medexp.registry.store import Pulled
from medexp.training.loop import Batch, Group, Objective, permutations
from medexp.training.losses import class_weights, segmentation_loss


@dataclass(frozen=True)
class Work:
    """What the earlier phases registered, and the images.

    Attributes:
        pulled: The packages, `multitask` of phase 2.1 and `classifier` of phase 2.2.
        net: Phase 2.1's network.
        head: Phase 2.2's encoder and head, that of the training split alone.
        images: The images.
    """

    pulled: Mapping[str, Pulled]
    net: MultiTaskModel
    head: EncoderClassifier
    images: Images

    @property
    def data(self) -> PreparedImages:
        return self.images.data

    def under(self, data: PreparedImages) -> "Work":
        """The same images, split otherwise."""
        return replace(self, images=self.images.under(data))


def run(config: Phase2_3Config) -> None:
    """The whole phase; `Phase2_3Config` says what can be set."""
    with context(PHASE, config) as ctx:
        work = read(ctx)
        ctx.demand(*guard(work, "val"))
        earlier, digest = [MODEL, work.pulled["multitask"].name], work.images.data.digests["val"]
        foresee(ctx, "Dice", ["dice"], outlined_patients(work.images), earlier, digest=digest)
        trained, evidence = trained_and_judged(ctx, work, train, answer, score)
        compared = compare(ctx, work, evidence)
        log_compared(ctx, work.images, compared)
        log_training(ctx, work.images, trained)
        dice_before, dice_after = (compared.means[column].estimate for column in ("dice_before", "dice"))
        before, after = (one.scores["all"]["balanced_accuracy"].estimate for one in (compared.judged_before, compared.judged))
        ctx.check(
            checks.kept("P2_3-DICE", "Dice", "phase 2.1", compared.dice, dice_before, dice_after, config.margin),
            checks.kept("P2_3-ACCURACY", "Balanced accuracy", "phase 2.2", compared.balanced, before, after, config.margin),
            checks.joint(compared.dice, compared.balanced),
            *compared.controls.checks,
        )
        ctx.publish(package(ctx, work.images, work.pulled, trained.net, compared, evidence))
        ctx.finish(summary(ctx, work.images, trained.fitted, compared, evidence))


def read(ctx: Context[Phase2_3Config]) -> Work:
    """The network of phase 2.1 and the head of phase 2.2, which must have been trained on that very encoder; and the images.

    Raises:
        RegistryError: One of them is not there or is something else, the head was trained on another encoder, or they
            take other images.
        ConfigError: They were trained on images of another size.
    """
    config, pulled = ctx.config, {}
    for key in ("multitask", "classifier"):
        try:
            pulled[key] = registry.pull(getattr(config, key))
        except RegistryError as error:
            raise RegistryError(f"{key}={getattr(config, key)}: {error}") from error
    nets = {key: load_verified(one.folder).to(ctx.device) for key, one in pulled.items()}
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
    ctx.built_on({key: parent_of(one) for key, one in pulled.items()})
    pulled["classifier"] = of_the_split(pulled["classifier"], head.head)
    images = read_images(ctx, [both_classes, masks], config.kaggle_dir, built_on=list(pulled.values()))
    demand_outlines(images, *ctx.splits)
    return Work(pulled, net, head, images)


def guard(work: Work, split: str) -> list[Check]:
    """LEAK: neither network has seen a split's cases. A head that was trained on a file has no registered ancestor, so phase
    2.1's network is asked itself."""
    return [split_check([work.pulled["classifier"], work.pulled["multitask"]], "", work.images.data, split)]


def joined(work: Work) -> MultiTaskModel:
    """Phase 2.1's network with phase 2.2's head; phase 2.1's own stays as it is."""
    net = copy.deepcopy(work.net).requires_grad_(True)
    net.cls_head.load_state_dict(work.head.head.state_dict())
    net.keep_statistics = True  # the head learned on features of these statistics, and batches of one task have others
    return net


def train(ctx: Context[Phase2_3Config], work: Work) -> Trained:
    """Both tasks; the criterion is the mean of validation Dice and balanced accuracy."""
    config, training, images, net = ctx.config, ctx.config.training, work.images, joined(work)
    segmented, classified = images.of("train", augment=True, masked=True), images.of("train", augment=True)
    by_source = sampling_order(classified.sources, config.data.weights, config.seed)
    draws = expected_draws(classified.sources, config.data.weights)
    weight = class_weights(classified.labels, draws, len(CLASSES), training.class_weights).to(ctx.device)
    order = alternating(permutations(len(segmented), config.seed), by_source, len(segmented), training.batch_size)

    def loss(module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        if batch["task"][0] == 0:
            parts = segmentation_loss(module(batch["image"], do_cls=False)["seg"], batch["mask"], "batch_dice_bce")
            return {"loss": parts["segmentation"]} | parts
        entropy = cross_entropy(module(batch["image"], do_seg=False)["cls"].float(), batch["label"], weight)
        return {"loss": entropy, "classification": entropy}

    def validate(_: nn.Module, epoch: int) -> dict[str, float | pd.Series]:
        ctx.picture("segmentations", epoch, partial(segmentations, images, net, epoch))
        tables = told(images, net, "val")
        return {**both_tasks(images, tables, "val"), "both": both_by_patient(images, tables, "val")}

    groups = [
        Group("encoder", training.lr_encoder, list(net.encoder.parameters())),
        Group("decoder", training.lr_decoder, list(net.seg_decoder.parameters())),
        Group("head", training.lr_head, list(net.cls_head.parameters())),
    ]
    data, goal = BothTasks(segmented, classified), Objective(loss, validate, "both")
    return Trained(net, ctx.fit(net, groups, data, goal, title="joint fine-tuning", order=order))


def answer(ctx: Context[Phase2_3Config], work: Work, trained: Trained, split: str) -> Tables:
    """As of `told`."""
    return told(work.images, trained.net, split)


def score(ctx: Context[Phase2_3Config], work: Work, tables: Tables, split: str) -> Scored:
    """Both tasks on a split."""
    rows, scans = work.data.rows(split), tables[1]

    def intervals(resampling: Resampling) -> dict[str, Interval]:
        outlined, found = scans.dropna(subset=["dice"]), predictions_in(tables[0], rows)
        of_dice = mean_by_patient(outlined["dice"].to_numpy(), outlined["patient"].tolist(), resampling, UNIT)
        balanced = scores_of(found, rows["patient"].tolist(), resampling, {"balanced_accuracy": balanced_accuracy})
        return balanced | {"dice": of_dice}

    return Scored(scans, both_tasks(work.images, tables, split), intervals)


objective, warm_up = studied(PHASE, read, train, answer, score, guard)


def compare(ctx: Context[Phase2_3Config], work: Work, evidence: Evidence) -> Compared:
    """Joint training, phase 2.1 and phase 2.2 on the same cases."""
    images, resampling = work.images, ctx.resampling
    rows, (probabilities, scans) = images.data.rows("val"), evidence.tables
    after = predictions_in(probabilities, rows)
    before = dice(images, partial(segment, work.net))[["case", "dice"]].rename(columns={"dice": "dice_before"})
    scans = scans.merge(before, on="case", validate="1:1")
    earlier, outlined = predict(images, work.head), scans.dropna(subset=["dice"])

    def of_scans(values: pd.Series, within: Range = UNIT) -> Interval:
        return mean_by_patient(values.to_numpy(), outlined["patient"].tolist(), resampling, within)

    return Compared(
        scans=scans,
        judged=judge(rows, CLASSES, after, resampling, evidence.on),
        judged_before=judge(rows, CLASSES, earlier, resampling, evidence.on),
        means={column: of_scans(outlined[column]) for column in ("dice_before", "dice")},
        dice=of_scans(outlined["dice"] - outlined["dice_before"], GAIN),
        balanced=gain(balanced_accuracy, after, earlier, rows["patient"].tolist(), resampling),
        controls=beside(ctx, "joint training", after, of_images(images, encoder_alone(work.pulled["multitask"]), ctx.cache)),
    )
