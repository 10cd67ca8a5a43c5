"""Writes OCT phantoms as AI-READI's data set lies on disk: participants.tsv, manifest.tsv and multi-frame DICOM files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from threadpoolctl import threadpool_limits

from medexp.data.oct.dicom import OPHTHALMIC_TOMOGRAPHY
from medexp.data.oct.labels import STUDY_GROUPS
from medexp.data.oct.phantoms.retina import DEVICES, FIELD, Device, Eye, retina, scan, severity
from medexp.data.parallel import written_once

VERSION = 1
"""Part of the folder's name: raise it when what is written changes."""

_STREAM = 0  # of the phantoms: beside that of those that the demo's encoders are pretrained on
_SITES = ((1000, "UW"), (4000, "UCSD"), (7000, "UAB"))  # of ids and their site
_TRAINED_ON = (0.33, 0.24, 0.28, 0.15)  # share of each group in training; validation and test have as many of each
_VAL, _TEST = 0.15, 0.35
_TOGETHER = 20  # people that a process writes at a time
_RADIAL = 27  # B-scans of a radial scan


@dataclass(frozen=True)
class _Volume:
    """A file to write: an eye, by a device; a radial scan of the optic disc where it is no macula."""

    device: Device
    eye: Eye
    number: int
    macula: bool = True


@dataclass(frozen=True)
class _Person:
    """A participant: the number that all randomness follows from, and what stands in participants.tsv."""

    number: int
    id: str
    site: str
    group: int
    split: str
    age: int
    volumes: tuple[_Volume, ...]


def ensure_oct_phantoms(participants: int, seed: int, cache: Path) -> Path:
    """The folder of OCT phantoms, written when it is not there yet.

    `participants.tsv` (CRLF, the columns of version 3), `retinal_oct/manifest.tsv`, and
    `retinal_oct/structural_oct/<device>/<id>/<file>.dcm`, 8 bit, some 150 kB each. Three in five have one volume of the
    macula, one in four both eyes, the others a second device; one in 25 has a radial scan of the optic disc beside it, which
    is no volume, and one in 25 has no OCT. Validation and test have as many people of each group, training has not. Site,
    device, eye, age and how many volumes somebody has are drawn without regard to the group; what groups differ in stands in
    `medexp.data.oct.phantoms.retina.retina`.

    Args:
        participants: Rows of participants.tsv; at least 40.
        seed: The same seed and number of participants give the same files.
        cache: Root of the cache; the folder goes under `phantoms/`.

    Raises:
        StorageError: When the cache cannot be written.
    """
    people = _people(participants, seed)
    parts = [people[start : start + _TOGETHER] for start in range(0, len(people), _TOGETHER)]
    jobs: list[Callable[[Path], None]] = [
        partial(_write_tables, people, seed),
        *(partial(_write, part, seed) for part in parts),
    ]
    folder = cache / "phantoms" / f"oct-{participants}-seed{seed}-v{VERSION}"
    return written_once(folder, _do, [(job,) for job in jobs], "Writing OCT phantoms")


def _do(job: Callable[[Path], None], folder: Path) -> None:
    with threadpool_limits(1):  # the processes share the cores already
        job(folder)


def _people(count: int, seed: int) -> list[_Person]:
    rng = np.random.default_rng((_STREAM, seed))
    val, test = round(_VAL * count), round(_TEST * count)
    splits = rng.permutation(["test"] * test + ["val"] * val + ["train"] * (count - val - test))
    turns = dict.fromkeys(("val", "test"), 0)
    people = []
    for number, split in enumerate(map(str, splits)):
        group = int(rng.choice(4, p=_TRAINED_ON))
        if split in turns:
            group = turns[split] % 4
            turns[split] += 1
        first, site = _SITES[rng.integers(len(_SITES))]
        age = int(rng.integers(40, 86))
        people.append(_Person(number, str(first + 1 + number), site, group, split, age, tuple(_volumes(rng))))
    return people


def _volumes(rng: np.random.Generator) -> Sequence[_Volume]:
    if rng.random() < 0.04:
        return []
    device, other = (DEVICES[place] for place in rng.permutation(len(DEVICES))[:2])
    eye: Eye = "R" if rng.random() < 0.5 else "L"
    fellow: Eye = "L" if eye == "R" else "R"
    volumes, more = [_Volume(device, eye, 0)], rng.random()
    if more < 0.25:
        volumes.append(_Volume(device, fellow, 1))
    elif more < 0.4:
        volumes.append(_Volume(other, eye, 1))
    if more < 0.05:
        volumes.append(_Volume(other, fellow, 2))
    if rng.random() < 0.04:
        volumes.append(_Volume(DEVICES[-1], eye, 3, macula=False))
    return volumes


def _uid(person: _Person, volume: _Volume, seed: int, what: str) -> UID:
    return generate_uid(entropy_srcs=["medexp oct phantom", str(seed), person.id, str(volume.number), what])


def _path(person: _Person, volume: _Volume, seed: int) -> str:
    device = volume.device
    protocol = device.protocol if volume.macula else "onh_rc_hr"
    name = (
        f"{person.id}_{device.model.lower()}_{protocol}_oct_{volume.eye.lower()}_{_uid(person, volume, seed, 'instance')}.dcm"
    )
    return f"retinal_oct/structural_oct/{device.folder}/{person.id}/{name}"


