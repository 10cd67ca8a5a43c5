"""What is known of a case once it was read and checked: digests, geometry, semantic features. Computed once and cached."""

import hashlib
import json
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from scipy import ndimage

from medexp.arrays import Array
from medexp.config.data import DataConfig
from medexp.config.editions import EDITIONS, fitting
from medexp.data.headers import Header, of_volume, two_affines
from medexp.data.kept import keep_record, known_record, stamp
from medexp.data.parallel import described
from medexp.data.seen import Field
from medexp.data.twins import Digested, perceptual_hash
from medexp.data.volumes.background import Ground, darker_share, ground_of
from medexp.data.volumes.brats import UnfitLabels, read_case
from medexp.data.volumes.cases import CHANNELS, REGION_CLASSES, Case, Volume
from medexp.data.volumes.semantics import (
    INTENSITY_STATISTICS,
    intensity_statistics,
    largest_part,
    semantic_features,
    shape_statistics,
)
from medexp.errors import DataError

VERSION = 13
"""Part of the cache key: raise it when what is computed here, in `background`, `semantics` or `brats` changes."""

_DARKER = 0.99  # of a brain, below its background
_AXES = ("RL", "AP", "SI")


class Measured(Digested, Protocol):
    """What is known of any case of volumes, as `CaseFacts` has it."""

    @property
    def sha256(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def spacing(self) -> tuple[float, ...]: ...
    @property
    def header(self) -> Header: ...
    @property
    def affines(self) -> str: ...


@dataclass(frozen=True)
class CaseFacts:
    """What a manifest, a split and a probe need to know of a case.

    Args:
        case: Its id.
        sha256: Of the voxels of all channels, the mapped label, the shape and the affine.
        voxels_sha256: Of the images alone: equal for exact duplicates, annotated or placed anew as they may be.
        shape: Voxels along the file's axes.
        spacing: Edge of a voxel along the file's axes, in mm.
        semantic: As named by SEMANTIC_FEATURES; empty for a case without a segmentation.
        intensity: As named by INTENSITY_STATISTICS.
        form: As named by SHAPE_STATISTICS, of what is not background in any channel.
        header: What its files say besides voxels.
        perceptual_hash: Of the native T1, along R, A, S: alike for copies that are not equal (`medexp.data.twins`).
        values: What the segmentation's file holds besides 0.
        regions: Of REGION_CLASSES, those that the segmentation holds.
        lost: Of these, those that no voxel of the network's grid holds.
        outside: Share of the tumour, 0 to 1, where all channels are background.
        level: Value of the background, by channel; None where nothing can be told from the brain.
        lowest: The smallest value of the background, by channel; 0 where nothing can be told.
        highest: The largest one.
        hot: Voxels of a value that no tissue has, by channel.
        hottest: The farthest of these values, by channel; 0 where there is none.
        affines: `medexp.data.headers.two_affines` of its files.
        same: Pairs of channels that are equal, voxel by voxel.
        inverted: Channels whose brain is darker than their background, which is no padding.
    """

    case: str
    sha256: str
    voxels_sha256: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    semantic: tuple[float, ...]
    intensity: tuple[float, ...]
    form: tuple[float, ...]
    header: Header
    perceptual_hash: tuple[str, ...]
    values: tuple[int, ...] = ()
    regions: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    outside: float = 0.0
    level: tuple[float | None, ...] = ()
    lowest: tuple[float, ...] = ()
    highest: tuple[float, ...] = ()
    hot: tuple[int, ...] = ()
    hottest: tuple[float, ...] = ()
    affines: str = ""
    same: tuple[str, ...] = ()
    inverted: tuple[str, ...] = ()

    @property
    def fields(self) -> dict[str, Field]:
        """What stands for how a case looked before anything was done to it (`medexp.data.seen`)."""
        return _looked(self.header, self.intensity, self.form[0])


def identity(volume: Volume) -> tuple[str, tuple[str, ...]]:
    """`voxels_sha256` and `perceptual_hash` of a volume, by which it is known again."""
    return digests(volume)[1], perceptual_hash(along_ras(volume, CHANNELS.index("t1n")))


def fields_of(header: Header, volume: Volume, grounds: Sequence[Ground]) -> dict[str, Field]:
    """What `CaseFacts.fields` has, of a case that nobody described.

    Args:
        header: `medexp.data.headers.of_volume` of its files.
        volume: What they hold.
        grounds: `ground_of` each channel.
    """
    brain = largest_part(np.any([ground.brain for ground in grounds], axis=0))
    millilitres = np.count_nonzero(brain) * abs(float(np.linalg.det(volume.affine))) / 1000
    statistics = intensity_statistics(volume.image, grounds).tolist()
    return _looked(header, statistics, millilitres)


def _looked(header: Header, intensity: Sequence[float], brain_ml: float) -> dict[str, Field]:
    """Of a header what a network could see: how voxels are stored, and along which axis of the file a spacing lies, it cannot.

    The contrast of a channel is the SD over the mean of its brain: no matter of units.
    """
    orientation = str(header["orientation"])
    named = {axes[0]: edge for edge, code in zip("xyz", orientation, strict=False) for axes in _AXES if code in axes}
    statistics = dict(zip(INTENSITY_STATISTICS, intensity, strict=True))
    contrasts: dict[str, Field] = {}
    for channel in CHANNELS:
        mean, spread = statistics[f"{channel}_mean"], statistics[f"{channel}_sd"]
        contrasts[f"{channel}_contrast"] = spread / mean if 100 * mean > spread else None  # of z-scores there is none
    spacing = {f"spacing {axis}": header[f"spacing {edge}"] for axis, edge in named.items()}
    return {**spacing, "orientation": orientation, "brain_ml": brain_ml, **statistics, **contrasts}


def describe_cases(cases: Sequence[Case], data: DataConfig, cache: Path) -> tuple[CaseFacts, ...]:
    """Reads, checks and describes every case, in the order given.

    Cases that were described before and whose files have not changed since (path, size and times) come from the cache. The
    others are read by `data.jobs` processes, or by another backend of joblib (`in_parallel`).

    Args:
        cases: As `find_cases` returns them.
        data: `labels`, `spacing` and `jobs`.
        cache: Root of the cache; one small JSON file a case goes under `cases/`.

    Raises:
        DataError: All problems of all cases at once.
    """
    entries = {case.id: cache / "cases" / f"{_key(case, data)}.json" for case in cases}
    known = {case.id: cached for case in cases if (cached := _cached(entries[case.id]))}
    todo = {case.id: (case, data, entries[case.id]) for case in cases if case.id not in known}
    found, problems = described(_describe, todo, data.jobs, "Reading cases")
    if problems:
        counted = f"{len(problems)} of {len(cases)} cases cannot be used:\n" if len(problems) > 1 else ""
        unfit = [error.values for error in problems.values() if isinstance(error, UnfitLabels)]
        held = {value for values in [*unfit, *(fact.values for fact in (known | found).values())] for value in values}
        raise DataError(
            "\n".join([counted + "\n".join(map(str, problems.values())), *(_other_labels(held, data) if unfit else [])])
        )
    facts = known | found
    return tuple(facts[case.id] for case in cases)


def _other_labels(held: Set[int], data: DataConfig) -> list[str]:
    """What to do about values that the edition has not."""
    listed = ", ".join(map(str, sorted(held)))
    fit = "".join(f"\n  - {flag}" for flag in fitting(held))
    mapped = ", ".join(f"{value}: {data.classes.get(value, '?')}" for value in sorted(held))  # what nobody said is not guessed
    own = f"-P data.labels=map -P 'data.label_map={{{mapped}}}' with a class for each ?: 0 none, 1 core, 2 edema, 3 enhancing"
    meaning = "" if data.labels == "map" else f" ({EDITIONS[data.labels].in_words})"
    return [
        f"data.labels={data.labels}{meaning}; the segmentations hold {listed}. "
        + (f"Which edition are they of? These fit:{fit}\n  - or {own}" if fit else f"No edition has all of these; give {own}")
    ]


def _describe(case: Case, data: DataConfig, entry: Path) -> CaseFacts:
    """The facts, written to the cache.

    Raises:
        DataError: The case cannot be used.
    """
    volume = read_case(case, data.classes)
    sha256, voxels_sha256 = digests(volume)
    grounds = [ground_of(channel) for channel in volume.image]
    brain = np.any([ground.brain for ground in grounds], axis=0)
    tumour: dict[str, Any] = {}
    if case.label:
        tumour = {
            "semantic": tuple(semantic_features(volume).tolist()),
            "values": volume.values,
            "regions": _regions(volume.label),
            "lost": _lost(volume, data.spacing),
            "outside": float(1 - brain[volume.label > 0].mean()),
        }
    facts = CaseFacts(
        case=case.id,
        sha256=sha256,
        voxels_sha256=voxels_sha256,
        shape=volume.label.shape,
        spacing=tuple(float(edge) for edge in nib.affines.voxel_sizes(volume.affine)),
        perceptual_hash=perceptual_hash(along_ras(volume, CHANNELS.index("t1n"))),
        intensity=tuple(intensity_statistics(volume.image, grounds).tolist()),
        form=tuple(shape_statistics(brain, volume.affine).tolist()),
        level=tuple(ground.level for ground in grounds),
        lowest=tuple(ground.lowest for ground in grounds),
        highest=tuple(ground.highest for ground in grounds),
        hot=tuple(ground.hot for ground in grounds),
        hottest=tuple(ground.hottest for ground in grounds),
        inverted=inverted_channels(volume.image, grounds),
        affines=two_affines(case.files),
        same=same_channels(volume.image),
        **({"semantic": ()} | tumour),
        header=of_volume(dict(zip(CHANNELS if len(case.images) > 1 else ("images",), case.images, strict=True))),
    )
    keep_record(entry, asdict(facts))
    return facts


def inverted_channels(
    image: NDArray[np.float32], grounds: Sequence[Ground], channels: Sequence[str] = CHANNELS
) -> tuple[str, ...]:
    """Channels of an image (C, X, Y, Z) whose brain is darker than their background, as where grey is inverted. Z-scores lie
    on both sides of theirs."""
    shares = [
        darker_share(channel[ground.brain], ground.level) if ground.level is not None and ground.brain.any() else 0.0
        for channel, ground in zip(image, grounds, strict=True)
    ]
    return tuple(name for name, share in zip(channels, shares, strict=False) if share > _DARKER)


def same_channels(image: NDArray[np.float32], channels: Sequence[str] = CHANNELS) -> tuple[str, ...]:
    """The pairs of channels of an image (C, X, Y, Z) that are equal voxel by voxel, such as `t1c = t1n`."""
    pairs = combinations(zip(channels, image, strict=True), 2)
    return tuple(f"{one} = {other}" for (one, mine), (other, yours) in pairs if np.array_equal(mine, yours))


def along_ras(volume: Volume, channel: int) -> Array:
    """A channel (X, Y, Z) with its axes turned and mirrored to run to R, A and S, as far as they do."""
    turned = nib.orientations.io_orientation(volume.affine)
    return np.asarray(nib.orientations.apply_orientation(volume.image[channel], turned))


def _regions(label: NDArray[np.uint8]) -> tuple[str, ...]:
    there = np.bincount(label.ravel(), minlength=4)
    return tuple(region for region, classes in REGION_CLASSES.items() if there[list(classes)].any())


def _lost(volume: Volume, spacing: Sequence[float]) -> tuple[str, ...]:
    """The regions that no voxel of the network's grid holds.

    Of any block of as many voxels as a step of the grid is long the grid takes one: a region that holds such a block is not
    lost. MONAI, whose import takes longer than to read a case, is asked of the others alone.
    """
    orientation = io_orientation(volume.affine)
    steps = np.asarray(spacing)[orientation[:, 0].astype(int)] / nib.affines.voxel_sizes(volume.affine)
    block = np.maximum(np.ceil(steps - 1e-3), 1).astype(int)
    small = []
    for region in _regions(volume.label):
        mask = np.isin(volume.label, REGION_CLASSES[region])
        box = mask[ndimage.find_objects(mask.astype(np.uint8))[0]]
        whole = ndimage.minimum_filter(box, size=tuple(block), mode="constant", cval=0)
        if not whole.any():
            small.append(region)
    if not small:
        return ()
    from medexp.data.volumes.transforms import label_on_grid

    left = _regions(label_on_grid(volume.label, volume.affine, spacing))
    return tuple(region for region in small if region not in left)


def digests(volume: Volume) -> tuple[str, str]:
    """sha256 of all, and of the images alone. Adding 0 turns -0 into 0: the same voxels have the same bytes."""
    voxels = hashlib.sha256(repr(volume.label.shape).encode())
    voxels.update(np.ascontiguousarray(volume.image + np.float32(0), "<f4").data)
    whole = voxels.copy()
    whole.update(np.ascontiguousarray(volume.label).data)
    whole.update(np.ascontiguousarray(volume.affine + 0.0, "<f8").data)
    return whole.hexdigest(), voxels.hexdigest()


def _key(case: Case, data: DataConfig) -> str:
    stats = [(str(path.absolute()), *stamp(path)) for path in case.files]
    seen = [sorted(data.classes.items()), list(data.spacing)] if case.label else []
    return hashlib.sha256(json.dumps([VERSION, case.id, stats, *seen]).encode()).hexdigest()[:40]


def _cached(entry: Path) -> CaseFacts | None:
    """The cached facts; None when there are none or the file is damaged."""
    if (record := known_record(entry)) is None:
        return None
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    return CaseFacts(**fields)
