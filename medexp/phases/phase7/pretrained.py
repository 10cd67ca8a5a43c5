"""The demo's base: a VAE and a MeanFlow U-Net that draws healthy heads, both small and made of drawn ones.

The VAE learns healthy heads with bright blobs anywhere, and blobs alone, as masks are: what it never saw bright it could not
decode, and a mask that it never saw would come back as a smear. The U-Net learns the standardised latents of healthy heads.
Neither sees a dysplasia.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d
from torch.utils.data import Dataset

from medexp.config.data import PairDataConfig
from medexp.config.training import FlowLossConfig, FlowTrainingConfig, TrainingConfig
from medexp.data.pairs.find import find_pairs
from medexp.data.pairs.phantoms import ensure_pairs
from medexp.data.pairs.phantoms.write import VERSION as PHANTOMS
from medexp.data.pairs.read import load_pair
from medexp.data.parallel import in_parallel
from medexp.data.volumes.cases import Case
from medexp.models.autoencoder.network import FACTOR, Autoencoder
from medexp.models.checkpoints import load_state, load_weights, weights_digest
from medexp.models.kinds import Architecture, build
from medexp.models.meanflow.joint import Joint
from medexp.models.meanflow.network import MeanFlowUNet
from medexp.reporting import NullReporter, Reporter
from medexp.training.loop import Batch, FitResult, Group, Objective, fit
from medexp.training.meanflow import meanflow_objective

SHIPPED = Path(__file__).with_name("bases")  # `python -m benchmarks.phase7_base` makes it anew
_VERSION = 1  # of the pretraining below: raise it when its outcome changes
_VAE, _NET, _LATENTS = "vae.safetensors", "weights.safetensors", "latents.json"


@dataclass(frozen=True)
class Stage:
    """A part of the VAE's training.

    Attributes:
        epochs: Passes over heads and masks.
        principal: Whether the decoder is given principal components, or what the encoder makes of a volume.
    """

    epochs: int
    principal: bool


@dataclass(frozen=True)
class Recipe:
    """How the demo's base is pretrained.

    Attributes:
        heads: Healthy patients that are learned from; each is mirrored too.
        held: Patients beside them that it is judged by.
        seed: Of these, of initial weights and of noise.
        masks: Volumes of blobs alone that an epoch of the VAE has, as a share of the heads.
        bright: Share of the heads with a bright blob.
        weight: How much more an error counts in a blob and close to it than elsewhere.
        coarse: Weight of the error of means over 2 and over 4 voxels: whether a lesion is bright at all, and not each of its
            voxels.
        anchor: Weight of the distance between a latent and the principal components.
        sigma: Standard deviation of the noise on what the decoder is given, and of the posterior, which is not learned.
        stages: Of the VAE's training.
        vae_lr: Learning rate of the VAE.
        vae_ema: Decay of its weights' moving average.
    """

    heads: int = 600
    held: int = 64
    seed: int = 900
    masks: float = 0.5
    bright: float = 0.7
    weight: float = 4.0
    coarse: float = 1.0
    anchor: float = 0.1
    sigma: float = 0.1
    stages: tuple[Stage, ...] = (Stage(3, True), Stage(1, False))
    vae_lr: float = 2e-3
    vae_ema: float = 0.99


RECIPE = Recipe()
GRID = PairDataConfig(
    mask_strategy="auto",
    pooling="average",
    lesion=(1,),
    patient_pattern="^(sub-[A-Za-z0-9]+)",
    suffixes={},
    exclude=(),
    spacing=(5.0, 5.0, 5.0),
    input_size=(32, 40, 24),
    val_fraction=0.0,
    test_fraction=0.0,
    jobs=2,
)
VAE: Architecture = {
    "kind": "autoencoder_kl",
    "channels": [8, 16, 32],
    "latent_channels": 4,
    "num_res_blocks": 1,
    "norm_groups": 4,
    "scale_factor": 1.0,
}
NET: Architecture = {
    "kind": "meanflow_unet",
    "channels": 4,
    "num_channels": [32, 96],
    "attention_levels": [True, True],
    "num_head_channels": 16,
    "num_res_blocks": 1,
    "norm_groups": 8,
}
_FIT = TrainingConfig(
    epochs=1,
    optimizer="adamw",
    weight_decay=1e-4,
    batch_size=3,
    accumulate=1,
    scheduler="cosine",
    warmup_epochs=0,
    grad_clip=1.0,
    precision="fp32",
    validate_every=1,
    patience=0,
    workers=0,
)
TRAINING = FlowTrainingConfig(
    **(asdict(_FIT) | {"epochs": 6, "batch_size": 16, "warmup_epochs": 1, "weight_decay": 0.0, "validate_every": 6}),
    lr=2e-3,
    lr_new=2e-3,
    ema=0.995,
    repeats=1,
)
LOSS = FlowLossConfig(
    p_img=2.0,
    p_mask=2.0,
    lambda_img=1.0,
    lambda_mask=1.0,
    time_weight="uniform",
    tangent="conditional",
    unequal=0.25,
    curriculum=0.0,
    uniform=0.5,
    time_mean=-0.6,
    time_sd=1.6,
)


@dataclass(frozen=True)
class Base:
    """A MeanFlow U-Net that draws healthy heads, and the VAE of its latents.

    Attributes:
        net: The U-Net, in eval mode.
        joint: From volumes to its latents and back, of images alone; the VAE is in it.
        architecture: Of the U-Net, as `build` takes it.
        autoencoder: Of the VAE.
        spacing: Of its volumes' voxels in mm, along R, A, S.
        size: Their voxels.
    """

    net: MeanFlowUNet
    joint: Joint
    architecture: Architecture
    autoencoder: Architecture
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]

    @property
    def digest(self) -> str:
        """sha256 of the weights of U-Net and VAE together."""
        both = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        return weights_digest(both | {f"vae.{name}": value for name, value in self.joint.vae.state_dict().items()})


def demo_base() -> Base:
    """The base that is shipped for the demo.

    Raises:
        CheckpointError: Its files are missing or damaged.
    """
    folder = SHIPPED / key()
    vae, net = build(VAE), build(NET)
    for module, name in ((vae, _VAE), (net, _NET)):
        file = folder / name
        load_weights(module, {at: value.float() for at, value in load_state(file).items()}, str(file))
    joint = Joint.from_record(cast(Autoencoder, vae), json.loads((folder / _LATENTS).read_text()))
    return Base(cast(MeanFlowUNet, net).eval(), joint, NET, VAE, GRID.spacing, GRID.input_size)


def key() -> str:
    """Of all that the shipped base follows from."""
    settings = [asdict(RECIPE), asdict(_FIT), asdict(TRAINING), asdict(LOSS)]
    parts = [_VERSION, PHANTOMS, *settings, GRID.spacing, GRID.input_size, VAE, NET]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write_base(folder: Path, vae: Autoencoder, net: MeanFlowUNet, joint: Joint) -> None:
    """Write a demo's base, weights rounded to float16."""
    folder.mkdir(parents=True, exist_ok=True)
    for module, name in ((vae, _VAE), (net, _NET)):
        save_file({at: value.half().contiguous() for at, value in module.state_dict().items()}, folder / name)
    (folder / _LATENTS).write_text(json.dumps(joint.record(), indent=2) + "\n")


