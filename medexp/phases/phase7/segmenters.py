"""What a segmenter gains from synthetic pairs, tested on real patients that nobody trained on.

A segmenter is trained on half of the real training patients, on as many synthetic pairs, on both together, and on twice the
real pairs, which says what synthetic ones could at best be worth. What draws the synthetic pairs is trained on that same half
and on nothing else. Each seed takes another half, another generator and other first weights: intervals hold what other test
patients would change and what another seed would. All segmenters take the same number of steps: in as many passes one with
more pairs would be trained for longer, and be better for that. The last step's weights are tested; none are chosen.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from monai.metrics import compute_dice
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.utils.data import Dataset

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.config.training import TrainingConfig
from medexp.errors import DataError
from medexp.evaluation.batches import demand_finite
from medexp.evaluation.intervals import GAIN, NOISE, UNIT, Interval, Scatter, band_by_patient
from medexp.evaluation.synthesis import Masks, Pairs, memorised
from medexp.phases.phase7.checks import LEARNED
from medexp.phases.phase7.config import UtilityConfig
from medexp.reporting import Reporter
from medexp.training.loop import Group, Objective, Order, fit
from medexp.training.losses import segmentation_loss
from medexp.words import some

Draw = Callable[[Sequence[str], int, int], tuple[Array, Masks]]
"""From the cases that a generator may be trained on, a number of pairs and a seed to that many images, in [0, 1], and masks
(N, X, Y, Z)."""

REAL, SYNTHETIC, BOTH, TWICE = "real", "synthetic", "both", "twice"
PARTS = 5
"""Into so many parts a training's steps are divided: its learning rate rises in the first."""
_BRIGHTNESS = 0.1
Relation = Literal["better", "worse", "open", "few", "alike"]


@dataclass(frozen=True)
class Arm:
    """What a segmenter is trained on.

    Attributes:
        name: In tables.
        called: In words.
        real: Of the real training patients none, half or all.
        synthetic: Synthetic pairs, as a multiple of the real ones of a half.
    """

    name: str
    called: str
    real: Literal["none", "half", "all"]
    synthetic: float


def arms(synthetic: float) -> tuple[Arm, ...]:
    """All of them: with as many synthetic pairs as real ones and, where another multiple is asked for, with that many too."""
    found = [Arm(REAL, "real pairs", "half", 0)]
    for times in sorted({1.0, synthetic}):
        name, called = ("", "") if times == 1 else (f"_x{times:g}", f", {times:g} times as many")
        found.append(Arm(f"{SYNTHETIC}{name}", f"synthetic pairs{called}", "none", times))
        found.append(Arm(f"{BOTH}{name}", f"real and synthetic pairs{called}", "half", times))
    return (*found, Arm(TWICE, "twice the real pairs", "all", 0))


@dataclass(frozen=True)
class Gain:
    """How much better a segmenter is for what it was trained on.

    Attributes:
        one: What it was trained on.
        other: What it is held against.
        gain: Mean Dice of the first minus that of the second, paired by test case; the intervals of all gains hold at once.
        seeds_sd: SD of the gain from seed to seed; NaN of one seed.
        confidence: Coverage of that interval alone.
    """

    one: Arm
    other: Arm
    gain: Interval
    seeds_sd: float
    confidence: float

    @property
    def relation(self) -> Relation:
        """better or worse: the interval excludes 0; open: it does not; few: there is none; alike: there is no difference."""
        if self.gain.none:
            return "alike"
        if self.gain.above or self.gain.below:
            return "better" if self.gain.above else "worse"
        return "few" if math.isnan(self.gain.low) else "open"

    @property
    def told(self) -> str:
        """What it says, in a sentence: a null as one, with what would have been seen."""
        one, other, figures = self.one.called, self.other.called, self.gain.as_gain
        starts: Mapping[Relation, str] = {
            "better": f"The segmenter is better with {one} than with {other}: {figures}",
            "worse": f"The segmenter is worse with {one} than with {other}: {figures}",
            "alike": f"The segmenter is the same with {one} as with {other}",
            "few": f"Too few test patients to tell {one} from {other} ({figures})",
            "open": f"No difference between {one} and {other} could be measured: {figures}",
        }
        least = self.gain.seen_in_words(self.confidence, "seeds and test patients") if self.relation == "open" else ""
        below = self.relation in ("better", "worse", "open") and NOISE <= abs(self.gain.estimate) < self.seeds_sd
        return starts[self.relation] + least + (f"; another seed changes it by SD {self.seeds_sd:.2g}" if below else "") + "."


