"""What is known of a pair once it was read and checked. Computed once and cached."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medexp.config.data import PairDataConfig
from medexp.config.flags import flag
from medexp.data.headers import Header, of_volume, two_affines
from medexp.data.kept import keep_record, known_record, stamp
from medexp.data.pairs.marks import DESCRIP
from medexp.data.pairs.read import CHANNEL, image_on_grid, mask_on_grid, preprocessing, read_pair
from medexp.data.parallel import described
from medexp.data.seen import Field
from medexp.data.twins import perceptual_hash
from medexp.data.volumes.background import darker_share, ground_of
from medexp.data.volumes.brats import UnfitLabels
from medexp.data.volumes.cases import Case
from medexp.data.volumes.facts import along_ras, digests
from medexp.errors import DataError, all_problems

VERSION = 6
"""Raise it when what is computed here, in `read`, or in `volumes` of it changes: what is cached is then computed anew."""

SMALLEST = 16
"""Voxels of the network's grid that a head spans along each axis: a VAE that halves twice makes four of them."""

BESIDE = 0.5
"""Share of a lesion that may lie on background; more is the mask of another image."""

LARGEST = 0.4
"""Share of a head that a lesion may fill; more is a mask of the brain, or of what is no lesion."""

_VALUES = 8  # that a mask may hold if its values are labels; more is a map of probabilities, or of structures
_DARK = 0.1  # of a head: around a resampled one some voxels lie a little below the background
_POINTS = 20_000  # of a head's voxels that are looked at


@dataclass(frozen=True)
class PairFacts:
    """What a manifest, a split and a reader need to know of a pair.

    Args:
        case: Its id.
        sha256: Of the voxels of both, the shape and the affine.
        voxels_sha256: Of the image alone: equal for exact duplicates.
        shape: Voxels along the file's axes.
        spacing: Edge of a voxel along the file's axes, in mm.
        perceptual_hash: Of the image, along R, A, S: alike for copies that are not equal (`medexp.data.twins`).
        header: What its files say besides voxels.
        synthetic: Whether it was drawn by a network.
        values: What the mask's file holds besides 0.
        lesion_ml: Volume of the lesion as its file has it; 0 where there is no mask.
        grid_ml: Volume of what the network's grid has of it.
        beside: Share of the lesion, 0 to 1, that lies on background.
        cut: Share of the head, 0 to 1, that lies beyond the grid.
        level: Value of the background; None where nothing can be told from the head.
        lowest: The smallest value of the background; 0 where nothing can be told.
        highest: The largest one.
        hot: Voxels of a value that no tissue has.
        hottest: The farthest of these values; 0 where there is none.
        affines: `medexp.data.headers.two_affines` of its files.
    """

    case: str
    sha256: str
    voxels_sha256: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    perceptual_hash: tuple[str, ...]
    header: Header
    synthetic: bool
    values: tuple[int, ...]
    lesion_ml: float
    grid_ml: float
    beside: float
    cut: float
    level: float | None
    lowest: float
    highest: float
    hot: int
    hottest: float
    affines: str = ""

    @property
    def fields(self) -> dict[str, Field]:
        """What stands for how a pair looked before anything was done to it (`medexp.data.seen`): what its files say."""
        return dict(self.header)


def describe_pairs(cases: Sequence[Case], data: PairDataConfig, cache: Path, block: str = "data") -> dict[str, PairFacts]:
    """Reads, checks and describes every pair, or every volume where there are no masks; by id, in the order given.

    Pairs that were described before and whose files have not changed since (path, size and times) come from the cache.

    Args:
        cases: As `find_pairs` gives them.
        data: `lesion`, `spacing`, `input_size` and `jobs`.
        cache: Root of the cache; small JSON files go under `pairs/`.
        block: Where `data` stands in the configuration, for messages.

    Raises:
        DataError: All problems of all cases at once: those of `read_pair`; a head that is too small for the VAE, or darker
            than its background; a lesion that is lost on the network's grid, that its border cuts, that lies on background, or
            that fills the head.
    """
    follows = [VERSION, preprocessing(data.spacing, data.input_size).key, data.lesion]
    entries = {case.id: cache / "pairs" / f"{_key(case, follows)}.json" for case in cases}
    known = {case.id: fact for case in cases if (fact := _cached(entries[case.id]))}
    todo = {case.id: (case, data, entries[case.id], block) for case in cases if case.id not in known}
    found, problems = described(_describe, todo, data.jobs, "Reading pairs")
    known |= found
    if problems:
        counted = f"{len(problems)} of {len(cases)} cases cannot be used:\n" if len(problems) > 1 else ""
        told = counted + "\n".join(str(problems[case.id]) for case in cases if case.id in problems)
        unfit = {value for error in problems.values() if isinstance(error, UnfitLabels) for value in error.values}
        held = unfit | {value for fact in known.values() for value in fact.values}
        if unfit:
            listed = ",".join(map(str, sorted(held)))
            if len(held) <= _VALUES and min(held) > 0:
                told += f"\nThe masks hold {listed}. If all of that is lesion: -P '{block}.lesion=[{listed}]'; "
                told += "else write masks of 0 and 1"
            else:
                told += f"\nThe masks hold {len(held)} values, from {min(held)} to {max(held)}, as maps of probabilities or "
                told += "structures do: write masks of 0 and 1, as by fslmaths MASK -thr VALUE -bin NEW_MASK"
        raise DataError(told)
    return {case.id: known[case.id] for case in cases}


