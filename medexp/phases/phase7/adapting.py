"""The adapter on its base: how masks stand in latents, the training, and what it is shown to be."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from medexp.checks import Check
from medexp.evaluation.latents import FCDDataset
from medexp.evaluation.synthesis import Pairs, dice
from medexp.files import replacing
from medexp.models.meanflow.joint import Joint, Strategy
from medexp.models.meanflow.lora import (
    PROJECTIONS,
    Counts,
    counts,
    expected_lora_parameters,
    inject_lora,
    load_lora,
    save_lora,
)
from medexp.models.meanflow.network import NEW, widen
from medexp.models.meanflow.sampling import noise
from medexp.phases.phase7 import checks
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.phase7.reading import Base
from medexp.phases.shared.context import Context
from medexp.registry.synthesis import Generator
from medexp.tracking.figures import pairs
from medexp.training.loop import FitResult, Group, Objective
from medexp.training.meanflow import meanflow_objective

STRATEGIES: Sequence[Strategy] = ("vae", "downsample")
MASK_TEST = "mask_vae_test.json"
_TRIED = 2  # samples by which networks are held against each other


@dataclass(frozen=True)
class Encoded:
    """Pairs as latents, which every training on them starts from.

    Attributes:
        joint: What turns one into the other.
        tested: P7-T1, of what `joint` is.
        latents: Of the training pairs, `train`, and of those by which the loss is told of after some epochs, `val`.
        patients: Of the latter.
        affine: From the voxels of what is drawn to RAS+ mm.
    """

    joint: Joint
    tested: Check
    latents: Mapping[str, FCDDataset]
    patients: Sequence[str]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Trained:
    """An adapter that was trained.

    Attributes:
        net: The base, widened, with the adapter on it, in eval mode.
        generator: What draws with it.
        fitted: The training.
        counts: Parameters that train, by what they are.
        checks: P7-T1 to P7-T4 and P7-PULL.
    """

    net: PeftModel
    generator: Generator
    fitted: FitResult
    counts: Counts
    checks: tuple[Check, ...]


def joint_of(ctx: Context[Phase7Config], base: Base, train: Pairs, held: Pairs) -> tuple[Joint, Check]:
    """How pairs become latents: by each strategy masks are encoded and decoded, and P7-T1 says which one it is to be.

    The threshold that makes a mask of what is decoded is chosen on the training masks, and Dice is told of the held-out ones.
    Latents of images are standardised as the base knows them, those of masks by the training masks. Writes
    `mask_vae_test.json`.
    """
    config, vae = ctx.config, base.joint.vae.to(ctx.device)
    joints, tested = {}, {}
    for strategy in STRATEGIES:
        joints[strategy] = joint = Joint.fit(vae, None, in_each(train.masks), strategy, config.data.pooling, base.joint)
        back = [joint.masks(joint.returned(mask[None].to(ctx.device)))[0, 0].cpu().numpy() for mask in in_each(held.masks)]
        scores = [float(dice(one[None], mask[None])[0, 0]) for one, mask in zip(back, held.masks, strict=True)]
        tested[strategy] = {"dice": float(np.mean(scores)), "threshold": joint.threshold, "dice_by_case": scores}
    means: dict[str, float] = {name: float(one["dice"]) for name, one in tested.items()}  # type: ignore[arg-type]
    asked = config.data.mask_strategy
    used = asked if asked != "auto" else "vae" if means["vae"] > config.target.mask_dice else "downsample"
    if ctx.accelerator.is_main_process:
        told = {"used": used, "bar": config.target.mask_dice, "cases": len(held.masks), "strategies": tested}
        with replacing(ctx.run.folder / MASK_TEST) as temporary:
            temporary.write_text(json.dumps(told, indent=2) + "\n")
        ctx.run.reporter.file(ctx.run.folder / MASK_TEST)
    return joints[used], checks.round_trip(means, used, asked, config.target.mask_dice)


def adapted(
    ctx: Context[Phase7Config],
    base: Base,
    given: Encoded,
    arm: str = "",
) -> Trained:
    """Train an adapter, and what is new in the first and the last convolution, on the base.

    Args:
        ctx: Where it is logged, and goes on from.
        base: The base, whose weights stay as they are.
        given: What it is trained on.
        arm: Which training it is, where there are several; empty: the one.
    """
    config, joint = ctx.config, given.joint
    net = base.network().to(ctx.device)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    shape = joint.latent_shape(config.data.input_size)
    z = noise(_TRIED, shape, config.seed).to(ctx.device)
    image = net.channels
    with torch.inference_mode():
        alone = _velocities(net, z[:, :image])
    widen(net, joint.channels)
    targets = [PROJECTIONS[name] for name in config.lora.target_modules]
    torch.manual_seed(config.seed)
    peft = inject_lora(
        net,
        config.lora.rank,
        config.lora.alpha,
        targets,
        config.lora.boundary,
        config.lora.dropout,
    )
    with torch.inference_mode():
        first = _velocities(peft, z)
    layers = sum(isinstance(one, LoraLayer) for one in peft.modules())
    injected = checks.injects(float((first[:, :image] - alone).abs().max()), bool(first.isfinite().all()), layers)
    fitted = ctx.fit(
        peft,
        _groups(peft, config),
        given.latents["train"],
        _objective(ctx, given),
        title=f"training the adapter{f', {arm}' if arm else ''}",
        arm=arm,
        prefix=f"{arm}/" if arm else "",
        ema=config.training.ema,
    )
    moved = changed(peft, before, config.lora.boundary)
    counted, expected = counts(peft), expected_lora_parameters(base.architecture, config.lora.rank, targets)
    generator = Generator(peft, joint, config.data.input_size, given.affine, "the adapter")
    return Trained(
        peft,
        generator,
        fitted,
        counted,
        (
            given.tested,
            injected,
            checks.trains(counted, expected, config.lora.boundary, moved, config.target.trainable),
            checks.falls(fitted.history),
            _pulled(ctx, base, generator),
        ),
    )


def changed(peft: PeftModel, before: Mapping[str, Tensor], boundary: str) -> list[str]:
    """The base's tensors, by name, that are no longer what they were, but for the convolutions that were to be trained."""
    found = {}
    for name, tensor in peft.get_base_model().state_dict().items():
        parts = [part for part in name.split(".") if part not in ("base_layer", "base", "original_module")]
        if (
            "modules_to_save" not in parts
            and NEW.strip(".") not in parts
            and not any(part.startswith("lora_") for part in parts)
        ):
            found[".".join(parts)] = tensor
    return sorted(name for name, tensor in before.items() if name not in found or not torch.equal(found[name], tensor))


