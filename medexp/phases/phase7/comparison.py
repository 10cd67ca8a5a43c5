"""Samples beside real pairs: what was drawn, and every figure that it is held against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from medexp.arrays import Array
from medexp.checks import Check
from medexp.evaluation.batches import demand_finite
from medexp.evaluation.synthesis import Judgement, Pairs, contrast, judge
from medexp.models.meanflow.joint import Joint
from medexp.models.meanflow.network import MeanFlowUNet
from medexp.models.meanflow.sampling import noise, sample
from medexp.phases.phase7 import checks
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.phase7.reading import Base
from medexp.phases.shared.context import Context
from medexp.registry.synthesis import Generator, called

_AT_ONCE = 8  # volumes
FIGURES = {
    "filled": "masks that are not empty",
    "contrast": "contrast, median",
    "coupling": "own over other mask",
    "dice": "mean Dice with real",
}
"""What is told of every set of samples, in words."""


@dataclass(frozen=True)
class Drawn:
    """Samples of one seed of noise.

    Attributes:
        pairs: The samples; each is a patient of its own, whose name says what noise it is made of.
        seed: Of the noise.
        steps: In how many steps they were drawn.
    """

    pairs: Pairs
    seed: int
    steps: int

    @property
    def called(self) -> str:
        """Which these are, in words."""
        return f"{in_words(self.steps)}, seed {self.seed}"


@dataclass(frozen=True)
class Compared:
    """Samples beside real pairs.

    Attributes:
        drawn: The samples.
        single: By `Drawn.called`, each set judged.
        pooled: By number of steps, the sets of all seeds judged together.
        ceiling: Held-out real pairs through the VAE and back.
        of_base: Contrast of each sample's mask in what the base, without the adapter, draws of the same noise (N,): that of
            the anatomy alone.
        checks: P7-T5, P7-COUPLING, P7-T6, P7-COPIES, P7-MASKS and P7-IMAGES.
    """

    drawn: tuple[Drawn, ...]
    single: Mapping[str, Judgement]
    pooled: Mapping[int, Judgement]
    ceiling: Pairs
    of_base: Array
    checks: tuple[Check, ...]


def in_words(steps: int) -> str:
    """A number of steps, such as `one step` and `4 steps`."""
    return "one step" if steps == 1 else f"{steps} steps"


def draw(ctx: Context[Phase7Config], generator: Generator) -> tuple[Drawn, ...]:
    """Samples of each seed, in each number of steps; the noise of a seed is the same in all of them."""
    sampling = ctx.config.sampling
    return tuple(
        _drawn(generator, sampling.samples, seed, steps) for steps in sampling.steps for seed in range(sampling.seeds)
    )


def _drawn(generator: Generator, count: int, seed: int, steps: int) -> Drawn:
    images, masks = generator.draw(count, seed, steps)
    return Drawn(Pairs(images, masks, [called(seed, number) for number in range(count)]), seed, steps)


def together(drawn: Sequence[Drawn]) -> Pairs:
    """Samples of several seeds as one set."""
    images, masks = (np.concatenate([getattr(one.pairs, name) for one in drawn]) for name in ("images", "masks"))
    return Pairs(images, masks, [name for one in drawn for name in one.pairs.patients])


def compare(
    ctx: Context[Phase7Config], generator: Generator, base: Base, train: Pairs, held: Pairs, drawn: tuple[Drawn, ...]
) -> Compared:
    """Judge samples beside real pairs.

    Args:
        ctx: Where it is logged.
        generator: What drew them.
        base: The base without the adapter.
        train: The real pairs that were trained on.
        held: Those that were not.
        drawn: The samples.
    """
    config, joint = ctx.config, generator.joint
    ceiling = _through(joint, held)
    held_against = partial(
        judge,
        train=train,
        held=held,
        spacing=config.data.spacing,
        encode=partial(_latents, joint),
        resampling=ctx.resampling,
        ring=config.sampling.ring,
        ceiling=ceiling,
    )
    single = {one.called: held_against(one.pairs) for one in drawn}
    pooled = {steps: held_against(together([one for one in drawn if one.steps == steps])) for steps in config.sampling.steps}
    first = pooled[config.sampling.steps[0]]
    target = config.target
    demands = {
        "filled": target.non_empty,
        "contrast": max(target.contrast * first.ceiling["contrast"].estimate, 0.0),
        "coupling_low": 0.0,
    }
    figures = {
        which: figures_of(judged) | {"coupling_low": judged.of("coupling").generated.low} for which, judged in single.items()
    }
    alone = base.network().to(ctx.device).eval()
    of_base = _under(
        alone,
        base.joint.to(ctx.device),
        joint,
        [one for one in drawn if one.steps == config.sampling.steps[0]],
        config.sampling.ring,
    )
    return Compared(
        drawn,
        single,
        pooled,
        ceiling,
        of_base,
        (
            checks.lesions({which: {name: row[name] for name in demands} for which, row in figures.items()}, demands),
            checks.coupling(
                {which: row["coupling"] for which, row in figures.items()},
                first.ceiling["coupling"].estimate,
                first.of("coupling").real,
                target.coupling,
            ),
            checks.overlap(
                {which: row["dice"] for which, row in figures.items()},
                first.of("dice").real.estimate,
                target.dice,
                target.dice_gap,
            ),
            checks.copies(pooled),
            checks.masks(pooled),
            checks.images(pooled),
        ),
    )


def figures_of(judged: Judgement) -> dict[str, float]:
    """The figures of FIGURES of one set of samples."""
    return {name: judged.of(name).generated.estimate for name in FIGURES}


def _latents(joint: Joint, images: Array) -> Array:
    """The VAE's latents (N, C, x, y, z) of images (N, X, Y, Z)."""
    parts = torch.from_numpy(np.ascontiguousarray(images)).float()[:, None].split(8)
    with torch.inference_mode():
        found = [joint.vae.encode(part.to(joint.mean.device)).float().cpu() for part in parts]
    return torch.cat(found).numpy()


def _through(joint: Joint, pairs: Pairs) -> Pairs:
    """Pairs as they come back from their latents: what no sample can be expected to exceed."""
    images, masks = [], []
    for image, mask in zip(pairs.images, pairs.masks, strict=True):
        x, m = (torch.from_numpy(one)[None, None].float().to(joint.mean.device) for one in (image, mask))
        shown, soft = joint.decode(joint.encode(x, m))
        images.append(shown[0, 0].cpu().numpy())
        masks.append(joint.masks(soft)[0, 0].cpu().numpy())
    return Pairs(np.stack(images), np.stack(masks), pairs.patients)


def _under(base: MeanFlowUNet, healthy: Joint, joint: Joint, drawn: Sequence[Drawn], ring: int) -> Array:
    """Contrast of samples' masks in what the base draws of the same noise, its channels of the image alone."""
    found = []
    for one in drawn:
        shape = joint.latent_shape(one.pairs.images.shape[1:])
        given = noise(len(one.pairs.images), shape, one.seed)[:, : healthy.channels]
        latents = sample(base, given.to(healthy.mean.device), one.steps, _AT_ONCE)
        demand_finite(latents, one.pairs.patients, "what the base draws of the samples' noise", "Give another base.")
        images = [healthy.decode(part)[0][:, 0].cpu().numpy() for part in latents.split(_AT_ONCE)]
        found.append(contrast(np.concatenate(images), one.pairs.masks, ring))
    return np.concatenate(found)


def median(values: Array) -> float:
    """The median contrast of samples, an empty mask's being 0."""
    return float(np.median(np.nan_to_num(values)))
