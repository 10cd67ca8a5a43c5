import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from medexp import registry
from medexp.config.networks import LoraConfig
from medexp.errors import MedexpError, RegistryError, StorageError
from medexp.models.checkpoints import weights_digest
from medexp.models.kinds import build
from medexp.models.lora import add_lora
from medexp.models.swin.network import SwinSegmenter
from medexp.registry.card import as_description
from medexp.registry.definitions import load_definition
from medexp.registry.package import Parent
from medexp.registry.registration import register
from medexp.registry.store import Registered, find_by_weights
from tests.data.volumes.small_cases import write_case
from tests.packages import SEGMENTER

Written = Callable[..., Path]
NAME = "phase1_encoder_merged"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_id(store: MlflowClient) -> str:
    return str(store.create_run("0").info.run_id)


@pytest.fixture
def registered(run_id: str, written: Written) -> Registered:
    return register(run_id, written(), load_definition(NAME), "PASSED")


def stored(version: Registered) -> Path:
    """The package as the store holds it."""
    return Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}/artifacts/package"))


def test_a_version_says_where_it_comes_from(store: MlflowClient, run_id: str, registered: Registered) -> None:
    version = store.get_model_version(NAME, registered.version)
    assert (str(version.version), version.aliases) == ("1", [])  # aliases are earned, and given by nominate
    assert version.run_id == run_id
    made = f"Made by run [{store.get_run(run_id).info.run_name}](#/experiments/0/runs/{run_id}?workflowType=machine_learning)."
    assert version.description == as_description((stored(registered) / "README.md").read_text(), made)
    expected = {
        "medexp.digest": registered.digest,
        "medexp.weights_digest": registered.weights_digest,
        "medexp.verdict": "PASSED",
        "medexp.run": run_id,
        "medexp.data_digest": "d0",
        "medexp.evaluation_digest": "d1",
    }
    assert version.tags.items() >= expected.items()
    assert version.source == f"models:/{store.get_run(run_id).outputs.model_outputs[0].model_id}"
    assert "adapted to meningioma" in store.get_registered_model(NAME).description


def test_a_version_that_failed_its_checks_says_so(store: MlflowClient, run_id: str, written: Written) -> None:
    made = register(run_id, written(), load_definition(NAME), "FAILED")
    assert store.get_model_version(NAME, made.version).tags["medexp.verdict"] == "FAILED"


def test_a_pull_is_the_package_that_was_registered(registered: Registered) -> None:
    pulled = registry.pull(f"models:/{NAME}/1")
    assert (pulled.name, pulled.version, pulled.digest) == (NAME, "1", registered.digest)
    assert (pulled.folder / "weights.safetensors").is_file()


def test_weights_are_found_again(registered: Registered) -> None:
    digest = weights_digest(registry.load(f"models:/{NAME}/1").state_dict())
    assert find_by_weights(NAME, digest) == registered
    assert find_by_weights(NAME, "0" * 64) is None
    assert find_by_weights("bsf_base", digest) is None


BOTH_WAYS = """
import sys
from pathlib import Path

def refuse(event, arguments):
    assert event != "pickle.find_class", arguments  # raised by every unpickler, in C or Python, that looks a class up

sys.addaudithook(refuse)
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(sys.argv[1])]
if sys.argv[2] == "installed":
    sys.path.append(sys.argv[1])

import builtins, json
original, imported = builtins.__import__, set()

def noting(name, space=None, *rest, **more):
    if str((space or {}).get("__name__", "")).startswith("medexp"):
        imported.add(name.partition(".")[0])
    return original(name, space, *rest, **more)

builtins.__import__ = noting
import numpy as np
import mlflow
import pandas as pd
x = np.random.default_rng(0).normal(size=(1, 4, 64, 32, 32)).astype(np.float32)
model = mlflow.pyfunc.load_model("models:/phase1_encoder_merged/1")
by_mlflow, by_path = model.predict(x), model.predict(pd.DataFrame({"path": ["case"]}))
assert len(by_path) == 1 and np.isfinite(by_path["f0"][0])
Path("imported.json").write_text(json.dumps(sorted(imported - set(sys.stdlib_module_names) - {"medexp", ""})))

import medexp, torch
from medexp import registry
assert ("mlruns" in medexp.__file__) == (sys.argv[2] != "installed"), medexp.__file__
with torch.inference_mode():
    by_medexp = registry.load("models:/phase1_encoder_merged/1")(torch.from_numpy(x)).numpy()
assert by_mlflow.dtype == np.float32 and np.array_equal(by_mlflow, by_medexp)
np.save("features.npy", by_mlflow)

import pickle
try:
    pickle.loads(pickle.dumps(Path()))
except AssertionError:
    sys.exit(0)
sys.exit("the check for unpickling checks nothing")
"""


