"""The multi-task U-Net and classifiers on its frozen encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.errors import CheckpointError, RegistryError
from medexp.models.checkpoints import load_state, load_weights, save_checkpoint
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.heads import ClassificationHead
from medexp.models.kinds import build
from medexp.models.unet.network import MultiTaskModel, UNetEncoder, part, size_of


def small(**changed: int) -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel(**({"base_filters": 4, "depth": 2} | changed))


def images(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def test_the_specifications_network_has_2_014_019_parameters() -> None:
    net = MultiTaskModel()
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()}
    assert count == {"encoder": 1_172_640, "seg_decoder": 775_073, "cls_head": 66_306}
    assert sum(p.numel() for p in net.parameters()) == 2_014_019


@pytest.mark.parametrize(
    ("tasks", "seg", "cls"),
    [
        ({}, (3, 1, 16, 24), (3, 2)),
        ({"do_seg": False}, None, (3, 2)),
        ({"do_cls": False}, (3, 1, 16, 24), None),
        ({"do_seg": False, "do_cls": False}, None, None),
    ],
)
def test_what_is_not_asked_for_is_none(tasks: dict[str, bool], seg: Any, cls: Any) -> None:
    output = small()(images(3, 1, 16, 24), **tasks)
    assert list(output) == ["seg", "cls", "features"]
    assert [None if output[name] is None else tuple(output[name].shape) for name in ("seg", "cls")] == [seg, cls]


def test_a_task_that_is_not_asked_for_is_not_computed() -> None:
    net, called = small(), []
    net.seg_decoder.register_forward_hook(lambda *_: called.append("seg"))
    net.cls_head.register_forward_hook(lambda *_: called.append("cls"))
    net(images(1, 1, 16, 16), do_seg=False)
    net(images(1, 1, 16, 16), do_cls=False)
    assert called == ["cls", "seg"]


def test_both_tasks_at_once_say_what_each_says_alone() -> None:
    net, x = small().eval(), images(2, 1, 16, 16)
    both = net(x)
    assert torch.equal(both["seg"], net(x, do_cls=False)["seg"])
    assert torch.equal(both["cls"], net(x, do_seg=False)["cls"])
    assert torch.equal(both["features"][-1].mean(dim=(2, 3)), net.encoder(x))
    assert torch.equal(net.cls_head(net.encoder(x)), both["cls"])


@settings(max_examples=15, deadline=None)
@given(depth=st.integers(1, 4), filters=st.integers(1, 6), height=st.integers(1, 3), width=st.integers(1, 3))
def test_features_go_from_full_resolution_to_the_bottleneck(depth: int, filters: int, height: int, width: int) -> None:
    net = small(base_filters=filters, depth=depth).eval()
    size = (height * 2**depth, width * 2**depth)
    output = net(images(2, 1, *size))
    expected = [(2, filters * 2**level, size[0] // 2**level, size[1] // 2**level) for level in range(depth + 1)]
    assert [tuple(one.shape) for one in output["features"]] == expected
    assert output["seg"].shape == (2, 1, *size)


@pytest.mark.parametrize("size", [(17, 23), (19, 16), (7, 5)])
def test_sizes_that_do_not_halve_evenly_keep_their_size(size: tuple[int, int]) -> None:
    assert small().eval()(images(2, 1, *size))["seg"].shape == (2, 1, *size)


def test_the_decoder_sees_the_encoders_maps() -> None:
    """Each skip connection counts: without it the logits are others."""
    net, x = small().eval(), images(1, 1, 16, 16)
    maps = net.encoder.maps(x)
    logits = net.seg_decoder(maps)
    for level in range(len(maps)):
        changed = [one * 0 if number == level else one for number, one in enumerate(maps)]
        assert not torch.equal(net.seg_decoder(changed), logits), level


# ------------------------------------------------------------------------------------------------ a head on a frozen encoder


def test_a_frozen_encoder_keeps_its_statistics_and_gets_no_gradients_in_training() -> None:
    net = EncoderClassifier(small().encoder, ClassificationHead(16))
    before = {key: value.clone() for key, value in net.encoder.state_dict().items()}
    head = {key: value.detach().clone() for key, value in net.head.named_parameters()}
    net.train()
    assert net.training and net.head.training and not any(child.training for child in net.encoder.modules())
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        net(5 + 3 * images(4, 1, 16, 16)).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in net.encoder.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.encoder.state_dict().items())
    assert not any(torch.equal(head[key], value) for key, value in net.head.named_parameters())


def test_an_encoder_that_is_not_frozen_would_change() -> None:
    """What the test above rests on: in training mode one forward pass moves batch norm's statistics."""
    net = small()
    before = net.encoder.state_dict()["blocks.0.1.running_mean"].clone()
    net.train()(5 + images(4, 1, 16, 16))
    assert not torch.equal(before, net.encoder.state_dict()["blocks.0.1.running_mean"])