def _shape(volume: _Volume) -> tuple[int, int, int]:
    frames, rows, columns = volume.device.shape
    return (frames if volume.macula else _RADIAL), rows, columns


def _spacing(volume: _Volume) -> tuple[float, float, float]:
    """Between B-scans, rows and columns, in mm."""
    frames, _, columns = _shape(volume)
    return FIELD / 1000 / frames, volume.device.axial / 1000, FIELD / 1000 / columns


def _write_tables(people: Sequence[_Person], seed: int, folder: Path) -> None:
    rows = [
        {
            "person_id": person.id,
            "clinical_site": person.site,
            "study_group": STUDY_GROUPS[person.group],
            "age": person.age,
            "study_visit_date": f"2024-{1 + person.number % 12:02d}-{1 + person.number % 28:02d}",
            "recommended_split": person.split,
            **dict.fromkeys(("cardiac_ecg", "clinical_data", "environment"), "TRUE"),
            "retinal_flio": "FALSE",
            "retinal_oct": str(bool(person.volumes)).upper(),
            **dict.fromkeys(("retinal_octa", "retinal_photography"), "FALSE"),
            **dict.fromkeys(("wearable_activity_monitor", "wearable_blood_glucose"), "TRUE"),
        }
        for person in sorted(people, key=lambda person: person.id)
    ]
    _write_table(rows, folder / "participants.tsv")
    files = []
    for person in sorted(people, key=lambda person: person.id):
        for volume in person.volumes:
            frames, height, width = _shape(volume)
            between, down, across = _spacing(volume)
            files.append(
                {
                    "person_id": person.id,
                    "manufacturer": volume.device.manufacturer,
                    "manufacturers_model_name": volume.device.model,
                    "anatomic_region": "Macula, 6 x 6" if volume.macula else "Optic Disc",
                    "imaging": "OCT",
                    "laterality": volume.eye,
                    "height": height,
                    "width": width,
                    "number_of_frames": frames,
                    "pixel_spacing": f"[{down:.5f}, {across:.5f}]",
                    "slice_thickness": f"{between:.5f}",
                    "sop_instance_uid": _uid(person, volume, seed, "instance"),
                    "filepath": f"/{_path(person, volume, seed)}",
                    "reference_instance_uid": _uid(person, volume, seed, "fundus"),
                    "reference_filepath": "Not reported",
                }
            )
    _write_table(files, folder / "retinal_oct" / "manifest.tsv")


def _write_table(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, lineterminator="\r\n")


def _write(people: Sequence[_Person], seed: int, folder: Path) -> None:
    for person in people:
        entropy = (_STREAM, seed, person.number)
        of_person = severity(person.group, np.random.default_rng((*entropy, 0)))
        for volume in person.volumes:
            voxels, _ = scan(retina(of_person, volume.eye, entropy), volume.device, (*entropy, 4, volume.number))
            if not volume.macula:
                voxels = np.resize(voxels, _shape(volume))
            path = folder / _path(person, volume, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            _dicom(person, volume, seed, voxels).save_as(path, enforce_file_format=True)


def _dicom(person: _Person, volume: _Volume, seed: int, voxels: NDArray[np.uint8]) -> Dataset:
    """An Ophthalmic Tomography Image (PS3.3, A.52) of voxels (frames, rows, columns)."""
    between, down, across = _spacing(volume)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(OPHTHALMIC_TOMOGRAPHY)
    instance = _uid(person, volume, seed, "instance")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = instance
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (_uid(person, volume, seed, what) for what in ("study", "series"))
    dataset.Modality, dataset.ImageType = "OPT", ["ORIGINAL", "PRIMARY"]
    dataset.PatientID = dataset.PatientName = person.id
    dataset.Manufacturer, dataset.ManufacturerModelName = volume.device.manufacturer, volume.device.header
    dataset.Laterality = dataset.ImageLaterality = volume.eye
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = voxels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    measures = _item(PixelSpacing=[f"{down:.6f}", f"{across:.6f}"], SliceThickness=f"{between:.6f}")
    anatomy = _item(FrameLaterality=volume.eye)
    shared, frames = Dataset(), []
    shared.FrameAnatomySequence = [anatomy]
    if not volume.device.per_frame:
        shared.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    for number in range(len(voxels)):
        frame = Dataset()
        turn = np.pi * number / len(voxels)
        across_frame = [1, 0, 0] if volume.macula else [round(float(np.cos(turn)), 6), 0, round(float(np.sin(turn)), 6)]
        frame.FrameContentSequence = [_item(StackID="1", InStackPositionNumber=number + 1)]
        place = [0, 0, round(number * between, 6)] if volume.macula else [0, 0, 0]
        frame.PlanePositionSequence = [_item(ImagePositionPatient=place)]
        frame.PlaneOrientationSequence = [_item(ImageOrientationPatient=[*across_frame, 0, 1, 0])]
        if volume.device.per_frame:
            frame.PixelMeasuresSequence = [measures]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = voxels.tobytes()
    return dataset


def _item(**values: object) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item
