"""The 3D vision transformer: the size that it is described with, its shapes, and what it makes of a volume."""

from typing import Any

import pytest
import torch
from torch import nn

from medexp.errors import DataError, RegistryError
from medexp.models.kinds import build, kind_of, outputs_of
from medexp.models.vit3d import FULL
from medexp.models.vit3d.network import VisionTransformer3D

TINY = {"kind": "vit3d", "size": [8, 32, 48], "patch": [4, 16, 16], "dim": 24, "depth": 2, "heads": 3}


def tiny(**changes: Any) -> VisionTransformer3D:
    torch.manual_seed(0)
    net = build(TINY | changes)
    assert isinstance(net, VisionTransformer3D)
    return net


def volumes(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 1, 8, 32, 48, generator=torch.Generator().manual_seed(1))


def test_the_described_encoder_has_the_parameters_and_keys_that_it_is_described_with() -> None:
    with torch.device("meta"):
        net = build(FULL)
    assert isinstance(net, VisionTransformer3D)
    assert sum(parameter.numel() for parameter in net.parameters()) == 92_921_088
    assert net.pos_embed.shape == (1, 9216, 768) and net.width == 768 and net.grid == (16, 24, 24)
    assert {key for key in net.state_dict() if not key.startswith("blocks.")} == {
        *("pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"),
    }
    inside = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert {key for key in net.state_dict() if key.startswith("blocks.11.")} == {
        f"blocks.11.{name}.{part}" for name in inside for part in ("weight", "bias")
    }


@torch.no_grad()
def test_a_volume_becomes_tokens_and_their_mean() -> None:
    net = tiny().eval()
    tokens = net.tokens(volumes())
    assert tokens.shape == (2, 12, 24)
    assert torch.equal(net(volumes()), tokens.mean(dim=1))
    assert outputs_of(net, TINY, {"": volumes()})[""].shape[1:] == kind_of(TINY).outputs(TINY)[""].shape[1:]
    assert kind_of(TINY).inputs(TINY)[""].shape == (-1, 1, 8, 32, 48)
    torch.testing.assert_close(net(volumes())[:1], net(volumes()[:1])), "a case does not hang on the others of its batch"


@torch.no_grad()
def test_a_patch_is_a_token_at_its_own_place_w_the_fastest() -> None:
    net = tiny(depth=0).eval()  # without attention a token knows its own patch alone
    volume = volumes(1)
    changed = volume.clone()
    changed[0, 0, 4:8, 16:32, 32:48] += 1.0
    moved = (net.tokens(changed) - net.tokens(volume)).abs().amax(dim=2)[0] > 0
    assert moved.nonzero().flatten().tolist() == [1 * 2 * 3 + 1 * 3 + 2]
    assert not torch.equal(net.tokens(torch.zeros(1, 1, 8, 32, 48))[0, 0], net.tokens(torch.zeros(1, 1, 8, 32, 48))[0, 1])


@torch.no_grad()
def test_kept_patches_alone_are_seen() -> None:
    net = tiny().eval()
    keep = torch.tensor([[0, 5, 7], [11, 2, 3]])
    unseen = volumes().clone()
    unseen[0, 0, 0:4, 0:16, 16:32] = 100.0  # the second patch of the first volume, which is masked
    assert net.tokens(volumes(), keep).shape == (2, 3, 24)
    assert torch.equal(net.tokens(volumes(), keep), net.tokens(unseen, keep))
    assert not torch.equal(net.tokens(volumes()), net.tokens(unseen))
    every = torch.arange(12).expand(2, -1)
    torch.testing.assert_close(net.tokens(volumes(), every), net.tokens(volumes()))


@torch.no_grad()
def test_a_block_is_pytorchs_own_pre_norm_layer_whose_weights_lie_alike() -> None:
    """timm, MAE and V-JEPA stack queries, keys and values, heads one after the other, as PyTorch does."""
    block = tiny(depth=1).blocks[0]
    layer = nn.TransformerEncoderLayer(24, 3, 96, dropout=0.0, activation="gelu", batch_first=True, norm_first=True).eval()
    for name, other in {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "linear1", "mlp.fc2": "linear2"}.items():
        layer.get_submodule(other).load_state_dict(block.get_submodule(name).state_dict())
    layer.self_attn.out_proj.load_state_dict(block.get_submodule("attn.proj").state_dict())
    layer.self_attn.in_proj_weight.copy_(block.get_parameter("attn.qkv.weight"))
    layer.self_attn.in_proj_bias.copy_(block.get_parameter("attn.qkv.bias"))
    tokens = 10 * torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(tokens), layer(tokens))


def test_checkpointing_changes_neither_features_nor_gradients() -> None:
    results = []
    for checkpointing in (False, True):
        net = tiny()
        net.checkpointing = checkpointing
        features = net(volumes())
        features.square().sum().backward()
        results.append((features.detach(), net.patch_embed.proj.weight.grad))
    for plain, checkpointed in zip(*results, strict=True):
        assert plain is not None and checkpointed is not None and plain.abs().sum() > 0
        torch.testing.assert_close(plain, checkpointed)


@torch.no_grad()
def test_bf16_gives_finite_float32_features_near_those_of_float32() -> None:
    net = tiny().eval()
    exact = net(volumes())
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(volumes())
    assert rough.dtype == torch.float32 and rough.isfinite().all()
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)
    assert not torch.equal(rough, exact), "it was computed in bf16"


@torch.no_grad()
def test_a_seed_gives_a_network_and_a_network_gives_its_features_again() -> None:
    first, again = tiny().eval(), tiny().eval()
    assert torch.equal(first(volumes()), again(volumes()))


def test_volumes_of_another_size_are_refused_with_both_sizes() -> None:
    for shape in ((1, 1, 8, 32, 32), (1, 3, 8, 32, 48), (1, 8, 32, 48)):
        with pytest.raises(DataError, match=r"takes \(B, 1, 8, 32, 48\)") as caught:
            tiny()(torch.zeros(shape))
        assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [8, 30, 48]}, r"size \[8, 30, 48\] is no multiple of patch \[4, 16, 16\]"),
        ({"patch": [0, 16, 16]}, r"no multiple of patch \[0, 16, 16\]"),
        ({"size": [8, 32]}, r"size \[8, 32\]"),
        ({"heads": 5}, "dim 24 is no multiple of heads 5"),
    ],
)
def test_an_architecture_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        tiny(**changes)
