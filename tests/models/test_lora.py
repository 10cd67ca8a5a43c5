"""Adapters: where they are, how many parameters they have, and what a merge does."""

import copy

import pytest
import torch

from medexp.config.networks import LoraConfig
from medexp.models.kinds import build
from medexp.models.lora import (
    add_lora,
    decoder_parameters,
    expected_lora_parameters,
    freeze_decoder,
    freeze_encoder,
    lora_parameters,
    merge_lora,
)
from medexp.models.swin.network import SwinEncoder, SwinSegmenter, encoder_state, features, is_encoder_key

ARCHITECTURE = {"kind": "swin_unetr", "in_channels": 4, "out_channels": 3, "feature_size": 12, "window_size": 2}
LORA = LoraConfig(rank=8, alpha=16, target_stages=(3, 4), target_modules=("qkv",), lora_dropout=0.1, mode="lora")


@pytest.fixture(scope="module")
def base() -> SwinSegmenter:
    torch.manual_seed(0)
    net = build(ARCHITECTURE)
    assert isinstance(net, SwinSegmenter)
    return net.eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 4, 64, 32, 32, generator=torch.Generator().manual_seed(0))


def adapted(base: SwinSegmenter, lora: LoraConfig) -> tuple[SwinSegmenter, object]:
    net = copy.deepcopy(base)
    peft = add_lora(net, lora)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in lora_parameters(net).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return net.eval(), peft


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_the_specifications_adapters_have_96_rank_feature_size_parameters(base: SwinSegmenter, rank: int) -> None:
    net = copy.deepcopy(base)
    lora = LoraConfig(rank, 16, (3, 4), ("qkv",), 0.1, "lora")
    add_lora(net, lora)
    assert sum(p.numel() for p in lora_parameters(net).values()) == 96 * rank * 12 == expected_lora_parameters(12, lora)


@pytest.mark.parametrize("mode", ["lora", "dora"])
@pytest.mark.parametrize("stages", [(1,), (2, 3, 4)])
@pytest.mark.parametrize("modules", [("qkv",), ("proj", "linear1", "linear2"), ("qkv", "proj", "linear1", "linear2")])
def test_the_arithmetic_agrees_with_the_network(base: SwinSegmenter, mode, stages, modules) -> None:
    net = copy.deepcopy(base)
    lora = LoraConfig(3, 6, stages, modules, 0.0, mode)
    add_lora(net, lora)
    assert sum(p.numel() for p in lora_parameters(net).values()) == expected_lora_parameters(12, lora)


def test_adapters_and_decoder_train_and_nothing_else(base: SwinSegmenter) -> None:
    net = copy.deepcopy(base)
    add_lora(net, LORA)
    training = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert training == set(lora_parameters(net)) | set(decoder_parameters(net))
    assert all("layers3" in name or "layers4" in name for name in lora_parameters(net))


def test_the_control_trains_the_decoder_alone(base: SwinSegmenter) -> None:
    net = copy.deepcopy(base)
    freeze_encoder(net)
    training = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert training == set(decoder_parameters(net))
    assert not any(is_encoder_key(name) for name in training)


def test_of_a_frozen_encoder_nothing_is_kept_for_a_backward_pass(base: SwinSegmenter, image: torch.Tensor) -> None:
    """So that computing it under `no_grad` would save nothing."""
    net = copy.deepcopy(base)
    freeze_encoder(net)
    assert not any(hidden.requires_grad for hidden in net.swinViT(image, net.normalize))
    assert net(image).requires_grad


def test_lora_alone_trains_the_adapters_alone(base: SwinSegmenter) -> None:
    net = copy.deepcopy(base)
    add_lora(net, LORA)
    freeze_decoder(net)
    training = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert training == set(lora_parameters(net))


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_a_merge_keeps_the_output_and_the_keys_and_is_certified(base: SwinSegmenter, image: torch.Tensor, mode) -> None:
    net, peft = adapted(base, LoraConfig(8, 16, (3, 4), ("qkv",), 0.1, mode))
    with torch.no_grad():
        before = net(image)
        merged, certificate = merge_lora(peft)
        after = merged.eval()(image)
        unadapted = base(image)
    assert float((before - unadapted).abs().max()) > 1e-3  # the adapters do something
    assert float((after - before).abs().max()) < 1e-5
    assert set(merged.state_dict()) == set(base.state_dict())
    assert len(certificate.tensors) == 4
    assert max(certificate.tensors.values()) < 1e-6
    assert certificate.left_over == certificate.changed_elsewhere == ()


def test_the_merged_weight_is_the_papers_formula(base: SwinSegmenter) -> None:
    net, peft = adapted(base, LORA)
    key = "swinViT.layers3.0.blocks.0.attn.qkv"
    layer = net.get_submodule(key)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = base.state_dict()[f"{key}.weight"] + 16 / 8 * (b @ a)
    merged, _ = merge_lora(peft)
    torch.testing.assert_close(merged.state_dict()[f"{key}.weight"], expected.detach())


def test_the_kept_encoder_gives_the_features_of_the_whole_network(base: SwinSegmenter, image: torch.Tensor) -> None:
    state = encoder_state(base)
    assert {key.split(".")[0] for key in state} == {"swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"}
    encoder = build({"kind": "swin_encoder", "in_channels": 4, "feature_size": 12, "window_size": 2})
    assert isinstance(encoder, SwinEncoder)
    encoder.load_state_dict(state)
    with torch.no_grad():
        found = encoder.eval()(image)
        assert found.shape == (1, 16 * 12)
        assert torch.equal(found, features(base, image, ["gap10"])["gap10"])
        logits, bottleneck = base.with_bottleneck(image)
        assert torch.equal(logits, base(image))
        assert torch.equal(bottleneck.mean(dim=(2, 3, 4)), found)


@pytest.mark.parametrize("feature_size", [12, 24])
def test_the_encoder_of_a_given_width(feature_size: int) -> None:
    encoder = build({"kind": "swin_encoder", "in_channels": 4, "feature_size": feature_size, "window_size": 2})
    assert encoder(torch.zeros(1, 4, 64, 32, 32)).shape == (1, 16 * feature_size)
