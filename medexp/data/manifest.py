"""Digests that stand for the cases of a manifest, the table of a data set: one row a case."""

import hashlib
from collections.abc import Iterable

import pandas as pd

from medexp.data.twins import BASES, Digested


def data_digest(manifest: pd.DataFrame) -> str:
    """32 hexadecimal digits that change when a case, its voxels, label or affine change (MLflow takes at most 36)."""
    lines = sorted(f"{case} {sha256}\n" for case, sha256 in zip(manifest["case"], manifest["sha256"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def seen_cases(manifest: pd.DataFrame, facts: Iterable[Digested]) -> pd.DataFrame:
    """What a model has seen, for whoever tests a later model: patients as sha256 of their ids, so that a package tells whether
    a patient whose id is known was among them and lists none. Ids from a short list can be guessed and tried.

    Columns: split, patient_sha256, voxels_sha256 (images alone), perceptual_hash (by which copies are found: its first views
    with a blank between them, each a coarse picture of a few hundred values), in no order that tells of the patients.
    """
    known = {fact.case: fact for fact in facts}
    rows = pd.DataFrame(
        {
            "split": manifest["split"],
            "patient_sha256": [patient_sha256(patient) for patient in manifest["patient"]],
            "voxels_sha256": [known[case].voxels_sha256 for case in manifest["case"]],
            "perceptual_hash": [" ".join(known[case].perceptual_hash[:BASES]) for case in manifest["case"]],
        }
    )
    return rows.sort_values(["split", "patient_sha256", "voxels_sha256"], ignore_index=True)


def patient_sha256(patient: str) -> str:
    """64 hexadecimal digits that stand for a patient's id."""
    return hashlib.sha256(patient.encode()).hexdigest()
