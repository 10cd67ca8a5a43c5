"""JPEG and PNG files: opened, checked, turned as their EXIF data says, and brought to 8-bit colours."""

import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medexp.data.headers import Header, of_picture
from medexp.errors import DataError

# What damaged pictures make Pillow raise, and damaged EXIF data.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, SyntaxError, OverflowError, struct.error, TypeError, AttributeError),
    *(Image.DecompressionBombWarning, Image.DecompressionBombError),
)
_OTHERS: Mapping[str, tuple[int, tuple[bytes, ...]]] = {  # where they say what they are, and how
    "WebP": (8, (b"WEBP",)),
    "GIF": (0, (b"GIF8",)),
    "TIFF": (0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "BMP": (0, (b"BM",)),
    "HEIC or AVIF": (4, (b"ftyphei", b"ftypmif1", b"ftypavif", b"ftyphevc")),
    "JPEG 2000": (0, (b"\0\0\0\x0cjP  ", b"\xffO\xffQ")),
    "DICOM": (128, (b"DICM",)),
    "ZIP": (0, (b"PK",)),
    "PDF": (0, (b"%PDF",)),
    "NRRD": (0, (b"NRRD",)),
    "gzip, as .nii.gz is": (0, (b"\x1f\x8b",)),
}
_FAINT = 25.5  # of 255: a tenth of white
GREY16 = 257
"""From 16 bits to the range of 8: 65535 / 257 = 255."""


def open_picture(path: Path) -> tuple[Image.Image, Header]:
    """A picture as it is stored, turned as its EXIF data says, and its header.

    Raises:
        DataError: Unreadable, no JPEG or PNG, of several frames, damaged EXIF data, or larger than Pillow's limit against
            decompression bombs; a line that begins with the file's name.
    """
    wrong = "unreadable or no JPEG or PNG"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("JPEG", "PNG")) as picture:
                if picture.format == "PNG" and (frames := getattr(picture, "n_frames", 1)) > 1:
                    raise DataError(f"{path.name}: is animated, of {frames} frames; save the one that is meant as a picture")
                picture.load()
                _demand_depth(picture, path)
                wrong = "its EXIF data is damaged, so that nobody knows which side is up; save it turned right and without"
                Image.Exif().load(picture.info.get("exif", b""))  # Pillow's reader of JPEG keeps a bad header to itself
                return ImageOps.exif_transpose(picture), of_picture(picture, path)
    except UnidentifiedImageError as error:
        raise DataError(f"{path.name}: {wrong}{_what(path)}") from error
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path.name}: {wrong} ({type(error).__name__}: {reason})") from error


def _demand_depth(picture: Image.Image, path: Path) -> None:
    """Of a PNG's colours of 16 bits Pillow keeps the upper 8: of 12 bits in 16 a dozen grey levels would be left."""
    if picture.format != "PNG" or picture.mode not in ("RGB", "RGBA"):
        return
    with path.open("rb") as file:
        bits = file.read(25)[24]  # of the first block, which is IHDR
    if bits == 16 and np.asarray(picture)[..., :3].max() < _FAINT:
        raise DataError(
            f"{path.name}: colours of 16 bits, of which the upper 8 are read, and nothing in them reaches a tenth of white; "
            "save it in grey or with its values stretched, or nearly all of it is lost"
        )


def _what(path: Path) -> str:
    """What a file that is no picture is by its first bytes, and what to do with it, for the end of a sentence."""
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        return ": it is empty; fetch it anew"
    if head.startswith(b"version https://git-lfs"):
        return ": it is a pointer of Git LFS; fetch the file by: git lfs pull"
    if head.lstrip()[:1] == b"<":
        return ": it is a web page or XML, as a download that failed leaves it; fetch it anew"
    found = next((name for name, (at, marks) in _OTHERS.items() if head[at:].startswith(marks)), "")
    return f": it is {found}, whatever its ending; save it as PNG" if found else ": its first bytes tell of no kind of file"


def in_colours(picture: Image.Image) -> Image.Image:
    """A picture as 8-bit RGB: 16 bits are scaled, not clipped, and what is transparent lies over black."""
    if picture.mode.startswith("I"):
        scaled = np.asarray(picture, np.float32) / np.float32(GREY16)
        picture = Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        solid = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(solid, picture.convert("RGBA"))
    return picture.convert("RGB")


def read_rgb(path: Path) -> Image.Image:
    """A picture as `open_picture` and `in_colours` make it.

    Raises:
        DataError: As of `open_picture`.
    """
    return in_colours(open_picture(path)[0])
