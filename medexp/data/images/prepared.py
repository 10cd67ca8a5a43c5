"""Images that are ready for training: of one source or of both, found, read, checked, described and split."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd

from medexp.config.data import ImageDataConfig, ImagePhantomConfig
from medexp.data.images.cases import LabelledImage
from medexp.data.images.facts import ImageFacts, describe_images
from medexp.data.images.kaggle import find_kaggle, left_aside, split_kaggle
from medexp.data.images.phantoms import ensure_kaggle, ensure_slices
from medexp.data.images.slices import find_slices, scan_of
from medexp.data.prepared import Prepared
from medexp.data.splits import SPLITS, Splits, make_splits, unnamed
from medexp.data.storage import local_folder
from medexp.errors import ConfigError, DataError, all_problems
from medexp.words import some

SOURCES = ("brats", "kaggle")
"""Slices of volumes, and pictures in folders of their class."""

_KEYS = {"brats": "slices_dir", "kaggle": "kaggle_dir"}

PreparedImages = Prepared[LabelledImage, ImageFacts]
"""Of labelled images; `dropped` has case, source, label and reason, of files that are not read too."""


def prepare_images(
    slices_dir: str | None,
    kaggle_dir: str | None,
    data: ImageDataConfig,
    phantoms: ImagePhantomConfig,
    cache: Path,
    sources: Sequence[str] = SOURCES,
) -> PreparedImages:
    """Finds, checks, describes and splits the images of one or both sources.

    Slices are split by patient, Kaggle images class by class (`split_kaggle`). Slices without a picture, all pixels equal, and
    exact duplicates of Kaggle images are dropped. Copies, of slices exact ones too, keep their patients together. Whoever
    nobody names is called after the pixels of the picture: file names such as Y1.jpg are in every folder.

    Args:
        slices_dir: Folder or bucket of slices, as `prepare` cuts them.
        kaggle_dir: Folder or bucket with a folder of each class, as `data.classes` names them.
        data: How images are read and split; the splits follow from its `split_seed`.
        phantoms: The embedded data, used where neither folder is given; with one given, that one is used alone.
        cache: Root of the cache of phantoms and of what is known of each image.
        sources: What is wanted, of SOURCES.

    Raises:
        DataError: A folder, an image or what they hold together cannot be used; all problems of each step at once.
        ConfigError: The only folder given is of a source that is not wanted.
        StorageError: When the cache cannot be written.
    """
    given = dict(zip(SOURCES, (slices_dir, kaggle_dir), strict=True))
    folders = {name: local_folder(where, cache).absolute() for name in sources if (where := given[name]) is not None}
    source = ", ".join(given[name] or "" for name in folders)
    if not folders and (others := [f"{_KEYS[name]}={folder}" for name, folder in given.items() if folder is not None]):
        raise ConfigError(f"found {', '.join(others)}; what is wanted here is {' or '.join(_KEYS[name] for name in sources)}")
    if not folders:
        ensure = {
            "brats": lambda: ensure_slices(phantoms.patients, phantoms.seed, cache, data.jobs),
            "kaggle": lambda: ensure_kaggle(phantoms.yes_images, phantoms.no_images, phantoms.seed, cache),
        }
        words = {"brats": "slices of meningioma phantoms", "kaggle": "Kaggle-like phantoms"}
        folders = {name: ensure[name]() for name in sources}
        source = " and ".join(words[name] for name in sources)
    find: dict[str, Callable[[Path, str], tuple[LabelledImage, ...]]]
    find = {"brats": find_slices, "kaggle": partial(find_kaggle, classes=data.classes)}
    images = [image for name, folder in folders.items() for image in find[name](folder, data.patient_pattern)]
    facts = {fact.case: fact for fact in describe_images(images, data, cache)}
    images = [replace(image, patient=_patient(image, facts[image.id])) for image in images]
    dropped = {image.id: "a blank slice, all pixels are equal" for image in images if facts[image.id].constant}
    parts, notes = [], []
    for name in folders:
        mine = [image for image in images if image.source == name and image.id not in dropped]
        known = [facts[image.id] for image in mine]
        if name == "kaggle":
            split, duplicates = split_kaggle(mine, known, data.val_fraction, data.test_fraction, data.split_seed)
            dropped |= duplicates
        else:
            split = make_splits(mine, known, data, data.split_seed)
        parts.append(split)
        if given[name] is not None and not any(_named(image, facts[image.id]) for image in mine):
            notes.append(
                unnamed(given[name] or "", sorted({scan_of(image.path.stem) for image in mine}), data.patient_pattern)
            )
        if padded := [f"{fact.case} ({fact.padding:.6g})" for fact in known if fact.padding is not None]:
            notes.append(
                f"{given[name]}: what pads the images is no air and becomes darker than their tissue: {some(padded, 3)}"
            )
    splits = Splits(*(tuple(sorted(case for part in parts for case in getattr(part, name))) for name in SPLITS))
    if problems := _shared(images, facts):
        raise DataError(all_problems(source, problems, "Take them out of one of the two folders."))
    kept = {image.id: image for image in images if image.id not in dropped}
    rows = [
        {"case": image.id, "source": image.source, "label": facts[image.id].label, "reason": dropped[image.id]}
        for image in images
        if image.id in dropped
    ]
    rows += left_aside(folders["kaggle"], data.classes) if "kaggle" in folders else []
    return Prepared(
        cases=kept,
        facts={case: facts[case] for case in kept},
        splits=splits,
        manifest=manifest(kept, facts, splits),
        dropped=pd.DataFrame(rows, columns=["case", "source", "label", "reason"]).sort_values("case", ignore_index=True),
        source=source,
        notes=tuple(notes),
        phantoms=not any(given.values()),
    )


def _patient(image: LabelledImage, fact: ImageFacts) -> str:
    return fact.patient or (_alone(fact) if image.patient == image.id else image.patient)


def _alone(fact: ImageFacts) -> str:
    return f"picture-{fact.voxels_sha256[:16]}"


def _named(image: LabelledImage, fact: ImageFacts) -> bool:
    """Whether its name or its metadata say whose it is; a slice's say at least of which scan."""
    return image.patient not in (image.scan, _alone(fact))


