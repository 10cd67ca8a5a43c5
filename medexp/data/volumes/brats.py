"""Reader of BraTS folders: one folder a case, one NIfTI file a modality, one for the segmentation where that is wanted.

A file is told by how its name ends, after `-` or `_`, as .nii.gz or .nii: `medexp.config.data.SUFFIXES`, or others that are
given.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medexp.config.data import SUFFIXES, DataConfig, known_by
from medexp.config.flags import flag
from medexp.data.nifti import UNREADABLE, open_nifti, unit_of
from medexp.data.splits import patient_of
from medexp.data.volumes.cases import CHANNELS, Case, Volume
from medexp.data.volumes.suffixes import case_folders, cases_below, files_of, grouped
from medexp.errors import DataError, all_problems
from medexp.words import some

AFFINE_TOLERANCE = 1e-3
"""Largest difference, in mm, between affines of one case: writers round sforms and quaternions differently."""

SMALLEST_MM, LARGEST_MM = 0.02, 50.0
"""Edges of voxels that a head can have: a header in metres or micrometres, which readers take for mm, has others."""

ROUNDING = 1e-3
"""Largest distance of a label from an integer: a file's scale factor is rounded too."""


class Wording(NamedTuple):
    """What messages call a segmentation's values.

    Attributes:
        key: The setting that says what they mean.
        what: What is segmented.
        interpolated: Of values that are no integers: where they come from, what to do.
    """

    key: str = "data.labels"
    what: str = "tumour"
    interpolated: str = "was it resampled with interpolation?"


class UnfitLabels(DataError):
    """A segmentation of values that are not the edition's.

    Attributes:
        values: All that the file holds besides 0.
    """

    values: tuple[int, ...] = ()

    @classmethod
    def of(cls, told: str, values: tuple[int, ...]) -> "UnfitLabels":
        error = cls(told)
        error.values = values
        return error


def find_cases(data_dir: Path, data: DataConfig) -> tuple[Case, ...]:
    """The cases of a folder of case folders, sorted by id. Reads names only.

    Args:
        data_dir: Folder with one folder a case.
        data: `patient_pattern` gives a case its patient, `exclude` leaves cases out.

    Raises:
        DataError: All problems at once: no such folder, no case in it, a case without a modality, a modality with several
            files, an excluded case that is not there.
        ConfigError: `patient_pattern` is no regular expression with a group.
    """
    patient, suffixes = patient_of(data.patient_pattern), known_by(data.suffixes)
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder. Give data_dir=FOLDER with one folder a case")
    folders = case_folders(data_dir)
    if elsewhere := _layout(data_dir, folders, suffixes):
        raise DataError(f"{data_dir}: {elsewhere}")
    names = {folder.name for folder in folders}
    problems = [f"data.exclude: no case {name} in the folder" for name in sorted(set(data.exclude) - names)]
    cases = []
    for folder in folders:
        if folder.name in data.exclude:
            continue
        files, missing = files_of(folder, suffixes)
        problems += missing
        if not missing:
            cases.append(Case(folder.name, patient(folder.name), tuple(files[channel] for channel in CHANNELS), files["seg"]))
    if not cases and not problems:
        problems = [f"data.exclude leaves out all {len(folders)} cases"]
    if problems:
        other = "say how other names end with -P 'data.suffixes={t1c: [ENDING], seg: [ENDING]}'"
        advice = f"Complete the cases, {other}, or leave cases out with -P 'data.exclude=[ID, ...]'."
        raise DataError(all_problems(str(data_dir), problems, advice))
    return tuple(cases)


def _layout(data_dir: Path, folders: Sequence[Path], suffixes: Mapping[str, Sequence[str]]) -> str:
    """Where the cases are, if it is not in the folders of a folder, and what to do; empty where they may be in these."""
    give = "give data_dir=FOLDER with one folder a case"
    if not folders:
        side_by_side = grouped(data_dir, suffixes)
        if len(side_by_side) > 1:
            first = min(side_by_side)
            return f"holds the files of {len(side_by_side)} cases side by side; put each in a folder of its own, as {first}/"
        return f"no case in it; {give}" + (f". It holds NIfTI files: give {data_dir.parent}" if side_by_side else "")
    there = [folder for folder in folders if folder.is_dir()]
    below = {folder: count for folder in there if (count := cases_below(folder, suffixes))}
    if not below or any(grouped(folder, suffixes) for folder in there):
        return ""
    if len(below) == 1:
        ((folder, count),) = below.items()
        return f"no case in it, but {count} in {folder.name}/: give data_dir={folder}"
    held = ", ".join(f"{folder.name}/ ({count})" for folder, count in list(below.items())[:8])
    links = f"mkdir ALL && ln -s {shlex.quote(str(data_dir))}/*/* ALL/"
    return f"no case in it, but in its folders: {held}. Give one of these, or bring them together, as by: {links}"


