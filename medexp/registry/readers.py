"""Files that a registered model is given, by kind of data: found, read, and prepared as its contract says."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medexp.config.shared import cache_root
from medexp.data import seen
from medexp.data.headers import of_volume, two_affines
from medexp.data.images import facts as of_image
from medexp.data.images import inputs as pictures
from medexp.data.images import transforms as images
from medexp.data.images.kaggle import FOLDERS, read_kaggle
from medexp.data.inputs import Inputs, fingerprint
from medexp.data.oct import facts as of_scan
from medexp.data.oct import inputs as scans
from medexp.data.oct import transforms as oct
from medexp.data.oct.cases import ENDINGS
from medexp.data.pictures import open_picture
from medexp.data.preprocessing import Preprocessing
from medexp.data.scenarios import facts as of_scenario
from medexp.data.scenarios import inputs as scenarios
from medexp.data.scenarios.cases import Scenario
from medexp.data.scenarios.families import in_families
from medexp.data.scenarios.prompts import Processor, load_processor, prompt_of
from medexp.data.scenarios.steps import Ask
from medexp.data.volumes import facts as of_case
from medexp.data.volumes import inputs as volume_inputs
from medexp.data.volumes import transforms as volumes
from medexp.data.volumes.background import in_words
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.steps import ReadChannels
from medexp.errors import DataError, RegistryError
from medexp.models.kinds import ONLY, Architecture, Tensors
from medexp.registry.packages import PROCESSOR


@dataclass(frozen=True)
class Ready:
    """A case as the network takes it, and what it takes to bring answers back to its files.

    Attributes:
        case: The case.
        given: What the network is called with, by name, a batch of one: a volume (1, C, X, Y, Z) or a picture (1, 1, H, W),
            float32; of a scenario what its processor makes of image and text.
        affine: From the image's voxels to RAS+ mm; None where it is no volume of such.
        shape: Of the files' grid; none of a scenario.
        label: Classes 0 to 3 (X, Y, Z) of the image's voxels; None where nobody asked, or nobody knows.
        own: From the files' voxels to RAS+ mm; None where `affine` is.
        outside: What of it lies outside what the model saw, a sentence each.
        identity: What the leak guard asks for: case, patient, scan, voxels_sha256, perceptual_hash; empty where nobody asked.
        unfit: Why its segmentation was not read, where one lies beside it and was asked for.
    """

    case: Any
    given: Tensors
    affine: Tensor | None
    shape: tuple[int, ...]
    label: Tensor | None
    own: NDArray[np.float64] | None
    outside: tuple[str, ...]
    identity: Mapping[str, Any]
    unfit: str = ""

    @property
    def image(self) -> Tensor:
        """The one thing that the network takes, (C, X, Y, Z) or (1, H, W), where it takes one thing."""
        return self.given[ONLY][0]


@dataclass(frozen=True)
class Asked:
    """What a case is read for.

    Attributes:
        preprocessing: What is done to it.
        architecture: Of the network that takes it.
        package: The model's folder, which holds what steps need beside their values, such as a processor.
        seen: `medexp.data.seen.ranges` of what the model learned from; empty where that is not known.
        called: The model, for messages.
        classes: From the values of its segmentation to classes 0 to 3, where that is to be brought along.
        identify: Whether the leak guard will ask for it.
    """

    preprocessing: Preprocessing
    architecture: Architecture
    package: Path
    seen: seen.Ranges
    called: str
    classes: Mapping[int, int] | None
    identify: bool


@dataclass(frozen=True)
class Looked:
    """How a path is looked at for cases.

    Attributes:
        preprocessing: What will be done to them.
        patient: From a case's id to its patient, where no table says it.
        image_dir: Folder of the images that scenarios name; None: beside the file.
        suffixes: How the names of volumes' files end, by channel, where not as the contract has it.
        classes: Names of the folders of pictures, by class.
    """

    preprocessing: Preprocessing
    patient: Callable[[str], str] = str
    image_dir: Path | None = None
    suffixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: FOLDERS)


@dataclass(frozen=True)
class Reader:
    """What is known of a kind of data.

    Attributes:
        endings: Of its files.
        takes: What a model of it takes, in words.
        find: From a path, and how it is to be looked at, to the cases.
        read: From a case to what the network takes.
        content: From a case to what its answer follows from, as a digest.
    """

    endings: Sequence[str]
    takes: str
    find: Callable[[Path, Looked], Inputs]
    read: Callable[[Any, Asked], Ready]
    content: Callable[[Any], str] = lambda case: fingerprint(case.images)


def _picture(case: Any, asked: Asked) -> Ready:
    read = read_kaggle(case.path)
    image = images.execute(asked.preprocessing.steps, read.image)
    identity = _identity(case, *of_image.identity(read.image)) if asked.identify else {}
    outside = tuple(seen.outside(read.header, asked.seen))
    return Ready(case, {ONLY: image[None]}, None, read.image.shape, None, None, outside, identity)


def _volumes(path: Path, looked: Looked) -> Inputs:
    read = looked.preprocessing.get(ReadChannels)
    return volume_inputs.find_inputs(path, replace(read, suffixes={**read.suffixes, **looked.suffixes}), looked.patient)


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
    found += [f"{said}; the former is read" for said in [two_affines(case.images)] if said]
    if "grounds" in done:
        turned = of_case.inverted_channels(volume.image, done["grounds"], channels)
        found += [f"{channel}: its brain is darker than its background, as of inverted grey" for channel in turned]
    found += [f"{pair}: a channel that is a copy of another" for pair in of_case.same_channels(volume.image, channels)]
    image = done["image"]
    given = {ONLY: image.as_tensor().float()[None]}
    label = done["label"].as_tensor()[0].round().to(torch.uint8) if labelled else None
    identity = _identity(case, *of_case.identity(volume)) if asked.identify else {}
    return Ready(case, given, image.affine, shape, label, volume.affine, tuple(found), identity)


def _scan(case: Any, asked: Asked) -> Ready:
    scan = of_scan.read_volume(case)
    facts = of_scan.describe_scan(case.id, scan, case.known)
    identity = _identity(case, facts.voxels_sha256, facts.perceptual_hash) if asked.identify else {}
    outside = (*facts.odd.values(), *seen.outside(facts.fields, asked.seen))
    image = oct.execute(asked.preprocessing.steps, scan)
    return Ready(case, {ONLY: image[None]}, None, scan.voxels.shape, None, None, outside, identity)


def _scenarios(path: Path, looked: Looked) -> Inputs:
    """The scenarios that a path names, each with its family, by which intervals are drawn: images are looked at for that."""
    found = scenarios.find_inputs(path, looked.image_dir, looked.patient)
    facts, wrong = of_scenario.facts_of(found.cases, cache_root(None), 1)
    seen_ones = [case for case in found.cases if case.id in facts]
    problems = {**found.problems, **{where: "; ".join(told) for where, told in wrong.items()}}
    problems = {where: f"{where}: {told}" for where, told in problems.items()}
    return replace(found, cases=in_families(seen_ones, [facts[case.id] for case in seen_ones]), problems=problems)


def _scenario(case: Any, asked: Asked) -> Ready:
    from medexp.models.vision_language.network import context_of  # transformers takes seconds

    processor, ask = processor_of(asked.package), asked.preprocessing.get(Ask)
    prompt = prompt_of(processor, case, ask, context=context_of(asked.architecture["config"]))
    if prompt.images != len(case.images):
        raise RegistryError(
            f"{asked.called}: scenario {case.id} has {len(case.images)} image, its prompt {prompt.images}; an answer to that "
            "would pass for one to the image. The processor in the package is not the one that the model was trained with"
        )
    identity = _identity(case, *of_scenario.identity(case)) if asked.identify else {}
    outside = tuple(seen.outside(open_picture(case.image)[1], asked.seen))
    return Ready(case, prompt.inputs, None, (), None, None, outside, identity)


@functools.lru_cache(2)
def processor_of(package: Path) -> Processor:
    """The tokenizer and image processor of a package: those that its model was trained with, and no others."""
    return load_processor(package / PROCESSOR)


def _said(case: Scenario) -> str:
    """What an answer follows from: the image, and the text that is asked about it."""
    said = json.dumps([fingerprint(case.images), case.instruction, case.input])
    return hashlib.sha256(said.encode()).hexdigest()


def _identity(case: Any, voxels_sha256: str, perceptual_hash: Sequence[str]) -> dict[str, Any]:
    named = {"case": case.id, "patient": case.patient, "scan": case.scan}
    return {**named, "voxels_sha256": voxels_sha256, "perceptual_hash": tuple(perceptual_hash)}


READERS: Mapping[str, Reader] = {
    "images": Reader(
        pictures.SUFFIXES,
        "pictures (volumes are cut by: mlflow run . -e prepare -P data_dir=FOLDER -P slices_dir=SLICES)",
        lambda path, looked: pictures.find_inputs(path, looked.patient, looked.classes),
        _picture,
    ),
    "volumes": Reader(
        (".nii", ".nii.gz"),
        "volumes, as NIfTI",
        _volumes,
        _volume,
    ),
    "oct": Reader(
        ENDINGS,
        "OCT volumes, as DICOM, NIfTI or NPY",
        lambda path, looked: scans.find_inputs(path, looked.patient),
        _scan,
    ),
    "scenarios": Reader(
        scenarios.ENDINGS,
        "clinical scenarios, as JSONL",
        _scenarios,
        _scenario,
        _said,
    ),
}
"""By kind of data, as a `Preprocessing` names it."""
