"""The checks of medgemma: that the adapter is where it should be, and what its answers are worth."""

from collections.abc import Mapping, Sequence

import pandas as pd

from medexp.checks import Check, Severity
from medexp.evaluation.intervals import Interval

TOLERANCE, TOLERANCE_IN_HALF = 1e-3, 0.5
"""Largest difference of an answer's log-probability, in nats, that rounding makes in float32 and in bfloat16."""


def data(scenarios: int, odd: int, across: pd.DataFrame) -> Check:
    """MEDGEMMA-DATA: images are what they say, and nothing of a split stands in another one.

    Args:
        scenarios: All of them.
        odd: Those whose image looks like none, such as a mask of two values.
        across: Pairs of scenarios of two splits that share an image or a text, with the column `how`.
    """
    return Check(
        "MEDGEMMA-DATA",
        "Images are what they say, and no image or text lies in two splits",
        Severity.DIAGNOSTIC,
        passed=not odd and across.empty,
        threshold="no odd image, and no pair across splits",
        measured={"scenarios": scenarios, "odd_images": odd, "pairs_across_splits": len(across)}
        | ({"how": ", ".join(sorted(set(across["how"])))} if len(across) else {}),
        advice="oddities.csv of the run names the images, across_splits.csv the pairs: what is judged was learned by heart "
        "where it was trained on. Without train.jsonl, val.jsonl and test.jsonl in the names, files are split by family.",
    )


def parameters(trainable: int, expected: int, elsewhere: Sequence[str]) -> Check:
    """MEDGEMMA-PARAMETERS: what trains is the adapter in the decoder's attention, as many parameters as arithmetic says."""
    return Check(
        "MEDGEMMA-PARAMETERS",
        "LoRA in the decoder's attention alone",
        Severity.BLOCKING,
        passed=trainable == expected and not elsewhere,
        threshold="trainable parameters as by arithmetic, none outside the decoder's attention",
        measured={"trainable": trainable, "expected": expected, "elsewhere": ", ".join(elsewhere[:3]) or "none"},
        advice="The model names its layers otherwise than was supposed: say so to whoever keeps medexp, with its config.json.",
    )


def images(counted: Mapping[str, tuple[int, int]], prompts: int) -> Check:
    """MEDGEMMA-IMAGES: each prompt has its image in it, and those without an image have none.

    Args:
        counted: By arm, the least and the largest number of images in a prompt.
        prompts: Of all arms.
    """
    wrong = [arm for arm, found in counted.items() if found != ((0, 0) if arm == "blind" else (1, 1))]
    measured: dict[str, int | str] = {"prompts": prompts, "wrong_arms": ", ".join(wrong) or "none"}
    for arm, (low, high) in counted.items():
        measured[f"images_{arm}"] = low if low == high else f"{low} to {high}"
    return Check(
        "MEDGEMMA-IMAGES",
        "Each prompt holds its image",
        Severity.BLOCKING,
        passed=bool(counted) and not wrong,
        threshold="one image in each prompt, none in those without",
        measured=measured,
        advice="The processor leaves images out, or writes them twice: its chat template is not the model's.",
    )


def frozen(changed: Sequence[str], compared: int) -> Check:
    """MEDGEMMA-FROZEN: training changed no tensor outside the adapter, the vision tower's included."""
    return Check(
        "MEDGEMMA-FROZEN",
        "All that is no adapter is as it was, bit by bit",
        Severity.BLOCKING,
        passed=compared > 0 and not changed,
        threshold="no tensor of the base changed",
        measured={"compared": compared, "changed": len(changed), "such_as": ", ".join(changed[:3]) or "none"},
        advice="Something else than the adapter was trained: the adapter alone does not give what was measured.",
    )


def loss(history: pd.DataFrame) -> Check:
    """MEDGEMMA-LOSS: the loss fell, from epoch to epoch and from what the base's was: a rate that is far too high first undoes
    what the base knew, and the loss falls from there.

    Args:
        history: One row an epoch, with `train/loss`, and `train/begun`, the loss before the first step.
    """
    first, last = float(history["train/loss"].iloc[0]), float(history["train/loss"].iloc[-1])
    begun = float(history["train/begun"].iloc[0])
    return Check(
        "MEDGEMMA-LOSS",
        "The loss falls",
        Severity.BLOCKING,
        passed=last < begun and (last < first or len(history) == 1),
        threshold="mean loss of the last epoch below that of the first, and below that of the base on training examples",
        measured={"base": begun, "first": first, "last": last, "epochs": len(history)},
        advice="Lower training.lr, or raise training.epochs: a few steps at a small rate move nothing, and the first "
        "of a warm-up has the rate 0 (training.warmup_epochs=0 leaves it out).",
    )


