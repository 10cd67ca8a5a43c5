"""OCT phantoms: read as AI-READI's data are, and nothing but the eye tells the class."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medexp.data.oct.labels import STUDY_GROUPS
from medexp.data.oct.phantoms import ensure_oct_phantoms
from medexp.data.oct.phantoms.retina import DEVICES, retina, scan
from medexp.data.oct.prepared import prepare_oct
from medexp.data.storage import place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_oct_phantoms(40, 0, tmp_path_factory.mktemp("cache"))


def test_they_are_read_as_a_users_data_are(folder: Path, tmp_path: Path) -> None:
    table = (folder / "participants.tsv").read_bytes()
    assert table.count(b"\r\n") == table.count(b"\n") == 41
    found = prepare_oct(place(str(folder), tmp_path), {group: number for number, group in enumerate(STUDY_GROUPS)}, tmp_path)
    assert found.errors.empty
    people = pd.read_csv(folder / "participants.tsv", sep="\t", dtype=str)
    manifest = pd.read_csv(folder / "retinal_oct" / "manifest.tsv", sep="\t", dtype=str)
    rows = found.prepared.manifest
    assert set(rows["patient"]) == set(people.loc[people["retinal_oct"] == "TRUE", "person_id"])
    assert len(rows) == (manifest["anatomic_region"] == "Macula, 6 x 6").sum() > rows["patient"].nunique()
    assert {person[0] for person in people["person_id"]} == {"1", "4", "7"}
    assert set(rows["device"]) == {device.model for device in DEVICES}
    counts = people[people["recommended_split"] == "test"]["study_group"].value_counts()
    assert counts.max() - counts.min() <= 1


def test_severity_thins_the_inner_retina_and_brings_findings() -> None:
    mild, severe = ([retina(level, "R", (3, number)) for number in range(60)] for level in (0.0, 3.0))
    assert np.mean([eye.inner for eye in severe]) < 0.9 * np.mean([eye.inner for eye in mild])
    assert np.mean([eye.foci for eye in severe]) > 3 * np.mean([eye.foci for eye in mild])
    assert sum(eye.cysts for eye in mild) == 0


def test_a_scan_shows_what_was_drawn() -> None:
    volume, labels = scan(retina(3.0, "L", (3, 1)), DEVICES[0], (3, 1, 4))
    assert volume.shape == labels.shape == DEVICES[0].shape
    assert volume[labels == 6].mean() > 1.5 * volume[labels == 5].mean(), "the ellipsoid zone is brighter than the ONL"
    assert volume[labels == 0].mean() < 0.5 * volume[labels == 1].mean(), "the vitreous is dark"
