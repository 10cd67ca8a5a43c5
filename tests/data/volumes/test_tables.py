"""Labelled tables: what is read, what is refused, and how they are split."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medexp.data.inputs import rows_of
from medexp.data.oct.labels import read_participants
from medexp.data.oct.manifest import find_manifests
from medexp.data.splits import SPLITS
from medexp.data.storage import Folder
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.tables import LabelledTable, read_table, split_table, split_words, table_manifest, write_table
from medexp.errors import DataError
from medexp.files import read_csv
from tests.data.volumes.small_cases import SHAPE, a_fact, save, write_case

ROWS = [
    ["a", "a", "glioma", "p1", "train"],
    ["b", "b", "glioma", "p2", "test"],
    ["c", "c", "meningioma", "p3", "train"],
    ["d", "d", "meningioma", "p4", "test"],
]
HEADER = ["id", "path", "label", "patient", "split"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abcd"):
        write_case(tmp_path, name, seed=seed, seg=None)
    return tmp_path


def tsv(folder: Path, rows: list[list[str]], header: list[str] = HEADER, end: str = "\n", mark: str = "") -> Path:
    text = mark + "".join("\t".join(row) + end for row in [header, *rows])
    (folder / "table.tsv").write_bytes(text.encode())
    return folder / "table.tsv"


def changed(row: int, column: str, value: str) -> list[list[str]]:
    rows = [list(row) for row in ROWS]
    rows[row][HEADER.index(column)] = value
    return rows


@pytest.mark.parametrize(("end", "mark"), [("\n", ""), ("\r\n", ""), ("\r\n", "\ufeff")])
def test_a_table_of_any_line_ends_is_read(folder: Path, end: str, mark: str) -> None:
    table = read_table(tsv(folder, [*ROWS, []], end=end, mark=mark))
    assert [case.id for case in table.cases] == ["a", "b", "c", "d"]
    assert [case.patient for case in table.cases] == ["p1", "p2", "p3", "p4"]
    assert table.classes == ("glioma", "meningioma")
    assert table.split_of == {"a": "train", "b": "test", "c": "train", "d": "test"}
    assert all(len(case.images) == 4 and case.label is None for case in table.cases)


@pytest.mark.parametrize(
    "content",
    [
        "\r".join("\t".join(row) for row in [HEADER, *ROWS]),
        "\n".join("\t".join([*row, "", ""]) for row in [HEADER, *ROWS, [" "]]),
        "\n".join("\t".join(f'"{value}"' for value in row) for row in [list(map(str.upper, HEADER)), *ROWS]),
        "\n".join("\t".join(row) + "\t" * bool(place) for place, row in enumerate([HEADER, *ROWS])),
    ],
    ids=["line ends of old Macs", "trailing columns", "quotes and capitals", "trailing separators"],
)
def test_what_spreadsheets_write(folder: Path, content: str) -> None:
    (folder / "table.tsv").write_text(content, newline="")
    table = read_table(folder / "table.tsv")
    assert table.labels == {"a": "glioma", "b": "glioma", "c": "meningioma", "d": "meningioma"}
    assert table.split_of == {"a": "train", "b": "test", "c": "train", "d": "test"}


@pytest.mark.parametrize(("mark", "suffix", "words"), [(",", "csv", ""), (";", "csv", "semicolons"), (",", "tsv", "commas")])
def test_the_mark_between_values_is_that_of_the_suffix(folder: Path, mark: str, suffix: str, words: str) -> None:
    path = folder / f"table.{suffix}"
    path.write_text("\n".join(mark.join(row) for row in [HEADER, *ROWS]))
    if not words:
        assert len(read_table(path).cases) == 4
        return
    with pytest.raises(DataError, match=f"line 1: values are parted by {words}; save it with"):
        read_table(path)


NAMES = st.one_of(
    st.sampled_from(["0012", "1e5", "NA", "nan", "True", "null", "-", "grade $2_$", "[/x]", "a|b", "<b>", "1_000", "\u00e9"]),
    st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters='"'), min_size=1, max_size=8),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(NAMES, min_size=4, max_size=4, unique_by=str.casefold),
    st.lists(NAMES, min_size=2, max_size=2, unique_by=str.casefold),
)
def test_names_are_text_whatever_they_look_like(names: list[str], labels: list[str]) -> None:
    """0012 is no 12, NA is a label, and what was written is read again."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "a").mkdir()
        for channel in CHANNELS:
            (folder / "a" / f"a-{channel}.nii.gz").touch()
        rows = [[name, "a", label, name] for name, label in zip(names, labels * 2, strict=True)]
        write_table(pd.DataFrame(rows, columns=HEADER[:4]), folder / "t.tsv")
        table = read_table(folder / "t.tsv")
        assert [case.id for case in table.cases] == [case.patient for case in table.cases] == names
        assert [table.labels[name] for name in names] == labels * 2
        drawn = split_table(table, [a_fact(name, name) for name in names], 0.5, 0)
        manifest = table_manifest(table, [a_fact(name, name) for name in names], drawn)
        manifest.to_csv(folder / "manifest.csv", index=False)
        again = read_csv(folder / "manifest.csv")
        assert list(again["case"]) == sorted(names) and set(again["label"]) == set(labels)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["label", "patient"]), st.integers(0, 8)), min_size=1, max_size=4)
)
def test_no_quote_eats_a_row(folder: Path, quotes: list[tuple[int, str, int]]) -> None:
    """Quotation marks anywhere in values: each row is read, with as many values as it has, or the table is refused."""
    rows = [list(row) for row in ROWS]
    for row, column, place in quotes:
        value = rows[row][HEADER.index(column)]
        rows[row][HEADER.index(column)] = f'{value[:place]}"{value[place:]}'
    try:
        table = read_table(tsv(folder, rows))
    except DataError as error:
        assert "line" in str(error) or "quot" in str(error) or "labels" in str(error)
    else:
        assert [case.id for case in table.cases] == ["a", "b", "c", "d"]
        written = [[row[HEADER.index(name)].replace('"', "") for row in rows] for name in ("label", "patient")]
        read = [[table.labels[case.id] for case in table.cases], [case.patient for case in table.cases]]
        assert [[value.replace('"', "") for value in values] for values in read] == written


