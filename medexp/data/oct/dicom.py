"""DICOM files of OCT: one file a volume, one frame a B-scan.

Ophthalmic Tomography Image Storage (PS3.3, A.52), and multi-frame grey secondary captures, which some devices export. What is
no raster of B-scans is refused: radial scans, single B-scans, colour, other kinds of images.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder, iter_pixels
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.uid import UID, JPEG2000TransferSyntaxes

from medexp.arrays import Array
from medexp.data.oct.cases import Scan, device_named, eye_of
from medexp.errors import DataError
from medexp.words import some

OPHTHALMIC_TOMOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
"""SOP class of structural OCT."""

_CAPTURES = ("1.2.840.10008.5.1.4.1.1.7.2", "1.2.840.10008.5.1.4.1.1.7.3")  # multi-frame grey byte and word
_ENVELOPE = bytes.fromhex("06092a864886f70d010703")  # the object identifier of enveloped data (RFC 5652)
_TURNED = 20.0  # degrees between B-scans of one volume, from which on they are no raster
_SAME = 1e-3  # of the mean step between frames: nearer ones lie in one place
_LEAP = 1.5  # times the usual step, from which on B-scans are missing between two
_J2K, _J2K_HEAD = b"\xff\x4f\xff\x51", 2**16  # begins a codestream; bytes of the pixel data in which the first one does
_INVERTED, _GREY = "MONOCHROME1", ("MONOCHROME1", "MONOCHROME2")


def read_dicom(path: Path, most: int) -> Scan:
    """A multi-frame DICOM file; frames in the order of their positions, whichever way the device ran.

    B-scans come from the top of the fundus image to its bottom (or from left to right) where the file says where they lie on
    it, else by position along their normal, its largest component ascending, else by their number in the stack, else as they
    lie in the file. Repeats, as many in each place, stay beside each other and are told, as are B-scans that are missing.

    Args:
        path: The file.
        most: Voxels that are read at most.

    Raises:
        DataError: It is empty, cut off, encrypted, compressed in a way that is not installed, or no volume of OCT; some of its
            frames share a place and others have one of their own.
    """
    try:
        return _read(path, most)
    except DataError:
        raise
    except Exception as error:  # values are parsed as they are asked for: whatever that raises, the file is damaged
        raise DataError(f"{path}: cannot be read as DICOM ({_line(error)}); it is cut off or damaged") from error


def _read(path: Path, most: int) -> Scan:
    dataset = _header(path)
    uid = str(dataset.get("SOPClassUID", ""))
    if uid not in (OPHTHALMIC_TOMOGRAPHY, *_CAPTURES):
        what = (
            f"holds {' '.join(UID(uid).name.split())}" if uid else "says no SOP class: it is cut off or damaged, or no image"
        )
        raise DataError(f"{path}: {what}; structural OCT is wanted")
    frames, rows, columns = (int(dataset.get(name) or 0) for name in ("NumberOfFrames", "Rows", "Columns"))
    syntax = dataset.file_meta.TransferSyntaxUID
    samples, grey = int(dataset.get("SamplesPerPixel") or 1), str(dataset.get("PhotometricInterpretation", _GREY[1]))
    if samples != 1 or grey not in _GREY:
        raise DataError(f"{path}: is in colour ({grey}, {samples} samples a pixel); OCT is grey")
    _demand_one_grey(path, dataset, grey)
    if frames * rows * columns > most:
        raise DataError(f"{path}: {frames} x {rows} x {columns} voxels are more than the {most} that are read")
    _demand_decoder(path, syntax)
    if not syntax.is_compressed:
        _demand_frames(path, dataset, frames)
    if frames < 2:
        raise DataError(f"{path}: holds a single B-scan of {rows} x {columns}; a volume has several frames")
    bits, highest = dataset.get("BitsStored"), dataset.get("HighBit")
    if None not in (bits, highest) and highest != bits - 1:
        raise DataError(
            f"{path}: its header says {bits} bits, the highest of them bit {highest} (HighBit), not {bits - 1}: values lie "
            "shifted, and read as they are they would wrap around; write it anew with its values in the lowest bits"
        )
    if syntax in JPEG2000TransferSyntaxes and dataset.get("PixelRepresentation"):
        _demand_one_sign(path)
    groups = [*(dataset.get("PerFrameFunctionalGroupsSequence") or [])]
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or []), Dataset())
    groups = groups if len(groups) == frames else []
    order, step, told = _order(path, groups, shared)
    voxels = _voxels(path, dataset, (frames, rows, columns), _rescaling(groups, shared, dataset))
    if order is not None:
        _turn(voxels, order)
    between, within = _spacing(groups, shared, dataset, step)
    device = device_named(str(dataset.get("ManufacturerModelName") or ""))
    return Scan(
        voxels=voxels,
        spacing_mm=(between, *within),
        header={
            "format": "DICOM",
            "device": device,
            "manufacturer": str(dataset.get("Manufacturer") or "").strip() or None,
            "bits": float(dataset.get("BitsStored") or dataset.BitsAllocated),
            "compression": syntax.name if syntax.is_compressed else None,
        },
        laterality=next((eye for eye in map(eye_of, _eyes(dataset, groups, shared)) if eye), None),
        device=device,
        frames=told,
    )


def _header(path: Path) -> Dataset:
    with path.open("rb") as file:
        head = file.read(256)
    if head[:1] == b"\x30" and _ENVELOPE in head:
        raise DataError(f"{path}: is encrypted (a CMS envelope); decrypt it first")
    try:
        return dcmread(path, stop_before_pixels=True)
    except InvalidDicomError as error:
        told = "no DICOM file: DICM does not follow its first 128 bytes. It may be encrypted or of another kind"
        raise DataError(f"{path}: {told}") from error


def _demand_decoder(path: Path, syntax: UID) -> None:
    if syntax.is_deflated:
        raise DataError(f"{path}: is compressed as a whole ({syntax.name}), which is not read; write it uncompressed")
    try:
        decoder = get_decoder(syntax)
        ways, there = decoder.missing_dependencies, decoder.is_available
    except NotImplementedError:
        ways, there = [], False
    if not there:
        first = next((way.partition("requires ")[2].split(" and ") for way in ways if "gdcm" not in way), [])
        packages = " ".join(f"'{package}'" for package in first)
        advice = f"pip install {packages}" if packages else "convert it to an uncompressed one"
        raise DataError(f"{path}: is compressed as {syntax.name}, which nothing that is installed reads; {advice}")


def _demand_one_grey(path: Path, dataset: Dataset, grey: str) -> None:
    """One way from stored values to grey: PS3.3 (C.7.6.3.1.2, C.11.6) has MONOCHROME1 go with INVERSE and the other with
    IDENTITY, and files that say both ways are about; tables of grey are not looked up."""
    shape = str(dataset.get("PresentationLUTShape") or "")
    if shape and (shape == "INVERSE") != (grey == _INVERTED):
        raise DataError(
            f"{path}: its header says {grey} and a PresentationLUTShape of {shape}, of which one inverts the grey and the "
            "other does not. Look which of both shows the retina bright, and write it anew without PresentationLUTShape"
        )
    if "ModalityLUTSequence" in dataset:
        raise DataError(
            f"{path}: its grey is to be looked up in a table (ModalityLUTSequence); write it anew with that applied"
        )


def _demand_frames(path: Path, dataset: Dataset, frames: int) -> None:
    """As many frames as the header says: pixels of more would be left out without a word."""
    syntax = dataset.file_meta.TransferSyntaxUID
    with path.open("rb") as file:
        dcmread(file, stop_before_pixels=True)
        element = file.read(12)  # tag, then type and two empty bytes where types are explicit, then length
    order = "<L" if syntax.is_little_endian else ">L"
    length = struct.unpack(order, element[4:8] if syntax.is_implicit_VR else element[8:])[0] if len(element) == 12 else 0
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1) * int(dataset.BitsAllocated)
    there = 8 * length // bits if bits else 0
    if there > max(frames, 1):
        told = f"says {frames} frames" if "NumberOfFrames" in dataset else "says no number of frames (NumberOfFrames)"
        raise DataError(
            f"{path}: its header {told}, its pixels are of {there}; which is right? Write it anew with that number"
        )


def _demand_one_sign(path: Path) -> None:
    """A file whose header says signed values holds a JPEG 2000 stream of signed ones. Of others nobody knows what they are:
    where the stream is right, its bright half comes out as the darkest."""
    with path.open("rb") as file:
        dcmread(file, stop_before_pixels=True)
        head = file.read(_J2K_HEAD)
    if get_j2k_parameters(head[max(head.find(_J2K), 0) :]).get("is_signed") is False:
        raise DataError(
            f"{path}: its header says signed values (PixelRepresentation 1), its JPEG 2000 stream unsigned ones. Look which "
            "of both shows the retina bright, and write it anew without compression"
        )


def _voxels(path: Path, dataset: Dataset, shape: tuple[int, int, int], rescaling: list[tuple[float, float]]) -> NDArray[Any]:
    """(D, H, W), one frame after the other, so that beside the volume there is one frame in memory."""
    voxels: NDArray[Any] | None = None
    padding = _padding(dataset)
    padded = []  # of each frame a bit a voxel: bytes would be a second volume
    rescaled = any(pair != (1.0, 0.0) for pair in rescaling)
    done = 0
    try:
        for frame in _frames(path):
            if frame.shape != shape[1:] or done == shape[0]:
                raise DataError(f"{path}: a frame of {frame.shape}, number {done + 1}; its header says {shape}")
            if voxels is None:
                voxels = np.empty(shape, np.float32 if rescaled else frame.dtype)
            if padding:
                low, high = sorted(int(np.array(value).astype(frame.dtype)) for value in padding)  # -2000 may stand as 63536
                padded.append(np.packbits((frame >= low) & (frame <= high)))
            slope, intercept = rescaling[done if len(rescaling) > 1 else 0]
            voxels[done] = frame * np.float32(slope) + np.float32(intercept) if rescaled else frame
            done += 1
    except DataError:
        raise
    except Exception as error:  # as above, and of several decoders
        if not done and "EncryptedAttributesSequence" in dataset:
            raise DataError(f"{path}: its pixels are encrypted; decrypt it first") from error
        raise DataError(f"{path}: frame {done + 1} of {shape[0]} cannot be read ({_line(error)})") from error
    if voxels is None or done < shape[0]:
        raise DataError(f"{path}: holds {done} of {shape[0]} frames; it is cut off")
    if dataset.get("PhotometricInterpretation") == _INVERTED:
        turned = -1 if voxels.dtype.kind == "i" else 2 ** int(dataset.BitsStored) - 1  # of signed pixels -1 mirrors the range
        np.subtract(voxels.max() if rescaled else voxels.dtype.type(turned), voxels, out=voxels)
    if padding:
        _darken(voxels, padded)
    return voxels


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    """Both ends of the stored values that mark what lies outside a scan (PS3.3, C.7.5.1.1.2); None where none do."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    return int(first), int(first if last is None else last)


