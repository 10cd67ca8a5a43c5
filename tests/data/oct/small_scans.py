"""Small OCT files: DICOM as pydicom writes it, NIfTI and NPY."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medexp.data.oct.dicom import OPHTHALMIC_TOMOGRAPHY
from medexp.data.oct.labels import STUDY_GROUPS

SHAPE = (8, 24, 20)
MAPPING = {group: number for number, group in enumerate(STUDY_GROUPS)}
SPLIT_OF_FOUR = ("train", "val", "test", "train")


def retina(shape: tuple[int, int, int] = SHAPE, seed: int = 0, top: float = 0.3, thickness: float = 0.3) -> NDArray[np.uint8]:
    """A bright band along the rows, brightest at its lower edge, with speckle."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, shape[1])[None, :, None]
    inside = (rows >= top) & (rows <= top + thickness)
    pigment = np.exp(-(((rows - top - thickness) / 0.03) ** 2))
    clean = 15 + 80 * inside + 110 * pigment
    noisy = clean * rng.gamma(8, 1 / 8, shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def item(**values: Any) -> Items:
    """A sequence of one."""
    one = Dataset()
    for name, value in values.items():
        setattr(one, name, value)
    return Items([one])


def write_dicom(
    path: Path,
    voxels: NDArray[Any],
    positions: Sequence[Sequence[float]] | None = None,
    lines: Sequence[Sequence[float]] | None = None,
    planes: Sequence[Sequence[float]] | None = None,
    shared: Mapping[str, Any] | None = None,
    frames: Sequence[Mapping[str, Any]] | None = None,
    **values: Any,
) -> Path:
    """A multi-frame file of structural OCT, uncompressed.

    Args:
        path: Of the file.
        voxels: (D, H, W) of an unsigned or signed type.
        positions: Of each frame, in mm.
        lines: Where each frame lies on the fundus image: row and column of its start and end.
        planes: Direction cosines of each frame's rows and columns.
        shared: Of the functional groups that all frames share, beside the spacing.
        frames: The same of each frame.
        values: Anything else of the header; None takes an element away.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = values.pop("SOPClassUID", OPHTHALMIC_TOMOGRAPHY)
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID = "Somebody^Known", "1001"
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "OPT", "Topcon", "3DOCT-1Maestro2"
    dataset.ImageLaterality = "R"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = voxels.shape[:3]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * voxels.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(voxels.dtype.kind == "i")
    common = Dataset()
    common.PixelMeasuresSequence = item(PixelSpacing=[0.0026, 0.012], SliceThickness=0.047)
    for name, value in (shared or {}).items():
        setattr(common, name, value)
    dataset.SharedFunctionalGroupsSequence = Items([common])
    groups = []
    for index in range(len(voxels)):
        group = Dataset()
        group.FrameContentSequence = item(InStackPositionNumber=index + 1, StackID="1")
        if positions is not None:
            group.PlanePositionSequence = item(ImagePositionPatient=[*positions[index]])
        if planes is not None:
            group.PlaneOrientationSequence = item(ImageOrientationPatient=[*planes[index]])
        if lines is not None:
            group.OphthalmicFrameLocationSequence = item(ReferenceCoordinates=[*lines[index]])
        for name, value in (frames[index] if frames else {}).items():
            setattr(group, name, value)
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Items(groups)
    dataset.PixelData = np.ascontiguousarray(voxels).tobytes() + b"\0" * (voxels.nbytes % 2)
    for name, value in values.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def participants_tsv(path: Path, people: int, **columns: Sequence[str]) -> Path:
    """A table of people at three sites, ids from 1000, 4000 and 7000 on; with 12 of them each class is in each split.

    Args:
        path: Of the table.
        people: Number of people.
        columns: Values of a column, one a person, instead.
    """
    names = ("person_id", "clinical_site", "study_group", "age", "recommended_split", "retinal_oct")
    lines = ["\t".join(names)]
    for index in range(people):
        row = {
            "person_id": person(index),
            "clinical_site": ("UW", "UCSD", "UAB")[index % 3],
            "study_group": STUDY_GROUPS[index % 4],
            "age": str(40 + index % 40),
            "recommended_split": SPLIT_OF_FOUR[index // 4 % 3],
            "retinal_oct": "TRUE",
        } | {name: values[index] for name, values in columns.items()}
        lines.append("\t".join(row[name] for name in names))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\r\n".join([*lines, ""]), newline="")
    return path


def person(index: int) -> str:
    """The id of a person of `participants_tsv`."""
    return str((1000, 4000, 7000)[index % 3] + index)
