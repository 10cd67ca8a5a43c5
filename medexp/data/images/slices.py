"""Axial 2D slices of volumes: cut into .npz files, found in a folder, and read back.

A file `{scan}_slice_{index:03d}.npz` holds `image` float32 (1, H, W), `mask` uint8 (H, W) and `metadata`, JSON in a 0-d array
of text. Older files hold the metadata as a pickle, which is never opened: what is needed of it stands in the name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray
from scipy import ndimage

from medexp.addresses import local_path
from medexp.config.data import SliceConfig
from medexp.data.images.cases import LabelledImage
from medexp.data.images.npz import Arrays, metadata_of, plane_problems, read_npz
from medexp.data.parallel import in_parallel
from medexp.data.splits import patient_of
from medexp.data.volumes.background import ground_of, origin_of
from medexp.data.volumes.brats import ROUNDING, read_case
from medexp.data.volumes.cases import CHANNELS, Case, Volume
from medexp.errors import DataError, all_problems
from medexp.files import filling
from medexp.words import some

FORMAT = "medexp-slice-1"
"""In every file's metadata: raise it when a slice comes to hold something else."""

_NAME = re.compile(r"(?P<scan>.+)_slice_(?P<index>\d+)")
_SUMMARY = "slices.json"
_LEANING = 3.0  # degrees that the axes of a volume may be from right angles
_SQUARE = 0.01  # sides of a pixel that differ by less, relatively, are taken for equal


@dataclass(frozen=True)
class Slice:
    """What a file holds.

    Attributes:
        image: float32 (1, H, W), raw intensities of one channel, whose background has one value where medexp cut it; rows from
            anterior to posterior, columns from the patient's right to the left, as radiologists see it.
        mask: uint8 (H, W): 0 background, 1 necrotic or non-enhancing core, 2 edema, 3 enhancing tumour.
        metadata: format, case, patient, slice (its index from inferior to superior), channel, spacing (edge of a pixel in mm)
            and volume_sha256; of an older file case and slice alone.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    metadata: Mapping[str, Any]


def cut_slices(
    cases: Sequence[Case],
    digests: Mapping[str, str],
    classes: Mapping[int, int],
    slices: SliceConfig,
    folder: Path,
    jobs: int,
) -> int:
    """Cut every case into axial slices. The folder appears when all are written; one that holds these very slices is left.

    The background, and voxels of a value that no tissue has, get the value that the brain is counted from
    (`medexp.data.volumes.background`); volumes are turned to the nearest RAS axes and, where pixels are not square, resampled
    in the plane to the finer edge.

    Args:
        cases: Cases with a segmentation.
        digests: `CaseFacts.sha256` of each, by id.
        classes: As of `medexp.data.volumes.brats.read_case`.
        slices: Which slices are kept.
        folder: A new or empty folder.
        jobs: Cases cut in parallel.

    Returns:
        The number of slices.

    Raises:
        DataError: The folder holds something else, or slices of other data or settings; no slice is kept; a case cannot be
            read.
        StorageError: The folder cannot be written.
    """
    folder = local_path(folder).absolute()
    known = {case.id: [case.patient, digests[case.id]] for case in cases}
    summary = {"format": FORMAT, "background": "of one value", **asdict(slices), "cases": known}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return _same_slices(folder, summary)
    with filling(folder, "slices_dir") as partial:
        calls = [(case, digests[case.id], dict(classes), slices, partial) for case in cases]
        count = sum(in_parallel(_cut, calls, jobs, "Cutting slices"))
        if not count:
            raise DataError(
                f"slices: none of the {len(cases)} cases has a slice of which {slices.min_foreground:.0%} is brain. Lower "
                "slices.min_foreground or slices.every"
            )
        (partial / _SUMMARY).write_text(json.dumps(summary | {"slices": count}, indent=1) + "\n")
    return _same_slices(folder, summary)  # its own, or those that another process wrote meanwhile


def find_slices(folder: Path, pattern: str) -> tuple[LabelledImage, ...]:
    """The slices of a folder, sorted by name. Reads names only.

    Args:
        folder: Holds the .npz files; other files are left aside.
        pattern: `ImageDataConfig.patient_pattern`.

    Raises:
        DataError: No such folder, no slice in it, an .npz file that is not named as a slice.
        ConfigError: `pattern` is no regular expression with a group.
    """
    patient = patient_of(pattern)
    advice = "Cut some: mlflow run . -e prepare -P data_dir=FOLDER -P slices_dir=FOLDER"
    if not folder.is_dir():
        raise DataError(f"slices_dir {folder}: no such folder. {advice}")
    files = sorted(path for path in folder.iterdir() if path.suffix == ".npz" and path.is_file())
    files = [path for path in files if not path.name.startswith(".")]
    if not files:
        nested = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and any(path.glob("*_slice_*.npz"))]
        below = f"; {', '.join(nested)} in it do: put their files into one folder, patients are split anew" if nested else ""
        raise DataError(f"slices_dir {folder}: holds no file of the name SCAN_slice_NNN.npz{below}. {advice}")
    scans = {path: match["scan"] for path in files if (match := _NAME.fullmatch(path.stem))}
    problems = [f"{path.name}: is not named SCAN_slice_NNN.npz" for path in files if path not in scans]
    if problems:
        raise DataError(all_problems(f"slices_dir {folder}", problems, "Take these files out of the folder, or rename them."))
    return tuple(LabelledImage(path.stem, "brats", patient(scan), scan, path, None) for path, scan in scans.items())


def scan_of(name: str) -> str:
    """The scan that a slice's name begins with; the name itself of what is no slice."""
    match = _NAME.fullmatch(name)
    return match["scan"] if match else name