def _darken(voxels: NDArray[Any], padded: Sequence[NDArray[np.uint8]]) -> None:
    """Padding becomes as dark as the darkest of the other voxels, in place; where there are no others, of one value.

    Args:
        voxels: (D, H, W).
        padded: Of each frame, a bit a voxel.
    """

    def outside(frame: int) -> NDArray[np.bool_]:
        return np.unpackbits(padded[frame], count=voxels[0].size).astype(bool).reshape(voxels.shape[1:])

    others = [rest.min() for frame in range(len(voxels)) if (rest := voxels[frame][~outside(frame)]).size]
    darkest = min(others, default=voxels.max())
    for frame in range(len(voxels)):
        voxels[frame][outside(frame)] = darkest


def _frames(path: Path) -> Iterator[NDArray[Any]]:
    return iter_pixels(path, raw=True)


def _turn(voxels: NDArray[Any], order: NDArray[np.intp]) -> None:
    """Frames brought into an order in place, cycle by cycle: a second volume does not fit where one just does."""
    left = set(np.flatnonzero(order != np.arange(len(order))).tolist())
    while left:
        start = at = left.pop()
        first = voxels[start].copy()
        while (source := int(order[at])) != start:
            voxels[at] = voxels[source]
            left.discard(source)
            at = source
        voxels[at] = first


