"""Generated pairs of an image and its lesion mask, judged beside real ones.

Each figure of generated pairs stands beside the same figure of real ones, which is what they are to be like: a lesion that is
brighter than real ones is no better for it. Generated pairs are independent, given what draws them; of real ones it is
patients that are, and of a patient with several scans the first counts, as a patient whom a generator draws has one.

Medians, and means over samples or over pairs of samples, are told apart by intervals of their differences
(`medexp.evaluation.intervals`). Distances between distributions have none that would hold where there is no distance, for
their statistic degenerates there: a permutation test is exact (Gretton et al., "A kernel two-sample test", 2012). All
statements of a judgement hold at once with the coverage that was asked for (Bonferroni): fresh real pairs in the place of
generated ones pass all of them that often (`python -m benchmarks.synthesis`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
import torch
from monai.metrics.regression import compute_ssim_and_cs
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, center_of_mass, laplace, shift
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.evaluation.intervals import MIN_OF_A_CLASS, NOISE, UNBOUNDED, UNIT, Interval, Range, by_patient
from medexp.evaluation.proportions import proportion
from medexp.words import some

Masks = NDArray[np.bool_]
Encode = Callable[[Array], Array]
"""From images (N, X, Y, Z) in [0, 1] to maps of features (N, C, x, y, z), such as a VAE's latents."""

BRAIN = 0.1
"""Brain is what is brighter than this, of images in [0, 1]: what a VAE decodes as background is not exactly 0."""
FILLED = 0.95
"""Share of masks that hold a lesion below which a generator is said to leave masks empty: of real ones all do."""
PERMUTATIONS = 2000
COPY, USUAL = 0.4, 0.1
"""A sample is a copy that is nearer to a training patient than COPY times what all but the share USUAL of real patients are to
their nearest other one. Of 750 sets of fresh heads, drawn in two ways, none held such a sample; copies with noise, a shift, a
flip or a slight blur were found nearly always."""
_GRID, _PLANE, _PAIRED = 16, 4, 40  # voxels an edge of what copies are looked for in; of a slice's features; images in SSIM

Found = Literal["alike", "unlike", "few"]
Statistic = Callable[[Array, Array], Array]
"""From how often each row was drawn of those that a figure is of, and of the real ones, (S, N) both, to figures (S,)."""
GENERATED, TRAIN, HELD = range(3)
STATEMENTS = 9


@dataclass(frozen=True)
class Pairs:
    """Images with their lesion masks.

    Attributes:
        images: float32 (N, X, Y, Z) in [0, 1], 0 outside the head.
        masks: bool (N, X, Y, Z).
        patients: Patient of each (N,); of generated ones a name each.
    """

    images: Array
    masks: Masks
    patients: Sequence[str]

    @classmethod
    def generated(cls, images: Array, masks: Masks) -> "Pairs":
        """Of which each is a patient of its own."""
        return cls(images, masks, [f"generated {index}" for index in range(len(images))])

    @property
    def of_each_patient(self) -> "Pairs":
        """The first scan of each patient."""
        first = np.sort(np.unique(np.asarray(self.patients), return_index=True)[1])
        return Pairs(self.images[first], self.masks[first], [self.patients[index] for index in first])

    def and_(self, others: "Pairs") -> "Pairs":
        """Both, one after the other."""
        images, masks = np.concatenate([self.images, others.images]), np.concatenate([self.masks, others.masks])
        return Pairs(images, masks, [*self.patients, *others.patients])


@dataclass(frozen=True)
class Statement:
    """One thing that generated pairs are held against real ones in.

    Attributes:
        name: In metrics and by `Judgement.of`.
        called: In tables, with its unit.
        generated: Of the generated pairs; without bounds where the figure is a distance from real ones.
        real: The same of real pairs, or the distance of held-out from training patients.
        gap: Generated minus real, at once with the other statements; without bounds where `p` decides.
        p: How probable so large a distance is if generated pairs are drawn as real ones are; NaN where `gap` decides.
        found: "alike": no difference was seen; "unlike": there is one; "few": there are too few to tell.
        told: What it comes to, in a sentence, a null as one.
    """

    name: str
    called: str
    generated: Interval
    real: Interval
    gap: Interval
    p: float
    found: Found
    told: str

    @property
    def share(self) -> float:
        """The generated figure as a share of the real one; NaN where that is not above 0."""
        return self.generated.estimate / self.real.estimate if self.real.estimate > 0 else math.nan


