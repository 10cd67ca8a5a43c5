"""Files: writing all or nothing, one process at a time, YAML, read and written in one way, and what medexp ships."""

import errno
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import medexp
from medexp.errors import MedexpError, StorageError

if TYPE_CHECKING:
    import pandas as pd


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
    except StorageError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not is_full_disk(error) and not is_denied(error):
            raise
        told = getattr(error, "strerror", None) or error
        raise StorageError(f"{path}: cannot be written ({told}); free space or choose another folder") from error


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that a disk is full; safetensors, torch, shutil and SQLite do so without an errno."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in (os.strerror(errno.ENOSPC), "StorageFull", "database or disk is full"))


def is_denied(error: BaseException) -> bool:
    """Whether an error says that a file is another user's, or its disk read-only; safetensors does so without an errno."""
    if isinstance(error, OSError):
        return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return any(f"I/O error: {os.strerror(code)}" in str(error) for code in (errno.EACCES, errno.EPERM, errno.EROFS))


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


@contextmanager
def alone(lock: Path, *, waiting: str = "", remedy: str = "free space or choose another folder") -> Iterator[None]:
    """One process of this machine at a time; the lock of one that ends, however it ends, is free.

    Args:
        lock: The file that stands for the lock; it stays.
        waiting: What a process that has to wait says in the terminal; empty: nothing.
        remedy: What to do where the file cannot be written, for the message.

    Raises:
        StorageError: It cannot be written.
    """
    from filelock import FileLock, Timeout  # brings asyncio along, which `--help` has no use for

    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(blocking=not waiting)
        except Timeout:
            print(waiting, flush=True)
            held.acquire()
    except OSError as error:
        raise StorageError(f"{lock}: cannot be written ({error}); {remedy}") from error
    try:
        yield
    finally:
        held.release()


def shipped(name: str) -> Path:
    """A folder that stands beside medexp in a checkout and that a wheel holds in `medexp/_shipped/`."""
    package = Path(medexp.__file__).parent
    inside = package / "_shipped" / name
    return inside if inside.is_dir() else package.parent / name


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of version 1.2, 1e-4 among them, and with a key but once in a block."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  as the library declares it

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # what `<<` merges, and a key here overrides, is not in it yet
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} stands twice", node.start_mark)
        return node


class _OnlyText(_Loader):
    """Every scalar as it is written: 007 stays 007."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  as the library declares it


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would read as something else than text."""


class _TextDumper(_Dumper):
    """Quotes nothing for what it looks like: to its reader every scalar is text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  as the library declares it


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
for _tag, _pattern, _first in (  # of two that match the first counts
    ("merge", re.compile(r"<<$"), ["<"]),  # as YAML 1.1 has it: 1.2 says nothing of it, and files use it
    ("null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(true|false|yes|no|on|off)$", re.IGNORECASE), list("tTfFyYnNoO")),  # yes and no as files have them
    ("int", re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"0o[0-7]+$"), ["0"])


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if re.search("[\n\x85\u2028\u2029]", text) else None  # in other quotes a line's end is read as a space
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)  # 010 is ten


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:merge", lambda _, node: node.value)  # of `<<` that is no key


def parse_yaml(text: str, *, only_text: bool = False) -> Any:
    """What a YAML document says, numbers as in version 1.2 (`1e-4` is one); mappings, lists and scalars alone are built.

    Args:
        text: The document.
        only_text: Whether each scalar is text, whatever it looks like.

    Raises:
        yaml.YAMLError: It is none, or a key stands twice in a block.
    """
    try:
        return yaml.load(text, _OnlyText if only_text else _Loader)  # noqa: S506  subclasses of the safe one
    except yaml.YAMLError:
        raise
    except Exception as error:  # the library's own, of `!!int x`, a number of 5,000 digits, a thousand brackets
        deep = isinstance(error, RecursionError)
        raise yaml.YAMLError("it is nested too deeply" if deep else f"{type(error).__name__}: {error}") from error


def dump_yaml(content: Any, *, in_a_line: bool = False, only_text: bool = False) -> str:
    """Content as YAML that `parse_yaml` reads back, keys in their order.

    Args:
        content: Mappings, lists and scalars.
        in_a_line: Whether it is one line, without its end.
        only_text: Whether all is for `parse_yaml(only_text=True)`, to which 0012 is text.
    """
    style: dict[str, Any] = {"Dumper": _TextDumper if only_text else _Dumper, "allow_unicode": True}
    if in_a_line:
        return yaml.dump(content, default_flow_style=True, width=math.inf, **style).split("\n")[0]
    return yaml.dump(content, sort_keys=False, **style)


NAMES = ("case", "patient", "scan", "source", "label", "predicted", "arm", "class", "digest", "sha256", "split")
"""Columns of names: text, whatever it looks like."""


def read_csv(file: Path, separator: str = ",", *, only_text: bool = False) -> "pd.DataFrame":
    """A table with a row a case: columns of names are text as it stands, NA and 0012 too; in others what is empty is NaN.

    Args:
        file: Its path.
        separator: What parts the values.
        only_text: Whether every column is one of names.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no table.
    """
    import pandas as pd  # which `--help` has no use for

    if only_text:
        return pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
    columns = pd.read_csv(file, sep=separator, nrows=0).columns
    empty = {column: ["", "nan", "NaN", "NA"] for column in columns if column not in NAMES}
    kinds = dict.fromkeys(NAMES, str)
    return pd.read_csv(file, sep=separator, dtype=kinds, keep_default_na=False, na_values=empty)


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
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise failure(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise failure(f"{path}: holds no keys; {known}")
    return content
