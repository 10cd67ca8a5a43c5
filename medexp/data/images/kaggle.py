"""Pictures in folders of their class, such as yes/ and no/ of the Kaggle brain tumour set: found, read, split."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medexp.config.flags import flag
from medexp.data.headers import Header, of_npz
from medexp.data.images.cases import LabelledImage
from medexp.data.images.npz import metadata_of, plane_problems, read_npz
from medexp.data.images.slices import scan_of
from medexp.data.pictures import GREY16, in_colours, open_picture
from medexp.data.splits import Digested, Splits, by_label, draw_by_label, patient_groups, patient_of
from medexp.errors import DataError, all_problems
from medexp.files import dump_yaml
from medexp.words import some

CLASSES = {"no": 0, "yes": 1}
"""The classes, and the labels that they stand for."""

FOLDERS = {name: (name,) for name in CLASSES}
"""Folders by class, as the Kaggle brain tumour set has them."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".npz")
"""Endings of the files that are read, in any case; `left_aside` names the others."""

_WITHOUT = re.compile(r"(?i)(^|[^a-z])(no|non|none|not|normal|healthy|control|negative|without)([^a-z]|$)|^no_?tumou?r")

MIN_SIDE = 16
"""Fewest pixels along each side of an image."""


def find_kaggle(folder: Path, pattern: str, classes: Mapping[str, Sequence[str]] = FOLDERS) -> tuple[LabelledImage, ...]:
    """The images of a folder, sorted by id. Reads names only.

    Args:
        folder: Holds the folders of the classes.
        pattern: `ImageDataConfig.patient_pattern`.
        classes: `ImageDataConfig.classes`: names of the folders of no and of yes, in any case.

    Raises:
        DataError: All problems at once: no such folder, no folder of a class or two of one name, no image in one; with the
            folders that there are and how many images each holds.
        ConfigError: `pattern` is no regular expression with a group.
    """
    patient = patient_of(pattern)
    advice = "Give kaggle_dir=FOLDER with the folders yes/ and no/ of JPEG, PNG or npz images, or name yours in data.classes"
    if not folder.is_dir():
        raise DataError(f"No Kaggle data found in kaggle_dir {folder}: no such folder. {advice}")
    there = _folders(folder)
    found = {(label, name): _called(name, there) for label, names in classes.items() for name in names}
    if not any(found.values()):
        wanted = " nor ".join(f"{name}/" for names in reversed([*classes.values()]) for name in names)
        said = f"neither {wanted} in it{listed(there)}"
        raise DataError(f"No Kaggle data found in kaggle_dir {folder}: {said}. {_hint(folder, there, classes) or advice}")
    images, problems = [], []
    for (label, name), folders in found.items():
        if len(folders) != 1:
            told = f"{len(folders)} folders ({', '.join(path.name for path in folders)}); keep one"
            missing = f"no folder {name}/{listed(there)}; telling apart takes both classes"
            problems.append(f"class {label}: {told if folders else missing}")
            continue
        files = _pictures(folders[0])
        if not files:
            others = sorted({path.suffix for path in folders[0].iterdir() if path.suffix})
            problems.append(
                f"class {label}: no image in {folders[0].name}/" + (f", only {', '.join(others)}" if others else "")
            )
        for path in files:
            key = f"{folders[0].name.lower()}-{path.name}"
            owner = patient(scan_of(path.stem))
            images.append(LabelledImage(key, "kaggle", key if owner == path.stem else owner, key, path, CLASSES[label]))
    if problems:
        hint = "" if all(found.values()) else _hint(folder, there, classes)
        raise DataError(all_problems(f"kaggle_dir {folder}", problems, hint or advice))
    return tuple(sorted(images, key=lambda image: image.id))


