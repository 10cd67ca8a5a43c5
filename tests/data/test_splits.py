import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.data.splits import Splits, load_splits, make_splits, patient_of, save_splits, unnamed
from medexp.errors import DataError
from tests.data.volumes.small_cases import a_case, a_fact
from tests.small import data_config


@st.composite
def data_sets(draw):
    """Cases of a few patients, some of them exact duplicates of others."""
    names = [f"p{patient}-{scan}" for patient in range(draw(st.integers(1, 14))) for scan in range(draw(st.integers(1, 3)))]
    cases = [a_case(name, name.split("-")[0]) for name in names]
    distinct = draw(st.integers(1, 2 * len(cases)))
    facts = [a_fact(case.id, f"v{draw(st.integers(0, distinct))}") for case in cases]
    return cases, facts


fractions = st.tuples(st.floats(0.01, 0.6), st.floats(0, 0.39))


def config(val=0.3, test=0.15):
    return data_config(val_fraction=val, test_fraction=test)


def parts(splits):
    return [set(splits.train), set(splits.val), set(splits.test)]


@given(data=data_sets(), share=fractions, seed=st.integers(0, 2**32 - 1), shuffled=st.randoms(use_true_random=False))
def test_no_patient_and_no_duplicate_is_ever_in_two_splits(data, share, seed, shuffled):
    cases, facts = data
    try:
        splits = make_splits(cases, facts, config(*share), seed)
    except DataError as error:
        assert "need a patient each" in str(error)
        assert connected(cases, facts)
        return
    assert not connected(cases, facts)
    assert splits.train and splits.val
    assert sorted(splits.train + splits.val + splits.test) == sorted(case.id for case in cases)
    assert all(names == tuple(sorted(names)) for names in (splits.train, splits.val, splits.test))
    voxels = {fact.case: fact.voxels_sha256 for fact in facts}
    for one in cases:
        for other in cases:
            if one.patient == other.patient or voxels[one.id] == voxels[other.id]:
                assert splits.of(one.id) == splits.of(other.id)
    cases_again, facts_again = shuffled.sample(cases, len(cases)), shuffled.sample(facts, len(facts))
    assert make_splits(cases_again, facts_again, config(*share), seed) == splits


def connected(cases, facts):
    """Whether all patients hang together through duplicates, by growing one group until it stops."""
    voxels = {fact.case: fact.voxels_sha256 for fact in facts}
    group = {cases[0].id}
    while True:
        patients = {case.patient for case in cases if case.id in group}
        seen = {voxels[name] for name in group}
        grown = {case.id for case in cases if case.patient in patients or voxels[case.id] in seen}
        if grown == group:
            return len(group) == len(cases)
        group = grown


def patients(count):
    cases = [a_case(f"p{i:02d}-0", f"p{i:02d}") for i in range(count)]
    return cases, [a_fact(case.id, case.id) for case in cases]


