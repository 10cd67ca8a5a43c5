"""NIfTI files from anywhere, opened: what a header claims is held against what there is before memory is taken for it."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import data_type_codes, unit_codes
from nibabel.spatialimages import HeaderDataError

from medexp.errors import DataError

MOST_VOXELS = 2**30
"""Of a file, such as 1024 x 1024 x 1024: what claims more is damaged, or is to fill the memory."""

UNREADABLE = (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, ValueError)
"""What opening a file raises that is none, and reading the voxels of one that is damaged."""

_HEADER, _MORE = 1024, 2**24  # bytes: of a header with what follows it at once; what a file may hold beside its voxels


def open_nifti(path: Path) -> Any:
    """The image of a file, its voxels unread; one that is packed is unpacked whole, so that the checksum at its end counts.

    Raises:
        DataError: Its header claims more than MOST_VOXELS.
        UNREADABLE: It is no NIfTI file, is called otherwise than it is packed, is damaged, or its voxels are not all there.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER)
    packed, named = start[:2] == b"\x1f\x8b", path.name.lower().endswith(".gz")
    if start and packed != named:
        what, name = ("is gzip", f"{path.name}.gz") if packed else ("is no gzip", path.name[:-3])
        raise ImageFileError(f"it {what}; if it is a whole file otherwise, rename it to {name}")
    if packed:
        start = _unpacked(path, _HEADER)
    kinds = [kind for kind in (nib.Nifti1Image, nib.Nifti2Image) if kind.header_class.may_contain_header(start)]
    if not kinds:
        raise ImageFileError("no NIfTI header")
    header = kinds[0].header_class(start[: kinds[0].header_class.template_dtype.itemsize], check=False)
    shape = header.get_data_shape()
    if math.prod(shape) > MOST_VOXELS:
        raise DataError(f"{path.name}: its header says {shape} voxels; at most {MOST_VOXELS} are read")
    if int(header["datatype"]) not in data_type_codes:
        raise ImageFileError(f"voxels of the type {header['datatype']}, which there is none of")
    if packed:
        most = min(abs(math.prod(shape)), MOST_VOXELS) * header.get_data_dtype().itemsize + _MORE
        if len(content := _unpacked(path, most + 1)) > most:
            raise ImageFileError(f"it unpacks to more than {most} bytes, far more than its header claims")
        image: Any = kinds[0].from_bytes(content)
    else:
        image = kinds[0].from_filename(path)
    claimed = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    there = len(content) if packed else path.stat().st_size
    if not 0 <= claimed <= there:
        raise ImageFileError(f"its header claims {claimed} bytes, it holds {there}")
    return image


def unit_of(header: Any) -> str:
    """What a header says that its lengths are in: mm, meter, micron or unknown."""
    code = int(header["xyzt_units"]) % 8  # what is above stands for the unit of time
    return str(unit_codes.label[code]) if code in unit_codes else "unknown"


def _unpacked(path: Path, most: int) -> bytes:
    with gzip.open(path) as file:
        return file.read(most)
