"""JPEG and PNG files: opened, checked, turned as their EXIF data says, and brought to 8-bit colours."""

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from medexp.data.headers import Header, of_picture
from medexp.errors import DataError

# What damaged pictures make Pillow raise, and damaged EXIF data.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, SyntaxError, OverflowError, struct.error, TypeError, AttributeError),
    *(Image.DecompressionBombWarning, Image.DecompressionBombError),
)
GREY16 = 257
"""From 16 bits to the range of 8: 65535 / 257 = 255."""


def open_picture(path: Path) -> tuple[Image.Image, Header]:
    """A picture as it is stored, turned as its EXIF data says, and its header.

    Raises:
        DataError: Unreadable, no JPEG or PNG, damaged EXIF data, or larger than Pillow's limit against decompression bombs; a
            line that begins with the file's name.
    """
    wrong = "unreadable or no JPEG or PNG"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("JPEG", "PNG")) as picture:
                picture.load()
                wrong = "its EXIF data is damaged, so that nobody knows which side is up; save it turned right and without"
                Image.Exif().load(picture.info.get("exif", b""))  # Pillow's reader of JPEG keeps a bad header to itself
                return ImageOps.exif_transpose(picture), of_picture(picture, path)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path.name}: {wrong} ({type(error).__name__}: {reason})") from error


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
