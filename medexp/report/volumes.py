"""Volumes of cases for the eye: small ones, which a run keeps while it scores, and which the page shows in 3D.

They are of no use for figures: voxels are left out, and grey values are 256.
"""

import base64
import gzip
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from medexp.arrays import Array
from medexp.errors import DataError
from medexp.report.facts import VIEWER
from medexp.tracking.past import fetched
from medexp.tracking.runs import TrackedRun

KINDS = ("image", "truth", "prediction")
WORST = 10
"""Cases that a run keeps, the worst ones, and that a page shows."""
_EDGE = 96  # voxels at most along an axis
_LARGEST = 9_000_000  # bytes of all volumes of a page; in base64 they are a third more
_COLOURS: Mapping[str, tuple[int, int, int]] = {"truth": (47, 182, 106), "prediction": (232, 96, 60)}
_HEIGHT = 220  # pixels of a still


@dataclass(frozen=True)
class Volumes:
    """A case as a page shows it.

    Attributes:
        case: Its name.
        told: What it scored, in words; empty where that is not known.
        packed: The volumes as gzipped NIfTI, by kind.
        levels: The highest label of truth and prediction.
        still: Three slices through it as PNG.
    """

    case: str
    told: str
    packed: Mapping[str, bytes] = field(repr=False)
    levels: int
    still: bytes = field(repr=False)


