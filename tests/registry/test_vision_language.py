"""An adapter of a vision-language model: on a base that is registered, or a folder, or given; asked, served, exported."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from mlflow.exceptions import MlflowException
from scipy.stats import binomtest
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from medexp import console, registry
from medexp.data.scenarios.inputs import find_inputs
from medexp.data.scenarios.prompts import answer_ids, load_processor, prompt_of
from medexp.errors import MedexpError, RegistryError
from medexp.evaluation.answers import score_alone
from medexp.models.vision_language.bases import Base, find_base
from medexp.registry.loading import load_verified
from medexp.registry.package import Parent
from medexp.registry.predictors import from_package
from tests.gemma import tiny_gemma
from tests.medgemma import (
    ADAPTER,
    ASK,
    BASE,
    adapted,
    network,
    publish_adapter,
    publish_base,
    scenario,
    write_scenarios,
)
from tests.runs import store_in

ON_REGISTERED, ON_FOLDER = f"models:/{ADAPTER}/1", f"models:/{ADAPTER}/2"


@pytest.fixture(scope="module")
def home(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a base, its adapter, and a store in which the adapter stands on the registered base (version 1) and on
    the folder (version 2); two scenarios, one a file."""
    folder = tmp_path_factory.mktemp("vision_language")
    with pytest.MonkeyPatch.context() as patch:
        store = store_in(folder, empty_database, patch)
        base = find_base(str(tiny_gemma(folder / "base")))
        adapted(base, folder / "adapter")
        made = publish_base(store, folder / "package_base", base)
        parent = Parent(made.name, made.version, made.digest, made.weights_digest)
        first = publish_adapter(store, folder / "package_1", base, folder / "adapter", parent)
        assert first.aliases == ("candidate", "champion"), "it was loaded and run"
        unregistered = Parent(base.source, None, None, base.digest)
        publish_adapter(store, folder / "package_2", base, folder / "adapter", unregistered)
        for number, name in enumerate(("one", "other")):
            write_scenarios(folder / f"{name}.jsonl", scenario(folder, name, number))
        yield folder


