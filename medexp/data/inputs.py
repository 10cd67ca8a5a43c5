"""Files that somebody wants predicted: found by what a path is, whatever is wrong with one of them told beside the others."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medexp.errors import DataError

TABLES = (".tsv", ".csv")


@dataclass(frozen=True)
class Inputs:
    """Cases that were found.

    Attributes:
        cases: Those that have all their files; each has an `id`, unique among them, and `files`.
        problems: What is wrong with others, by id.
        labels: What a table, or the name of a folder, says that a case is, by id.
    """

    cases: Sequence[Any]
    problems: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table of files: `path`, relative to the table's folder or absolute, and where they are given `id` (else
    the path's name), `patient` and `label`.

    Raises:
        DataError: It cannot be read, has no column `path`, or names an id twice or none.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
            names = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    if "path" not in names:
        found = ", ".join(names) or "nothing"
        raise DataError(
            f"{path}: no column path; found {found}. A table has path and, if they are known, id, patient and label"
        )
    rows = [row for row in rows if any(row.values())]
    if lines := [str(number) for number, row in enumerate(rows, 2) if not row["path"]]:
        raise DataError(f"{path}: path is empty in line {', '.join(lines)}")
    for row in rows:
        row["id"] = row.get("id") or name_of(Path(row["path"]))
        row["path"] = str((path.parent / Path(row["path"]).expanduser()).absolute())
    ids = [row["id"] for row in rows]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise DataError(f"{path}: id {', '.join(twice)} stands several times; an id names one row. Give a column id")
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def name_of(path: Path) -> str:
    """A file's or folder's name without .nii, .nii.gz or another ending."""
    lower = path.name.lower()
    return path.name[:-7] if lower.endswith(".nii.gz") else path.stem if path.suffix and not path.is_dir() else path.name


def fingerprint(files: Sequence[Path]) -> str:
    """sha256 over the content of files, in their order: what was predicted is known again."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            whole.update(hashlib.file_digest(content, "sha256").digest())
    return whole.hexdigest()
