"""Adapters of any network: bound to the weights of their base, read by peft itself."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn

from medexp import registry
from medexp.errors import RegistryError
from medexp.models.checkpoints import weights_digest
from medexp.registry.definitions import load_definition
from medexp.registry.package import Parent
from medexp.registry.registration import register
from medexp.registry.store import Registered

NAME = "phase1_lora_adapter"
URI = f"models:/{NAME}/1"
X = torch.linspace(-1, 1, 40).reshape(5, 8)


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture
def adapted(tmp_path: Path) -> nn.Module:
    """An MLP with LoRA whose B is not zero, saved by peft in `adapter`."""
    net = get_peft_model(mlp(), LoraConfig(r=2, lora_alpha=4, target_modules=["0", "2"]))
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    net.save_pretrained(str(tmp_path / "adapter"))
    return net.eval()


@pytest.fixture
def publish(
    store: MlflowClient, written: Callable[..., Path], adapted: nn.Module, tmp_path: Path
) -> Callable[..., Registered]:
    def published(version: str | None = None, **base: Any) -> Registered:
        digest = "0" * 64 if version else None
        external = {"kind": "external", "class": "torch.nn.modules.container.Sequential"}
        folder = written(
            name=NAME,
            architecture={"kind": "lora_adapter", "base": external | base},
            contract={"input": asdict(load_definition(NAME).input)},
            weights={},
            parents={"base": Parent("mlp", version, digest, weights_digest(mlp().state_dict()))},
            extra={"adapter": tmp_path / "adapter"},
        )
        return register(store.create_run("0").info.run_id, folder, load_definition(NAME), "PASSED")

    return published


def test_an_adapter_of_any_network_comes_back_on_its_base(publish: Callable[..., Registered], adapted: nn.Module) -> None:
    publish()
    loaded = registry.load(URI, base=mlp())
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(X), adapted(X))
        assert not torch.allclose(loaded(X), mlp()(X))


def test_peft_reads_a_pulled_adapter_by_itself(publish: Callable[..., Registered], adapted: nn.Module) -> None:
    publish()
    loaded = PeftModel.from_pretrained(mlp(), registry.pull(URI).folder / "adapter")
    with torch.inference_mode():
        assert torch.equal(loaded(X), adapted(X))
    registry.pull(URI)  # and leaves it as it was


def other_dtype() -> nn.Module:
    return mlp().double()


def other_shape() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def one_bit() -> nn.Module:
    net = mlp()
    with torch.no_grad():
        net[2].bias[0] = torch.nextafter(net[2].bias[0], torch.tensor(9.0))
    return net


@pytest.mark.parametrize("base", [lambda: mlp(1), other_dtype, other_shape, one_bit, nn.Identity])
def test_another_base_is_refused_and_left_alone(publish: Callable[..., Registered], base: Callable[[], nn.Module]) -> None:
    publish()
    net = base()
    before = weights_digest(net.state_dict())
    with pytest.raises(RegistryError, match=r"was trained on mlp, .* with weights \w{12}; the base given has \w{12}"):
        registry.load(URI, base=net)
    assert weights_digest(net.state_dict()) == before


@pytest.mark.parametrize("version", [None, "3"], ids=["unregistered", "registered"])
def test_a_base_that_medexp_does_not_build_is_asked_for(publish: Callable[..., Registered], version: str | None) -> None:
    publish(version)
    with pytest.raises(RegistryError, match=r"a torch\.nn\.modules\.container\.Sequential.*load\(uri, base=network\)"):
        registry.load(URI)
    with pytest.raises(RegistryError, match=r"load\(uri, base=network\)"):
        mlflow.pyfunc.load_model(URI)


def test_a_file_is_no_base_of_a_network_that_medexp_does_not_build(publish: Callable[..., Registered], tmp_path: Path) -> None:
    publish()
    save_file(mlp().state_dict(), tmp_path / "base.safetensors")
    with pytest.raises(RegistryError, match="which medexp does not build"):
        registry.load(URI, base=tmp_path / "base.safetensors")
