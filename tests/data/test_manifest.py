from medexp.data.manifest import data_digest
from medexp.data.splits import Splits
from medexp.data.volumes.prepared import manifest, semantic
from medexp.data.volumes.semantics import SEMANTIC_FEATURES
from tests.data.volumes.small_cases import a_case, a_fact

CASES = [a_case(name, name[0]) for name in ("c-0", "a-0", "b-0")]
FACTS = [a_fact("a-0", "one"), a_fact("b-0", "two"), a_fact("c-0", "one")]
SPLITS = Splits(("a-0", "c-0"), ("b-0",), ())


def table(facts=FACTS, splits=SPLITS):
    return manifest(CASES, facts, splits, semantic)


def test_one_row_a_case_with_its_split_and_its_original():
    found = table()
    assert found["case"].tolist() == ["a-0", "b-0", "c-0"]
    assert found["patient"].tolist() == ["a", "b", "c"]
    assert found["split"].tolist() == ["train", "val", "train"]
    assert found["duplicate_of"].tolist() == ["", "", "a-0"]
    assert found[["x", "y", "z", "spacing_x", "spacing_y", "spacing_z"]].iloc[0].tolist() == [2, 3, 4, 1, 1, 2]
    assert found.columns.tolist()[-10:] == list(SEMANTIC_FEATURES)


def test_digests_fit_mlflow_and_change_with_a_case_alone():
    found = table()
    assert len(data_digest(found)) == len(data_digest(found[found["split"] == "train"])) == 32
    assert data_digest(found) == data_digest(table(FACTS[::-1])) == data_digest(found.sample(frac=1, random_state=1))
    moved = table(splits=Splits(("a-0",), ("b-0", "c-0"), ()))
    assert data_digest(moved) == data_digest(found)
    assert data_digest(moved[moved["split"] == "train"]) != data_digest(found[found["split"] == "train"])
    changed = table([a_fact("a-0", "other"), *FACTS[1:]])
    assert data_digest(changed) != data_digest(found)
    assert data_digest(changed[changed["split"] == "val"]) == data_digest(found[found["split"] == "val"])
    assert data_digest(found[found["split"] == "test"]) != data_digest(found)
