"""Folds: each case in one of them, nobody in two, whatever the patients are; and cases that are in folds."""

from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.data.folds import draw_folds, thirds
from medexp.data.prepared import Prepared
from medexp.data.splits import Splits
from tests.data.volumes.small_cases import a_case, a_fact

patients = st.lists(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4), min_size=5, max_size=25)
"""The labels of each patient's cases."""


def cases_of(labels: list[list[str]]) -> tuple[list[list[str]], dict[str, str]]:
    strata = {f"p{who:02d}-{scan}": label for who, scans in enumerate(labels) for scan, label in enumerate(scans)}
    return [[f"p{who:02d}-{scan}" for scan in range(len(scans))] for who, scans in enumerate(labels)], strata


@settings(max_examples=60, deadline=None)
@given(labels=patients, count=st.integers(2, 5), seed=st.integers(0, 99))
def test_each_case_is_in_one_fold_and_no_patient_in_two(labels: list[list[str]], count: int, seed: int) -> None:
    groups, strata = cases_of(labels)
    found = draw_folds(groups, strata, count, seed)
    assert found.keys() == strata.keys() and {*found.values()} <= {*range(1, count + 1)}
    assert all(len({found[case] for case in group}) == 1 for group in groups)
    assert draw_folds([group[::-1] for group in reversed(groups)], strata, count, seed) == found


def test_another_seed_gives_other_folds_and_labels_are_spread_over_them() -> None:
    groups, strata = cases_of([["a"]] * 30 + [["b"]] * 10)
    first, other = (draw_folds(groups, strata, 5, seed) for seed in (0, 1))
    assert first != other
    counts = pd.crosstab(pd.Series(first), pd.Series(strata))
    assert counts.to_numpy().tolist() == [[6, 2]] * 5


def test_cases_in_folds_are_all_trained_on_and_a_fold_judges_its_own_alone() -> None:
    splits = Splits(("a", "b", "c"), ("d", "e"), ("f",))
    split_of = {case: name for name in ("train", "val", "test") for case in getattr(splits, name)}
    manifest = pd.DataFrame({"case": [*"abcdef"], "split": [split_of[case] for case in "abcdef"], "sha256": [*"abcdef"]})
    cases, facts = {case: a_case(case, case) for case in "abcdef"}, {case: a_fact(case, case) for case in "abcdef"}
    data: Prepared[Any, Any] = Prepared(cases, facts, splits, manifest, "letters")
    assert data.folds == 0
    whole = data.in_folds({"b": 1, "c": 2, "d": 1, "e": 2})  # what it builds on was trained on a
    assert (whole.folds, whole.ids("train"), whole.ids("val")) == (2, (*"abcde",), (*"bcde",))
    assert list(whole.rows("val")["fold"]) == [1, 2, 1, 2] and list(whole.rows("test")["case"]) == ["f"]
    assert list(whole.manifest["split"]) == ["train"] * 5 + ["test"]
    first = whole.fold(1)
    assert (first.folds, first.ids("train"), first.ids("val"), first.ids("test")) == (0, (*"ace",), (*"bd",), ("f",))
    assert list(first.rows("val")["case"]) == ["b", "d"] and list(np.unique(first.rows("train")["split"])) == ["train"]
    assert whole.digests["val"] != data.digests["val"] and whole.digest == data.digest


@given(values=st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from([0.0, 1.0, 2.5, 7.0, 9.0]), min_size=1))
def test_thirds_are_of_like_size_and_none_of_a_larger_one_is_smaller(values: dict[str, float]) -> None:
    found = pd.DataFrame({"value": values, "third": thirds(values)})
    counts = found["third"].value_counts().reindex(["small", "medium", "large"], fill_value=0)
    assert counts.max() - counts.min() <= 1
    ends = found.groupby("third")["value"].agg(["min", "max"]).reindex(counts.index).dropna()
    assert all(ends["max"].to_numpy()[:-1] <= ends["min"].to_numpy()[1:])
