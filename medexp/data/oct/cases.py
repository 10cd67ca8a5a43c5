"""A volume in a place, and the scan that it holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from medexp.data.headers import Header
from medexp.data.storage import Entry, Place

ENDINGS = (".dcm", ".dicom", ".nii.gz", ".nii", ".npy")
"""How the names of files that hold volumes end, in any case."""

DEVICES = ("Spectralis", "Maestro2", "Triton", "Cirrus")
"""As they are called here, whatever a header calls them: DICOM says 3DOCT-1Maestro2, Triton plus, CIRRUS HD-OCT 6000."""

Laterality = Literal["R", "L"]
"""The eye."""

Known = Mapping[str, str | float | tuple[float, ...] | None]
"""What a manifest or a key says: device, region, laterality, frames, rows, columns, spacing_mm (D, H, W); None or missing
where it does not; of a manifest `source`, the file and the line."""


@dataclass(frozen=True)
class OctVolume:
    """One volume of one eye: where its file is.

    Attributes:
        id: Unique: the key without its ending.
        patient: The participant; volumes of one stay in one split.
        place: Where it lies.
        entry: Its file there.
        known: What is known of it without reading it.
    """

    id: str
    patient: str
    place: Place
    entry: Entry
    known: Known = field(default_factory=dict)

    @property
    def scan(self) -> str:
        """Itself, as no slice of another one."""
        return self.id

    @property
    def files(self) -> tuple[Path, ...]:
        """Its file, local: of a bucket it is fetched.

        Raises:
            DataError: It cannot be had.
        """
        return (self.place.fetch(self.entry),)

    @property
    def images(self) -> tuple[Path, ...]:
        """Its file, as the images of other kinds of cases."""
        return self.files


@dataclass(frozen=True)
class Scan:
    """What a file holds.

    Attributes:
        voxels: (D, H, W): B-scans, rows along the beam from the vitreous to the choroid, A-scans. Of the file's type, rescaled
            as its header says; all finite, not all equal.
        spacing_mm: Between B-scans, rows and A-scans, in mm; None where the file does not say.
        header: What it says besides voxels; nothing of whom it is.
        laterality: The eye; None where the file does not say.
        device: Of DEVICES where it is one of them, else as the file has it; None where it does not say.
        frames: What is odd in how the file says that its frames lie, in words; empty where nothing is, or nothing is said.
    """

    voxels: NDArray[Any]
    spacing_mm: tuple[float | None, float | None, float | None]
    header: Header
    laterality: Laterality | None
    device: str | None
    frames: str = ""


def stem_of(key: str) -> str | None:
    """A key without the ending of a volume's file; None where it is none."""
    return next((key[: -len(ending)] for ending in ENDINGS if key.lower().endswith(ending)), None)


def device_named(text: str | None) -> str | None:
    """A device as it is called here; as it is written where nobody knows it, None where nothing is written."""
    written = (text or "").strip()
    squeezed = re.sub(r"[^a-z0-9]", "", written.lower())
    return next((name for name in DEVICES if name.lower() in squeezed), written or None)


def eye_of(text: str | None) -> Laterality | None:
    """The eye that a word stands for: R, L, OD, OS, right, left; None of any other, such as B for both."""
    eyes: Mapping[str, Laterality] = {"r": "R", "od": "R", "right": "R", "l": "L", "os": "L", "left": "L"}
    return eyes.get((text or "").strip().lower())
