"""A small study of OCT: people of four groups at three sites, volumes as NPY, and tiny encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medexp.data.oct.labels import STUDY_GROUPS
from medexp.models.encoders import EncoderCard, write_card
from medexp.models.kinds import build
from tests.data.oct.small_scans import retina

SHAPE = (4, 16, 16)
ARCHITECTURE: Mapping[str, Any] = {"kind": "vit3d", "size": SHAPE, "patch": (2, 8, 8), "dim": 16, "depth": 1, "heads": 2}
PEOPLE = 72
SMALL = {
    "seeds": 2,
    "bootstrap_samples": 200,
    "train.epochs": 6,
    "train.lr_head": 0.05,
    "train.patience": 0,
    "train.warmup_epochs": 1,
    "data.batch_size": 8,
    "data.jobs": 1,
    "threads": 1,
}
"""Keys of a run in seconds."""


def participants(count: int = PEOPLE) -> pd.DataFrame:
    """People of three sites, as many of each group, half of whom are trained on; nothing tells a group but the group."""
    rows = []
    for number in range(count):
        group, turn = STUDY_GROUPS[number % 4], number // 4
        split = ("train", "test", "train", "val")[turn % 4]
        rows.append((f"{(1, 4, 7)[turn % 3]}{number:03d}", f"site {turn % 3}", group, split, "TRUE"))
    return pd.DataFrame(rows, columns=["person_id", "clinical_site", "study_group", "recommended_split", "retinal_oct"])


def write_study(folder: Path, people: pd.DataFrame | None = None, strength: float = 1.0, both_eyes: int = 3) -> Path:
    """A folder with participants.tsv (CRLF) and volumes whose layers are thicker from group to group.

    Args:
        folder: Gets it.
        people: As of `participants`.
        strength: How much thicker; 0: groups differ in nothing.
        both_eyes: Every so many people have a volume of the other eye too.
    """
    people = participants() if people is None else people
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "participants.tsv").write_text(people.to_csv(sep="\t", index=False).replace("\n", "\r\n"), newline="")
    for number, row in enumerate(people.to_dict("records")):
        if row["retinal_oct"] != "TRUE":
            continue
        level = STUDY_GROUPS.index(row["study_group"]) if row["study_group"] in STUDY_GROUPS else 0
        for eye in ("R", "L")[: 1 + (number % both_eyes == 0)]:
            rng = np.random.default_rng([number, eye == "L"])
            thickness = 0.25 + strength * 0.1 * level + 0.03 * rng.standard_normal()
            where = folder / "retinal_oct" / "Maestro2" / str(row["person_id"])
            where.mkdir(parents=True, exist_ok=True)
            voxels = retina(SHAPE, seed=2 * number + (eye == "L"), top=0.15, thickness=float(np.clip(thickness, 0.1, 0.75)))
            np.save(where / f"{row['person_id']}_{eye}.npy", voxels)
    return folder


def write_encoder(path: Path, seed: int = 0, scale: float = 1.0, **card: Any) -> Path:
    """A checkpoint in the layout of V-JEPA's pretraining, with its card.

    Args:
        path: The file.
        seed: Of the weights.
        scale: Of the patch embedding's weights; 0: an encoder that gives all volumes the same features.
        card: What the card says beside the architecture and the normalisation.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    weights = build(ARCHITECTURE).state_dict()
    weights = {name: value * (scale if name.startswith("patch_embed") else 1.0) for name, value in weights.items()}
    torch.save({"epoch": 3, "model_state_dict": {f"context_encoder.{name}": value for name, value in weights.items()}}, path)
    write_card(EncoderCard(dict(ARCHITECTURE), **{"normalisation": "zscore", **card}), path)
    return path
