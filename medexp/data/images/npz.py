"""numpy's .npz files from anywhere: nothing in them is unpickled, and their size is known before memory is taken."""

import json
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medexp.arrays import MAX_VALUE
from medexp.errors import DataError

Arrays = dict[str, NDArray[Any] | None]
"""Arrays of a file by name; None for one that is a pickle."""

MAX_BYTES = 2**28
"""Largest array that is read: 256 MiB, a float32 image of 8192 x 8192 pixels. A few kilobytes can claim to hold terabytes."""

# What damaged files make zipfile and numpy's reader of headers raise; the last two come from Python's own parser.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(SyntaxError, tokenize.TokenError),
)


def read_npz(path: Path, wanted: Sequence[str]) -> Arrays:
    """Those of the arrays `wanted` that a file holds, by name; None for one that is a pickle, which is left alone.

    Raises:
        DataError: The file is no .npz, is damaged, or an array is larger than MAX_BYTES.
    """
    found: Arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(set(wanted) & {member.removesuffix(".npy") for member in archive.namelist()}):
                with archive.open(f"{name}.npy") as member:
                    header = npy.read_array_header_1_0 if npy.read_magic(member) == (1, 0) else npy.read_array_header_2_0
                    shape, _, dtype = header(member)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject:
                    found[name] = None
                elif min(shape, default=0) < 0 or size > MAX_BYTES:
                    raise DataError(f"{path.name}: {name} claims the shape {shape}; allowed are {MAX_BYTES >> 20} MiB")
                else:
                    with archive.open(f"{name}.npy") as member:
                        found[name] = npy.read_array(member, allow_pickle=False)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path.name}: unreadable or truncated ({type(error).__name__}: {reason})") from error
    return found


def plane_problems(arrays: Arrays, name: str) -> list[str]:
    """What keeps the array `name` from being an image of one channel: numbers, all finite, of shape (H, W) or (1, H, W)."""
    if name not in arrays:
        return [f"no array {name!r}"]
    array = arrays[name]
    if array is None:
        return [f"{name!r} is a pickle, which is not opened: it could run anything; save it as numbers"]
    if array.dtype.kind not in "biuf":
        return [f"{name!r} is of type {array.dtype}; allowed are numbers"]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[0] != 1):
        return [f"{name!r} has the shape {array.shape}; allowed are (H, W) and (1, H, W)"]
    finite = np.abs(array.astype(np.float64)) < MAX_VALUE
    return [] if finite.all() else [f"{name!r} has values that are NaN, infinite or beyond {MAX_VALUE:g}"]


def metadata_of(arrays: Arrays) -> Mapping[str, Any] | None:
    """The JSON object in the array `metadata`; None where there is none, or one that would have to be unpickled.

    Raises:
        DataError: It is something else.
    """
    array = arrays.get("metadata")
    if array is None:
        return None
    try:
        content = json.loads(array.item()) if array.dtype.kind == "U" and array.ndim == 0 else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DataError("its metadata is no JSON object")
    return content
