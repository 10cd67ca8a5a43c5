"""Families and splits: what hangs together stays together, by modality and answer; what two splits share is told."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from medexp.data.kept import keep_record, known_record
from medexp.data.prepared import Prepared
from medexp.data.scenarios.cases import ANSWERS, MODALITIES, Scenario
from medexp.data.scenarios.facts import ScenarioFacts
from medexp.data.scenarios.families import in_families, members_of
from medexp.data.scenarios.prepared import account, across_splits, odd_images, prepare_scenarios, statistics
from medexp.data.scenarios.splits import draw_splits
from medexp.data.splits import SPLITS
from medexp.errors import DataError
from tests.data.scenarios.small_scenarios import picture, scenario, the_24, write_images, write_lines, write_project

Data = Prepared[Scenario, ScenarioFacts]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


def prepare(*files: Path, **how: object) -> Data:
    return prepare_scenarios(files, cache=files[0].parent / "cache", **how)


def test_the_24_are_split_as_the_specification_says(project):
    data = prepare(project / "scenarios.jsonl")
    assert [len(data.ids(split)) for split in SPLITS] == [16, 8, 0]
    val = data.rows("val")
    assert Counter(zip(val["modality"], val["label"], strict=True)) == {
        (name, label): 1 for name in MODALITIES for label in (0, 1)
    }
    columns = "case patient split sha256 voxels_sha256 label modality source image scenario_id"
    assert " ".join(data.manifest) == columns
    assert data.manifest["patient"].nunique() == 24 and across_splits(data).empty and data.twins.empty
    assert data.notes == (
        "24 scenarios are 24 families, those that share an image or a template: intervals and tests draw families. Splits, "
        "drawn by family, a third to judge, by modality and answer: train 16 (families: 16), val 8 (families: 8).",
    )
    drawn = {prepare(project / "scenarios.jsonl", seed=seed).ids("val") for seed in range(4)}
    assert len(drawn) > 1 and prepare(project / "scenarios.jsonl", seed=0).ids("val") == data.ids("val")


def test_what_they_are_in_numbers(project):
    data = prepare(project / "scenarios.jsonl")
    found = statistics(data)
    assert found["all"]["scenarios"] == found["all"]["families"] == found["all"]["images"] == 24
    assert found["all"]["modality"] == dict.fromkeys(sorted(MODALITIES), 6)
    assert found["splits"]["val"]["answer"] == {"CORRECT": 4, "ERROR": 4} and found["digest"] == data.digest
    assert found["splits"]["train"]["error_type"] == {"": 8, "overtreatment": 8} and found["all"]["oddity"] == {}
    assert dict(account(data))["scenarios"] == "24 in 24 families (24 of 1), 24 different images"


def test_the_order_of_lines_and_files_changes_nothing(project, tmp_path):
    records = the_24()
    a = write_lines(tmp_path / "a.jsonl", records[:11][::-1])
    b = write_lines(tmp_path / "b.jsonl", records[11:])
    one, two = prepare(project / "scenarios.jsonl"), prepare(b, a, image_dir=project / "images")
    assert one.splits == two.splits and one.digest == two.digest and one.manifest.equals(two.manifest)


SPECS = st.lists(
    st.tuples(st.sampled_from(MODALITIES), st.integers(0, 1), st.integers(0, 30), st.integers(0, 30)), min_size=2, max_size=40
)


def made(specs: list[tuple[str, int, int, int]]) -> tuple[list[Scenario], list[ScenarioFacts]]:
    """Scenarios of a modality, an answer, an image (by its number) and a text (by its number, and by a number in it)."""
    cases = [
        Scenario(f"s{place}", "Judge.", f"{'x' * text} {place}", f"{ANSWERS[label]} - so", Path(f"{image}.png"), modality)
        for place, (modality, label, image, text) in enumerate(specs)
    ]
    facts = [
        ScenarioFacts(one.id, f"{one.id} {image}", f"{image}", (), {}, frozenset(), frozenset(), None, ())
        for one, (_, _, image, _) in zip(cases, specs, strict=True)
    ]
    return cases, facts


@settings(max_examples=60, deadline=None)
@given(SPECS, st.integers(0, 5), st.randoms())
def test_families_hang_together_and_stay_together(specs, seed, shuffle):
    cases, facts = made(specs)
    found = in_families(cases, facts)
    of = {one.id: one.family for one in found}
    texts = Counter((modality, text) for modality, _, _, text in specs)
    general = {text for (modality, text), count in texts.items() if count > max(2, sum(m == modality for m, *_ in specs) / 2)}
    for one, (_, _, image, text) in zip(cases, specs, strict=True):
        for other, (_, _, their_image, their_text) in zip(cases, specs, strict=True):
            if image == their_image or (text == their_text and text not in general):
                assert of[one.id] == of[other.id]
    assert len({*of.values()}) >= 1 and all(of.values())
    order = list(range(len(cases)))
    shuffle.shuffle(order)
    again = in_families([cases[place] for place in order], [facts[place] for place in order])
    assert {one.id: one.family for one in again} == of
    if len({*of.values()}) < 2:
        with pytest.raises(DataError, match="are one family"):
            draw_splits(found, seed)
        return
    splits = draw_splits(found, seed)
    assert splits == draw_splits(again, seed) and splits.train and splits.val and not splits.test
    assert sorted([*splits.train, *splits.val]) == sorted(of)
    assert not {of[name] for name in splits.train} & {of[name] for name in splits.val}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MODALITIES), st.integers(0, 1)), min_size=2, max_size=60), st.integers(0, 5))
def test_a_third_of_each_modality_and_answer_is_judged(kinds, seed):
    cases, facts = made([(modality, label, place, place) for place, (modality, label) in enumerate(kinds)])
    splits = draw_splits(in_families(cases, facts), seed)
    assert len(splits.val) == max(1, round(len(kinds) / 3))
    val = [kinds[int(name[1:])] for name in splits.val]
    for group in (*set(kinds), *MODALITIES):
        count = sum(group in (kind, kind[0]) for kind in kinds)
        assert abs(sum(group in (kind, kind[0]) for kind in val) - count / 3) < 1.34, group


THE_24 = [(modality, label) for modality in MODALITIES for label in (0, 0, 0, 1, 1, 1)]


def test_a_family_is_judged_in_some_draws_and_learned_from_in_others():
    """The first and the last share an image: as families of one."""
    cases, facts = made([(modality, label, place % 23, place) for place, (modality, label) in enumerate(THE_24)])
    found = in_families(cases, facts)
    drawn = [draw_splits(found, seed) for seed in range(20)]
    assert len(members_of(found)) == 23 and {len(splits.val) for splits in drawn} == {8}
    assert 2 < sum("s0" in splits.val for splits in drawn) < 15


def test_where_families_are_large_both_answers_are_judged_all_the_same():
    """Three of each modality and answer, all of one image: one of each cannot be had."""
    cases, facts = made([(modality, label, place // 3, place) for place, (modality, label) in enumerate(THE_24)])
    found = in_families(cases, facts)
    for seed in range(5):
        val = draw_splits(found, seed).val
        assert Counter(THE_24[int(name[1:])][1] for name in val) == {0: 3, 1: 3}


def test_what_shares_an_image_or_a_template_is_a_family(tmp_path):
    """Equal pixels in another file, a copy saved anew, and a text that differs in numbers alone."""
    records = the_24()
    write_images(tmp_path / "images", records)
    names = [record["id"] for record in records]
    images = tmp_path / "images"
    Image.open(images / f"{names[0]}.png").save(images / f"{names[7]}.png", compress_level=0)
    ImageOps.mirror(Image.open(images / f"{names[1]}.png")).resize((96, 80)).save(images / f"{names[8]}.png")
    records[2]["input"], records[12]["input"] = "Dose of 12.5 mg.", "dose of  40  mg."
    data = prepare(write_lines(tmp_path / "a.jsonl", records))
    pairs = sorted(
        sorted(one.id for one in members) for members in members_of([*data.cases.values()]).values() if len(members) > 1
    )
    assert pairs == sorted(sorted(pair) for pair in ((names[0], names[7]), (names[1], names[8]), (names[2], names[12])))
    assert len(data.rows("val")) == 8 and data.manifest["patient"].nunique() == 21
    assert "24 scenarios are 21 families" in data.notes[0] and "3 of them hold several" in data.notes[0]
    assert across_splits(data).empty and data.twins.empty
    told = dict(account(data))["scenarios"]
    assert told == "24 in 21 families (18 of 1, 3 of 2), 23 different images"


def test_one_text_for_all_makes_no_family(tmp_path):
    records = [{**record, "input": "Is 1 treatment right?"} for record in the_24()]
    data = prepare(write_project(tmp_path, records))
    assert data.manifest["patient"].nunique() == 24 and len(data.ids("val")) == 8
    assert (
        "24 scenarios (histopathology, mri, ultrasound, xray) have one text, 'validate the clinical decision" in data.notes[1]
    )
    few = [{**record, "input": "Shared."} if place in (0, 1, 7) else record for place, record in enumerate(the_24())]
    data = prepare(write_lines(tmp_path / "few.jsonl", few))
    assert data.manifest["patient"].nunique() == 22 and len(data.notes) == 1


def test_names_of_files_say_the_splits(project, tmp_path):
    records = the_24()
    train = write_lines(tmp_path / "a" / "train.jsonl", records[:3])
    more = write_lines(tmp_path / "b" / "TRAIN.jsonl", records[3:12])
    val, test = (
        write_lines(tmp_path / f"{name}.jsonl", part) for name, part in (("val", records[12:18]), ("test", records[18:]))
    )
    data = prepare(train, more, val, test, image_dir=project / "images")
    assert data.ids("train") == tuple(sorted(one["id"] for one in records[:12]))
    assert [len(data.ids(split)) for split in SPLITS] == [12, 6, 6] and "as the files are called" in data.notes[0]
    pooled = prepare(train, more, val, test, image_dir=project / "images", pooled=True)
    assert [len(pooled.ids(split)) for split in SPLITS] == [16, 8, 0]
    for files, words in (
        ((train, project / "scenarios.jsonl"), "train.jsonl beside scenarios.jsonl: some names say a split and others do not"),
        ((train, test), "no val.jsonl beside test.jsonl, train.jsonl. Give train.jsonl and val.jsonl"),
        ((train, val), "train holds no CORRECT (3 scenarios)"),
    ):
        with pytest.raises(DataError) as error:
            prepare(*files, image_dir=project / "images")
        assert words in str(error.value), error.value


def test_what_two_named_splits_share_is_told_and_equal_images_are_refused(tmp_path):
    """Of the described project six of eight ids of validation are trained on; the same picture may be there under another."""
    records = the_24()
    write_images(tmp_path / "images", records)
    names = [record["id"] for record in records]
    path = {name: tmp_path / "images" / f"{name}.png" for name in names}
    Image.open(path[names[0]]).rotate(90, expand=True).save(path[names[20]])
    records[1]["input"] = records[13]["input"] = records[21]["input"] = "A plan of 3 courses."
    train, val = write_lines(tmp_path / "train.jsonl", records[:12]), write_lines(tmp_path / "val.jsonl", records[12:18])
    test = write_lines(tmp_path / "test.jsonl", records[18:])
    data = prepare(train, val, test)
    found = [(*row,) for row in across_splits(data)[["case", "split", "other", "other_split", "how"]].itertuples(index=False)]
    text = [("train", "val", 1, 13), ("train", "test", 1, 21), ("val", "test", 13, 21)]
    assert sorted(found) == sorted(
        [(names[one], split, names[other], their, "text") for split, their, one, other in text]
        + [(names[0], "train", names[20], "test", "twin")]
    )
    assert "Two splits have in common: templates (3 pairs), copies that are not equal (1 pairs)." in data.notes[1]
    Image.open(path[names[0]]).convert("RGB").save(path[names[14]])
    with pytest.raises(DataError) as error:
        prepare(train, val, test)
    assert f"the same image in train and val: {train}:1 ({names[0]}.png) and {val}:3 ({names[14]}.png)" in str(error.value)
    write_lines(val, [*records[12:18], records[2], records[3]])
    with pytest.raises(DataError, match=f"id {names[2]} stands in .*train.jsonl:3 too.*\n.*id {names[3]}"):
        prepare(train, val, test)


def test_problems_of_lines_and_of_images_come_together(tmp_path):
    file = write_project(tmp_path)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], "{", *lines[4:]]))
    names = [record["id"] for record in the_24()]
    (tmp_path / "images" / f"{names[5]}.png").write_bytes(b"no picture")
    whole = (tmp_path / "images" / f"{names[6]}.png").read_bytes()
    (tmp_path / "images" / f"{names[6]}.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as error:
        prepare(file)
    told = str(error.value)
    assert f"{file}:4: no JSON" in told and "scenarios: 3 problems" in told
    for place in (5, 6):
        assert f"{file}:{place + 1}: image_file: {names[place]}.png: unreadable or no JPEG or PNG" in told, told


def test_images_that_are_not_what_they_say_are_told(tmp_path):
    records = the_24()
    write_images(tmp_path / "images", records)
    names = [record["id"] for record in records]
    path = [tmp_path / "images" / f"{name}.png" for name in names]
    mask = np.zeros((48, 48), bool)
    mask[20:30, 15:30] = True
    dot = np.zeros((48, 48), bool)
    dot[9, 9:11] = True
    Image.fromarray(dot).save(path[18])
    Image.fromarray(mask * np.uint8(200)).convert("RGB").save(path[19])
    Image.fromarray(mask * np.uint8(255)).resize((384, 384), Image.Resampling.NEAREST).save(path[20], "JPEG", quality=75)
    dark = np.asarray(picture(80)) // 3  # a small picture on a wide black ground
    Image.fromarray(np.pad(dark, ((200, 200), (200, 200)))).save(path[21])
    Image.new("L", (40, 40), 7).save(path[0])
    Image.fromarray((np.random.default_rng(0).random((48, 48)) < 0.5).astype(np.uint8) + 100).save(path[1])
    picture(77, (48, 20)).save(path[2])
    clear = picture(78).convert("RGBA")
    clear.putalpha(0)
    clear.save(path[3])
    Image.fromarray(np.asarray(picture(79), np.uint16) * 16).save(path[4])
    data = prepare(write_lines(tmp_path / "a.jsonl", records))
    found = {name: data.facts[name].oddities for name in names if data.facts[name].oddities}
    assert found == {
        names[18]: ("1-bit mask",),
        names[19]: ("1-bit mask",),
        names[20]: ("1-bit mask", "another format than its ending"),
        names[0]: ("blank",),
        names[1]: ("blank",),
        names[2]: ("tiny",),
        names[3]: ("blank", "hidden by its alpha"),
        names[4]: ("16 bits", "nearly black"),
    }
    assert data.facts[names[0]].perceptual_hash == data.facts[names[1]].perceptual_hash == (), "nothing is a copy of nothing"
    assert "Images that are not what they say, 1-bit mask: 3: " in " ".join(data.notes)
    table = odd_images(data)
    assert len(table) == 11 and set(table.loc[table["oddity"] == "1-bit mask", "modality"]) == {"ultrasound"}
    assert statistics(data)["all"]["oddity"]["blank"] == 3


def test_images_are_read_once_and_known_again(tmp_path, monkeypatch):
    records = the_24()[:8]
    for record in records[1::2]:
        record["image_file"] = records[0]["image_file"]
    write_images(tmp_path / "images", records[::2])
    file = write_lines(tmp_path / "a.jsonl", records)
    before = prepare(file)
    assert len({fact.voxels_sha256 for fact in before.facts.values()}) == 4
    (entry,) = (tmp_path / "cache" / "scenarios").iterdir()
    content = json.dumps(known_record(entry)).replace(before.facts[records[2]["id"]].voxels_sha256, "f" * 64)
    keep_record(entry, json.loads(content))
    picture(99, (64, 64)).save(tmp_path / "images" / records[4]["image_file"])
    after = prepare(file)
    assert after.facts[records[2]["id"]].voxels_sha256 == "f" * 64, "not read again"
    changed = {name for name in after.facts if after.facts[name].voxels_sha256 != before.facts[name].voxels_sha256}
    assert changed == {records[2]["id"], records[4]["id"]}
    assert after.digest != before.digest


def test_the_digest_is_of_pixels_texts_and_answers(project):
    data = prepare(project / "scenarios.jsonl")
    first = the_24()[0]
    for changed in (
        {"output": "CORRECT - x"},
        {"input": "Other."},
        {"instruction": "Other."},
        {"image_file": the_24()[1]["image_file"]},
    ):
        file = write_lines(project / "other.jsonl", [{**first, **changed}, *the_24()[1:]])
        assert prepare(file).digest != data.digest
    file = write_lines(project / "other.jsonl", [{**first, "image_path": "elsewhere"}, *the_24()[1:]])
    assert prepare(file).digest == data.digest


def test_a_family_is_called_after_what_it_shows(tmp_path):
    """So that nobody takes another data set's scenario of that name for one that was learned from."""
    one = prepare(write_project(tmp_path / "one"))
    write_images(tmp_path / "two" / "images", the_24(), first=500)
    two = prepare(write_lines(tmp_path / "two" / "scenarios.jsonl", the_24()))
    assert not {*one.manifest["patient"]} & {*two.manifest["patient"]}
    assert all(name.startswith(case) for name, case in zip(one.manifest["patient"], one.manifest["case"], strict=True))


