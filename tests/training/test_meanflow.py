"""MeanFlow's loss: the formula, its cheap form, what it says when it breaks; what a training by it is judged by."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medexp.config.training import FlowLossConfig, TrainingConfig
from medexp.errors import DataError, TrainingDiverged
from medexp.models.meanflow.lora import inject_lora
from medexp.models.meanflow.network import MeanFlowUNet, widen
from medexp.reporting import NullReporter
from medexp.training.loop import Group, fit
from medexp.training.meanflow import MeanFlowLoss, meanflow_objective

LOSS = FlowLossConfig(
    p_img=1.5,
    p_mask=2.0,
    lambda_img=1.0,
    lambda_mask=0.5,
    time_weight="uniform",
    tangent="conditional",
    unequal=0.5,
    curriculum=0.0,
    uniform=0.5,
    time_mean=-0.4,
    time_sd=1.0,
)


def network(lora: bool = True, dropout: float = 0.0) -> nn.Module:
    """Random weights everywhere, and an adapter that is no longer at its start."""
    torch.manual_seed(0)
    net = MeanFlowUNet(4, (8, 16), (False, True), (0, 8), 1, 4)
    widen(net, 8)
    module: nn.Module = inject_lora(net, 4, 4.0, dropout=dropout) if lora else net
    for parameter in module.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.05)
    return module


def batch(size: int = 4, channels: int = 8) -> dict[str, Tensor]:
    """Latents, noise, and times of which some are equal."""
    generator = torch.Generator().manual_seed(3)
    z, eps = (torch.randn(size, channels, 4, 4, 4, generator=generator) for _ in range(2))
    t = torch.tensor([0.875, 0.25, 0.5, 1.0])[:size]
    return {"z": z, "eps": eps, "t": t, "r": torch.tensor([0.125, 0.25, 0.0, 1.0])[:size]}


def naive(net: nn.Module, given: dict[str, Tensor], config: FlowLossConfig) -> Tensor:
    """Eq. 28 as it is written: one product with gradients for the whole batch, a loop over channels."""
    z, eps, t, r = given.values()
    wide = t.view(-1, 1, 1, 1, 1), r.view(-1, 1, 1, 1, 1)
    z_t, v = (1 - wide[0]) * z + wide[0] * eps, eps - z
    along = v if config.tangent == "conditional" else net(z_t, t, t).detach()
    ones, zeros = torch.ones_like(t), torch.zeros_like(r)
    u, derivative = torch.func.jvp(net, (z_t, t, r), (along, ones, zeros))
    gap = u + (wide[0] - wide[1]) * derivative.detach() - v
    total = torch.zeros(len(z))
    for channel in range(z.shape[1]):
        p, weight = (config.p_img, config.lambda_img) if channel < 4 else (config.p_mask, config.lambda_mask)
        total = total + weight * (gap[:, channel].abs() ** p).mean(dim=(1, 2, 3))
    return total.mean()


@pytest.mark.parametrize("tangent", ["conditional", "predicted"])
@pytest.mark.parametrize("lora", [True, False])
def test_the_cheap_form_has_the_loss_and_the_gradients_of_the_formula(tangent: Any, lora: bool) -> None:
    """A product without gradient of the cases with r below t alone, then a plain pass."""
    net, given, config = network(lora), batch(), replace(LOSS, tangent=tangent)
    plain, cheap = copy.deepcopy(net), copy.deepcopy(net)
    expected = naive(plain, given, config)
    found = MeanFlowLoss(config, 4, 1).parts(cheap, *given.values()).sum(dim=1).mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    expected.backward()
    found.backward()
    some = 0
    for (name, one), other in zip(plain.named_parameters(), cheap.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) == (not one.requires_grad), name
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5)
            some += bool(one.grad.any())
    assert some > 10


def test_without_the_derivative_it_is_another_loss() -> None:
    net, given = network(), batch()
    whole = MeanFlowLoss(LOSS, 4, 1).parts(net, *given.values())
    flow = MeanFlowLoss(LOSS, 4, 1).parts(net, given["z"], given["eps"], given["t"], given["t"])
    assert bool(((whole - flow).abs() > 1e-3)[[0, 2]].any()) and torch.allclose(whole[[1, 3]], flow[[1, 3]], atol=1e-5)
    predicted = MeanFlowLoss(replace(LOSS, tangent="predicted"), 4, 1).parts(net, *given.values())
    assert not torch.allclose(predicted[[0, 2]], whole[[0, 2]], rtol=1e-3)


class Known(nn.Module):
    """u = a z t^2 + b r, whose derivative along (v, 1, 0) is a v t^2 + 2 a z t."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7))

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.a * z * t.view(-1, 1, 1, 1, 1) ** 2 + 0.3 * r.view(-1, 1, 1, 1, 1)


