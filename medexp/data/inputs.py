"""Files that somebody wants predicted: found by what a path is, whatever is wrong with one of them told beside the others."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medexp.addresses import local_path
from medexp.errors import DataError

TABLES = (".tsv", ".csv")
_MARKS = {"\t": "tabs", ",": "commas", ";": "semicolons"}


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


def decoded(content: bytes) -> str:
    """UTF-8 with or without the mark that spreadsheets write, as text.

    Raises:
        DataError: It is something else; a line that follows the file's name.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"the byte 0x{content[error.start]:02x} in line {content.count(bytes([10]), 0, error.start) + 1}"
        found = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else where
        raise DataError(f"is no UTF-8: found {found}; save it as UTF-8") from error


def lines_of(path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """The rows of a table that are not blank, the names of the columns first, each with the number of its line.

    UTF-8, with or without the mark that spreadsheets write, with Unix or Windows line ends; a value lies in one line. Values
    beyond the last column are left out where they are empty, as spreadsheets write them.

    Raises:
        DataError: It cannot be read, is no UTF-8, its values are parted by something else, or a quotation mark is not closed
            in its line.
    """
    rows: list[tuple[int, list[str]]] = []
    before = 0
    try:
        reader = csv.reader(io.StringIO(decoded(path.read_bytes()), newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            if reader.line_num > before + 1:
                raise csv.Error("not closed in its line")
            before = reader.line_num
            if any(value.strip() for value in row):
                rows.append((before, row))
    except csv.Error as error:
        told = f"line {before + 1}: a value begins with a quotation mark that does not end it ({error})"
        raise DataError(f"{path}: {told}; take the mark away, or put two around the value") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if not rows:
        return rows
    head = rows[0][1]
    if len(head) == 1 and (others := [name for mark, name in _MARKS.items() if mark != delimiter and mark in head[0]]):
        raise DataError(f"{path}: line 1: values are parted by {others[0]}; save it with {_MARKS[delimiter]} between them")
    return [(number, row if any(map(str.strip, row[len(head) :])) else row[: len(head)]) for number, row in rows]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table of files: `path`, relative to the table's folder or absolute, and where they are given `id` (else
    the path's name), `patient` and `label`.

    Raises:
        DataError: It cannot be read, has no column `path`, or names an id twice or none.
    """
    (_, header), *lines = lines_of(path, "\t" if path.suffix.lower() == ".tsv" else ",") or [(1, [])]
    names = [name.strip().lower() for name in header]
    if "path" not in names:
        found = ", ".join(names) or "nothing"
        raise DataError(
            f"{path}: no column path; found {found}. A table has path and, if they are known, id, patient and label"
        )
    if wide := [str(number) for number, line in lines if len(line) != len(names)]:
        raise DataError(f"{path}: line {', '.join(wide)}: other than {len(names)} values, as many as the header has columns")
    rows = [{name: value.strip() for name, value in zip(names, line, strict=True)} for _, line in lines]
    if empty := [str(number) for (number, _), row in zip(lines, rows, strict=True) if not row["path"]]:
        raise DataError(f"{path}: path is empty in line {', '.join(empty)}")
    for row in rows:
        row["id"] = row.get("id") or name_of(Path(row["path"]))
        row["path"] = str((path.parent / local_path(row["path"])).absolute())
    if twice := sorted(name for name, times in Counter(row["id"] for row in rows).items() if times > 1):
        raise DataError(f"{path}: id {', '.join(twice)} stands several times; an id names one row. Give a column id")
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def name_of(path: Path) -> str:
    """A file's or folder's name without .nii, .nii.gz or another ending."""
    lower = path.name.lower()
    return path.name[:-7] if lower.endswith(".nii.gz") else path.stem if path.suffix and not path.is_dir() else path.name


def fingerprint(files: Sequence[Path]) -> str:
    """sha256 over the content of files, in their order: what was predicted is known again.

    Raises:
        DataError: One cannot be read.
    """
    whole = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as content:
                whole.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    return whole.hexdigest()