@dataclass(frozen=True)
class Utility:
    """What synthetic pairs are worth to a segmenter.

    Attributes:
        arms: What segmenters were trained on.
        per_case: A row an arm, seed and test case: arm, seed, case, patient, dice, predicted_ml.
        scores: Mean Dice of each arm by name, over cases and seeds.
        gains: Of each pair of arms.
        halves: By seed the cases that its generator was given, and the segmenters of the half.
        counts: By arm its pairs, real and synthetic, in the first seed.
        empty: Synthetic pairs without a lesion, of all that were drawn.
        copies: Training patients outside the half whom synthetic pairs copy; there should be none.
        confidence: Of all gains at once.
    """

    arms: tuple[Arm, ...]
    per_case: pd.DataFrame
    scores: Mapping[str, Interval]
    gains: tuple[Gain, ...]
    halves: Mapping[int, Sequence[str]]
    counts: Mapping[str, tuple[int, int]]
    empty: tuple[int, int]
    copies: tuple[str, ...]
    confidence: float

    def of(self, one: str, other: str) -> Gain:
        """The gain of one arm over another, by name, in the order in which `gains` has them."""
        return next(gain for gain in self.gains if (gain.one.name, gain.other.name) == (one, other))

    @cached_property
    def first(self) -> list[str]:
        """What a reader must know before any figure."""
        told = []
        if self.copies:
            seen = (
                f"Synthetic pairs copy {len(self.copies)} training patients outside the half that they were to be drawn from"
            )
            told.append(f"{seen}: {some(self.copies, 3)}. Its base, or its adapter, has seen them: the gains are not its own.")
        best = max(self.scores.values(), key=lambda one: one.estimate)
        if not best.estimate >= LEARNED:
            told.append(
                f"No segmenter learned to segment, the best has a mean Dice of {best.in_a_cell(3)}: gains say nothing."
            )
        return told

    @property
    def answer(self) -> str:
        """Whether synthetic pairs beside the real ones are of use, and whether this test could have seen it."""
        use, more = self.of(BOTH, REAL), self.of(TWICE, REAL)
        starts: Mapping[Relation, str] = {
            "better": "Synthetic pairs beside the real ones make the segmenter better",
            "worse": "Synthetic pairs beside the real ones make the segmenter worse",
            "alike": "Synthetic pairs beside the real ones change nothing",
            "few": "Whether synthetic pairs are of use cannot be told from so few test patients",
            "open": "No use of synthetic pairs beside the real ones could be measured",
        }
        told = f"{starts[use.relation]}: {use.gain.as_gain} in Dice"
        if use.relation in ("open", "alike"):
            brings = f"twice the real pairs bring {more.gain.as_gain}"
            end = "which the test did see" if more.relation == "better" else "which it could not see either: it says little"
            told += f"; {brings}, {end}"
        return f"{told}."

    @property
    def words(self) -> list[str]:
        """All that the figures say."""
        seeds = len(self.halves)
        told = [self.answer, *(gain.told for gain in self.gains)]
        if seeds == 1:
            told.append("Of each there is one seed: what another half, generator or training would change is in no interval.")
        if self.empty[0]:
            told.append(f"{self.empty[0]} of {self.empty[1]} synthetic pairs have no lesion; they are trained on as they are.")
        alone = f"Each interval of a gain is one of {self.gains[0].confidence:.1%}"
        return [*told, f"{alone}, so that all {len(self.gains)} hold at once with {self.confidence:.0%}."]

    @property
    def rows(self) -> list[list[str]]:
        """A row an arm: what it was trained on, its pairs, its mean Dice, and the gain over real pairs."""
        over = {gain.one.name: gain.gain.as_gain for gain in self.gains if gain.other.name == REAL}
        return [
            [arm.called, " + ".join(str(count) for count in self.counts[arm.name] if count)]
            + [self.scores[arm.name].in_a_cell(3), over.get(arm.name, "")]
            for arm in self.arms
        ]

    @property
    def table(self) -> pd.DataFrame:
        """A row a gain: one, other, gain, low, high, confidence, seeds_sd, relation and what it says."""
        columns = ["one", "other", "gain", "low", "high", "confidence", "seeds_sd", "relation", "told"]
        rows = [
            (one.one.name, one.other.name, one.gain.estimate, one.gain.low, one.gain.high)
            + (one.confidence, one.seeds_sd, one.relation, one.told)
            for one in self.gains
        ]
        return pd.DataFrame(rows, columns=columns)


