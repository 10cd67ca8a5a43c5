"""The demo's encoders: tiny vision transformers pretrained on OCT phantoms of people that the demo never judges.

Three are pretrained as V-JEPA is, on volumes of four devices or of one: a context encoder sees a volume without some blocks,
and a predictor says from its tokens what a target encoder, the moving average of the context encoder, makes of the blocks in
the whole volume. Two things are not V-JEPA's: targets are standardised over the batch too, and volumes are rolled, so that no
place tells a layer. A fourth also learns, of each patch, how much of it each layer and finding fills, and of each volume what
the phantoms' classes differ in: it is better for them by construction, and says so by its name. A fifth is a copy of the
first.
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from medexp.config.training import TrainingConfig
from medexp.data.manifest import patient_sha256
from medexp.data.oct.cases import Scan
from medexp.data.oct.phantoms.retina import DEVICES, LABELS, retina, scan
from medexp.data.oct.phantoms.write import VERSION as PHANTOMS
from medexp.data.oct.transforms import execute, preprocessing
from medexp.data.parallel import in_parallel
from medexp.files import dump_yaml, filling, replacing
from medexp.models.checkpoints import save_checkpoint
from medexp.models.kinds import build
from medexp.models.transformer import Block
from medexp.models.vit3d.network import VisionTransformer3D
from medexp.reporting import NullReporter
from medexp.training.loop import Batch, Group, Objective, fit

SHIPPED = Path(__file__).with_name("checkpoints")  # `python -m benchmarks.oct_checkpoints` makes them anew
COPY = "multi_domain_copy"
"""Of multi_domain, under another name: it has to tie with it."""

CASES = "cases.csv"
_VERSION = 1  # of the pretraining below: raise it when its outcome changes
_STREAM = 1  # of the phantoms: other people than `ensure_oct_phantoms` writes, whatever its seed


@dataclass(frozen=True)
class Recipe:
    """How the checkpoints are pretrained; all but `devices` and `supervised` are the same for all.

    Attributes:
        size: D, H and W of the network's input.
        patch: Of the network.
        dim: Of the network.
        depth: Of the network.
        heads: Of the network, and of the predictor.
        people: Phantoms; each has one eye scanned by one device.
        epochs: Passes over them.
        batch_size: Volumes a step.
        lr: Largest learning rate.
        blocks: Blocks of a volume that are hidden from the context encoder, through all B-scans; they overlap.
        scale: Share of a B-scan that a block takes.
        momentum: Of the moving average in the first step; it rises to 1.
        shift: Voxels that a volume is rolled by at most, along the beam and along the B-scan: no place tells a layer.
    """

    size: tuple[int, int, int] = (16, 64, 64)
    patch: tuple[int, int, int] = (4, 8, 8)
    dim: int = 64
    depth: int = 4
    heads: int = 4
    people: int = 1200
    epochs: int = 8
    batch_size: int = 16
    lr: float = 2e-3
    blocks: int = 8
    scale: float = 0.15
    momentum: float = 0.998
    shift: int = 8

    @property
    def architecture(self) -> dict[str, Any]:
        shape = {"size": list(self.size), "patch": list(self.patch), "dim": self.dim, "depth": self.depth, "heads": self.heads}
        return {"kind": "vit3d", **shape, "norm_eps": 1e-5}


@dataclass(frozen=True)
class Kind:
    """What a checkpoint is pretrained on: devices, by their number, and whether layers and findings are told."""

    devices: tuple[int, ...]
    supervised: bool
    notes: str


RECIPE = Recipe()
KINDS = {
    "multi_domain": Kind((0, 1, 2, 3), False, "V-JEPA on four devices."),
    "single_domain_01": Kind((1,), False, "V-JEPA on Triton alone."),
    "single_domain_02": Kind((3,), False, "V-JEPA on Spectralis alone."),
    "layers_supervised": Kind(
        (0, 1, 2, 3),
        True,
        "V-JEPA on four devices, and taught the layers, the findings and what the phantoms' classes differ in: better on them "
        "by construction.",
    ),
}


def demo_checkpoints(cache: Path) -> list[Path]:
    """The demo's checkpoints with their cards, in a folder of the cache: the four that are shipped, and a copy of one.

    Args:
        cache: Root of the cache; the folder goes under `checkpoints/`.

    Raises:
        StorageError: The cache cannot be written.
    """
    folder = cache / "checkpoints" / f"oct-{key()}"
    if not folder.is_dir():
        with filling(folder, "cache_dir") as partial:
            shutil.copytree(SHIPPED / key(), partial, dirs_exist_ok=True)
            for ending in (".pt", ".card.yaml"):
                shutil.copyfile(partial / f"multi_domain{ending}", partial / f"{COPY}{ending}")
    return [folder / f"{name}.pt" for name in (*KINDS, COPY)]


def key() -> str:
    """Of all that the shipped checkpoints follow from."""
    parts = [_VERSION, PHANTOMS, asdict(RECIPE), {name: asdict(kind) for name, kind in KINDS.items()}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def people(recipe: Recipe) -> list[str]:
    """Ids of the phantoms that checkpoints are pretrained on: no data set's, so that nobody else is taken for one of them."""
    return [f"oct-phantom-{number:05d}" for number in range(recipe.people)]


