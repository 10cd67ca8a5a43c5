"""The checks of phase7: P7-T1 to P7-T7 of docs/requirements/phase7.md, and what else samples have to bear."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from medexp.checks import Check, Severity
from medexp.evaluation.intervals import Interval
from medexp.evaluation.synthesis import Judgement
from medexp.models.meanflow.lora import Counts

VARIETY = 0.2
"""By so much the mean SSIM of drawn volumes with each other may differ from that of real ones."""
LEARNED = 0.1
"""Mean Dice below which a segmenter has learned next to nothing, and its gains say nothing."""
TOLERANCE = 1e-4
"""Largest difference of a sample, in the range of intensities 0 to 1, that rounding and another order of sums make."""


def round_trip(dice: Mapping[str, float], used: str, asked: str, bar: float) -> Check:
    """P7-T1: Dice of masks after encoding and decoding, and the strategy that follows from it.

    Args:
        dice: Mean Dice on held-out masks by strategy, at a threshold that was chosen on training masks.
        used: The strategy that is used.
        asked: What `data.mask_strategy` asks for.
        bar: Dice of the VAE above which masks are encoded by it.
    """
    follows = "vae" if dice["vae"] > bar else "downsample"
    return Check(
        "P7-T1",
        "Masks survive encoding and decoding",
        Severity.BLOCKING,
        passed=used == follows and math.isfinite(dice[used]),
        threshold=f"vae where its Dice is above {bar:g}, else downsample",
        measured={**{f"dice_{name}": value for name, value in dice.items()}, "follows": follows, "used": used},
        advice=f"data.mask_strategy={asked} keeps less of a mask than the other way: give auto.",
    )


def injects(difference: float, finite: bool, adapters: int) -> Check:
    """P7-T2: adapters are in each attention, a forward pass succeeds, and changes nothing of the image's channels as yet.

    Args:
        difference: Largest absolute difference of the image's channels to the base before training, mask channels being 0.
        finite: Whether all channels that come out are finite.
        adapters: Layers with an adapter.
    """
    return Check(
        "P7-T2",
        "Adapters inject, and a forward pass succeeds",
        Severity.BLOCKING,
        passed=adapters > 0 and finite and difference == 0,
        threshold="at least one adapter, all outputs finite, the base's channels as they were",
        measured={"adapted_layers": adapters, "finite": finite, "difference": difference},
        advice="The U-Net names its attention otherwise than lora.target_modules supposes.",
    )


def trains(counts: Counts, expected: int, boundary: str, changed: Sequence[str], bar: float) -> Check:
    """P7-T3: adapters and the new slices of the first and the last convolution train, and nothing else.

    Args:
        counts: Parameters that train, by what they are, and all there are.
        expected: Of the adapters, by arithmetic (Eq. 35, with each layer's own width).
        boundary: `lora.boundary`.
        changed: Tensors of the base that training changed.
        bar: Share of all parameters below which those that train are.
    """
    own = counts.lora + (counts.slices if boundary == "slices" else counts.convolutions)
    unfrozen = "" if boundary == "slices" else "; under boundary=convolutions the base is not frozen"
    return Check(
        "P7-T3",
        "Adapters and new slices alone train",
        Severity.BLOCKING,
        passed=own / counts.total < bar and counts.lora == expected and not changed,
        threshold=f"below {bar:.0%} of all parameters, adapters as by arithmetic, no tensor of the base changed{unfrozen}",
        measured={
            "trainable": own,
            "share": own / counts.total,
            "lora": counts.lora,
            "lora_expected": expected,
            "new_slices": counts.slices,
            "lora_and_slices": counts.lora + counts.slices,
            "lora_and_convolutions": counts.lora + counts.convolutions,
            "all": counts.total,
            "base_changed": len(changed),
        },
        advice="Lower lora.rank: a narrow network has a larger share in its adapters than a wide one.",
    )


def falls(history: pd.DataFrame) -> Check:
    """P7-T4: the loss falls. It is a poor proxy for samples: P7-T5 judges these.

    Args:
        history: One row an epoch, with `train/loss` and, where it was validated, `val/loss`, of the same noise and times.
    """
    first, last = float(history["train/loss"].iloc[0]), float(history["train/loss"].iloc[-1])
    held = history["val/loss"].dropna()
    return Check(
        "P7-T4",
        "The loss falls",
        Severity.BLOCKING,
        passed=last < first,
        threshold="mean loss of the last epoch below that of the first",
        measured={
            "first": first,
            "last": last,
            "held_out_first": float(held.iloc[0]),
            "held_out_last": float(held.iloc[-1]),
            "epochs": len(history),
        },
        advice="Lower training.lr, or raise training.epochs.",
    )


def lesions(drawn: Mapping[str, Mapping[str, float]], demands: Mapping[str, float]) -> Check:
    """P7-T5: samples hold lesions, by numbers: masks that are not empty, brighter inside than in the ring around them, and
    brighter under their own mask than under other samples'. Each seed and number of steps has to reach all of it.

    Args:
        drawn: By seed and number of steps, in words: `filled`, `contrast`, and `coupling_low`, the lower end of the interval
            of what own masks have in contrast over others.
        demands: The least of each.
    """
    worst = {name: min(figures[name] for figures in drawn.values()) for name in demands}
    failed = [
        f"{which}: {name}" for which, figures in drawn.items() for name, least in demands.items() if not figures[name] >= least
    ]
    return Check(
        "P7-T5",
        "Samples show lesions where their masks are",
        Severity.BLOCKING,
        passed=not failed,
        threshold=", ".join(f"{name} >= {least:.3f}" for name, least in demands.items())
        + ", in each seed and number of steps",
        measured={**{f"least_{name}": value for name, value in worst.items()}, "missed": "; ".join(failed) or "none"},
        advice="figures/pairs.png of the run shows them. Train longer (training.max_epochs), or raise lora.rank.",
    )


def coupling(drawn: Mapping[str, float], through_vae: float, real: Interval, share: float) -> Check:
    """P7-COUPLING: a mask belongs to its image as a real one does: what own masks have in contrast over other samples' masks.

    Args:
        drawn: That, by seed and number of steps, in words.
        through_vae: That of real pairs through the VAE: a blurred lesion is bright under its neighbours' masks too.
        real: That of real pairs. Where it is not above 0 their masks fit them no better than others', and nothing is told.
        share: Of the latter that is to be reached.
    """
    least = share * real.estimate
    return Check(
        "P7-COUPLING",
        "Masks belong to their own image as real ones do",
        Severity.DIAGNOSTIC,
        passed=real.above and all(value >= least for value in drawn.values()),
        threshold=f"contrast of own over other masks >= {least:.3f} ({share:.0%} of that of real pairs, which is above 0)",
        measured={
            **{f"in_{which}": value for which, value in drawn.items()},
            "real": real.estimate,
            "real_low": real.low,
            "real_through_vae": through_vae,
        },
        advice="Masks are much alike, or lie beside the lesion. Train longer, on lesions at more places; where real pairs "
        "through the VAE have less than is asked for, it is the VAE that blurs them."
        if real.above
        else "Real masks fit their own images no better than others', as far as so few pairs tell: give more pairs, and see "
        "whether masks and images belong together.",
    )


def overlap(drawn: Mapping[str, float], real: float, bar: float, gap: float) -> Check:
    """P7-T6: generated masks overlap real ones as much as real ones do with each other: a mean over all pairs.

    Args:
        drawn: Mean Dice with real masks, by seed and number of steps, in words.
        real: That of real masks of different patients.
        bar: The requirement's Dice.
        gap: How far it may lie below `real`, where that is lower.
    """
    least, demand = min(drawn.values()), min(bar, max(real - gap, real / 2))
    return Check(
        "P7-T6",
        "Generated masks lie where real ones do",
        Severity.DIAGNOSTIC,
        passed=least >= demand,
        threshold=f"mean Dice at least {demand:.3f}: {bar:g}, or at most {gap:g} and at most half below real with real",
        measured={**{f"dice_{name}": value for name, value in drawn.items()}, "real_with_real": real},
        advice="Real lesions of different patients overlap little where they are small; samples.csv has sizes and places.",
    )


def powers(difference: Interval | None, seeds: int) -> Check:
    """P7-T7: powers of 1.5 and 2 do better than 2 and 2 in mask Dice; or it is said that it cannot be seen.

    Args:
        difference: Of mean mask Dice, with its interval over seeds; None where it was not measured.
        seeds: Trainings of each.
    """
    better = difference is not None and difference.low is not None and difference.low > 0
    worse = difference is not None and difference.high is not None and difference.high < 0
    outcome = "better" if better else "worse" if worse else "no difference can be told" if seeds else "not run"
    return Check(
        "P7-T7",
        "Powers of 1.5 and 2 against 2 and 2",
        Severity.DIAGNOSTIC,
        passed=seeds > 0 and not worse,
        threshold="compared, with a null result told as one; not worse",
        measured={
            "outcome": outcome,
            "seeds": seeds,
            "difference_in_dice": None if difference is None else difference.estimate,
        },
        advice="Not run: give ablation.seeds=3. Worse: give loss.p_img=2.",
    )


def pull(difference: float, masks: int) -> Check:
    """P7-PULL: the adapter, read from its files onto the base, draws the same volumes from the same seed.

    Args:
        difference: Largest of the images.
        masks: Voxels that differ in the masks.
    """
    return Check(
        "P7-PULL",
        "The saved adapter draws the same volumes",
        Severity.BLOCKING,
        passed=difference <= TOLERANCE,
        threshold=f"images at most {TOLERANCE:g} apart",
        measured={"difference": difference, "mask_voxels": masks},
        advice="What is saved is not what was judged: say so to whoever keeps medexp.",
    )


def drawn(filled: Mapping[str, Interval], least: float) -> Check:
    """P7-DRAWN: what a registered adapter draws has masks: one empty mask of a few samples is no sign that it does not.

    Args:
        filled: Share of masks that are not empty, with its exact interval, by number of steps in words.
        least: What it is to be.
    """
    return Check(
        "P7-DRAWN",
        "Samples have masks",
        Severity.BLOCKING,
        passed=all(share.high is not None and share.high >= least for share in filled.values()),
        threshold=f"at least {least:.0%} of the masks are not empty, as far as so many samples tell",
        measured={steps: share.estimate for steps, share in filled.items()},
        advice="Draw in more steps (sampling.steps=[4]), or take another adapter.",
    )


def variety(alike: Mapping[int, float], real: float) -> Check:
    """P7-BASE: what a base draws is as varied as real heads, and not noise: their SSIM with each other is that of real ones.

    Args:
        alike: By number of steps, the mean SSIM of samples with each other.
        real: That of real volumes.
    """
    return Check(
        "P7-BASE",
        "The base draws a variety of heads",
        Severity.BLOCKING,
        passed=all(abs(value - real) <= VARIETY for value in alike.values()),
        threshold=f"mean SSIM with each other within {VARIETY:g} of that of real volumes",
        measured={**{f"ssim_in_{steps}": value for steps, value in alike.items()}, "real": real},
        advice="figures/pairs.png shows them. More alike: it draws one head, less: noise. Train longer (training.max_epochs).",
    )


def copies(pooled: Mapping[int, Judgement]) -> Check:
    """P7-COPIES: no sample is a copy of a training patient, and samples lie no nearer to these than to others."""
    found = {steps: judged.of("memory") for steps, judged in pooled.items()}
    copied = {steps: len(judged.memory.copies) for steps, judged in pooled.items()}
    return Check(
        "P7-COPIES",
        "Samples are no copies of training patients",
        Severity.BLOCKING,
        passed=all(one.found != "unlike" for one in found.values()),
        threshold="no copy, and no more samples nearest to a training patient than by chance",
        measured={
            **{f"copies_in_{steps}": count for steps, count in copied.items()},
            **{f"nearest_in_{steps}": one.generated.estimate for steps, one in found.items()},
            "by_chance": next(iter(pooled.values())).memory.expected,
            **{f"p_in_{steps}": one.p for steps, one in found.items()},
        },
        advice="samples.csv names the training patients. Train for fewer epochs, on more pairs, or with a lower lora.rank: "
        "what is drawn may show a patient.",
    )


def alike(called: str, title: str, names: Sequence[str], pooled: Mapping[int, Judgement], advice: str) -> Check:
    """P7-MASKS and P7-IMAGES: no difference from real pairs could be measured in some of the figures.

    Args:
        called: Id of the check.
        title: What is checked.
        names: Of the statements that it rests on.
        pooled: Judgements by number of steps.
        advice: What to do.
    """
    found = {f"{name}_in_{steps}": judged.of(name) for steps, judged in pooled.items() for name in names}
    return Check(
        called,
        title,
        Severity.DIAGNOSTIC,
        passed=all(one.found == "alike" for one in found.values()),
        threshold="no measurable difference from real pairs",
        measured={which: f"{one.found} ({one.generated.in_a_cell(3, bounds=False)})" for which, one in found.items()},
        advice=advice,
    )


def masks(pooled: Mapping[int, Judgement]) -> Check:
    """P7-MASKS: volumes and places of generated lesions are those of real ones."""
    advice = "judgement.csv has the distances. loss.lambda_mask weighs masks; more training pairs show more places."
    return alike("P7-MASKS", "Masks have the sizes and places of real ones", ("volume", "position"), pooled, advice)


def images(pooled: Mapping[int, Judgement]) -> Check:
    """P7-IMAGES: images are as varied as real ones, and like them in features."""
    advice = "figures/pairs.png shows them. The base and its VAE bound what an adapter can draw."
    return alike("P7-IMAGES", "Images are like real ones, and as varied", ("likeness", "features"), pooled, advice)


def half(copies: int, drawn: int) -> Check:
    """P7-HALF: of mode=utility: what stands for half of the patients shows nobody of the other half.

    Args:
        copies: Training patients outside a half whom pairs copy that were drawn for it.
        drawn: Such pairs, in all.
    """
    return Check(
        "P7-HALF",
        "Synthetic pairs come of half of the patients alone",
        Severity.BLOCKING,
        passed=copies == 0,
        threshold="none copies a training patient outside the half",
        measured={"copied": copies, "drawn": drawn},
        advice="The base has seen these patients: give one that has not, or leave them out with data.exclude.",
    )


def learned(dice: Mapping[str, Interval]) -> Check:
    """P7-LEARNED: of mode=utility: some segmenter segments, or its gains say nothing.

    Args:
        dice: Mean Dice on test cases, by what it was trained on.
    """
    best = max(one.estimate for one in dice.values())
    return Check(
        "P7-LEARNED",
        "A segmenter segments",
        Severity.DIAGNOSTIC,
        passed=best >= LEARNED,
        threshold=f"the best mean Dice is at least {LEARNED:g}",
        measured={name: one.estimate for name, one in dice.items()},
        advice="More utility.steps, or another utility.lr.",
    )
