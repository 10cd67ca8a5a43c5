"""From participants to the keys of their volumes, in a folder or a bucket, at whatever site.

Whose a key is, a manifest says first, then the names of its folders, the deepest first, then the file's name. An id is found
as a whole part of a name, between what is no letter or digit: 1001 is not in 11001, and not in what looks like a date or UID.
Two that contradict each other are told, and nobody gets the key.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from medexp.data.oct.cases import DEVICES, Known, OctVolume, eye_of, stem_of
from medexp.data.oct.manifest import Manifest, Row
from medexp.data.storage import Entry, Place
from medexp.errors import DataError

REGIONS = ("macula",)
"""Of the retina, that volumes of are taken; what a manifest calls otherwise, or a name shows to be another one, is left
out."""

_NUMBERS = re.compile(r"\d+(?:\.\d+){3,}|(?<!\d)20\d\d([-_.])[01]\d\1[0-3]\d(?!\d)")  # UIDs and dates
_PART = re.compile(r"[0-9A-Za-z]+")
_OTHER_FOLDERS = {
    "retinal_octa": "OCT angiography",
    "retinal_photography": "a picture of the fundus",
    "retinal_flio": "fluorescence lifetimes",
    "enface": "an en face image",
    "flow_cube": "OCT angiography",
    "segmentation": "a segmentation",
}
_OTHER_PARTS = {  # of a file's name; octa is none: structural volumes of an angiography are called so
    "enface": "an en face image",
    "segmentation": "a segmentation",
    "heightmap": "a segmentation",
    "ir": "a picture of the fundus",
    "cfp": "a picture of the fundus",
    "faf": "a picture of the fundus",
}
_RADIAL = "a radial scan around the optic nerve head, no volume"
_BACKWARDS = "20 x 20 mm, of angiography, whose B-scans run backwards"
_REGIONS = {"macula": "macula", "mac": "macula", "wide": "wide field", "onh": "optic disc", "disc": "optic disc"}


@dataclass(frozen=True)
class Located:
    """The volumes of participants.

    Attributes:
        volumes: By id.
        missing: Participants without one, sorted.
        contested: Keys that nobody gets: participant (those that it may be of, with blanks between), key, reason.
        left_out: Keys that are no volumes of the wanted kind or of nobody in the table, and rows of a manifest without a file:
            participant (empty where it is nobody's), key, reason.
    """

    volumes: tuple[OctVolume, ...]
    missing: tuple[str, ...]
    contested: pd.DataFrame
    left_out: pd.DataFrame


def locate(
    place: Place,
    entries: Sequence[Entry],
    participants: Collection[str],
    manifest: Manifest,
    others: Collection[str] = (),
    regions: Sequence[str] = REGIONS,
) -> Located:
    """The volumes of each participant, by key.

    Args:
        place: Where the entries lie.
        entries: Its files.
        participants: Whose volumes are wanted.
        manifest: `find_manifests`.
        others: Ids that are known and not wanted.
        regions: Of the retina, as manifests begin to name them, in any case; a volume of which nothing says a region is taken.

    Raises:
        DataError: No key is one of a volume.
    """
    known, wanted = {*participants, *others}, {*participants}
    volumes: list[OctVolume] = []
    contested, left_out = [], []
    stems = Counter(stem for entry in entries if (stem := stem_of(entry.key)))
    if not stems:
        raise DataError(
            f"{place.uri}: holds no DICOM, NIfTI or NPY file; give the folder or prefix that the volumes are under"
        )
    listed = set()
    for entry in entries:
        if (stem := stem_of(entry.key)) is None:
            continue
        rows = manifest.of(entry.key)
        listed |= {(row.person, row.path) for row in rows}
        owners = list(dict.fromkeys([*(row.person for row in rows), *_named(entry.key, known)]))
        if len(owners) != 1:
            if mine := wanted & set(owners):
                of = f"{rows[0].source} says {rows[0].person}; " if rows else ""
                contested.append((" ".join(sorted(mine)), entry.key, f"is of several participants: {of}{', '.join(owners)}"))
            elif not owners:
                left_out.append(("", entry.key, "names no participant of the table"))
        elif owners[0] not in wanted:
            told = "of a participant who is left out" if owners[0] in known else "of a participant who is not in the table"
            left_out.append((owners[0], entry.key, told))
        elif reason := _unfit(entry.key, rows, regions):
            left_out.append((owners[0], entry.key, reason))
        else:
            name = stem if stems[stem] == 1 else entry.key
            volumes.append(OctVolume(name, owners[0], place, entry, _known(entry.key, rows)))
    for row in manifest.rows:
        if (row.person, row.path) not in listed and row.person in wanted and not _of_row(row, regions):
            left_out.append((row.person, row.path, f"{row.source}: there is no such file"))
    have = {volume.patient for volume in volumes}
    return Located(
        volumes=tuple(sorted(volumes, key=lambda volume: volume.id)),
        missing=tuple(sorted(wanted - have)),
        contested=_table(contested),
        left_out=_table(left_out),
    )


def _table(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(sorted(rows), columns=["participant", "key", "reason"])


def parts_of(name: str) -> list[str]:
    """The parts of a name between what is no letter or digit, in their order, without UIDs and dates."""
    return _PART.findall(_NUMBERS.sub(" ", name))


def _named(key: str, known: Collection[str]) -> Iterator[str]:
    """Whom the names of a key say: the ids in the deepest folder that has any, and the first one in the file's name."""
    *folders, file = key.split("/")
    for folder in reversed(folders):
        if found := [part for part in parts_of(folder) if part in known]:
            yield from found
            break
    yield from [part for part in parts_of(file) if part in known][:1]


def _unfit(key: str, rows: Sequence[Row], regions: Sequence[str]) -> str:
    """Why a key is not taken; empty where it is. Of the region a manifest knows more than a name."""
    *folders, file = key.lower().split("/")
    parts = parts_of(file)
    told = [_OTHER_FOLDERS[folder] for folder in folders if folder in _OTHER_FOLDERS]
    told += [_OTHER_PARTS[part] for part in parts if part in _OTHER_PARTS]
    told += [reason for row in rows if (reason := _of_row(row, regions))]
    if not any(row.region for row in rows):
        told += [_BACKWARDS] if "20x20" in parts else [_RADIAL] if {"rc", "radial"} & {*parts} else []
        found = _region(parts)
        told += [f"shows the {found}"] if found and not found.startswith(tuple(map(str.lower, regions))) else []
    return next(iter(told), "")


def _of_row(row: Row, regions: Sequence[str]) -> str:
    region = row.region.lower()
    if row.imaging and row.imaging.upper() != "OCT":
        return f"shows {row.imaging}"
    if row.known.get("device") == "Spectralis" and row.known.get("frames") == 27:
        return _RADIAL
    if "20 x 20" in region:
        return _BACKWARDS
    return f"shows {row.region}" if region and not region.startswith(tuple(map(str.lower, regions))) else ""


def _region(parts: Sequence[str]) -> str | None:
    return next((_REGIONS[part.lower()] for part in parts if part.lower() in _REGIONS), None)


def _known(key: str, rows: Sequence[Row]) -> Known:
    """What the manifest says of a key and, where that says nothing, the key."""
    parts = parts_of(key.rpartition("/")[2])
    folders = defaultdict(str, {name.lower(): name for name in DEVICES})
    devices = [folders[part.lower()] for part in parts_of(key) if part.lower() in folders]
    said: Known = {
        "device": devices[-1] if devices else None,
        "region": _region(parts),
        "laterality": next((eye for eye in map(eye_of, reversed(parts)) if eye), None),
    }
    for row in rows[:1]:
        said = {**said, **{name: value for name, value in row.known.items() if value is not None}, "source": row.source}
    return said