def test_a_model_that_an_earlier_medexp_registered_goes_on_loading(registered: Registered) -> None:
    """MLflow runs the code stored with a model; `earlier` has what stood there before networks took named inputs and paths."""
    earlier = Path(__file__).parent / "earlier" / "pyfunc_model.py"
    model = stored(registered).parents[1]
    (model / "pyfunc_model.py").write_bytes(earlier.read_bytes())
    logged = Model.load(model)
    logged.signature = ModelSignature(Schema([TensorSpec(np.dtype("float32"), (-1, 4, -1, -1, -1))]))
    logged.save(str(model / "MLmodel"))
    x = np.random.default_rng(0).normal(size=(1, 4, 64, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        here = registry.load(f"models:/{NAME}/1")(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(f"models:/{NAME}/1").predict(x), here)


@pytest.mark.parametrize("medexp", ["installed", "not installed"])
def test_both_ways_of_loading_agree_in_a_fresh_process_and_unpickle_nothing(
    registered: Registered, tmp_path: Path, medexp: str
) -> None:
    write_case(tmp_path, "case")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", BOTH_WAYS, str(ROOT), medexp]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(stored(registered).parents[1].rglob("*.pyc")), "a store holds what was registered"
    x = np.random.default_rng(0).normal(size=(1, 4, 64, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        here = registry.load(f"models:/{NAME}/1")(torch.from_numpy(x)).numpy()
    assert np.load(tmp_path / "features.npy").shape == (1, 192)
    named = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{NAME}/1")).read_text()
    wanted, by = {line.partition("==")[0] for line in named.splitlines()}, packages_distributions()
    imported = json.loads((tmp_path / "imported.json").read_text())
    imported = [name for name in imported if name != "pydicom"]  # which nibabel takes along where it is there
    lacking = [name for name in imported if not wanted & {one.lower().replace("_", "-") for one in by[name]}]
    assert {"torch", "nibabel", "scipy"} <= set(imported)
    assert lacking == (["click", "psutil"] if medexp == "installed" else []), "which medexp's plug-in of MLflow imports"
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), here, atol=1e-5)


def test_importing_the_registry_is_cheap() -> None:
    check = "import sys, medexp.registry; assert not {'torch', 'mlflow', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("models:/phase1@champion", r"models:/phase1.1?.*: no model phase1 in .*registered are: phase1_encoder_merged"),
        ("models:/phase1/1", r"models:/phase1.1?.*: no model phase1 in .*registered are: phase1_encoder_merged"),
        (f"models:/{NAME}@best", r"no alias best; it has: candidate \(version 1\)"),
        (f"models:/{NAME}/7", "no version 7; it has: 1"),
        (f"models:/{NAME}/latest", "models:/NAME@alias or models:/NAME/VERSION"),
        (f"models:/{NAME}", "models:/NAME@alias or models:/NAME/VERSION"),
        ("outputs/model", "models:/NAME@alias or models:/NAME/VERSION"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(store: MlflowClient, registered: Registered, uri: str, told: str) -> None:
    store.set_registered_model_alias(NAME, "candidate", registered.version)
    with pytest.raises(RegistryError, match=told):
        registry.load(uri)


def test_an_empty_registry_says_so(store: MlflowClient) -> None:
    with pytest.raises(RegistryError, match="registered are: none yet"):
        registry.pull(f"models:/{NAME}@champion")


def test_a_flipped_bit_in_the_store_is_refused_both_ways(registered: Registered) -> None:
    weights = stored(registered) / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RegistryError, match=r"weights\.safetensors was altered"):
        registry.load(f"models:/{NAME}/1")
    with pytest.raises(RegistryError, match=r"weights\.safetensors was altered"):
        mlflow.pyfunc.load_model(f"models:/{NAME}/1")


def test_a_whole_package_put_in_the_place_of_another_is_refused(registered: Registered, written: Written) -> None:
    folder = stored(registered)
    for file in written(seed=1).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RegistryError, match=f"registered with digest {registered.digest}"):
        registry.pull(f"models:/{NAME}/1")


def test_a_version_of_another_program_is_told_apart(store: MlflowClient, run_id: str, tmp_path: Path) -> None:
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "somewhere" / "weights.pt").touch()
    store.create_registered_model("foreign")
    store.create_model_version("foreign", str(tmp_path / "somewhere"), run_id)
    with pytest.raises(RegistryError, match="version 1 of foreign holds no package"):
        registry.pull("models:/foreign/1")


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("bsf_base", {}, r"is of phase1_encoder_merged, not of bsf_base"),
        (NAME, {"checks": []}, r"requires the checks TEST_2\.1, TEST_2\.2"),
    ],
)
def test_what_the_definition_does_not_allow_is_not_registered(
    store: MlflowClient, run_id: str, written: Written, name: str, given: dict[str, object], told: str
) -> None:
    with pytest.raises(RegistryError, match=told):
        register(run_id, written(**given), load_definition(name), "PASSED")
    assert store.search_registered_models() == []