@settings(max_examples=25, deadline=None)
@given(
    t=st.floats(0, 1, width=32),
    gap=st.floats(0, 1, width=32),
    p=st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    seed=st.integers(0, 99),
)
def test_the_loss_of_a_known_velocity(t: float, gap: float, p: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, eps = (torch.randn(1, 5, 2, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    r, a = t * (1 - gap), float(torch.tensor(0.7))
    z_t, v = (1 - t) * z + t * eps, eps - z
    compound = a * z_t * t**2 + 0.3 * r + (t - r) * (a * v * t**2 + 2 * a * z_t * t) - v
    weights = torch.tensor([1.0, 1, 1, 1, 0.5], dtype=torch.float64)
    expected = torch.cat([compound[:, :4].abs() ** p, compound[:, 4:] ** 2], dim=1).mean(dim=(2, 3, 4)) * weights
    times = (torch.tensor([value], dtype=torch.float64) for value in (t, r))
    found = MeanFlowLoss(replace(LOSS, p_img=p), 4, 1).parts(Known(), z, eps, *times)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_the_product_is_that_of_finite_differences() -> None:
    """In float64; the embedding of times is of float32 whatever it is given, so its step is larger."""
    net, given = network().double().eval(), {name: value.double() for name, value in batch().items()}
    z, v, t, r = given["z"], given["eps"] - given["z"], given["t"].clamp(max=0.875), given["r"]
    with torch.no_grad():
        for along, time, step, tolerance in ((v, 0.0, 1e-5, 1e-6), (torch.zeros_like(v), 1.0, 2.0**-7, 2e-3)):
            tangents = along, torch.full_like(t, time), torch.zeros_like(r)
            product = torch.func.jvp(net, (z, t, r), tangents)[1]
            ahead, behind = (net(z + sign * step * along, t + sign * step * time, r) for sign in (1, -1))
            difference = (ahead - behind) / (2 * step)
            assert float((product - difference).norm() / difference.norm()) < tolerance
            assert float(difference.norm()) > 1e-2


def test_dropout_is_for_what_learns_and_not_for_what_is_learned_from() -> None:
    net, given = network(dropout=0.5).train(), batch()
    seen: list[bool] = []
    net.get_submodule("base_model.model").register_forward_pre_hook(lambda module, _: seen.append(module.training))
    MeanFlowLoss(LOSS, 4, 1).parts(net, *given.values())
    assert seen == [False, True] and net.training


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40),
    unequal=st.floats(0, 1),
    uniform=st.floats(0, 1),
    mean=st.floats(-4, 4),
    sd=st.floats(0.1, 20),
    seed=st.integers(0, 999),
)
def test_times_are_in_order_and_unequal_in_their_share(count, unequal, uniform, mean, sd, seed) -> None:
    loss = MeanFlowLoss(replace(LOSS, uniform=uniform, time_mean=mean, time_sd=sd), 4, 1)
    t, r = loss.times(count, unequal, torch.Generator().manual_seed(seed))
    assert t.shape == r.shape == (count,)
    assert bool(((r >= 0) & (r <= t) & (t <= 1)).all())
    assert int((r < t).sum()) <= count * unequal + 1
    if sd < 2:
        assert int((r < t).sum()) >= count * unequal - 1


def test_the_share_is_right_on_average_and_rises_with_the_curriculum() -> None:
    loss = MeanFlowLoss(replace(LOSS, unequal=0.3, curriculum=0.5), 4, 10)
    generator = torch.Generator().manual_seed(0)
    shares = [float((r < t).float().mean()) for t, r in (loss.times(2, 0.3, generator) for _ in range(2000))]
    assert abs(np.mean(shares) - 0.3) < 0.02
    assert [round(loss.unequal(epoch), 3) for epoch in (0, 1, 4, 5, 9)] == [0.0, 0.06, 0.24, 0.3, 0.3]
    assert MeanFlowLoss(LOSS, 4, 10).unequal(0) == 0.5


def test_the_adaptive_weight_makes_every_case_count_about_as_much() -> None:
    given = batch(2)["z"] * torch.tensor([1.0, 30.0]).view(2, 1, 1, 1, 1)
    ratios = {}
    for weight in ("uniform", "adaptive"):
        net = network()
        loss = MeanFlowLoss(replace(LOSS, time_weight=weight), 4, 1)  # type: ignore[arg-type]
        norms = []
        for one in given:
            torch.manual_seed(0)
            net.zero_grad()
            loss(net, {"z": one[None]}, 0)["loss"].backward()
            norms.append(float(torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()))
        ratios[weight] = norms[1] / norms[0]
    assert ratios["adaptive"] < ratios["uniform"] / 5


# ----------------------------------------------------------------------------------------------------- what it says, breaking


def test_a_product_that_is_not_finite_stops_with_step_and_layer() -> None:
    net, loss = network(), MeanFlowLoss(replace(LOSS, unequal=1.0), 4, 9)
    for _ in range(2):
        loss(net, {"z": batch()["z"]}, 6)
    net.get_submodule("base_model.model.unet.middle_block.attention.norm").bias.data[0] = torch.inf  # type: ignore[union-attr, index, operator]
    with pytest.raises(TrainingDiverged) as error:
        loss(net, {"z": batch()["z"]}, 6)
    told = str(error.value)
    assert "in step 3 of epoch 7" in told and "the output of layer unet.middle_block.attention.norm;" in told
    with pytest.raises(TrainingDiverged, match="in step 1 of epoch 8"):
        loss(net, {"z": batch()["z"]}, 7)
    with pytest.raises(TrainingDiverged, match="for the latents are not"):
        loss(net, {"z": batch()["z"] * torch.nan}, 7)
    with pytest.raises(DataError, match="network's own velocity is not; nothing is trained yet, so the base is at fault"):
        MeanFlowLoss(replace(LOSS, unequal=1.0, tangent="predicted"), 4, 9)(net, {"z": batch()["z"]}, 0)


class Root(nn.Module):
    """A layer whose value is finite at 0 and whose derivative is not."""

    def forward(self, x: Tensor) -> Tensor:
        return (0 * x).sqrt()


class WithRoot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.root = nn.Conv3d(8, 8, 1), Root()

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.root(self.first(z) * (t - r).view(-1, 1, 1, 1, 1))


def test_a_derivative_that_is_not_finite_where_the_value_is() -> None:
    net = WithRoot()
    with pytest.raises(DataError, match="first the derivative of layer root;"):
        MeanFlowLoss(replace(LOSS, unequal=1.0), 4, 1)(net, {"z": batch()["z"]}, 0)
    assert not any(layer._forward_hooks for layer in net.modules())


# ------------------------------------------------------------------------------------------------------------------ a training


class Latents(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Tensor]:
        return {"z": batch()["z"][key[1]]}


def test_a_training_gets_better_on_cases_that_are_judged_alike_each_time(tmp_path: Path) -> None:
    net = network()
    training = TrainingConfig(6, "adamw", 0.0, 4, 1, "cosine", 1, 1.0, "fp32", 1, 0, 0)
    config = replace(LOSS, curriculum=0.5)
    val, patients = batch()["z"], ["a", "a", "b", "c"]
    objective = meanflow_objective(config, image_channels=4, epochs=6, val=val, patients=patients, seed=5, batch_size=3)
    first = objective.validate(net.eval(), 0)
    again = objective.validate(net, 3)
    assert all(first[name].equals(again[name]) for name in ("loss", "image", "mask"))  # type: ignore[union-attr]
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    result = fit(
        net,
        [Group("lora", 2e-2, trained)],
        Latents(),
        objective,
        training,
        seed=0,
        accelerator=Accelerator(cpu=True),
        reporter=NullReporter(),
        folder=tmp_path,
        title="meanflow",
        ema=0.5,
    )
    history = result.history
    assert {"train/loss", "train/loss_image", "train/loss_mask", "val/loss", "val/image", "val/mask"} <= set(history)
    assert history["val/loss"].iloc[-1] < float(np.mean(first["loss"]))
    assert np.allclose(history["val/loss"], history["val/image"] + history["val/mask"])
    assert result.patients == patients and result.cases.shape == (6, 4)
    last = objective.validate(net, 0)["loss"]
    assert float(np.mean(last)) == history["val/loss"].iloc[-1], "what was validated last is what is kept"


def test_latents_of_images_alone_have_no_part_of_a_mask() -> None:
    torch.manual_seed(0)
    net = MeanFlowUNet(4, (8, 16), (False, True), (0, 8), 1, 4)
    found = MeanFlowLoss(LOSS, 4, 1)(net, {"z": batch(channels=4)["z"]}, 0)
    assert set(found) == {"loss", "image"} and torch.equal(found["loss"], found["image"])