def pretrain(folder: Path, cache: Path, jobs: int) -> None:
    """Pretrain the demo's base and write its folder.

    Args:
        folder: Gets it; what a pretraining that was cut off has done so far lies beside it, and is gone on from.
        cache: Gets the heads.
        jobs: Processes that draw and read these.
    """
    accelerator = Accelerator(cpu=True)
    heads = healthy("train", cache, jobs)
    torch.manual_seed(RECIPE.seed)
    vae = initial_autoencoder()
    principal = principal_components(_Diet(heads))
    for number, stage in enumerate(RECIPE.stages, 1):
        train_autoencoder(vae, heads, principal, stage, accelerator, folder.with_name(f"vae-{number}"))
    rounded(vae)
    mirrored = np.concatenate([heads, heads[:, :, ::-1]])
    joint = Joint.fit(vae, map(torch.from_numpy, mirrored.copy()), None, "image")
    latents, held = (
        torch.cat([joint.encode(torch.from_numpy(part.copy())) for part in np.array_split(volumes, len(volumes) // 8)])
        for volumes in (mirrored, healthy("held", cache, jobs))
    )
    torch.manual_seed(RECIPE.seed)
    net = cast(MeanFlowUNet, build(NET))
    names = [str(number) for number in range(len(held))]
    settings = {"seed": RECIPE.seed, "accelerator": accelerator, "reporter": NullReporter(), "folder": folder.with_name("net")}
    train_base(net, latents, held, names, LOSS, TRAINING, **settings)
    write_base(folder, vae, net, joint)


def healthy(part: Literal["train", "held"], cache: Path, jobs: int) -> NDArray[np.float32]:
    """Healthy heads on the demo's grid, float32 (N, 1, X, Y, Z) in [0, 1]; those that are learned from, or others."""
    count, seed = (RECIPE.heads, RECIPE.seed) if part == "train" else (RECIPE.held, RECIPE.seed + 1)
    found = find_pairs([ensure_pairs("healthy", count, seed, cache)], GRID, masks=False)
    return np.stack(list(in_parallel(_image, [(case,) for case in found.cases], jobs, "Reading healthy heads")))


def _image(case: Case) -> NDArray[np.float32]:
    return load_pair(case, GRID).image


def rounded(module: nn.Module) -> None:
    """Let weights be what they are when they were written and read again."""
    module.load_state_dict({name: value.half().float() for name, value in module.state_dict().items()})


class _Latents(Dataset[dict[str, Tensor]]):
    """Latents one by one, as the fit loop asks for them."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, at: tuple[int, int, int]) -> dict[str, Tensor]:
        return {"z": self.latents[at[1]]}


def train_base(
    net: MeanFlowUNet,
    latents: Tensor,
    held: Tensor,
    patients: Sequence[str],
    loss: FlowLossConfig,
    training: FlowTrainingConfig,
    *,
    seed: int,
    accelerator: Accelerator,
    reporter: Reporter,
    folder: Path,
) -> FitResult:
    """Train a base on latents of healthy volumes; the moving average of its weights is kept.

    Args:
        net: With initial weights.
        latents: Standardised (N, C, x, y, z); each is taken `training.repeats` times an epoch.
        held: Others, that the loss is also taken of.
        patients: Of these.
        loss: The loss.
        training: The training.
        seed: Of order, times and noise.
        accelerator: Device and processes.
        reporter: Takes the metrics.
        folder: Gets what the training can go on from.
    """
    objective = meanflow_objective(
        loss,
        image_channels=net.channels,
        epochs=training.epochs,
        val=held,
        patients=patients,
        seed=seed,
        batch_size=training.batch_size,
    )
    every = np.repeat(np.arange(len(latents)), training.repeats)
    return fit(
        net,
        [Group("network", training.lr, list(net.parameters()), key="training.lr")],
        _Latents(latents),
        objective,
        training,
        seed=seed,
        accelerator=accelerator,
        reporter=reporter,
        folder=folder,
        title="training a base on healthy volumes",
        order=lambda epoch: np.random.default_rng([seed, epoch]).permutation(every),
        ema=training.ema,
    )


class _Diet(Dataset[dict[str, Tensor]]):
    """What the VAE learns from: heads, most with a bright blob in them, and blobs alone; drawn anew in each epoch."""

    def __init__(self, heads: NDArray[np.float32]) -> None:
        self.heads = heads

    def __len__(self) -> int:
        return round(len(self.heads) * (1 + RECIPE.masks))

    def __getitem__(self, at: tuple[int, int, int]) -> dict[str, Tensor]:
        rng = np.random.default_rng((RECIPE.seed, *at))
        size = self.heads.shape[2:]
        blob = _blob(size, rng)
        if at[1] >= len(self.heads):
            mask = (blob | _blob(size, rng)) if rng.random() < 0.2 else blob
            volume = bright = mask.astype(np.float32)
        else:
            volume = self.heads[at[1], 0]
            volume = volume[::-1] if rng.random() < 0.5 else volume
            soft = (blob + ndimage.uniform_filter(blob.astype(np.float32), 3)) / 2
            bright = soft * (volume > 0.25) * rng.uniform(0.5, 1) * (rng.random() < RECIPE.bright)
            volume = volume + bright * np.maximum(rng.uniform(0.85, 1) - volume, 0)
        near = ndimage.maximum_filter(bright, 5)  # an error around a blob is one of its border
        return {name: torch.from_numpy(part.astype(np.float32)[None]) for name, part in (("x", volume), ("near", near))}


def _blob(size: Sequence[int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """An irregular ellipsoid of 1 to 5 voxels' radius, anywhere in a volume."""
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"))
    centre, stretch = rng.uniform(0, size), rng.normal(1, 0.2, 3).clip(0.6, 1.6)
    distance = np.linalg.norm((grid - centre[:, None, None, None]) / stretch[:, None, None, None], axis=0)
    coarse = rng.normal(size=[edge // 4 + 2 for edge in size])
    rough = ndimage.zoom(coarse, [edge / inner for edge, inner in zip(size, coarse.shape, strict=True)], order=1)
    return np.asarray(distance < rng.uniform(1.2, 4.5) * (1 + 0.25 * rough))


def initial_autoencoder() -> Autoencoder:
    """The demo's VAE with initial weights."""
    vae = cast(Autoencoder, build(VAE))
    for module in vae.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = nn.GroupNorm  # MAISI's own computes the same in more steps, a quarter of a training's time
    last = cast(nn.Conv3d, vae.vae.quant_conv_log_sigma.conv)
    nn.init.zeros_(last.weight)
    nn.init.constant_(cast(Tensor, last.bias), 2 * float(np.log(RECIPE.sigma)))  # it gives the logarithm of the variance
    return vae


def principal_components(diet: Dataset[dict[str, Tensor]]) -> Callable[[Tensor], Tensor]:
    """What a latent is to be: of each block of FACTOR^3 voxels the first principal components, each of unit variance.

    By its own loss alone a small autoencoder takes long to find out that the brightness of a block is worth a channel: after
    3,100 steps half of a lesion's contrast was lost, and a linear map of as many numbers keeps nearly all of it.

    Args:
        diet: What the VAE learns from.

    Returns:
        From volumes (B, 1, X, Y, Z) to components (B, C, X / FACTOR, ...).
    """
    seen = torch.stack([diet[0, at, 0]["x"] for at in range(0, len(diet), 3)])  # type: ignore[arg-type]
    blocks = _blocks(seen).movedim(1, -1).flatten(0, -2)
    mean = blocks.mean(dim=0)
    found = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
    channels = VAE["latent_channels"]
    axes = found.eigenvectors[:, -channels:].flip(1) / found.eigenvalues[-channels:].flip(0).sqrt()
    return lambda x: torch.einsum("bvxyz,vc->bcxyz", _blocks(x) - mean.view(1, -1, 1, 1, 1), axes)


def _blocks(x: Tensor) -> Tensor:
    """The voxels of each block: (B, FACTOR^3, X / FACTOR, ...) of (B, 1, X, Y, Z)."""
    for axis in (2, 3, 4):
        x = x.unflatten(axis + axis - 2, (-1, FACTOR))
    return x.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)


def train_autoencoder(
    vae: Autoencoder,
    heads: NDArray[np.float32],
    principal: Callable[[Tensor], Tensor],
    stage: Stage,
    accelerator: Accelerator,
    folder: Path,
) -> FitResult:
    """Train the demo's VAE for a stage; the moving average of its weights is kept.

    Args:
        vae: As the stage before left it.
        heads: Healthy heads (N, 1, X, Y, Z) in [0, 1].
        principal: What the latents are to be.
        stage: What the decoder is given.
        accelerator: Device.
        folder: Gets what the training can go on from.
    """

    def loss(module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        x, weight = batch["x"], 1 + RECIPE.weight * batch["near"]
        wanted, found = principal(x), vae.encode(x)
        given = wanted if stage.principal else found
        error = vae.decode(given + RECIPE.sigma * torch.randn_like(given)) - x
        fine = (weight * (error.abs() + error.square())).mean()
        pooled = [(avg_pool3d(weight, edge) * avg_pool3d(error, edge).abs()).mean() for edge in (2, 4)]
        apart = (found - wanted).square().mean()
        return {"loss": fine + RECIPE.coarse * torch.stack(pooled).sum() + RECIPE.anchor * apart, "fine": fine, "apart": apart}

    def validate(module: nn.Module, epoch: int) -> dict[str, float]:
        with torch.no_grad():
            x = torch.from_numpy(heads[:16])
            return {"error": float((vae(x) - x).abs().mean())}

    return fit(
        vae,
        [Group("vae", RECIPE.vae_lr, list(vae.parameters()))],
        _Diet(heads),
        Objective(loss, validate, "error", "minimize"),
        replace(_FIT, epochs=stage.epochs, warmup_epochs=min(1, stage.epochs - 1), validate_every=stage.epochs),
        seed=RECIPE.seed,
        accelerator=accelerator,
        reporter=NullReporter(),
        folder=folder,
        title="training a VAE on healthy heads and blobs",
        ema=RECIPE.vae_ema,
    )
