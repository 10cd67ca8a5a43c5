"""How data are read, split and sampled, and the embedded data: blocks that several phases have."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, MinLen, Predicate, doc

from medexp.config.bounds import Count, Fraction, Natural, Told
from medexp.config.editions import EDITIONS
from medexp.config.keys import Role
from medexp.config.shared import Jobs

Patients = Annotated[int, Ge(4), Told("at least 4 patients are needed to fill the splits")]
Images = Annotated[int, Ge(8), Told("at least 8 images are needed to fill the splits")]
Spacing = Annotated[
    tuple[float, float, float],
    Predicate(lambda spacing: min(spacing) > 0),
    Told("give three lengths in mm above 0"),
    doc("Voxel spacing that volumes are resampled to, in mm, along R, A, S."),
]
VolumeSize = Annotated[
    tuple[int, int, int],
    # instance norm of the bottleneck takes more than one voxel
    Predicate(lambda size: all(edge > 0 and edge % 32 == 0 for edge in size) and size != (32, 32, 32)),
    Told("give three multiples of 32, at least one of them above 32"),
    doc("Size of the network's input in voxels; multiples of 32."),
]
LatentSize = Annotated[
    tuple[int, int, int],
    Predicate(lambda size: all(edge >= 16 and edge % 4 == 0 for edge in size)),
    Told("give three multiples of 4, of at least 16"),
]
ImageSize = Annotated[
    tuple[int, int],
    Predicate(lambda size: min(size) >= 16),
    Told("give a height and a width of at least 16 pixels"),
    doc("Height and width that images are brought to, in pixels; at least 16 each."),
]
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "t2f": ("t2f", "flair"),
    "t1c": ("t1c", "t1ce", "t1gd"),
    "t1n": ("t1n", "t1"),
    "t2w": ("t2w", "t2"),
    "seg": ("seg", "segm", "tumor_segmentation"),
}
"""How the names of a case's files end, by channel, and the segmentation's: those of BraTS 2023, the older ones (flair t1ce t1
t2), and those of UPENN-GBM (T1GD, segm) and UCSF-PDGM (tumor_segmentation)."""

_Endings = Annotated[dict[str, tuple[str, ...]], Role.CASES]
Suffixes = Annotated[
    _Endings,
    doc(
        "How the names of volumes' files end, before .nii or .nii.gz and after - or _, where not as known: of t2f, t1c, t1n, "
        "t2w and seg, such as {t1c: [T1post], seg: [lesion_mask]}, in place of the known endings of that file; any case."
    ),
]
PairSuffixes = Annotated[
    _Endings,
    doc(
        "How the names of pairs' files end, before .nii or .nii.gz and after - or _, where not as known: of t2f (the FLAIR) "
        "and seg (its mask), such as {t2f: [T2_prep], seg: [outline]}, in place of the known endings of that file; any case."
    ),
]
Labels = Literal["brats2021", "brats2023", "brats-gli-2024", "brats-ped", "map"]
Oddity = Literal[
    "lost_tumour", "lost_region", "no_background", "outside_brain", "edition", "two_affines", "same_channels", "inverted"
]


def _two_classes(classes: Mapping[str, Sequence[str]]) -> bool:
    folders = [folder.casefold() for names in classes.values() for folder in names]
    plain = all(folder.strip() and not {"/", "\\"} & {*folder} for folder in folders)
    return {*classes} == {"no", "yes"} and all(classes.values()) and plain and len({*folders}) == len(folders)


ClassFolders = Annotated[
    dict[str, tuple[str, ...]],
    Predicate(_two_classes),
    Told(
        "give no and yes the names of their folders, one or more each and none twice, such as "
        "{no: [no_tumor], yes: [glioma_tumor, meningioma_tumor]}; there are these two classes: tumours of all kinds are yes"
    ),
    doc(
        "Folders of pictures by class, in any case: no (without a tumour) and yes (with one), such as "
        "{no: [no_tumor], yes: [glioma_tumor, meningioma_tumor]}. What lies in others is of none."
    ),
]
SourceWeights = Annotated[
    dict[str, float],
    Predicate(lambda weights: set(weights) == {"brats", "kaggle"} and min(weights.values()) > 0),
    Told("give brats and kaggle a number above 0 each"),
]


def class_names(mapping: Mapping[str, int]) -> list[str]:
    """Names of the classes, by number; several groups of one class are joined."""
    return [
        " or ".join(group for group, number in mapping.items() if number == index) for index in sorted(set(mapping.values()))
    ]


@dataclass(frozen=True)
class PhantomConfig:
    """The embedded data, used when `data_dir` is not given.

    Args:
        glioma_patients: Patients with a glioma, the domain that the demo base is pretrained on.
        meningioma_patients: Patients with a meningioma, the domain that is adapted to.
        seed: Seed of the phantoms, apart from the training's.
    """

    glioma_patients: Patients
    meningioma_patients: Patients
    seed: Natural


@dataclass(frozen=True)
class DataConfig:
    """How cases are read, split and sampled.

    Args:
        labels: What the values in the segmentation files mean, by the edition of BraTS: brats2021 (and older: 4 is enhancing
            tumour), brats2023 (3 is), brats-gli-2024 (3 is, and 4 the resection cavity, which is no tumour), brats-ped (1 is,
            4 is edema); or map, as `label_map` says. A value that an edition has not is refused.
        label_map: With labels=map: from the values to 0 background, 1 necrotic or non-enhancing core, 2 edema, 3 enhancing
            tumour. 0 is always background.
        patient_pattern: Regular expression on a case's folder name; its first group is the patient. A case that it does not
            match is a patient of its own.
        exclude: Cases to leave out, by folder name.
        meant: What is odd in the cases, changes results, and is meant all the same; else they are refused. lost_tumour and
            lost_region: a case has a tumour, or a region of it, that no voxel of the network's grid holds. no_background: a
            channel in which nothing can be told from the brain. outside_brain: a tumour where all channels are background.
            edition: folders of another edition than `labels`. two_affines: a header whose sform, which is read, and qform
            differ in spacing or orientation. same_channels: a channel that is a copy of another one. inverted: a channel whose
            brain is darker than its background, as of inverted grey.
        val_fraction: Share of the patients that is validated on, 0 to 1.
        test_fraction: Share of the patients that is held back, 0 to 1.
    """

    labels: Annotated[Labels, Role.CASES]
    label_map: Annotated[dict[int, int] | None, Role.CASES]
    suffixes: Suffixes
    patient_pattern: Annotated[str, Role.CASES]
    exclude: Annotated[tuple[str, ...], Role.CASES]
    meant: Annotated[tuple[Oddity, ...], Role.CASES]
    spacing: Spacing
    input_size: Annotated[VolumeSize, Role.MENDS]
    val_fraction: Annotated[float, Role.CASES]
    test_fraction: Annotated[float, Role.CASES]
    jobs: Jobs

    def problems(self) -> Iterator[str]:
        yield from label_problems(self.labels, self.label_map)
        yield from suffix_problems(self.suffixes)
        yield from _fractions(self.val_fraction, self.test_fraction)

    @property
    def classes(self) -> Mapping[int, int]:
        """From the values in the segmentation files to the network's classes, 0 to 3."""
        return EDITIONS[self.labels].classes if self.label_map is None else self.label_map

    @property
    def meaning(self) -> str:
        """What the values in the segmentation files mean, in words."""
        edition = EDITIONS.get(self.labels)
        return f"{self.labels}: {edition.in_words}" if edition else f"map: {self.label_map}"


