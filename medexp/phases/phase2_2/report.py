"""What phase 2.2 leaves behind: a registered classifier and what its figures say."""

from collections.abc import Sequence

from medexp.models.classifier.network import EncoderClassifier
from medexp.phases.phase2_2.config import Phase2_2Config
from medexp.phases.phase2_2.frozen import FrozenEncoder
from medexp.phases.phase2_2.labelled import Labelled
from medexp.phases.shared.classification import Judged, per_case, pooled, rows_of
from medexp.phases.shared.context import Context
from medexp.phases.shared.controls import Beside
from medexp.phases.shared.folds import Evidence
from medexp.phases.shared.packaging import packaged
from medexp.phases.shared.publishing import Summary, caveat, selection
from medexp.registry.package import Package
from medexp.training.loop import FitResult

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
) -> Package:
    """Encoder and head with all that they were judged by; `limits` is what to know before their probabilities are used."""
    training, claims = ctx.config.training, cases.claims
    how = {
        "Training": f"at most {training.epochs} epochs, {training.optimizer}, rate {training.lr_head:g}, batches of "
        f"{training.batch_size * training.accumulate}, cross-entropy, class weights {training.class_weights}; the encoder "
        "was frozen; all settings: config.yaml of the run",
        "Selection of the final model": evidence.selection(selection(training, "the lowest validation cross-entropy")),
        "Limitations": " ".join(filter(None, [*controls.first, claims.get("Limitations"), *pooled(judged), *limits])) or None,
    }
    return packaged(
        ctx,
        registered_as(cases),
        cases.data,
        output=f"logits (B, {len(cases.classes)}): {', '.join(cases.classes)}",
        example=cases.example,
        facts={**claims, **how},
        architecture=encoder.classifier(len(cases.classes)),
        weights=classifier.state_dict(),
        parents={"encoder": encoder.parent},
        per_case=per_case(judged.rows, judged.classes, judged.predictions),
        figures={f"{judged.on} {name}": str(interval) for name, interval in judged.scores["all"].items()} | controls.figures,
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
        title=f"{evidence.on}: {' or '.join(cases.classes)}, epoch {fitted.epoch + 1}",
        head=["", *(f"{name} ({counts.get(name, len(judged.rows))})" for name in judged.scores)],
        rows=rows_of(list(judged.scores.values())),
        words=[
            words[0],
            *controls.words,
            *pooled(judged),
            *words[1:],
            f"Intervals of {ctx.config.confidence:.0%}, by patient.",
            evidence.caveat("accuracy") or caveat(fitted, list(judged.rows["patient"]), ctx.resampling),
        ],
        first=controls.first,
        beside=controls.table(f"beside controls, the same {len(judged.rows)} cases"),
    )
