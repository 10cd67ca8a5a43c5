"""From a folder and a table to volumes in splits: nothing is lost without a word, and what fails has a limit."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medexp.data.oct.facts import describe_volumes, header_of
from medexp.data.oct.layers import INTENSITY_STATISTICS, LAYER_STATISTICS
from medexp.data.oct.phantoms.retina import DEVICES, scan
from medexp.data.oct.phantoms.retina import retina as of_eye
from medexp.data.oct.prepared import OctData, prepare_oct
from medexp.data.storage import Folder
from medexp.errors import DataError
from tests.data.oct.small_scans import MAPPING, participants_tsv, person, retina, write_dicom

PEOPLE = 24


def key(who: str, eye: str) -> str:
    return f"retinal_oct/structural_oct/topcon_maestro2/{who}/{who}_maestro2_macula_6x6_octa_oct_{eye}_1.2.840.113.{who}.1.dcm"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 people, each with both eyes, and their table."""
    folder = tmp_path_factory.mktemp("oct")
    participants_tsv(folder / "participants.tsv", PEOPLE)
    for index in range(PEOPLE):
        for eye in "lr":
            path = folder / key(person(index), eye)
            write_dicom(path, retina(seed=2 * index + (eye == "l")), ImageLaterality=eye.upper())
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "data"))


def prepare(folder: Path, **more: Any) -> OctData:
    return prepare_oct(Folder(folder), MAPPING, folder.parent / "cache", **more)


