"""Generators that do one thing wrong are found to, in that thing; fresh real pairs are found to do nothing wrong."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from scipy.ndimage import binary_dilation, gaussian_filter

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.evaluation import synthesis
from medexp.evaluation.synthesis import (
    Judgement,
    Pairs,
    centroids,
    contrast,
    contrasts,
    dice,
    judge,
    mean_dice,
    memorised,
    shuffled,
    similarity,
    volumes,
)
from tests.evaluation.heads import drawn, heads

RESAMPLING = Resampling(samples=400, confidence=0.95, seed=0)
TRAIN, HELD = heads(32, 1, "train"), heads(24, 2, "held")
FRESH = drawn(40, 3)


def maps(images: Array) -> Array:
    return images[:, None]


def judged(generated: Pairs, train: Pairs = TRAIN, held: Pairs = HELD) -> Judgement:
    return judge(generated, train, held, spacing=(3, 3, 3), encode=maps, resampling=RESAMPLING)


def unlike(judgement: Judgement) -> set[str]:
    return {one.name for one in judgement.statements if one.found == "unlike"}


def with_masks(masks: Array) -> Pairs:
    return Pairs.generated(FRESH.images, masks.astype(bool))


def with_images(images: Array) -> Pairs:
    return Pairs.generated(images.astype(np.float32).clip(0, 1), FRESH.masks)


@pytest.fixture(scope="module")
def fresh() -> Judgement:
    return judged(FRESH)


def test_fresh_real_pairs_pass_all_and_a_null_is_said_as_one(fresh: Judgement) -> None:
    assert unlike(fresh) == set() and all(one.found == "alike" for one in fresh.statements)
    assert len(fresh.statements) == synthesis.STATEMENTS and fresh.each == pytest.approx(1 - 0.05 / 9)
    assert "no difference from real ones could be measured" in fresh.of("contrast").told
    assert "would have been seen with 80 %" in fresh.of("contrast").told, "and what the test could have seen"
    assert "above" in fresh.of("position").told and "it would be one" in fresh.of("position").told
    assert fresh.of("contrast").generated.patients == len(FRESH.images), "an interval counts those that it is of"
    assert "Medians in ml: " in fresh.of("volume").told
    assert fresh.of("coupling").share == pytest.approx(1, abs=0.1)
    assert "all 9 hold at once with 95%" in fresh.words[-1] and len(fresh.rows) == 9


def test_of_few_no_interval_leaves_the_range_of_its_figure() -> None:
    masks = FRESH.masks[:6].copy()
    masks[::2] = False
    found = judged(Pairs.generated(FRESH.images[:6], masks))
    volume, overlap = found.of("volume").generated, found.of("dice").generated
    assert 0 <= volume.low < volume.estimate < volume.high and 0 <= overlap.low < overlap.high <= 1


FAULTS: dict[str, tuple[Callable[[], Pairs], set[str], set[str]]] = {
    # what is done, what must be found, and what may not be
    "masks of other samples": (lambda: with_masks(np.roll(FRESH.masks, 1, 0)), {"contrast", "coupling"}, {"volume", "memory"}),
    "empty masks": (
        lambda: with_masks(FRESH.masks * (np.arange(40) % 3 > 0)[:, None, None, None]),
        {"filled", "coupling"},
        {"features", "memory", "position"},
    ),
    "masks far too large": (
        lambda: with_masks([binary_dilation(one) for one in FRESH.masks] * np.ones(1)),
        {"volume"},
        {"features"},
    ),
    "lesions elsewhere": (
        lambda: Pairs.generated(np.roll(FRESH.images, 3, 1), np.roll(FRESH.masks, 3, 1)),
        {"position"},
        {"contrast", "coupling", "volume", "memory"},
    ),
    "lesions without contrast": (lambda: with_images(FRESH.images - 0.25 * FRESH.masks), {"contrast", "coupling"}, {"volume"}),
    "lesions painted far too bright": (
        lambda: with_images(FRESH.images + 0.2 * FRESH.masks),
        {"contrast"},
        {"volume", "filled"},
    ),
    "blurred images": (
        lambda: with_images(np.stack([gaussian_filter(one, 1) for one in FRESH.images])),
        {"features", "likeness"},
        {"volume", "position", "filled"},
    ),
    "one sample for ever": (
        lambda: Pairs.generated(np.repeat(FRESH.images[:1], 40, 0), np.repeat(FRESH.masks[:1], 40, 0)),
        {"likeness", "features", "position", "coupling"},
        {"filled"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_found_and_what_is_not_is_not(fault: str) -> None:
    make, wrong, right = FAULTS[fault]
    found = judged(make())
    assert wrong <= unlike(found) and not right & unlike(found)
    first = found.words[: len(unlike(found))]
    assert all(found.of(name).told in first for name in wrong), "differences are said first"


def test_masks_that_fit_any_image_are_said_to(fresh: Judgement) -> None:
    told = judged(with_masks(np.roll(FRESH.masks, 1, 0))).of("coupling")
    assert "Masks of other samples fit them as well as their own" in told.told and not told.generated.above
    assert "Masks of other samples" not in fresh.of("coupling").told and fresh.of("coupling").generated.above


def test_contrast_has_a_reference_and_more_is_not_better() -> None:
    told = judged(with_images(FRESH.images + 0.2 * FRESH.masks)).of("contrast").told
    assert told.startswith("The contrast of generated lesions: above that of real ones")


def test_an_empty_mask_counts_as_no_contrast() -> None:
    found = judged(with_masks(FRESH.masks * (np.arange(40) < 15)[:, None, None, None]))
    assert found.of("contrast").generated.estimate == 0 and found.of("contrast").found == "unlike"
    assert found.table["contrast"].isna().sum() == 25
    nothing = judged(with_masks(FRESH.masks & False))
    assert nothing.of("filled").generated.estimate == 0 and nothing.of("position").found == "few"
    assert {"filled", "contrast", "coupling", "volume", "dice"} <= unlike(nothing)


def noisy(images: Array) -> Array:
    return (images + np.random.default_rng(0).normal(0, 0.05, images.shape)).clip(0, 1)


@pytest.mark.parametrize(
    "change",
    [
        noisy,
        lambda images: np.roll(images, (1, -1, 2), (1, 2, 3)),
        lambda images: images[:, ::-1],
        lambda images: 0.8 * images,
        lambda images: np.stack([gaussian_filter(one, 0.6) for one in images]),
    ],
    ids=["noise", "shift", "flip", "dimmed", "blur"],
)
def test_copies_of_training_patients_are_found_whatever_was_done_to_them(change: Callable[[Array], Array]) -> None:
    few = FRESH.images.copy()
    few[5:8] = change(TRAIN.images)[10:13]
    found = memorised(with_images(few), TRAIN, HELD)
    assert found.copies == (5, 6, 7) and [found.nearest[index] for index in found.copies] == list(TRAIN.patients[10:13])
    every = memorised(Pairs.generated(change(TRAIN.images), TRAIN.masks), TRAIN, HELD)
    assert every.share.estimate == 1 and every.p < 0.001 and len(every.copies) >= 28


def test_a_memoriser_is_told_and_fresh_pairs_are_none(fresh: Judgement) -> None:
    copies = judged(Pairs.generated(noisy(TRAIN.images).astype(np.float32), TRAIN.masks)).of("memory")
    assert copies.found == "unlike" and "32 of 32 generated images are copies of training patients" in copies.told
    memory = fresh.memory
    assert memory.copies == () and memory.p > 0.01 and fresh.of("memory").found == "alike"
    assert memory.expected == pytest.approx(32 / 56)
    assert memory.share.low < memory.expected < memory.share.high and memory.real.low < memory.expected < memory.real.high


def test_a_patient_under_two_names_hides_no_copy() -> None:
    few, images = FRESH.images.copy(), TRAIN.images.copy()
    few[:2], images[0] = noisy(TRAIN.images)[10:12], HELD.images[0]
    assert memorised(with_images(few), Pairs(images, TRAIN.masks, TRAIN.patients), HELD).copies == (0, 1)


def test_samples_that_lean_towards_training_patients_are_found_without_a_copy() -> None:
    leaning = with_images(0.42 * FRESH.images[:32] + 0.58 * TRAIN.images)
    found = memorised(leaning, TRAIN, HELD)
    assert found.p < 0.005 and found.share.low > found.expected


def test_several_scans_of_a_patient_are_one(fresh: Judgement) -> None:
    twice = Pairs(*(np.repeat(part, 3, 0) for part in (TRAIN.images, TRAIN.masks)), list(np.repeat(TRAIN.patients, 3)))
    again = judged(FRESH, train=twice)
    assert again.words == fresh.words
    assert again.memory.usual == pytest.approx(fresh.memory.usual), "scans of one patient are no two patients"


def test_of_few_patients_nothing_is_told() -> None:
    few = judged(drawn(3, 3), heads(3, 1, "train"), heads(2, 2, "held"))
    assert {one.found for one in few.statements if one.name != "filled"} == {"few"}
    assert few.of("contrast").gap.low != few.of("contrast").gap.low and "too few" in few.of("contrast").told


def test_the_ceiling_is_that_of_real_pairs_through_the_vae() -> None:
    dim = Pairs((TRAIN.images - 0.1 * TRAIN.masks).clip(0, 1), TRAIN.masks, TRAIN.patients)
    given = judge(FRESH, TRAIN, HELD, spacing=(3, 3, 3), encode=maps, resampling=RESAMPLING, ceiling=dim)
    within = given.ceiling["contrast"]
    assert within.estimate == pytest.approx(np.median(contrast(dim.images, dim.masks)), abs=1e-9)
    assert within.low < within.estimate < within.high < given.of("contrast").real.estimate


def test_figures_are_what_they_say() -> None:
    image, mask = np.full((8, 8, 8), 0.4), np.zeros((8, 8, 8), bool)
    mask[3:5, 3:5, 3:5] = True
    image[mask], image[:, :, 5:] = 0.7, 0.02  # air on one side, which is no brain and no part of the ring
    assert contrast(image[None], mask[None])[0] == pytest.approx(0.3)
    assert math.isnan(contrast(image[None], mask[None] & False)[0]) and math.isnan(contrast(image[None] * 0, mask[None])[0])
    assert volumes(mask[None], 0.027)[0] == pytest.approx(8 * 0.027)
    assert centroids(mask[None], (1, 2, 3))[0] == pytest.approx([3.5, 7, 10.5])
    other = np.roll(mask, 1, 0)
    assert dice(mask[None], np.stack([mask, other, mask & False])).tolist() == [[1, 0.5, 0]]
    assert mean_dice(mask[None], np.stack([mask, other])) == 0.75
    pair = contrasts(TRAIN.images[:4], TRAIN.masks[:4])
    assert contrast(TRAIN.images[:4], TRAIN.masks[:4]) == pytest.approx(np.diag(pair))
    assert shuffled(TRAIN.images[:4], TRAIN.masks[:4])[0] == pytest.approx(pair[0, 1:].mean())
    assert shuffled(TRAIN.images[:4], TRAIN.masks[:4], ["a", "a", "b", "c"])[0] == pytest.approx(pair[0, 2:].mean())


def test_likeness_is_monais_ssim() -> None:
    images = torch.from_numpy(TRAIN.images[:2])
    each = [float(SSIMMetric(2)(*(one.select(axis, 10)[None, None] for one in images))) for axis in range(3)]
    assert similarity(TRAIN.images[:2]) == pytest.approx(np.array([[1, np.mean(each)], [np.mean(each), 1]]), abs=1e-5)
