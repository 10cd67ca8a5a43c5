"""Scenarios as the described project has them: its ids, absolute paths of one laptop, drawn pictures, some of them masks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medexp.data.scenarios.cases import MODALITIES

SHORT = {"xray": "xray", "histopathology": "histopath", "mri": "mri", "ultrasound": "ultrasound"}
WRONG = ("normal_unnecessary_treatment", "benign_unnecessary_chemo", "late_unnecessary_surgery")
RIGHT = ("covid_appropriate_treatment", "glioma_appropriate_surgery", "malignant_appropriate_biopsy")


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture like no other (smooth, in grey), of (width, height) pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def scenario(name: str, modality: str, correct: bool, **changed: Any) -> dict[str, Any]:
    """A line of the described project; each has its own words."""
    record = {
        "id": name,
        "instruction": "Validate the clinical decision against the image.",
        "input": f"Case of {name.replace('_', ' ')}; {modality}.",
        "output": "CORRECT - the treatment fits." if correct else "ERROR - nothing in the image calls for it.",
        "image_file": f"{name}.png",
        "image_path": f"/Users/somebody/project/data/{name}.png",
        "metadata": {
            "scenario_id": name,
            "modality": modality,
            "image_type": "normal",
            "error_type": None if correct else "overtreatment",
            "severity": "high",
            "cost_impact": 0 if correct else 12500,
        },
    }
    return {key: value for key, value in {**record, **changed}.items() if value is not ...}


def the_24() -> list[dict[str, Any]]:
    """Six of each modality, half of them errors."""
    return [
        scenario(f"{SHORT[modality]}_{number:03}_{what}", modality, what in RIGHT)
        for modality in MODALITIES
        for number, what in enumerate((*WRONG, *RIGHT), 1)
    ]


def write_images(folder: Path, records: Sequence[Mapping[str, Any]], first: int = 0) -> None:
    """A picture of its own for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(records, first):
        picture(number).save(folder / str(record["image_file"]))


def write_lines(file: Path, records: Sequence[Any]) -> Path:
    """Records one a line; text is written as it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def write_project(folder: Path, records: Sequence[Mapping[str, Any]] | None = None, name: str = "scenarios.jsonl") -> Path:
    """A file of scenarios with its images beside it."""
    records = the_24() if records is None else records
    write_images(folder / "images", records)
    return write_lines(folder / name, records)