def _objective(ctx: Context[Phase7Config], given: Encoded) -> Objective:
    """MeanFlow's, and a picture of the same samples after each epoch that is validated."""
    config, joint, val = ctx.config, given.joint, given.latents["val"]
    objective = meanflow_objective(
        config.loss,
        image_channels=joint.vae.latent_channels,
        epochs=config.training.epochs,
        val=torch.stack([val[place]["z"] for place in range(len(val))]),
        patients=given.patients,
        seed=config.seed,
        batch_size=config.training.batch_size,
    )

    def validate(module: nn.Module, epoch: int) -> Mapping[str, Any]:
        def drawn() -> Figure:
            generator = Generator(module, joint, config.data.input_size, given.affine, "the adapter")
            samples = generator.draw(config.sampling.shown, 0, config.sampling.steps[0])
            return pairs({"drawn": samples}, f"the same samples after epoch {epoch + 1}", config.data.spacing)

        ctx.picture("samples", epoch, drawn)
        return objective.validate(module, epoch)

    return replace(objective, validate=validate)


def _pulled(ctx: Context[Phase7Config], base: Base, generator: Generator) -> Check:
    """P7-PULL: what is saved of the adapter, on a base that is made anew."""
    config = ctx.config
    with tempfile.TemporaryDirectory(dir=ctx.run.folder, prefix=".adapter.") as folder:
        assert isinstance(generator.net, PeftModel)
        save_lora(generator.net, Path(folder))
        net = base.network()
        widen(net, generator.joint.channels)
        again = replace(generator, net=load_lora(net, Path(folder)).to(ctx.device))
        (images, masks), (others, their_masks) = (one.draw(_TRIED, config.seed) for one in (generator, again))
    return checks.pull(float(np.abs(images - others).max()), int((masks != their_masks).sum()))


def _groups(peft: PeftModel, config: Phase7Config) -> list[Group]:
    learns = {name: one for name, one in peft.named_parameters() if one.requires_grad}
    adapters = [one for name, one in learns.items() if "lora_" in name]
    others = [one for name, one in learns.items() if "lora_" not in name]
    return [Group("lora", config.training.lr, adapters, key="training.lr"), Group("new", config.training.lr_new, others)]


def _velocities(net: nn.Module, given: Tensor) -> Tensor:
    return net(given, torch.ones(len(given), device=given.device), torch.zeros(len(given), device=given.device))


def in_each(volumes: NDArray[Any]) -> Iterator[Tensor]:
    """Volumes (N, X, Y, Z) one by one, float32 (1, X, Y, Z)."""
    return (torch.from_numpy(np.ascontiguousarray(one))[None].float() for one in volumes)
