"""Heads of OCT classifiers: linear, with a hidden layer, attentive; several side by side; and on an encoder, frozen or not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import VJEPA2Config
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

from medexp.errors import RegistryError
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.heads import (
    AttentiveHead,
    AttentivePooling,
    ClassificationHead,
    Head,
    HeadsSideBySide,
    Rates,
    head_on,
    head_parameters,
)
from medexp.models.kinds import build, kind_of

ENCODER = {"kind": "vit3d", "size": [8, 32, 32], "patch": [4, 16, 16], "dim": 24, "depth": 1, "heads": 2}
CLASSIFIER = {"kind": "oct_classifier", "encoder": ENCODER, "classes": 4}
HEADS = pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "mean"},
        {"pooling": "mean", "hidden": 8, "dropout": 0.2},
        {"pooling": "attentive"},
        {"pooling": "attentive", "hidden": 8, "dropout": 0.2},
    ],
    ids=["linear", "mlp", "attentive", "attentive mlp"],
)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(**settings: Any) -> Head:
    torch.manual_seed(0)
    return head_on(24, 4, **settings)


def given(head: Head | HeadsSideBySide, cases: int = 3) -> Tensor:
    return seeded(cases, 7, 24) if head.takes == "tokens" else seeded(cases, 24)


def test_a_linear_head_is_the_one_that_is_described() -> None:
    head = head_on(768, 4, dropout=0.1)
    assert sum(parameter.numel() for parameter in head.parameters()) == 3076
    assert set(head.state_dict()) == {"feature_mean", "feature_scale", "layers.0.weight", "layers.0.bias"}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_hidden_layer_keeps_the_keys_that_registered_heads_have(dropout: float) -> None:
    head = ClassificationHead(16, 2, dropout=dropout)
    names = [f"layers.{place}.{part}" for place in (0, 2) for part in ("weight", "bias")]
    assert [key for key in head.state_dict() if key.startswith("layers")] == names
    assert sum(parameter.numel() for parameter in head.parameters()) == head_parameters(16)


@HEADS
def test_every_parameter_of_a_head_is_trained(settings: dict[str, Any]) -> None:
    head = made(**settings)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    before = {key: value.detach().clone() for key, value in head.named_parameters()}
    torch.manual_seed(1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(given(head)), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    bias = "pooling.k.bias"  # adds the same to the scores of all tokens, which a softmax does not see
    assert [key for key, value in head.named_parameters() if torch.equal(value, before[key]) and key != bias] == []


@HEADS
def test_a_head_gives_float32_logits_again_and_again(settings: dict[str, Any]) -> None:
    head = made(**settings).eval()
    with torch.no_grad():
        exact = head(given(head))
        assert exact.shape == (3, 4) and torch.equal(exact, made(**settings).eval()(given(head)))
        with torch.autocast("cpu", torch.bfloat16):
            rough = head(given(head))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)


def test_dropout_acts_in_training_alone() -> None:
    head = made(dropout=0.5)
    assert not torch.equal(head(given(head)), head(given(head)))
    assert torch.equal(head.eval()(given(head)), head(given(head)))


def test_standardised_features_are_what_a_head_sees() -> None:
    features = 100 + 5 * seeded(64, 24)
    head, plain = made(), made()
    assert isinstance(head, ClassificationHead)
    head.standardise(features)
    expected = plain((features - features.mean(0)) / features.std(0, correction=0))
    torch.testing.assert_close(head(features), expected)


def test_attentive_pooling_is_v_jepa_2s_own() -> None:
    """Against transformers' pooler, its self-attention layers left out."""
    config = VJEPA2Config(hidden_size=24, num_attention_heads=2, num_pooler_layers=0)
    torch.manual_seed(0)
    theirs = VJEPA2AttentivePooler(config).eval()
    ours = AttentivePooling(24, heads=2)
    nn.init.normal_(theirs.query_tokens)
    layer = theirs.cross_attention_layer
    pairs = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp": "mlp"}
    for name, other in pairs.items():
        ours.get_submodule(name).load_state_dict(layer.get_submodule(other).state_dict())
    for name in "qkv":
        ours.get_submodule(name).load_state_dict(layer.cross_attn.get_submodule(f"{name}_proj").state_dict())
    with torch.no_grad():
        ours.query.copy_(theirs.query_tokens)
        torch.testing.assert_close(ours(seeded(3, 7, 24)), theirs(seeded(3, 7, 24)))


@torch.no_grad()
def test_attention_finds_one_token_among_many_which_the_mean_loses() -> None:
    """Of the same tokens in another order it gives the same; of another token another."""
    head = made(pooling="attentive").eval()
    tokens = seeded(1, 7, 24)
    torch.testing.assert_close(head(tokens), head(tokens.flip(1)))
    changed = tokens.clone()
    changed[0, 3] *= -1
    assert not torch.allclose(head(tokens), head(changed))