def _order(path: Path, groups: Sequence[Dataset], shared: Dataset) -> tuple[NDArray[np.intp] | None, float | None, str]:
    """The frames' order, None where nothing says; where positions are in mm, what lies between two places; and what is odd.

    Raises:
        DataError: The B-scans cross, as those of a radial scan do, or lie on one line; nothing says how several stacks lie; or
            some frames share a place.
    """
    lines = _each(groups, shared, "OphthalmicFrameLocationSequence", "ReferenceCoordinates", 4)
    places = _each(groups, shared, "PlanePositionSequence", "ImagePositionPatient", 3)
    planes = _each(groups, shared, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    directions = planes[:, :3] if planes is not None else lines[:, 2:] - lines[:, :2] if lines is not None else None
    if directions is not None:
        unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
        turned = np.degrees(np.arccos(np.clip(np.abs(unit @ unit[0]), 0, 1))).max()
        if turned > _TURNED:
            told = f"its B-scans are turned against each other, by {turned:.0f} degrees"
            raise DataError(f"{path}: is a radial scan, no volume: {told}")
    along = fundus = None
    if places is not None and np.ptp(places, axis=0).any():
        along = _along(places, None if planes is None else np.cross(planes[:, :3].mean(0), planes[:, 3:].mean(0)))
    if lines is not None:
        middles = (lines[:, :2] + lines[:, 2:]) / 2
        fundus = middles[:, np.ptp(middles, axis=0).argmax()]
        if np.ptp(fundus) == 0 and along is None:
            told = "all its frames lie on one line of the fundus image (ReferenceCoordinates), as repeats of one B-scan do"
            raise DataError(
                f"{path}: is no volume: {told}; leave it out, or write it anew without them where they mean nothing"
            )
        fundus = fundus if np.ptp(fundus) > 0 else None
    if along is not None or fundus is not None:
        judged, name = (along, "ImagePositionPatient") if along is not None else (fundus, "ReferenceCoordinates")
        step, told = _evenly(path, np.asarray(judged), name)
        order = np.argsort(np.asarray(along if fundus is None else fundus), kind="stable")
        return order, step if along is not None else None, told
    numbers = _numbers(path, groups)
    told = ""
    if places is not None:
        how = "as they lie in the file" if numbers is None else "by their numbers in the stack"
        told = f"its header puts all {len(places)} frames in one place (ImagePositionPatient); they are taken {how}"
    if numbers is None:
        return None, None, told
    odd = _evenly(path, numbers, "InStackPositionNumber")[1]
    return np.argsort(numbers, kind="stable"), None, "; ".join(filter(None, (told, odd)))


def _numbers(path: Path, groups: Sequence[Dataset]) -> Array | None:
    """The frames' numbers in their stack (N,); None where they say nothing.

    Raises:
        DataError: There are several stacks, each with numbers of its own.
    """
    numbers = _each(groups, Dataset(), "FrameContentSequence", "InStackPositionNumber", 1)
    if numbers is None or np.ptp(numbers) == 0:
        return None
    stacks = {str(item.get("StackID", "")) for group in groups if (item := _item(group, "FrameContentSequence"))}
    if len(stacks) > 1:
        told = f"holds {len(stacks)} stacks of frames (StackID {some(sorted(stacks))}), and no position says how these lie"
        raise DataError(
            f"{path}: {told}; write each into a file of its own, or all with their positions (ImagePositionPatient)"
        )
    return numbers[:, 0]


def _evenly(path: Path, places: Array, name: str) -> tuple[float, str]:
    """What lies between two places, and what is odd in how frames (N,) lie in them, in words.

    Repeats, for averaging or angiography, have every place as often and keep the volume's geometry. So do places that are
    rounded to more than lies between two; no number of a stack is.

    Raises:
        DataError: Some frames share a place, others have one of their own: the volume is stretched there, or a place is wrong.
    """
    order = np.argsort(places, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(places[order]) > _SAME * np.ptp(places) / len(places)) + 1)
    gaps = np.diff([places[part[0]] for part in parts])
    step = float(np.median(gaps))
    counts = {len(part) for part in parts}
    told = []
    if counts not in ({1}, {len(places)}):
        shared = [part for part in parts if len(part) > 1]
        of = f"({name})"
        if len(counts) == 1:
            told.append(f"its {len(places)} frames lie in {len(parts)} places {of}, {counts.pop()} in each, as repeats do")
        elif name != "InStackPositionNumber" and _rounded(gaps):
            told.append(f"its {len(places)} frames lie in {len(parts)} places {of}, which are rounded to {step:g}")
        else:
            such = some([" and ".join(str(frame + 1) for frame in part[:2]) for part in shared], 3)
            raise DataError(
                f"{path}: {sum(map(len, shared))} of its {len(places)} frames share a place {of}, such as {such}; the "
                "others have one each, so that it would be stretched there. A place has one frame, or all have as many: keep "
                f"one of each, or write it anew without {name} where that is wrong"
            )
    if gaps.max() > _LEAP * step:
        at = int(gaps.argmax())
        before, after = parts[at][-1] + 1, parts[at + 1][0] + 1
        times = f"{gaps.max() / step:.1f} times as far apart as others ({name})"
        told.append(f"its frames {before} and {after} lie {times}, as where B-scans are missing")
    return step, "; ".join(told)


