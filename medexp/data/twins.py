"""Twins: copies of a picture or volume that are not equal to it, such as one rescaled, saved anew, cropped at its border, of
another brightness, mirrored or turned. A perceptual hash finds them: it is computed once a file and kept with what else is
known of it.

The hash is what is there on a coarse grid, by rank, so that no brightness or contrast matters, less its own blur, so that two
heads are not alike for being heads. Two hashes are compared by their correlation, with one of them as it is, mirrored and
turned: it is a grid, so that nothing is read again for that. docs/twins.md: what the thresholds rest on.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, stats

from medexp.arrays import Array

LEAST = {16**2: 0.92, 10**3: 0.90}
"""Correlation from which on two are twins, by number of the hash's values: of a picture, of a volume."""

OF_A_SCAN = 0.8
"""Share of the slices of a scan with a twin in another one, from which on the scans are twins: some slices of any two heads
are alike, those near the top above all."""

BASES = 2
"""Views of a hash that others are held against, where it has so many."""

_SIDE = {2: 16, 3: 10}  # of the grid, by dimensions
_RIM = {2: 0, 3: 1}  # cells around it that are left out: a volume's hold the outline of a head, which any two have in common
_DIMENSIONS = {side**dimensions: dimensions for dimensions, side in _SIDE.items()}  # by number of the hash's values
_FIRST = {2: 128, 3: 64}  # what larger images are averaged to before anything else
_BLUR = {2: 2.0, 3: 1.5}  # standard deviation, in steps of the grid
_CROPS = (0.0, 0.03, 0.06, 0.1)  # shares that are cut from each side, so that what somebody cropped is found
_FEWEST = 8  # lines of a box along each axis
_LEVELS = 16  # of a value: a hexadecimal digit
_BLOCK = 1024  # rows compared at a time
_MIRRORED = {2: 1, 3: 0}  # axis from left to right: of a picture (H, W), of a volume along R, A, S
_TURNS: Mapping[int, Sequence[Callable[[Array], Array]]] = {
    2: [partial(np.rot90, k=quarters, axes=(-2, -1)) for quarters in range(4)],
    3: [partial(np.flip, axis=axes) for axes in ((), (-2,), (-1,), (-2, -1))],
}
"""How grids (N, views, ...) lie, as they are first: with each of them also mirrored from left to right it is all quarter turns
and mirror images of a picture, and a volume mirrored along any of its axes, which is what a wrong affine comes to."""


class Owned(Protocol):
    """What is split, such as a case or an image; `scan` is the one that it is a slice of, else its own id."""

    @property
    def id(self) -> str: ...
    @property
    def patient(self) -> str: ...
    @property
    def scan(self) -> str: ...


class Digested(Protocol):
    """What is known of one: exact duplicates have the same `voxels_sha256`, twins a `perceptual_hash` that is alike."""

    @property
    def case(self) -> str: ...
    @property
    def voxels_sha256(self) -> str: ...
    @property
    def perceptual_hash(self) -> tuple[str, ...]: ...


def perceptual_hash(image: Array, *, cropped: bool = False) -> tuple[str, ...]:
    """The hash of a picture (H, W) or of a volume (X, Y, Z) of one channel, along axes that are the same for all.

    Args:
        image: Finite values.
        cropped: Whether copies that were cropped at the border are looked for too.

    Returns:
        Views of hexadecimal digits. Of a picture 256 each: of the whole, of the box around what is brighter or darker than the
        background, and with `cropped` three further ones of each; the first two are what others are held against. Of a volume
        one of 1000, of what lies within that box.
    """
    coarse = _averaged(image, tuple(min(length, _FIRST[image.ndim]) for length in image.shape))
    views = [coarse, coarse[_box(coarse)]][image.ndim - 2 :]
    return tuple(_digits(_inner(view, share)) for share in (_CROPS if cropped else _CROPS[:1]) for view in views)


