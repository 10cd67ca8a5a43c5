"""Kinds of features: each is what it says it is, and attention that is computed faster gives the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import conv3d, interpolate

import medexp
from medexp.errors import RegistryError
from medexp.models.classifier.network import classifier
from medexp.models.kinds import build, kind_of, outputs_of
from medexp.models.swin.attention import fast_attention
from medexp.models.swin.features import DEFAULT, KINDS, offered, tumour_weighted, width
from medexp.models.swin.network import SwinEncoder, SwinSegmenter, encoder_state, features
from medexp.models.unet.network import UNetEncoder

SIZES: dict[str, Any] = {"in_channels": 4, "feature_size": 12, "window_size": 2}
WHOLE = {"kind": "swin_unetr", "out_channels": 3, **SIZES}
ENCODER = {"kind": "swin_encoder", **SIZES}


@pytest.fixture(scope="module")
def net() -> SwinSegmenter:
    torch.manual_seed(0)
    built = build(WHOLE)
    assert isinstance(built, SwinSegmenter)
    return built.eval()


@pytest.fixture(scope="module")
def volumes() -> Tensor:
    return torch.randn(2, 4, 64, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_each_kind_is_what_it_is_said_to_be(net: SwinSegmenter, volumes: Tensor) -> None:
    found = features(net, volumes, KINDS)
    hidden = net.swinViT(volumes, True)
    torch.testing.assert_close(found["gap10"], net.encoder10(hidden[4]).flatten(2).mean(2))

    maps = [net.encoder1(volumes), net.encoder2(hidden[0]), net.encoder3(hidden[1]), net.encoder4(hidden[2])]
    voxels = [one.flatten(2) for one in maps]
    expected = [one.mean(2) for one in voxels] + [one.max(2).values for one in voxels]
    torch.testing.assert_close(found["multiscale"], torch.cat(expected, 1))

    tumour = net(volumes).sigmoid().max(1, keepdim=True).values + 1e-6
    finest = [interpolate(states, volumes.shape[2:], mode="nearest") for states in hidden]
    by_voxel = [(states * tumour).flatten(2).sum(2) / tumour.flatten(2).sum(2) for states in finest]
    torch.testing.assert_close(found["tumour_weighted"], torch.cat(by_voxel, 1), atol=1e-5, rtol=1e-5)
    assert {kind: values.shape for kind, values in found.items()} == {kind: (2, width(kind, 12)) for kind in KINDS}


@torch.no_grad()
@pytest.mark.parametrize("kinds", [["gap10"], ["multiscale"], ["tumour_weighted"], ["multiscale", "gap10"]], ids=str)
def test_one_pass_gives_what_several_give(net: SwinSegmenter, volumes: Tensor, kinds: list[Any]) -> None:
    every, some = features(net, volumes, KINDS), features(net, volumes, kinds)
    assert set(some) == set(kinds)
    assert all(torch.equal(some[kind], every[kind]) for kind in kinds)


@torch.no_grad()
def test_the_finest_maps_are_made_for_those_alone_who_ask(net: SwinSegmenter, volumes: Tensor) -> None:
    made: list[int] = []
    handle = net.encoder1.register_forward_hook(lambda *_: made.append(1))
    features(net, volumes, ["gap10"])
    assert not made, "they take longer than all else"
    features(net, volumes, KINDS)
    handle.remove()
    assert len(made) == 1


def test_where_no_tumour_is_seen_the_plain_average_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(1, 12 * 2**s, *(32 // 2**s,) * 3, generator=generator) for s in range(5)]
    logits = torch.full((1, 3, 64, 64, 64), -200.0)
    plain = torch.cat([states.mean(dim=(2, 3, 4)) for states in hidden], 1)
    torch.testing.assert_close(tumour_weighted(hidden, logits), plain, atol=1e-5, rtol=1e-4)
    logits[0, 1, 5, 6, 7] = 20.0  # one voxel of one region
    there = torch.cat([states[:, :, 5 >> s + 1, 6 >> s + 1, 7 >> s + 1] for s, states in enumerate(hidden)], 1)
    seen = tumour_weighted(hidden, logits)
    assert float((seen - there).abs().max()) < 0.5 * float((plain - there).abs().max()), "a quarter voxel's worth is EVEN's"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gap10", "multiscale"])
def test_an_encoder_gives_the_kind_that_its_architecture_names(net: SwinSegmenter, volumes: Tensor, kind: Any) -> None:
    architecture = ENCODER | {"features": kind}
    encoder = build(architecture).eval()
    assert isinstance(encoder, SwinEncoder)
    encoder.load_state_dict(encoder_state(net))
    assert torch.equal(encoder(volumes), features(net, volumes, [kind])[kind])
    assert kind_of(architecture).outputs(architecture)[""].shape == (-1, width(kind, 12))
    assert outputs_of(encoder, architecture, {"": volumes})[""].shape == (2, width(kind, 12))


@pytest.mark.parametrize("profile", ["demo", "full"])
@pytest.mark.parametrize("phase", ["probe", "phase2_2"])
def test_what_is_used_downstream_is_said_once(phase: str, profile: str) -> None:
    """A profile is YAML and cannot name the constant."""
    folder = Path(medexp.__file__).parent / "phases" / phase / "profiles"
    assert yaml.safe_load((folder / f"{profile}.yaml").read_text())["features"] == DEFAULT


def test_an_architecture_of_an_earlier_version_gives_gap10() -> None:
    assert kind_of(ENCODER).outputs(ENCODER)[""].shape == (-1, 192)
    encoder = build(ENCODER)
    assert isinstance(encoder, SwinEncoder) and encoder.gives == "gap10"


@torch.no_grad()
def test_a_classifier_stands_on_the_whole_network_where_tumour_is_the_weight(net: SwinSegmenter, volumes: Tensor) -> None:
    architecture = WHOLE | {"features": "tumour_weighted"}
    made = classifier(architecture, width("tumour_weighted", 12), 2).eval()
    made.encoder.load_state_dict(net.state_dict())
    assert torch.equal(made.encoder(volumes), features(net, volumes, ["tumour_weighted"])["tumour_weighted"])
    assert made(volumes).shape == (2, 2)
    assert kind_of(architecture).outputs(architecture)[""].shape == (-1, 372)


def test_what_takes_a_decoder_is_refused_without_one(net: SwinSegmenter, volumes: Tensor) -> None:
    for ask in (
        lambda: build(ENCODER | {"features": "tumour_weighted"}),
        lambda: features(build(ENCODER), volumes, ["tumour_weighted"]),  # type: ignore[arg-type]
    ):
        with pytest.raises(RegistryError, match=r"no decoder.*phase1_segmenter.*judge/decoder.*features=gap10 or multiscale"):
            ask()


def test_a_package_offers_what_its_network_can_give() -> None:
    assert {kind: one["width"] for kind, one in offered(WHOLE, False).items()} == {
        "gap10": 192,
        "multiscale": 192,
        "tumour_weighted": 372,
    }
    assert list(offered(ENCODER, False)) == ["gap10", "multiscale"]
    assert offered(ENCODER, True) == offered(WHOLE, False)
    assert offered(ENCODER, True)["gap10"]["what"] == "GAP(encoder10): the global average of the bottleneck"
    assert offered({"kind": "unet_encoder"}, False) == offered({"kind": "lora_adapter", "base": WHOLE}, True) == {}


@torch.no_grad()
def test_convolutions_by_onednn_change_nothing_but_the_order_of_sums(net: SwinSegmenter, volumes: Tensor) -> None:
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv3d)]
    assert {module.kernel_size[0] for module in convolutions} == {1, 2, 3}
    for module in convolutions:
        x = torch.randn(1, module.in_channels, 8, 8, 8, generator=torch.Generator().manual_seed(0))
        expected = conv3d(x, module.weight, module.bias, module.stride, module.padding)
        torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)
        with torch.enable_grad():
            assert torch.equal(module(x), expected), "in training it is PyTorch's own"
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x).dtype == torch.bfloat16
    whole, conv = volumes[:1, :, :8], net.encoder1.layer.conv1.conv
    assert not torch.equal(conv(whole), conv3d(whole, conv.weight, padding=1)), "it was computed otherwise"


def test_fast_attention_gives_what_the_ordinary_gives() -> None:
    torch.manual_seed(1)
    volumes = torch.randn(1, 4, 64, 64, 32, generator=torch.Generator().manual_seed(0))
    net, drawn = build(WHOLE).eval(), torch.random.get_rng_state()
    assert isinstance(net, SwinSegmenter)
    with torch.no_grad():
        ordinary = features(net, volumes, KINDS)
        assert fast_attention(net)
        fast = features(net, volumes, KINDS)
    for kind, values in ordinary.items():
        assert not torch.equal(values, fast[kind]), "it was computed otherwise"
        torch.testing.assert_close(values, fast[kind], atol=1e-5, rtol=0)
    assert torch.equal(torch.random.get_rng_state(), drawn), "what is drawn afterwards is drawn as ever"
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_fast_attention_that_disagrees_is_not_used() -> None:
    net = build(WHOLE).eval()
    assert fast_attention(net)
    with torch.autocast("cpu", torch.bfloat16):  # in which the order of the arithmetic shows
        assert not fast_attention(net)
    assert not any(getattr(module, "use_flash_attention", False) for module in net.modules())
    assert not fast_attention(UNetEncoder(1, 4, 2)), "nor where there is none"
