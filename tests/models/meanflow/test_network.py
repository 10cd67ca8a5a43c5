"""The MeanFlow U-Net: its two times, its size, and more channels for it."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from medexp.errors import RegistryError
from medexp.models.kinds import build
from medexp.models.meanflow.network import MeanFlowUNet, widen

ARCHITECTURE: dict[str, Any] = {
    "kind": "meanflow_unet",
    "channels": 4,
    "num_channels": (8, 16),
    "attention_levels": (False, True),
    "num_head_channels": (0, 8),
    "num_res_blocks": 1,
    "norm_groups": 4,
}


def small(seed: int = 0, **changed: Any) -> MeanFlowUNet:
    """With random weights everywhere: what starts at zero is drawn as well."""
    torch.manual_seed(seed)
    net = build(ARCHITECTURE | changed)
    assert isinstance(net, MeanFlowUNet)
    for parameter in net.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def latents(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def test_maisis_u_net_has_164_7_million_parameters_and_the_second_time_82_thousand() -> None:
    with torch.device("meta"):
        net = MeanFlowUNet()
    second = sum(parameter.numel() for parameter in net.unet.class_embedding.parameters())
    assert second == 64 * 256 + 256 + 256 * 256 + 256
    assert sum(parameter.numel() for parameter in net.parameters()) - second == 164_697_092


@torch.no_grad()
def test_at_first_only_the_one_time_counts_and_later_both() -> None:
    at_first, trained = build(ARCHITECTURE), small()
    z, t, r = latents(2, 4, 4, 8, 4), torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.25])
    last = "unet.class_embedding.layers.2"
    new = copy.deepcopy(trained)
    new.get_submodule(last).load_state_dict(at_first.get_submodule(last).state_dict())
    assert torch.equal(new(z, t, r), new(z, t, t))
    assert not torch.equal(new(z, t, t), new(z, r, r))
    assert trained(z, t, r).shape == z.shape
    assert not torch.equal(trained(z, t, r), trained(z, t, t))
    torch.testing.assert_close(trained(z, t, r)[1:], trained(z[1:], t[1:], r[1:]))  # of each case its own times


@pytest.mark.parametrize("name", ["flash_attention", "gradient_checkpointing"])
def test_what_has_no_forward_derivative_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(RegistryError, match=f"{name}: found True; .*Jacobian-vector product.*Give false"):
        build(ARCHITECTURE | {name: True})


@pytest.mark.parametrize("channels", [5, 8])
@torch.no_grad()
def test_a_widened_networks_first_channels_are_the_bases_to_the_bit(channels: int) -> None:
    net, z = small(), latents(2, channels, 4, 4, 4)
    t, r = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])
    before, own = net(z[:, :4], t, r), {name: value.clone() for name, value in net.state_dict().items()}
    widen(net, channels)
    after = net(z, t, r)
    assert after.shape == z.shape
    assert torch.equal(after[:, :4], before) and not after[:, 4:].any()
    kept = {name.replace("conv_in.base", "conv_in").replace("out.2.base", "out.2"): v for name, v in net.state_dict().items()}
    assert all(torch.equal(kept[name], value) for name, value in own.items())
    new = {name: tuple(parameter.shape) for name, parameter in net.named_parameters() if ".new." in name}
    more = channels - 4
    assert new == {
        "unet.conv_in.new.weight": (8, more, 3, 3, 3),
        "unet.out.2.new.weight": (more, 8, 3, 3, 3),
        "unet.out.2.new.bias": (more,),
    }


def test_the_new_channels_of_a_widened_network_learn() -> None:
    """Zero weights are no trap here: those of the output have gradients at once, and those of the input through the first
    channels."""
    net, z = small(), latents(2, 8, 4, 4, 4)
    widen(net, 8)
    net(z, torch.ones(2), torch.zeros(2)).sub(z).square().mean().backward()
    for name, parameter in net.named_parameters():
        if ".new." in name:
            assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_what_cannot_be_widened() -> None:
    net = small()
    with pytest.raises(ValueError, match="found 4; the network has 4"):
        widen(net, 4)
    widen(net, 5)
    with pytest.raises(ValueError, match="widened before"):
        widen(net, 8)
