"""Files that a registered model is given, by kind of data: found, read, and prepared as its contract says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medexp.data import seen
from medexp.data.headers import of_volume
from medexp.data.images import facts as of_image
from medexp.data.images import inputs as pictures
from medexp.data.images import transforms as images
from medexp.data.images.kaggle import read_kaggle
from medexp.data.inputs import Inputs
from medexp.data.oct import facts as of_scan
from medexp.data.oct import inputs as scans
from medexp.data.oct import transforms as oct
from medexp.data.oct.cases import ENDINGS
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes import facts as of_case
from medexp.data.volumes import inputs as volume_inputs
from medexp.data.volumes import transforms as volumes
from medexp.data.volumes.background import in_words
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.steps import ReadChannels
from medexp.errors import DataError


@dataclass(frozen=True)
class Ready:
    """A case as the network takes it, and what it takes to bring answers back to its files.

    Attributes:
        case: The case.
        image: (C, X, Y, Z) or (1, H, W), float32.
        affine: From the image's voxels to RAS+ mm; None for a picture.
        shape: Of the files' grid.
        label: Classes 0 to 3 (X, Y, Z) of the image's voxels; None where nobody asked, or nobody knows.
        own: From the files' voxels to RAS+ mm; None for a picture.
        outside: What of it lies outside what the model saw, a sentence each.
        identity: What the leak guard asks for: case, patient, scan, voxels_sha256, perceptual_hash; empty where nobody asked.
        unfit: Why its segmentation was not read, where one lies beside it and was asked for.
    """

    case: Any
    image: Tensor
    affine: Tensor | None
    shape: tuple[int, ...]
    label: Tensor | None
    own: NDArray[np.float64] | None
    outside: tuple[str, ...]
    identity: Mapping[str, Any]
    unfit: str = ""


@dataclass(frozen=True)
class Asked:
    """What a case is read for.

    Attributes:
        preprocessing: What is done to it.
        seen: `medexp.data.seen.ranges` of what the model learned from; empty where that is not known.
        called: The model, for messages.
        classes: From the values of its segmentation to classes 0 to 3, where that is to be brought along.
        identify: Whether the leak guard will ask for it.
    """

    preprocessing: Preprocessing
    seen: seen.Ranges
    called: str
    classes: Mapping[int, int] | None
    identify: bool


@dataclass(frozen=True)
class Reader:
    """What is known of a kind of data.

    Attributes:
        endings: Of its files.
        takes: What a model of it takes, in words.
        find: From a path, what is done to its cases, and who is a case's patient by its id, to the cases.
        read: From a case to what the network takes.
    """

    endings: Sequence[str]
    takes: str
    find: Callable[[Path, Preprocessing, Callable[[str], str]], Inputs]
    read: Callable[[Any, Asked], Ready]


def _picture(case: Any, asked: Asked) -> Ready:
    read = read_kaggle(case.path)
    image = images.execute(asked.preprocessing.steps, read.image)
    identity = _identity(case, *of_image.identity(read.image)) if asked.identify else {}
    outside = tuple(seen.outside(read.header, asked.seen))
    return Ready(case, image, None, read.image.shape, None, None, outside, identity)


def _volume(case: Any, asked: Asked) -> Ready:
    assert isinstance(case, Case)
    labelled = asked.classes is not None and case.label is not None
    channels = asked.preprocessing.get(ReadChannels).channels
    volume = read_case(case if labelled else replace(case, label=None), asked.classes or {}, "Repair the files.", channels)
    shape = volume.image.shape[1:]
    if min(shape) < 2:
        told = f"a volume of one slice, {' x '.join(map(str, shape))} voxels"
        raise DataError(f"case {case.id}: {told}; {asked.called} takes whole volumes")
    done = volumes.execute(asked.preprocessing.steps, volume, labelled)
    found = in_words(channels, done["grounds"]) if "grounds" in done else []
    if asked.seen and channels == CHANNELS and "grounds" in done:
        header = of_volume(dict(zip(channels if len(case.images) > 1 else ("images",), case.images, strict=True)))
        found += seen.outside(of_case.fields_of(header, volume, done["grounds"]), asked.seen)
    image = done["image"]
    label = done["label"].as_tensor()[0].round().to(torch.uint8) if labelled else None
    identity = _identity(case, *of_case.identity(volume)) if asked.identify else {}
    return Ready(case, image.as_tensor().float(), image.affine, shape, label, volume.affine, tuple(found), identity)


def _scan(case: Any, asked: Asked) -> Ready:
    scan = of_scan.read_volume(case)
    facts = of_scan.describe_scan(case.id, scan, case.known)
    identity = _identity(case, facts.voxels_sha256, facts.perceptual_hash) if asked.identify else {}
    outside = tuple(seen.outside(facts.fields, asked.seen))
    image = oct.execute(asked.preprocessing.steps, scan)
    return Ready(case, image, None, scan.voxels.shape, None, None, outside, identity)


def _identity(case: Any, voxels_sha256: str, perceptual_hash: Sequence[str]) -> dict[str, Any]:
    named = {"case": case.id, "patient": case.patient, "scan": case.scan}
    return {**named, "voxels_sha256": voxels_sha256, "perceptual_hash": tuple(perceptual_hash)}


READERS: Mapping[str, Reader] = {
    "images": Reader(
        pictures.SUFFIXES,
        "pictures (volumes are cut by: mlflow run . -e prepare -P data_dir=FOLDER -P slices_dir=SLICES)",
        lambda path, _, patient: pictures.find_inputs(path, patient),
        _picture,
    ),
    "volumes": Reader(
        (".nii", ".nii.gz"),
        "volumes, as NIfTI",
        lambda path, steps, patient: volume_inputs.find_inputs(path, steps.get(ReadChannels), patient),
        _volume,
    ),
    "oct": Reader(
        ENDINGS,
        "OCT volumes, as DICOM, NIfTI or NPY",
        lambda path, _, patient: scans.find_inputs(path, patient),
        _scan,
    ),
}
"""By kind of data, as a `Preprocessing` names it."""
