"""participants.tsv: who is in which class and split, counted; what cannot be meant is told with its line."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.data.oct.labels import STUDY_GROUPS, read_participants
from medexp.errors import DataError
from tests.data.oct.small_scans import MAPPING, SPLIT_OF_FOUR, participants_tsv

COLUMNS = [
    *("clinical_site", "study_group", "age", "study_visit_date", "recommended_split", "cardiac_ecg", "clinical_data"),
    *("environment", "retinal_flio", "retinal_oct", "retinal_octa", "retinal_photography", "wearable_blood_glucose"),
]
TRUE, FALSE = ("TRUE", "true", "True", "1", "yes", "T", "Y"), ("FALSE", "false", "0", "no", "F")


def table(path: Path, seed: int = 0) -> tuple[Path, list[dict[str, str]]]:
    """1,067 people of three sites, as AI-READI's version 2 has them, in Windows' lines, after the mark of a spreadsheet."""
    rng = np.random.default_rng(seed)
    sites = {"UW": 1001, "UCSD": 4001, "UAB": 7001}
    rows = []
    for index in range(1067):
        site = list(sites)[index % 3]
        has = rng.random() < 0.97
        rows.append(
            {
                "person_id": str(sites[site] + index // 3),
                **dict.fromkeys(COLUMNS, "TRUE"),
                "clinical_site": site,
                "study_group": STUDY_GROUPS[rng.choice(4, p=[0.35, 0.23, 0.3, 0.12])],
                "age": str(rng.integers(40, 86)),
                "study_visit_date": "2023-07-27",
                "recommended_split": rng.choice(["train", "val", "test"], p=[0.7, 0.15, 0.15]),
                "retinal_oct": str(rng.choice(TRUE if has else FALSE)),
            }
        )
    lines = ["\t".join(["person_id", *COLUMNS]), *("\t".join(row[name] for name in ["person_id", *COLUMNS]) for row in rows)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    return path, rows


def test_every_count_of_1067_people_is_right(tmp_path: Path) -> None:
    path, rows = table(tmp_path / "participants.tsv")
    found = read_participants(path, MAPPING)
    has = [row for row in rows if row["retinal_oct"] in TRUE]
    assert len(rows) == 1067 and 1000 < len(has) < 1067
    assert [*found.rows["participant"]] == sorted(row["person_id"] for row in has)
    assert len(found.left_out) == 1067 - len(has) and set(found.left_out["reason"]) == {"retinal_oct is false"}
    counted = Counter((row["study_group"], row["recommended_split"]) for row in has)
    assert {(group, split): count for group, of in found.counts.T.to_dict().items() for split, count in of.items()} == counted
    assert [*found.counts.index] == list(STUDY_GROUPS) and found.counts.to_numpy().sum() == len(has)
    assert Counter(found.rows["site"]) == Counter(row["clinical_site"] for row in has)
    assert {who[0] for who in found.rows["participant"]} == {"1", "4", "7"}
    by_id = {row["person_id"]: row for row in has}
    for row in found.rows.to_dict("records"):
        said = by_id[row["participant"]]
        assert (row["study_group"], row["split"]) == (said["study_group"], said["recommended_split"])
        assert row["target"] == MAPPING[row["label"]] == STUDY_GROUPS.index(said["study_group"])


@settings(max_examples=30)
@given(
    ends=st.sampled_from(["\n", "\r\n"]),
    person=st.sampled_from(["person_id", "participant_id", "Participant_ID "]),
    true=st.sampled_from(["TRUE", "True", "true", " t", "1", "1.0", "YES", "y"]),
    false=st.sampled_from(["FALSE", "False", "f", "0", "0.0", "No", "N"]),
    order=st.permutations(["person", "study_group", "recommended_split", "retinal_oct", "note"]),
)
def test_every_spelling_is_read(
    tmp_path_factory: pytest.TempPathFactory, ends: str, person: str, true: str, false: str, order: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "spelled.tsv"
    rows = [{"person": person, **{name: name for name in order if name != "person"}}]
    for index in range(16):
        split = SPLIT_OF_FOUR[index // 4]
        has = false if index >= 12 else true
        values = {"person": str(4000 + index), "study_group": STUDY_GROUPS[index % 4], "recommended_split": split}
        rows.append({**values, "retinal_oct": has, "note": "any, thing"})
    path.write_text(ends.join("\t".join(row[name] for name in order) for row in rows), newline="")
    found = read_participants(path, MAPPING)
    assert len(found.rows) == 12 and len(found.left_out) == 4 and (found.counts == 1).all().all()


def test_groups_may_be_joined_or_left_out(tmp_path: Path) -> None:
    path = participants_tsv(tmp_path / "participants.tsv", 24)
    joined = read_participants(path, {group: int(index > 0) for index, group in enumerate(STUDY_GROUPS)})
    assert [*joined.counts.index] == ["healthy", " or ".join(STUDY_GROUPS[1:])] and len(joined.rows) == 24
    two = read_participants(path, {"healthy": 0, "insulin_dependent": 1})
    assert len(two.rows) == 12 and len(two.left_out) == 12
    assert set(two.left_out["reason"]) == {f"study_group {group} is of no class" for group in STUDY_GROUPS[1:3]}


def test_all_that_is_wrong_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = participants_tsv(tmp_path / "participants.tsv", 24)
    lines = path.read_text().splitlines()
    row = lines[1].split("\t")
    for at, values in {
        2: ["1001", "UW", "helthy", "50", "train", "TRUE"],
        4: ["1002", "UW", "healthy", "50", "trian", "TRUE"],
        6: ["1003", "UW", "healthy", "50", "train", "maybe"],
        8: ["", "UW", "healthy", "50", "train", "TRUE"],
        10: ["P1004", "UW", "healthy", "50", "Train", "TRUE"],
        12: ["p1004", "UW", "healthy", "50", "validation", "TRUE"],
    }.items():
        lines[at] = "\t".join(values)
    assert row[0] == "1000"
    lines.append(lines[1])
    lines.append("\t".join(["9", "UW", "healthy", "50", "train", "TRUE", "more"]))
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        read_participants(path, MAPPING)
    told = str(error.value)
    for part in (
        "line 3: study_group 'helthy' is unknown",
        "line 5: recommended_split 'trian' is unknown",
        "line 7: retinal_oct is 'maybe', neither true nor false",
        "line 9: person_id is empty",
        "participants 'P1004' and 'p1004' differ in capitals or blanks alone",
        "line 26: participant 1000 stands in line 2 already",
        "line 27: 7 values, the header has 6",
        "(classes.mapping); splits are train, val, test",
    ):
        assert part in told, told


def test_columns_that_are_missing_are_told(tmp_path: Path) -> None:
    path = tmp_path / "participants.tsv"
    path.write_text("id\tgroup\n1\thealthy\n")
    with pytest.raises(DataError) as error:
        read_participants(path, MAPPING)
    for name in ("participant_id or person_id", "study_group", "recommended_split", "retinal_oct"):
        assert f"no column {name}" in str(error.value)
    path.write_text("")
    with pytest.raises(DataError, match="first line holds nothing"):
        read_participants(path, MAPPING)
    with pytest.raises(DataError, match="cannot be read"):
        read_participants(tmp_path / "absent.tsv", MAPPING)


def test_a_class_that_a_split_lacks_is_told(tmp_path: Path) -> None:
    path = participants_tsv(tmp_path / "participants.tsv", 24)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not ("\tval\t" in line and "insulin_dependent" in line)))
    with pytest.raises(DataError, match="val has nobody of insulin_dependent"):
        read_participants(path, MAPPING)
    path.write_text("\n".join(line for line in lines if "\tval\t" not in line))
    with pytest.raises(DataError, match="val is empty"):
        read_participants(path, MAPPING)
    path.write_text("\n".join(line for line in lines if "\ttest\t" not in line))
    assert (read_participants(path, MAPPING).counts["test"] == 0).all()
