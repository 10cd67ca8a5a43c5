"""The pairs and the base: a user's own, or the embedded ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from medexp import registry
from medexp.data.pairs.prepared import Pair, PreparedPairs
from medexp.data.storage import local_file
from medexp.errors import ConfigError
from medexp.evaluation.latents import FCDDataset, load_pairs
from medexp.evaluation.synthesis import Pairs
from medexp.models.autoencoder.network import MAISI, Autoencoder, load_maisi
from medexp.models.checkpoints import load_state, load_weights, weights_digest
from medexp.models.kinds import build
from medexp.models.meanflow.joint import Joint
from medexp.models.meanflow.network import MeanFlowUNet
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.phase7.pretrained import demo_base
from medexp.phases.shared.context import Context
from medexp.phases.shared.packaging import parent_of
from medexp.registry.package import Parent
from medexp.registry.packages import read_json
from medexp.registry.store import Pulled
from medexp.registry.synthesis import load_generator

BASE_MODEL = "meanflow_base"


@dataclass(frozen=True)
class Base:
    """What is adapted: a MeanFlow U-Net, and the VAE of its latents.

    Attributes:
        architecture: Of the U-Net.
        weights: Its weights.
        joint: From images to latents, standardised as the base knows them, and back; strategy `image`.
        vae_architecture: Of the VAE.
        parent: As what is made from it names it.
        pulled: Its version in the registry, where it came from there.
        is_embedded: Whether it is the demo's own.
        learned_on: The volumes that it was trained on, where it was trained just now.
    """

    architecture: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    joint: Joint
    vae_architecture: Mapping[str, Any]
    parent: Parent
    pulled: Pulled | None = None
    is_embedded: bool = False
    learned_on: PreparedPairs | None = None

    @property
    def learned(self) -> dict[str, pd.DataFrame | None]:
        """Whom it learned from, for the leak guard, where no package says so: the embedded one from healthy phantoms, of whom
        nobody is among the pairs; a file from nobody knows whom."""
        if self.pulled:
            return {}
        return {self.parent.name: pd.DataFrame({"patient_sha256": []}) if self.is_embedded else None}

    def network(self) -> MeanFlowUNet:
        """The U-Net with its weights, made anew, on the CPU."""
        net = build(self.architecture)
        assert isinstance(net, MeanFlowUNet)
        load_weights(net, self.weights, self.parent.name)
        return net


def network_of(config: Phase7Config, channels: int) -> dict[str, Any]:
    """The U-Net of a configuration, as registered packages describe it."""
    network = asdict(config.network)
    network["num_head_channels"] = network.pop("head_channels")
    return {"kind": "meanflow_unet", "channels": channels, **network}


def read_base(ctx: Context[Phase7Config]) -> Base:
    """The base that the configuration names, or the embedded one.

    Raises:
        ConfigError: It does not fit the configuration, or there is none.
        RegistryError: The version in the registry cannot be used.
        CheckpointError: A file cannot be used.
    """
    config = ctx.config
    if config.base is None:
        return _embedded(config)
    if not config.base.startswith("models:/"):
        return _of_files(ctx, Path(config.base))
    generator, pulled = load_generator(config.base), registry.pull(config.base)
    contract = read_json(pulled.folder, "contract.json")
    architecture = contract["architecture"]
    if architecture["kind"] != "meanflow_unet":
        raise ConfigError(f"base={config.base}: is a {architecture['kind']}; a base is a meanflow_unet, such as {BASE_MODEL}")
    _demand_grid(f"base={config.base}", generator.spacing, generator.size, config)
    assert isinstance(generator.net, MeanFlowUNet)
    parent, weights = parent_of(pulled), generator.net.state_dict()
    return Base(architecture, weights, generator.joint, contract["latents"]["vae"]["architecture"], parent, pulled)


def _embedded(config: Phase7Config) -> Base:
    """The demo's own, which draws volumes of the demo's grid."""
    own = demo_base()
    _demand_grid("the embedded base", own.spacing, own.size, config)
    weights = own.net.state_dict()
    parent = Parent(BASE_MODEL, None, None, weights_digest(weights))
    return Base(own.architecture, weights, own.joint, own.autoencoder, parent, is_embedded=True)


def _demand_grid(called: str, spacing: Sequence[float], size: Sequence[int], config: Phase7Config) -> None:
    """That pairs come on the grid that a base draws volumes on.

    Raises:
        ConfigError: They do not; the message has the keys that they would.
    """
    data = config.data
    if list(size) != list(data.input_size) or not np.allclose(spacing, data.spacing, atol=1e-3):
        raise ConfigError(
            f"{called}: draws volumes of {_by(size)} voxels of {_by(spacing)} mm; data.input_size is {_by(data.input_size)}, "
            f"data.spacing {_by(data.spacing)}. Give -P 'data.spacing=[{_listed(spacing)}]' -P "
            f"'data.input_size=[{_listed(size)}]', or another base"
        )


def _listed(sizes: Sequence[float]) -> str:
    return ",".join(f"{size:g}" for size in sizes)


def _by(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def read_vae(ctx: Context[Phase7Config]) -> tuple[Autoencoder, dict[str, Any]]:
    """MAISI's autoencoder by its file, or the embedded one, and its architecture."""
    if ctx.config.vae is None:
        own = demo_base()
        return own.joint.vae, dict(own.autoencoder)
    vae = load_maisi(local_file(ctx.config.vae, ctx.cache), ctx.config.vae_scale)
    return vae, {"kind": "autoencoder_kl", **MAISI, "scale_factor": ctx.config.vae_scale}