def keep(folder: Path, case: str, volumes: Mapping[str, Array], spacing: Sequence[float]) -> None:
    """Keep small volumes of a case in a run's folder, until it is known which cases are the worst.

    Args:
        folder: The run's folder.
        case: The case.
        volumes: `image` (X, Y, Z) of any values and, where there are such, `truth` and `prediction` as labels from 0 to 255.
        spacing: Of their grid, whose axes go to the right, to the front and up, in mm.
    """
    steps = [-(-edge // _EDGE) for edge in volumes["image"].shape]
    affine = np.diag([*(float(edge) * step for edge, step in zip(spacing, steps, strict=True)), 1.0])
    place = folder / VIEWER / case_folder(case)
    place.mkdir(parents=True, exist_ok=True)
    for kind, volume in volumes.items():
        few = _thinned(np.asarray(volume), steps, labels=kind != "image")
        packed = gzip.compress(nib.Nifti1Image(_grey(few) if kind == "image" else few.astype(np.uint8), affine).to_bytes(), 4)
        (place / f"{kind}.nii.gz").write_bytes(packed)


def log_worst(run: TrackedRun, scores: "pd.Series[float]") -> None:
    """Log the kept volumes of the worst cases; of the others nothing stays.

    Args:
        run: The run.
        scores: By case, more is better; a case without a score is not shown.
    """
    there = run.folder / VIEWER
    for case in scores.dropna().sort_values(kind="stable").index[:WORST]:
        for file in sorted((there / case_folder(str(case))).glob("*.nii.gz")):
            run.reporter.file(file, f"{VIEWER}/{case_folder(str(case))}")
    shutil.rmtree(there, ignore_errors=True)


def case_folder(case: str) -> str:
    """What a case is called among a run's artifacts: every store takes these letters."""
    return re.sub(r"[^\w.-]", "_", case, flags=re.ASCII)


def volumes_of(
    run_id: str, files: Sequence[str], cases: Sequence[str], told: Mapping[str, str], folder: Path
) -> list[Volumes]:
    """The volumes that a run kept of cases, as many as a page takes.

    Args:
        run_id: The run.
        files: As of `medexp.report.facts.Facts.files`.
        cases: The cases, the most important first.
        told: What each scored, in words.
        folder: Gets the files, as long as they are read.

    Raises:
        DataError: A file is no volume.
        StorageError: The store does not answer.
    """
    found: list[Volumes] = []
    size = 0
    for case in cases:
        wanted = [path for kind in KINDS if (path := f"{VIEWER}/{case_folder(case)}/{kind}.nii.gz") in files]
        if not any(path.endswith("/image.nii.gz") for path in wanted):
            continue
        packed = {
            Path(path).name.partition(".")[0]: file.read_bytes() for path, file in fetched(run_id, wanted, folder).items()
        }
        size += sum(map(len, packed.values()))
        if size > _LARGEST:
            break
        try:
            arrays = {kind: _read(content) for kind, content in packed.items()}
            masks = [array for kind, array in arrays.items() if kind != "image"]
            levels = max((int(mask.max()) for mask in masks), default=1)
            found.append(Volumes(case, told.get(case, ""), packed, max(levels, 1), _still(arrays)))
        except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"run {run_id}: {VIEWER}/{case_folder(case)} holds no volumes ({first}); was it altered?"
            ) from error
    return found


def niivue() -> str:
    """NiiVue, packed, in base64; NIIVUE.md says which version, and holds its licence."""
    return base64.b64encode(Path(__file__).with_name("niivue.umd.js.gz").read_bytes()).decode()


def _thinned(volume: Array, steps: Sequence[int], *, labels: bool) -> Array:
    """Every so manyth voxel of labels, and means of as many of an image."""
    if all(step == 1 for step in steps):
        return volume
    if labels:
        return volume[tuple(slice(step // 2, None, step) for step in steps)]
    cut = volume[tuple(slice(0, edge // step * step) for edge, step in zip(volume.shape, steps, strict=True))]
    blocks = [part for edge, step in zip(cut.shape, steps, strict=True) for part in (edge // step, step)]
    return cut.reshape(blocks).mean(axis=(1, 3, 5))


def _grey(volume: Array) -> Array:
    """As 256 grey values: 0 is background and stays black, the rest goes from the lowest to the 99.5th percentile, for a few
    bright voxels would leave the others black."""
    finite = np.nan_to_num(volume.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    there = finite != 0
    if not there.any():
        return np.zeros(volume.shape, np.uint8)
    low, high = (float(np.percentile(finite[there], share)) for share in (0.5, 99.5))
    grey = 1 + np.clip((finite - low) / (high - low if high > low else 1.0), 0, 1) * 254
    return np.where(there, grey, 0).round().astype(np.uint8)


def _read(content: bytes) -> Array:
    array = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)
    if array.ndim != 3:
        raise ValueError(f"{array.ndim} axes, expected 3")
    return array


def _still(arrays: Mapping[str, Array]) -> bytes:
    """Axial, coronal and sagittal slices beside one another, through the largest cut of the truth, else of the prediction."""
    image = arrays["image"]
    mask = next((arrays[kind] for kind in ("truth", "prediction") if kind in arrays and arrays[kind].any()), None)
    drawn = []
    for axis in (2, 1, 0):
        others = tuple(other for other in range(3) if other != axis)
        place = int((mask > 0).sum(axis=others).argmax()) if mask is not None else image.shape[axis] // 2
        grey = np.take(image, min(place, image.shape[axis] - 1), axis=axis)
        colours = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
        for kind, colour in _COLOURS.items():
            if kind in arrays and arrays[kind].shape == image.shape:
                colours[_outline(np.take(arrays[kind], place, axis=axis) > 0)] = colour
        upright = np.flip(colours.transpose(1, 0, 2), axis=0)
        width = max(1, round(_HEIGHT * upright.shape[1] / upright.shape[0]))
        drawn.append(Image.fromarray(np.ascontiguousarray(upright)).resize((width, _HEIGHT), Image.Resampling.NEAREST))
    sheet = Image.new("RGB", (sum(one.width for one in drawn) + 4 * (len(drawn) - 1), _HEIGHT))
    left = 0
    for one in drawn:
        sheet.paste(one, (left, 0))
        left += one.width + 4
    written = io.BytesIO()
    sheet.quantize(128).save(written, "PNG", optimize=True)
    return written.getvalue()


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a mask that touch its outside."""
    inner = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    return mask & ~inner