def find_twins(cases: Sequence[Owned], facts: Iterable[Digested]) -> pd.DataFrame:
    """The pairs of cases of different patients that are copies of each other, exact or nearly so.

    Args:
        cases: All cases.
        facts: Of each of them.

    Returns:
        One row a pair, most alike first: case, other, similarity (correlation of the hashes; 1 of exact duplicates), exact.
        Of exact duplicates each is paired with the first by id.
    """
    known = {fact.case: fact for fact in facts}
    ordered = sorted(cases, key=lambda case: case.id)
    digests = [known[case.id].voxels_sha256 for case in ordered]
    first: dict[str, int] = {}
    exact = [(first.setdefault(digest, place), place) for place, digest in enumerate(digests)]
    found = _near(tuple(known[case.id].perceptual_hash for case in ordered), tuple(case.scan for case in ordered))
    one, other = np.array([pair for pair in exact if pair[0] != pair[1]], np.intp).reshape(-1, 2).T
    pairs = pd.DataFrame(
        {
            "one": np.concatenate([one, found[0]]),
            "two": np.concatenate([other, found[1]]),
            "similarity": np.concatenate([np.ones(len(one)), found[2]]),
            "exact": np.repeat([True, False], [len(one), len(found[0])]),
        }
    )
    ids, patients = np.array([case.id for case in ordered], object), np.array([case.patient for case in ordered], object)
    same = np.unique(np.array(digests), return_inverse=True)[1] if digests else np.empty(0, np.intp)
    strangers = patients[pairs["one"]] != patients[pairs["two"]]
    pairs = pairs[strangers & (pairs["exact"] | (same[pairs["one"]] != same[pairs["two"]]))]
    named = pairs.assign(case=ids[pairs["one"]], other=ids[pairs["two"]])[["case", "other", "similarity", "exact"]]
    return named.sort_values(["similarity", "case", "other"], ascending=[False, True, True], ignore_index=True)


