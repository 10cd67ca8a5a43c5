"""Scans heads on the grids that real data brings and writes them as a BIDS data set, lesions as a derivative of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from medexp.data.pairs.phantoms.dysplasia import scan
from medexp.data.parallel import written_once
from medexp.data.volumes.phantoms.write import acquired, grid, positions

VERSION = 3
"""Part of the folder's name: raise it when what is written changes."""

Kind = Literal["fcd", "healthy"]
_GROUPS = {"fcd": "fcd", "healthy": "hc"}
LESIONS = "derivatives/lesion_masks"


@dataclass(frozen=True)
class _Scan:
    """One scan to write: its number's subject, the session where it has several, and the patient that is drawn."""

    subject: str
    session: str | None
    patient: int

    @property
    def stem(self) -> str:
        return "_".join(part for part in (self.subject, self.session) if part)

    @property
    def anat(self) -> Path:
        return Path(self.subject, self.session or "", "anat")


def ensure_pairs(kind: Kind, patients: int, seed: int, cache: Path) -> Path:
    """The folder of phantoms of a kind, written when it is not there yet.

    A BIDS data set: `participants.tsv`, `sub-fcd0001/anat/sub-fcd0001_FLAIR.nii.gz` (int16), and of patients with dysplasia
    `derivatives/lesion_masks/sub-fcd0001/anat/sub-fcd0001_label-lesion_roi.nii.gz` (uint8, 0 and 1) on the same grid; healthy
    ones are `sub-hc0001`, without masks. A seed above 0 stands before the patient's number (`sub-fcd70001`). Most scans are
    LPS with voxels of 3.0 x 3.0 x 4.5 mm; some lie otherwise, are oblique or have thicker slices. Every eighth patient was
    scanned in two sessions (`sub-fcd0003/ses-1/anat/sub-fcd0003_ses-1_FLAIR.nii.gz`), and the last patient's scan is an exact
    duplicate of the second's.

    Args:
        kind: fcd or healthy.
        patients: Number of patient ids, the duplicate included; at least 4.
        seed: The same kind, seed and patient give the same voxels, whatever the number of patients.
        cache: Root of the cache; the folder goes under `phantoms/`.

    Raises:
        StorageError: When the cache cannot be written.
    """
    folder = cache / "phantoms" / f"pairs-{kind}-{patients}-seed{seed}-v{VERSION}"
    scans = _scans(kind, patients, seed)
    calls = [(number, one, kind, seed, _participants(scans, kind)) for number, one in enumerate(scans)]
    return written_once(folder, _write, calls, f"Writing {kind} phantoms")


def _scans(kind: Kind, patients: int, seed: int) -> list[_Scan]:
    scans = []
    for patient in range(1, patients + 1):
        subject = f"sub-{_GROUPS[kind]}{seed or ''}{patient:04d}"
        sessions = ("ses-1", "ses-2") if patient % 8 == 3 and patient < patients else (None,)
        scans += [_Scan(subject, session, 2 if patient == patients else patient) for session in sessions]
    return scans


def _participants(scans: list[_Scan], kind: Kind) -> pd.DataFrame:
    return pd.DataFrame({"participant_id": list(dict.fromkeys(one.subject for one in scans)), "group": _GROUPS[kind]})


def _write(number: int, one: _Scan, kind: Kind, seed: int, participants: pd.DataFrame, root: Path) -> None:
    """Write a scan; the first of them what is said of all as well."""
    if number == 0:
        participants.to_csv(root / "participants.tsv", sep="\t", index=False)
        _describe(root, f"{kind} phantoms", "raw")
        if kind == "fcd":
            _describe(root / LESIONS, f"lesions of {kind} phantoms", "derivative")
    entropy = (seed, list(_GROUPS).index(kind), one.patient)
    second = int(one.session == "ses-2")
    shape, affine = grid(one.patient + second, np.random.default_rng((*entropy, 1, second)))
    points = positions(shape, affine)
    with threadpool_limits(1):  # the processes share the cores already
        clean, lesion, brain = scan((*entropy, 0), kind == "fcd", points)
        (flair,) = acquired(clean[None], brain, points, np.random.default_rng((*entropy, 2, second)))
    written = {root / one.anat / f"{one.stem}_FLAIR.nii.gz": flair}
    if kind == "fcd":
        written[root / LESIONS / one.anat / f"{one.stem}_label-lesion_roi.nii.gz"] = lesion.astype(np.uint8)
    for path, voxels in written.items():
        path.parent.mkdir(parents=True)
        nifti = nib.Nifti1Image(voxels.reshape(shape), affine)
        nifti.header.set_xyzt_units("mm")
        nib.save(nifti, path)


def _describe(folder: Path, name: str, kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    described = {"Name": f"medexp: {name}", "BIDSVersion": "1.9.0", "DatasetType": kind}
    (folder / "dataset_description.json").write_text(json.dumps(described, indent=2) + "\n")
