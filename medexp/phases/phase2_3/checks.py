"""The checks of phase 2.3: what joint training cost or added, against phases 2.1 and 2.2 on the same cases."""

from medexp.checks import Check, Severity
from medexp.evaluation.intervals import Interval


def kept(check: str, metric: str, phase: str, gain: Interval, before: float, after: float, margin: float) -> Check:
    """P2_3-DICE and P2_3-ACCURACY: joint training did not cost a task what an earlier phase had reached, on the same cases.

    The estimate decides; its interval stands beside it: with few patients it is too wide to decide anything.

    Args:
        check: Its id.
        metric: What is compared.
        phase: The phase that it is compared with.
        gain: The metric after joint training minus before, paired by patient.
        before: The metric before.
        after: The metric after.
        margin: Largest loss that counts as none.
    """
    by_chance = " Its interval holds losses that would pass: more validation cases or another seed tell if it was chance."
    return Check(
        check,
        f"{metric} against {phase}",
        Severity.BLOCKING,
        passed=gain.estimate >= -margin,
        threshold=f"not lower than {phase}'s on the same cases by more than {margin:g}",
        measured={"before": before, "after": after, "gain": gain.estimate, "low": gain.low, "high": gain.high}
        | {"patients": gain.patients},
        advice="Lower training.lr_encoder, or more epochs; the networks of phases 2.1 and 2.2 stay as they are."
        + (by_chance if gain.high >= -margin else ""),
    )


def joint(dice: Interval, balanced: Interval) -> Check:
    """P2_3-GAIN: what training both tasks together added to either.

    Args:
        dice: Gain in Dice over phase 2.1.
        balanced: Gain in balanced accuracy over phase 2.2.
    """
    return Check(
        "P2_3-GAIN",
        "What joint training added",
        Severity.DIAGNOSTIC,
        passed=dice.above or balanced.above,
        threshold="interval above 0 for Dice or for balanced accuracy",
        measured={"dice": dice.estimate, "dice_low": dice.low, "balanced": balanced.estimate, "balanced_low": balanced.low},
        advice=f"{gained('Dice', 'phase 2.1', dice)} {gained('Balanced accuracy', 'phase 2.2', balanced)}",
    )


def gained(metric: str, phase: str, gain: Interval) -> str:
    """What a paired difference says, plainly."""
    return gain.told(
        few=f"{metric}: too few patients to tell joint training from {phase}",
        better=f"{metric}: joint training does better than {phase}",
        worse=f"{metric}: joint training does worse than {phase}",
        same=f"{metric}: no difference from {phase} that could be measured",
    )