def _rounded(gaps: Array) -> bool:
    """Whether all gaps are one and the same power of ten."""
    unit = 10.0 ** np.round(np.log10(gaps.min()))
    return bool(np.allclose(gaps, unit, rtol=1e-3))


def _along(places: Array, normal: Array | None) -> Array:
    """Positions (N, 3) along the normal of the frames, or where they are not parallel to it along what they spread over; its
    largest component ascends."""
    centred = places - places.mean(0)
    if normal is None or np.ptp(centred @ normal) < 0.1 * np.linalg.norm(np.ptp(centred, axis=0)):
        normal = np.linalg.svd(centred, full_matrices=False)[2][0]
    direction = normal * np.sign(normal[np.abs(normal).argmax()] or 1)
    return np.asarray(centred @ direction / max(float(np.linalg.norm(direction)), 1e-12))


def _each(groups: Sequence[Dataset], shared: Dataset, sequence: str, name: str, count: int) -> Array | None:
    """A value of each frame (N, count), or that which all share; None where one lacks it."""
    found = []
    for group in groups:
        item = _item(group, sequence) or _item(shared, sequence)
        value = item.get(name) if item else None
        numbers = [value] if count == 1 and value is not None else [*(value or [])]
        if len(numbers) != count:
            return None
        found.append([float(number) for number in numbers])
    return np.array(found) if found and np.isfinite(found).all() else None


