"""LoRA in the MeanFlow U-Net: what trains, how many parameters that are, and what is saved of it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import nn

from medexp.errors import CheckpointError, ConfigError
from medexp.models.kinds import build
from medexp.models.meanflow.lora import (
    PROJECTIONS,
    Boundary,
    Counts,
    attention_widths,
    count_trainable_params,
    counts,
    expected_lora_parameters,
    freeze_base_unfreeze_lora,
    inject_lora,
    load_lora,
    save_lora,
)
from medexp.models.meanflow.network import MeanFlowUNet, widen
from medexp.models.meanflow.sampling import noise, sample

ARCHITECTURE: dict[str, Any] = {
    "kind": "meanflow_unet",
    "channels": 4,
    "num_channels": (8, 16),
    "attention_levels": (False, True),
    "num_head_channels": (0, 8),
    "num_res_blocks": 1,
    "norm_groups": 4,
}


def small(channels: int = 8, **changed: Any) -> MeanFlowUNet:
    torch.manual_seed(0)
    net = build(ARCHITECTURE | changed)
    assert isinstance(net, MeanFlowUNet)
    for parameter in net.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    if channels > net.channels:
        widen(net, channels)
    return net.eval()


def output(net: nn.Module, channels: int = 8) -> torch.Tensor:
    z = torch.randn(2, channels, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return net(z, torch.tensor([1.0, 0.6]), torch.tensor([0.0, 0.2]))


def trained(peft: PeftModel) -> PeftModel:
    """As after a training: all that trains has moved."""
    generator = torch.Generator().manual_seed(2)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return peft


@settings(max_examples=12, deadline=None)
@given(
    widths=st.lists(st.sampled_from([8, 16, 24]), min_size=1, max_size=3),
    blocks=st.integers(1, 2),
    rank=st.integers(1, 8),
    targets=st.sets(st.sampled_from(list(PROJECTIONS.values())), min_size=1),
    data=st.data(),
)
def test_the_arithmetic_agrees_with_the_network_and_with_eq_35(widths, blocks, rank, targets, data) -> None:
    levels = [data.draw(st.booleans()) for _ in widths]
    architecture = {"num_channels": widths, "attention_levels": levels, "num_head_channels": 8, "num_res_blocks": blocks}
    with torch.device("meta"):
        net = MeanFlowUNet(**architecture, norm_groups=4, include_fc=True)
        peft = inject_lora(net, rank, 4.0, sorted(targets), "none")
    expected = expected_lora_parameters(architecture, rank, sorted(targets))
    assert counts(peft).lora == count_trainable_params(peft)[0] == expected
    if len(set(found := attention_widths(architecture))) == 1 and len(targets) == 3:
        assert expected == 6 * len(found) * rank * found[0]


def test_the_three_counts_at_the_full_size() -> None:
    """LoRA alone, with the new channels, and with the whole convolutions, as shares of MAISI's network."""
    architecture = {"num_channels": (64, 128, 256, 512), "attention_levels": (False, False, True, True), "num_res_blocks": 2}
    with torch.device("meta"):
        net = MeanFlowUNet(**architecture)
        base = sum(parameter.numel() for parameter in net.parameters())
        widen(net, 8)
        peft = inject_lora(net)
    found = counts(peft)
    lora = 3 * 2 * 16 * (5 * 256 + 6 * 512)
    slices = 27 * 64 * 4 + (27 * 64 * 4 + 4)
    convolutions = 27 * 64 * 8 + 64 + (27 * 64 * 8 + 8)
    assert found == Counts(lora, slices, convolutions, base + lora + slices)
    assert lora == expected_lora_parameters(architecture, 16, ("to_q", "to_k", "to_v"))
    assert count_trainable_params(peft) == (lora + slices, found.total)
    assert (lora + convolutions) / found.total < 0.01


@pytest.mark.parametrize(("boundary", "part"), [("none", "lora"), ("slices", "slices"), ("convolutions", "convolutions")])
def test_what_trains_is_the_adapters_and_what_the_boundary_says(boundary: Boundary, part: str) -> None:
    net = small()
    before = output(net)
    peft = inject_lora(net, 4, 4.0, boundary=boundary)
    assert torch.equal(output(peft), before), "B starts at zero"
    found = counts(peft)
    beside = 0 if boundary == "none" else getattr(found, part)
    assert count_trainable_params(peft) == (found.lora + beside, found.total)
    names = {name for name, parameter in peft.named_parameters() if parameter.requires_grad}
    for parameter in peft.parameters():
        parameter.requires_grad_(True)
    freeze_base_unfreeze_lora(peft)
    assert {name for name, parameter in peft.named_parameters() if parameter.requires_grad} == names
    allowed = {"none": (), "slices": (".new.",), "convolutions": ("conv_in.", "out.2.")}[boundary]
    assert all("lora_" in name or any(word in name for word in allowed) for name in names)


@pytest.mark.parametrize("boundary", ["slices", "convolutions", "none"])
def test_one_folder_brings_it_back_on_a_widened_base_to_the_bit(tmp_path: Path, boundary: Boundary) -> None:
    peft = trained(inject_lora(small(), 4, 8.0, boundary=boundary)).eval()
    save_lora(peft, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    ours, pefts = load_lora(small(), tmp_path), PeftModel.from_pretrained(small(), str(tmp_path))  # type: ignore[arg-type]
    drawn = [sample(net, noise(2, (8, 4, 4, 4), 0)) for net in (peft, ours, pefts.eval(), small())]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])
    assert not any(parameter.requires_grad for parameter in ours.parameters()) and not ours.training


def test_an_adapter_of_another_base_is_refused_key_by_key(tmp_path: Path) -> None:
    save_lora(inject_lora(small(), 4, 8.0), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"another base: .*conv_in\.new\.weight is \(8, 4, 3, 3, 3\), .* \(8, 1, 3, 3, 3\)"
    ):
        load_lora(small(channels=5), tmp_path)
    with pytest.raises(CheckpointError, match=r"another base: .*is missing"):
        load_lora(small(attention_levels=(True, True), num_head_channels=8), tmp_path)
    with pytest.raises(CheckpointError, match="no adapter_config.json"):
        load_lora(small(), tmp_path / "nothing")


def test_settings_that_fit_no_adapter_are_named_all_at_once() -> None:
    net = small(channels=4)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ConfigError) as error:
        inject_lora(net, 100, 4.0, ("to_q", "out_proj"), "slices")
    told = str(error.value)
    for words in (
        "lora.target_modules: out_proj is not in this network, whose attention has to_k, to_q, to_v",
        "lora.rank: found 100; at most 16",
        "lora.boundary: found slices, but the network has no new channels",
    ):
        assert words in told
    assert net.state_dict().keys() == before.keys()