def pretrain(folder: Path, recipe: Recipe, accelerator: Accelerator, jobs: int, report: Callable[[str], None] = print) -> None:
    """Pretrain all checkpoints and write them, rounded to float16, with cards and the people that they saw.

    Args:
        folder: Gets `<name>.pt`, `<name>.card.yaml` and `cases.csv`.
        recipe: How.
        accelerator: Device.
        jobs: Phantoms rendered in parallel.
        report: Told what each came to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CASES) as temporary:
        pd.DataFrame({"patient_sha256": sorted(map(patient_sha256, people(recipe)))}).to_csv(temporary, index=False)
    for name, kind in KINDS.items():
        data = _Phantoms(recipe, kind.devices, jobs)
        net = _trained(name, recipe, kind, data, accelerator, folder / "states" / name, report)
        state = {f"context_encoder.{key}": value.half() for key, value in net.state_dict().items()}
        save_checkpoint({"epoch": recipe.epochs, "model_state_dict": state}, folder / f"{name}.pt")
        architecture = {key: value for key, value in recipe.architecture.items() if key != "size"}
        card = {
            "architecture": architecture,
            "preprocessing": {"size": list(recipe.size), "normalisation": "zscore"},
            "pretrained_on": {"file": CASES},
            "source": "python -m benchmarks.oct_checkpoints",
            "licence": "Apache-2.0",
            "notes": f"{kind.notes} {recipe.people} phantoms, {recipe.epochs} epochs.",
        }
        (folder / f"{name}.card.yaml").write_text(dump_yaml(card), encoding="utf-8")
    shutil.rmtree(folder / "states")


class _Phantoms(Dataset[dict[str, Tensor]]):
    """Volumes (1, D, H, W), what fills each patch (N, LABELS), and what was drawn for each eye (5,), these standardised."""

    def __init__(self, recipe: Recipe, devices: tuple[int, ...], jobs: int) -> None:
        together = 40
        starts = range(0, recipe.people, together)
        calls = [(range(start, min(start + together, recipe.people)), recipe, devices) for start in starts]
        parts = list(in_parallel(_render, calls, jobs, "Rendering OCT phantoms"))
        self.images, filled, drawn = (torch.cat(part) for part in zip(*parts, strict=True))
        self.filled = ((filled - filled.mean((0, 1))) / filled.std((0, 1)).clamp_min(1e-6)).half()
        self.drawn = (drawn - drawn.mean(0)) / drawn.std(0).clamp_min(1e-6)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int, int]) -> dict[str, Tensor]:
        _, index, _ = item
        return {"image": self.images[index].float(), "filled": self.filled[index].float(), "drawn": self.drawn[index]}


def _render(numbers: range, recipe: Recipe, devices: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    steps = preprocessing(recipe.size, "zscore").steps
    depth, height, width = (edge // patch for edge, patch in zip(recipe.size, recipe.patch, strict=True))
    images, filled, drawn = [], [], []
    for number in numbers:
        entropy = (_STREAM, number)
        severity = float(np.random.default_rng((*entropy, 0)).uniform(-1.2, 4.2))  # of any group, and between
        eye = retina(severity, "RL"[number % 2], entropy)  # type: ignore[arg-type]
        device = DEVICES[devices[number // 2 % len(devices)]]
        voxels, labels = scan(eye, device, (*entropy, 4))
        images.append(execute(steps, Scan(voxels, (None, None, None), {}, None, None)).half())
        one_hot = functional.one_hot(torch.from_numpy(labels).long(), LABELS).permute(3, 0, 1, 2).float()
        filled.append(functional.adaptive_avg_pool3d(one_hot[None], (depth, height, width))[0].flatten(1).T)
        drawn.append(torch.tensor([eye.inner, eye.foci, eye.cysts, eye.density, sum(eye.thickness[:-1])]))
    return torch.stack(images), torch.stack(filled), torch.stack(drawn)


class _Predictor(nn.Module):
    """What the target encoder makes of hidden patches, from tokens of the seen ones."""

    def __init__(self, tokens: int, dim: int, heads: int) -> None:
        super().__init__()
        width = dim // 2
        self.embed, self.norm, self.proj = nn.Linear(dim, width), nn.LayerNorm(width), nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, 4.0, True, 1e-5) for _ in range(2))

    def forward(self, context: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        place = self.pos_embed.expand(len(seen), -1, -1)
        x = torch.cat([self.embed(context) + _at(place, seen), self.mask_token + _at(place, hidden)], dim=1)
        for block in self.blocks:
            x = block(x)
        return torch.as_tensor(self.proj(self.norm(x[:, seen.shape[1] :])))


class _Jepa(nn.Module):
    """The two encoders, the predictor, and, where layers are told, two linear heads."""

    def __init__(self, recipe: Recipe, supervised: bool) -> None:
        super().__init__()
        net = build(recipe.architecture)
        assert isinstance(net, VisionTransformer3D)
        self.context_encoder = net
        self.target_encoder = copy.deepcopy(net).requires_grad_(False)
        self.predictor = _Predictor(net.pos_embed.shape[1], recipe.dim, recipe.heads)
        self.of_patches = nn.Linear(recipe.dim, LABELS) if supervised else None
        self.of_volumes = nn.Linear(recipe.dim, 5) if supervised else None
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def follow(self, momentum: float) -> None:
        """Move the target encoder towards the context encoder."""
        with torch.no_grad():
            for target, online in zip(self.target_encoder.parameters(), self.context_encoder.parameters(), strict=True):
                target.lerp_(online, 1 - momentum)


def _at(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens (B, K, D) at places (B, K) of tokens (B, N, D)."""
    return tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def blocks_hidden(batch: int, grid: tuple[int, ...], blocks: int, scale: float) -> tuple[Tensor, Tensor]:
    """Places of patches that the context encoder sees (B, K) and of those that are predicted (B, M); torch's generator draws.

    Blocks of `scale` of a B-scan, of an aspect of 0.75 to 1.5, go through all B-scans, as V-JEPA's go through all frames; of a
    batch every volume has as few seen and as few predicted ones as the one that has the fewest (V-JEPA's code, too).
    """
    _, height, width = grid
    seen, hidden = [], []
    for _ in range(batch):
        mask = torch.zeros(grid, dtype=torch.bool)
        for aspect, down, right in torch.rand(blocks, 3).tolist():
            ratio = 0.75 + 0.75 * aspect
            high = min(height, max(1, round((scale * height * width * ratio) ** 0.5)))
            wide = min(width, max(1, round((scale * height * width / ratio) ** 0.5)))
            top, left = int(down * (height - high + 1)), int(right * (width - wide + 1))
            mask[:, top : top + high, left : left + wide] = True
        mask[:, 0, 0] &= not bool(mask.all())  # something is always seen
        seen.append((~mask.flatten()).nonzero()[:, 0])
        hidden.append(mask.flatten().nonzero()[:, 0])
    return _as_few(seen), _as_few(hidden)