def merge(
    disabled: float,
    merged: float | None,
    wrong: Sequence[str],
    *,
    moved: float | None = None,
    half: bool = False,
    quantize: str = "none",
) -> Check:
    """MEDGEMMA-MERGE: without the adapter the base answers as before, and merged into it the adapter's answers stay.

    Args:
        disabled: Largest difference of an answer's log-probability between the base and the adapted network with its adapter
            disabled.
        merged: Likewise, between the adapted network and that into whose weights the adapter was merged; None where weights of
            8 or 4 bits cannot hold it.
        wrong: Tensors of the adapter that are left over in the merged network, and others that merging changed, tied weights
            among them.
        moved: Likewise, between the base and the adapted network: what the others are small beside.
        half: Whether weights are bfloat16, which rounds what is merged.
        quantize: How the base is quantised.
    """
    tolerance = TOLERANCE_IN_HALF if half else TOLERANCE
    alike = "merged: not possible" if merged is None else "merged: likewise, and nothing else changed"
    told = f"{quantize} weights hold no update" if merged is None else ", ".join(wrong[:3]) or "none"
    return Check(
        "MEDGEMMA-MERGE",
        "Disabled the adapter changes nothing, merged it changes the same",
        Severity.BLOCKING,
        passed=disabled < tolerance and (merged is None or (merged < tolerance and not wrong)),
        threshold=f"disabled: below {tolerance:g} nats; {alike}",
        measured={"disabled": disabled, "merged": merged, "adapter_moves": moved, "wrong_tensors": told},
        advice="The adapter cannot be taken off or merged as it is: tied or quantised weights were changed by it.",
    )


def reached(check: str, called: str, share: Interval, target: float, scenarios: int) -> Check:
    """MEDGEMMA-ACCURACY, -POSITIVE and -NEGATIVE: a target is reached when the lower end of the interval is there."""
    low, high = share.low, share.high
    found = "reached" if low >= target else "not reached" if high < target else f"not shown with n={scenarios}"
    return Check(
        check,
        f"{called} of at least {target:.0%}",
        Severity.DIAGNOSTIC,
        passed=low >= target,
        threshold=f"lower end of the interval at least {target:g}",
        measured={"estimate": share.estimate, "low": low, "high": high, "n": scenarios, "found": found},
        advice="More epochs, rank 32 or paraphrased instructions."
        if high < target
        else f"Judge more scenarios: {scenarios} cannot show it."
        if share.estimate >= target
        else "More scenarios to learn from and to judge by.",
    )


def modalities(found: str, largest: Interval, pair: Sequence[str], limit: float, scenarios: int) -> Check:
    """MEDGEMMA-MODALITIES: the accuracy is the same in all modalities.

    Args:
        found: shown, not, or what keeps it from being told.
        largest: Largest difference between two of them, with the interval that holds for all pairs at once.
        pair: Those two.
        limit: What it may be.
        scenarios: Judged.
    """
    if len(pair) < 2:
        found = "one modality alone"
    return Check(
        "MEDGEMMA-MODALITIES",
        f"Accuracy in modalities less than {limit:.0%} apart",
        Severity.DIAGNOSTIC,
        passed=found == "shown" or len(pair) < 2,
        threshold=f"intervals of all differences, which hold at once, within {limit:g}",
        measured={
            "largest": largest.estimate,
            "low": largest.low,
            "high": largest.high,
            "between": " and ".join(pair),
            "n": scenarios,
            "found": found,
        },
        advice="More scenarios of the modality that is behind, to learn from and to judge by.",
    )


def better_than_base(gain: Interval, chance: float, scenarios: int) -> Check:
    """MEDGEMMA-BASE: the adapter is better than the base without it, on the same scenarios.

    Args:
        gain: Its accuracy minus the base's, paired, by family.
        chance: Of such a difference if both were as good: exact McNemar test.
        scenarios: Judged.
    """
    return Check(
        "MEDGEMMA-BASE",
        "Better than the base without the adapter",
        Severity.DIAGNOSTIC,
        passed=gain.above,
        threshold="interval above 0 for its accuracy minus the base's",
        measured={"gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high, "mcnemar_p": chance, "n": scenarios},
        advice="The adapter is no better than the base, or too few scenarios tell: more steps, a larger rate, more scenarios.",
    )


def image_used(over_other: Interval, over_blind: Interval) -> Check:
    """MEDGEMMA-IMAGE-USED: with the image of another scenario of the same modality accuracy falls.

    Args:
        over_other: Accuracy with its own image minus that with another one, paired, by family.
        over_blind: The same against none at all.
    """
    return Check(
        "MEDGEMMA-IMAGE-USED",
        "The image counts",
        Severity.DIAGNOSTIC,
        passed=over_other.above,
        threshold="interval above 0 for accuracy minus that with the image of another scenario",
        measured={
            "over_other_image": over_other.estimate,
            "over_other_image_low": over_other.low,
            "over_no_image": over_blind.estimate,
            "over_no_image_low": over_blind.low,
        },
        advice="Answers do not depend on the image, as far as these scenarios can tell: what was learned is in the words.",
    )