def like(hashes: Sequence[tuple[str, ...]], others: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    """The twins of some hashes among others, one row a pair: one, other (places) and similarity."""
    parts = [np.empty((3, 0))]
    for mine, mine_at in _by_size(hashes):
        for theirs, at in _by_size(others):
            if theirs.shape[-1] == mine.shape[-1]:
                parts += [np.stack([mine_at[rows], at[columns], alike]) for rows, columns, alike in _pairs(mine, theirs)]
    found = pd.DataFrame(np.concatenate(parts, axis=1).T, columns=["one", "other", "similarity"])
    return found.astype({"one": int, "other": int})


@functools.lru_cache(maxsize=4)  # splits, folds and lists ask for the same
def _near(hashes: tuple[tuple[str, ...], ...], scans: tuple[str, ...]) -> tuple[Array, Array, Array]:
    """Twins among hashes: places of both, the first the smaller, and their similarity; of slices those of twin scans alone."""
    scan = np.unique(np.array(scans), return_inverse=True)[1] if scans else np.empty(0, np.intp)
    parts = [np.empty((3, 0))]
    for views, at in _by_size(hashes):
        for rows, columns, similarity in _pairs(views, views):
            one, two = at[rows], at[columns]
            kept = scan[one] != scan[two]
            parts.append(np.stack([np.minimum(one, two)[kept], np.maximum(one, two)[kept], similarity[kept]]))
    one, two, similarity = np.concatenate(parts, axis=1)
    every = pd.DataFrame({"one": one.astype(int), "two": two.astype(int), "similarity": similarity})
    found = every.sort_values("similarity").drop_duplicates(["one", "two"], keep="last")
    if found.empty:
        return one.astype(int), two.astype(int), similarity
    found["scan"], found["other"] = scan[found["one"]], scan[found["two"]]
    swapped = found.rename(columns={"one": "two", "two": "one", "scan": "other", "other": "scan"})
    counts = pd.concat([found, swapped]).groupby(["scan", "other"])["one"].nunique()
    sizes = np.bincount(scan, minlength=1)
    pairs = found[["scan", "other"]]
    there, back = pd.MultiIndex.from_frame(pairs), pd.MultiIndex.from_frame(pairs[["other", "scan"]])
    mine, theirs = (
        counts.reindex(index).to_numpy() / sizes[pairs[name]] for index, name in ((there, "scan"), (back, "other"))
    )
    fewer = np.where(sizes[pairs["scan"]] <= sizes[pairs["other"]], mine, theirs)
    found = found[fewer >= OF_A_SCAN]
    return found["one"].to_numpy(), found["two"].to_numpy(), found["similarity"].to_numpy()


def _by_size(hashes: Sequence[tuple[str, ...]]) -> list[tuple[Array, NDArray[np.intp]]]:
    """The hashes of one shape each, as unit vectors (N, views, values), and their places; those that are empty are in none."""
    shapes = [(len(views), len(views[0])) if views else (0, 0) for views in hashes]
    found = []
    for shape in sorted(set(shapes) - {(0, 0)}):
        at = np.array([place for place, each in enumerate(shapes) if each == shape], np.intp)
        text = "".join("".join(hashes[place]) for place in at).encode()
        digits = np.frombuffer(text, np.uint8).astype(np.int16)
        values = np.where(digits > ord("9"), digits - ord("a") + 10, digits - ord("0")).astype(np.float32)
        values = values.reshape(len(at), *shape)
        values -= values.mean(axis=-1, keepdims=True)
        norm = np.linalg.norm(values, axis=-1, keepdims=True)
        found.append((np.divide(values, norm, out=np.zeros_like(values), where=norm > 0), at))
    return found


def _pairs(mine: Array, theirs: Array) -> Iterable[tuple[Any, Any, Array]]:
    """Rows of both whose hashes are alike, and how much: each view against the one that it was cropped from, and the whole
    against the box, which it is where there is no border; of what was turned the whole and the box alone. One matrix product
    each, in blocks."""
    least, count = LEAST[mine.shape[-1]], mine.shape[1]
    bases = min(count, BASES)
    compared = [(view, view % bases) for view in range(count)] + [(0, 1), (1, 0)][: 2 * (bases - 1)]
    ours = next(_parts(mine))
    both = [*zip(_parts(theirs[:, :bases]), [compared, *[compared[:bases]] * 3], strict=True)]
    for start in range(0, len(mine), _BLOCK):
        even, odd = (part[start : start + _BLOCK] for part in ours)
        best = np.full((len(even), len(theirs)), -1, np.float32)
        for (their_even, their_odd), views in both:
            for view, base in views:
                alike = odd[:, view] @ their_odd[:, base].T
                np.abs(alike, out=alike)
                alike += even[:, view] @ their_even[:, base].T
                np.maximum(best, alike, out=best)
        rows, columns = np.nonzero(best > least)
        yield rows + start, columns, best[rows, columns].astype(float)


def _parts(values: Array) -> Iterator[tuple[Array, Array]]:
    """What mirroring from left to right leaves as it is and what it turns round, of values (N, views, values), for each turn.

    A correlation is the sum of that of the even parts and that of the odd ones, and the difference with one of both mirrored:
    with the absolute value of the odd one it is the larger of the two, at the cost of one.
    """
    dimensions = _DIMENSIONS[values.shape[-1]]
    side, flat = _SIDE[dimensions], (*values.shape[:2], -1)
    half = side // 2
    for turn in _TURNS[dimensions]:
        turned = turn(values.reshape(*values.shape[:2], *[side] * dimensions))
        grids = np.moveaxis(turned, 2 + _MIRRORED[dimensions], -1) * np.float32(np.sqrt(0.5))
        left, right = grids[..., :half], grids[..., : half - 1 : -1]
        yield (left + right).reshape(flat), (left - right).reshape(flat)


def _digits(image: Array) -> str:
    side, rim, blur = _SIDE[image.ndim], _RIM[image.ndim], _BLUR[image.ndim]
    small = _averaged(image, (side + 2 * rim,) * image.ndim)
    ranks = stats.rankdata(small).reshape(small.shape)
    edges = ranks - ndimage.gaussian_filter(ranks, blur)
    scaled = np.clip(edges / (2.5 * edges.std() or 1), -1, 1)[(slice(rim, rim + side),) * image.ndim]
    return "".join(f"{level:x}" for level in np.round((scaled + 1) / 2 * (_LEVELS - 1)).astype(int).ravel())


def _averaged(image: Array, shape: tuple[int, ...]) -> Array:
    """Means over equal parts, whose borders may lie within a pixel."""
    for axis, parts in enumerate(shape):
        rows = np.moveaxis(image, axis, 0)
        sums = np.concatenate([np.zeros((1, *rows.shape[1:])), rows.cumsum(axis=0, dtype=float)])
        borders = np.linspace(0, len(rows), parts + 1)
        below = np.minimum(borders.astype(int), len(rows) - 1)
        within = (borders - below).reshape(-1, *[1] * (image.ndim - 1))
        means = np.diff(sums[below] + within * (sums[below + 1] - sums[below]), axis=0) * (parts / len(rows))
        image = np.moveaxis(means, 0, axis)
    return image


def _box(image: Array) -> tuple[slice, ...]:
    """The box around what differs from the background, that of most of the border; all of it where next to nothing does."""
    sides = [side for axis in range(image.ndim) for side in (image.take(0, axis), image.take(-1, axis))]
    background = np.median(np.concatenate([side.ravel() for side in sides]))
    differs = np.abs(ndimage.uniform_filter(image, 3) - background)
    shown = differs > 0.2 * differs.max()
    box = []
    for axis in range(image.ndim):
        counts = shown.sum(axis=tuple(other for other in range(image.ndim) if other != axis))
        places = np.flatnonzero(counts > 0.05 * counts.max())
        box.append(slice(places[0], places[-1] + 1) if len(places) >= _FEWEST else slice(None))
    return tuple(box)


def _inner(image: Array, share: float) -> Array:
    cut = [int(length * share) for length in image.shape]
    return image[tuple(slice(less, length - less) for less, length in zip(cut, image.shape, strict=True))]