def test_an_altered_package_is_not_registered(store: MlflowClient, run_id: str, written: Written) -> None:
    folder = written()
    (folder / "README.md").write_text("better than it is")
    with pytest.raises(RegistryError, match=r"README\.md was altered"):
        register(run_id, folder, load_definition(NAME), "PASSED")
    assert store.search_registered_models() == []


def test_a_registry_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, store: MlflowClient) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match="MLFLOW_TRACKING_URI") as caught:
        registry.pull(f"models:/{NAME}@champion")
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- adapters


@pytest.fixture
def adapted(run_id: str, written: Written, tmp_path: Path) -> tuple[torch.nn.Module, Path, Registered]:
    """A base registered as version 1 and an adapter whose B is not zero: the adapted network, its files, the base."""
    base = register(run_id, written(name="bsf_base", architecture=SEGMENTER), load_definition("bsf_base"), "PASSED")
    net = registry.load(f"models:/{base.name}/1")
    assert isinstance(net, SwinSegmenter)
    assert weights_digest(net.state_dict()) == base.weights_digest
    peft = add_lora(net, LoraConfig(4, 8, (3, 4), ("qkv",), 0.0, "lora"))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    peft.save_pretrained(str(tmp_path / "adapter"))
    return peft.eval(), tmp_path / "adapter", base


def adapter_package(written: Written, files: Path, version: str | None, base: Registered) -> Path:
    return written(
        name="phase1_lora_adapter",
        architecture={"kind": "lora_adapter", "base": SEGMENTER},
        weights={},
        parents={"base": Parent("bsf_base", version, base.digest if version else None, base.weights_digest)},
        extra={"adapter": files},
    )


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(1, 4, 64, 32, 32, generator=torch.Generator().manual_seed(0))


def test_an_adapter_comes_back_on_its_registered_base(
    adapted: tuple[torch.nn.Module, Path, Registered], run_id: str, written: Written, x: torch.Tensor
) -> None:
    net, files, parent = adapted
    register(run_id, adapter_package(written, files, "1", parent), load_definition("phase1_lora_adapter"), "PASSED")
    loaded = registry.load("models:/phase1_lora_adapter/1")
    pyfunc = mlflow.pyfunc.load_model("models:/phase1_lora_adapter/1")
    with torch.inference_mode():
        expected = net(x)
        torch.testing.assert_close(loaded(x), expected)
    np.testing.assert_allclose(pyfunc.predict(x.numpy()), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("given_as", ["network", "file"])
def test_an_adapter_comes_back_on_a_base_that_is_given(
    adapted: tuple[torch.nn.Module, Path, Registered], run_id: str, written: Written, x: torch.Tensor, given_as: str
) -> None:
    net, files, parent = adapted
    register(run_id, adapter_package(written, files, None, parent), load_definition("phase1_lora_adapter"), "PASSED")
    whole = registry.pull("models:/bsf_base/1").folder / "weights.safetensors"
    base = registry.load("models:/bsf_base/1") if given_as == "network" else whole
    loaded = registry.load("models:/phase1_lora_adapter/1", base=base)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), net(x))


@pytest.mark.parametrize(
    ("version", "base", "told"),
    [
        (None, None, "bsf_base, which is not registered; give the network or its checkpoint file: medexp.registry.load"),
        (None, "another", "was trained on bsf_base, which is not registered, with weights .* the base given has"),
        ("9", None, "bsf_base has no version 9; it has: 1"),
        (None, "nowhere.pt", r"no file nowhere\.pt"),
    ],
)
def test_an_adapter_without_its_base_is_refused(
    adapted: tuple[torch.nn.Module, Path, Registered],
    run_id: str,
    written: Written,
    version: str | None,
    base: str | None,
    told: str,
) -> None:
    _, files, parent = adapted
    register(run_id, adapter_package(written, files, version, parent), load_definition("phase1_lora_adapter"), "PASSED")
    torch.manual_seed(1)
    with pytest.raises(MedexpError, match=told):
        registry.load("models:/phase1_lora_adapter/1", base=build(SEGMENTER) if base == "another" else base)


def test_a_whole_network_takes_no_base(registered: Registered) -> None:
    with pytest.raises(RegistryError, match="only an adapter takes a base"):
        registry.load(f"models:/{NAME}/1", base="base.pt")


def test_a_version_is_made_only_of_what_was_read_back(store: MlflowClient, registered: Registered) -> None:
    tags = store.get_model_version(NAME, "1").tags
    manifest = json.loads((registry.pull(f"models:/{NAME}/1").folder / "manifest.json").read_text())
    assert (tags["medexp.digest"], tags["medexp.weights_digest"]) == (manifest["digest"], manifest["weights_digest"])