def _shared(images: Iterable[LabelledImage], facts: Mapping[str, ImageFacts]) -> list[str]:
    """Patients and exact duplicates that are in two sources."""
    by_patient: dict[str, dict[str, str]] = defaultdict(dict)
    by_pixels: dict[str, dict[str, str]] = defaultdict(dict)
    for image in images:
        by_patient[image.patient].setdefault(image.source, image.id)
        by_pixels[facts[image.id].voxels_sha256].setdefault(image.source, image.id)
    patients = [f"{who} ({', '.join(found.values())})" for who, found in sorted(by_patient.items()) if len(found) > 1]
    same = [" and ".join(found.values()) for found in by_pixels.values() if len(found) > 1]
    return [
        f"{what} in two sources: {some(found)}" for what, found in (("patients", patients), ("the same pixels", same)) if found
    ]


def manifest(images: Mapping[str, LabelledImage], facts: Mapping[str, ImageFacts], splits: Splits) -> pd.DataFrame:
    """One row an image, sorted by case.

    Columns: case, patient, scan, source, label (0 or 1), tumour_pixels (empty without a mask), height, width (pixels), split,
    sha256, voxels_sha256.
    """
    split_of = {case: split for split, cases in asdict(splits).items() for case in cases}
    rows = []
    for case, image in sorted(images.items()):
        fact = facts[case]
        rows.append(
            {
                "case": case,
                "patient": image.patient,
                "scan": image.scan,
                "source": image.source,
                "label": fact.label,
                "tumour_pixels": fact.tumour_pixels,
                "height": fact.shape[0],
                "width": fact.shape[1],
                "split": split_of[case],
                "sha256": fact.sha256,
                "voxels_sha256": fact.voxels_sha256,
            }
        )
    return pd.DataFrame(rows).astype({"tumour_pixels": "Int64"})
