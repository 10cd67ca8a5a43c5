"""What mode=utility hands to the training of an adapter."""

from pathlib import Path

import numpy as np
import pytest

from medexp.data.pairs.facts import PairFacts
from medexp.data.pairs.prepared import PreparedPairs, lesions
from medexp.data.splits import Splits
from medexp.data.volumes.cases import Case
from medexp.data.volumes.prepared import manifest
from medexp.evaluation.synthesis import Pairs
from medexp.phases.phase7.segmenters import half_of
from medexp.phases.phase7.utility import of_cases, of_people


def fact(case: str, voxels: str, synthetic: bool = False) -> PairFacts:
    return PairFacts(case, f"sha {case}", voxels, (8, 8, 8), (1, 1, 1), (), {}, synthetic, (1,), 1, 1, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def data() -> PreparedPairs:
    """Eight patients, the first with two scans, the second and the third the same scan; a synthetic pair."""
    ids = ["p0-a", "p0-b", *(f"p{number}-a" for number in range(1, 8)), "made"]
    cases = [Case(one, one.split("-")[0], (Path(f"{one}.nii"),), Path(f"{one}_mask.nii")) for one in ids]
    facts = {one: fact(one, "same" if one in ("p1-a", "p2-a") else one, one == "made") for one in ids}
    splits = Splits(tuple(sorted([*ids[:6], "made"])), ("p5-a",), ("p6-a", "p7-a"))
    return PreparedPairs(
        {case.id: case for case in cases}, facts, splits, manifest(cases, facts.values(), splits, lesions), "eight"
    )


def test_an_adapter_of_a_half_is_given_nobody_else(data: PreparedPairs) -> None:
    half = of_cases(data, ["p3-a", "p0-a", "p0-b"])
    assert half.ids("train") == ("p0-a", "p0-b", "p3-a") and half.ids("val") == ("p5-a",) and half.ids("test") == ()
    known = {"p0-a", "p0-b", "p3-a", "p5-a"}
    assert set(half.cases) == set(half.facts) == set(half.manifest["case"]) == known, "nothing of the others can be reached"
    assert half.digest != data.digest


def test_copies_under_two_names_are_one_patient_when_patients_are_halved(data: PreparedPairs) -> None:
    cases = [case for case in data.ids("train") if not data.facts[case].synthetic]
    pairs = Pairs(
        np.zeros((6, 1, 1, 1), np.float32), np.zeros((6, 1, 1, 1), bool), [data.cases[case].patient for case in cases]
    )
    people = of_people(pairs, cases, data)
    assert list(people.patients) == ["p0", "p0", "p1", "p1", "p3", "p4"]
    for seed in range(8):
        half = half_of(cases, people.patients, seed)
        assert len({"p1-a", "p2-a"} & set(half)) != 1 and len({"p0-a", "p0-b"} & set(half)) != 1
