"""mode=base: a MeanFlow U-Net that draws healthy heads, on latents of MAISI's VAE or of the embedded one."""

import numpy as np
import torch

from medexp.arrays import Array
from medexp.data.pairs.prepared import prepare_pairs
from medexp.evaluation.synthesis import similarity
from medexp.models.checkpoints import weights_digest
from medexp.models.kinds import build
from medexp.models.meanflow.joint import Joint
from medexp.models.meanflow.network import MeanFlowUNet
from medexp.phases.phase7 import checks
from medexp.phases.phase7.adapting import in_each
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.phase7.pretrained import train_base
from medexp.phases.phase7.reading import BASE_MODEL, Base, network_of, read_vae, read_volumes
from medexp.phases.phase7.report import registered_base
from medexp.phases.shared.context import Context
from medexp.phases.shared.publishing import Summary, caveat
from medexp.registry.package import Parent
from medexp.registry.synthesis import Generator
from medexp.tracking.figures import curves, pairs


def make_base(ctx: Context[Phase7Config]) -> None:
    """Train a base on healthy volumes, judge what it draws, and register it with its VAE.

    Raises:
        DataError: The volumes cannot be used.
        CheckFailed: What it draws is no variety of heads.
    """
    config, sampling = ctx.config, ctx.config.sampling
    vae, vae_architecture = read_vae(ctx)
    with ctx.accelerator.main_process_first():
        data = prepare_pairs(config, masks=False)
    ctx.given(data, {"the volumes": data.digest}, "volumes")
    volumes = read_volumes(data, config)
    train, held = (volumes.of(data, split) for split in ("train", "val"))
    joint = Joint.fit(vae.to(ctx.device), in_each(train.images), None, "image")
    with ctx.accelerator.main_process_first():
        latents = {split: volumes.latents(data, split, joint, config, ctx.cache).latents for split in ("train", "val")}
    architecture = network_of(config, joint.channels)
    torch.manual_seed(config.seed)
    net = build(architecture)
    assert isinstance(net, MeanFlowUNet)
    fitted = train_base(
        net.to(ctx.device),
        torch.stack(latents["train"]),
        torch.stack(latents["val"]),
        held.patients,
        config.loss,
        config.training,
        seed=config.seed,
        accelerator=ctx.accelerator,
        reporter=ctx.run.reporter,
        folder=ctx.state(),
    )
    generator = Generator(net, joint.to(ctx.device), config.data.input_size, volumes.affine, BASE_MODEL)
    images = {steps: generator.draw(sampling.samples, 0, steps)[0] for steps in sampling.steps}
    real = likeness(held.images)
    alike = {steps: likeness(drawn) for steps, drawn in images.items()}
    ctx.check(checks.falls(fitted.history), checks.variety(alike, real))
    empty = np.zeros((sampling.shown, *config.data.input_size), bool)
    rows = {"real": (held.images[: sampling.shown], empty[: len(held.images)])}
    rows |= {f"steps: {steps}": (drawn[: sampling.shown], empty) for steps, drawn in images.items()}
    ctx.run.reporter.figure(pairs(rows, "healthy heads, real and drawn", config.data.spacing), "figures/pairs.png")
    ctx.run.reporter.figure(curves(fitted.history), "figures/curves.png")
    ctx.run.reporter.table(fitted.history, "training_log.csv")
    weights = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
    base = Base(
        architecture,
        weights,
        joint,
        vae_architecture,
        Parent(BASE_MODEL, None, None, weights_digest(weights)),
        learned_on=data,
    )
    registered_base(ctx, base, volumes.affine)
    ctx.finish(
        Summary(
            headline=f"phase7, mode base, profile {config.profile}, on {data.source}",
            title=f"SSIM of drawn heads with each other, beside {len(held.images)} held-out real ones",
            head=["", "SSIM"],
            rows=[["real", f"{real:.3f}"], *([f"steps: {steps}", f"{value:.3f}"] for steps, value in alike.items())],
            words=[caveat(fitted, ctx.resampling)],
            following=[f"Next, adapt it:   mlflow run . -e phase7 -P base=models:/{BASE_MODEL}/{ctx.published[-1].version}"],
        )
    )


def likeness(images: Array) -> float:
    """Mean SSIM of the images of a set with each other."""
    found = similarity(images)
    return float(found[~np.eye(len(found), dtype=bool)].mean())
