"""Pictures that somebody wants predicted: a file, a folder of files, or a table."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medexp.data.images.cases import LabelledImage
from medexp.data.images.kaggle import FOLDERS, SUFFIXES, listed, meant_by
from medexp.data.images.slices import scan_of
from medexp.data.inputs import TABLES, Inputs, rows_of
from medexp.errors import DataError


def find_inputs(path: Path, patient: Callable[[str], str] = str, classes: Mapping[str, Sequence[str]] = FOLDERS) -> Inputs:
    """The pictures that a path names. Reads names only.

    Args:
        path: A JPEG, PNG or npz file; a folder with any number of them, in folders below it too, whose names are labels where
            `classes` has them; a table with a column `path` to a file each.
        patient: From the name of the scan that a picture comes from to its patient. In a folder a picture
            of no patient is one of its own.
        classes: Names of the folders of no and of yes, in any case; those that are given are to be there.

    Raises:
        DataError: There is nothing at `path`, no picture is in the folder, a folder that `classes` names is
            missing, or a table cannot be used.
    """
    if path.suffix.lower() in TABLES and path.is_file():
        rows = rows_of(path)
        labels = {row["id"]: row["label"] for row in rows if row.get("label")}
        images = [_image(row["id"], Path(row["path"]), row.get("patient") or patient(scan_of(row["id"]))) for row in rows]
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder")
    elif path.is_dir():
        folders = os.walk(path, followlinks=True)  # a class's folder may be a link
        below = [Path(folder, name) for folder, _, names in folders for name in names]
        files = [one for one in sorted(below) if one.suffix.lower() in SUFFIXES and one.is_file()]
        files = [one for one in files if not any(part.startswith(".") for part in one.relative_to(path).parts)]
        if not files:
            raise DataError(f"{path}: no picture in it; read are {', '.join(SUFFIXES)}")
        names = {one.relative_to(path).as_posix(): one for one in files}
        owners = {name: patient(scan_of(one.stem)) for name, one in names.items()}
        images = [_image(name, one, name if owners[name] == one.stem else owners[name]) for name, one in names.items()]
        of = {folder.casefold(): label for label, folders in classes.items() for folder in folders}
        labels = {name: of[called] for name, one in names.items() if (called := one.parent.name.casefold()) in of}
        there = sorted({one.parent for one in files})
        lacking = sorted({*of} - {one.name.casefold() for one in there}) if classes != FOLDERS else []
        if lacking:
            meant = f". Did you mean {said}?" if (said := meant_by(there)) else ""
            raise DataError(
                f"{path}: no folder {', '.join(lacking)} of data.classes with pictures in it{listed(there)}{meant}"
            )
    else:
        images, labels = [_image(path.name, path, patient(scan_of(path.stem)))], {}
    problems = {
        image.id: f"{image.path}: no picture ({', '.join(SUFFIXES)})" if image.path.exists() else f"{image.path}: no such file"
        for image in images
        if not image.path.is_file() or image.path.suffix.lower() not in SUFFIXES
    }
    return Inputs([image for image in images if image.id not in problems], problems, labels)


def _image(name: str, path: Path, patient: str) -> LabelledImage:
    return LabelledImage(name, "kaggle", patient, name, path.absolute(), None)
