"""What is known of a case once it was read and checked: digests, geometry, semantic features. Computed once and cached."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medexp.arrays import Array
from medexp.config.data import DataConfig
from medexp.data.headers import Header, of_volume
from medexp.data.parallel import described
from medexp.data.twins import perceptual_hash
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.cases import CHANNELS, Case, Volume
from medexp.data.volumes.semantics import INTENSITY_STATISTICS, SEMANTIC_FEATURES, intensity_statistics, semantic_features
from medexp.errors import DataError
from medexp.files import replacing

VERSION = 5
"""Part of the cache key: raise it when what is computed here, in `semantics` or in `brats` changes."""


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
        header: What its files say besides voxels.
        perceptual_hash: Of the native T1, along R, A, S: alike for copies that are not equal (`medexp.data.twins`).
    """

    case: str
    sha256: str
    voxels_sha256: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    semantic: tuple[float, ...]
    intensity: tuple[float, ...]
    header: Header
    perceptual_hash: tuple[str, ...]


def describe_cases(cases: Sequence[Case], data: DataConfig, cache: Path) -> tuple[CaseFacts, ...]:
    """Reads, checks and describes every case, in the order given.

    Cases that were described before and whose files have not changed since (path, size and mtime) come from the cache. The
    others are read by `data.jobs` processes, or by another backend of joblib (`in_parallel`).

    Args:
        cases: As `find_cases` returns them.
        data: `label_map` and `jobs`.
        cache: Root of the cache; one small JSON file a case goes under `cases/`.

    Raises:
        DataError: All problems of all cases at once.
    """
    entries = {case.id: cache / "cases" / f"{_key(case, data.label_map)}.json" for case in cases}
    known = {case.id: cached for case in cases if (cached := _cached(entries[case.id], case))}
    todo = {case.id: (case, dict(data.label_map), entries[case.id]) for case in cases if case.id not in known}
    found, problems = described(_describe, todo, data.jobs, "Reading cases")
    if problems:
        counted = f"{len(problems)} of {len(cases)} cases cannot be used:\n" if len(problems) > 1 else ""
        raise DataError(counted + "\n".join(problems.values()))
    facts = known | found
    return tuple(facts[case.id] for case in cases)


def _describe(case: Case, label_map: Mapping[int, int], entry: Path) -> CaseFacts:
    """The facts, written to the cache.

    Raises:
        DataError: The case cannot be used.
    """
    volume = read_case(case, label_map)
    sha256, voxels_sha256 = _digests(volume)
    facts = CaseFacts(
        case=case.id,
        sha256=sha256,
        voxels_sha256=voxels_sha256,
        shape=volume.label.shape,
        spacing=tuple(float(edge) for edge in nib.affines.voxel_sizes(volume.affine)),
        semantic=tuple(semantic_features(volume).tolist()) if case.label else (),
        intensity=tuple(intensity_statistics(volume).tolist()),
        perceptual_hash=perceptual_hash(_t1n(volume)),
        header=of_volume(dict(zip(CHANNELS if len(case.images) > 1 else ("images",), case.images, strict=True))),
    )
    with replacing(entry) as temporary:
        temporary.write_text(json.dumps(asdict(facts)))
    return facts


def _t1n(volume: Volume) -> Array:
    turned = nib.orientations.io_orientation(volume.affine)
    return np.asarray(nib.orientations.apply_orientation(volume.image[CHANNELS.index("t1n")], turned))


def _digests(volume: Volume) -> tuple[str, str]:
    """sha256 of all, and of the images alone. Adding 0 turns -0 into 0: the same voxels have the same bytes."""
    voxels = hashlib.sha256(repr(volume.label.shape).encode())
    voxels.update(np.ascontiguousarray(volume.image + np.float32(0), "<f4").data)
    whole = voxels.copy()
    whole.update(np.ascontiguousarray(volume.label).data)
    whole.update(np.ascontiguousarray(volume.affine + 0.0, "<f8").data)
    return whole.hexdigest(), voxels.hexdigest()


def _key(case: Case, label_map: Mapping[int, int]) -> str:
    stats = [(str(path.absolute()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in case.files]
    return hashlib.sha256(json.dumps([VERSION, case.id, stats, sorted(label_map.items())]).encode()).hexdigest()[:40]


def _cached(entry: Path, case: Case) -> CaseFacts | None:
    """The cached facts; None when there are none or the file is damaged."""
    try:
        record = json.loads(entry.read_text())
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
        facts = CaseFacts(**fields)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    semantic = len(SEMANTIC_FEATURES) if case.label else 0
    complete = len(facts.semantic) == semantic and len(facts.intensity) == len(INTENSITY_STATISTICS)
    return facts if complete and len(facts.sha256) == len(facts.voxels_sha256) == 64 else None
