"""OCT files as volumes: DICOM, NIfTI and NPY, by how their names end."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from medexp.arrays import MAX_VALUE
from medexp.data.nifti import open_nifti
from medexp.data.oct.cases import DEVICES, ENDINGS, Scan
from medexp.errors import DataError

AXES = ("S", "P", "L")
"""Where B-scans, rows and A-scans of a NIfTI file run to: upward, into the eye, to the patient's left, which is how ITK writes
an array of that order."""

MOST = 2**30
"""Voxels of a volume at most; the largest that devices make have 2**28."""

_LYING = 2.0  # times as much change along another axis as along the beam, from which on the axes are in another order
_VOLUME = "a volume is (D, H, W): B-scans, rows along the beam, A-scans"
_NPY = b"\x93NUMPY"


def read_scan(path: Path) -> Scan:
    """What a file holds, with its frames in order and its values rescaled.

    NIfTI is turned as its affine says to AXES; one that says nothing (no code, or the identity: no voxel of OCT is a
    millimetre wide) and NPY are taken as they lie, (D, H, W) or (1, D, H, W): B-scans, rows along the beam, A-scans.

    Beside the volume, in the file's type, no more than a frame is in memory (NIfTI that is compressed or turned: a second
    volume).

    Raises:
        DataError: It cannot be read, is no volume, holds values that are not finite or all equal, or its layers do not lie
            along its rows; one line.
    """
    ending = next((one for one in ENDINGS if path.name.lower().endswith(one)), None)
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is empty (0 bytes)")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if ending is None:
        raise DataError(f"{path}: no file of a volume ({', '.join(ENDINGS)})")
    scan = _npy(path) if ending == ".npy" else _nifti(path) if ending.startswith(".nii") else _dicom(path)
    _demand_finite(path, scan.voxels)
    _demand_layers(path, scan.voxels)
    sizes = dict(zip(("frames", "rows", "columns"), map(float, scan.voxels.shape), strict=True))
    spacing = {f"spacing {name}": edge for name, edge in zip(sizes, scan.spacing_mm, strict=True)}
    return replace(scan, header={**sizes, **spacing, **scan.header})


def contradictions(scan: Scan, known: Mapping[str, Any]) -> list[str]:
    """What a manifest says of a volume and its file does not: frames, rows, columns, the eye, and of two DEVICES the device.

    What a key alone says is no contradiction: an R in a name may be anything.
    """
    if not (source := known.get("source")):
        return []
    held: dict[str, Any] = dict(zip(("frames", "rows", "columns"), scan.voxels.shape, strict=True))
    held |= {"laterality": scan.laterality, "device": scan.device if scan.device in DEVICES else None}
    told = []
    for name, value in held.items():
        said = known.get(name)
        if None not in (said, value) and said != value and (name != "device" or said in DEVICES):
            told.append(f"{name}: {source} says {said if isinstance(said, str) else f'{said:g}'}, the file {value}")
    return told


def _dicom(path: Path) -> Scan:
    from medexp.data.oct.dicom import read_dicom  # pydicom, which a model that takes no OCT need not have

    return read_dicom(path, MOST)


def _npy(path: Path) -> Scan:
    with path.open("rb") as file:
        if file.read(len(_NPY)) != _NPY:
            raise DataError(f"{path}: no NPY file; pickles are never read, since reading one runs what is in it")
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        told = (
            "holds Python objects, which are never read"
            if "Python objects" in str(error)  # an array of them is not mapped
            else f"is cut off or damaged ({error})"
        )
        raise DataError(f"{path}: {told}") from error
    voxels = _demand_volume(path, stored)
    header = {"format": "NPY", "device": None, "bits": float(8 * stored.dtype.itemsize), "data type": str(stored.dtype)}
    return Scan(np.array(voxels, _kept(voxels.dtype), order="C"), (None, None, None), header, None, None)


def _nifti(path: Path) -> Scan:
    try:
        image = open_nifti(path)
        stored = _demand_volume(path, image.dataobj)
        turned = _orientation(image) if len(stored.shape) == len(image.shape) or image.shape[3] == 1 else None
        affine = np.asarray(image.affine, float)
        scaled = image.dataobj.slope not in (None, 1.0) or image.dataobj.inter not in (None, 0.0)
        read = np.asarray(stored if stored is not image.dataobj else image.dataobj)
    except DataError:
        raise
    except Exception as error:  # nibabel and gzip on what is no NIfTI file: whatever they raise, it is damaged
        line = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise DataError(f"{path}: cannot be read as NIfTI ({line}); it is cut off or damaged") from error
    read = read.astype(np.float32 if scaled else _kept(read.dtype), copy=False)
    edges = nib.affines.voxel_sizes(affine)
    spacing: list[float | None] = [None, None, None]
    if turned is not None:
        read = apply_orientation(read, turned)
        for axis, (onto, _) in enumerate(turned.astype(int)):
            spacing[onto] = float(edges[axis])
    header = {"format": "NIfTI", "device": None, "bits": float(8 * image.get_data_dtype().itemsize)}
    header |= {"data type": str(image.get_data_dtype())}
    return Scan(np.array(read, order="C"), (spacing[0], spacing[1], spacing[2]), header, None, None)


def _orientation(image: Any) -> NDArray[Any] | None:
    """How the axes of a file are turned to AXES; None where nothing says how they lie."""
    header = image.header
    said = int(header["sform_code"]) or int(header["qform_code"])
    if not said or np.array_equal(image.affine[:3, :3], np.eye(3)):
        return None
    found = io_orientation(image.affine)
    if np.isnan(found).any():
        return None
    return ornt_transform(found, axcodes2ornt(AXES))


def _demand_volume(path: Path, stored: Any) -> Any:
    """(D, H, W), real numbers, not too many; one leading axis of length 1 falls away.

    Raises:
        DataError: It is none.
    """
    shape, dtype = tuple(stored.shape), np.dtype(stored.dtype)
    if len(shape) == 4 and 1 in (shape[0], shape[3]) and shape[3] != 3:
        stored = stored[0] if shape[0] == 1 else stored[..., 0]
        shape = tuple(stored.shape)
    if len(shape) == 4 and shape[3] in (3, 4):
        raise DataError(f"{path}: is in colour, shape {shape}; OCT is grey, (D, H, W)")
    if len(shape) == 3 and shape[2] in (3, 4):
        raise DataError(f"{path}: is one picture in colour, shape {shape}; a volume is (D, H, W)")
    if len(shape) != 3 or min(shape) < 2:
        raise DataError(
            f"{path}: shape {shape}; a volume is (D, H, W): B-scans, rows along the beam, A-scans, at least 2 each"
        )
    if dtype.kind not in "uif" or int(np.prod([*shape], dtype=object)) > MOST:
        raise DataError(f"{path}: {shape} values of type {dtype}; at most {MOST} whole or real numbers are read")
    return stored


def _kept(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Types that torch and numpy handle alike, in this machine's byte order; what takes more than 4 bytes as float32."""
    narrow = dtype.kind in "ui" and dtype.itemsize <= 2
    return dtype.newbyteorder("=") if narrow else np.dtype(np.float32)