@pytest.fixture
def moved(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The base, elsewhere than the adapter says."""
    (home / "base").rename(home / "elsewhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield home / "elsewhere"
    (home / "elsewhere").rename(home / "base")


@pytest.fixture(scope="module")
def base(home: Path) -> Base:
    return find_base(str(home / "base"))


def asked(folder: Path, base: Base, name: str = "one") -> dict[str, Tensor]:
    processor = load_processor(base.folder)
    return dict(prompt_of(processor, find_inputs(folder / f"{name}.jsonl").cases[0], ASK, context=512).inputs)


@torch.inference_mode()
def logits(net: nn.Module, given: dict[str, Tensor]) -> Tensor:
    return net(**given).logits


# ------------------------------------------------------------------------------------------------------------------- loading


def test_the_adapter_comes_back_on_the_registered_base_and_can_be_taken_off(home: Path, base: Base) -> None:
    net, given = registry.load(ON_REGISTERED), asked(home, base)
    own = adapted(base, home / "adapter_again")
    assert not net.training
    assert torch.equal(logits(net, given), logits(own, given))
    with net.disable_adapter():
        assert torch.equal(logits(net, given), logits(network(base), given))
    assert not torch.allclose(logits(net, given), logits(network(base), given), atol=1e-3), "the adapter does something"
    bare = net.get_base_model()
    assert bare.lm_head.weight is bare.get_input_embeddings().weight, "tied as it was trained"


def test_a_base_that_is_not_registered_is_found_by_its_name_or_given(home: Path, base: Base, moved: Path) -> None:
    given = asked(home, find_base(str(moved)))
    with pytest.raises(RegistryError, match=r"base .*/base is not on this machine.*load\(uri, base=FOLDER\)") as told:
        registry.load(ON_FOLDER)
    assert "-P base=FOLDER" in str(told.value)
    by_folder = logits(registry.load(ON_FOLDER, base=moved), given)
    moved.rename(home / "base")
    try:
        assert torch.equal(logits(registry.load(ON_FOLDER), given), by_folder)
    finally:
        (home / "base").rename(moved)
    assert torch.equal(logits(registry.load(ON_REGISTERED), given), by_folder)
    assert torch.equal(logits(registry.load(ON_REGISTERED, base=moved), given), by_folder)
    plain = AutoModelForImageTextToText.from_pretrained(moved)  # which holds a tied weight twice
    assert torch.equal(logits(registry.load(ON_REGISTERED, base=plain), given), by_folder)


def test_another_base_is_refused(home: Path, base: Base, tmp_path: Path) -> None:
    other = tiny_gemma(tmp_path / "other", seed=1)
    for uri, given in ((ON_REGISTERED, other), (ON_FOLDER, other), (ON_REGISTERED, network(find_base(str(other))))):
        with pytest.raises(RegistryError, match=r"was trained on .* the base given has \w{12}"):
            registry.load(uri, base=given)
    with pytest.raises(RegistryError, match="known by its files: give their folder"):
        registry.load(ON_FOLDER, base=network(base))


def test_the_base_comes_back_in_the_type_that_it_was_computed_in(home: Path, tmp_path: Path) -> None:
    for uri in (ON_REGISTERED, ON_FOLDER):
        folder = tmp_path / uri[-1]
        shutil.copytree(registry.pull(uri).folder, folder)
        (folder / "training_metadata.json").write_text('{"dtype": "bfloat16"}')
        bare = load_verified(folder).get_base_model()
        assert bare.lm_head.weight.dtype == torch.bfloat16
        assert registry.load(uri).get_base_model().lm_head.weight.dtype == torch.float32


# -------------------------------------------------------------------------------------------------------------------- asking


def test_both_probabilities_are_those_of_the_whole_answers(home: Path, base: Base) -> None:
    say, net = registry.predictor(ON_REGISTERED, "cpu"), registry.load(ON_REGISTERED)
    processor = load_processor(base.folder)
    found = {}
    for name in ("one", "other"):
        prompt = prompt_of(processor, find_inputs(home / f"{name}.jsonl").cases[0], ASK, context=512)
        summed = [score_alone(net, prompt, answer, "cpu") for answer in answer_ids(processor)]
        wanted = np.exp(summed) / np.exp(summed).sum()
        found[name] = say(home / f"{name}.jsonl").probabilities
        assert list(found[name]) == ["ERROR", "CORRECT"]
        np.testing.assert_allclose(list(found[name].values()), wanted, atol=1e-5)
    assert found["one"] != found["other"]


def test_image_and_text_both_make_the_answer(home: Path, tmp_path: Path) -> None:
    say = registry.predictor(ON_REGISTERED, "cpu")
    line = scenario(tmp_path, "this", 5)
    first = say(write_scenarios(tmp_path / "a.jsonl", line)).probabilities
    assert say(write_scenarios(tmp_path / "a.jsonl", line | {"input": "Nothing."})).probabilities != first
    scenario(tmp_path, "this", 6)
    assert say(write_scenarios(tmp_path / "a.jsonl", line)).probabilities != first


def test_what_is_no_scenario_is_refused_in_words(home: Path, tmp_path: Path) -> None:
    say = registry.predictor(ON_REGISTERED, "cpu")
    long = write_scenarios(tmp_path / "long.jsonl", scenario(tmp_path, "long", input="word " * 600))
    for path, told in (
        (write_scenarios(tmp_path / "two.jsonl", scenario(tmp_path, "a"), scenario(tmp_path, "b")), "holds 2 cases"),
        (home / "images" / "one.png", "takes clinical scenarios, as JSONL; one.png is none"),
        (long, "scenario long: .* tokens"),
    ):
        with pytest.raises(MedexpError, match=told):
            say(path)


def test_it_is_asked_through_the_processor_of_its_package_alone(home: Path, base: Base, tmp_path: Path) -> None:
    """A processor that lets the image fall is refused, and the base's, which is whole, does not stand in for it."""
    folder = tmp_path / "package"
    shutil.copytree(registry.pull(ON_REGISTERED).folder, folder)
    template = folder / "processor" / "chat_template.jinja"
    template.write_text(template.read_text().replace("<start_of_image>", ""))
    with pytest.raises(MedexpError, match="image"):
        from_package(folder, "this", "cpu")(home / "one.jsonl")


# ------------------------------------------------------------------------------------------------------------------- serving


def test_mlflow_answers_to_paths_and_knows_what_it_needs(home: Path) -> None:
    model = mlflow.pyfunc.load_model(ON_REGISTERED)
    rows = model.predict(pd.DataFrame({"path": [str(home / "one.jsonl"), str(home / "other.jsonl")]}))
    say = registry.predictor(ON_REGISTERED, "cpu")
    for row, name in zip(rows.to_dict("records"), ("one", "other"), strict=True):
        wanted = say(home / f"{name}.jsonl").probabilities
        assert row["case"] == name and row["predicted"] == max(wanted, key=wanted.get)
        assert [row[f"probability_{answer}"] for answer in wanted] == pytest.approx(list(wanted.values()))
    with pytest.raises(MlflowException, match="column path to clinical scenarios"):
        model.predict(np.zeros((1, 3), np.float32))
    needs = Path(mlflow.pyfunc.get_model_dependencies(ON_REGISTERED)).read_text()
    assert all(f"{name}==" in needs for name in ("transformers", "peft", "pillow", "torch"))
    assert [spec.name for spec in model.metadata.signature.inputs] == ["path"]


# ------------------------------------------------------------------------------------------------------------------ exporting

_ALONE = """
import re, json, sys
code = re.search("```python\\n(.*?)```", open("README.md").read(), re.DOTALL)[1]
exec(code)
line = json.loads(open(sys.argv[1]).read())
print(json.dumps(answer(sys.argv[2], line["instruction"], line["input"])))
assert not {"medexp", "mlflow"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def exported(home: Path) -> Path:
    assert console.main(["export-hf", f"{ADAPTER}/1", str(home / "exported")]) == 0
    return home / "exported"


def test_transformers_and_peft_alone_say_the_same(home: Path, exported: Path, base: Base) -> None:
    """By the code on the card, in a process that knows neither medexp nor the store."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    program = [sys.executable, "-c", _ALONE, str(home / "one.jsonl"), str(home / "images" / "one.png")]
    done = subprocess.run(program, check=False, cwd=exported, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    net, processor = registry.load(ON_REGISTERED), load_processor(base.folder)
    prompt = prompt_of(processor, find_inputs(home / "one.jsonl").cases[0], ASK, context=512)
    scored = [score_alone(net, prompt, answer, "cpu") for answer in answer_ids(processor)]
    wanted = dict(zip(("ERROR", "CORRECT"), scored, strict=True))
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(wanted, abs=1e-5)


def test_the_card_is_one_that_the_hub_reads_and_tells_what_was_measured(exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert card.data.library_name == "peft" and card.data.pipeline_tag == "image-text-to-text"
    assert card.data.license == "other" and card.data.base_model is None
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures == {"accuracy": 0.75, "recall": 1.0, "specificity": 0.5}, "s0, s4, ... are wrong, and all ERROR"
    (accuracy,) = (result for result in card.data.eval_results if result.metric_type == "accuracy")
    low, high = binomtest(18, 24).proportion_ci(0.95)
    assert f"{low:.3f} to {high:.3f}, 24 scenarios of 24 families" in accuracy.metric_name
    for section in ("How to use it", "Intended use", "Limitations", "Verification report"):
        assert f"# {section}" in card.text
    assert json.loads((exported / "training_metadata.json").read_text())["epochs"] == 3
    for file in ("README.md", "adapter_config.json", "processor_config.json", "tokenizer_config.json"):
        assert str(exported.parent) not in (exported / file).read_text(), "nothing tells of the folders of this machine"


def test_a_base_that_is_on_no_hub_comes_along_and_another_is_named(
    home: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((exported / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    assert (exported / "base" / "model.safetensors").is_file()
    assert console.main(["export-hf", ON_FOLDER, str(tmp_path / "out")]) == 0
    assert "a folder of this machine" in capsys.readouterr().out and not (tmp_path / "out" / "base").exists()
    named = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(home / "base") and named["revision"] is None


def test_what_cannot_be_exported_is_refused(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, folder, told in (
        (f"{ADAPTER}/1", exported, "exists already, and nothing is overwritten"),
        (
            f"{BASE}/1",
            tmp_path / "out",
            "is a vision_language. What is exported is an adapter of a vision-language model, such as",
        ),
    ):
        assert console.main(["export-hf", model, str(folder)]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
