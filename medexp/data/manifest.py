"""The table of a data set and the digests that stand for it."""

import hashlib
from collections.abc import Iterable, Sequence

import pandas as pd

from medexp.data.cases import Case
from medexp.data.splits import Splits
from medexp.data.volumes.facts import CaseFacts
from medexp.data.volumes.semantics import SEMANTIC_FEATURES


def manifest(cases: Sequence[Case], facts: Iterable[CaseFacts], splits: Splits) -> pd.DataFrame:
    """One row a case, sorted by case.

    Columns: case, patient, split, sha256 (voxels and affine), duplicate_of (the first case with the same voxels, else empty),
    x, y, z (voxels along the file's axes), spacing_x, spacing_y, spacing_z (mm), then the ten SEMANTIC_FEATURES.
    """
    facts_of = {fact.case: fact for fact in facts}
    first: dict[str, str] = {}
    rows = []
    for case in sorted(cases, key=lambda case: case.id):
        fact = facts_of[case.id]
        original = first.setdefault(fact.voxels_sha256, case.id)
        rows.append(
            {
                "case": case.id,
                "patient": case.patient,
                "split": splits.of(case.id),
                "sha256": fact.sha256,
                "duplicate_of": "" if original == case.id else original,
                **dict(zip(("x", "y", "z"), fact.shape, strict=True)),
                **dict(zip(("spacing_x", "spacing_y", "spacing_z"), fact.spacing, strict=True)),
                **dict(zip(SEMANTIC_FEATURES, fact.semantic, strict=True)),
            }
        )
    return pd.DataFrame(rows)


def data_digest(manifest: pd.DataFrame) -> str:
    """32 hexadecimal digits that change when a case, its voxels, label or affine change (MLflow takes at most 36)."""
    lines = sorted(f"{case} {sha256}\n" for case, sha256 in zip(manifest["case"], manifest["sha256"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def split_digest(manifest: pd.DataFrame, split: str) -> str:
    """`data_digest` of one split's rows."""
    return data_digest(manifest[manifest["split"] == split])


def seen_cases(manifest: pd.DataFrame, facts: Iterable[CaseFacts]) -> pd.DataFrame:
    """What a model has seen, for whoever tests a later model: patients as sha256 of their ids, so that a package tells whether
    a patient whose id is known was among them and lists none. Ids from a short list can be guessed and tried.

    Columns: split, patient_sha256, voxels_sha256 (images alone), in no order that tells of the patients.
    """
    voxels = {fact.case: fact.voxels_sha256 for fact in facts}
    rows = pd.DataFrame(
        {
            "split": manifest["split"],
            "patient_sha256": [patient_sha256(patient) for patient in manifest["patient"]],
            "voxels_sha256": manifest["case"].map(voxels),
        }
    )
    return rows.sort_values(["split", "patient_sha256", "voxels_sha256"], ignore_index=True)


def patient_sha256(patient: str) -> str:
    """64 hexadecimal digits that stand for a patient's id."""
    return hashlib.sha256(patient.encode()).hexdigest()
