"""Pictures as they are meant to be seen."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medexp.data.pictures import read_rgb
from medexp.errors import DataError


def test_pictures_are_upright_and_whole_whatever_their_mode(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 24).reshape(4, 6).astype(np.uint8)
    upright = np.repeat(grey[..., None], 3, 2)
    turned = Image.fromarray(grey)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "turned.png"), np.rot90(upright, -1))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep.png"), upright)
    Image.fromarray(np.dstack([upright, np.where(grey > 99, 255, 0).astype(np.uint8)])).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "clear.png"), np.where(upright > 99, upright, 0))
    Image.fromarray(grey > 99).save(tmp_path / "mask.png")
    assert set(np.unique(read_rgb(tmp_path / "mask.png"))) == {0, 255}
    (tmp_path / "broken.png").write_bytes((tmp_path / "deep.png").read_bytes()[:60])
    for name in ("broken.png", "missing.png"):
        with pytest.raises(DataError, match=f"{name}: unreadable"):
            read_rgb(tmp_path / name)


def colours16(path: Path, grey: NDArray[np.uint16]) -> Path:
    """A PNG of 16 bits a colour, which Pillow does not write."""
    rows = b"".join(b"\0" + np.repeat(row.astype(">u2"), 3).tobytes() for row in grey)
    header = struct.pack(">IIBBBBB", *grey.shape[::-1], 16, 2, 0, 0, 0)
    blocks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    told = (struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held)) for kind, held in blocks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(told))
    return path


def test_colours_of_16_bits_whose_upper_8_hold_nothing_are_refused(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint16)
    read = np.asarray(read_rgb(colours16(tmp_path / "a.png", grey * 257)))
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, 2))
    with pytest.raises(DataError, match=r"^a.png: colours of 16 bits, of which the upper 8 are read, and nothing in them"):
        read_rgb(colours16(tmp_path / "a.png", grey * 16))


def saved(kind: str) -> bytes:
    made = BytesIO()
    Image.new("L", (20, 20), 9).save(made, kind)
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty; fetch it anew"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a pointer of Git LFS; fetch the file by: git lfs pull",
        ),
        (b"<!doctype html><title>404</title>", "a web page or XML"),
        (saved("WEBP"), "it is WebP, whatever its ending; save it as PNG"),
        (saved("TIFF"), "it is TIFF"),
        (saved("GIF"), "it is GIF"),
        (saved("BMP"), "it is BMP"),
        (b"\0\0\0\x18ftypheic", "it is HEIC or AVIF"),
        (bytes(128) + b"DICM", "it is DICOM"),
        (b"NRRD0004\n", "it is NRRD, whatever its ending"),
        (b"this is no picture", "its first bytes tell of no kind of file"),
    ],
)
def test_what_is_called_a_jpeg_and_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=f"a.jpg: unreadable or no JPEG or PNG: .*{words}"):
        read_rgb(tmp_path / "a.jpg")


def test_one_of_several_frames_is_not_taken_for_the_picture(tmp_path: Path) -> None:
    frames = [Image.new("L", (20, 20), shade) for shade in (9, 99)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="a.png: is animated, of 2 frames"):
        read_rgb(tmp_path / "a.png")
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])  # of a phone: the first is the picture
    assert read_rgb(tmp_path / "a.jpg").size == (20, 20)