def label_problems(labels: Labels | None, label_map: Mapping[int, int] | None) -> Iterator[str]:
    """What contradicts in `labels` and `label_map` of a block."""
    if (labels == "map") != (label_map is not None):
        found = "nothing" if label_map is None else label_map
        yield f"label_map: found {found} with labels={labels}; it is for labels=map, which needs it, and for no other"
    elif label_map is not None:
        if bad := sorted(set(label_map.values()) - {0, 1, 2, 3}):
            yield f"label_map: maps to {bad}; allowed are 0, 1, 2 and 3"
        if label_map.get(0, 0) != 0:
            yield f"label_map: maps 0 to {label_map[0]}; 0 is background in every file: leave it out"


def known_by(suffixes: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    """How the names of files end: SUFFIXES, but of a file for which others are given those."""
    return {**SUFFIXES, **suffixes}


def suffix_problems(suffixes: Mapping[str, tuple[str, ...]], read: Sequence[str] = tuple(SUFFIXES)) -> Iterator[str]:
    """What contradicts in `suffixes` of a block.

    Args:
        suffixes: As they were given.
        read: The files of a case that are read.
    """
    if unknown := [name for name in suffixes if name not in read]:
        yield f"suffixes: found {', '.join(unknown)}; known are {', '.join(read)}"
    for name, endings in suffixes.items():
        if not endings:
            yield f"suffixes: {name} has no ending; give one or more, or leave {name} out"
        if bad := [one for one in endings if not one.strip("-_") or "/" in one or one.lower().endswith((".nii", ".nii.gz"))]:
            found = ", ".join(map(repr, bad))
            yield f"suffixes: found {found} for {name}; give what stands between the last - or _ and .nii, such as t1c"
    owners: dict[str, list[str]] = {}
    for name, endings in known_by(suffixes).items():
        for one in dict.fromkeys(ending.lower() for ending in endings if name in {*read, *suffixes}):
            owners.setdefault(one, []).append(name)
    if twice := [f"{one} ({' and '.join(names)})" for one, names in owners.items() if len(names) > 1]:
        yield f"suffixes: {', '.join(twice)} would be two files' ending; give the other one's too"


@dataclass(frozen=True)
class ImagePhantomConfig:
    """The embedded 2D images, used when neither `slices_dir` nor `kaggle_dir` is given.

    Args:
        patients: Patients with a meningioma whose volumes are cut into slices.
        yes_images: Images with a tumour in the Kaggle-like folder, exact duplicates included.
        no_images: Images without a tumour in it, exact duplicates included.
        seed: Seed of the phantoms, apart from the training's.
    """

    patients: Annotated[int, Ge(4), Told("at least 4 are needed to fill the splits")]
    yes_images: Images
    no_images: Images
    seed: Natural


@dataclass(frozen=True)
class ImageDataConfig:
    """How 2D images are read, split and sampled.

    Args:
        min_tumour_pixels: Mask pixels, before resizing, from which on a slice counts as one with a tumour.
        patient_pattern: Regular expression on the name of the scan that an image comes from (a slice's name without
            `_slice_NNN`, else a file's without its ending); its first group is the patient. A scan that it does not match is a
            patient of its own. Where a file's metadata names the patient, that counts.
        val_fraction: Share that is validated on, 0 to 1: of the patients of slices, of each class of Kaggle images.
        test_fraction: Share that is held back, 0 to 1.
        split_seed: Seed of the splits, apart from the training's: another training is judged on the same cases.
        weights: How often a source (brats, kaggle) is drawn from in training, against the other; above 0.
        jobs: Processes that read images in parallel.
    """

    input_size: ImageSize
    min_tumour_pixels: Annotated[Count, Role.CASES]
    patient_pattern: Annotated[str, Role.CASES]
    val_fraction: Annotated[float, Role.CASES]
    test_fraction: Annotated[float, Role.CASES]
    split_seed: Annotated[Natural, Role.CASES]
    classes: Annotated[ClassFolders, Role.CASES]
    weights: SourceWeights
    jobs: Jobs

    def problems(self) -> Iterator[str]:
        yield from _fractions(self.val_fraction, self.test_fraction)


@dataclass(frozen=True)
class VolumeFilesConfig:
    """How the files of a table's volumes are found."""

    suffixes: Suffixes

    def problems(self) -> Iterator[str]:
        yield from suffix_problems(self.suffixes)


@dataclass(frozen=True)
class SliceConfig:
    """How volumes are cut into axial slices.

    Args:
        channel: The channel that is cut: t2f, t1c, t1n or t2w.
        every: Every n-th slice is kept.
        min_foreground: Share of a slice, 0 to 1, that brain must fill for it to be kept; blank slices never are.
    """

    channel: Literal["t2f", "t1c", "t1n", "t2w"]
    every: Count
    min_foreground: Fraction


@dataclass(frozen=True)
class PairDataConfig:
    """How pairs of a FLAIR volume and its lesion mask are read, split and made latents of.

    Args:
        mask_strategy: How a mask stands in a latent: vae (encoded as images are, 4 channels), downsample (pooled by 4, one
            channel), or auto, by the Dice of a mask that was encoded and decoded.
        pooling: How downsample pools: average, or nearest.
        lesion: The values of a mask's file that are lesion; any other but 0 is refused.
        patient_pattern: Regular expression on a case's name; its first group is the patient. A case that it does not match is
            a patient of its own. Where a table names the patient, that counts.
        exclude: Cases to leave out, by name.
        spacing: Edges of the voxels that volumes are resampled to, in mm, along R, A, S.
        input_size: Voxels of the network's grid along R, A, S: what is beyond it around the head's centre is cut off.
        val_fraction: Share of the patients that samples are held against, 0 to 1.
        test_fraction: Share of the patients that is held back for mode=utility, 0 to 1.
    """

    mask_strategy: Literal["auto", "vae", "downsample"]
    pooling: Literal["average", "nearest"]
    lesion: Annotated[tuple[Count, ...], MinLen(1), Told("one or more values above 0", list), Role.CASES]
    patient_pattern: Annotated[str, Role.CASES]
    suffixes: PairSuffixes
    exclude: Annotated[tuple[str, ...], Role.CASES]
    spacing: Spacing
    input_size: LatentSize
    val_fraction: Annotated[float, Role.CASES]
    test_fraction: Annotated[float, Role.CASES]
    jobs: Jobs

    def problems(self) -> Iterator[str]:
        yield from suffix_problems(self.suffixes, ("t2f", "seg"))
        yield from _fractions(self.val_fraction, self.test_fraction)

    @property
    def classes(self) -> Mapping[int, int]:
        """From the values in the masks' files to 1."""
        return dict.fromkeys(self.lesion, 1)


@dataclass(frozen=True)
class PairPhantomConfig:
    """The embedded pairs, used when `data_dir` is not given: heads with a focal cortical dysplasia and its mask.

    Args:
        patients: Their number.
        seed: Seed of the phantoms, apart from the training's.
    """

    patients: Annotated[int, Ge(8), Told("at least 8 patients are needed to fill the splits")]
    seed: Natural


def _fractions(val: float, test: float) -> Iterator[str]:
    if not (val > 0 and test >= 0 and val + test < 1):
        yield f"val_fraction and test_fraction: found {val} and {test}; the first is above 0, their sum below 1"