@pytest.mark.parametrize("judged", ["val", "test"])
@pytest.mark.parametrize(
    "there", [("train",), ("train", "val"), ("train", "test"), ("train", "val", "test"), ("val", "test"), ("test",)]
)
def test_one_table_serves_whoever_judges_on_what(folder: Path, there: tuple[str, ...], judged: str) -> None:
    """What is missing is drawn from train, and said; the rest stays as it is given."""
    called = {"train": "Training", "val": "validation", "test": "test"}
    rows = [
        [f"{label}{split}{number}", "a", label, f"p{label}{split}{number}", called[split]]
        for label in "gm"
        for split in there
        for number in range(4)
    ]
    path = tsv(folder, rows)
    if "train" not in there:
        with pytest.raises(DataError, match="split train has no case"):
            read_table(path)
        return
    table = read_table(path)
    facts = [a_fact(case.id, case.id) for case in table.cases]
    splits = split_table(table, facts, 0.25, 0, judged)
    words = split_words(table, splits, judged)
    assert f"{path}: split 'Training' read as train" in words
    drawn = f"{path}: no case has the split {judged}; 2 patients of train are drawn for it."
    assert (drawn in words) == (judged not in there)
    for split in SPLITS:
        given = {row[0] for row in rows if row[4] == called[split]}
        found = set(getattr(splits, split))
        if judged in there:
            assert found == given
        elif split == judged:
            assert len(found) == 2 and {name[0] for name in found} == {"g", "m"} and all("train" in name for name in found)
        elif split != "train":
            assert found == given
    assert not {*splits.train} & {*getattr(splits, judged)}


def test_a_table_that_was_written_is_read_again(folder: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=HEADER)
    write_table(frame, folder / "written.tsv")
    assert read_table(folder / "written.tsv").labels == dict(zip("abcd", frame["label"], strict=True))