def is_nifti(path: Path) -> bool:
    """Whether a file's name says that it is NIfTI."""
    return path.is_file() and path.name.lower().endswith((".nii", ".nii.gz"))


def image_files(
    path: Path, channels: Sequence[str] = CHANNELS, suffixes: Mapping[str, Sequence[str]] = SUFFIXES
) -> tuple[Path, ...]:
    """The images of a case that needs no segmentation. Reads names only.

    Args:
        path: A case's folder, or one 4D NIfTI file whose last axis is the channels.
        channels: The channels in the order that is wanted, of CHANNELS.
        suffixes: How the names of files end, by channel.

    Returns:
        One file a channel; the 4D file alone.

    Raises:
        DataError: There is nothing at `path`, it is neither a folder nor a NIfTI file, or a channel is missing or ambiguous.
    """
    if path.is_dir():
        files, problems = files_of(path, {channel: suffixes[channel] for channel in channels})
        if problems:
            raise DataError("; ".join(problems))
        return tuple(files[channel] for channel in channels)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise DataError(f"{path}: neither a case's folder nor a NIfTI file (.nii, .nii.gz)")
    return (path,)


def read_case(
    case: Case,
    classes: Mapping[int, int],
    advice: str | None = None,
    channels: Sequence[str] = CHANNELS,
    wording: Wording = Wording(),  # noqa: B008 - it cannot be changed
) -> Volume:
    """The volume of a case, checked.

    Args:
        case: Where its files are.
        classes: `DataConfig.classes`, from the file's values to 0..3; 0 is always background.
        advice: What an error says to do; None: as training is told what it trains on.
        channels: Those that there are, in their order.
        wording: What messages call a segmentation's values.

    Raises:
        UnfitLabels: The segmentation holds values that `classes` has not.
        DataError: All problems of the case at once: an unreadable or truncated file, one that is not 3D (4D for a case of one
            file), shapes or affines that differ within the case, NaN or infinite voxels, a constant channel, labels that are
            no integers or outside the map, an empty mask.
    """
    problems: list[str] = []
    stacked = len(case.images) < len(channels)
    arrays: dict[Path, NDArray[np.float32]] = {}
    affines: dict[Path, NDArray[np.float64]] = {}
    for path in case.files:
        try:
            arrays[path], affines[path] = _read(path, dimensions=4 if stacked and path in case.images else 3)
        except DataError as error:
            problems.append(str(error))
    found = {path.name: arrays[path] for path in case.images if path in arrays}
    if stacked:
        found = {
            f"{name}, channel {index}": part
            for name, array in found.items()
            for index, part in enumerate(np.moveaxis(array, -1, 0), 1)
        }
        if found and len(found) != len(channels):
            problems.append(f"{case.images[0].name}: {len(found)} channels along its last axis; expected {len(channels)}")
            found = {}  # of slices that were taken for channels there is nothing to say
    else:
        problems += _geometry_problems(arrays, affines)
    for name, channel in found.items():
        problems += _image_problems(name, channel)
    label: NDArray[np.uint8] | None = None
    values: tuple[int, ...] = ()
    unfit: tuple[int, ...] = ()
    if case.label is None:
        label = np.zeros(next(iter(found.values())).shape, np.uint8) if found else None
    elif case.label in arrays:
        try:
            label, values = _mapped(case.label, arrays[case.label], classes, wording)
        except UnfitLabels as error:
            unfit = error.values
            problems.append(str(error))
        except DataError as error:
            problems.append(str(error))
    if problems or label is None:
        left_out = f"leave the case out with {flag('data.exclude', [case.id])}" if case.label else "leave the case out"
        told = all_problems(f"case {case.id}", _together(problems), advice or f"Repair the files, or {left_out}.")
        raise UnfitLabels.of(told, unfit) if unfit else DataError(told)
    return Volume(np.stack(list(found.values())), label, affines[case.label or case.images[0]], values)


def _together(problems: Sequence[str]) -> list[str]:
    """What is wrong with several files alike is said once."""
    files: dict[str, list[str]] = {}
    for problem in problems:
        name, _, told = problem.partition(": ")
        files.setdefault(told, []).append(name)
    return [f"{', '.join(names)}: {told}" for told, names in files.items()]