def _demand_finite(path: Path, voxels: NDArray[Any]) -> None:
    if voxels.dtype.kind == "f":
        bad = sum(int(frame.size - np.count_nonzero(np.abs(frame) < MAX_VALUE)) for frame in voxels)
        if bad:
            told = "none of its values is finite" if bad == voxels.size else f"{bad} of {voxels.size} values are not finite"
            raise DataError(
                f"{path}: {told}, or beyond {MAX_VALUE:g}, as what lies outside a scan is marked; write its dark there"
            )
    if voxels.min() == voxels.max():
        raise DataError(f"{path}: all values are {voxels.min()}; it shows nothing")


def _demand_layers(path: Path, voxels: NDArray[Any]) -> None:
    """The retina is layered along the beam: means over planes change more across rows than along B-scans or A-scans.

    Raises:
        DataError: They change twice as much along another axis, so the axes are in another order.
    """
    every = tuple(slice(None, None, max(1, length // 128)) for length in voxels.shape)
    some = voxels[every].astype(np.float32)
    changes = [float(some.mean(axis=tuple(other for other in range(3) if other != axis)).std()) for axis in range(3)]
    most = int(np.argmax(changes))
    if most != 1 and changes[most] > _LYING * changes[1]:
        order = "(H, D, W)" if most == 0 else "(D, W, H)"
        raise DataError(
            f"{path}: layers lie across axis {most} of {voxels.shape}, not across axis 1: axes seem to be {order}; {_VOLUME}"
        )