def read_slice(path: Path) -> Slice:
    """A slice, checked; of this layout or of the older one, whose pickled metadata is not opened.

    Raises:
        DataError: All problems of the file at once: unreadable, no image or mask, either of them a pickle, shapes that do not
            fit, NaN or infinite pixels, labels outside 0 to 4 (4 is 3 in BraTS 2021 and older), metadata of another slice.
    """
    arrays = read_npz(path, ("image", "mask", "metadata"))
    problems = [*plane_problems(arrays, "image"), *plane_problems(arrays, "mask")]
    image, mask = arrays.get("image"), arrays.get("mask")
    if image is not None and mask is not None and not problems:
        if image.shape[-2:] != mask.shape[-2:]:
            problems.append(f"image {image.shape} and mask {mask.shape} differ in shape")
        mask = np.where(np.abs(mask - (whole := np.rint(mask))) > ROUNDING, mask, whole)
        if unknown := sorted({float(value) for value in np.unique(mask)} - {0, 1, 2, 3, 4}):
            problems.append(f"mask holds {some([f'{value:g}' for value in unknown], 5)}; allowed are 0, 1, 2, 3 and 4")
        if {3, 4} <= set(np.unique(mask).tolist()):
            problems.append("mask holds 3 and 4, which cannot both be enhancing tumour: 4 is then a cavity or edema")
    metadata: Mapping[str, Any] = {}
    try:
        metadata = _metadata(path, arrays)
    except DataError as error:
        problems.append(str(error))
    if problems or image is None or mask is None:
        raise DataError(all_problems(path.name, problems, "Cut it anew, or take it out of the folder."))
    labels = np.where(mask == 4, 3, mask).astype(np.uint8)
    height, width = mask.shape[-2:]
    return Slice(image.astype(np.float32).reshape(1, height, width), labels.reshape(height, width), metadata)


