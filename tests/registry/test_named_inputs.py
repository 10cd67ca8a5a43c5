"""A network with three inputs of three types, whose kind is a folder beside medexp's own: registered, loaded, promoted."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from medexp import models, registry
from medexp.checks import Check, Severity, verdict
from medexp.errors import RegistryError
from medexp.models.kinds import build
from medexp.registry.definitions import Definition, read_definition
from medexp.registry.package import Package
from medexp.registry.promotion import Nominated, champion_of, crown, judge, nominate, scores_of, try_out
from medexp.registry.registration import register
from medexp.registry.store import pull
from medexp.registry.writing import write_package

NAME = "answerer"
ARCHITECTURE = {"kind": "question", "vocabulary": 11, "answers": 3}
IMAGE = {"channels": ["mri"], "orientation": "none", "units": "standard deviations", "normalisation": "zero mean"}
WORDS = {"channels": [], "orientation": "none", "units": "none", "normalisation": "none"}
CONTENT = {
    "title": "Answers",
    "task": "Answers a question about an image",
    "intended_use": "tests",
    "producing_phase": "probe",
    "consumers": [],
    "required_checks": ["LEAK"],
    "input": {
        "ids": {"shape": ["B", "T"], "sizes": "any", "dtype": "int64", **WORDS},
        "mask": {"shape": ["B", "T"], "sizes": "as ids", "dtype": "bool", **WORDS},
        "pixels": {"shape": ["B", 1, "H", "W"], "sizes": "any", "dtype": "float32", **IMAGE},
    },
    "output": "answer: logits (B, answers); length: number of tokens (B,)",
    "promotion": {
        "metric": "right",
        "direction": "maximise",
        "regions": [],
        "margin": 0.01,
        "confidence": 0.95,
        "min_cases": 6,
        "no_champion": "promote",
    },
}
GIVEN = {
    "ids": np.array([[1, 2, 3], [4, 5, 0]]),
    "mask": np.array([[True, True, True], [True, True, False]]),
    "pixels": np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32),
}
Publish = Callable[..., Nominated]


@pytest.fixture(autouse=True)
def _kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(Path(__file__).parent / "kinds")])
    yield
    for module in [name for name in sys.modules if name.startswith("medexp.models.question")]:
        del sys.modules[module]


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    (tmp_path / f"{NAME}.yaml").write_text(yaml.safe_dump(CONTENT))
    return read_definition(tmp_path / f"{NAME}.yaml")


@pytest.fixture
def publish(store: MlflowClient, definition: Definition, tmp_path: Path) -> Publish:
    def make(seed: int = 0, right: float = 0.5, factor: float = 1, **changes: dict) -> Nominated:
        torch.manual_seed(seed)
        given = definition.input_as_records
        given["pixels"]["example_shape"] = [1, 1, 8, 8]
        given = {name: one | changes.get(name, {}) for name, one in given.items()}
        cases = [f"p{number}" for number in range(12)]
        made = Package(
            NAME,
            ARCHITECTURE,
            {"input": given, "output": definition.output},
            {key: value * factor for key, value in build(ARCHITECTURE).state_dict().items()},
            checks=[Check("LEAK", "", Severity.BLOCKING, True, "")],
            evaluation={"phase": "probe", "revision": 1, "split": "test", "data_digest": "d1", "made_on": "d0"},
            per_case=pd.DataFrame({"case": cases, "patient": cases, "right": right * np.linspace(0.9, 1, len(cases))}),
        )
        run = store.create_run("0").info.run_id
        folder = tmp_path / f"package_{run}"
        write_package(made, definition, folder)
        return nominate(register(run, folder, definition, "PASSED"), definition, "PASSED", run)

    return make


def test_its_signature_names_all_inputs_and_outputs_with_their_types(publish: Publish) -> None:
    publish()
    info = mlflow.models.get_model_info(f"models:/{NAME}/1")
    assert {spec.name: (spec.type.name, spec.shape) for spec in info.signature.inputs} == {
        "ids": ("int64", (-1, -1)),
        "mask": ("bool", (-1, -1)),
        "pixels": ("float32", (-1, 1, -1, -1)),
    }
    assert {spec.name: (spec.type.name, spec.shape) for spec in info.signature.outputs} == {
        "answer": ("float32", (-1, 3)),
        "length": ("int64", (-1,)),
    }


def test_what_its_kind_needs_beside_the_others_is_to_be_installed(publish: Publish) -> None:
    publish()
    named = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{NAME}/1")).read_text()
    assert "transformers==" in named and "torch==" in named


def test_both_ways_of_loading_agree(publish: Publish) -> None:
    publish()
    with torch.inference_mode():
        here = registry.load(f"models:/{NAME}@champion")(**{name: torch.from_numpy(value) for name, value in GIVEN.items()})
    found = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(GIVEN)
    assert set(found) == {"answer", "length"}
    np.testing.assert_array_equal(found["answer"], here["answer"].numpy())
    assert found["length"].tolist() == [3, 2] and found["length"].dtype == np.int64
    for name in GIVEN:
        with pytest.raises(MlflowException, match=name):
            mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict({key: GIVEN[key] for key in GIVEN if key != name})


def test_the_better_version_becomes_the_champion_and_one_that_does_not_run_is_moved_back(
    publish: Publish, definition: Definition, store: MlflowClient
) -> None:
    assert publish(0).aliases == ("candidate", "champion")
    publish(1, right=0.9)
    journal, stands = champion_of(NAME)
    champion, candidate = (pull(f"models:/{NAME}/{number}") for number in (stands, "2"))
    judgement = judge(definition, candidate, scores_of(champion), revision=1, samples=200, seed=0)
    assert verdict(judgement.checks) == "PASSED"
    crown(candidate, "better", judgement.evidence, None, journal.head)
    assert store.get_registered_model(NAME).aliases["champion"] == 2
    publish(2, right=1.0, factor=float("nan"))
    with pytest.raises(RegistryError, match=r"version 3 does not load: .*not finite.* version 2 is the champion"):
        crown(pull(f"models:/{NAME}/3"), "better still", {}, None, champion_of(NAME)[0].head)
    try_out(f"models:/{NAME}@champion")


def test_an_input_that_is_not_as_the_definition_says_is_named(publish: Publish) -> None:
    with pytest.raises(RegistryError, match=r"input\.mask\.dtype is 'int64', the definition says 'bool'"):
        publish(mask={"dtype": "int64"})


def test_all_that_is_wrong_with_named_inputs_is_named_at_once(tmp_path: Path) -> None:
    inputs = CONTENT["input"] | {"ids": {"shape": ["B", "T"], "dtype": 7, "colour": "red", "sizes": "any"}}
    (tmp_path / f"{NAME}.yaml").write_text(yaml.safe_dump(CONTENT | {"input": inputs}))
    with pytest.raises(RegistryError) as caught:
        read_definition(tmp_path / f"{NAME}.yaml")
    for told in (
        "6 problems",
        "input.ids.dtype: found 7",
        "unknown key input.ids.colour; known are shape, sizes, dtype",
        "input.ids.channels is missing",
    ):
        assert told in str(caught.value)