def test_further_columns_are_not_read_and_absolute_paths_are_taken(folder: Path) -> None:
    rows = [[*row, ""] for row in changed(0, "path", str(folder / "a"))]
    assert len(read_table(tsv(folder, rows, [*HEADER, "notes"])).cases) == 4


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([row[:4] for row in ROWS], ["id", "path", "class", "patient"], ["no column label", "'class'"]),
        ([["a,a,glioma,p1"]], ["id,path,label,patient"], ["values are parted by commas; save it with tabs"]),
        ([[*row, "x"] for row in ROWS], [*HEADER, "label"], ["column label stands 2 times"]),
        (changed(1, "patient", '"p2'), HEADER, ["line 3: a value begins with a quotation mark", "take the mark away"]),
        (changed(1, "patient", '"p2" x'), HEADER, ["line 3: a value begins with a quotation mark"]),
        (changed(1, "id", "a"), HEADER, ["id a stands 2 times"]),
        (changed(1, "split", "held out"), HEADER, ["unknown split 'held out'", "train, val, test"]),
        (changed(1, "patient", "p1"), HEADER, ["patient p1 in two splits: a in train, b in test"]),
        (changed(1, "label", " "), HEADER, ["line 3: label is empty"]),
        (changed(1, "split", ""), HEADER, ["line 3: split is empty"]),
        (changed(1, "path", "nowhere"), HEADER, ["id b: ", "nowhere: no such file or folder"]),
        (changed(1, "path", "~nobody_here/b"), HEADER, ["id b: found ~nobody_here/b; this machine has no user nobody_here"]),
        (changed(1, "path", "table.tsv"), HEADER, ["neither a case's folder nor a NIfTI file"]),
        ([ROWS[0][:4], *ROWS[1:]], HEADER, ["line 2: 4 values, the header has 5 columns"]),
        ([[*ROWS[0], "x"], *ROWS[1:]], HEADER, ["line 2: 6 values"]),
        ([ROWS[0], ROWS[1]], HEADER, ["one label only (glioma)"]),
        (changed(1, "split", "train"), HEADER, ["split test has one label only (meningioma)", "leave the column split out"]),
        (changed(2, "split", "test"), HEADER, ["labels without a case in train or val: meningioma"]),
        (changed(1, "label", "Glioma"), HEADER, ["labels 'Glioma' and 'glioma' differ in capitals or blanks alone"]),
        (
            [["a", "a", "glioma", "07", "train"], ["b", "b", "glioma", "7.0", "test"], *ROWS[2:]],
            HEADER,
            ["patients '07' and '7.0'"],
        ),
        (changed(1, "patient", "P 1"), HEADER, ["patients 'P 1' and 'p1' differ in capitals or blanks alone"]),
        (changed(1, "label", "glio\u200bma"), HEADER, [r"line 3: label 'glio\u200bma' has a character that nobody sees"]),
        ([[*row[:4], "test"] for row in ROWS], HEADER, ["split train has no case"]),
        ([], HEADER, ["holds no rows"]),
    ],
)
def test_a_bad_table_is_refused_with_what_is_wrong(
    folder: Path, rows: list[list[str]], header: list[str], words: list[str]
) -> None:
    path = tsv(folder, rows, header)
    with pytest.raises(DataError) as error:
        read_table(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_all_problems_are_told_at_once(folder: Path) -> None:
    (folder / "c" / "c-t1c.nii.gz").unlink()
    rows = changed(0, "split", "held out")
    rows[1][1], rows[3][0] = "nowhere", "c"
    with pytest.raises(DataError) as error:
        read_table(tsv(folder, rows))
    for word in ("unknown split", "nowhere", "id c stands 2 times", "no t1c", "problems"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"\xff\xfei\x00", "found UTF-16; save it as UTF-8"), (b"", "no rows")]
)
def test_a_file_that_is_no_table(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read_table(tmp_path / "t.tsv")
    assert "t.tsv" in str(error.value) and "id, path, label, patient" in str(error.value)


def test_a_4d_file_is_the_volume_of_its_folder(folder: Path, data_config: Callable, tmp_path: Path) -> None:
    import nibabel as nib

    channels = [nib.load(folder / "a" / f"a-{name}.nii.gz") for name in ("t2f", "t1c", "t1n", "t2w")]
    stacked = np.stack([np.asanyarray(image.dataobj) for image in channels], axis=-1)
    save(folder / "stacked.nii.gz", stacked, channels[0].affine)
    save(folder / "three.nii.gz", stacked[..., :3])
    save(folder / "flat.nii.gz", stacked[..., 0])
    table = read_table(tsv(folder, [*ROWS, ["e", "stacked.nii.gz", "glioma", "p1", "train"]]))
    facts = {fact.case: fact for fact in describe_cases(table.cases, data_config(), tmp_path / "cache")}
    assert facts["e"].sha256 == facts["a"].sha256 != facts["b"].sha256
    assert facts["e"].intensity == facts["a"].intensity
    assert facts["a"].semantic == ()
    assert facts["e"].shape == SHAPE
    bad = read_table(
        tsv(folder, [*ROWS, ["f", "three.nii.gz", "glioma", "p1", "train"], ["g", "flat.nii.gz", "glioma", "p1", "train"]])
    )
    with pytest.raises(DataError) as error:
        describe_cases(bad.cases, data_config(), tmp_path / "cache")
    for word in (
        "2 of 6 cases",
        "three.nii.gz: 3 channels",
        "expected 4",
        "flat.nii.gz: not 4D",
        "by its folder. ",
        "leave the case out",
    ):
        assert word in str(error.value)


def test_channels_are_read_in_the_order_that_is_wanted(folder: Path) -> None:
    order = ("t1n", "t2w", "t2f", "t1c")
    names = [path.name for path in read_table(tsv(folder, ROWS), order).cases[0].images]
    assert names == [f"a-{name}.nii.gz" for name in order]


def table_of(patients: dict[str, str], split_of: dict[str, str] | None = None) -> LabelledTable:
    """One case a patient, named as the patient is; patients to labels."""
    cases = tuple(Case(f"{name}-0", name, (), None) for name in patients)
    return LabelledTable(Path("t.tsv"), cases, {f"{name}-0": label for name, label in patients.items()}, split_of or {})


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 15), st.integers(2, 15), st.floats(0.01, 0.99), st.integers(0, 99), st.integers(0, 4))
def test_patients_are_split_label_by_label(first: int, second: int, fraction: float, seed: int, twins: int) -> None:
    table = table_of({f"a{i}": "a" for i in range(first)} | {f"b{i}": "b" for i in range(second)})
    facts = [a_fact(case.id, case.id) for case in table.cases]
    if first > twins + 1:  # the first patients share a scan
        facts = [a_fact(f.case, "same") if f.case in {f"a{i}-0" for i in range(twins)} else f for f in facts]
    splits = split_table(table, facts, fraction, seed)
    assert sorted(splits.train + splits.test) == sorted(case.id for case in table.cases)
    assert splits.val == ()
    for part in (splits.train, splits.test):
        assert {case[0] for case in part} == {"a", "b"}
    together = {f"a{i}-0" for i in range(twins)} if first > twins + 1 else set()
    assert together <= set(splits.train) or together <= set(splits.test)
    assert splits == split_table(table, facts[::-1], fraction, seed)