def _of_files(ctx: Context[Phase7Config], file: Path) -> Base:
    vae, vae_architecture = read_vae(ctx)
    architecture = network_of(ctx.config, vae.latent_channels)
    weights = load_state(local_file(str(file), ctx.cache))
    net = build(architecture)
    load_weights(net, weights, str(file), "network gives the U-Net's sizes: they are to be those of the file.")
    parent = Parent(file.name, None, None, weights_digest(net.state_dict()))
    return Base(architecture, net.state_dict(), Joint(vae, "image"), vae_architecture, parent)


@dataclass(frozen=True)
class Volumes:
    """Pairs on the network's grid.

    Attributes:
        pairs: By case.
        affine: From the voxels of what is drawn to RAS+ mm (4, 4): the middle of where those of the pairs lie.
    """

    pairs: Mapping[str, Pair]
    affine: NDArray[np.float64]

    def of(self, data: PreparedPairs, split: str, *, real: bool = False) -> Pairs:
        """Those of a split; `real`: without synthetic ones."""
        ids = [case for case in data.ids(split) if not (real and data.facts[case].synthetic)]
        images, masks = ([getattr(self.pairs[case], name)[0] for case in ids] for name in ("image", "mask"))
        return Pairs(np.stack(images), np.stack(masks).astype(bool), [data.cases[case].patient for case in ids])

    def latents(self, data: PreparedPairs, split: str, joint: Joint, config: Phase7Config, cache: Path) -> FCDDataset:
        """The latents of a split."""
        ids = data.ids(split)
        cases, loaded = [data.cases[case] for case in ids], [self.pairs[case] for case in ids]
        return FCDDataset(cases, data.facts, config.data, joint, joint.strategy, cache, loaded)


def read_volumes(data: PreparedPairs, config: Phase7Config) -> Volumes:
    """All pairs, as the network's grid has them.

    Raises:
        DataError: A file changed since it was described.
    """
    pairs = dict(zip(data.cases, load_pairs([*data.cases.values()], config.data), strict=True))
    affine = np.diag([*config.data.spacing, 1.0])
    affine[:3, 3] = np.median([pair.affine[:3, 3] for pair in pairs.values()], axis=0)
    return Volumes(pairs, affine)