@dataclass(frozen=True)
class Memory:
    """How generated pairs lie to those that were trained on, and to those that were not.

    Attributes:
        share: How many are nearest to a training patient, among all real ones.
        expected: The share of training patients among these: what fresh ones come to.
        real: The same of held-out patients, the patient left out.
        p: How probable so large a share is if training has nothing to do with it: permutations of who was trained on.
        least_p: The least that this can be with so many patients.
        nearest: The nearest training patient of each sample.
        distances: To it (N,): 0 is a copy, 1 is what has nothing in common beyond what all have.
        usual: What all but a few real patients are at least from their nearest other one.
        copies: Samples that are much nearer to a training patient than that.
    """

    share: Interval
    expected: float
    real: Interval
    p: float
    least_p: float
    nearest: Sequence[str]
    distances: Array
    usual: float
    copies: tuple[int, ...]


@dataclass(frozen=True)
class Judgement:
    """Generated pairs beside real ones.

    Attributes:
        statements: All of them.
        memory: What the last of them rests on.
        ceiling: Contrast and coupling of real pairs through the VAE, which no sample can be expected to exceed; empty where
            they were not given.
        table: A row a sample: sample, contrast (NaN of an empty mask), shuffled, ml, x, y, z (centre of the mask, mm from the
            volume's first voxel), nearest (training patient), distance, copy.
        confidence: Of all statements at once.
        each: Of each alone.
    """

    statements: tuple[Statement, ...]
    memory: Memory
    ceiling: dict[str, Interval]
    table: pd.DataFrame
    confidence: float
    each: float

    def of(self, name: str) -> Statement:
        """A statement by its name."""
        return next(one for one in self.statements if one.name == name)

    @property
    def words(self) -> list[str]:
        """All that it says, the differences first."""
        unlike = [one.told for one in self.statements if one.found == "unlike"]
        others = [one.told for one in self.statements if one.found != "unlike"]
        count = len(self.statements)
        return [
            *unlike,
            *others,
            f"Each is held to {self.each:.1%}, so that all {count} hold at once with {self.confidence:.0%}.",
        ]

    @property
    def rows(self) -> list[list[str]]:
        """A row a statement: what, generated, real, difference or p, found."""
        return [
            [one.called, one.generated.in_a_cell(3), one.real.in_a_cell(3), _decided(one), one.found]
            for one in self.statements
        ]


def contrasts(images: Array, masks: Masks, ring: int = 2) -> Array:
    """Contrast of each mask in each image: the mean inside it minus the mean of the brain in a ring around it.

    Args:
        images: (N, X, Y, Z) in [0, 1].
        masks: (M, X, Y, Z).
        ring: Width of the ring in voxels, without diagonals.

    Returns:
        (N, M); NaN where the mask is empty, or there is no brain around it.
    """
    grown = [binary_dilation(mask, iterations=ring) & ~mask if mask.any() else mask for mask in masks]
    inside = csr_array(masks.reshape(len(masks), -1).astype(np.float64))
    around = csr_array(np.reshape(grown, (len(masks), -1)).astype(np.float64))
    size = np.asarray(inside.sum(axis=1)).ravel()
    found = np.empty((len(images), len(masks)))
    with np.errstate(invalid="ignore"):
        for row, image in zip(found, images, strict=True):
            flat = image.ravel().astype(np.float64)
            brain = flat > BRAIN
            row[:] = inside @ flat / size - around @ (flat * brain) / (around @ brain)
    return found


def contrast(images: Array, masks: Masks, ring: int = 2) -> Array:
    """Contrast (N,) of each image's own mask, as `contrasts` has it."""
    found = [contrasts(image[None], mask[None], ring)[0, 0] for image, mask in zip(images, masks, strict=True)]
    return np.array(found, np.float64)


def shuffled(images: Array, masks: Masks, patients: Sequence[str] | None = None, ring: int = 2) -> Array:
    """The control of `contrast`: the mean contrast (N,) of all other patients' masks in each image, an empty one's being 0."""
    owners = np.arange(len(images)) if patients is None else np.asarray(patients)
    apart = owners[:, None] != owners[None]
    found: Array = (np.nan_to_num(contrasts(images, masks, ring)) * apart).sum(axis=1) / apart.sum(axis=1)
    return found


