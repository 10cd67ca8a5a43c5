"""MeanFlow's loss by channel, and what a training of the fit loop minimises by it.

Geng et al., "Mean Flows for One-step Generative Modeling" (2025); "Improved Mean Flows" (2025) for the predicted tangent.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from medexp.config.training import FlowLossConfig
from medexp.errors import DataError, TrainingDiverged
from medexp.models.meanflow.sampling import noise
from medexp.training.loop import Batch, Objective

_ADAPTIVE_POWER, _ADAPTIVE_FLOOR = 0.75, 1e-3
_SCORES = "blxd,blyd->blxy"  # of queries with keys, as MONAI writes it


@dataclass
class MeanFlowLoss:
    """MeanFlow's loss of latents.

    With z_t = (1 - t) z + t eps and v = eps - z it is the mean over a batch of w(t) times the sum over channels of
    lambda |V - v|^p, V = u(z_t, t, r) + (t - r) du/dt. No gradient goes through du/dt, so it is taken first, without any, of
    the cases with r below t alone, and by the network in eval mode; then comes one plain pass forward of the whole batch,
    through what a launch of several processes has put around the network.

    Attributes:
        config: Powers, weights, times and tangent.
        image_channels: How many of the first channels are the image's; the others are the mask's.
        epochs: Of the training, for `curriculum`.
    """

    config: FlowLossConfig
    image_channels: int
    epochs: int
    _at: tuple[int, int] = field(default=(-1, 0), init=False)  # epoch, and steps that it has had

    def __call__(self, module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Loss of a batch, with times and noise from torch's global generators.

        Args:
            module: The network, as a launch has wrapped it.
            batch: `z`: standardised latents (B, C, X, Y, Z).
            epoch: From 0.

        Returns:
            `loss`; `image` and, of latents with channels of a mask, `mask`: sums over their channels, not weighted by w(t).

        Raises:
            TrainingDiverged: du/dt is not finite; the message names step and layer.
            DataError: It is not in the first step, before anything was trained: what went in is at fault.
        """
        self._at = (epoch, self._at[1] + 1 if self._at[0] == epoch else 1)
        z = batch["z"]
        t, r = (times.to(z.device) for times in self.times(len(z), self.unequal(epoch)))
        parts = self.parts(module, z, torch.randn_like(z), t, r)
        error = parts.sum(dim=1)
        loss = (self._weights(error.detach()) * error).mean()
        return {"loss": loss} | {name: value.mean().detach() for name, value in self.named(parts).items()}

    def unequal(self, epoch: int) -> float:
        """Share of a batch with r below t in an epoch: from 0 it rises over the first `curriculum` of all epochs."""
        rise = self.config.curriculum * self.epochs
        return self.config.unequal * (min(1.0, epoch / rise) if rise else 1.0)

    def parts(self, module: nn.Module, z: Tensor, eps: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """lambda |V - v|^p by case and channel (B, C), averaged over voxels.

        Args:
            module: The network, wrapped or not.
            z: Latents (B, C, X, Y, Z).
            eps: Noise of the same shape.
            t: Times (B,) in [0, 1].
            r: Times (B,), at most t.
        """
        config, channels = self.config, z.shape[1]
        z_t, v = _between(z, eps, t), eps - z
        derivative = torch.zeros_like(z)
        if bool((some := r < t).any()):
            derivative[some] = self._derivative(extract_model_from_parallel(module), z_t[some], v[some], t[some], r[some])
        gap = module(z_t, t, r) + _spread(t - r) * derivative - v
        masks = channels - self.image_channels
        p = torch.tensor([config.p_img] * self.image_channels + [config.p_mask] * masks, device=z.device)
        weight = torch.tensor([config.lambda_img] * self.image_channels + [config.lambda_mask] * masks, device=z.device)
        return weight * gap.abs().pow(p.view(1, -1, 1, 1, 1)).flatten(2).mean(dim=2)

    def _derivative(self, net: nn.Module, z_t: Tensor, v: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """du/dt along the flow, without gradient."""
        with _judged(net), torch.no_grad():
            along = v if self.config.tangent == "conditional" else net(z_t, t, t)
            found = _jvp(net, z_t, along, t, r)
            if not bool(found.isfinite().all()):
                untrained = self._at == (0, 1)
                raise (DataError if untrained else TrainingDiverged)(self._told(net, z_t, along, t, r))
        return found

    def _told(self, net: nn.Module, z_t: Tensor, along: Tensor, t: Tensor, r: Tensor) -> str:
        epoch, step = self._at
        where = f"in step {step} of epoch {epoch + 1}" if step else "in validation"
        told = f"MeanFlow: the Jacobian-vector product is not finite {where}, "
        lower = "nothing is trained yet, so the base is at fault: give another" if self._at == (0, 1) else "lower training.lr"
        if not bool(z_t.isfinite().all()):
            return f"{told}for the latents are not; look for volumes whose values are not finite, and prepare them again"
        if not bool(along.isfinite().all()):
            return f"{told}for the network's own velocity is not; {lower}, or set loss.tangent=conditional"
        layer, what = _first_not_finite(net, z_t, along, t, r)
        return f"{told}first the {what} of layer {layer}; {lower}"

    def times(self, count: int, unequal: float, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Times t >= r (B,) on the CPU; r is below t in a share `unequal` of them, on average."""
        normal = torch.randn(count, 2, generator=generator) * self.config.time_sd + self.config.time_mean
        even = torch.rand(count, 2, generator=generator) < self.config.uniform
        drawn = torch.where(even, torch.rand(count, 2, generator=generator), normal.sigmoid())
        t, r = drawn.amax(dim=1), drawn.amin(dim=1)
        some = torch.arange(count) < torch.floor(count * unequal + torch.rand((), generator=generator))
        return t, torch.where(some, r, t)

    def _weights(self, error: Tensor) -> Tensor:
        if self.config.time_weight == "uniform":
            return torch.ones_like(error)
        return (error + _ADAPTIVE_FLOOR).pow(-_ADAPTIVE_POWER)

    def named(self, parts: Tensor) -> dict[str, Tensor]:
        """Sums over the channels of image and mask, by case."""
        image, mask = parts.tensor_split([self.image_channels], dim=1)
        return {"image": image.sum(dim=1)} | ({"mask": mask.sum(dim=1)} if mask.shape[1] else {})


def meanflow_objective(
    config: FlowLossConfig,
    *,
    image_channels: int,
    epochs: int,
    val: Tensor,
    patients: Sequence[str],
    seed: int,
    batch_size: int,
    draws: int = 2,
) -> Objective:
    """What a training of the fit loop minimises, and how it is judged: by the same loss, w(t) and curriculum apart, of the
    validation cases at the same times and with the same noise each time.

    Args:
        config: The loss.
        image_channels: How many of the first channels are the image's.
        epochs: Of the training.
        val: Standardised latents (N, C, X, Y, Z) of the validation cases.
        patients: Of these.
        seed: Of their times and noise.
        batch_size: Cases at a time.
        draws: How many noises each case has, and times both with r below t and with r = t; its value is their mean, with the
            weights that both have in the training.
    """
    loss, judged = MeanFlowLoss(config, image_channels, epochs), MeanFlowLoss(config, image_channels, epochs)
    shape = tuple(val.shape[1:])

    @torch.no_grad()
    def validate(module: nn.Module, epoch: int) -> dict[str, float | pd.Series]:
        device = next(module.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros(val.shape[:2])
        for draw in range(draws):
            eps = noise(len(val), shape, seed, first=draw * len(val))
            for unequal, weight in ((1.0, config.unequal), (0.0, 1 - config.unequal)):
                times = judged.times(len(val), unequal, generator)
                parts = zip(*(one.split(batch_size) for one in (val.cpu(), eps, *times)), strict=True)
                found = [judged.parts(module, *(one.to(device) for one in part)).cpu() for part in parts if weight]
                total += weight / draws * (torch.cat(found) if found else 0)
        scores = {"loss": total.sum(dim=1)} | judged.named(total)
        return {name: pd.Series(value.tolist(), index=list(patients)) for name, value in scores.items()}

    return Objective(loss, validate, "loss", "minimize")


def _spread(times: Tensor) -> Tensor:
    return times.view(-1, 1, 1, 1, 1)


def _between(z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    return (1 - _spread(t)) * z + _spread(t) * eps


class _AttentionRules(TorchFunctionMode):
    """Forward derivatives of MONAI's attention with fewer passes over its matrix of all tokens by all tokens, which is what
    takes the time: torch's own rules take a softmax's exponentials again, and add two products where one does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.einsum and args[0] == _SCORES:
            (q, dq), (k, dk) = (forward_ad.unpack_dual(one) for one in args[1:])
            if dq is not None and dk is not None:
                both = torch.cat([dq, q], dim=-1), torch.cat([k, dk], dim=-1)
                return forward_ad.make_dual(torch.einsum(_SCORES, q, k), torch.einsum(_SCORES, *both))
        if func is torch.Tensor.softmax:
            scores, tangent = forward_ad.unpack_dual(args[0])
            if tangent is not None:
                p = scores.softmax(**kwargs)
                tangent.mul_(p)  # in place: it was made for this softmax alone
                tangent.addcmul_(p, tangent.sum(**kwargs, keepdim=True), value=-1)
                return forward_ad.make_dual(p, tangent)
        return func(*args, **(kwargs or {}))


def _jvp(net: nn.Module, z_t: Tensor, along: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """d/dt u(z_t, t, r) where z_t moves along a velocity: the Jacobian-vector product with (velocity, 1, 0)."""
    with forward_ad.dual_level(), _AttentionRules():
        u = net(forward_ad.make_dual(z_t, along), forward_ad.make_dual(t, torch.ones_like(t)), r)
        return torch.as_tensor(forward_ad.unpack_dual(u).tangent)


@contextmanager
def _judged(net: nn.Module) -> Iterator[None]:
    """In eval mode: what is learned from has no dropout of its own."""
    was = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was)


def _first_not_finite(net: nn.Module, z_t: Tensor, along: Tensor, t: Tensor, r: Tensor) -> tuple[str, str]:
    """The first layer whose value or derivative is not finite, and which of both, in a pass that looks at each."""
    found: list[tuple[str, str]] = []

    def look(name: str, output: object) -> None:
        if isinstance(output, Tensor) and not found:
            value, tangent = forward_ad.unpack_dual(output)
            if not bool(value.isfinite().all()):
                found.append((name, "output"))
            elif tangent is not None and not bool(tangent.isfinite().all()):
                found.append((name, "derivative"))

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, layer in net.named_modules()
        if name
    ]
    try:
        _jvp(net, z_t, along, t, r)
    finally:
        for hook in hooks:
            hook.remove()
    layer, what = (found or [("the last one", "derivative")])[0]
    return layer.removeprefix("base_model.model."), what