def read_label(path: Path, classes: Mapping[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A segmentation as it stands in its file: classes 0 to 3 (X, Y, Z), and its affine (4, 4), from voxels to RAS+ mm.

    Args:
        path: The file.
        classes: As of `read_case`.

    Raises:
        DataError: As of `read_case`, of this file.
    """
    array, affine = _read(path)
    return _mapped(path, array, classes, Wording())[0], affine


def _read(path: Path, dimensions: int = 3) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    try:
        image = open_nifti(path)
        if image.get_data_dtype().kind not in "iuf":
            raise DataError(f"{path.name}: voxels of type {image.get_data_dtype()}; allowed are integers and floats")
        shape = (*image.shape[:3], *(size for size in image.shape[3:] if size != 1))  # some writers add axes of one
        if len(shape) != dimensions:
            advice = "; a case that has a file a channel is named by its folder" if dimensions == 4 else ""
            raise DataError(f"{path.name}: not {dimensions}D, its shape is {image.shape}{advice}")
        affine = np.asarray(image.affine, np.float64)
        edges = nib.affines.voxel_sizes(affine)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) <= 1e-6 * edges.prod():
            raise DataError(f"{path.name}: its affine has no inverse; the header's sform or qform is damaged")
        if edges.min() < SMALLEST_MM or edges.max() > LARGEST_MM:
            raise DataError(
                f"{path.name}: voxels of {' x '.join(f'{edge:.3g}' for edge in edges)} mm, allowed are {SMALLEST_MM} to "
                f"{LARGEST_MM}; its header names the unit {unit_of(image.header)}, an affine is in mm: write it so"
            )
        return image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape), affine
    except UNREADABLE as error:
        raise DataError(f"{path.name}: unreadable or truncated ({type(error).__name__}: {_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


def _geometry_problems(arrays: Mapping[Path, NDArray[np.float32]], affines: Mapping[Path, NDArray[np.float64]]) -> list[str]:
    """Each file whose shape or affine is not that of the case's first readable file."""
    if not arrays:
        return []
    first, *others = arrays
    problems = []
    for path in others:
        if arrays[path].shape != arrays[first].shape:
            problems.append(f"{path.name}: shape {arrays[path].shape} differs from {arrays[first].shape} of {first.name}")
        elif (gap := float(np.abs(affines[path] - affines[first]).max())) > AFFINE_TOLERANCE:
            problems.append(
                f"{path.name}: affine differs by up to {gap:.3g} from that of {first.name}; allowed is {AFFINE_TOLERANCE}"
            )
    return problems


def _image_problems(name: str, array: NDArray[np.float32]) -> list[str]:
    if bad := int(array.size - np.isfinite(array).sum()):
        return [f"{name}: {bad} NaN or infinite voxels; where they are the background, write 0 in their place"]
    if array.size == 0 or array.min() == array.max():
        return [f"{name}: a constant channel, every voxel is {array.flat[0] if array.size else 'missing'}"]
    return []


def _mapped(
    path: Path, array: NDArray[np.float32], classes: Mapping[int, int], wording: Wording
) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """The label in classes 0..3, and the values that the file holds."""
    if not np.isfinite(array).all():
        raise DataError(f"{path.name}: NaN or infinite labels")
    whole = np.rint(array)
    if (apart := np.abs(array - whole)).max(initial=0) > ROUNDING:
        broken = np.unique(array[apart > ROUNDING])[0]
        raise DataError(f"{path.name}: labels that are no integers, such as {broken:g}; {wording.interpolated}")
    values, counts = np.unique(whole[whole != 0], return_counts=True)
    found = tuple(int(value) for value in values)
    unknown = {value: int(count) for value, count in zip(found, counts, strict=True) if value not in classes}
    if unknown:
        listed = some([f"{value} ({count} voxels)" for value, count in unknown.items()])
        told = f"{path.name}: labels that {wording.key} does not have: {listed}; it has {sorted({0, *classes})}"
        raise UnfitLabels.of(told, found)
    label = np.zeros(array.shape, np.uint8)
    for value in found:
        label[whole == value] = classes[value]
    if not label.any():
        holds = f"; it holds {', '.join(map(str, found))}, which {wording.key} takes for no {wording.what}" if found else ""
        raise DataError(f"{path.name}: an empty mask, no voxel of a {wording.what}{holds}")
    return label, found