def test_a_classifier_is_built_by_its_architecture() -> None:
    encoder = {"kind": "unet_encoder", "in_channels": 1, "base_filters": 4, "depth": 2}
    net = build({"kind": "classifier", "encoder": encoder, "features": 16, "classes": 2})
    assert isinstance(net, EncoderClassifier) and isinstance(net.encoder, UNetEncoder)
    assert net.eval()(images(3, 1, 16, 16)).shape == (3, 2)
    with pytest.raises(RegistryError, match="architecture classifier"):
        build({"kind": "classifier", "encoder": encoder})


# -------------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    net, other = small(), MultiTaskModel(base_filters=4, depth=2)
    net(images(4, 1, 16, 16))  # batch norm's statistics are no longer the initial ones
    save_checkpoint(net.state_dict(), tmp_path / "net.pt")
    load_weights(other, load_state(tmp_path / "net.pt"), "net.pt")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in net.state_dict().items())


def renamed(state: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    return {after + key.removeprefix(before) if key.startswith(before) else key: value for key, value in state.items()}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: renamed(state, "seg_decoder.", "decoder."), ["missing", "seg_decoder.", "unexpected", "decoder."]),
        (lambda state: {key: value for key, value in state.items() if "running_mean" not in key}, ["missing", "running_mean"]),
        (lambda state: state | {"extra": torch.zeros(1)}, ["1 unexpected keys: extra"]),
        (lambda state: dict(small(base_filters=8).state_dict()), ["misshapen", "encoder.blocks.0.0.weight"]),
        (lambda state: dict(small(depth=3).state_dict()), ["unexpected", "encoder.blocks.3"]),
    ],
    ids=["decoder instead of seg_decoder", "no statistics", "a key too many", "another width", "another depth"],
)
def test_every_key_of_a_checkpoint_is_accounted_for(spoil: Any, words: list[str]) -> None:
    net = small()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(net, spoil(dict(small().state_dict())), "a.pt")
    assert all(word in str(error.value) for word in ["checkpoint a.pt", "MultiTaskModel", *words]), error.value
    assert "feature_size" not in str(error.value)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize(("filters", "depth"), [(4, 2), (6, 1), (32, 3)])
def test_weights_tell_the_size_of_their_network(filters: int, depth: int) -> None:
    state = MultiTaskModel(base_filters=filters, depth=depth).state_dict()
    assert size_of(state) == {"base_filters": filters, "depth": depth}
    assert size_of(part(state, "cls_head")) is None


def test_a_part_of_the_weights_has_the_parts_own_keys() -> None:
    net = small()
    assert part(net.state_dict(), "encoder").keys() == net.encoder.state_dict().keys()
    assert part(net.state_dict(), "encode") == {}


def test_a_head_takes_features_that_hardly_differ() -> None:
    features = 5 + 1e-4 * torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    head = ClassificationHead(16)
    alike = head(features).std(dim=0)
    head.standardise(features)
    assert bool((head(features).std(dim=0) > 100 * alike).all())
    assert sum(parameter.numel() for parameter in head.parameters()) == 17 * 256 + 257 * 2, "they are no parameters"


def test_statistics_can_be_kept_while_the_rest_trains() -> None:
    net = small()
    net.keep_statistics = True
    before = {key: value.clone() for key, value in net.state_dict().items() if "running" in key}
    net.train()(5 + 3 * images(4, 1, 16, 16))
    assert before and all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
