"""The embedded 2D images: slices of meningioma phantoms, and a folder yes/ and no/ of ordinary pictures of other heads."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from threadpoolctl import threadpool_limits

from medexp.config.data import DataConfig, SliceConfig
from medexp.data.images.slices import FORMAT, cut_slices
from medexp.data.parallel import written_once
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.phantoms.head import Domain, Head
from medexp.data.volumes.phantoms.write import PATIENT_PATTERN, acquired, ensure_phantoms
from medexp.data.volumes.phantoms.write import VERSION as VOLUMES

VERSION = 1
"""Part of the folders' names: raise it when what is written changes."""

SLICES = SliceConfig(channel="t1c", every=2, min_foreground=0.05)
"""How the phantoms are cut: a meningioma is looked for where it enhances, and neighbouring slices tell much the same."""

_DOMAINS: tuple[Domain, ...] = ("glioma", "meningioma")
_STREAM = 2  # beside 0 and 1, the domains of volumes: these heads are of other patients
_DUPLICATES = 10  # one picture in so many is another one's exact duplicate, as in the Kaggle set (25 of 253)
_TUMOUR_AREA = 150.0  # mm^2 that a slice shows at least, where the tumour has such a slice
_COARSE = (6.0, 6.0, 4.0)  # mm: the grid on which a slice is chosen
_FINE = 1.6  # mm: the pixel that pictures are scanned with, before they are resized


# Endings and modes that pictures from many hands have.
_KINDS = ((".jpg", "L"), (".JPG", "RGB"), (".jpeg", "RGB"), (".png", "L"), (".png", "P"), (".png", "I;16"))


@dataclass(frozen=True)
class _Picture:
    """A picture of a head.

    Args:
        number: Within its class.
        tumour: Its class.
        copies: Numbers of the files that hold the same picture.
    """

    number: int
    tumour: bool
    copies: tuple[int, ...]


def ensure_slices(patients: int, seed: int, cache: Path, jobs: int) -> Path:
    """The folder of slices of meningioma phantoms, as `prepare` cuts them, written when it is not there yet.

    Args:
        patients: As of `ensure_phantoms`, the exact duplicate of a patient included.
        seed: As of `ensure_phantoms`.
        cache: Root of the cache; the folder goes under `phantoms/`.
        jobs: Cases cut in parallel.

    Raises:
        StorageError: When the cache cannot be written.
    """
    folder = cache / "phantoms" / f"slices-{patients}-seed{seed}-{SLICES.channel}-v{VOLUMES}.{VERSION}-{FORMAT}"
    if not folder.is_dir():
        data = DataConfig(
            labels="brats2023",
            label_map=None,
            suffixes={},
            patient_pattern=PATIENT_PATTERN,
            exclude=(),
            meant=(),
            spacing=(3.0, 3.0, 4.5),
            input_size=(64, 64, 32),
            val_fraction=0.2,
            test_fraction=0.1,
            jobs=jobs,
        )
        cases = find_cases(ensure_phantoms("meningioma", patients, seed, cache), data)
        digests = {fact.case: fact.sha256 for fact in describe_cases(cases, data, cache)}
        cut_slices(cases, digests, data.classes, SLICES, folder, jobs)
    return folder


def ensure_kaggle(yes: int, no: int, seed: int, cache: Path) -> Path:
    """The folder of pictures with (yes/) and without (no/) a tumour, written when it is not there yet.

    An axial slice a head, of t2f or t1c, in the sizes, modes and formats that pictures from many hands have: JPEG and PNG,
    grey, colour, palette and 16 bits. What a picture is and what it shows besides the tumour does not depend on its class: a
    head without a tumour is cut where the tumour of its twin would be. One in ten is an exact duplicate under another name.

    Args:
        yes: Pictures with a glioma or a meningioma, duplicates included.
        no: Pictures of heads without, duplicates included.
        seed: The same seed, number and class give the same picture.
        cache: Root of the cache; the folder goes under `phantoms/`.

    Raises:
        StorageError: When the cache cannot be written.
    """
    folder = cache / "phantoms" / f"kaggle-{yes}-{no}-seed{seed}-v{VERSION}"
    pictures = [*_pictures(yes, True, seed), *_pictures(no, False, seed)]
    return written_once(folder, _write, [(picture, seed) for picture in pictures], "Writing Kaggle-like phantoms")