@pytest.mark.parametrize(
    ("count", "sizes"), [(2, (1, 1, 0)), (3, (2, 1, 0)), (4, (2, 1, 1)), (10, (5, 3, 2)), (20, (11, 6, 3)), (40, (22, 12, 6))]
)
def test_sizes_follow_the_fractions_and_test_goes_empty_first(count, sizes):
    splits = make_splits(*patients(count), config(), seed=0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == sizes


def test_another_seed_is_another_split():
    assert len({make_splits(*patients(20), config(), seed=seed) for seed in range(5)}) == 5


def test_a_single_patient_cannot_be_split():
    cases = [a_case(f"p-{scan}", "p") for scan in range(3)]
    with pytest.raises(DataError, match=r"a single patient \(p\) in 3 cases.*data.patient_pattern"):
        make_splits(cases, [a_fact(case.id, case.id) for case in cases], config(), seed=0)


def test_patients_who_are_all_duplicates_cannot_be_split():
    cases, _ = patients(3)
    with pytest.raises(DataError, match="3 patients who share exact duplicates"):
        make_splits(cases, [a_fact(case.id, "same") for case in cases], config(), seed=0)


CASES = [a_case(name, name.split("-")[0]) for name in ("a-0", "a-1", "b-0", "c-0", "d-0")]
FACTS = [a_fact(case.id, "twin" if case.id in ("c-0", "d-0") else case.id) for case in CASES]
GOOD = {"train": ["a-1", "a-0"], "val": ["b-0"], "test": ["c-0", "d-0"]}


def load(tmp_path, content):
    path = tmp_path / "data_splits.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_splits(path, CASES, FACTS)


def test_a_file_is_read_as_it_stands(tmp_path):
    assert load(tmp_path, GOOD) == Splits(("a-0", "a-1"), ("b-0",), ("c-0", "d-0"))


def test_test_may_be_absent(tmp_path):
    assert load(tmp_path, {"train": ["a-0", "a-1"], "val": ["b-0", "c-0", "d-0"]}).test == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["no JSON"]),
        ("[]", ["found a list", '{"train": [ID, ...]']),
        (GOOD | {"validation": []}, ["unknown key 'validation'"]),
        ({"train": ["a-0"]}, ["no key 'val'"]),
        (GOOD | {"val": "b-0"}, ["'val' is no list of case names"]),
        (GOOD | {"val": [1]}, ["'val' is no list of case names"]),
        (GOOD | {"val": ["b-0", "nobody"]}, ["unknown cases nobody"]),
        (GOOD | {"train": ["a-0"]}, ["in no split: a-1", "data.exclude"]),
        (GOOD | {"val": ["b-0", "b-0"]}, ["case b-0 is listed 2 times (val, val)"]),
        (GOOD | {"val": ["b-0", "a-0"]}, ["case a-0 is listed 2 times (train, val)", "patient a in two splits"]),
        (GOOD | {"train": ["a-0"], "val": ["a-1", "b-0"]}, ["patient a in two splits: a-0 in train, a-1 in val"]),
        (GOOD | {"val": ["b-0", "d-0"], "test": ["c-0"]}, ["exact duplicates in two splits: c-0 in test, d-0 in val"]),
        (GOOD | {"val": [], "train": ["a-0", "a-1", "b-0"]}, ["val is empty"]),
        (GOOD | {"train": [], "val": ["a-0", "a-1", "b-0"]}, ["train is empty"]),
        (
            {"train": ["a-0", "x"], "val": ["a-1"]},
            ["3 problems", "unknown cases x", "in no split: b-0, c-0, d-0", "patient a"],
        ),
    ],
)
def test_a_bad_file_is_one_error_with_all_its_problems(tmp_path, content, words):
    with pytest.raises(DataError) as error:
        load(tmp_path, content)
    for expected in (str(tmp_path / "data_splits.json"), *words):
        assert expected in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="nowhere.json: cannot be read"):
        load_splits(tmp_path / "nowhere.json", CASES, FACTS)


@given(seed=st.integers(0, 99))
def test_what_was_drawn_can_be_saved_and_loaded(tmp_path_factory, seed):
    drawn = make_splits(CASES, FACTS, config(), seed)
    path = tmp_path_factory.mktemp("splits") / "new" / "data_splits.json"
    save_splits(drawn, path)
    assert load_splits(path, CASES, FACTS) == drawn
    assert [p.name for p in path.parent.iterdir()] == ["data_splits.json"]


NAME = st.text("abcXYZ019", min_size=1, max_size=5)


@given(
    st.lists(NAME, min_size=3, max_size=8, unique=True),
    st.sampled_from("_-"),
    st.sampled_from(["ses1", "T1", "3", "followup"]),
)
def test_what_is_advised_for_names_of_another_scheme_finds_the_patients(patients, mark, visit):
    """Time points in a naming scheme that nobody foresaw, two a patient: the advice says how many patients it makes."""
    scans = [f"{patient}{mark}{which}" for patient in patients for which in ("base", visit)]
    told = unnamed("data", scans, r"^(BraTS-[A-Za-z]+-\d+)-\d+$")
    assert f"finds a patient in none of {len(scans)} names" in told
    advised = dict(re.findall(r"-P 'data\.patient_pattern=(.*?)' makes (\d+)", told))
    assert advised and all(len({*map(patient_of(pattern), scans)}) == int(count) for pattern, count in advised.items())
    assert str(len(patients)) in advised.values()


def test_a_case_of_no_split():
    with pytest.raises(KeyError):
        Splits(("a",), ("b",), ()).of("c")