def volumes(masks: Masks, voxel_ml: float) -> Array:
    """Volume of each mask in ml (N,)."""
    found: Array = masks.reshape(len(masks), -1).sum(axis=1) * voxel_ml
    return found


def centroids(masks: Masks, spacing: Sequence[float]) -> Array:
    """Centre of each mask (N, 3) in mm from the first voxel; NaN of an empty one."""
    empty = (math.nan,) * 3
    return np.array([center_of_mass(mask) if mask.any() else empty for mask in masks]) * np.asarray(spacing)


def dice(masks: Masks, others: Masks) -> Array:
    """Dice (N, M) of all pairs of masks; 0 where both are empty: there is no lesion that they share."""
    one, other = (csr_array(each.reshape(len(each), -1).astype(np.float64)) for each in (masks, others))
    sizes = np.add.outer(np.asarray(one.sum(axis=1)).ravel(), np.asarray(other.sum(axis=1)).ravel())
    overlap = (one @ other.T).toarray()
    return np.divide(2 * overlap, sizes, out=np.zeros_like(overlap), where=sizes > 0)


def mean_dice(masks: Masks, others: Masks) -> float:
    """Mean Dice over all pairs: a mean, no maximum, whose size says how alike masks of different patients are."""
    return float(dice(masks, others).mean())


