"""Files: writing that leaves either the whole file or folder or none, reading YAML that holds keys, and what is shipped."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

import medexp
from medexp.errors import MedexpError, StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well and vanishes when it does not.

    Several processes may write one path at once: each has its own temporary file and the last one stays.

    Raises:
        StorageError: When the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error


@contextmanager
def filling(folder: Path, key: str) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well and vanishes when it does not.

    Several processes may fill one folder at once: each has its own temporary one and the first one stays.

    Args:
        folder: A folder that is not there or is empty.
        key: The setting that says where it is, for the message.

    Raises:
        StorageError: When it cannot be written or the disk is full.
    """
    partial = folder.with_name(f".{uuid.uuid4().hex}.{folder.name}")
    try:
        partial.mkdir(parents=True)
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process filled it meanwhile
                raise
    except OSError as error:
        raise StorageError(
            f"{key} {folder}: cannot be written ({error.strerror or error}); free space or give another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def shipped(name: str) -> Path:
    """A folder that stands beside medexp in a checkout and that a wheel holds in `medexp/_shipped/`."""
    package = Path(medexp.__file__).parent
    inside = package / "_shipped" / name
    return inside if inside.is_dir() else package.parent / name


def read_mapping(path: Path, failure: type[MedexpError], known: str) -> dict[Any, Any]:
    """The keys and values of a YAML file.

    Args:
        path: The file.
        failure: What is raised when it cannot be used.
        known: What a file without keys should have held, for the message.

    Raises:
        MedexpError: `failure`, when the file cannot be read or is no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise failure(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise failure(f"{path}: holds no keys; {known}")
    return content
