"""What is found out of files once and kept, so that only what changed is read again: one JSON file a folder of them."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.data.parallel import described
from medexp.files import replacing

_CHUNK = 32  # files a task of joblib


def kept_records(
    describe: Callable[..., dict[str, Any]],
    files: Mapping[str, tuple[Path, tuple[Any, ...], Sequence[Any]]],
    cache: Path,
    version: int,
    jobs: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What is found out of each file, by id, and what is wrong with the others, by id.

    A file that was described before and has not changed since (path, size and mtime) is not read.

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
        stamps = {name: [*files[name][2], *_stamp(path)] for name, path in members.items()}
        todo = {name: path for name, path in members.items() if known.get(path.name, {}).get("stamp") != stamps[name]}
        calls = {name: files[name][1] for name in todo}
        found, wrong = described(describe, calls, jobs, f"Reading {folder.name}", together=_CHUNK)
        problems |= {name: str(error) for name, error in wrong.items()}
        known |= {path.name: {"stamp": stamps[name], **found[name]} for name, path in todo.items() if name in found}
        if todo:
            with replacing(entry) as temporary:
                temporary.write_text(json.dumps({"version": version, "files": known}))
        records |= {name: known[path.name] for name, path in members.items() if name not in problems}
    return records, problems


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _known(entry: Path, version: int) -> dict[str, dict[str, Any]]:
    """What is known of a folder's files, by name; nothing when the file is damaged or of another version."""
    try:
        content = json.loads(entry.read_text())
        files = content["files"] if content["version"] == version else {}
        return {name: dict(record) for name, record in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