def left_aside(folder: Path, classes: Mapping[str, Sequence[str]] = FOLDERS) -> list[dict[str, Any]]:
    """What lies in the folders of the classes, beside them or in other folders and is not read, hidden files aside, as rows of
    `Prepared.dropped`. What is of no class has an empty label."""
    rows: list[dict[str, Any]] = []
    there = _folders(folder)
    labels = {name.casefold(): label for label, names in classes.items() for name in names}
    for each in there:
        label = labels.get(each.name.casefold())
        if label is None and (count := sum(map(_is_read, each.rglob("*")))):
            reason = f"folder {each.name}/, which data.classes does not name; pictures in it: {count}"
            rows.append({"case": f"{each.name}/", "source": "kaggle", "label": "", "reason": reason})
        for path in (path for path in each.iterdir() if label is not None and not _is_read(path)):
            if not path.name.startswith("."):
                kind = path.suffix.lower() or "no ending"
                if path.is_symlink() and not path.exists():
                    kind = "a link whose target is gone"
                elif not path.is_file():
                    kind = f"a folder, pictures in it: {sum(map(_is_read, path.rglob('*')))}"
                reason = f"not read ({kind}; JPEG, PNG and npz are)"
                case = f"{each.name.lower()}-{path.name}"
                rows.append({"case": case, "source": "kaggle", "label": CLASSES[str(label)], "reason": reason})
    beside = [{"case": path.name, "source": "kaggle", "label": ""} for path in _pictures(folder)]
    return rows + [row | {"reason": "beside the folders of the classes, in none"} for row in beside]


class Read(NamedTuple):
    """What a file holds.

    Attributes:
        image: float32 (H, W).
        patient: As the file names it, if any.
        header: What it says besides pixels.
    """

    image: NDArray[np.float32]
    patient: str | None
    header: Header


def read_kaggle(path: Path, label: int | None = None) -> Read:
    """An image as one grey channel, the patient that its file names, if any, and its header.

    JPEG and PNG come in 0 to 255, whatever their mode (1 and 16 bits, palette, RGB, CMYK, transparent over black), turned as
    their EXIF data says; npz as it stands, colours weighted as Pillow does.

    Args:
        path: A JPEG, PNG or npz file.
        label: Its class; an npz that says another is refused.

    Raises:
        DataError: Unreadable, also its EXIF data alone; larger than Pillow's limit against decompression bombs, smaller than
            MIN_SIDE, constant; of an npz also a pickled image, another shape, NaN or infinite pixels, another label.
    """
    read = _from_npz(path, label) if path.suffix.lower() == ".npz" else _from_picture(path)
    image = read.image
    if min(image.shape) < MIN_SIDE:
        raise DataError(f"{path.name}: {image.shape[1]} x {image.shape[0]} pixels; at least {MIN_SIDE} a side are needed")
    if image.min() == image.max():
        raise DataError(f"{path.name}: a constant image, every pixel is {image.flat[0]:g}")
    return read


def split_kaggle(
    images: Sequence[LabelledImage], facts: Iterable[Digested], val_fraction: float, test_fraction: float, seed: int
) -> tuple[Splits, dict[str, str]]:
    """Draws the splits class by class; the images of a patient stay together.

    Of n patients of a class, floor((1 - val - test) n) are trained on and floor(val n) validated on, at least one each; the
    rest is tested on. Exact duplicates are taken out first: of those with one label all but the first by id, of those under
    both labels all. Patients who share one, or a copy that is not equal (`medexp.data.twins`), stay together.

    Args:
        images: With a label each.
        facts: Of each of them.
        val_fraction: Share to validate on.
        test_fraction: Share to test on; 0 leaves test empty.
        seed: Seed of the draw.

    Returns:
        The splits, and why each image that is in none was dropped.

    Raises:
        DataError: A class with fewer than two patients.
    """
    facts = list(facts)
    dropped = _duplicates(images, facts)
    kept = [[case for case in group if case not in dropped] for group in patient_groups(images, facts)]
    groups = by_label(filter(None, kept), {image.id: str(image.label) for image in images})
    problems = [
        f"class {name}: {len(groups[str(label)])} patients" + (" once duplicates are taken out" if dropped else "")
        for name, label in CLASSES.items()
        if len(groups[str(label)]) < 2
    ]
    if problems:
        raise DataError(all_problems("Kaggle data", problems, "Training and validation take one each: add images."))
    val, test = (Fraction(str(fraction)) for fraction in (val_fraction, test_fraction))  # floor(0.7 * 10) must be 7

    def sizes(count: int) -> tuple[int, int]:
        trained, validated = max(1, floor((1 - val - test) * count)), max(1, floor(val * count))
        if not test:
            return 0, validated
        if trained + validated == count > 2:
            trained, validated = (trained - 1, validated) if trained > 1 else (1, validated - 1)
        return count - trained - validated, validated

    return draw_by_label(groups, sizes, seed), dropped