def test_every_volume_is_in_the_split_of_its_person(written: Path) -> None:
    data = prepare(written)
    prepared, table = data.prepared, data.prepared.manifest
    assert len(prepared.cases) == len(prepared.facts) == len(table) == 2 * PEOPLE and data.errors.empty and data.without.empty
    assert (data.counts == 2).all().all() and prepared.notes == () and prepared.dropped.empty and prepared.twins.empty
    for index in range(PEOPLE):
        mine = table[table["patient"] == person(index)]
        assert sorted(mine["laterality"]) == ["L", "R"] and set(mine["split"]) == {("train", "val", "test")[index // 4 % 3]}
        assert set(mine["target"]) == {index % 4} and set(mine["label"]) == {[*MAPPING][index % 4]}
        assert set(mine["site"]) == {("UW", "UCSD", "UAB")[index % 3]} and set(mine["device"]) == {"Maestro2"}
    assert len(prepared.ids("train")) == len(prepared.ids("val")) == len(prepared.ids("test")) == 16
    fact = prepared.facts[prepared.ids("val")[0]]
    assert len(fact.intensity) == len(INTENSITY_STATISTICS) and len(fact.layers) == len(LAYER_STATISTICS)
    assert {"spacing rows", "device", "intensity_mean", "thickness_mean"} <= fact.fields.keys()
    assert "site" not in fact.header and not any(who in str(fact.header) for who in ("Somebody", fact.case, "1001"))
    assert set(prepared.judged("test")) >= {"case", "patient", "scan", "voxels_sha256", "perceptual_hash"}


def test_padding_far_from_all_other_values_is_told(folder: Path) -> None:
    """Not refused: an encoder may have been pretrained on such volumes."""
    path = folder / key(person(0), "l").replace(".dcm", ".npy")
    (folder / key(person(0), "l")).unlink()
    np.save(path, np.where(np.arange(24)[:, None] < 2, 999, retina().astype(np.float32)).astype(np.float32))
    (note,) = prepare(folder).prepared.notes
    assert "320 of 3840 voxels are 999, far from all others, as padding is" in note and "write its dark in their place" in note


def test_volumes_that_look_upside_down_or_hold_a_frame_twice_are_told_with_how_many_there_are(folder: Path) -> None:
    """In any format: NPY says nothing of its frames, so that copies are told by their voxels."""

    def replaced(index: int, voxels: np.ndarray) -> None:
        (folder / key(person(index), "l")).unlink()
        np.save(folder / key(person(index), "l").replace(".dcm", ".npy"), voxels)

    drawn, _ = scan(of_eye(1.0, "L", (0, 5)), DEVICES[0], (0, 5, 4))
    for index in (0, 1):
        replaced(index, drawn[:, ::-1] + np.uint8(index))
    replaced(2, drawn)
    replaced(3, retina()[[0, 1, 2, 2, 3, 4, 5, 2]])
    write_dicom(
        folder / key(person(4), "l"), retina(seed=90)[[0, 1, 2, 3, 0, 1, 2, 3]], positions=[[0, 0, n % 4] for n in range(8)]
    )
    data = prepare(folder).prepared
    frames, turned = data.notes
    assert "2 of 48 volumes have frames that do not lie side by side: " in frames and "keep one of each place" in frames
    assert "of its frames 3 and 4, 3 and 8 are copies" in frames and "8 frames lie in 4 places" in frames
    assert "2 of 48 volumes look upside down: " in turned and "write them anew with their rows reversed" in turned
    assert all(person(index) in turned for index in (0, 1)) and person(2) not in turned
    assert sum(map(len, (fact.odd for fact in data.facts.values()))) == 4


def test_a_second_run_reads_nothing_again_but_what_was_replaced(folder: Path) -> None:
    """What is replaced keeps its size and its time of change where it is copied with them."""
    first = prepare(folder)
    (folder / "participants.tsv").rename(folder.parent / "participants.tsv")
    again = prepare(folder, labels=folder.parent / "participants.tsv")
    assert again.prepared.digest == first.prepared.digest
    volume = next(iter(first.prepared.cases.values()))
    path = folder / volume.entry.key
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    same, _ = describe_volumes([volume], folder.parent / "cache", 1)
    assert same[volume.id] == first.prepared.facts[volume.id]
    other = prepare(folder, labels=folder.parent / "participants.tsv")
    assert other.prepared.facts[volume.id].sha256 != first.prepared.facts[volume.id].sha256
    assert other.prepared.digest != first.prepared.digest


def test_the_headers_of_all_volumes_of_a_participant_count(written: Path) -> None:
    """Otherwise a device that shows in the second volume alone would be no shortcut that anybody sees."""
    one, other = [*prepare(written).prepared.facts.values()][:2]
    second = replace(other, header={**other.header, "device": "Triton", "rows": 3 * float(other.header["rows"] or 0)})
    assert header_of([one]) == one.header and header_of([one, other])["device"] == "Maestro2"
    both = header_of([one, second])
    assert both["device"] == "Maestro2 and Triton" and both["rows"] == 2 * float(one.header["rows"] or 0)
    assert both == header_of([second, one]) and {*both} == {*one.header}


def test_what_fails_is_listed_and_the_rest_goes_on(folder: Path) -> None:
    one, two = person(0), person(1)
    (folder / key(one, "l")).write_bytes(b"")
    for eye in "lr":
        path = folder / key(two, eye)
        path.write_bytes(path.read_bytes()[:-200])
    data = prepare(folder)
    assert [*data.errors.columns] == ["participant_id", "key", "exception"]
    listed = {(who, at): why for who, at, why in data.errors.itertuples(index=False, name=None)}
    assert listed.keys() == {(one, key(one, "l")), (two, key(two, "l")), (two, key(two, "r"))}
    assert "is empty (0 bytes)" in listed[one, key(one, "l")]
    assert one in {*data.prepared.manifest["patient"]} and two not in {*data.prepared.manifest["patient"]}
    assert [*data.without.itertuples(index=False, name=None)] == [(two, "none of the volumes can be used")]
    assert data.counts.to_numpy().sum() == PEOPLE - 1
    assert any(f"none of the volumes of {two} can be used" in note for note in data.prepared.notes)
    assert {*data.prepared.dropped["case"]} == {*data.errors["key"]}
    with pytest.raises(DataError, match=r"3 of 48 volumes cannot be used, more than data.max_failures=0.05"):
        prepare(folder, most_failed=0.05)


def test_people_without_a_key_are_listed_up_to_the_limit(folder: Path) -> None:
    for who in (person(0), person(1)):
        shutil.rmtree((folder / key(who, "l")).parent)
    data = prepare(folder)
    assert [*data.without.itertuples(index=False, name=None)] == [(person(0), "has no key"), (person(1), "has no key")]
    assert data.lost == (person(0), person(1))
    assert f"2 participants have no volume: {person(0)}, {person(1)}" in data.prepared.notes[0]
    with pytest.raises(DataError, match=r"2 of 24 participants have no volume, more than data.max_failures=0.05"):
        prepare(folder, most_failed=0.05)


def test_whom_the_table_leaves_out_has_not_dropped_out(folder: Path) -> None:
    """AI-READI's table has people without OCT, and a mapping may have no class of a group."""
    table = folder / "participants.tsv"
    table.write_text(re.sub(rf"({person(0)}\t.*)TRUE", r"\1FALSE", table.read_text()))
    fewer = {group: number for group, number in MAPPING.items() if number < 3}
    data = prepare_oct(Folder(folder), fewer, folder.parent / "cache")
    assert len(data.without) == 1 + PEOPLE // 4 and data.lost == ()


def test_a_class_that_nobody_is_left_of_stops_it(folder: Path) -> None:
    for index in (4, 16):  # healthy people who are validated on
        for eye in "lr":
            (folder / key(person(index), eye)).write_bytes(b"")
    with pytest.raises(DataError, match="val has nobody of healthy"):
        prepare(folder, most_failed=0.2)


def test_what_the_manifest_contradicts_is_an_error(folder: Path) -> None:
    who = person(0)
    rows = ["person_id\tfilepath\tnumber_of_frames", f"{who}\t/{key(who, 'l')}\t61", f"{person(5)}\t/{key(who, 'r')}\t8"]
    (folder / "retinal_oct" / "manifest.tsv").write_text("\n".join(rows))
    errors = prepare(folder).errors
    assert [*errors["key"]] == [key(who, "l"), key(who, "r")]
    assert "frames: manifest.tsv, line 2 says 61, the file 8" in errors["exception"][0]
    assert errors["exception"][1].startswith("is of several participants: manifest.tsv, line 3 says 7005")


def test_the_same_scan_under_two_names_is_found(folder: Path) -> None:
    first, other = person(0), person(4)
    np.save(folder / key(other, "l").replace(".dcm", ".npy"), retina(seed=0))
    (folder / key(other, "l")).unlink()
    assert [*prepare(folder).prepared.twins["exact"]] == [True]
    twins = prepare(folder).prepared.twins
    assert {twins["case"][0], twins["other"][0]} == {key(first, "r")[:-4], key(other, "l")[:-4]}
    assert {twins["split"][0], twins["other_split"][0]} == {"train", "val"}
    changed = retina(seed=0)
    changed[0, 0, 0] ^= 1
    np.save(folder / key(other, "l").replace(".dcm", ".npy"), changed)
    assert prepare(folder).prepared.twins.empty


def test_a_folder_without_a_table_is_refused(folder: Path) -> None:
    (folder / "participants.tsv").unlink()
    with pytest.raises(DataError, match=r"data: holds no participants.tsv; give labels=FILE"):
        prepare(folder)
