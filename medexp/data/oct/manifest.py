"""AI-READI's manifest.tsv of versions 1 to 3: what each file shows, told without reading it.

Versions 1 and 2 say participant_id, version 3 says person_id. `filepath` begins with a slash and lies in the data set, such as
/retinal_oct/structural_oct/topcon_triton/1001/1001_triton_macula_6x6_octa_oct_r_1.2.3.dcm. pixel_spacing is written [0.0039,
0.012], or "Varies by frame"; slice_thickness is the distance of B-scans, or "Not reported".
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medexp.data.inputs import lines_of
from medexp.data.oct.cases import Known, device_named, eye_of
from medexp.data.oct.labels import PERSON
from medexp.data.storage import Entry, Place
from medexp.errors import DataError

NAME = "manifest.tsv"
"""Of the files that are looked for among the data."""

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Row:
    """A file of a manifest.

    Attributes:
        person: Whose it is.
        path: In the data set, without a slash before it.
        imaging: What is imaged, such as OCT or Infrared Reflectance; empty where it is not said.
        region: Such as "Macula, 6 x 6"; empty where it is not said.
        known: As `medexp.data.oct.cases.OctVolume.known` has it.
        source: The manifest and the line, for messages.
    """

    person: str
    path: str
    imaging: str
    region: str
    known: Known
    source: str


@dataclass(frozen=True)
class Manifest:
    """All manifests of a data set.

    Attributes:
        by_name: Their rows by the name of the file, without its folders.
    """

    by_name: dict[str, list[Row]]

    def of(self, key: str) -> list[Row]:
        """The rows of a key, none where no manifest lists it. A key may begin above the data set's folder or below it."""
        named = self.by_name.get(key.rpartition("/")[2], [])
        return [row for row in named if f"/{key}".endswith(f"/{row.path}") or f"/{row.path}".endswith(f"/{key}")]

    @property
    def rows(self) -> Sequence[Row]:
        return [row for rows in self.by_name.values() for row in rows]


def find_manifests(place: Place, entries: Iterable[Entry], given: Sequence[Path] = ()) -> Manifest:
    """The manifests that are given, else those named manifest.tsv among the data and, of a folder, right above it.

    Others of that name, of data that are no files of participants, are passed over; one that is given has to be one.

    Raises:
        DataError: One cannot be read, or one that is given has no columns for a participant and a file.
    """
    paths = list(given)
    if not given:
        paths = [place.fetch(entry) for entry in entries if entry.key.rpartition("/")[2].lower() == NAME]
        above = Path(place.uri).parent / NAME
        paths += [above] if "://" not in place.uri and above.is_file() else []
    by_name: dict[str, list[Row]] = defaultdict(list)
    for path in paths:
        for row in _read(path, needed=bool(given)):
            by_name[row.path.rpartition("/")[2]].append(row)
    return Manifest(dict(by_name))


def _read(path: Path, needed: bool) -> list[Row]:
    (_, header), *lines = lines_of(path, "\t") or [(1, [])]
    names = [name.strip().lower() for name in header]
    person = next((name for name in PERSON if name in names), None)
    if person is None or "filepath" not in names:
        if needed:
            found = ", ".join(filter(None, names)) or "nothing"
            raise DataError(f"{path}: no manifest: it needs {' or '.join(PERSON)} and filepath; its first line holds {found}")
        return []
    rows = []
    for line, values in lines:
        said = dict(zip(names, (value.strip() for value in values), strict=False))
        who, file = said.get(person, ""), said.get("filepath", "").lstrip("/")
        if who and file:
            known: Known = {
                "device": device_named(said.get("manufacturers_model_name")),
                "region": said.get("anatomic_region") or None,
                "laterality": eye_of(said.get("laterality")),
                "frames": _number(said.get("number_of_frames")),
                "rows": _number(said.get("height")),
                "columns": _number(said.get("width")),
                "spacing_mm": _spacing(said.get("slice_thickness", ""), said.get("pixel_spacing", "")),
            }
            region, imaging = said.get("anatomic_region", ""), said.get("imaging", "")
            rows.append(Row(who, file, imaging, region, known, f"{path.name}, line {line}"))
    return rows


def _number(text: str | None) -> float | None:
    return float(text) if text and _NUMBER.fullmatch(text) else None


def _spacing(between: str, within: str) -> tuple[float, ...] | None:
    """Between B-scans, rows and A-scans, in mm; None where one of them is not said."""
    found = (*map(float, _NUMBER.findall(between)), *map(float, _NUMBER.findall(within)))
    return found if len(found) == 3 and min(found) > 0 else None
