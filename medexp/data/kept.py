"""What is found out, or computed, once and kept: one JSON file a folder of files, so that only what changed is read again; and
arrays, one file of safetensors an entry. Each carries a digest: what was damaged or altered since is computed anew."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medexp.arrays import Array
from medexp.data.parallel import described
from medexp.files import replacing

_CHUNK = 32  # files a task of joblib
_DIGEST = "digest of all else"


def kept_records(
    describe: Callable[..., dict[str, Any]],
    files: Mapping[str, tuple[Path, tuple[Any, ...], Sequence[Any]]],
    cache: Path,
    version: int,
    jobs: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What is found out of each file, by id, and what is wrong with the others, by id.

    A file that was described before and has not changed since (path, size and times) is not read.

    Args:
        describe: From its arguments to what JSON can hold; raises a DataError where the file cannot be used.
        files: By id: the file, the arguments, and what beside the file the result follows from, as JSON can hold it.
        cache: Folder of the cache.
        version: Of what `describe` computes.
        jobs: Processes.
    """
    by_folder: dict[Path, dict[str, Path]] = defaultdict(dict)
    for name, (path, _, _) in files.items():
        by_folder[path.parent][name] = path
    records: dict[str, dict[str, Any]] = {}
    problems: dict[str, str] = {}
    for folder, members in by_folder.items():
        entry = cache / f"{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:40]}.json"
        known = _known(entry, version)
        stamps = {name: [*files[name][2], *stamp(path)] for name, path in members.items()}
        todo = {name: path for name, path in members.items() if known.get(path.name, {}).get("stamp") != stamps[name]}
        calls = {name: files[name][1] for name in todo}
        found, wrong = described(describe, calls, jobs, f"Reading {folder.name}", together=_CHUNK)
        problems |= {name: str(error) for name, error in wrong.items()}
        known |= {path.name: {"stamp": stamps[name], **found[name]} for name, path in todo.items() if name in found}
        if todo:
            keep_record(entry, {"version": version, "files": known})
        records |= {name: known[path.name] for name, path in members.items() if name not in problems}
    return records, problems


def stamp(path: Path) -> list[int]:
    """What tells that a file is another one than it was, without reading it.

    What is unpacked or copied with its times over a file of the same size has size and mtime of the file before; the time of
    its last change is set by nobody. Of a bucket's copy, a second link, the path says the content, and each use changes it.
    """
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns if stat.st_nlink == 1 else 0]


def _known(entry: Path, version: int) -> dict[str, dict[str, Any]]:
    """What is known of a folder's files, by name; nothing when the file is damaged or of another version."""
    content = known_record(entry) or {}
    return content["files"] if content.get("version") == version else {}


def keep_record(entry: Path, record: Mapping[str, Any]) -> None:
    """Write what JSON can hold, with a digest of it and of the entry's name.

    Raises:
        StorageError: The cache cannot be written.
    """
    with replacing(entry) as temporary:
        temporary.write_text(json.dumps({**record, _DIGEST: _digest(entry, record)}))


def known_record(entry: Path) -> dict[str, Any] | None:
    """What `keep_record` wrote, tuples as lists; None where there is nothing or the file is damaged."""
    try:
        record: dict[str, Any] = json.loads(entry.read_text())
        digest = record.pop(_DIGEST)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record if digest == _digest(entry, record) else None


def _digest(entry: Path, record: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{entry.name} {json.dumps(record)}".encode()).hexdigest()


def kept_arrays(
    folder: Path, key: Sequence[Any], compute: Callable[[], Mapping[str, Array]]
) -> tuple[Mapping[str, Array], bool]:
    """Arrays by name from the cache, and whether they were there; else, or if the file is damaged, they are made and kept.

    Args:
        folder: Of the cache; one file an entry.
        key: All that the arrays follow from, as JSON can write it.
        compute: Makes them.

    Raises:
        StorageError: The cache cannot be written.
    """
    entry = entry_of(folder, key)
    known = known_arrays(entry)
    return (known, True) if known is not None else (keep(entry, compute()), False)


def entry_of(folder: Path, key: Sequence[Any]) -> Path:
    """The file that arrays with this key are kept in."""
    return folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]}.safetensors"


def keep(entry: Path, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """Write arrays, with a digest of all that they are and of the entry's name: one that was put in place of another is known.

    Raises:
        StorageError: The cache cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(entry) as temporary:
        save_file(arrays, temporary, metadata={"sha256": _sha256(entry, arrays)})
    return arrays


def known_arrays(entry: Path) -> Mapping[str, Array] | None:
    """The arrays; None where there are none or the file is damaged."""
    try:
        with safe_open(entry, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            finite = all(np.isfinite(array).all() for array in arrays.values())
            return arrays if finite and file.metadata()["sha256"] == _sha256(entry, arrays) else None
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


def _sha256(entry: Path, arrays: Mapping[str, Array]) -> str:
    whole = hashlib.sha256(entry.name.encode())
    for name in sorted(arrays):
        whole.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        whole.update(np.ascontiguousarray(arrays[name]).data)
    return whole.hexdigest()
