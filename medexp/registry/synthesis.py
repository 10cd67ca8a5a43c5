"""A registered model that draws: pairs of a FLAIR volume and a lesion's mask from a seed, the same wherever it is loaded."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from medexp import registry
from medexp.arrays import Array
from medexp.errors import RegistryError
from medexp.evaluation.batches import demand_finite
from medexp.models.autoencoder.network import Autoencoder
from medexp.models.checkpoints import load_state, load_weights, weights_digest
from medexp.models.kinds import Architecture, build
from medexp.models.meanflow.joint import Joint
from medexp.models.meanflow.sampling import noise, sample
from medexp.registry.contracts import draws
from medexp.registry.loading import load_verified
from medexp.registry.packages import ADAPTER_KIND, VAE, read_json
from medexp.registry.store import Pulled, pull

LATENTS, GRID = "latents", "grid"
"""In a contract: what turns volumes into latents and back, and where in the world volumes lie."""

_DIVERGED = "Lower training.lr and training.lr_new of the training that made it, or draw from another version (adapter)."

_SMALL = 2**20
"""Voxels of a volume up to which two are drawn at a time."""


@dataclass(frozen=True)
class Generator:
    """What draws pairs.

    Attributes:
        net: The network, in eval mode; it may be on any device.
        joint: From latents to an image and a mask, on the same device.
        size: Voxels of a volume along R, A, S.
        affine: From its voxels to RAS+ mm (4, 4).
        called: Name and version, or what else it is.
        digest: Of its package; empty where it has none.
    """

    net: nn.Module
    joint: Joint
    size: tuple[int, int, int]
    affine: NDArray[np.float64]
    called: str
    digest: str = ""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Edges of its voxels in mm."""
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

    @torch.inference_mode()
    def draw(self, count: int, seed: int, steps: int = 1, first: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Pairs: one follows from its seed and its number, to the bit on one machine, whatever is drawn with it.

        Args:
            count: How many.
            seed: Of their noise, from 0.
            steps: Steps from noise to data, at least 1.
            first: Number of the first one, from 0: `draw(2, seed)` is `draw(1, seed)` and then `draw(1, seed, first=1)`.

        Returns:
            Images in [0, 1], float32, and masks, bool, both (count, X, Y, Z). A model of images alone gives empty masks.

        Raises:
            TrainingDiverged: A sample holds NaN or infinity.
        """
        images = np.empty((count, *self.size), np.float32)
        masks = np.empty((count, *self.size), bool)
        shape = self.joint.latent_shape(self.size)
        # In twos, always the same: torch computes a small volume that is alone otherwise, and on a CPU five times as slowly.
        together = 2 if np.prod(self.size) <= _SMALL else 1
        for start in range(first - first % together, first + count, together):
            z = sample(self.net, noise(together, shape, seed, start).to(self.joint.mean.device), steps, together)
            image, soft = self.joint.decode(z)
            flat = torch.cat([z.flatten(1), image.flatten(1), soft.flatten(1)], dim=1)
            samples = [called(seed, start + place) for place in range(together)]
            demand_finite(flat, samples, f"what {self.called} draws in {steps} step{'s' * (steps > 1)}", _DIVERGED)
            drawn, lesions = image[:, 0].cpu().numpy(), self.joint.masks(soft)[:, 0].cpu().numpy()
            for place in range(together):
                if 0 <= (number := start + place - first) < count:
                    images[number], masks[number] = drawn[place], lesions[place]
        return images, masks


def called(seed: int, number: int) -> str:
    """Name of a sample: what noise it is drawn from, by which models are compared pair by pair."""
    return f"seed{seed}-sample{number:03d}"


def per_sample(seed: int, contrast: Array, real: Array, first: int = 0) -> pd.DataFrame:
    """Scores of samples for `per_case.csv`: how far the contrast of each lies from the middle of the real ones.

    Args:
        seed: Of their noise.
        contrast: Of each sample, mean inside its mask less mean in a ring around it (N,); NaN of an empty mask, which counts
            as no contrast at all.
        real: That of real pairs, NaN left out.
        first: Number of the first sample.

    Returns:
        case and patient (`called`: what samples scatter by is their noise), contrast, empty_mask (0 or 1), contrast_gap.
    """
    names = [called(seed, first + place) for place in range(len(contrast))]
    shown = np.nan_to_num(np.asarray(contrast, float), nan=0.0)
    gap = np.abs(shown - np.nanmedian(np.asarray(real, float)))
    table = {"case": names, "patient": names, "contrast": shown, "empty_mask": np.isnan(contrast).astype(int)}
    return pd.DataFrame({**table, "contrast_gap": gap})


def judged_on(real: str, **how: Any) -> str:
    """Digest of what samples are judged by, for `evaluation.json`: versions that drew theirs otherwise are not compared.

    Args:
        real: Digest of the real pairs that they are held against.
        how: Whatever else their scores follow from, in types that JSON has, such as `size`, `steps` and `ring`.
    """
    return hashlib.sha256(json.dumps([real, how], sort_keys=True).encode()).hexdigest()[:32]


def latents_of(joint: Joint, architecture: Architecture) -> dict[str, Any]:
    """What a contract says of the latents that a network draws.

    Args:
        joint: From latents to pairs.
        architecture: Of its VAE, as `build` takes it.
    """
    vae = {"architecture": dict(architecture), "weights_digest": weights_digest(joint.vae.state_dict())}
    return {**joint.record(), "vae": vae}


def grid_of(size: Sequence[int], affine: NDArray[np.float64]) -> dict[str, Any]:
    """What a contract says of where drawn volumes lie: their voxels along R, A, S, and from voxels to RAS+ mm (4, 4)."""
    return {"size": list(size), "affine": np.asarray(affine, float).tolist()}


def load_generator(uri: str, base: Path | str | None = None, device: str | torch.device = "cpu") -> Generator:
    """Load a registered model that draws.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`, of an adapter or of a base.
        base: For an adapter whose base is not in this registry: the base's folder, with `weights.safetensors` and
            `vae.safetensors` (`medexp pull` gives it), or the former's path.
        device: Where it draws.

    Raises:
        RegistryError: As `medexp.registry.load`, the model draws nothing, its base is another than it was trained on, or the
            base's VAE is missing or another one.
        CheckpointError: A file of the base cannot be used.
        StorageError: The registry does not answer.
    """
    pulled = registry.pull(uri)
    name = f"{pulled.name} version {pulled.version}"
    contract = read_json(pulled.folder, "contract.json")
    if not draws(contract):
        raise RegistryError(
            f"{uri}: is a {contract['architecture']['kind']}, which draws nothing. Give a model that does, such as "
            "models:/phase7_fcd_adapter@champion"
        )
    net = load_verified(pulled.folder, base)
    file = _home(pulled, contract, base) / VAE
    if not file.is_file():
        raise RegistryError(f"{name}: its VAE, {file}, is missing: latents cannot be decoded. Give the base's whole folder")
    said = dict(contract[LATENTS])
    vae = said.pop("vae")
    decoder = build(vae["architecture"])
    assert isinstance(decoder, Autoencoder), "which `latents_of` writes"
    load_weights(decoder, load_state(file), str(file), "Give the VAE of the base that the adapter was trained on.")
    if (found := weights_digest(decoder.state_dict())) != vae["weights_digest"]:
        raise RegistryError(
            f"{name}: was trained on latents of a VAE with weights {vae['weights_digest'][:12]}; {file} has {found[:12]}. "
            "Give the VAE that it was trained with"
        )
    x, y, z = contract[GRID]["size"]
    return Generator(
        net=net.to(device),
        joint=Joint.from_record(decoder, said).to(device).eval(),
        size=(x, y, z),
        affine=np.asarray(contract[GRID]["affine"], float),
        called=name,
        digest=pulled.digest,
    )


def _home(pulled: Pulled, contract: Mapping[str, Any], base: Path | str | None) -> Path:
    """The folder that holds the VAE: of a base its own, of an adapter its base's."""
    if contract["architecture"]["kind"] != ADAPTER_KIND:
        return pulled.folder
    if base is not None:
        return Path(base) if Path(base).is_dir() else Path(base).parent
    parent = read_json(pulled.folder, "parents.json")["base"]
    return pull(f"models:/{parent['name']}/{parent['version']}").folder
