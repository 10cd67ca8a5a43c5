"""The leak guard over real packages in a real registry."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from medexp import registry
from medexp.checks import Check, Severity
from medexp.data.manifest import patient_sha256
from medexp.errors import RegistryError
from medexp.registry.definitions import load_definition
from medexp.registry.leaks import leak_check, unknown_check
from medexp.registry.package import Parent
from medexp.registry.packages import SPLIT_CASES
from medexp.registry.registration import register
from medexp.registry.store import Pulled, Registered
from tests.packages import ENCODER, SEGMENTER

ENCODER_MODEL, BASE_MODEL = "phase1_encoder_merged", "bsf_base"
Make = Callable[..., Registered]


def seen(**splits: str) -> pd.DataFrame:
    """`cases.csv` of patients such as `train="p1 p2"`; a patient's scan has the voxels `v-<patient>`."""
    rows = [(split, patient_sha256(name), f"v-{name}", "") for split, names in splits.items() for name in names.split()]
    return pd.DataFrame(rows, columns=["split", "patient_sha256", "voxels_sha256", "perceptual_hash"])


def held_out(**voxels: str) -> pd.DataFrame:
    """A downstream test set: one case a patient, with its voxels."""
    return pd.DataFrame(
        [(f"{name}-0", name, f"{name}-0", digest, ()) for name, digest in voxels.items()],
        columns=["case", "patient", "scan", "voxels_sha256", "perceptual_hash"],
    )


def parent(made: Registered) -> Parent:
    return Parent(made.name, made.version, made.digest, made.weights_digest)


@pytest.fixture
def make(store: MlflowClient, written: Callable[..., Path]) -> Make:
    """Registers a model with the cases that it saw and its parents."""

    def made(name: str, cases: pd.DataFrame | None, **parents: Parent) -> Registered:
        shape = SEGMENTER if name == BASE_MODEL else ENCODER
        folder = written(name=name, architecture=shape, cases=cases, parents=parents)
        return register(store.create_run("0").info.run_id, folder, load_definition(name), "PASSED")

    return made


def pulled(made: Registered) -> Pulled:
    return registry.pull(f"models:/{made.name}/{made.version}")


def check(made: Registered, cases: pd.DataFrame) -> Check:
    return leak_check(pulled(made), cases)


@pytest.fixture
def encoder(make: Make) -> Registered:
    base = make(BASE_MODEL, seen(train="g1 g2", test="g3"))
    return make(ENCODER_MODEL, seen(train="m1", val="m2", test="m3"), base=parent(base))


def test_new_patients_pass(encoder: Registered) -> None:
    found = check(encoder, held_out(n1="a", n2="b"))
    assert (found.id, found.severity, found.passed) == ("LEAK", Severity.BLOCKING, True)
    assert found.measured == {"patients": 2, "leaked_patients": 0}
    assert "phase1_encoder_merged version 1, bsf_base version 1" in found.threshold


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        (held_out(m1="new"), "m1 by phase1_encoder_merged version 1"),
        (held_out(m2="new"), "m2 by phase1_encoder_merged version 1"),
        (held_out(g2="new"), "g2 by bsf_base version 1"),
        (held_out(other="v-m1"), "other (the voxels of case other-0) by phase1_encoder_merged version 1"),
        (held_out(other="v-g1"), "other (the voxels of case other-0) by bsf_base version 1"),
        (held_out(m1="v-g1"), "m1 by phase1_encoder_merged version 1; m1 (the voxels of case m1-0) by bsf_base version 1"),
    ],
)
def test_a_patient_that_was_learned_from_is_named_with_the_model(encoder: Registered, cases: pd.DataFrame, told: str) -> None:
    found = check(encoder, pd.concat([held_out(n1="a"), cases]))
    assert found.blocks
    assert found.measured == {"patients": 2, "leaked_patients": 1, "seen": told}


def test_what_was_held_back_may_be_tested_on(encoder: Registered) -> None:
    assert check(encoder, held_out(m3="v-m3", g3="v-g3")).passed


def test_what_a_model_was_selected_on_may_be_validated_on(encoder: Registered) -> None:
    """Validation cases of a model that is built on it: its training cases alone count, its ancestors' too."""
    alone = leak_check(pulled(encoder), held_out(m2="v-m2", m3="v-m3"), learned=("train",))
    assert alone.passed and "in training of phase1_encoder_merged version 1" in alone.threshold
    assert "validation" not in alone.threshold
    found = leak_check(pulled(encoder), held_out(m1="new", m2="v-m2", other="v-g2"), learned=("train",))
    assert found.measured["leaked_patients"] == 2
    assert "m1 by phase1_encoder_merged version 1" in str(found.measured["seen"])
    assert "other (the voxels of case other-0) by bsf_base version 1" in str(found.measured["seen"])
    assert not check(encoder, held_out(m2="v-m2")).passed, "a test set is another matter"