def _describe(case: Case, data: PairDataConfig, entry: Path, block: str) -> PairFacts:
    """The facts, written to the cache.

    Raises:
        DataError: The case cannot be used.
    """
    volume = read_pair(case, data, block)
    ground = ground_of(volume.image[0])
    affine, shape = image_on_grid(volume, data)[1], data.input_size
    head = np.argwhere(ground.brain)[:: max(1, int(ground.brain.sum()) // _POINTS)]
    at = nib.affines.apply_affine(np.linalg.inv(affine) @ volume.affine, head)
    onto = mask_on_grid(volume.label, volume.affine, affine, shape)
    of_file, of_grid = (abs(float(np.linalg.det(one))) / 1000 for one in (volume.affine, affine))
    header = of_volume(dict(zip((CHANNEL, "mask"), case.files, strict=False)))
    sha256, voxels_sha256 = digests(volume)
    facts = PairFacts(
        case=case.id,
        sha256=sha256,
        voxels_sha256=voxels_sha256,
        shape=volume.label.shape,
        spacing=tuple(float(edge) for edge in nib.affines.voxel_sizes(volume.affine)),
        perceptual_hash=perceptual_hash(along_ras(volume, 0)),
        header=header,
        synthetic=any(str(header.get(f"{name} descrip")).startswith(DESCRIP) for name in (CHANNEL, "mask")),
        values=volume.values,
        lesion_ml=np.count_nonzero(volume.label) * of_file,
        grid_ml=np.count_nonzero(onto.mask) * of_grid,
        beside=float(1 - ground.brain[volume.label > 0].mean()) if volume.label.any() else 0.0,
        cut=float(1 - ((at >= -0.5) & (at < np.array(shape) - 0.5)).all(axis=1).mean()),
        level=ground.level,
        lowest=ground.lowest,
        highest=ground.highest,
        hot=ground.hot,
        hottest=ground.hottest,
        affines=two_affines(case.files),
    )
    share = float((volume.label[ground.brain] > 0).mean()) if ground.brain.any() else 0.0
    dark = darker_share(volume.image[0][ground.brain], ground.level or 0)
    if problems := list(_problems(facts, np.ptp(at, axis=0) + 1, dark, onto.outside, share, of_grid, data, block)):
        left_out = flag(f"{block}.exclude", [case.id])
        raise DataError(all_problems(f"case {case.id}", problems, f"Or leave the case out with {left_out}."))
    keep_record(entry, asdict(facts))
    return facts


def _problems(
    facts: PairFacts,
    spans: NDArray[np.float64],
    dark: float,
    outside: float,
    share: float,
    voxel_ml: float,
    data: PairDataConfig,
    block: str,
) -> Iterator[str]:
    """What is wrong with a pair that could be read; `spans` of the head in voxels of the grid, `dark`, `outside` and `share`
    (of the head that the lesion fills) from 0 to 1."""
    grid = f"{' x '.join(map(str, data.input_size))} voxels of {' x '.join(f'{edge:g}' for edge in data.spacing)} mm"
    if (spans < SMALLEST).any():
        found = " x ".join(f"{span:.0f}" for span in spans)
        yield (
            f"a volume too small for the VAE: its head spans {found} voxels of {block}.spacing, of {SMALLEST} along each "
            f"axis; give a finer one, such as -P '{block}.spacing=[{_finer(spans, data.spacing)}]'"
        )
    if dark > _DARK:
        yield (
            f"{dark:.0%} of its head is darker than the background ({facts.level or 0:.6g}), as of z-scores with a background "
            "of 0, of padding no brighter than tissue, or of inverted grey: give the intensities as the scanner wrote them, "
            "with a background below the head"
        )
    if facts.lesion_ml and not facts.grid_ml and outside == 0:
        yield (
            f"its lesion of {facts.lesion_ml:.2g} ml is lost on the network's grid, of which a voxel has {voxel_ml:.2g} ml; "
            f"give a finer {block}.spacing"
        )
    if outside > 0:
        yield (
            f"{max(outside, 0.001):.1%} of its lesion lies beyond the network's grid of {grid} around the head's centre; give "
            f"a larger {block}.input_size, or a coarser {block}.spacing"
        )
    if facts.beside > BESIDE:
        yield f"{facts.beside:.0%} of its lesion lies on background: the mask is of another image, or its affine is wrong"
    if share > LARGEST:
        yield f"its lesion fills {share:.0%} of the head: it is a mask of the brain, or has 0 and 1 changed round"


def _finer(spans: NDArray[np.float64], spacing: Sequence[float]) -> str:
    """A spacing on which the head spans enough along each axis, rounded down to tenths."""
    enough = np.floor(10 * np.minimum(1, spans / (SMALLEST + 1)) * np.asarray(spacing)) / 10
    return ",".join(f"{edge:g}" for edge in np.maximum(enough, 0.1))


def _key(case: Case, follows: Sequence[Any]) -> str:
    stats = [(str(path.absolute()), *stamp(path)) for path in case.files]
    return hashlib.sha256(json.dumps([*follows, case.id, stats]).encode()).hexdigest()[:40]


def _cached(entry: Path) -> PairFacts | None:
    """The cached facts; None when there are none or the file is damaged."""
    if (record := known_record(entry)) is None:
        return None
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    return PairFacts(**fields)
