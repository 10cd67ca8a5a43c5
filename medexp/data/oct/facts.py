"""What is known of a volume once it was read and checked: digests, header, statistics. Computed once and cached."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medexp.data.headers import Header
from medexp.data.kept import keep_record, known_record
from medexp.data.oct.cases import OctVolume, Scan
from medexp.data.oct.layers import (
    INTENSITY_STATISTICS,
    LAYER_STATISTICS,
    intensity_statistics,
    layer_statistics,
    upside_down,
)
from medexp.data.oct.readers import contradictions, read_scan
from medexp.data.parallel import described
from medexp.data.seen import Field
from medexp.errors import DataError
from medexp.words import some

VERSION = 4
"""Part of the cache key: raise it when what is computed here, in `layers` or in `readers` changes."""

ODD = {
    "padded": (
        "look padded",
        "They shift and squeeze what an encoder sees of the scan; write its dark in their place, or leave it out",
    ),
    "frames": (
        "have frames that do not lie side by side",
        "An encoder takes B-scans as evenly spaced: keep one of each place, or their mean, and leave gaps out of the "
        "volume, as in those that it was pretrained on",
    ),
    "upside_down": (
        "look upside down",
        "figures/volumes.png of the run shows them: an encoder that was pretrained with the vitreous above judges them "
        "wrongly; write them anew with their rows reversed, unless those that it was pretrained on lay like that too",
    ),
}
"""What is told of volumes because it changes what an encoder sees: how they look, and what to do. None is refused for it: an
encoder may have been pretrained on such volumes."""

_TOGETHER = 4  # volumes that a process is sent at a time


@dataclass(frozen=True)
class OctFacts:
    """What a manifest, a split and a control need to know of a volume.

    Attributes:
        case: Its id.
        sha256: Of the voxels and of what lies between them.
        voxels_sha256: Of the voxels alone: equal for exact duplicates, whatever file they are in.
        perceptual_hash: Empty: exact copies alone are found, since all retinas are much alike (docs/twins.md).
        header: What the file says besides voxels; what it does not say of device and spacing, the manifest does.
        shape: B-scans, rows, A-scans.
        laterality: R or L; None where neither file nor manifest nor key says.
        device: As `medexp.data.oct.cases.DEVICES` has it; None likewise.
        intensity: As named by INTENSITY_STATISTICS.
        layers: As named by LAYER_STATISTICS.
        stray: A value farther from all others than these lie apart, as padding has; None where there is none.
        strays: How many voxels have it.
        frames: What is odd in how its frames lie, in words.
        upside_down: Whether its vitreous seems to lie below.
    """

    case: str
    sha256: str
    voxels_sha256: str
    perceptual_hash: tuple[str, ...]
    header: Header
    shape: tuple[int, ...]
    laterality: str | None
    device: str | None
    intensity: tuple[float, ...]
    layers: tuple[float, ...]
    stray: float | None = None
    strays: int = 0
    frames: str = ""
    upside_down: bool = False

    @property
    def odd(self) -> dict[str, str]:
        """What is odd in it and changes what an encoder sees, in words, by the names of ODD."""
        padded = f"{self.strays} of {prod(self.shape)} voxels are {self.stray or 0:.6g}, far from all others, as padding is"
        turned = "its dark side lies below the retina, as if it were upside down" if self.upside_down else ""
        return {
            name: words for name, words in zip(ODD, (padded if self.strays else "", self.frames, turned), strict=True) if words
        }

    @property
    def fields(self) -> dict[str, Field]:
        """What stands for how a volume looked before anything was done to it (`medexp.data.seen`)."""
        return fields_of(self.header, self.intensity, self.layers)


def fields_of(header: Header, intensity: Sequence[float], layers: Sequence[float]) -> dict[str, Field]:
    """What `OctFacts.fields` has, of a volume that nobody described: what of its header an encoder could see, and figures."""
    seen = ("frames", "rows", "columns", "spacing frames", "spacing rows", "spacing columns", "device")
    statistics = dict(zip(INTENSITY_STATISTICS, intensity, strict=True))
    told: dict[str, Field] = {name: header.get(name) for name in seen}
    told |= {f"intensity_{name}": statistics[name] for name in ("mean", "sd", "p99")}
    return told | {"thickness_mean": dict(zip(LAYER_STATISTICS, layers, strict=True))["thickness_mean"]}


def header_of(facts: Sequence[OctFacts]) -> Header:
    """What the headers of all volumes of a participant say together: of text all that there is, of numbers the mean. What one
    of them says an encoder sees in the pooled answer, whichever volume comes first."""
    said: dict[str, float | str | None] = {}
    for name in dict.fromkeys(name for one in facts for name in one.header):
        values = [value for one in facts if (value := one.header.get(name)) is not None]
        texts = sorted({value for value in values if isinstance(value, str)})
        numbers = [value for value in values if not isinstance(value, str)]
        said[name] = " and ".join(texts) or (float(np.mean(numbers)) if numbers else None)
    return said


def identity(scan: Scan) -> tuple[str, tuple[str, ...]]:
    """`voxels_sha256` and `perceptual_hash` of a volume, by which it is known again.

    Whole and real numbers that are equal have the same digest.
    """
    whole = hashlib.sha256(repr(scan.voxels.shape).encode())
    for frame in scan.voxels:
        whole.update(np.ascontiguousarray(frame.astype("<f4") + np.float32(0)).data)  # -0 becomes 0
    return whole.hexdigest(), ()


def read_volume(volume: OctVolume) -> Scan:
    """What a volume's file holds, held against what its manifest says.

    Raises:
        DataError: It cannot be had, read or used, or contradicts the manifest; one line.
    """
    path = volume.place.fetch(volume.entry)
    scan = read_scan(path)
    if wrong := contradictions(scan, volume.known):
        raise DataError(f"{path}: {'; '.join(wrong)}")
    return scan


def describe_scan(case: str, scan: Scan, known: Mapping[str, Any]) -> OctFacts:
    """The facts of a scan.

    Args:
        case: Its id.
        scan: What its file holds.
        known: What a manifest or its key says; counts where the file does not say.
    """
    voxels_sha256, hashed = identity(scan)
    spacing = known.get("spacing_mm") or (None, None, None)
    edges = [mine or theirs for mine, theirs in zip(scan.spacing_mm, spacing, strict=True)]
    device = scan.device or known.get("device")
    stray, strays = _stray(scan.voxels)
    names = ("spacing frames", "spacing rows", "spacing columns")
    return OctFacts(
        case=case,
        sha256=hashlib.sha256(json.dumps([voxels_sha256, edges]).encode()).hexdigest(),
        voxels_sha256=voxels_sha256,
        perceptual_hash=hashed,
        header={**scan.header, **dict(zip(names, edges, strict=True)), "device": device},
        shape=scan.voxels.shape,
        laterality=scan.laterality or known.get("laterality"),
        device=device,
        intensity=tuple(intensity_statistics(scan.voxels).tolist()),
        layers=tuple(layer_statistics(scan.voxels, edges[1]).tolist()),
        stray=stray,
        strays=strays,
        frames="; ".join(filter(None, (scan.frames, _copies(scan.voxels)))),
        upside_down=upside_down(scan.voxels),
    )


def describe_volumes(volumes: Sequence[OctVolume], cache: Path, jobs: int) -> tuple[dict[str, OctFacts], dict[str, DataError]]:
    """Reads, checks and describes every volume.

    Those that were described before and whose content has not changed since (place, key, size and ETag) come from the cache,
    without being read.

    Args:
        volumes: As `locate` returns them.
        cache: Root of the cache; one small JSON file a volume goes under `oct/`.
        jobs: Processes.

    Returns:
        The facts by id, and what is wrong with the others by id.
    """
    entries = {volume.id: cache / "oct" / f"{_key(volume)}.json" for volume in volumes}
    known = {volume.id: cached for volume in volumes if (cached := _cached(entries[volume.id]))}
    todo = {volume.id: (volume, entries[volume.id]) for volume in volumes if volume.id not in known}
    found, problems = described(_describe, todo, jobs, "Reading volumes", together=_TOGETHER)
    return {volume.id: fact for volume in volumes if (fact := (known | found).get(volume.id))}, problems


def _copies(voxels: NDArray[Any]) -> str:
    """Which B-scans are exact copies of others, in words: noise makes any two differ, but those of one value."""
    found: dict[bytes, int] = {}
    pairs = []
    for number, frame in enumerate(voxels, start=1):
        first = found.setdefault(hashlib.sha256(np.ascontiguousarray(frame).data).digest(), number)
        if first != number and frame.min() < frame.max():
            pairs.append(f"{first} and {number}")
    return f"of its frames {some(pairs, 3)} are copies" if pairs else ""


def _stray(voxels: NDArray[Any]) -> tuple[float | None, int]:
    """The largest or smallest value where it is farther from all others than these lie apart, and how many voxels have it."""
    low, high = voxels.min(), voxels.max()
    below = max(float(np.max(frame, where=frame < high, initial=low)) for frame in voxels)
    above = min(float(np.min(frame, where=frame > low, initial=high)) for frame in voxels)
    for value, gap, others in ((high, high - below, below - low), (low, above - low, high - above)):
        if gap > others > 0:
            return float(value), sum(int(np.count_nonzero(frame == value)) for frame in voxels)
    return None, 0


def _describe(volume: OctVolume, entry: Path) -> OctFacts:
    facts = describe_scan(volume.id, read_volume(volume), volume.known)
    keep_record(entry, asdict(facts))
    return facts


def _key(volume: OctVolume) -> str:
    known = sorted((name, value) for name, value in volume.known.items() if value is not None and name != "source")
    content = [VERSION, volume.place.uri, volume.entry.key, volume.entry.size, volume.entry.etag, known]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:40]


def _cached(entry: Path) -> OctFacts | None:
    """The cached facts; None when there are none or the file is damaged."""
    if (record := known_record(entry)) is None:
        return None
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    return OctFacts(**fields)
