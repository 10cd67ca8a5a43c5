"""What controls are given of texts and of files' names: a planted leak is there to be found."""

from pathlib import Path

import numpy as np
import pytest

from medexp.data.scenarios.facts import MOST, describe_scenarios, identity, token_headers
from medexp.data.scenarios.read import read_scenarios
from medexp.errors import DataError
from medexp.evaluation.controls import Task, of_headers
from tests.data.scenarios.small_scenarios import the_24, write_images, write_lines


def described(folder: Path, records: list[dict]):
    write_images(folder / "images", records)
    scenarios = read_scenarios([write_lines(folder / "a.jsonl", records)])
    return scenarios, describe_scenarios(scenarios, folder / "cache", 1)


def told_apart(folder: Path, scenarios, headers) -> tuple[float, tuple[str, ...]]:
    """How well a forest tells the answers of one third from the other two, and by what."""
    labels = np.array([one.label for one in scenarios])
    fit, score = np.flatnonzero(np.arange(24) % 3), np.flatnonzero(np.arange(24) % 3 == 0)
    found = of_headers(headers, Task(labels, [one.id for one in scenarios], 2, [(fit, score)]), folder / "cache")
    return float((found.predictions[0].probabilities.argmax(1) == labels[score]).mean()), tuple(found.fields)


def test_words_and_names(tmp_path):
    records = the_24()
    records[0]["instruction"], records[0]["input"] = "Is THIS Überlegt?", "dose_2 mg, x-ray"
    records[0]["image_file"] = "MRI12wrong-7b.png"
    scenarios, facts = described(tmp_path, records)
    assert [fact.case for fact in facts] == [one.id for one in scenarios]
    assert facts[0].words == {"is", "this", "überlegt", "dose", "2", "mg", "x", "ray"}
    assert facts[0].names == {"mri", "12", "wrong", "7", "b", "images"} and facts[0].number == 7
    assert facts[1].number == 2 and facts[0].header["height"] == 40 and facts[0].header["mode"] == "L"
    assert identity(scenarios[0]) == (facts[0].voxels_sha256, facts[0].perceptual_hash)
    names, words = token_headers(facts, "names"), token_headers(facts, "words")
    assert '"überlegt"' not in words[0], "in one alone"
    assert '"images"' not in names[0], "in all"
    assert names[1]['"unnecessary"'] == 1 and names[3]['"unnecessary"'] == 0 and '"unnecessary"' in words[1]
    assert names[0]["number"] == 7 and "number" not in words[0]
    assert {*names[0]} == {*names[5]} and {*words[0]} == {*words[5]}


def test_a_planted_leak_is_told_and_none_is_where_there_is_none(tmp_path):
    plain = [
        {**record, "input": f"Case {place}.", "image_file": f"image{place * 7 % 24}.png"}
        for place, record in enumerate(the_24())
    ]
    leaky = {
        "plain": plain,
        "words": [{**one, "input": f"{one['input']} {one['output'].split()[0]}"} for one in plain],
        "names": [{**one, "image_file": f"{one['metadata']['error_type'] or 'none'}_{one['image_file']}"} for one in plain],
    }
    found = {}
    for planted, records in leaky.items():
        scenarios, facts = described(tmp_path / planted, records)
        for what in ("words", "names"):
            found[planted, what] = told_apart(tmp_path, scenarios, token_headers(facts, what))
    for what, planted in (("words", {'"error"', '"correct"'}), ("names", {'"none"', '"overtreatment"'})):
        share, fields = found[what, what]
        assert share == 1 and {*fields} == planted
    assert all(share < 0.9 for (planted, what), (share, _) in found.items() if planted != what)


def test_a_table_is_no_wider_than_a_forest_takes(tmp_path):
    records = [
        {**one, "input": " ".join(f"w{(40 * place + step) % 700}x" for step in range(300))}
        for place, one in enumerate(the_24())
    ]
    _, facts = described(tmp_path, records)
    assert len(token_headers(facts, "words")[0]) == MOST


def test_broken_images_are_named_with_their_lines(tmp_path):
    records = the_24()[:2]
    write_images(tmp_path / "images", records)
    (tmp_path / "images" / records[1]["image_file"]).write_text("no")
    scenarios = read_scenarios([write_lines(tmp_path / "a.jsonl", records)])
    with pytest.raises(DataError, match=r"a.jsonl:2: image_file: .*unreadable or no JPEG or PNG.*; save it anew"):
        describe_scenarios(scenarios, tmp_path / "cache", 2)