def half_of(cases: Sequence[str], patients: Sequence[str], seed: int) -> list[str]:
    """The cases of half of the patients.

    Raises:
        DataError: There is one patient.
    """
    names = sorted({*patients})
    if len(names) < 2:
        raise DataError(f"mode=utility: found {len(names)} real training patient; half of them are needed. Give more pairs")
    chosen = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2].tolist())
    return [case for case, patient in zip(cases, patients, strict=True) if patient in chosen]


def measure(
    train: Pairs,
    cases: Sequence[str],
    test: Pairs,
    test_cases: Sequence[str],
    draw: Draw,
    config: UtilityConfig,
    *,
    voxel_ml: float,
    resampling: Resampling,
    seed: int,
    accelerator: Accelerator,
    reporter: Reporter,
    folder: Path,
) -> Utility:
    """Segmenters trained on real pairs, synthetic ones, both, and twice the real ones, on the same real test cases.

    Args:
        train: Real training pairs, no synthetic ones.
        cases: Their ids.
        test: Real pairs of other patients, each with a lesion.
        test_cases: Their ids.
        draw: Trains a generator on the cases that it is given, and on nothing else, and draws from it. It is called once a
            seed.
        config: How segmenters are trained.
        voxel_ml: Volume of a voxel.
        resampling: How resamples are drawn, and the coverage of all gains at once.
        seed: Of the first training; the others' follow.
        accelerator: Device and processes.
        reporter: Takes the losses, `<arm>/seed<seed>/train/...`.
        folder: Gets the state of each training, from which it goes on.

    Raises:
        DataError: There is one training patient, a test patient was trained on, or a test case has no lesion.
        TrainingDiverged: As of `medexp.training.loop.fit`.
    """
    if both := sorted({*train.patients} & {*test.patients}):
        raise DataError(f"mode=utility: {len(both)} patients are trained on and tested: {some(both)}. Correct the splits")
    if lacking := [case for case, mask in zip(test_cases, test.masks, strict=True) if not mask.any()]:
        raise DataError(
            f"mode=utility: {len(lacking)} test cases have no lesion: {some(lacking)}. Leave them out: data.exclude"
        )
    every, rows, copies = arms(config.synthetic), [], list[str]()
    halves: dict[int, Sequence[str]] = {}
    counts: dict[str, tuple[int, int]] = {}
    empty = 0
    for number in range(seed, seed + config.seeds):
        halves[number] = half_of(cases, train.patients, number)
        mine = np.isin(np.asarray(cases), halves[number])
        half, others = _part(train, mine), _part(train, ~mine)
        most = max(1, round(max(arm.synthetic for arm in every) * len(half.images)))
        images, masks = draw(halves[number], most, number)
        synthetic = Pairs.generated(images, masks)
        empty += int((~masks.any(axis=(1, 2, 3))).sum())
        seen = memorised(synthetic, others, half)
        copies += [seen.nearest[index] for index in seen.copies]
        for arm in every:
            drawn = _part(synthetic, np.arange(most) < round(arm.synthetic * len(half.images)))
            real = {"none": _part(train, mine & False), "half": half, "all": train}[arm.real]
            counts.setdefault(arm.name, (len(real.images), len(drawn.images)))
            place = folder / arm.name / f"seed{number}"
            net = _trained(real.and_(drawn), config, number, accelerator, reporter, place, f"{arm.name}, seed {number}")
            known = {"arm": arm.name, "seed": number}
            rows += [known | row for row in _scores(net, test, test_cases, voxel_ml, config.batch_size, accelerator.device)]
    per_case = pd.DataFrame(rows)
    scores, gains = compare_arms(every, per_case, resampling)
    drawn_pairs = (empty, sum(round(max(arm.synthetic for arm in every) * len(half)) for half in halves.values()))
    named = tuple(dict.fromkeys(copies))
    return Utility(every, per_case, scores, gains, halves, counts, drawn_pairs, named, resampling.confidence)


