"""MAISI's autoencoder: sizes, the scale of its latents, its own file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medexp.errors import CheckpointError
from medexp.models.autoencoder.network import FACTOR, Autoencoder, load_maisi
from medexp.models.kinds import build


def small(**changed: Any) -> Autoencoder:
    torch.manual_seed(0)
    made = build({"kind": "autoencoder_kl", "channels": (4, 4, 8), "latent_channels": 4, "norm_groups": 2} | changed)
    assert isinstance(made, Autoencoder)
    return made.eval()


def volumes(*size: int) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_latent_is_a_quarter_of_the_size_and_scaled() -> None:
    x, plain, scaled = volumes(2, 1, 16, 8, 12), small(), small(scale_factor=2.5)
    mean, log_sigma = plain.posterior(x)
    assert mean.shape == log_sigma.shape == (2, 4, 16 // FACTOR, 8 // FACTOR, 12 // FACTOR)
    assert torch.equal(plain.encode(x), mean)
    assert torch.equal(scaled.encode(x), 2.5 * mean)
    torch.testing.assert_close(scaled(x), plain(x))  # decoded after division by it
    assert float((scaled.decode(mean) - plain.decode(mean)).abs().max()) > 1e-3  # and without, everything is another


def test_maisis_own_size_has_20_944_897_parameters() -> None:
    with torch.device("meta"):
        net = Autoencoder((64, 128, 256), 4, 2, 32)
    assert sum(parameter.numel() for parameter in net.parameters()) == 20_944_897


@pytest.fixture(scope="module")
def maisi() -> dict[str, torch.Tensor]:
    """Weights with the keys and shapes of MAISI's autoencoder, all of them small."""
    with torch.device("meta"):
        wanted = Autoencoder((64, 128, 256), 4, 2, 32).vae.state_dict()
    return {key: torch.full(value.shape, 0.01) for key, value in wanted.items()}


@pytest.mark.parametrize("nest", ["", "state_dict", "unet_state_dict", "safetensors"])
def test_maisis_own_file_is_read(tmp_path: Path, maisi: dict[str, torch.Tensor], nest: str) -> None:
    path = tmp_path / ("vae.safetensors" if nest == "safetensors" else "vae.pt")
    if nest == "safetensors":
        save_file(maisi, path)
    else:
        torch.save({nest: maisi, "epoch": 3} if nest else maisi, path)
    net = load_maisi(path, scale_factor=1.5)
    assert net.scale_factor == 1.5 and not net.training
    assert all(torch.equal(value, maisi[key]) for key, value in net.vae.state_dict().items())


def test_a_file_that_is_not_maisis_is_refused_by_its_keys(tmp_path: Path, maisi: dict[str, torch.Tensor]) -> None:
    lacking = {key: value for key, value in maisi.items() if key != "post_quant_conv.conv.bias"}
    torch.save(lacking | {"conv_in.conv.bias": torch.zeros(1)}, tmp_path / "unet.pt")
    with pytest.raises(CheckpointError, match=r"(?s)post_quant_conv\.conv\.bias.*conv_in\.conv\.bias.*autoencoder's file"):
        load_maisi(tmp_path / "unet.pt", 1.0)
