"""What is written of predictions, and read again."""

import json
from pathlib import Path
from typing import Any

import pytest

from medexp.errors import ConfigError, DataError
from medexp.phases.predict.written import CLAIM, claim, record_of, write_record
from medexp.registry.predictors import Prediction

RECORD = {"case": "a", "patient": "p", "scores": {"label": 1}, "outside": []}


@pytest.mark.parametrize(
    "case", ["x/../a", "./a", "a//b", "../a", "/a", "", ".", "..", "a/", "a" * 201, "\udce9", "\0", "predictions"]
)
def test_an_id_that_names_no_file_or_that_of_another_one_is_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(DataError, match="is no name of a file in the output; give another id"):
        record_of(tmp_path, case)


@pytest.mark.parametrize(
    "case", ["-x", "né w\nline", 'q"u,o', "predictions.csv", "features", "yes/a.png", "..a", "sub/predictions"]
)
def test_an_odd_id_names_its_sidecar(tmp_path: Path, case: str) -> None:
    record = RECORD | {"case": case}
    write_record(tmp_path, Prediction(case, probabilities={"one": 0.1, "other": 0.9}), record)
    assert record_of(tmp_path, case) == record | {"probabilities": {"one": 0.1, "other": 0.9}}


def test_a_sidecar_that_was_altered_is_told(tmp_path: Path) -> None:
    write_record(tmp_path, Prediction("a", probabilities={"one": 0.1, "other": 0.9}), RECORD)
    whole = (tmp_path / "a.json").read_text()
    edited = [whole.replace("0.9", "0.4"), whole.replace('"scores"', '"scoring"'), whole[:-20], "[]", "{}", "null", ""]
    for number, text in enumerate(edited):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DataError, match="is not what was written there; remove it"):
            record_of(tmp_path, "a")
        assert text != whole, number
    (tmp_path / "b.json").write_text(whole)
    with pytest.raises(DataError, match="case b"):
        record_of(tmp_path, "b")
    assert "seal" in json.loads(whole)


def test_of_two_models_that_claim_a_new_folder_at_once_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def meanwhile(path: Path, *given: Any, **named: Any) -> int:
        monkeypatch.setattr(Path, "write_text", write)
        claim(tmp_path / "new", [], {"model": "first"})
        return write(path, *given, **named)

    monkeypatch.setattr(Path, "write_text", meanwhile)
    with pytest.raises(ConfigError, match="holds other predictions: model: first there, second now"):
        claim(tmp_path / "new", [], {"model": "second"})
    assert [path.name for path in (tmp_path / "new").iterdir()] == [CLAIM]
    claim(tmp_path / "new", [], {"model": "first"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model"'])
def test_a_damaged_claim_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / CLAIM).write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        claim(tmp_path, [], {"model": "m"})