def compare_arms(
    every: Sequence[Arm], per_case: pd.DataFrame, resampling: Resampling
) -> tuple[dict[str, Interval], tuple[Gain, ...]]:
    """Mean Dice of each arm, and all gains at once.

    Args:
        every: The arms.
        per_case: As `Utility` has it; each arm has the same seeds and cases.
        resampling: How resamples are drawn, and the coverage.
    """
    dice = per_case.pivot_table("dice", ["seed", "arm"], "case", observed=True)
    patients = per_case.drop_duplicates("case").set_index("case").loc[dice.columns, "patient"].tolist()
    values = np.stack([dice.xs(arm.name, level="arm").sort_index().to_numpy() for arm in every])  # arms, seeds, cases
    places = list(itertools.combinations(range(len(every)), 2))
    first, second = np.array(places).T[::-1]  # the later arm over the earlier: both over real, twice over all

    def means(weights: Array) -> Array:
        return weights @ values.mean(axis=1).T / weights.sum(axis=1, keepdims=True)

    def differences(weights: Array) -> Array:
        found = means(weights)
        return found[:, first] - found[:, second]

    by_seed = values.mean(axis=2)  # arms, seeds
    seeds = by_seed.shape[1]

    def scatter(of: Array) -> tuple[Array, Scatter]:
        deviation = of.std(axis=1, ddof=1) if seeds > 1 else np.full(len(of), math.nan)
        return deviation, Scatter(np.nan_to_num(deviation) / math.sqrt(seeds), np.full(len(of), max(seeds - 1, 1)))

    deviation, beyond = scatter(by_seed[first] - by_seed[second])
    band = band_by_patient(differences, patients, resampling, within=GAIN, at_once=True, beyond=beyond)
    alone = band_by_patient(means, patients, resampling, within=UNIT, beyond=scatter(by_seed)[1])
    gains = tuple(
        Gain(every[one], every[other], band.at(index), float(deviation[index]), band.confidence)
        for index, (one, other) in enumerate(zip(first, second, strict=True))
    )
    return {arm.name: alone.at(index) for index, arm in enumerate(every)}, gains


class _Augmented(Dataset[dict[str, Tensor]]):
    """Pairs, mirrored in half of the cases and with another brightness, by (seed, epoch, index, repeat)."""

    def __init__(self, pairs: Pairs, seed: int) -> None:
        self._pairs, self._seed = pairs, seed

    def __len__(self) -> int:
        return len(self._pairs.images)

    def __getitem__(self, key: Any) -> dict[str, Tensor]:
        epoch, index, repeat = key
        rng = np.random.default_rng([self._seed, epoch, index, repeat])
        image = self._pairs.images[index] * np.float32(rng.uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS))
        mask = self._pairs.masks[index].astype(np.float32)
        if rng.random() < 0.5:
            image, mask = image[::-1], mask[::-1]
        return {"image": torch.tensor(image[None].copy()), "mask": torch.tensor(mask[None].copy())}