def test_models_beside_it_are_asked_too_and_once(make: Make, encoder: Registered) -> None:
    head = make(ENCODER_MODEL, seen(train="h1"), encoder=Parent("best.pt", None, None, "abc"))
    assert check(head, held_out(m1="x")).passed
    found = leak_check(pulled(head), held_out(m1="x", g1="y"), beside=[pulled(encoder), pulled(encoder)])
    assert found.measured["leaked_patients"] == 2
    assert "m1 by phase1_encoder_merged version 1" in str(found.measured["seen"])
    assert "g1 by bsf_base version 1" in str(found.measured["seen"])
    assert "best.pt, which is not registered," in str(found.measured["unknown"])
    assert found.threshold.count("phase1_encoder_merged version 1") == 1


def test_of_a_network_that_is_not_registered_it_is_said_that_nobody_knows() -> None:
    found = unknown_check("best_model.pt", held_out(m1="a", m2="b"))
    assert (found.id, found.passed, found.blocks) == ("LEAK", True, False)
    assert found.measured == {"patients": 2, "leaked_patients": 0, "unknown": "best_model.pt"}
    assert "unknown: what best_model.pt was trained on" in found.threshold


def test_all_scans_of_a_patient_count_once(encoder: Registered) -> None:
    twice = pd.concat([held_out(m1="a"), held_out(m1="b").assign(case="m1-1")])
    assert check(encoder, twice).measured["seen"] == "m1 by phase1_encoder_merged version 1"


def test_many_patients_are_counted_and_the_first_named(make: Make) -> None:
    names = [f"p{number:02}" for number in range(30)]
    model = make(ENCODER_MODEL, seen(train=" ".join(names)))
    found = check(model, held_out(**dict.fromkeys(names, "x")))
    assert found.measured["leaked_patients"] == 30
    assert "p19 by" in str(found.measured["seen"])
    assert "p20" not in str(found.measured["seen"])
    assert str(found.measured["seen"]).endswith("and 10 more")


def test_ancestors_of_ancestors_are_read_and_one_of_two_ways_once(make: Make) -> None:
    first = parent(make(BASE_MODEL, seen(train="g1")))
    second = parent(make(BASE_MODEL, seen(train="g2"), base=first))
    model = make(ENCODER_MODEL, seen(train="m1"), base=second, encoder=first)
    found = check(model, held_out(g1="x"))
    assert found.measured["seen"] == "g1 by bsf_base version 1"
    assert found.threshold.count("bsf_base version 1") == 1


def test_of_an_ancestor_the_cases_count_of_what_was_taken_over_from_it(
    make: Make, written: Callable[..., Path], tmp_path: Path, store: MlflowClient
) -> None:
    """As phase 2.3 takes the head of the training split alone from a classifier that was then trained on all cases."""
    apart = tmp_path / "split.csv"
    seen(train="h1", val="h2").to_csv(apart, index=False)
    folder = written(name=ENCODER_MODEL, architecture=ENCODER, cases=seen(train="h1 h2"), extra={SPLIT_CASES: apart})
    whole = parent(register(store.create_run("0").info.run_id, folder, load_definition(ENCODER_MODEL), "PASSED"))
    joint = make(ENCODER_MODEL, seen(train="m1"), classifier=replace(whole, cases=SPLIT_CASES))
    grandchild = make(ENCODER_MODEL, seen(train="n1"), encoder=parent(joint))
    for made in (joint, grandchild):
        assert leak_check(pulled(made), held_out(h2="x"), learned=("train",)).passed
        assert not leak_check(pulled(made), held_out(h1="x"), learned=("train",)).passed
        assert not check(made, held_out(h2="x")).passed, "it was selected on them"
    assert not leak_check(pulled(make(ENCODER_MODEL, seen(train="m1"), head=whole)), held_out(h2="x"), ("train",)).passed
    both = make(ENCODER_MODEL, seen(train="m2"), encoder=parent(joint), head=whole)
    found = leak_check(pulled(both), held_out(h2="x"), learned=("train",))
    assert not found.passed and found.threshold.count(f"{ENCODER_MODEL} version 1") == 1


