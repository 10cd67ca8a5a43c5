"""Lines that are good are read as they are; what is bad is named by file and line, all at once."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medexp.data.scenarios.cases import ANSWERS, MODALITIES
from medexp.data.scenarios.inputs import find_inputs
from medexp.data.scenarios.read import read_scenarios
from medexp.errors import DataError
from tests.data.scenarios.small_scenarios import scenario, the_24, write_images, write_lines, write_project


def refused(*files: Path, **how: object) -> str:
    with pytest.raises(DataError) as error:
        read_scenarios(files, **how)
    return str(error.value)


def test_the_described_project_is_read(tmp_path):
    found = read_scenarios([write_project(tmp_path)])
    assert len(found) == 24 and [one.label for one in found] == [0, 0, 0, 1, 1, 1] * 4
    first = found[0]
    assert (first.id, first.patient, first.scan) == ("xray_001_normal_unnecessary_treatment",) * 3
    assert first.images == (tmp_path / "images" / f"{first.id}.png",), "not where the laptop had it"
    assert first.where == f"{tmp_path / 'scenarios.jsonl'}:1" and first.modality == "xray"
    told = {"scenario_id": first.id, "image_type": "normal", "error_type": "overtreatment", "severity": "high"}
    assert first.metadata == {**told, "cost_impact": "12500"} and "error_type" not in found[3].metadata


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAME = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
RECORD = st.fixed_dictionaries(
    {
        "id": NAME,
        "instruction": TEXT.map(lambda text: f"Judge{text}"),
        "input": TEXT,
        "output": st.tuples(st.sampled_from(ANSWERS), TEXT).map(" - ".join),
        "image_file": st.just("a.png"),
        "metadata": st.fixed_dictionaries({"modality": st.sampled_from(MODALITIES), "severity": TEXT}),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RECORD, min_size=1, max_size=4, unique_by=lambda one: one["id"]), st.booleans(), st.booleans(), st.booleans())
def test_what_is_written_is_read_back(tmp_path, records, mark, windows, escaped):
    (tmp_path / "a.png").touch()
    end = "\r\n" if windows else "\n"
    text = end.join(["", *(json.dumps(one, ensure_ascii=escaped) for one in records), "  ", ""])
    (tmp_path / "some.jsonl").write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    found = read_scenarios([tmp_path / "some.jsonl"])
    assert [(one.id, one.instruction, one.input, one.output, one.modality, dict(one.metadata)) for one in found] == [
        (
            *(one[name] for name in ("id", "instruction", "input", "output")),
            one["metadata"]["modality"],
            {"severity": one["metadata"]["severity"]},
        )
        for one in records
    ]
    assert [one.line for one in found] == [number + 2 for number in range(len(records))]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"output": ...}, "output is missing; found id, instruction, input, image_file, image_path, metadata"),
        ({"id": ..., "metadata": ...}, "id, metadata are missing; found instruction"),
        ({"input": None}, "input: found null; text is allowed"),
        ({"instruction": ["a"]}, "instruction: found a list; text is allowed"),
        ({"id": 7}, "id: found the number 7; text is allowed"),
        ({"id": ""}, 'id: found ""; a name without blanks'),
        ({"id": "a\nb"}, r'id: found "a\nb"; a name without blanks'),
        ({"id": " a"}, 'id: found " a"; a name without blanks'),
        ({"instruction": " ", "input": ""}, "instruction: found nothing, nor in input"),
        ({"instruction": "half \ud800"}, "instruction: holds half of a character"),
        ({"output": "The plan is fine."}, 'output: found "The plan is fine."; it begins with "ERROR - " or "CORRECT - "'),
        ({"output": ""}, 'output: found ""; it begins with'),
        ({"output": "Error - wrong"}, 'nearly right: write "ERROR - " in capitals'),
        (
            {"output": "CORRECT \u2013 fits"},
            'found "CORRECT \u2013 fits"; it begins with "ERROR - " or "CORRECT - "; nearly right',
        ),
        ({"output": "ERROR: wrong"}, 'nearly right: write "ERROR - "'),
        ({"output": " ERROR - wrong"}, 'nearly right: write "ERROR - "'),
        ({"output": "**CORRECT** - fits"}, 'nearly right: write "CORRECT - "'),
        ({"output": "CORRECT -"}, 'nearly right: write "CORRECT - "'),
        ({"output": "CORRECTED - it"}, 'output: found "CORRECTED - it"; it begins with'),
        ({"metadata": []}, "metadata: found a list; an object with modality is allowed"),
        ({"metadata": {}}, "metadata.modality: is missing; allowed are xray, histopathology, mri, ultrasound"),
        (
            {"metadata": {"modality": "X-Ray"}},
            'found "X-Ray"; allowed are xray, histopathology, mri, ultrasound; did you mean xray?',
        ),
        (
            {"metadata": {"modality": "ct"}},
            'found "ct"; allowed are xray, histopathology, mri, ultrasound; the key modalities',
        ),
        ({"metadata": {"modality": ["mri"]}}, 'found ["mri"]; allowed are'),
        (
            {"metadata": {"modality": "mri", "cost_impact": float("nan")}},
            "metadata.cost_impact: found nan; a finite number is allowed, or null",
        ),
        ({"metadata": {"modality": "mri", "severity": {}}}, "metadata.severity: found an object; text, a number or null"),
        ({"image_file": ""}, 'image_file: found ""; a file\'s name, relative to image_dir, is allowed'),
        ({"image_file": "a\0b"}, "image_file: found"),
        ({"image_file": "x" * 5000}, "image_file: found"),
        (
            {"image_file": "/etc/passwd"},
            'found "/etc/passwd", which leaves image_dir; a name relative to it is allowed, such as passwd',
        ),
        ({"image_file": "C:\\x\\a.png"}, "which leaves image_dir"),
        ({"image_file": "sub/../../a.png"}, "which leaves image_dir"),
        (
            {"image_file": "gone.png"},
            "image_file: no file {folder}/images/gone.png or {folder}/gone.png; put it there, or give",
        ),
        (
            {"image_file": "data/good.png"},
            "image_file: no file {folder}/images/data/good.png or {folder}/data/good.png; did you mean good.png?",
        ),
        ({"image_file": "."}, "image_file: {folder}/images is a folder; name a file"),
    ],
)
def test_a_bad_line_is_named(tmp_path, changed, words):
    good = scenario("good", "mri", True)
    write_images(tmp_path / "images", [good])
    bad = {**scenario("bad", "mri", False), "image_file": "good.png", **changed}
    bad = {key: value for key, value in bad.items() if value is not ...}
    told = refused(write_lines(tmp_path / "a.jsonl", [good, bad]))
    assert told.startswith(f"scenarios: {tmp_path / 'a.jsonl'}:2: ") and words.format(folder=tmp_path) in told, told
    assert told.endswith("mend the lines.") and told.count("\n") == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON (Expecting property name enclosed in double quotes, at character 2): found"),
        ('{"id": "a"', 'no JSON (Expecting \',\' delimiter, at character 11): found "{\\"id\\": \\"a\\""'),
        ("[]", "found a list; a line is an object with id, instruction, input, output, image_file and metadata"),
        ("null", "found null; a line is an object"),
        ("[" * 100000, "no JSON"),
        ("1" * 5000, "no JSON"),
        ('{"id": "a", "id": "b"}', "id stands twice; keep one"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, words):
    good = scenario("good", "mri", True)
    write_images(tmp_path, [good])
    told = refused(write_lines(tmp_path / "a.jsonl", [good, "", line, {**good, "id": "last"}]))
    assert f"{tmp_path / 'a.jsonl'}:3: " in told and words in told, told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no line"),
        (b"\xef\xbb\xbf\r\n \n", "holds no line"),
        (b'{"id": "a"}\n{"id": "\xe9"}', "is no UTF-8: found the byte 0xe9 in line 2; save it as UTF-8"),
        ('{"id": "a"}'.encode("utf-16"), "is no UTF-8: found UTF-16"),
        (b'[{"id": "a"},\n {"id": "b"}]', "is no JSONL: found one list; write one object a line, as by: jq -c '.[]' a.jsonl"),
        (
            b'{\n "id": "a"\n}',
            "is no JSONL: found objects over several lines; write one object a line, as by: jq -c '.' a.jsonl",
        ),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, content, words):
    (tmp_path / "a.jsonl").write_bytes(content)
    assert f"{tmp_path / 'a.jsonl'}: {words}" in refused(tmp_path / "a.jsonl")


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    one, two = the_24()[:2]
    write_images(tmp_path, [one, two])
    a = write_lines(tmp_path / "a.jsonl", [one, "{", {**two, "output": "?", "image_file": "no.png"}])
    b = write_lines(tmp_path / "b.jsonl", [one, {**two, "id": one["id"]}])
    told = refused(a, b, tmp_path / "none.jsonl", a)
    twice = f"id {one['id']} stands in {a}:1 too; an id names one scenario"
    for words in (f"{a}:2: no JSON", f"{a}:3: output", f"{a}:3: image_file", f"{b}:1: {twice}", f"{b}:2: {twice}"):
        assert words in told, told
    assert f"{tmp_path / 'none.jsonl'}: cannot be read (No such file" in told and f"{a}: is given twice" in told
    many = refused(write_lines(tmp_path / "many.jsonl", ["1"] * 60))
    assert "21 problems" in many and many.count("found the number 1;") == 20 and "and 40 more" in many


def test_where_images_are_looked_up(tmp_path):
    record = {**scenario("a", "mri", True), "image_file": "sub\\a.png"}
    file = write_lines(tmp_path / "a.jsonl", [record])
    for folder in ("", "images", "elsewhere"):  # its own folder; images/ before it; image_dir before both
        path = tmp_path / folder / "sub" / "a.png"
        path.parent.mkdir(parents=True)
        path.touch()
        given = tmp_path / folder if folder == "elsewhere" else None
        assert read_scenarios([file], given)[0].image == path
    assert "image_dir: " in refused(file, image_dir=tmp_path / "none")
    assert f"no file {tmp_path / 'sub' / 'sub' / 'a.png'}; did you mean a.png?" in refused(file, image_dir=tmp_path / "sub")


def test_other_modalities_are_those_that_are_given(tmp_path):
    file = write_project(tmp_path, [scenario("a", "ct", True)])
    assert read_scenarios([file], modalities=("ct", "pet"))[0].modality == "ct"


def test_scenarios_that_nobody_answered(tmp_path):
    records = [scenario(name, "mri", True, output=output) for name, output in zip("abc", (..., None, ""), strict=True)]
    file = write_project(tmp_path, [*records, scenario("d", "mri", False), scenario("e", "mri", False, output="Maybe")])
    told = refused(file, answered=False)
    assert f"scenarios: {file}:5: output" in told
    found = find_inputs(file, patient=lambda name: f"of {name}")
    assert [(one.id, one.label, one.patient) for one in found.cases] == [
        (name, label, f"of {name}") for name, label in zip("abcd", (None, None, None, 0), strict=True)
    ]
    assert dict(found.labels) == {"d": "ERROR"} and [*found.problems] == [f"{file}:5"]


def test_what_a_path_names(tmp_path):
    write_project(tmp_path, the_24()[:2], "a.JSONL")
    write_lines(tmp_path / "b.jsonl", ["{"])
    write_lines(tmp_path / ".hidden.jsonl", ["{"])
    found = find_inputs(tmp_path)
    assert len(found.cases) == 2 and [*found.problems] == [f"{tmp_path / 'b.jsonl'}:1"]
    for path, words in (("none", "no such file"), ("images", "no file of scenarios in it"), ("images/x.png", "no such file")):
        with pytest.raises(DataError, match=words):
            find_inputs(tmp_path / path)
    with pytest.raises(DataError, match="no file of scenarios"):
        find_inputs(tmp_path / "images" / "xray_001_normal_unnecessary_treatment.png")
