"""Volumes that somebody wants predicted: a case's folder, a folder of cases, a table, or 4D NIfTI files."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medexp.config.data import SUFFIXES
from medexp.data.inputs import TABLES, Inputs, name_of, rows_of
from medexp.data.volumes.brats import is_nifti
from medexp.data.volumes.cases import Case
from medexp.data.volumes.steps import ReadChannels
from medexp.data.volumes.suffixes import called_otherwise, dead, grouped, instead, one_of_each
from medexp.errors import DataError

_SEG = "seg"
_DICOM = re.compile(r".*\.(dcm|ima)|DICOMDIR", re.IGNORECASE)
_CONVERT = "convert it first, as with dcm2niix -z y -o FOLDER DICOM_FOLDER, and name the files of a case {}"


def find_inputs(path: Path, read: ReadChannels, patient: Callable[[str], str] = str) -> Inputs:
    """The cases that a path names. Reads names only.

    A segmentation beside the images is the case's label: nobody needs it, and what is predicted can be held against it.

    Args:
        path: A case's folder; a folder of case folders, of the files of several cases, or of 4D files; a 4D NIfTI file whose
            last axis is the channels; a table with a column `path` to a case's folder or a 4D file each.
        read: How the files of a case are found.
        patient: From a case's id to its patient.

    Raises:
        DataError: There is nothing at `path`, a table cannot be used, or a folder holds cases of which some would be left out.
    """
    if path.suffix.lower() in TABLES and path.is_file():
        rows = rows_of(path)
        owners = {row["id"]: row.get("patient") or patient(row["id"]) for row in rows}
        labels = {row["id"]: row["label"] for row in rows if row.get("label")}
        return _cases({row["id"]: Path(row["path"]) for row in rows}, read, owners.__getitem__, labels)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if not path.is_dir():
        return _cases({name_of(path): path}, read, patient, {})
    there = [one for one in sorted(path.iterdir()) if not one.name.startswith(".")]
    folders = [one for one in there if one.is_dir()]
    lost = [one for one in there if not one.exists()]
    groups = grouped(path, _endings(read))
    if groups and (nested := [one.name for one in folders if grouped(one, _endings(read))]):
        both = f"files of a case ({', '.join(groups)}) and folders of cases ({', '.join(nested)})"
        raise DataError(f"{path}: holds {both}; part them, or give a table with the column path")
    if len(groups) > 1:
        return _cases(dict.fromkeys(groups, path), read, patient, {}, together=False)
    stacked = [one for one in there if is_nifti(one)]
    if groups or not (folders or stacked or lost):
        return _cases({path.absolute().name: path}, read, patient, {})
    named: dict[str, list[Path]] = {}
    for one in [*folders, *stacked, *lost]:
        named.setdefault(name_of(one), []).append(one)
    if twice := [", ".join(one.name for one in same) for same in named.values() if len(same) > 1]:
        raise DataError(f"{path}: {'; '.join(twice)} would be one case; give a table with the columns id and path")
    return _cases({name: same[0] for name, same in named.items()}, read, patient, {})


def _cases(
    paths: Mapping[str, Path],
    read: ReadChannels,
    patient: Callable[[str], str],
    labels: Mapping[str, str],
    together: bool = True,
) -> Inputs:
    """A case a path; where the files of several lie in one folder, not `together`, a case is what its name begins."""
    cases: list[Case] = []
    problems: dict[str, str] = {}
    suffixes = _endings(read)
    for name, path in paths.items():
        if is_nifti(path):
            cases.append(Case(name, patient(name), (path.absolute(),), None))
            continue
        if not path.is_dir():
            what = "neither a case's folder nor a NIfTI file (.nii, .nii.gz)" if path.exists() else "no such file or folder"
            problems[name] = dead(path) if path.is_symlink() and not path.exists() else f"{path}: {what}"
            continue
        groups = grouped(path.absolute(), suffixes | {_SEG: read.suffixes.get(_SEG, SUFFIXES[_SEG])})
        if not together:
            groups = {name: groups[name]}
        if not groups and any(_is_dicom(one) for one in path.iterdir()):
            wanted = " ".join(f"CASE-{endings[0]}.nii.gz" for endings in suffixes.values())
            problems[name] = f"{path}: holds DICOM, NIfTI is wanted: {_CONVERT.format(wanted)}"
            continue
        one, wrong = one_of_each(name, groups, suffixes)
        if together:
            wrong += called_otherwise(path.absolute().name, groups)
        segmentations = [file for of in groups.values() for file in of.get(_SEG, ())]
        if len(segmentations) > 1:
            wrong.append(
                f"{name}: {len(segmentations)} files for {_SEG} ({', '.join(p.name for p in segmentations)}); keep one"
            )
        if not one:
            wrong.append(instead(path, suffixes))
        if wrong:
            problems[name] = "; ".join(wrong)
        else:
            images = tuple(one[channel] for channel in read.channels)
            cases.append(Case(name, patient(name), images, segmentations[0] if segmentations else None))
    return Inputs(cases, problems, labels)


def _endings(read: ReadChannels) -> dict[str, Sequence[str]]:
    return {channel: read.suffixes[channel] for channel in read.channels}


def _is_dicom(path: Path) -> bool:
    """By its name, or by the four letters that every DICOM file has after 128 bytes."""
    if not path.is_file():
        return False
    if _DICOM.fullmatch(path.name):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