def _trained(
    pairs: Pairs,
    config: UtilityConfig,
    seed: int,
    accelerator: Accelerator,
    reporter: Reporter,
    folder: Path,
    title: str,
) -> nn.Module:
    """A segmenter (B, 1, X, Y, Z) -> logits of the same shape, in eval mode."""
    torch.manual_seed(seed)  # the arms of a seed start from the same weights
    channels = list(config.channels)
    net = UNet(3, 1, 1, channels, [2] * (len(channels) - 1), num_res_units=0, norm=("instance", {"affine": True})).to(
        accelerator.device
    )

    def loss(module: nn.Module, batch: Mapping[str, Any], _: int) -> dict[str, Tensor]:
        found = segmentation_loss(module(batch["image"]), batch["mask"], "dice_bce")
        return {"loss": found.pop("segmentation"), **found}

    training = TrainingConfig(
        epochs=PARTS,
        optimizer="adamw",
        weight_decay=1e-4,
        batch_size=config.batch_size,
        accumulate=1,
        scheduler="cosine",
        warmup_epochs=1,
        grad_clip=1.0,
        precision="fp32",
        validate_every=PARTS,
        patience=0,
        workers=0,
    )
    fit(
        net,
        [Group("segmenter", config.lr, list(net.parameters()), key="utility.lr")],
        _Augmented(pairs, seed),
        Objective(loss, lambda *_: {}, "dice"),
        training,
        seed=seed,
        accelerator=accelerator,
        reporter=reporter,
        folder=folder,
        title=title,
        prefix=f"{title.replace(', seed ', '/seed')}/",
        order=_endless(len(pairs.images), max(1, round(config.steps / PARTS)) * config.batch_size, seed),
        until=PARTS,  # all of them: nothing is validated, as nothing is chosen
        quiet=True,
    )
    return net


def _endless(size: int, count: int, seed: int) -> Order:
    """So many items an epoch, of one random order after the other."""

    def order(epoch: int) -> Any:
        places = np.arange(epoch * count, (epoch + 1) * count)
        rounds = range(int(places[0]) // size, int(places[-1]) // size + 1)
        orders = np.concatenate([np.random.default_rng([seed, number]).permutation(size) for number in rounds])
        return orders[places - rounds[0] * size]

    return order


@torch.no_grad()
def _scores(
    net: nn.Module, test: Pairs, cases: Sequence[str], voxel_ml: float, batch_size: int, device: torch.device
) -> list[dict[str, Any]]:
    """case, patient, dice (0 where nothing of a lesion is found) and predicted_ml of each test case."""
    rows = []
    for start in range(0, len(cases), batch_size):
        part = slice(start, start + batch_size)
        logits = net(torch.tensor(test.images[part], dtype=torch.float32, device=device)[:, None])
        demand_finite(logits, cases[part])
        predicted, truth = logits > 0, torch.tensor(test.masks[part], device=device)[:, None]
        dice = compute_dice(predicted.float(), truth.float())[:, 0].tolist()
        volume = (predicted.flatten(1).sum(1) * voxel_ml).tolist()
        named = zip(cases[part], test.patients[part], dice, volume, strict=True)
        rows += [{"case": case, "patient": owner, "dice": one, "predicted_ml": ml} for case, owner, one, ml in named]
    return rows


def _part(pairs: Pairs, chosen: Any) -> Pairs:
    patients = [patient for patient, taken in zip(pairs.patients, chosen, strict=True) if taken]
    return Pairs(pairs.images[chosen], pairs.masks[chosen], patients)
