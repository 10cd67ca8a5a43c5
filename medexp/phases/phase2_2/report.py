"""What phase 2.2 leaves behind: a registered classifier and what its figures say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medexp.models.classifier.network import EncoderClassifier
from medexp.models.kinds import ONLY
from medexp.phases.phase2_2.config import Phase2_2Config
from medexp.phases.phase2_2.frozen import FrozenEncoder
from medexp.phases.phase2_2.labelled import Labelled
from medexp.phases.shared.classification import Judged, calibration_of, per_case, pooled, rows_of
from medexp.phases.shared.context import Context
from medexp.phases.shared.controls import Beside
from medexp.phases.shared.folds import Evidence
from medexp.phases.shared.packaging import classes, packaged
from medexp.phases.shared.publishing import Summary, epochs_in_words, selection
from medexp.registry.package import Package
from medexp.registry.packages import SPLIT_HEAD
from medexp.training.loop import FitResult
from medexp.training.losses import class_weights

OF_IMAGES, OF_VOLUMES = "phase2_2_classifier", "phase2_2_volume_classifier"


def registered_as(cases: Labelled) -> str:
    """Name of the model that a head on these cases is."""
    return OF_IMAGES if cases.images else OF_VOLUMES


def package(
    ctx: Context[Phase2_2Config],
    encoder: FrozenEncoder,
    cases: Labelled,
    classifier: EncoderClassifier,
    judged: Judged,
    evidence: Evidence,
    controls: Beside,
    limits: Sequence[str],
    apart: Mapping[str, Path],
) -> Package:
    """Encoder and head with all that they were judged by; `limits` is what to know before their probabilities are used,
    `apart` are the files of a head of the training split alone."""
    training, claims = ctx.config.training, cases.claims
    how = {
        "Training": f"{epochs_in_words(training)}, {training.optimizer}, rate {training.lr_head:g}, batches of "
        f"{training.batch_size * training.accumulate}, cross-entropy, class weights {training.class_weights}; the encoder "
        "was frozen; all settings: config.yaml of the run",
        "Selection of the final model": evidence.selection(selection(training, "the lowest validation cross-entropy"))
        + (f". {SPLIT_HEAD}: a second head, of the training split alone, which phase 2.3 goes on from" if apart else ""),
        "Limitations": " ".join(filter(None, [*controls.first, *pooled(judged), *limits])) or None,
    }
    return packaged(
        ctx,
        registered_as(cases),
        cases.data,
        output=f"logits (B, {len(cases.classes)}): {', '.join(cases.classes)}",
        preprocessing=cases.preprocessing,
        outputs={ONLY: classes(cases.classes, calibration_of(judged, limits))},
        facts={**claims, **how},
        architecture=encoder.classifier(len(cases.classes)),
        weights=classifier.state_dict(),
        parents={"encoder": encoder.parent},
        per_case=per_case(judged.rows, judged.classes, judged.predictions),
        figures={f"{judged.on} {name}": str(interval) for name, interval in judged.scores["all"].items()} | controls.figures,
        extra=apart,
    )


def summary(
    ctx: Context[Phase2_2Config],
    encoder: FrozenEncoder,
    cases: Labelled,
    judged: Judged,
    evidence: Evidence,
    fitted: FitResult,
    controls: Beside,
    words: Sequence[str],
) -> Summary:
    """The metrics of all validation cases and of each source's."""
    counts = judged.rows["source"].value_counts()
    return Summary(
        headline=f"phase 2.2, profile {ctx.config.profile}: a head on {encoder.called}, on {cases.data.source}",
        compared_by=("val/final/accuracy", "accuracy"),
        title=f"{evidence.on}: {' or '.join(cases.classes)}, epoch {fitted.epoch + 1}",
        head=["", *(f"{name} ({counts.get(name, len(judged.rows))})" for name in judged.scores)],
        rows=rows_of(list(judged.scores.values())),
        words=[
            words[0],
            *controls.words,
            *pooled(judged),
            *words[1:],
            f"Intervals of {ctx.config.confidence:.0%}, by patient.",
            evidence.caveat("accuracy", fitted, ctx.resampling),
        ],
        first=controls.first,
        beside=controls.table(f"beside controls, the same {len(judged.rows)} cases"),
    )


def shifted(config: Phase2_2Config, cases: Labelled) -> list[str]:
    """What to know of the probabilities where weights made a class more frequent in training than it is; else nothing.

    Of two classes class 1 is told of, of more each.
    """
    labels, validated, draws = cases.of("train")["label"].to_numpy(), cases.of("val")["label"], cases.draws(config)
    weights = class_weights(labels, draws, len(cases.classes), config.training.class_weights).numpy()
    counted, told = draws * weights[labels], []
    for label, name in list(enumerate(cases.classes))[len(cases.classes) == 2 :]:
        share, there = (float(values @ (labels == label) / values.sum()) for values in (counted, np.ones(len(labels))))
        if f"{share:.0%}" != f"{there:.0%}":
            told.append(
                f"Weights of classes and sources made {name!r} {share:.0%} of what the head was trained on; it is {there:.0%} "
                f"of the training cases and {(validated == label).mean():.0%} of the judged cases, by which Brier score, "
                "ECE and calibration.png go. Calibrate the probabilities on cases as frequent as yours before you use them as "
                "such."
            )
    return told