def _item(group: Dataset, sequence: str) -> Dataset | None:
    return next(iter(group.get(sequence) or []), None)


def _rescaling(groups: Sequence[Dataset], shared: Dataset, dataset: Dataset) -> list[tuple[float, float]]:
    """Slope and intercept: one pair, or one a frame."""

    def pair(item: Dataset) -> tuple[float, float]:
        slope, intercept = item.get("RescaleSlope"), item.get("RescaleIntercept")
        return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)

    name = "PixelValueTransformationSequence"
    if item := _item(shared, name):
        return [pair(item)]
    each = [item for group in groups if (item := _item(group, name))]
    return [pair(item) for item in each] if groups and len(each) == len(groups) else [pair(dataset)]


def _spacing(
    groups: Sequence[Dataset], shared: Dataset, dataset: Dataset, step: float | None
) -> tuple[float | None, tuple[float | None, float | None]]:
    """Between B-scans, then between rows and A-scans. Of B-scans as said, else by their positions, else their thickness, which
    is what devices write there."""
    measures = _item(shared, "PixelMeasuresSequence") or (_item(groups[0], "PixelMeasuresSequence") if groups else None)
    item = measures or dataset
    pixels = [_positive(value) for value in item.get("PixelSpacing") or (None, None)]
    between = _positive(item.get("SpacingBetweenSlices")) or step or _positive(item.get("SliceThickness"))
    return between, (pixels[0], pixels[1]) if len(pixels) == 2 else (None, None)


def _positive(value: Any) -> float | None:
    number: Callable[[Any], float] = float
    return None if value is None or not np.isfinite(number(value)) or number(value) <= 0 else number(value)


def _eyes(dataset: Dataset, groups: Sequence[Dataset], shared: Dataset) -> Iterator[str]:
    """What the file says of the eye, the surest first."""
    for group in (shared, *groups[:1]):
        if item := _item(group, "FrameAnatomySequence"):
            yield str(item.get("FrameLaterality", ""))
    yield from (str(dataset.get(name, "")) for name in ("ImageLaterality", "Laterality"))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