def test_a_pooling_that_is_not_known_is_refused() -> None:
    with pytest.raises(RegistryError, match="pooling 'max'; known are mean and attentive"):
        head_on(24, 4, pooling="max")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- side by side


RATES = (Rates(1e-3, 1e-4), Rates(1e-1, 0.0), Rates(1e-3, 0.5))


def trained(module: nn.Module, groups: list[dict[str, Any]], loss: Any) -> None:
    optimizer = torch.optim.AdamW(groups)
    for _ in range(3):
        optimizer.zero_grad()
        loss(module).backward()
        optimizer.step()


@pytest.mark.parametrize("settings", [{}, {"hidden": 8}, {"pooling": "attentive"}], ids=["linear", "mlp", "attentive"])
def test_each_of_several_heads_becomes_what_it_becomes_alone(settings: dict[str, Any]) -> None:
    labels, weights = torch.tensor([0, 1, 3]), torch.tensor([1.0, 2.0, 1.0, 0.5])
    together = HeadsSideBySide(made(**settings), RATES)
    groups = [{"params": head.parameters(), "lr": one.lr, "weight_decay": one.weight_decay} for one, head in together]
    trained(together, groups, lambda net: net.loss(net(given(net)), labels, weights))
    for at, one in enumerate(RATES):
        alone = made(**settings)
        group = {"params": alone.parameters(), "lr": one.lr, "weight_decay": one.weight_decay}
        trained(alone, [group], lambda net: nn.functional.cross_entropy(net(given(net)), labels, weights))
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(together.chosen(at).state_dict()[key], value, atol=1e-6, rtol=1e-5)
    first, *others = (together.chosen(at).state_dict() for at in range(3))
    assert not any(all(torch.equal(first[key], other[key]) for key in first) for other in others), "rates make a difference"


def test_heads_side_by_side_are_standardised_alike_and_give_a_row_each() -> None:
    features = 5 + seeded(6, 24)
    net = HeadsSideBySide(made(), RATES)
    net.standardise(features)
    assert net(features).shape == (3, 6, 4)
    assert torch.equal(net(features)[0], net(features)[1]), "they begin alike"
    assert torch.equal(net.chosen(0).feature_mean, features.mean(0))  # type: ignore[arg-type]
    assert [one.name for one, _ in net] == ["lr0.001_wd0.0001", "lr0.1_wd0", "lr0.001_wd0.5"]


@pytest.mark.parametrize("rates", [[], [RATES[0], RATES[0]]])
def test_rates_that_say_nothing_are_refused(rates: list[Rates]) -> None:
    with pytest.raises(ValueError, match="at least one, and none twice"):
        HeadsSideBySide(made(), rates)


# ------------------------------------------------------------------------------------------------------------ on an encoder


def classifier(**settings: Any) -> EncoderClassifier:
    torch.manual_seed(0)
    net = build(CLASSIFIER | settings)
    assert isinstance(net, EncoderClassifier)
    return net


@HEADS
def test_an_oct_classifier_is_its_encoder_and_its_head(settings: dict[str, Any]) -> None:
    net = classifier(**settings).eval()
    volumes = seeded(2, 1, 8, 32, 32)
    encoded = net.encoder.tokens(volumes) if settings["pooling"] == "attentive" else net.encoder(volumes)  # type: ignore[operator]
    assert torch.equal(net(volumes), net.head(encoded)) and net(volumes).shape == (2, 4)
    assert kind_of(CLASSIFIER).inputs(CLASSIFIER)[""].shape == (-1, 1, 8, 32, 32)
    assert kind_of(CLASSIFIER).outputs(CLASSIFIER)[""].shape == (-1, 4)
    assert isinstance(net.head, AttentiveHead if settings["pooling"] == "attentive" else ClassificationHead)


def test_a_frozen_encoder_is_left_alone_and_one_that_is_not_trains() -> None:
    for frozen in (True, False):
        net = classifier(frozen=frozen)
        net.train()
        assert net.frozen is frozen and net.head.training and net.encoder.training is not frozen
        net(seeded(2, 1, 8, 32, 32)).square().sum().backward()
        assert [value.grad is None for value in net.encoder.parameters()] == [frozen] * len(list(net.encoder.parameters()))
        assert all(value.grad is not None for value in net.head.parameters())


def test_an_encoder_that_starts_later_is_frozen_until_then() -> None:
    net = classifier(frozen=False)
    net.encoder.requires_grad_(False)
    net.train()
    assert net.frozen and not net.encoder.training
    net.encoder.requires_grad_(True)
    net.train()
    assert not net.frozen and net.encoder.training


def test_heads_side_by_side_stand_on_one_pass_of_an_encoder() -> None:
    net = classifier()
    assert isinstance(net.head, ClassificationHead)
    several = EncoderClassifier(net.encoder, HeadsSideBySide(net.head, RATES))
    passes: list[int] = []
    net.encoder.register_forward_hook(lambda *_: passes.append(1))
    assert several(seeded(2, 1, 8, 32, 32)).shape == (3, 2, 4) and len(passes) == 1
