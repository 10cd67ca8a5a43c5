"""What the stages of a SwinUNETR carry: found where its decoder uses them, and not where it does not."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.config.networks import LoraConfig
from medexp.models.kinds import build
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1 import checks
from medexp.phases.phase1.reach import Reach, reach, window
from tests.configured import configured

LORA = LoraConfig(rank=2, alpha=4, target_stages=(3, 4), target_modules=("qkv",), lora_dropout=0.0, mode="lora")


@pytest.fixture(scope="module")
def base() -> SwinSegmenter:
    """Initial weights, but for a decoder that listens to what comes from below more than to its skip connections."""
    torch.manual_seed(0)
    net = build({"kind": "swin_unetr", "in_channels": 4, "out_channels": 3, "feature_size": 12, "window_size": 2})
    assert isinstance(net, SwinSegmenter)
    for block in (net.decoder1, net.decoder2, net.decoder3, net.decoder4):
        for parameter in block.transp_conv.parameters():
            parameter.data *= 4
    return net.eval()


@pytest.fixture(scope="module")
def windows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, 4, 64, 32, 32, generator=generator)
    return [(image, torch.randint(0, 4, (1, 64, 32, 32), generator=generator)) for image in images]


def cut(base: SwinSegmenter, block: str) -> SwinSegmenter:
    """Without what a block of the decoder takes from below: its skip connection is all that is left to it."""
    net = copy.deepcopy(base)
    for parameter in net.get_submodule(block).transp_conv.parameters():
        torch.nn.init.zeros_(parameter)
    return net


def rows(found: Reach) -> set[str]:
    return set(found.table.loc[found.carries, "stages"])


def test_stages_that_the_decoder_uses_are_in_reach(base, windows) -> None:
    found = reach(base, windows, LORA.target_stages)
    check = checks.reach(found)
    assert check.passed and not check.blocks
    assert found.targeted["stages"] == "3-4"
    assert "1" in rows(found) and "1-4" in rows(found)
    assert check.measured["cases"] == 2


def test_stages_that_it_does_not_use_are_out_of_reach_and_those_it_uses_are_named(base, windows) -> None:
    found = reach(cut(base, "decoder4"), windows[:1], LORA.target_stages)
    check = checks.reach(found)
    assert not check.passed and not check.blocks
    assert check.measured["logits"] == 0
    assert check.advice.startswith("Adapters in stages 3, 4 cannot change the segmentation")
    deep = {"3", "4", "3-4"}
    assert not rows(found) & deep and found.would and set(found.would) <= {1, 2}
    flag = check.advice.rpartition("-P ")[2]
    assert configured("phase1", dict([flag.split("=")])).lora.target_stages == tuple(found.would)  # it works when typed


def test_a_network_that_segments_by_its_convolutions_alone_has_no_stage_in_reach(base, windows) -> None:
    found = reach(cut(cut(base, "decoder2"), "decoder1"), windows[:1], (1, 2))
    assert found.would == []
    assert "No stage carries anything." in checks.reach(found).advice
    assert found.targeted["stages"] == "1-4"  # what stage 1 changes, all after it see


def test_a_network_that_has_no_deep_stages_is_the_same_with_adapters_there(base, windows) -> None:
    """What REACH says of a stage holds for any change of its weights."""
    net = cut(base, "decoder4")
    image = windows[0][0]
    with torch.no_grad():
        before = net(image)
        for stage in (net.swinViT.layers3, net.swinViT.layers4):
            for parameter in stage.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        assert torch.equal(net(image), before)


@given(st.tuples(*[st.integers(4, 9)] * 3), st.data())
@settings(max_examples=30, deadline=None)
def test_a_window_is_whole_and_holds_the_middle_of_the_tumour(shape: tuple[int, ...], data: st.DataObject) -> None:
    size = tuple(data.draw(st.integers(1, edge)) for edge in shape)
    at = tuple(data.draw(st.integers(0, edge - 1)) for edge in shape)
    label = torch.zeros(shape, dtype=torch.long)
    label[at] = 3
    image, cropped = window(torch.stack([label.float()] * 4), label, size)
    assert image.shape == (1, 4, *size) and cropped.shape == (1, *size)
    assert cropped.sum() == 3 and image.sum() == 12