def _pictures(count: int, tumour: bool, seed: int) -> list[_Picture]:
    """The pictures of a class; its last files are the copies."""
    scanned = count - max(1, count // _DUPLICATES)
    copied = np.random.default_rng((seed, _STREAM, int(tumour))).choice(scanned, count - scanned, replace=False) + 1
    copies = {int(number): scanned + place for place, number in enumerate(copied, 1)}
    return [_Picture(n, tumour, (copies[n],) if n in copies else ()) for n in range(1, scanned + 1)]


def _write(picture: _Picture, seed: int, folder: Path) -> None:
    entropy = (seed, _STREAM, int(picture.tumour), picture.number)
    rng = np.random.default_rng((*entropy, 1))
    suffix, mode = _KINDS[rng.integers(len(_KINDS))]
    with threadpool_limits(1):  # the processes share the cores already
        grey, _ = scan_picture(entropy, picture.tumour, rng)
    of_class = folder / ("yes" if picture.tumour else "no")
    of_class.mkdir(exist_ok=True)
    stem = str(of_class / ("Y" if picture.tumour else "N"))
    path = Path(f"{stem}{picture.number}{suffix}")
    image = (
        Image.fromarray((grey * 65535).astype(np.uint16)) if mode == "I;16" else Image.fromarray((grey * 255).astype(np.uint8))
    )
    (image if mode == "I;16" else image.convert(mode)).save(path)
    for number in picture.copies:
        copy = Path(f"{stem}{number}{suffix}")
        if path.suffix == ".png" and mode == "L":
            image.convert("RGB").save(copy)  # another file, the same pixels
        else:
            shutil.copyfile(path, copy)


def scan_picture(
    entropy: tuple[int, ...], tumour: bool, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """An axial slice of a head where its tumour is, or where its twin's would be.

    Args:
        entropy: Seed of the patient.
        tumour: Whether the head has one.
        rng: Draws everything else.

    Returns:
        Grey values (H, W) of 0 to 1, rows from anterior to posterior, columns from right to left; and labels of the slice, on
        the coarser pixels that it was scanned with.
    """
    domain = _DOMAINS[rng.integers(len(_DOMAINS))]
    extents, edges = np.array((192.0, 192.0, 128.0)), np.array(_COARSE)
    axes = [np.arange(-extent / 2, extent / 2, edge) for extent, edge in zip(extents, edges, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    label = Head(domain, (*entropy, 0)).scan(points.reshape(-1, 3).astype(np.float32), 0)[1].reshape(points.shape[:3])
    area = np.count_nonzero(label, axis=(0, 1)) * edges[0] * edges[1]
    level = axes[2][rng.choice(np.flatnonzero(area >= min(_TUMOUR_AREA, area.max())))]

    field = rng.uniform((180.0, 150.0), (215.0, 205.0))  # mm from front to back, from right to left
    down, across = (np.arange(extent / 2, -extent / 2, -_FINE) for extent in field)
    y, x = np.meshgrid(down, across, indexing="ij")
    turn = np.deg2rad(rng.normal(0, 4))
    x, y = x * np.cos(turn) - y * np.sin(turn) + rng.normal(0, 3), x * np.sin(turn) + y * np.cos(turn) + rng.normal(0, 3)
    points = np.stack([x, y, np.full_like(x, level)], axis=-1).reshape(-1, 3).astype(np.float32)
    clean, shown, brain = Head(domain if tumour else None, (*entropy, 0)).scan(points, 0)
    channel = CHANNELS.index(("t2f", "t1c")[rng.integers(2)])
    signal = acquired(clean[channel : channel + 1], brain, points, rng)[0].reshape(x.shape).astype(np.float64)
    zoom = rng.uniform(180, 420) / max(signal.shape)
    resized = ndimage.zoom(signal / np.percentile(signal, 99.5) * rng.uniform(0.75, 1), zoom, order=1)
    return resized.clip(0, 1), shown.reshape(x.shape)