@pytest.mark.parametrize(
    ("base", "told"),
    [
        (Parent("weights.pt", None, None, "abc"), "weights.pt, which is not registered,"),
        (Parent(BASE_MODEL, "7", "d", "abc"), "bsf_base version 7, which is not registered any more,"),
        (Parent("gone", "1", "d", "abc"), "gone version 1, which is not registered any more,"),
        (
            Parent(BASE_MODEL, "1", "0123456789abcdef", "abc"),
            "bsf_base version 1 of digest 0123456789ab, whose number another",
        ),
    ],
)
def test_an_ancestor_of_which_nothing_is_known_is_named_and_does_not_fail(make: Make, base: Parent, told: str) -> None:
    make(BASE_MODEL, seen(train="g1"))
    found = check(make(ENCODER_MODEL, seen(train="m1"), base=base), held_out(g1="x"))
    assert found.passed
    assert str(found.measured["unknown"]).startswith(told)
    assert f"unknown: what {told}" in found.threshold


def a_hash(seed: int) -> tuple[str, ...]:
    return (np.random.default_rng(seed).bytes(128).hex(),) * 2


def with_hashes(cases: pd.DataFrame, hashes: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    return cases.assign(perceptual_hash=list(hashes))


def test_a_copy_of_what_was_learned_from_is_found_and_no_other_case_is(make: Make) -> None:
    """Under another patient's name, and with other voxels: nothing but the hash tells."""
    learned = seen(train="m1 m2", val="m3").assign(perceptual_hash=[" ".join(a_hash(seed)) for seed in range(3)])
    made = make(ENCODER_MODEL, learned)
    found = check(made, with_hashes(held_out(n1="x", n2="y"), [a_hash(1), a_hash(7)]))
    assert not found.passed
    assert found.measured["leaked_patients"] == 1
    assert found.measured["seen"] == "n1 (a copy of case n1-0, saved anew or mirrored) by phase1_encoder_merged version 1"
    assert check(made, with_hashes(held_out(n1="x", n2="y"), [a_hash(8), a_hash(7)])).passed


def test_slices_are_copies_where_most_of_a_scan_are(make: Make) -> None:
    learned = seen(train=" ".join(["m1"] * 10)).assign(perceptual_hash=[" ".join(a_hash(seed)) for seed in range(10)])
    made = make(ENCODER_MODEL, learned)
    scan = held_out(**{f"n{slice_}": "x" for slice_ in range(10)}).assign(scan="n", patient="n")
    assert not check(made, with_hashes(scan, [a_hash(seed) for seed in (*range(8), 20, 21)])).passed
    assert check(made, with_hashes(scan, [a_hash(seed) for seed in (*range(3), *range(20, 27))])).passed
    assert check(made, with_hashes(held_out(picture="x"), [a_hash(0)])).passed, "one slice is like that of any head"


@pytest.mark.parametrize("hashes", [None, "0f" * 864], ids=["none", "of another length"])
def test_a_package_without_hashes_is_named(make: Make, hashes: str | None) -> None:
    """As those that an older medexp wrote."""
    learned = seen(train="m1").drop(columns="perceptual_hash")
    learned = learned if hashes is None else learned.assign(perceptual_hash=hashes)
    found = check(make(ENCODER_MODEL, learned), with_hashes(held_out(n1="x"), [a_hash(0)]))
    assert found.passed
    assert "copies were not looked for in phase1_encoder_merged version 1" in found.threshold
    assert found.measured["no_copies_looked_for_in"] == "phase1_encoder_merged version 1"


def test_a_model_without_its_cases_is_named(make: Make) -> None:
    base = make(BASE_MODEL, None)
    found = check(make(ENCODER_MODEL, None, base=parent(base)), held_out(g1="x"))
    assert found.passed
    assert found.measured["unknown"] == "phase1_encoder_merged version 1; bsf_base version 1"


def test_an_altered_ancestor_is_no_unknown_one(encoder: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Path(mlflow.artifacts.download_artifacts(f"models:/{BASE_MODEL}/1"))  # a local store hands out its own files
    (cases,) = stored.rglob("artifacts/package/cases.csv")
    cases.write_text("split,patient_sha256,voxels_sha256\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(RegistryError, match=r"cases\.csv was altered"):
        check(encoder, held_out(g1="x"))


def test_patients_are_not_in_the_package(encoder: Registered) -> None:
    folder = registry.pull(f"models:/{encoder.name}/{encoder.version}").folder
    assert "m1" not in (folder / "cases.csv").read_text().split(",")
    assert json.loads((folder / "parents.json").read_text())["base"]["name"] == BASE_MODEL