def _metadata(path: Path, arrays: Arrays) -> Mapping[str, Any]:
    """The metadata of a file, from its name alone where it has none that can be read without unpickling."""
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise DataError("is not named SCAN_slice_NNN.npz")
    named = {"case": match["scan"], "slice": int(match["index"])}
    metadata = metadata_of(arrays)
    if metadata is None:
        return named
    if metadata.get("format") != FORMAT:
        raise DataError(f"its metadata is of the format {metadata.get('format')!r}; this version reads {FORMAT!r}")
    if not isinstance(metadata.get("patient"), str):
        raise DataError("its metadata names no patient")
    found = {key: metadata.get(key) for key in named}
    if found != named:
        raise DataError(f"its metadata says {found}, its name {named}; was it renamed?")
    return metadata


def _same_slices(folder: Path, summary: Mapping[str, Any]) -> int:
    """The number of slices in a folder that holds what `summary` says."""
    try:
        found = json.loads((folder / _SUMMARY).read_text())
        count, differ = (
            int(found.pop("slices")),
            sorted(key for key in {*found, *summary} if found.get(key) != summary.get(key)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"slices_dir {folder}: holds other things; give a folder that is new or empty") from None
    there = sum(path.suffix == ".npz" for path in folder.iterdir())
    problems = [
        "it holds slices of other cases or of cases of other patients"
        if key == "cases"
        else f"it was cut with {key} {found.get(key)}, not {summary.get(key)}"
        for key in differ
    ]
    if there != count:
        problems.append(f"it holds {there} slices where {count} were cut")
    if problems:
        raise DataError(all_problems(f"slices_dir {folder}", problems, "Give another folder, or remove this one."))
    return count


def _cut(case: Case, digest: str, classes: Mapping[int, int], slices: SliceConfig, folder: Path) -> int:
    """Write a case's slices and count them."""
    voxels, brain, label, edge = _in_plane(case.id, read_case(case, classes), CHANNELS.index(slices.channel))
    count = 0
    for index in range(0, voxels.shape[2], slices.every):
        image = voxels[::-1, ::-1, index].T
        if brain[:, :, index].mean() < slices.min_foreground or image.min() == image.max():
            continue
        metadata = {
            "format": FORMAT,
            "case": case.id,
            "patient": case.patient,
            "slice": index,
            "channel": slices.channel,
            "spacing": [edge, edge],
            "volume_sha256": digest,
        }
        np.savez_compressed(
            folder / f"{case.id}_slice_{index:03d}.npz",
            image=np.ascontiguousarray(image[None]),
            mask=np.ascontiguousarray(label[::-1, ::-1, index].T),
            metadata=np.array(json.dumps(metadata)),
        )
        count += 1
    return count


def _in_plane(
    case: str, volume: Volume, channel: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint8], float]:
    """One channel, where it shows the brain, and the label along the nearest RAS axes; the edge of square pixels in mm."""
    orientation = io_orientation(volume.affine)
    unit = volume.affine[:3, :3] / nib.affines.voxel_sizes(volume.affine)
    leaning = float(np.degrees(np.arcsin(np.abs(unit.T @ unit - np.eye(3)).clip(0, 1).max())))
    if leaning > _LEANING:
        raise DataError(
            f"case {case}: its axes lean by {leaning:.0f} degrees, and slices along them would be sheared; give it one "
            "of axes at right angles"
        )
    raw = volume.image[channel]
    ground = ground_of(raw)
    filled = raw if ground.level is None else np.where(ground.brain, raw, np.float32(origin_of(raw, ground)))
    voxels, brain, label = (apply_orientation(array, orientation) for array in (filled, ground.brain, volume.label))
    edges = nib.affines.voxel_sizes(volume.affine)[np.argsort(orientation[:, 0])]
    edge = float(edges[:2].min())
    if edges[:2].max() > edge * (1 + _SQUARE):
        zoom = (*(edges[:2] / edge), 1.0)
        voxels = ndimage.zoom(voxels, zoom, order=1, mode="nearest", grid_mode=True)
        brain, label = (ndimage.zoom(array, zoom, order=0, mode="nearest", grid_mode=True) for array in (brain, label))
    return voxels, brain, label, edge
