"""Pictures as they are meant to be seen."""

from pathlib import Path

import numpy as np
import pytest
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
