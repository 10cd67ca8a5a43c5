"""The checks of oct: what must hold before anything is compared, and what the figures say of themselves."""

from collections.abc import Mapping, Sequence

from medexp.checks import Check, Severity
from medexp.evaluation.collapse import CONSTANT, ONE_DIRECTION, Spread
from medexp.evaluation.intervals import Interval

OVERFITTED = 0.01
"""A cross-entropy of a few fitted volumes, in nats, that is near zero."""


def data(volumes: int, failed: int, participants: int, without: Sequence[str], odd: Mapping[str, int]) -> Check:
    """OCT-DATA: nobody and nothing dropped out, and no volume looks otherwise than an encoder supposes.

    Args:
        volumes: Of the participants, that were found.
        failed: Those of them that cannot be used.
        participants: Who is in a split.
        without: Who should be, and has no volume that can be used.
        odd: How many volumes look odd, by the names of `medexp.data.oct.facts.ODD`.
    """
    return Check(
        "OCT-DATA",
        "Every participant has a volume, and every volume can be read and lies as encoders suppose",
        Severity.DIAGNOSTIC,
        passed=not failed and not without and not any(odd.values()),
        threshold="no volume fails or looks odd, and no participant is without one",
        measured={"volumes": volumes, "failed": failed, "participants": participants, "without_a_volume": len(without)}
        | ({"such_as": ", ".join(list(without)[:5])} if without else {})
        | {f"odd_{name}": count for name, count in odd.items() if count},
        advice="data_errors.csv of the run says what failed and why, left_out.csv who is in no split. Who drops out is rarely "
        "anybody: mend the files, or say so where the figures are told. What looks odd, and what to do, was printed when the "
        "volumes were read.",
    )


def volumes(shapes: Sequence[tuple[int, ...]], wanted: tuple[int, ...], finite: bool, distinct: int) -> Check:
    """OCT-VOLUMES: a few volumes load as the encoder takes them.

    Args:
        shapes: Of what was made of them.
        wanted: (1, D, H, W).
        finite: Whether all of it are numbers.
        distinct: How many of them differ from each other.
    """
    return Check(
        "OCT-VOLUMES",
        "The first volumes load",
        Severity.BLOCKING,
        passed=all(shape == wanted for shape in shapes) and finite and distinct == len(shapes),
        threshold=f"shape {wanted}, finite, and no two alike",
        measured={"volumes": len(shapes), "shape": str(shapes[0]), "finite": finite, "distinct": distinct},
        advice="Look at the files: these are none that an encoder of OCT volumes takes.",
    )


def embedding(widths: Mapping[str, int], wanted: int | None, drift: Mapping[str, float]) -> Check:
    """OCT-EMBEDDING: the encoders give (B, D), the same again for the same volume.

    Args:
        widths: D of each encoder.
        wanted: model.emb_dim.
        drift: Of each encoder, the largest difference of a volume's features from those computed again, by their norm.
    """
    wrong = [name for name, width in widths.items() if wanted not in (None, width)]
    return Check(
        "OCT-EMBEDDING",
        "Features of the width that is wanted, the same twice",
        Severity.BLOCKING,
        passed=not wrong and max(drift.values()) < 1e-3,
        threshold=f"width {wanted or 'of the encoder'}, differences below 0.001 of the norm",
        measured={**{f"width_{name}": width for name, width in widths.items()}, "drift": max(drift.values())},
        advice=f"model.emb_dim is {wanted}; {', '.join(wrong)} give{'s' if len(wrong) == 1 else ''} another width. Set it to "
        "null to compare encoders of any width."
        if wrong
        else "An encoder is not in eval mode, or its weights are broken.",
    )


def overfit(losses: Mapping[str, float], samples: int) -> Check:
    """OCT-OVERFIT: a head learns a few volumes by heart, from the features of each encoder that tells them apart.

    Args:
        losses: Cross-entropy after the training, by encoder; of those whose features differ.
        samples: Volumes.
    """
    return Check(
        "OCT-OVERFIT",
        "A few volumes are learned by heart",
        Severity.BLOCKING,
        passed=bool(losses) and max(losses.values()) < OVERFITTED,
        threshold=f"cross-entropy of {samples} volumes below {OVERFITTED}, for each encoder that tells them apart",
        measured=dict(losses) or {"encoders": 0},
        advice="Labels do not belong to volumes, or features are damaged: nothing could be learned from them.",
    )


def collapse(spread: Mapping[str, Spread]) -> Check:
    """OCT-COLLAPSE: no encoder gives all volumes the same features.

    Args:
        spread: By encoder.
    """
    collapsed = [name for name, one in spread.items() if one.collapsed]
    return Check(
        "OCT-COLLAPSE",
        "Features differ from volume to volume",
        Severity.DIAGNOSTIC,
        passed=not collapsed,
        threshold=f"relative SD at least {CONSTANT:g} and effective rank at least {ONE_DIRECTION:g}",
        measured={f"{name}_effective_rank": one.effective_rank for name, one in spread.items()},
        advice=" ".join(f"{name} {spread[name].told}; whatever is told of it is chance." for name in collapsed),
    )


def better_than_majority(gain: Interval, called: str) -> Check:
    """OCT-MAJORITY: the encoder that is registered tells the classes apart better than always saying the most frequent one.

    Args:
        gain: Balanced accuracy minus the majority class's.
        called: The encoder.
    """
    return Check(
        "OCT-MAJORITY",
        "Better than the majority class",
        Severity.DIAGNOSTIC,
        passed=gain.above,
        threshold="interval above 0 for balanced accuracy minus that of the majority class",
        measured={"gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high, "participants": gain.patients},
        advice=f"Nothing could be read from the features of {called}: look at labels and volumes, or give more participants.",
    )
