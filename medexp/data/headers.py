"""What a file's header says of a case, pixels aside: size, spacing, format, device. Where that alone tells the labels apart, a
model may have learned the scanner or the source of the files instead of what they show.

Fields are numbers or text; what a file does not say is None, or missing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import ExifTags, Image

Header = Mapping[str, float | str | None]
"""By name of the field."""

_OF_METADATA = ("channel", "slice")  # of an npz file; who it is of and its label are no header fields


def of_picture(picture: Image.Image, path: Path) -> Header:
    """The header of a JPEG or PNG file.

    Args:
        picture: Loaded, and as it is stored: not turned.
        path: The file.
    """
    tables = getattr(picture, "quantization", None)
    exif, info = picture.getexif(), picture.info
    device = " ".join(str(exif.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)).strip()
    software = str(exif.get(ExifTags.Base.Software) or info.get("Software") or "").strip("\0 ")
    dpi = info.get("dpi")
    return {
        **_of_plane(picture.height, picture.width, path),
        "format": picture.format,
        "mode": picture.mode,
        "JPEG quantisation": float(np.mean(tables[0])) if tables else None,
        "progressive": str(bool(info.get("progressive") or info.get("interlace"))),
        "dpi": float(dpi[0]) if dpi and np.isfinite(float(dpi[0])) else None,
        "colour profile": str("icc_profile" in info),
        "device": device or None,
        "software": software or None,
    }


def of_npz(shape: tuple[int, ...], metadata: Mapping[str, Any], path: Path) -> Header:
    """The header of an npz file.

    Args:
        shape: Of the image; the last two are height and width.
        metadata: As the file holds it.
        path: The file.
    """
    spacing = metadata.get("spacing")
    said = {name: value for name in _OF_METADATA if isinstance(value := metadata.get(name), int | float | str)}
    if isinstance(spacing, list) and spacing and all(isinstance(edge, int | float) for edge in spacing):
        said["spacing"] = float(spacing[0])
    return {**_of_plane(shape[-2], shape[-1], path), "format": "npz", **said}


def of_volume(files: Mapping[str, Path]) -> Header:
    """The headers of NIfTI files of one geometry: that of the first, and of each what may differ. Reads no voxel.

    Args:
        files: By name, such as that of a channel; each was read and found good.
    """
    fields: dict[str, float | str | None] = {}
    for name, path in files.items():
        image: Any = nib.load(path)
        header = image.header
        if not fields:
            edges, shape = nib.affines.voxel_sizes(image.affine), image.shape
            fields |= {f"spacing {axis}": float(edge) for axis, edge in zip("xyz", edges, strict=True)}
            fields |= {f"voxels {axis}": float(count) for axis, count in zip("xyz", shape, strict=False)}
            said = "" if header["sform_code"] or header["qform_code"] else ", which no header says"
            fields |= {"orientation": "".join(code or "?" for code in nib.aff2axcodes(image.affine)) + said}
            fields |= {key: float(header[key]) for key in ("qform_code", "sform_code", "xyzt_units")}
        fields |= {f"{name} data type": str(header.get_data_dtype()), f"{name} file size": float(path.stat().st_size)}
        fields |= {f"{name} slope": _finite(image.dataobj.slope), f"{name} intercept": _finite(image.dataobj.inter)}
        fields |= {f"{name} {key}": _text(header[key]) for key in ("descrip", "aux_file", "intent_name")}
    return fields


def two_affines(files: Sequence[Path]) -> str:
    """Where the header of a NIfTI file has an sform and a qform that differ in spacing or orientation, what both say; empty
    where none has. Readers differ in which they believe: nibabel, and so medexp, in the sform, ITK in the qform.

    Args:
        files: Each was read and found good.
    """
    for path in files:
        image: Any = nib.load(path)
        header = image.header
        try:
            affines = [form(coded=True) for form in (header.get_sform, header.get_qform)]
        except nib.spatialimages.HeaderDataError:  # a quaternion that is none: nobody can read it
            continue
        if any(affine is None or not code for affine, code in affines):
            continue
        edges = [nib.affines.voxel_sizes(affine) for affine, _ in affines]
        axes = ["".join(code or "?" for code in nib.aff2axcodes(affine)) for affine, _ in affines]
        if axes[0] != axes[1] or not np.allclose(edges[0], edges[1], rtol=0.02):
            said = [f"{' x '.join(f'{edge:.3g}' for edge in size)} mm {way}" for size, way in zip(edges, axes, strict=True)]
            return f"{path.name}: {said[0]} by its sform, {said[1]} by its qform"
    return ""


def _of_plane(height: int, width: int, path: Path) -> dict[str, float | str | None]:
    sizes = {"height": float(height), "width": float(width), "aspect": width / height}
    return {**sizes, "file size": float(path.stat().st_size)}


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _text(value: Any) -> str | None:
    return bytes(value.item()).split(b"\0")[0].decode("latin-1").strip() or None