def _as_few(places: list[Tensor]) -> Tensor:
    few = min(map(len, places))
    return torch.stack([one[torch.randperm(len(one))[:few].sort().values] for one in places])


def _trained(
    name: str,
    recipe: Recipe,
    kind: Kind,
    data: _Phantoms,
    accelerator: Accelerator,
    folder: Path,
    report: Callable[[str], None],
) -> VisionTransformer3D:
    torch.manual_seed(0)
    module = _Jepa(recipe, kind.supervised)
    training = TrainingConfig(
        epochs=recipe.epochs,
        optimizer="adamw",
        weight_decay=0.04,
        batch_size=recipe.batch_size,
        accumulate=1,
        scheduler="cosine",
        warmup_epochs=1,
        grad_clip=1.0,
        precision="fp32",
        validate_every=recipe.epochs,
        patience=0,
        workers=0,
    )
    steps = -(-len(data) // recipe.batch_size) * recipe.epochs

    def loss(wrapped: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        done = int(module.step)
        module.follow(recipe.momentum + (1 - recipe.momentum) * done / steps)
        module.step += 1
        rolled = torch.randint(-recipe.shift, recipe.shift + 1, (len(batch["image"]), 2)).tolist()
        image = torch.stack([one.roll(by, (-2, -1)) for one, by in zip(batch["image"], rolled, strict=True)])
        seen, hidden = (
            one.to(image.device) for one in blocks_hidden(len(image), module.context_encoder.grid, recipe.blocks, recipe.scale)
        )
        with torch.no_grad():
            target = functional.layer_norm(module.target_encoder.tokens(image), (recipe.dim,))
            # Of each place and feature what differs between volumes: the rest is predicted from the place alone.
            target = (target - target.mean(0, keepdim=True)) / target.std((0, 1), keepdim=True).clamp_min(1e-6)
        predicted = module.predictor(module.context_encoder.tokens(image, seen), seen, hidden)
        losses = {"prediction": (predicted - _at(target, hidden)).abs().mean()}
        if module.of_patches is not None and module.of_volumes is not None:
            tokens = module.context_encoder.tokens(batch["image"])
            losses["layers"] = functional.mse_loss(module.of_patches(tokens), batch["filled"])
            losses["drawn"] = functional.mse_loss(module.of_volumes(tokens.mean(1)), batch["drawn"])
        return {"loss": torch.stack([*losses.values()]).sum()} | losses

    result = fit(
        module,
        [Group("network", recipe.lr, [one for one in module.parameters() if one.requires_grad])],
        data,
        Objective(loss, lambda net, epoch: {}, "none"),
        training,
        seed=0,
        accelerator=accelerator,
        reporter=NullReporter(),
        folder=folder,
        title=f"pretraining {name}",
        until=recipe.epochs,
    )
    last = result.history.filter(like="train/").iloc[-1]
    told = [
        f"{str(key).removeprefix('train/')} {value:.3f}" for key, value in last.items() if not str(key).startswith("train/lr")
    ]
    report(f"{name}: {', '.join(told)}")
    return module.context_encoder