def slice_features(maps: Array) -> Array:
    """What the middle slices of maps (N, C, x, y, z) in the three directions hold, coarsely (N, 3, D)."""
    tensor = torch.from_numpy(np.array(maps, np.float32))
    planes = [tensor.select(axis, tensor.shape[axis] // 2) for axis in (2, 3, 4)]
    return np.stack([adaptive_avg_pool2d(plane, _PLANE).flatten(1).double().numpy() for plane in planes], axis=1)


def kernel(features: Array) -> Array:
    """The mean (N, N) over slices of the polynomial kernel of degree 3 of standardised features (N, S, D), of which the kernel
    inception distance is made (Binkowski et al., "Demystifying MMD GANs", 2018)."""
    scale = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / np.where(scale > 0, scale, 1)
    found: Array = np.mean([polynomial_kernel(standard[:, index], degree=3) for index in range(features.shape[1])], axis=0)
    return found


def similarity(images: Array) -> Array:
    """SSIM (N, N) of all pairs of images (N, X, Y, Z), the mean over their middle slices; 1 on the diagonal."""
    first, second = np.array(list(combinations(range(len(images)), 2))).reshape(-1, 2).T
    tensor, found = torch.from_numpy(np.array(images, np.float32)), np.eye(len(images))
    for axis in (1, 2, 3):
        slices = tensor.select(axis, tensor.shape[axis] // 2)[:, None]
        window = min(11, (min(slices.shape[2:]) - 1) // 2 * 2 + 1)
        for part in np.array_split(np.arange(len(first)), math.ceil(len(first) * slices[0].numel() / 2**22)):
            pair = (slices[first[part]], slices[second[part]])
            ssim = compute_ssim_and_cs(*pair, 2, (window, window), (1.5, 1.5))[0].flatten(1).mean(1).double().numpy()
            found[first[part], second[part]] += ssim / 3
    return np.maximum(found, found.T)


def memorised(generated: Pairs, train: Pairs, held: Pairs, confidence: float = 0.95, seed: int = 0) -> Memory:
    """Whether generated images lie nearer to training patients than to others.

    The distance is 1 minus the correlation of what two images have beyond the mean real image, after each was centred and made
    coarse: noise, blur and shifts change it little, and of the flips along each axis the nearest counts. Of fresh images the
    nearest real patient is a training patient as often as such patients are among all: permutations of who was trained on say
    how probable more is. That finds samples that lean towards training patients; single copies are found by a distance far
    below those between real patients.

    Args:
        generated: Samples.
        train: All that was trained on, with all scans of a patient.
        held: Patients that were not.
        confidence: Coverage of the shares' intervals.
        seed: Of the permutations.
    """
    real = train.and_(held)
    owners, fields = np.asarray(real.patients), _fields(real.images)
    names = np.unique(owners)
    middle = np.mean([fields[owners == name].mean(axis=0) for name in names], axis=0)
    trained = np.isin(names, np.asarray(train.patients))
    own = _by_patient(_distances(fields, fields, middle), owners, names)
    own[np.arange(len(owners)), np.searchsorted(names, owners)] = math.inf
    distances = _by_patient(_distances(_fields(generated.images), fields, middle), owners, names)
    hits = trained[distances.argmin(axis=1)]
    of_held = ~np.isin(owners, np.asarray(train.patients))
    rng = np.random.default_rng(seed)
    counts = np.bincount(distances.argmin(axis=1), minlength=len(names))
    permuted = np.stack([rng.permutation(trained) for _ in range(PERMUTATIONS)]) @ counts
    to_train = distances[:, trained]
    nearest = to_train.min(axis=1)
    usual = float(np.quantile([own[owners == name].min() for name in names], USUAL))  # of all: two may be copies themselves
    return Memory(
        proportion(hits, list(generated.patients), confidence),
        float(trained.mean()),
        proportion(trained[own[of_held].argmin(axis=1)], owners[of_held].tolist(), confidence),
        float((1 + (permuted >= hits.sum()).sum()) / (1 + PERMUTATIONS)),
        1 / min(math.comb(len(names), int(trained.sum())), 1 + PERMUTATIONS),
        names[trained][to_train.argmin(axis=1)].tolist(),
        nearest,
        usual,
        tuple(np.flatnonzero(nearest < COPY * usual).tolist()),
    )


def judge(
    generated: Pairs,
    train: Pairs,
    held: Pairs,
    *,
    spacing: Sequence[float],
    encode: Encode,
    resampling: Resampling,
    ring: int = 2,
    ceiling: Pairs | None = None,
) -> Judgement:
    """Generated pairs beside real ones, in all that is stated of them.

    Args:
        generated: `Pairs.generated`.
        train: Real pairs that the generator was trained on.
        held: Real pairs of patients that it was not trained on, nor chosen by.
        spacing: Edges of a voxel in mm.
        encode: Gives the features in which images are compared.
        resampling: How resamples are drawn, and the coverage of all statements at once.
        ring: As of `contrasts`.
        ceiling: Real pairs, encoded and decoded by the VAE.
    """
    one, other = train.of_each_patient, held.of_each_patient
    every = generated.and_(one).and_(other)
    groups = np.repeat([GENERATED, TRAIN, HELD], [len(pairs.images) for pairs in (generated, one, other)])
    bench = _Bench(np.asarray(every.patients), groups, resampling)
    drawn, apart = bench.generated, bench.owners[:, None] != bench.owners[None]
    pair, overlap = contrasts(every.images, every.masks, ring), dice(every.masks, every.masks)
    ml, where = volumes(every.masks, math.prod(spacing) / 1000), centroids(every.masks, spacing)
    alike, looked_at = _likeness(every.images, drawn)
    memory = memorised(generated, train, held, resampling.confidence, resampling.seed)
    statements = (
        bench.filled(generated.masks),
        bench.gap("contrast", "lesion contrast, median", "The contrast of generated lesions", _contrast(pair)),
        bench.gap(
            "coupling",
            "contrast over that of other masks",
            "The fit of generated masks to their images",
            _coupling(pair, apart),
            nothing="Masks of other samples fit them as well as their own, as far as can be seen",
        ),
        bench.distance(
            "volume", "lesion volume, ml", "Volumes of generated lesions", cdist(ml[:, None], ml[:, None]), _median(ml)
        ),
        bench.distance("position", "lesion position, distance in mm", "Positions of generated lesions", cdist(where, where)),
        bench.gap(
            "dice",
            "mean Dice with real masks",
            "The overlap of generated with real masks",
            lambda rows, real: _mean_between(overlap, apart, rows, real),
            within=UNIT,
        ),
        bench.gap(
            "likeness",
            "SSIM with each other",
            "The likeness of generated images to each other",
            lambda rows, _: _mean_between(alike, apart & looked_at, rows, rows),
        ),
        bench.distance(
            "features", "features of slices, distance", "Generated images", -kernel(slice_features(encode(every.images)))
        ),
        bench.remembered(memory),
    )
    within = {}
    if ceiling is not None:
        owners = np.asarray(ceiling.patients)
        kept = contrasts(ceiling.images, ceiling.masks, ring)
        figures = {"contrast": _contrast(kept), "coupling": _coupling(kept, owners[:, None] != owners[None])}
        within = {name: by_patient(partial(_alone, of), owners.tolist(), resampling) for name, of in figures.items()}
    table = pd.DataFrame({"sample": list(generated.patients), "contrast": np.diag(pair)[drawn], "ml": ml[drawn]})
    table["shuffled"] = shuffled(generated.images, generated.masks, ring=ring)
    table[["x", "y", "z"]] = where[drawn]
    copies = np.isin(np.arange(len(table)), memory.copies)
    table = table.assign(nearest=list(memory.nearest), distance=memory.distances, copy=copies)
    return Judgement(statements, memory, within, table, resampling.confidence, bench.each)


@dataclass(frozen=True)
class _Bench:
    """Generated and real pairs, a row each.

    Attributes:
        owners: Patient of each.
        groups: GENERATED, TRAIN or HELD, of each.
        resampling: With the coverage of all statements at once.
    """

    owners: NDArray[np.str_]
    groups: NDArray[np.int_]
    resampling: Resampling

    @cached_property
    def generated(self) -> NDArray[np.bool_]:
        return self.groups == GENERATED

    @property
    def each(self) -> float:
        """Coverage of each statement alone."""
        return 1 - (1 - self.resampling.confidence) / STATEMENTS

    def filled(self, masks: Masks) -> Statement:
        """Whether masks are left empty; of real ones none is."""
        full = np.any(masks, axis=(1, 2, 3))
        names = self.owners[self.generated].tolist()
        share, at_once = (proportion(full, names, confidence) for confidence in (self.resampling.confidence, self.each))
        counted = f"{np.count_nonzero(full)} of {len(masks)} generated masks hold a lesion, {share}"
        found: Found = "unlike" if at_once.high < FILLED else "alike" if share.estimate >= FILLED else "few"
        ends = {"unlike": f"fewer than {FILLED:.0%}", "few": f"whether fewer than {FILLED:.0%} do cannot be told"}
        told = f"{counted}{f': {ends[found]}' if found in ends else ''}."
        return Statement("filled", "masks with a lesion", share, _only(1.0), _only(share.estimate - 1), math.nan, found, told)

    def figure(self, statistic: Statistic, rows: NDArray[np.bool_], within: Range) -> Interval:
        """A figure of some of the rows, with an interval of its own in the range of the figure."""
        of_rows = partial(self._of, statistic, rows)
        found = by_patient(of_rows, self.owners.tolist(), self.resampling, within=within, groups=rows[None])
        return replace(found, patients=len(np.unique(self.owners[rows])))  # of the others it tells nothing

    def _of(self, statistic: Statistic, rows: NDArray[np.bool_], weights: Array) -> Array:
        return statistic(weights * rows, weights * ~self.generated)

    def gap(
        self, name: str, called: str, subject: str, statistic: Statistic, *, within: Range = UNBOUNDED, nothing: str = ""
    ) -> Statement:
        """A figure of samples or of pairs of samples, with its range, by the interval of its difference; `nothing` is added to
        the sentence where the generated ones' interval is not above 0."""
        drawn, real, owners = self.generated, ~self.generated, self.owners.tolist()
        ours, theirs = (self.figure(statistic, rows, within) for rows in (drawn, real))
        gap = by_patient(
            lambda weights: self._of(statistic, drawn, weights) - self._of(statistic, real, weights),
            owners,
            replace(self.resampling, confidence=self.each),
            within=(within[0] - within[1], within[1] - within[0]),
            groups=np.stack([drawn, real]),
        )
        enough = min(drawn.sum(), real.sum()) >= MIN_OF_A_CLASS
        always = enough and gap.error < NOISE <= abs(gap.estimate)  # the same difference whoever is drawn
        figures = f"{ours.estimate:.3f}, of real ones {theirs.estimate:.3f}, {gap.as_gain}"
        found: Found
        if gap.above or gap.below or always:
            found, side = "unlike", "above" if gap.estimate > 0 else "below"
            told = f"{subject}: {side} that of real ones, {figures}."
        elif gap.none or not math.isnan(gap.low):
            found, least = "alike", gap.seen_in_words(self.each, "pairs")
            told = f"{subject}: no difference from real ones could be measured, {figures}{least}."
        else:
            found, told = "few", f"{subject}: too few pairs to tell it from that of real ones, {figures}."
        if nothing and not ours.above and (ours.none or not math.isnan(ours.low)):
            told += f" {nothing}: {ours.as_gain}."
        return Statement(name, called, ours, theirs, gap, math.nan, found, told)

    def distance(self, name: str, called: str, subject: str, distances: Array, figure: Statistic | None = None) -> Statement:
        """How far the distributions lie apart, by a permutation of who is generated.

        Args:
            name: As of `Statement`.
            called: Likewise.
            subject: Begins the sentence.
            distances: Of all rows (N, N), of negative type, such as Euclidean ones or what is minus a kernel; NaN of a row
                that has no place among them.
            figure: What a reader is shown beside the distance; not negative.
        """
        there = ~np.isnan(np.diag(distances))
        distances, groups = distances[np.ix_(there, there)], self.groups[there]
        drawn, real = groups == GENERATED, groups != GENERATED
        rng = np.random.default_rng(self.resampling.seed)
        least = 1 / min(math.comb(len(groups), int(drawn.sum())), PERMUTATIONS + 1)
        ours, theirs = (
            _energy(distances, rows[None].astype(float), others[None].astype(float))[0]
            for rows, others in ((drawn, real), (groups == HELD, groups == TRAIN))
        )
        labels = np.stack([rng.permutation(drawn) for _ in range(PERMUTATIONS)]).astype(float)
        permuted = _energy(distances, labels, 1 - labels)
        p = float((1 + (permuted >= ours - NOISE).sum()) / (1 + PERMUTATIONS)) if there[self.generated].sum() > 1 else math.nan
        critical = float(np.quantile(permuted, self.each))
        figures = f"a distance of {ours:.3g}, of held-out from training patients {theirs:.3g} (p = {p:.2g})"
        if math.isnan(ours):
            figures = "of which there are fewer than two"
        found: Found
        if math.isnan(ours) or least > 1 - self.each:
            found, told = "few", f"{subject}: too few pairs to tell them from real ones, {figures}."
        elif p <= 1 - self.each:
            found, told = "unlike", f"{subject}: unlike real ones, {figures}."
        else:
            found, told = "alike", f"{subject}: no difference from real ones could be measured, {figures}"
            told += f"; above {critical:.2g} it would be one."
        if figure is None:
            return Statement(name, called, _only(ours), _only(theirs), _only(math.nan), p, found, told)
        median, real_median = (self.figure(figure, rows, (0.0, math.inf)) for rows in (self.generated, ~self.generated))
        told += f" Medians in {called.rpartition(', ')[2]}: {median}, of real ones {real_median}."
        gap = _only(median.estimate - real_median.estimate)
        return Statement(name, called, median, real_median, gap, p, found, told)

    def remembered(self, memory: Memory) -> Statement:
        """Whether training patients are copied, or lie nearer than others."""
        count, copies = len(memory.nearest), memory.copies
        figures = f"{memory.share} of {count} are nearest to one, by chance {memory.expected:.3f} (p = {memory.p:.2g})"
        leaning = memory.p <= 1 - self.each
        found: Found = "unlike" if copies or leaning else "few" if memory.least_p > 1 - self.each else "alike"
        if copies:
            named = some([f"{index} of {memory.nearest[index]}" for index in copies], 3)
            start = f"{len(copies)} of {count} generated images are copies of training patients: sample {named}"
        elif leaning:
            start = "Generated images lie nearer to training patients than to others"
        elif found == "few":
            start = "Whether generated images lie nearer to training patients cannot be told from so few"
        else:
            start = "That generated images lie nearer to training patients could not be seen"
        gap = _only(memory.share.estimate - memory.expected)
        told = f"{start}: {figures}."
        return Statement("memory", "nearest to a training patient", memory.share, memory.real, gap, memory.p, found, told)


def _only(estimate: float) -> Interval:
    """A figure that has no interval."""
    return Interval(estimate, math.nan, math.nan, 0)


def _alone(statistic: Statistic, weights: Array) -> Array:
    return statistic(weights, weights)


def _contrast(pair: Array) -> Statistic:
    """The median of own masks' contrasts, an empty one's being 0."""
    return _median(np.nan_to_num(np.diag(pair)))


def _median(values: Array) -> Statistic:
    order = np.argsort(values)

    def statistic(rows: Array, _: Array) -> Array:
        summed = rows[:, order].cumsum(axis=1)
        total = summed[:, -1:]
        low, high = ((summed >= total / 2 - NOISE).argmax(axis=1), (summed > total / 2 + NOISE).argmax(axis=1))
        return np.where(total[:, 0] > 0, (values[order][low] + values[order][high]) / 2, math.nan)

    return statistic


def _coupling(pair: Array, apart: NDArray[np.bool_]) -> Statistic:
    """The mean contrast of own masks above that of other patients' masks, an empty one's being 0."""
    fit = np.nan_to_num(pair)

    def statistic(rows: Array, _: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return rows @ np.diag(fit) / rows.sum(axis=1) - _mean_between(fit, apart, rows, rows)

    return statistic


def _mean_between(values: Array, allowed: NDArray[np.bool_], rows: Array, others: Array) -> Array:
    """Mean (S,) of values (N, N) over the allowed pairs of one that is drawn in `rows` and one in `others`, both (S, N)."""
    with np.errstate(invalid="ignore"):
        return ((rows @ (values * allowed)) * others).sum(axis=1) / ((rows @ allowed) * others).sum(axis=1)


def _energy(distances: Array, rows: Array, others: Array) -> Array:
    """Twice the mean distance between two groups minus those within them (S,), over pairs of different rows: 0 on average
    where both are draws from one distribution, whatever their number (Szekely and Rizzo, "Energy statistics", 2013)."""
    apart = ~np.eye(len(distances), dtype=bool)
    between, one, other = (_mean_between(distances, apart, *pair) for pair in ((rows, others), (rows, rows), (others, others)))
    found: Array = 2 * between - one - other
    return found


def _likeness(images: Array, drawn: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """SSIM of pairs within generated and within real ones, of so many of each at most, and which pairs these are."""
    values, looked_at = np.zeros((len(drawn), len(drawn))), np.zeros((len(drawn), len(drawn)), bool)
    for rows in (drawn, ~drawn):
        block = np.ix_(*[np.flatnonzero(rows)[:_PAIRED]] * 2)
        values[block], looked_at[block] = similarity(images[block[1][0]]), True
    return values, looked_at


def _fields(images: Array) -> Array:
    """Images (N, X, Y, Z) whose brain has the mean 1, centred at their centre of mass, and coarse (N, G, G, G)."""
    tensor = torch.from_numpy(np.array(images, np.float32))[:, None]
    brain = (tensor > BRAIN).float()
    mean = (tensor * brain).sum(dim=(1, 2, 3, 4), keepdim=True) / brain.sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1)
    tensor = tensor * brain / mean.clamp(min=NOISE)
    small = adaptive_avg_pool3d(tensor, _at_most(tensor.shape[2:], 2 * _GRID))[:, 0].double().numpy()
    middle = (np.array(small.shape[1:]) - 1) / 2
    centred = [shift(one, middle - center_of_mass(one), order=1) if one.any() else one for one in small]
    coarse = adaptive_avg_pool3d(torch.from_numpy(np.stack(centred))[:, None], _at_most(small.shape[1:], _GRID))
    return np.asarray(coarse[:, 0])


def _at_most(shape: Sequence[int], edge: int) -> tuple[int, int, int]:
    x, y, z = (min(size, edge) for size in shape)
    return x, y, z


def _distances(fields: Array, others: Array, middle: Array) -> Array:
    """1 minus the correlation (N, M) of what fields have beyond the mean one; of a field and its flips the nearest counts.

    What a brightness and a blur add to every field alike is left out: along the mean field and its Laplacian they may differ.
    """
    common = np.linalg.qr(np.stack([np.ones(middle.size), middle.ravel(), laplace(middle).ravel()], axis=1))[0]

    def standard(values: Array) -> Array:
        flat = (values - middle).reshape(len(values), -1)
        flat = flat - flat @ common @ common.T
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), NOISE)

    against = standard(others).T
    flipped = [fields, *(np.flip(fields, axis) for axis in (1, 2, 3))]
    return 1 - np.max([standard(one) @ against for one in flipped], axis=0)


def _by_patient(distances: Array, owners: NDArray[np.str_], names: NDArray[np.str_]) -> Array:
    """The least distance (N, P) to a scan of each patient."""
    return np.stack([distances[:, owners == name].min(axis=1) for name in names], axis=1)


def _decided(one: Statement) -> str:
    return one.gap.as_gain if math.isnan(one.p) else f"p = {one.p:.2g}"