def test_the_share_of_the_patients_is_tested_and_the_seed_decides_whom() -> None:
    table = table_of({f"{label}{i}": label for label in "ab" for i in range(10)})
    facts = [a_fact(case.id, case.id) for case in table.cases]
    drawn = [split_table(table, facts, 0.3, seed).test for seed in range(5)]
    assert {len(test) for test in drawn} == {6}
    assert len(set(drawn)) > 1


def test_a_label_of_one_patient_cannot_be_split() -> None:
    table = table_of({"a1": "a", "a2": "a", "b1": "b"})
    with pytest.raises(DataError, match="label b: 1 patients"):
        split_table(table, [a_fact(case.id, case.id) for case in table.cases], 0.5, 0)


def test_exact_duplicates_lie_in_one_split_under_one_label() -> None:
    split_of = {"a1-0": "train", "a2-0": "test", "b1-0": "train", "b2-0": "test"}
    table = table_of({"a1": "a", "a2": "a", "b1": "b", "b2": "b"}, split_of)
    with pytest.raises(DataError) as error:
        split_table(table, [a_fact(case, "same" if case != "b1-0" else "other") for case in split_of], 0.5, 0)
    assert "exact duplicates in two splits: a1-0 in train, a2-0 in test, b2-0 in test" in str(error.value)
    assert "exact duplicates under different labels: a1-0 (a), a2-0 (a), b2-0 (b)" in str(error.value)


def test_the_manifest_has_a_row_a_case(folder: Path, data_config: Callable, tmp_path: Path) -> None:
    table = read_table(tsv(folder, ROWS[::-1]))
    facts = describe_cases(table.cases, data_config(), tmp_path / "cache")
    splits = split_table(table, facts, 0.5, 0)
    manifest = table_manifest(table, facts, splits)
    assert list(manifest) == ["case", "patient", "label", "split", "sha256", "voxels_sha256"]
    assert list(manifest["case"]) == ["a", "b", "c", "d"]
    assert list(manifest["split"]) == ["train", "test", "train", "test"]
    assert manifest["sha256"].nunique() == 4


ODD = [
    "",
    " ",
    ".",
    "..",
    "/",
    "~",
    "~nobody",
    "a",
    "p1",
    "train",
    "true",
    "\0",
    "\ufeff",
    "\u2028",
    '"',
    "NaN",
    "1e999",
    "ï",
    "x" * 300,
]
HEADS = (
    (*HEADER, "b", "b", "x", "p1", "train"),
    (
        "participant_id",
        "study_group",
        "recommended_split",
        "retinal_oct",
        "clinical_site",
        "1",
        "healthy",
        "train",
        "True",
        "A",
    ),
    ("person_id", "filepath", "laterality", "height", "pixel_spacing", "1", "/retinal_oct/a.dcm", "L", "992", "0.01, 0.02"),
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """One that some reader takes, but for a few of its cells."""
    cells = [list(draw(st.sampled_from(HEADS))[5 * part :][:5]) for part in (0, 1, 1)]
    for row, column in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=4)):
        cells[row][column] = draw(st.sampled_from(ODD) | st.text(max_size=4))
    mark = draw(st.sampled_from("\t,;"))
    return "\n".join(mark.join(row) for row in cells).encode("utf-8", "surrogatepass")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60) | tables(),
    name=st.sampled_from(["a.tsv", "a.csv"]),
)
def test_any_bytes_are_a_table_or_refused_with_the_files_name(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_table(path),
        lambda: rows_of(path),
        lambda: read_participants(path, {"healthy": 0, "insulin_dependent": 1}),
        lambda: find_manifests(Folder(tmp_path), [], [path]),
    )
    for read in readers:
        try:
            read()
        except DataError as error:
            assert str(path) in str(error)