def test_exif_says_which_side_is_up(tmp_path):
    records = the_24()
    write_images(tmp_path / "images", records)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    shown = picture(3)
    for record, image, extra in ((records[3], shown, {}), (records[10], shown.rotate(90, expand=True), {"exif": exif})):
        image.save(tmp_path / "images" / record["image_file"], **extra)
    data = prepare(write_lines(tmp_path / "a.jsonl", records))
    one, two = (data.facts[record["id"]] for record in (records[3], records[10]))
    assert one.voxels_sha256 == two.voxels_sha256
    assert data.cases[one.case].family == data.cases[two.case].family


def test_scenarios_of_one_family_alone_cannot_be_split(tmp_path):
    records = [scenario(name, "mri", name == "a", image_file="a.png") for name in "ab"]
    write_images(tmp_path, records[:1])
    with pytest.raises(DataError, match="all 2 are one family"):
        prepare(write_lines(tmp_path / "a.jsonl", records))


def test_copies_that_are_too_many_to_be_families_are_told_of_for_intervals_do_not_know_them(tmp_path: Path) -> None:
    records, rng = the_24(), np.random.default_rng(0)
    file = write_project(tmp_path, records)
    assert not any("too narrow" in note for note in prepare_scenarios([file], None, cache=tmp_path / "cache").notes)
    for record in records[:18]:
        noisy = np.asarray(picture(0), float) + rng.normal(0, 1, np.asarray(picture(0)).shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file.parent / "images" / record["image_file"])
    made = prepare_scenarios([file], None, cache=tmp_path / "cache")
    assert made.manifest["patient"].nunique() == 24
    assert any(note.startswith(f"{18 * 17 // 2} pairs of images") and "too narrow" in note for note in made.notes)