def _duplicates(images: Sequence[LabelledImage], facts: Iterable[Digested]) -> dict[str, str]:
    """Why images are dropped, by id."""
    labels = {image.id: image.label for image in images}
    by_voxels: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        if fact.case in labels:
            by_voxels[fact.voxels_sha256].append(fact.case)
    dropped: dict[str, str] = {}
    for same in by_voxels.values():
        first, *others = sorted(same)
        if len({labels[name] for name in same}) > 1:
            dropped |= {
                name: f"under both labels, an exact duplicate of {', '.join(sorted({*same} - {name}))}" for name in same
            }
        else:
            dropped |= dict.fromkeys(others, f"exact duplicate of {first}")
    return dropped


def _folders(folder: Path) -> list[Path]:
    """The folders in one, sorted; not what archives and systems leave there."""
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith((".", "__MACOSX"))]
    except OSError:
        return []


def _called(name: str, folders: Sequence[Path]) -> list[Path]:
    return [path for path in folders if path.name.casefold() == name.casefold()]


def _pictures(folder: Path) -> list[Path]:
    return sorted(filter(_is_read, folder.iterdir()))


def listed(folders: Sequence[Path]) -> str:
    """Which folders there are, for a message."""
    told = [f"{path.name}/ ({len(_pictures(path))} pictures)" for path in folders]
    return f"; found {some(told, 12)}" if told else ""


def _hint(folder: Path, there: Sequence[Path], classes: Mapping[str, Sequence[str]]) -> str:
    """What to give for the folders that there are; nothing where they tell nothing."""
    if said := meant_by(there):
        return f"Say which of them show no tumour and which one: {said}"
    nested = {path: inner for path in there if (inner := _folders(path)) and any(map(_pictures, inner))}
    if not nested:
        return ""
    first, *others = sorted(nested, key=lambda path: -sum(len(_pictures(one)) for one in nested[path]))
    told = f"did you mean kaggle_dir={first}?"
    if not all(_called(name, nested[first]) for names in classes.values() for name in names):
        told += f" Its folders are others{listed(nested[first])}: {meant_by(nested[first])}"
    if others:  # as Training/ and Testing/
        rest = ", ".join(f"{path.name}/" for path in others)
        command = " ".join(["mlflow run . -e predict -P", f"input={others[0]}", meant_by(_folders(others[0]))]).strip()
        told += f". Keep {rest} back, where what comes of it can be tried: {command}"
    return told


def meant_by(folders: Sequence[Path]) -> str:
    """What may be meant by the names of folders that hold pictures, as it can be typed; nothing of fewer than two."""
    full = [path.name for path in folders if _pictures(path)]
    guess = {
        "no": [name for name in full if _WITHOUT.search(name)],
        "yes": [name for name in full if not _WITHOUT.search(name)],
    }
    named = {label: guess[label] or ["FOLDER"] for label in CLASSES}
    return flag("data.classes", dump_yaml(named, in_a_line=True, only_text=True)) if len(full) > 1 else ""


def _is_read(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def _from_picture(path: Path) -> Read:
    picture, header = open_picture(path)
    if picture.mode.startswith("I"):
        return Read(np.asarray(picture, np.float32) / np.float32(GREY16), None, header)
    return Read(np.asarray(in_colours(picture).convert("L"), np.float32), None, header)


def _from_npz(path: Path, label: int | None) -> Read:
    arrays = read_npz(path, ("image", "label", "metadata"))
    problems, metadata = plane_problems(arrays, "image"), {}
    try:
        metadata = dict(metadata_of(arrays) or {})
    except DataError as error:
        problems.append(str(error))
    stated = arrays.get("label")
    said = metadata.get("label") if stated is None else stated.item() if stated.size == 1 else stated.tolist()
    if label is not None and said is not None and said != label:
        problems.append(f"its label is {said!r}, that of its folder {label}")
    image, patient = arrays.get("image"), metadata.get("patient")
    if problems or image is None:
        raise DataError(all_problems(path.name, problems, "Repair it, or take it out of the folder."))
    pixels = image.astype(np.float32).reshape(image.shape[-2:])
    return Read(pixels, patient if isinstance(patient, str) else None, of_npz(image.shape, metadata, path))
