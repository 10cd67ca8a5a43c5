"""OCT volumes that somebody wants predicted: a file, a folder of files, or a table."""

from collections.abc import Callable
from pathlib import Path

from medexp.data.inputs import TABLES, Inputs, rows_of
from medexp.data.oct.cases import ENDINGS, OctVolume, stem_of
from medexp.data.storage import Entry, Folder, etag_of
from medexp.errors import DataError


def find_inputs(path: Path, patient: Callable[[str], str] = str) -> Inputs:
    """The volumes that a path names. Reads names only.

    Args:
        path: A DICOM, NIfTI or NPY file; a folder with any number of them, in folders below it too; a table with a column
            `path` to a file each.
        patient: From a volume's id to its patient.

    Raises:
        DataError: There is nothing at `path`, no volume is in the folder, or a table cannot be used.
    """
    if path.suffix.lower() in TABLES and path.is_file():
        rows = rows_of(path)
        files = {row["id"]: Path(row["path"]) for row in rows}
        owners = {row["id"]: row.get("patient") or patient(row["id"]) for row in rows}
        labels = {row["id"]: row["label"] for row in rows if row.get("label")}
        return _inputs(files, owners.__getitem__, labels)
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        return _inputs({stem_of(path.name) or path.name: path}, patient, {})
    there = [entry.key for entry in Folder(path.absolute()).entries()]
    keys = [key for key in there if stem_of(key) and not any(part.startswith(".") for part in key.split("/"))]
    if not keys:
        raise DataError(f"{path}: no volume in it; read are {', '.join(ENDINGS)}")
    stems = [stem_of(key) for key in keys]
    names = [stem if stem and stems.count(stem) == 1 else key for stem, key in zip(stems, keys, strict=True)]
    return _inputs({name: path / key for name, key in zip(names, keys, strict=True)}, patient, {})


def _inputs(files: dict[str, Path], patient: Callable[[str], str], labels: dict[str, str]) -> Inputs:
    cases, problems = [], {}
    for name, path in files.items():
        if not path.is_file():
            problems[name] = f"{path}: no such file"
        elif stem_of(path.name) is None:
            problems[name] = f"{path}: no file of a volume ({', '.join(ENDINGS)})"
        else:
            stat = path.stat()
            entry = Entry(path.name, stat.st_size, etag_of(stat))
            cases.append(OctVolume(name, patient(name), Folder(path.absolute().parent), entry))
    return Inputs(cases, problems, labels)
